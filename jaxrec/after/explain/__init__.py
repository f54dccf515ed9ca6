"""Explanations: how much each place of an image adds to one score of it.

Every method is a pure function of one image and of a score::

    score(images [N, H, W, C]) -> float32 [N]

which scores each image by itself, whatever else is in the stack. The methods call it with variants of the one image:
with parts of it covered, or at points on the way from a baseline. Several images are explained by ``jax.vmap``, each
with a score of its own::

    def explained(image, label):
        return occlusion(lambda images: logits(images)[:, label], image, baseline=0.0)

    maps = jax.jit(jax.vmap(explained))(images, labels)

An image may also be a clip [T, H, W, C], and then scores are of clips [N, T, H, W, C]. The axes but the last are the
places of an image, and an explanation is a number for each place, or for each channel of each place.

What is covered shows the ``baseline``: an image of the same shape or a number, such as 0 for black.
"""

from jaxrec.after.explain.cam import grad_cam, hires_cam
from jaxrec.after.explain.covering import multi_scale, occlusion, rise
from jaxrec.after.explain.gradients import gradient, integrated_gradients, smooth_gradient
from jaxrec.after.explain.methods import METHODS, Settings, explain
from jaxrec.after.explain.segments import grid, slic, spread
from jaxrec.after.explain.shares import MOST_PLAYERS, kernel_shap, lime, shapley

__all__ = [
    "METHODS",
    "MOST_PLAYERS",
    "Settings",
    "explain",
    "grad_cam",
    "gradient",
    "grid",
    "hires_cam",
    "integrated_gradients",
    "kernel_shap",
    "lime",
    "multi_scale",
    "occlusion",
    "rise",
    "shapley",
    "slic",
    "smooth_gradient",
    "spread",
]
