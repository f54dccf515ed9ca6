"""An autoencoder of MNIST with a code of 32 numbers; 32 principal components reach a test MSE of .0168.

Command:  python -m jaxrec.train --experiment experiments/mnist_autoencoder.py --seed N
Hardware: not measured yet
Seeds:    not measured yet
Time:     not measured yet
Result:   not measured yet

The settings were chosen on 5,000 images of the training split; the test split is looked at once, at the end.
"""

from jaxrec.config import Autoencoder, Optimizer, Train

config = Train(
    dataset="mnist",
    validation=0.0,
    batch_size=1024,
    epochs=20,
    task=Autoencoder(
        architecture="dense",
        code=32,
        width=32,
        average=0.99,
        optimizer=Optimizer(name="muon", lr=1e-2, momentum=0.95),
    ),
)
