"""A variational autoencoder of MNIST, each pixel drawn as 0 or 1 with its intensity as the probability.

Training draws the pixels anew at every step; the test images are drawn once, from a fixed key.

Command:  python -m jaxrec.train --experiment experiments/mnist_vae.py --seed N
Hardware: not measured yet
Seeds:    not measured yet
Time:     not measured yet
Result:   not measured yet

nll is the importance-weighted bound with 500 codes per image (Burda et al. 2016). The settings were chosen on 5,000
images of the training split; the test split is looked at once, at the end.
"""

from jaxrec.config import Autoencoder, Optimizer, Train

config = Train(
    dataset="mnist",
    validation=0.0,
    batch_size=256,
    steps=8000,
    task=Autoencoder(
        model="vae",
        architecture="dense",
        likelihood="bernoulli",
        binarize=True,
        code=32,
        width=32,
        eval_samples=500,
        average=0.999,
        optimizer=Optimizer(name="adamw", lr=2e-3),
    ),
)
