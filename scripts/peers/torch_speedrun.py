"""PyTorch: airbench94 with Muon (Jordan 2024) on arrays that scripts/speedrun.py has written.

    python scripts/speedrun.py cifar10_speednet --runs 0 --arrays cifar10.npz
    python scripts/peers/torch_speedrun.py cifar10.npz --runs 10 --compile max-autotune

Prints a line of JSON for each run, and one for all: seconds from the first number drawn to the accuracy, and accuracy
on the test split with six views. With --wide, the net has three convolutions in a block, with a residual, and trains
longer. Needs torch and numpy alone.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EIGENVALUE = 5e-4
"""Added to the eigenvalues of the whitening."""
WHITENED, BIAS_EPOCHS = 5000, 3
"""Images that the whitening is taken from, and epochs in which its bias learns."""
BIAS_LR, HEAD_LR, DECAY = 0.053, 0.67, 2e-6
"""For losses that are summed over the batch, a head of 256 features, and each image of a batch."""


class Layer(nn.Module):
    """A convolution that starts near the identity, max pooling if ``pool``, and normalization without a factor."""

    def __init__(self, inputs: int, features: int, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm = nn.BatchNorm2d(features, eps=1e-12, momentum=0.4)
        self.norm.weight.requires_grad = False

    def reset(self) -> None:
        """Draws the parameters anew."""
        self.conv.reset_parameters()
        self.norm.reset_parameters()
        nn.init.dirac_(self.conv.weight.data[: self.conv.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, features, H, W], or half the sides."""
        return self.norm(self.pool(self.conv(x)))


class Block(nn.Module):
    """Two layers, or three of which the last adds what the first gave."""

    def __init__(self, inputs: int, features: int, residual: bool) -> None:
        super().__init__()
        self.first = Layer(inputs, features, pool=True)
        self.second = Layer(features, features)
        self.third = Layer(features, features) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, features, H / 2, W / 2]."""
        first = F.gelu(self.first(x))
        x = F.gelu(self.second(first))
        return x if self.third is None else F.gelu(first + self.third(x))


class Net(nn.Module):
    """Whitening, three blocks, maximum over the image, a linear head."""

    def __init__(self, widths: tuple[int, int, int], residual: bool, classes: int = 10) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        inputs = (24, *widths)
        self.blocks = nn.Sequential(*(Block(inputs[i], inputs[i + 1], residual) for i in range(3)))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def reset(self, images: Tensor) -> None:
        """Draws the parameters anew, and takes the whitening from standardized images."""
        for module in self.modules():
            if isinstance(module, Layer):
                module.reset()
        self.head.reset_parameters()
        self.head.weight.data /= self.head.weight.data.float().std()
        self.whiten.bias.data.zero_()
        patches = F.unfold(images.float(), 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values + EIGENVALUE)).T.reshape(12, 3, 2, 2)
        self.whiten.weight.data[:] = torch.cat([filters, -filters])

    def forward(self, x: Tensor, bias_learns: bool = False) -> Tensor:
        """Standardized images [B, 3, 32, 32] to logits [B, classes]."""
        bias = self.whiten.bias if bias_learns else self.whiten.bias.detach()
        x = self.blocks(F.gelu(F.conv2d(x, self.whiten.weight, bias)))
        x = F.max_pool2d(x, x.shape[-1]).flatten(1)
        return self.head(x) / x.shape[1]


def orthogonal(gradient: Tensor) -> Tensor:
    """A matrix near the orthogonal one of a gradient [O, ...], by three Newton-Schulz steps."""
    x = gradient.reshape(len(gradient), -1).bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).reshape(gradient.shape)


class Muon:
    """Muon for convolutions, whose kernels keep the norm of the root of their outputs."""

    def __init__(self, kernels: list[nn.Parameter], momentum: float, direction: Any) -> None:
        self.kernels, self.momentum, self.direction = kernels, momentum, direction
        self.traces = [torch.zeros_like(kernel) for kernel in kernels]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update by the gradients."""
        for kernel, trace in zip(self.kernels, self.traces, strict=True):
            trace.mul_(self.momentum).add_(kernel.grad)
            ahead = kernel.grad.add(trace, alpha=self.momentum)
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
            kernel.add_(self.direction(ahead).to(kernel.dtype), alpha=-lr)


def cropped(padded: Tensor, pad: int) -> Tensor:
    """A window of each padded image [N, H, W, C], at a random place."""
    count, side = len(padded), padded.shape[1] - 2 * pad
    places = torch.randint(0, 2 * pad + 1, (2, count, 1), device=padded.device)
    rows, columns = places + torch.arange(side, device=padded.device)
    number = torch.arange(count, device=padded.device)[:, None, None]
    return padded[number, rows[:, :, None], columns[:, None, :]]


def hidden(images: Tensor, size: int) -> Tensor:
    """Images [N, H, W, C] with a random square inside set to 0."""
    side = images.shape[1]
    first = torch.randint(0, side - size + 1, (2, len(images), 1), device=images.device)
    places = torch.arange(side, device=images.device)
    rows, columns = (places >= first) & (places < first + size)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], 0)


def views(net: Any, images: Tensor) -> Tensor:
    """Logits [B, classes] averaged over an image, two shifts by a pixel, and the mirror images of all three."""
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    side = images.shape[-1]
    shifted = [padded[..., :side, :side], padded[..., 2 : 2 + side, 2 : 2 + side]]
    total = 0
    for view, weight in [(images, 0.25), (shifted[0], 0.125), (shifted[1], 0.125)]:
        for each in (view, view.flip(-1)):
            # A compiled net may write its next answer over this one.
            total = total + weight * net(each).clone()
    return total


