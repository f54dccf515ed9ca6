"""Blood cells in half an hour: as bccd_detector, at 448x336 and for longer.

Command:  jaxrec train --experiment bccd_detector_hour --seed N
Hardware: two AMD EPYC cores, no GPU; jax 0.10.2, Python 3.11
Seeds:    0, 1, 2
Time:     1359 s (processor time of one core, seed 1; compile time, decoding and report included)
Commit:   20877e0
Result:   map50 88.24 % ± 0.31
          map 55.52 % ± 0.48
          ap50[0] 78.2 % ± 0.8 (red cells)
          ap50[1] 97.7 % ± 0.8 (white cells)
          ap50[2] 88.8 % ± 0.7 (platelets)
          count_error[0] 2.88 ± 0.07 (red cells, mean error of the count in an image)
          count_error[1] 0.06 ± 0.01 (white cells)
          count_error[2] 0.35 ± 0.04 (platelets)

95 % intervals over the 72 test images, seed 0: map50 85.3 to 90.9 %, map 53.1 to 58.5 %.

Trained from scratch on the 292 training and validation images, for a fixed number of steps, on one core. The settings
are those of bccd_detector but for the size of the images and the length, which the time set. The number of red cells is
wrong by as much as there: many carry no box.
"""

from jaxrec.settings import Augment, Detector, Optimizer, Train

config = Train(
    dataset="bccd",
    image_size="336x448",
    train_split="train+validation",
    validation=0.0,
    batch_size=16,
    steps=3500,
    log_every=50,
    eval_every=3500,
    task=Detector(
        stride=16,
        average=0.99,
        score=0.5,
        augment=Augment(flip="random", flip_vertical=True, paste=1, brightness=0.1, saturation=0.2),
        optimizer=Optimizer(name="muon", lr=1e-2, momentum=0.95, weight_decay=0.05, schedule="one-cycle", warmup=0.15),
    ),
)
