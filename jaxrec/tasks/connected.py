"""Channels that are connected in a model: what is added to each other keeps or loses the same ones.

Each function gives the groups of one kind of network, for ``channels`` of a system. Paths are those of the player
``net``. Networks that put channels side by side, or share them among heads or groups, have none here.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxrec.models.autoencoder import BLOCKS
from jaxrec.models.efficientnet import LITE0
from jaxrec.models.resnet import LAYOUTS
from jaxrec.tasks.system import Channels


def stack(names: Sequence[str]) -> tuple[Channels, ...]:
    """Layers with biases, one after the other. What the last one makes are the answers, which stay."""
    found = []
    for name, after in pairwise(names):
        found.append(_group(_biased(name), [after]))
    return tuple(found)


def speednet(*, residual: bool) -> tuple[Channels, ...]:
    """Those of a ``SpeedNet``; the whitening layer keeps its own."""
    found = []
    for block in (1, 2, 3):
        first, second, third = (
            _normalized(f"conv{block}{number}", f"norm{block}{number}", scale=False) for number in (1, 2, 3)
        )
        after = f"conv{block + 1}1" if block < 3 else "head"
        if residual:
            # The third layer's result is added to the first one's.
            found += [_group(first + third, [f"conv{block}2", after]), _group(second, [f"conv{block}3"])]
        else:
            found += [_group(first, [f"conv{block}2"]), _group(second, [after])]
    return tuple(found)


def resnet(model: str) -> tuple[Channels, ...]:
    """Those inside each block, and those between blocks: one group from each convolution in a shortcut to the next."""
    blocks, bottleneck = LAYOUTS[model]
    last = 3 if bottleneck else 2
    found = []
    between, readers = _normalized("conv", "norm"), []
    for stage, count in enumerate(blocks, 1):
        for number in range(1, count + 1):
            block = f"stage{stage}_block{number}"
            readers.append(f"{block}/conv1")
            if number == 1 and (stage > 1 or bottleneck):
                found.append(_group(between, [*readers, f"{block}/conv_shortcut"]))
                between, readers = _normalized(f"{block}/conv_shortcut", f"{block}/norm_shortcut"), []
            between += _normalized(f"{block}/conv{last}", f"{block}/norm{last}")
            for inner in range(1, last):
                found.append(
                    _group(_normalized(f"{block}/conv{inner}", f"{block}/norm{inner}"), [f"{block}/conv{inner + 1}"])
                )
    return (*found, _group(between, [*readers, "head"]))


def efficientnet() -> tuple[Channels, ...]:
    """Those inside each block, and those between blocks: one group for the blocks around which there is a shortcut."""
    found = []
    between, readers = _normalized("stem", "stem_norm"), []
    number = 0
    for stage in LITE0:
        for place in range(stage.blocks):
            number += 1
            block = f"block{number}"
            # A depthwise convolution makes each channel of the one of the same number.
            inside = _normalized(f"{block}/depthwise", f"{block}/depthwise_norm")
            if stage.expansion > 1:
                readers.append(f"{block}/expand")
                inside = _normalized(f"{block}/expand", f"{block}/expand_norm") + inside
                found.append(_group(inside, [f"{block}/project"]))
            else:
                between += inside
                readers.append(f"{block}/project")
            projected = _normalized(f"{block}/project", f"{block}/project_norm")
            if place > 0:
                between += projected
            else:
                found.append(_group(between, readers))
                between, readers = projected, []
    found.append(_group(between, [*readers, "last"]))
    return (*found, _group(_normalized("last", "last_norm"), ["head"]))


def autoencoder(architecture: str, scales: int) -> tuple[Channels, ...]:
    """Those of an ``Autoencoder`` of this architecture with so many convolutions in each half; its code stays."""
    if architecture == "dense":
        return stack(["encoder/dense1", "encoder/dense2", "encoder/code"]) + stack(
            ["decoder/dense1", "decoder/dense2", "decoder/image"]
        )
    down = [f"encoder/conv{scale}" for scale in range(1, scales + 1)]
    up = [f"decoder/conv{scale}" for scale in range(scales, 0, -1)]
    if architecture == "conv":
        return stack([*down, "encoder/code"]) + stack(["decoder/dense", *up])
    found = []
    for scale in range(1, scales + 1):
        after = f"encoder/conv{scale + 1}" if scale < scales else "encoder/code"
        found += _blocks(f"encoder/conv{scale}", f"encoder/scale{scale}", after)
        before = f"decoder/conv{scale + 1}" if scale < scales else "decoder/dense"
        found += _blocks(before, f"decoder/scale{scale}", f"decoder/conv{scale}")
    return tuple(found)


def _blocks(before: str, name: str, after: str) -> list[Channels]:
    """Those inside an autoencoder's residual blocks, and those that are added to each other around them."""
    blocks = [f"{name}_block{number}" for number in range(1, BLOCKS + 1)]
    between, readers, found = _biased(before), [], []
    for block in blocks:
        between += _biased(f"{block}/conv2")
        readers.append(f"{block}/conv1")
        found.append(_group(_biased(f"{block}/conv1"), [f"{block}/conv2"]))
    return [*found, _group(between, [*readers, after])]


def _biased(layer: str) -> list[str]:
    """The arrays of a layer's channels: its kernel and its bias."""
    return [f"params/{layer}/kernel", f"params/{layer}/bias"]


def _normalized(layer: str, norm: str, *, scale: bool = True) -> list[str]:
    """Those of a layer without a bias and of the batch normalization behind it."""
    statistics = f"stats/batch_stats/{norm}"
    learned = [f"params/{norm}/scale", f"params/{norm}/bias"] if scale else [f"params/{norm}/bias"]
    return [f"params/{layer}/kernel", *learned, f"{statistics}/mean", f"{statistics}/var"]


def _group(made: Sequence[str], readers: Sequence[str]) -> Channels:
    """The channels of these arrays, read by these layers."""
    read = [f"net/params/{layer}/kernel" for layer in readers]
    return Channels(tuple(f"net/{path}" for path in made), tuple(read))