def scheduled(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise, then a linear fall to 0."""
    rise = round(warmup * steps)
    return (step + 1) / rise if step < rise else 1 - (step - rise) / (steps - rise)


def run(net: Net, call: Any, direction: Any, data: dict[str, Tensor], options: argparse.Namespace) -> float:
    """Trains from new parameters, and gives the accuracy on the test split."""
    train, label, batch = data["train"], data["train_label"], options.batch_size
    net.reset(train[:WHITENED].permute(0, 3, 1, 2))
    per_epoch = len(train) // batch
    steps, bias_steps = options.epochs * per_epoch, BIAS_EPOCHS * per_epoch
    biases = [module.bias for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    head_lr, decay = HEAD_LR * net.head.in_features / 256, DECAY * batch
    groups = [
        {"params": [net.whiten.bias], "lr": BIAS_LR, "weight_decay": decay / BIAS_LR},
        {"params": biases, "lr": BIAS_LR, "weight_decay": decay / BIAS_LR},
        {"params": [net.head.weight], "lr": head_lr, "weight_decay": decay / head_lr},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    peaks = [group["lr"] for group in groups]
    kernels = [parameter for parameter in net.parameters() if parameter.ndim == 4 and parameter.requires_grad]
    muon = Muon(kernels, 0.6, direction)
    flips = torch.rand(len(train), device=train.device)[:, None, None, None] < 0.5
    flipped = torch.where(flips, train.flip(2), train).permute(0, 3, 1, 2)
    padded = F.pad(flipped, (options.crop,) * 4, "reflect").permute(0, 2, 3, 1).contiguous()
    net.train()
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            images = cropped(padded, options.crop)
            images = images.flip(2) if epoch % 2 else images
            images = hidden(images, options.cutout) if options.cutout else images
            order = torch.randperm(len(images), device=images.device)
        rows = order[place * batch : (place + 1) * batch]
        outputs = call(images[rows].permute(0, 3, 1, 2), step < bias_steps)
        F.cross_entropy(outputs.float(), label[rows], label_smoothing=0.2, reduction="sum").backward()
        share = scheduled(step, steps, options.warmup)
        for group, peak in zip(sgd.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        sgd.param_groups[0]["lr"] = peaks[0] * max(0.0, 1 - step / bias_steps)
        sgd.step()
        muon.step(options.lr * share)
        net.zero_grad(set_to_none=True)
    net.eval()
    with torch.no_grad():
        parts = data["test"].permute(0, 3, 1, 2).split(2000)
        answers = torch.cat([views(call, part) for part in parts]).argmax(1)
    return (answers == data["test_label"]).float().mean().item()


def loaded(file: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Standardized images [N, H, W, C] and labels on the device."""
    arrays = np.load(file)
    train = torch.from_numpy(arrays["train_image"]).to(device)
    deviation, mean = torch.std_mean(train.float() / 255, (0, 1, 2))
    data = {}
    for split in ("train", "test"):
        images = torch.from_numpy(arrays[f"{split}_image"]).to(device)
        data[split] = ((images.float() / 255 - mean) / deviation).to(dtype)
        data[f"{split}_label"] = torch.from_numpy(arrays[f"{split}_label"]).long().to(device)
    return data


def main() -> None:
    """Reads the command line, trains, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays", type=Path, help="train_image, train_label, test_image and test_label, as .npz")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--wide", action="store_true", help="the net and the settings for 96 %%")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the channels")
    parser.add_argument("--epochs", type=int, help="default: 8, or 30 with --wide")
    parser.add_argument("--batch-size", type=int, help="default: 2000, or 1000 with --wide")
    parser.add_argument("--lr", type=float, help="of Muon; default: .24, or .12 with --wide")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--compile", metavar="MODE", help="torch.compile with this mode, such as max-autotune")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the lines there")
    options = parser.parse_args()
    usual = {"epochs": 8, "batch_size": 2000, "lr": 0.24}
    if options.wide:
        usual = {"epochs": 30, "batch_size": 1000, "lr": 0.12}
    for name, value in usual.items():
        setattr(options, name, getattr(options, name) or value)
    options.crop, options.cutout, options.warmup = (4, 12, 0.05) if options.wide else (2, 0, 0.0)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    data = loaded(options.arrays, device, dtype)
    widths = (128, 384, 512) if options.wide else (64, 256, 256)
    net = Net(tuple(round(options.width * width) for width in widths), options.wide)
    net = net.to(device, dtype, memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    call, direction = net, orthogonal
    if options.compile:
        call, direction = torch.compile(net, mode=options.compile), torch.compile(orthogonal)

    def timed(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        wait()
        began = time.perf_counter()
        accuracy = run(net, call, direction, data, options)
        wait()
        return {"seed": seed, "seconds": round(time.perf_counter() - began, 4), "accuracy": round(accuracy, 5)}

    say = partial(told, file=options.out)
    facts = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    settings = ("wide", "width", "epochs", "batch_size", "lr", "dtype", "compile")
    facts |= {name: getattr(options, name) for name in settings}
    say({**facts, "warm_up": timed(10**6)})
    runs = []
    for seed in range(options.runs):
        runs.append(timed(seed))
        say(runs[-1])
    seconds, found = [each["seconds"] for each in runs], [each["accuracy"] for each in runs]
    summary = {
        "runs": len(runs),
        "median seconds": statistics.median(seconds),
        "mean seconds": statistics.mean(seconds),
    }
    summary |= {
        "mean accuracy": statistics.mean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
    }
    say(summary)


def told(line: dict[str, Any], file: Path | None) -> None:
    """Prints a line of JSON, and adds it to the file."""
    print(json.dumps(line), flush=True)
    if file is not None:
        with file.open("a") as opened:
            opened.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
