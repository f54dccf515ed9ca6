"""What every contestant of the benchmark shares: the workloads, their data, and the loop that answers the benchmark.

A contestant is a process: thread pools and allocators belong to processes. It imports its framework, calls `serve`, and
then speaks JSON lines: first its facts, then for each line N on its input the seconds that N training steps took and
the loss, and when its input ends its peak memory in bytes.
"""

import argparse
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE, BETA1, BETA2 = 1e-3, 0.9, 0.999
LATENTS, GAN_WIDTH = 64, 32
SPEEDNET = {"speednet": ((24, 96, 96), True), "speednet-full": ((64, 256, 256), False)}
"""Channels of the blocks of the speednets, and whether their stem is pooled."""
UNET_WIDTH, UNET_DEPTH = 32, 4
"""Of the network that gives every pixel a class: channels at full size, and halvings."""
STEPS_A_CALL = 10
"""Steps that jaxrec makes by one call on a GPU."""
RNN_WIDTHS = (16, 32, 32)
"""Channels of the recurrent network's convolutions over a frame."""
UNITS = 128
"""Numbers that the recurrent network carries along, and the recurrent attention model; also the width of its layers."""
DETECTOR_WIDTH, BINS, STRIDES = 32, 8, (8, 16, 32)
"""Of the detector: its width, the distances that a side has, and pixels from place to place of its scales."""
LEVELS = (16, 32, 64, 96, 128)
"""Channels of the detector's backbone, each level at half the size of the last; the last ones are its scales."""
PRIOR = 0.01
"""Probability that the detector starts with."""
LOOKS, PATCH, COPIES, DEVIATION = 6, 8, 4, 0.2
"""Of the recurrent attention model: looks at an image, pixels a side of what is seen at each of two scales, ways of
looking at an image in a step, and the standard deviation of where looks go."""
TRANSLATOR_WIDTH, DEPTH, HALVINGS, PIXEL = 32, 3, 2, 100.0
"""Of the translator: channels of both players at full size, halvings by the generator and by the discriminator, and the
weight of the absolute error beside the game of least squares."""


@dataclass(frozen=True)
class Workload:
    """A model and the batch it trains on: images or clips, each in a class, or images with objects."""

    model: str
    batch: int
    size: tuple[int, int] = (32, 32)
    """Height and width in pixels."""
    channels: int = 3
    frames: int = 0
    """Of a clip; 0: images."""
    objects: int = 0
    """In an image; 0: the image has the class."""
    classes: int = 10
    masks: bool = False
    """Whether every pixel has a class."""


WORKLOADS = {
    "cnn32": Workload("cnn", 32),
    "cnn128": Workload("cnn", 128),
    "resnet18": Workload("resnet18", 32),
    "autoencoder": Workload("autoencoder", 128, (28, 28), 1),
    "dcgan": Workload("dcgan", 64),
    "vit": Workload("vit", 64),
    "speednet": Workload("speednet", 128),
    "rnn": Workload("rnn", 16, (64, 64), 1, 20),
    "detector": Workload("detector", 16, (240, 320), objects=30, classes=3),
    "glimpse": Workload("glimpse", 128, (28, 28), 1),
    "translator": Workload("translator", 16, (64, 64)),
}
"""CIFAR-sized, MNIST-sized for the autoencoder and the glimpses, clips for the recurrent network, larger images for the
detector and the translator; Adam at a constant rate, no augmentation, no moving average."""


GPU_WORKLOADS = {
    "cnn": Workload("cnn", 1024),
    "vit": Workload("vit", 512),
    "resnet50": Workload("resnet50", 128, (224, 224), classes=1000),
    "dcgan": Workload("dcgan", 512),
    "speednet": Workload("speednet-full", 1000),
    "resnet18": Workload("resnet18", 512),
    "unet": Workload("unet", 16, (256, 256), masks=True),
    "detector": Workload("detector", 64, (240, 320), objects=30, classes=3),
}
"""Of a size for a GPU; a large one stands beside smaller ones, because neighbors share the card's memory."""


def tiny(workload: Workload) -> Workload:
    """The workload as a CPU can try it."""
    height, width = workload.size
    # First losses of few examples differ much; large images are slow. The detector's network depends on their size.
    batch = 32 if height <= 32 else 4
    if workload.objects:
        return replace(workload, batch=batch)
    return replace(workload, batch=batch, size=(min(height, 96), min(width, 96)))


@dataclass(frozen=True)
class Goal:
    """A quality on the validation split, and the run that is to reach it: Adam, rate falling linearly to 0."""

    model: str
    dataset: str
    metric: str
    value: float
    batch: int
    lr: float
    steps: int
    every: int
    """Steps between evaluations."""

    def reached(self, value: float) -> bool:
        """Whether the metric is good enough; an error has to be small, an accuracy large."""
        return value <= self.value if self.metric == "mse" else value >= self.value


