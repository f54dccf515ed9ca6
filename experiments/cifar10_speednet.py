"""A fast small network on CIFAR-10: whitening stem, Muon, label smoothing, alternating flips, mirrored test views.

After airbench94 (Jordan 2024), narrowed and with its stem pooled for two CPU cores.

Command:  jaxrec train --experiment cifar10_speednet --seed N
Data:     a copy of CIFAR-10 whose images went through JPEG, so not CIFAR-10's own pixels
Hardware: two AMD EPYC (Zen 5) cores, no GPU; jax 0.10.2, Python 3.11
Seeds:    0, 1, 2
Time:     283 s (seed 0 with nothing else running; compile time and report included)
Commit:   d2f429a
Result:   accuracy 81.83 % ± 0.32

The settings were chosen on 5,000 images of the training split, the length of the run by the time it takes. Test
predictions average six views: the image, four one-pixel shifts of it and its mirror, and the mirror itself.
"""

from jaxrec.settings import Augment, Classifier, Optimizer, Rule, Train

config = Train(
    dataset="cifar10",
    validation=0.0,
    batch_size=256,
    epochs=4,
    task=Classifier(
        model="speednet",
        activation="gelu",
        width=0.375,
        stem="large",
        label_smoothing=0.2,
        views="mirror-shift",
        optimizer=Optimizer(
            name="muon",
            lr=0.02,
            schedule="linear",
            warmup=0.1,
            momentum=0.6,
            rules=(Rule("^bias$", freeze=True),),
        ),
        augment=Augment(flip="alternating", crop=2),
    ),
)
