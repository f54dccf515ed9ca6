"""The names that torchvision, timm and others give to the arrays of a network, as paths of this library's.

Arrays are renamed and turned: kernels of PyTorch have the outputs first, those of Flax last.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]
Module = Callable[[str], str | None]
"""From the name of a module in a file, such as ``layer1.0.bn1``, to this library's; None for an unknown one."""

LAST = {"running_mean": "mean", "running_var": "var"}
COUNTER = "num_batches_tracked"
"""Of each batch normalization; nothing here depends on it."""


def is_own(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays have this library's paths already."""
    return any(re.match(r"[^/]+/(params|stats)/", name) for name in arrays)


def renamed(arrays: Mapping[str, np.ndarray], module: Module) -> Arrays:
    """The arrays by this library's paths, such as ``net/params/conv/kernel``; unknown ones keep their names."""
    found = {}
    for name, array in arrays.items():
        theirs, _, last = name.rpartition(".")
        ours = module(theirs)
        if ours is None:
            found[name] = array
        elif last in LAST:
            found[f"net/stats/batch_stats/{ours}/{LAST[last]}"] = array
        elif last == "weight" and array.ndim > 1:
            found[f"net/params/{ours}/kernel"] = turned(array)
        elif last == "weight":
            found[f"net/params/{ours}/scale"] = array
        elif last != COUNTER:
            found[f"net/params/{ours}/{last}"] = array
    return found


def turned(kernel: np.ndarray) -> np.ndarray:
    """A kernel [D,C] or [D,C,K,K] with the outputs D last: [C,D] or [K,K,C,D]."""
    return kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0)


def resnet(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Those of torchvision's and timm's resnets, which have the same names."""
    return renamed(arrays, _resnet_module)


def _resnet_module(name: str) -> str | None:
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name)
    if found is None:
        return {"conv1": "conv", "bn1": "norm", "fc": "head"}.get(name)
    inner = re.sub(r"^bn(\d)$", r"norm\1", found[3])
    inner = {"downsample.0": "conv_shortcut", "downsample.1": "norm_shortcut"}.get(inner, inner)
    return f"stage{found[1]}_block{int(found[2]) + 1}/{inner}"


def vit(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Those of timm's vision transformers."""
    rest = dict(arrays)
    found = {}
    for theirs, ours in {"cls_token": "class_token", "pos_embed": "positions"}.items():
        if theirs in rest:
            found[f"net/params/{ours}"] = rest.pop(theirs)
    patches = rest.pop("patch_embed.proj.weight", None)
    if patches is not None:
        # A convolution whose strides are its size is a dense layer of each patch.
        found["net/params/patches/kernel"] = turned(patches).reshape(-1, patches.shape[0])
    return {**found, **renamed(rest, _vit_module)}


def _vit_module(name: str) -> str | None:
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if found is None:
        return {"patch_embed.proj": "patches", "norm": "norm", "head": "head"}.get(name)
    inner = {"attn.qkv": "qkv", "attn.proj": "out", "mlp.fc1": "mlp1", "mlp.fc2": "mlp2"}.get(found[2], found[2])
    return f"block{int(found[1]) + 1}_{inner}"


def efficientnet(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Those of efficientnet_lite_pytorch, and of timm's tf_efficientnet_lite0."""
    if "conv_stem.weight" not in arrays:
        return renamed(arrays, _lite_module)
    places = sorted({_place(name) for name in arrays if name.startswith("blocks.")})
    return renamed(arrays, lambda name: _timm_lite_module(name, places))


def _lite_module(name: str) -> str | None:
    found = re.fullmatch(r"_blocks\.(\d+)\.(.+)", name)
    if found is None:
        outer = {"_conv_stem": "stem", "_bn0": "stem_norm", "_conv_head": "last", "_bn1": "last_norm", "_fc": "head"}
        return outer.get(name)
    inner = {
        "_expand_conv": "expand",
        "_bn0": "expand_norm",
        "_depthwise_conv": "depthwise",
        "_bn1": "depthwise_norm",
        "_project_conv": "project",
        "_bn2": "project_norm",
    }.get(found[2])
    return None if inner is None else f"block{int(found[1]) + 1}/{inner}"


def _place(name: str) -> tuple[int, int]:
    """Stage and block of ``blocks.STAGE.BLOCK.``..."""
    _, stage, block, *_ = name.split(".")
    return int(stage), int(block)


def _timm_lite_module(name: str, places: list[tuple[int, int]]) -> str | None:
    if not name.startswith("blocks."):
        outer = {"conv_stem": "stem", "bn1": "stem_norm", "conv_head": "last", "bn2": "last_norm", "classifier": "head"}
        return outer.get(name)
    inside = ("expand", "expand_norm", "depthwise", "depthwise_norm", "project", "project_norm")
    theirs = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    if _place(name)[0] == 0:  # The first block does not expand.
        inside, theirs = inside[2:], ("conv_dw", "bn1", "conv_pw", "bn2")
    inner = dict(zip(theirs, inside, strict=True)).get(name.split(".", 3)[3])
    return None if inner is None else f"block{places.index(_place(name)) + 1}/{inner}"
