"""Random changes to examples inside the compiled step: geometry (of images, masks and boxes alike), color, mixing.

Images are float [B, H, W, C] in [0, 1] with C of 1 or 3 and keep their dtype; every image of a batch gets draws of its
own. Keys are typed keys; whoever runs one step on several devices by shard_map or pmap folds the device's index into
the key first.
"""

from jaxrec.augment.apply import augment, augment_examples
from jaxrec.augment.color import change_color, standardize
from jaxrec.augment.diffaugment import diffaugment
from jaxrec.augment.geometry import Geometry, draw_geometry, move_boxes, move_images, move_masks
from jaxrec.augment.mixing import cutmix, mixup

__all__ = [
    "Geometry",
    "augment",
    "augment_examples",
    "change_color",
    "cutmix",
    "diffaugment",
    "draw_geometry",
    "mixup",
    "move_boxes",
    "move_images",
    "move_masks",
    "standardize",
]