GOALS = {
    "mnist": Goal("speednet", "mnist", "accuracy", 0.99, 128, 5e-3, 600, 50),
    "cifar10": Goal("speednet", "cifar10", "accuracy", 0.75, 256, 5e-3, 1000, 50),
    "autoencoder": Goal("autoencoder", "mnist", "mse", 0.010, 128, 2e-3, 2000, 50),
}


def parser() -> argparse.ArgumentParser:
    """The options of a contestant; each reads those that concern it."""
    made = argparse.ArgumentParser()
    made.add_argument("workload")
    made.add_argument("--bf16", action="store_true", help="bfloat16 arithmetic, float32 parameters")
    made.add_argument("--gpu", action="store_true", help="the workload of this name for a GPU, on it")
    made.add_argument("--tiny", action="store_true", help="that workload with tiny sizes, on the CPU")
    made.add_argument("--turns", nargs=2, metavar=("FOLDER", "COUNT"), help="take turns on the card, see `turn`")
    made.add_argument("--programs", type=Path, metavar="FOLDER", help="put XLA's compiled program there")
    made.add_argument("--plain", action="store_true", help="jaxrec: only XLA's own operations")
    made.add_argument("--several", action="store_true", help=f"jaxrec: {STEPS_A_CALL} steps a call")
    made.add_argument("--tuned", action="store_true", help="jaxrec: tune the allocator as the training command does")
    made.add_argument("--channels-last", action="store_true", help="torch")
    made.add_argument("--compile", action="store_true", help="torch")
    made.add_argument("--graph", action="store_true", help="torch: the whole step is one CUDA graph")
    made.add_argument("--jit", action="store_true", help="keras on tensorflow")
    return made


def workload_of(options: argparse.Namespace) -> Workload:
    """The workload that is asked for."""
    if not options.gpu:
        return WORKLOADS[options.workload]
    workload = GPU_WORKLOADS[options.workload]
    return tiny(workload) if options.tiny else workload


def on_card(options: argparse.Namespace) -> bool:
    """Whether the contestant computes on a GPU."""
    return options.gpu and not options.tiny


waited = 0.0
"""Seconds that this process has waited for its turns."""


@contextlib.contextmanager
def turn(options: argparse.Namespace) -> Iterator[None]:
    """Inside, at most COUNT processes that share ``--turns FOLDER COUNT`` are at work; without it, any number.

    Kernels are chosen by their times on the card, which others at work would disturb.
    """
    global waited
    if not options.turns:
        yield
        return
    folder, count = options.turns
    places = [(Path(folder) / f"turn{number}").open("w") for number in range(int(count))]
    began, mine = time.monotonic(), None
    while mine is None:
        for place in places:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = place
                break
        else:
            time.sleep(0.02)
    waited += time.monotonic() - began
    try:
        yield
    finally:
        for place in places:
            place.close()


