"""A class-conditional GAN of MNIST: relativistic pairing with R1 and R2 (Huang et al. 2024, "R3GAN").

Command:  python -m jaxrec.train --experiment experiments/mnist_gan.py --seed N
Hardware: not measured yet
Seeds:    not measured yet
Time:     not measured yet
Result:   not measured yet

class_consistency is the share of 10,000 generated digits that a classifier of our own, trained on the training split,
reads as the class that was asked for.
"""

from jaxrec.config import GAN, Optimizer, Train

config = Train(
    dataset="mnist",
    validation=0.0,
    batch_size=64,
    steps=3500,
    task=GAN(
        conditional=True,
        width=16,
        latents=64,
        loss="relativistic",
        r1=0.3,
        r2=0.3,
        average=0.995,
        optimizer=Optimizer(name="adam", lr=1e-3, momentum=0.0, beta2=0.99),
    ),
)
