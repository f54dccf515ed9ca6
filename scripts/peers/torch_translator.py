"""PyTorch: the translation of images and its step as a PyTorch project would write them. Used by torch_step.py."""

from collections.abc import Callable, Sequence
from typing import Any

import contest
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
    """The generator: two convolutions at each scale on the way down and up, and skips between equal scales."""

    def __init__(self) -> None:
        super().__init__()
        widths = [contest.TRANSLATOR_WIDTH * 2**level for level in range(contest.DEPTH + 1)]
        self.down = nn.ModuleList(map(pair, [3, *widths[:-1]], widths))
        self.widen = nn.ModuleList(map(doubling, widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList(map(pair, widths[:0:-1], widths[-2::-1]))
        self.head = conv(widths[0], 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to images of the same kind."""
        x = self.down[0](images * 2 - 1)
        skips = []
        for layers in self.down[1:]:
            skips.append(x)
            x = layers(F.max_pool2d(x, 2))
        for widen, layers in zip(self.widen, self.up, strict=True):
            x = layers(torch.cat([widen(x), skips.pop()], 1))
        return self.head(x).float().sigmoid()


class PatchDiscriminator(nn.Module):
    """Says of each patch of an image how real it looks, beside the image that it was made from."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 6
        for level in range(contest.HALVINGS):
            outputs = contest.TRANSLATOR_WIDTH * 2**level
            layers += [conv(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            inputs = outputs
        # Images keep their size.
        around = (1, 2, 1, 2)
        layers += [nn.ZeroPad2d(around), conv(inputs, 2 * inputs, 4), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.ZeroPad2d(around), conv(2 * inputs, 1, 4))

    def forward(self, images: Tensor, given: Tensor) -> Tensor:
        """Two times [B, 3, H, W] in [0, 1] to logits [B, 1, h, w]."""
        return self.layers(torch.cat([images, given], 1) * 2 - 1).float()


def translation(
    players: Sequence[nn.Module],
    examples: tuple[Tensor, Tensor],
    optimizers: Sequence[Any],
    precision: Callable[[], Any],
) -> Callable[[], Tensor]:
    """The step of generator and discriminator on images and their targets [B, 3, H, W]; it tells the generator's loss.

    The discriminator's turn, then the generator's, on the same answers.
    """
    (g, d), (x, target), (g_optimizer, d_optimizer) = players, examples, optimizers

    def step() -> Tensor:
        d_optimizer.zero_grad()
        with precision():
            answers = g(x)
            d_loss = 0.5 * ((d(target, x) - 1).square().mean() + d(answers.detach(), x).square().mean())
        d_loss.backward()
        d_optimizer.step()
        d.requires_grad_(False)
        g_optimizer.zero_grad()
        with precision():
            game = 0.5 * (d(answers, x) - 1).square().mean()
            loss = contest.PIXEL * F.l1_loss(answers, target) + game
        loss.backward()
        g_optimizer.step()
        d.requires_grad_(True)
        return loss.detach()

    return step
