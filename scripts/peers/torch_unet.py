"""PyTorch: a U-Net as a PyTorch project would write it. Used by torch_step.py and torch_translator.py."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pair(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with its normalization and the nonlinearity."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles the side."""
    made = nn.ConvTranspose2d(inputs, outputs, 2, 2)
    # For transposed convolutions, PyTorch's fan_in counts the outputs.
    nn.init.kaiming_normal_(made.weight, mode="fan_in", nonlinearity="relu")
    nn.init.zeros_(made.bias)
    return made


def conv(inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
    """A convolution with flax's usual start: a kernel of variance 1 / inputs, biases 0."""
    made = nn.Conv2d(inputs, outputs, size, **options)
    nn.init.normal_(made.weight, std=(inputs * size**2) ** -0.5)
    nn.init.zeros_(made.bias)
    return made


class UNet(nn.Module):
    """Two convolutions at each scale on the way down and up, and skips between equal scales."""

    def __init__(self, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(pair, [3, *widths[:-1]], widths))
        self.widen = nn.ModuleList(map(doubling, widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList(map(pair, widths[:0:-1], widths[-2::-1]))
        self.head = conv(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, outputs, H, W]."""
        x = self.down[0](x)
        skips = []
        for layers in self.down[1:]:
            skips.append(x)
            x = layers(F.max_pool2d(x, 2))
        for widen, layers in zip(self.widen, self.up, strict=True):
            x = layers(torch.cat([widen(x), skips.pop()], 1))
        return self.head(x)
