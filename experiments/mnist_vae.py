"""A variational autoencoder of MNIST, each pixel drawn as 0 or 1 with its intensity as the probability.

Training draws the pixels anew at every step; the test images are drawn once, from a fixed key.

Command:  jaxrec train --experiment mnist_vae --seed N
Hardware: two AMD EPYC (Zen 5) cores, no GPU; jax 0.10.2, Python 3.11
Seeds:    0, 1, 2
Time:     249 s (seed 0 with nothing else running; compile time, evaluation and report included)
Commit:   d2f429a
Result:   nll 88.79 ± 0.07 (in nats)
          elbo -93.18 ± 0.11

nll is the importance-weighted bound with 500 codes per image (Burda et al. 2016). The settings were chosen on 5,000
images of the training split, the length of the run by the time it takes.
"""

from jaxrec.settings import Autoencoder, Optimizer, Train

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