def examples(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, H, W, C] or clips [B, T, H, W, C], and their classes int32: [B], [B, N] of their objects, or
    [B, H, W] of their pixels.

    They are a coarse pattern for each class under noise; the frames of a clip differ in noise. An object is a rectangle
    in the gray of its class, and so is an area of pixels.

    Each image comes twice, with two classes: were the batch learned by heart, the optimizer's numbers would fall so far
    below the smallest normal one that they slow it down, as no training on data does.
    """
    rng = np.random.default_rng(0)
    count, classes = workload.batch // 2, workload.classes
    height, width = workload.size
    if workload.objects:
        half = (np.arange(count * workload.objects, dtype=np.int32) % classes).reshape(count, -1)
        images = _rectangles(workload, half)
    elif workload.masks:
        areas = rng.integers(0, classes, (count, 8, 8), np.int32)
        half = areas.repeat(height // 8, 1).repeat(width // 8, 2)
        images = (40 + 20 * half)[..., None].repeat(workload.channels, -1)
    else:
        half = np.arange(count, dtype=np.int32) % classes
        patterns = rng.integers(40, 216, (classes, 4, 4, workload.channels))[half]
        images = patterns.repeat(height // 4, 1).repeat(width // 4, 2)
    if workload.frames:
        images = images[:, None].repeat(workload.frames, 1)
    images = (images + rng.normal(0, 20, images.shape)).clip(0, 255).astype(np.uint8)
    return np.concatenate([images, images]), np.concatenate([half, (half + 1) % classes])


def targets(images: np.ndarray) -> np.ndarray:
    """What the translator is to make of images: their negatives.

    The gradient of its absolute error does not shrink, so that they may be learned by heart.
    """
    return 255 - images


def _rectangles(workload: Workload, classes: np.ndarray) -> np.ndarray:
    """Images [len(classes), H, W, C], each with its `boxes` filled in the gray of their classes [len(classes), N]."""
    images = np.full((len(classes), *workload.size, workload.channels), 40.0)
    corners = boxes(workload)[: len(classes)].round().astype(int)
    for image, its_corners, its_classes in zip(images, corners, classes, strict=True):
        for (top, left, bottom, right), number in zip(its_corners, its_classes, strict=True):
            image[top:bottom, left:right] = 90 + 50 * number
    return images


def boxes(workload: Workload) -> np.ndarray:
    """The boxes of the objects of `examples`, float32 [B, N, 4]: y0, x0, y1, x1 in pixels."""
    rng = np.random.default_rng(1)
    sides = rng.uniform(20, 80, (workload.batch // 2, workload.objects, 2))
    corners = rng.uniform(0, np.array(workload.size) - sides)
    half = np.concatenate([corners, corners + sides], -1).astype(np.float32)
    return np.concatenate([half, half])


def places(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Where the detector predicts boxes: the cells' centers float32 [A, 2] in pixels, and their sides float32 [A]."""
    centers, sides = [], []
    for stride in STRIDES:
        # Images are filled up to whole cells of the last scale.
        rows, columns = (-(-side // STRIDES[-1]) * STRIDES[-1] // stride for side in workload.size)
        cells = np.indices((rows, columns)).reshape(2, -1).T
        centers.append((cells + 0.5) * stride)
        sides.append(np.full(len(cells), stride))
    return np.concatenate(centers).astype(np.float32), np.concatenate(sides).astype(np.float32)


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images / 255."""
    pixels = images.reshape(-1, images.shape[-1]) / 255
    return tuple(pixels.mean(0).tolist()), tuple(pixels.std(0).tolist())


def inputs(workload: Workload, images: np.ndarray) -> np.ndarray:
    """What a model sees of images or clips, float32 of their shape.

    Pixels are in [0, 1], in [-1, 1] for the dcgan, and standardized for classes.
    """
    pixels = images.astype(np.float32) / 255
    if workload.model in ("autoencoder", "translator"):
        return pixels
    if workload.model == "dcgan":
        return 2 * pixels - 1
    mean, std = moments(images)
    return (pixels - np.float32(mean)) / np.float32(std)


def whitening(images: np.ndarray) -> np.ndarray:
    """Speednet's fixed first kernel float32 [2, 2, C, 8C]: whitens 2x2 patches of [B, S, S, C]; and its negative."""
    x, channels = images, images.shape[-1]
    patches = np.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1).reshape(-1, 4 * channels)
    values, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    filters = (vectors / np.sqrt(np.maximum(values, 0) + 5e-4))[:, ::-1]
    return np.concatenate([filters, -filters], 1).reshape(2, 2, channels, -1).astype(np.float32)


def dirac(shape: tuple[int, ...]) -> np.ndarray:
    """Speednet's initial kernel float32 [3, 3, I, O]: the first filters copy their input, the rest are uniform."""
    copies, bound = min(shape[2:]), (9 * shape[2]) ** -0.5
    kernel = np.random.default_rng(0).uniform(-bound, bound, shape).astype(np.float32)
    kernel[..., :copies] = 0
    kernel[1, 1, :, :copies] = np.eye(shape[2], copies)
    return kernel


@dataclass(frozen=True)
class Contestant:
    """A workload ready to train."""

    advance: Callable[[int], float]
    """Makes so many steps and returns the last one's loss, which waits for it.

    Of the dcgan the discriminator's, of the translator the generator's, of the glimpses that of the class.
    """
    parameters: int
    """Number of trainable parameters."""
    version: str
    flops: float | None = None
    """Floating-point operations of a step."""
    bytes: float | None = None
    """Bytes that a step reads and writes."""
    first: float | None = None
    """The loss of the first step, if building the contestant has made it."""
    steps: int = 1
    """How many steps one call makes; `advance` is asked for multiples of it, and makes as many if asked for one."""
    peak: Callable[[], int] | None = None
    """Peak memory of the accelerator in bytes."""


def _age() -> float:
    """Seconds since this process was started (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _peak_memory() -> int:
    """Peak resident memory of this process in bytes; unlike ru_maxrss it does not count its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def say(**values: Any) -> None:
    """One JSON line."""
    print(json.dumps(values), flush=True)


def serve(build: Callable[[Any, argparse.Namespace], Contestant], options: argparse.Namespace, workload: Any) -> None:
    """Builds the contestant, tells its facts, and trains on request until the input ends."""
    imported = _age()
    contestant = build(workload, options)
    loss = contestant.advance(1) if contestant.first is None else contestant.first
    first = _age() - waited
    facts = {"import": imported, "compile": first - imported, "first": first, "loss": loss, "steps": contestant.steps}
    say(
        **facts,
        version=contestant.version,
        parameters=contestant.parameters,
        flops=contestant.flops,
        bytes=contestant.bytes,
    )
    while line := input_line():
        began = time.perf_counter()
        loss = contestant.advance(int(line))
        say(seconds=time.perf_counter() - began, loss=loss)
    say(peak=contestant.peak() if contestant.peak else _peak_memory())


def input_line() -> str:
    """The next line of the input; empty at its end."""
    try:
        return input()
    except EOFError:
        return ""
