"""A recurrent network tells how digits move, in 14 ways, from clips of 20 frames of 32x32 pixels.

Command:  jaxrec train --experiment moving_actions --seed N
Hardware: two AMD EPYC cores, no GPU; jax 0.10.2, Python 3.11
Seeds:    0, 1, 2
Time:     93 s (seed 0 with nothing else running; compile time, drawing the clips and report included)
Commit:   0215f77
Result:   accuracy 99.76 % ± 0.11
Control:  frame_only_accuracy 7.19 % ± 0.21 (the same networks, each clip standing still at its middle frame)
Chance:   7.14 %

Networks trained on middle frames alone, by adding --sequence frame to the command, reach 7.02 % ± 1.10. The settings
were chosen on a fifth of the training split.
"""

from jaxrec.settings import RNN, Train

config = Train(
    dataset="moving",
    validation=0.0,
    batch_size=32,
    steps=700,
    log_every=100,
    task=RNN(earlier=3),
)
