"""Metrics of a split that merge batch by batch, and distances between sets of features."""

from jaxrec.metrics.classification import CONFIDENCE_BINS, Classification, MultiLabel
from jaxrec.metrics.detection import Detections
from jaxrec.metrics.distances import (
    FeatureDistance,
    class_statistics,
    coverage_statistics,
    frechet_distance,
    kernel_distance,
)
from jaxrec.metrics.forecast import Forecast
from jaxrec.metrics.pixels import Pixels, pixels_that_count
from jaxrec.metrics.reconstruction import Reconstruction, ssim
from jaxrec.metrics.sums import Average, Metric, Results
from jaxrec.metrics.translation import Translation
from jaxrec.metrics.worst import Worst

__all__ = [
    "CONFIDENCE_BINS",
    "Average",
    "Classification",
    "Detections",
    "FeatureDistance",
    "Forecast",
    "Metric",
    "MultiLabel",
    "Pixels",
    "Reconstruction",
    "Results",
    "Translation",
    "Worst",
    "class_statistics",
    "coverage_statistics",
    "frechet_distance",
    "kernel_distance",
    "pixels_that_count",
    "ssim",
]
