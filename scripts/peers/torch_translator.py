"""PyTorch: the translation of images and its step as a PyTorch project would write them. Used by torch_step.py."""

from collections.abc import Callable, Sequence
from typing import Any

import contest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_unet import UNet, conv


class Generator(nn.Module):
    """Makes an image of the other kind from an image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet(contest.TRANSLATOR_WIDTH, contest.DEPTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to images of the same kind."""
        return self.net(images * 2 - 1).float().sigmoid()


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
