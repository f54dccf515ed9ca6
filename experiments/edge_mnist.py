"""MNIST for a small device: a classic CNN of a quarter of the width, exported to ONNX in 8 bits.

Command:  jaxrec train --experiment edge_mnist --seed N
          jaxrec export RUN --int8
Hardware: two AMD EPYC cores, no GPU; jax 0.10.2, Python 3.11, onnxruntime 1.32
Seeds:    0, 1, 2
Time:     107 s (seed 0, with other work beside it; compile time and report included)
Commit:   83cbdfc
Result:   accuracy 99.06 % ± 0.10
          int8_accuracy 99.06 % ± 0.12 (in 8 bits)
          int8_size 25.6 kB ± 0.0 (the file in 8 bits; in 32 bits 60.6 kB)
          one image on one core: median 0.06 ms in 8 bits and 99th percentile 0.15 at most, 0.05 ms in 32; 59 MiB of
          memory in all

Ranges of activations are taken from 512 training images. On this processor 8 bits save space and, with so small a
network, no time.
"""

from jaxrec.settings import Augment, Classifier, Optimizer, Train

config = Train(
    dataset="mnist",
    validation=0.0,
    batch_size=128,
    steps=2500,
    log_every=100,
    eval_every=2500,
    task=Classifier(
        model="cnn",
        width=0.25,
        average=0.99,
        augment=Augment(translate=0.07, rotate=10.0, scale=0.1),
        optimizer=Optimizer(name="muon", lr=5e-3, momentum=0.95, schedule="one-cycle", warmup=0.15),
    ),
)
