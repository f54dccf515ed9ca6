"""PyTorch: the recurrent attention model and its step as a PyTorch project would write them. Used by torch_step.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

import contest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BORDER = contest.PATCH + 1
"""Pixels around the image, as far as the coarse square sees from the border."""


def linear(inputs: int, outputs: int, variance: float = 1.0) -> nn.Linear:
    """A dense layer, its kernel started with this variance / inputs, its bias with 0."""
    made = nn.Linear(inputs, outputs)
    nn.init.normal_(made.weight, std=(variance / inputs) ** 0.5)
    nn.init.zeros_(made.bias)
    return made


def recurrent(units: int) -> nn.GRUCell:
    """Gated recurrent units, each gate started by itself."""
    made = nn.GRUCell(units, units)
    for gate in made.weight_ih.chunk(3):
        nn.init.normal_(gate, std=units**-0.5)
    for gate in made.weight_hh.chunk(3):
        nn.init.orthogonal_(gate)
    nn.init.zeros_(made.bias_ih)
    nn.init.zeros_(made.bias_hh)
    return made


class Looks(NamedTuple):
    """The answers after the last look at N images, and how the policy chose the T looks after the first."""

    logits: Tensor
    """[N, classes]."""
    mean: Tensor
    """Where the policy aimed, [T, N, 2]."""
    action: Tensor
    """Where it looked, [T, N, 2]."""
    value: Tensor
    """The expected reward, [T, N]."""


class GlimpseNetwork(nn.Module):
    """Glimpse sensor at two scales, networks of what and where, gated recurrent units, policy, value and head."""

    def __init__(self) -> None:
        super().__init__()
        units = contest.UNITS
        # Aims begin near the center, and values near 0.
        small = 0.01
        self.seen = linear(2 * contest.PATCH**2, units)
        self.placed = linear(2, units)
        self.what = linear(units, units)
        self.where = linear(units, units)
        self.recurrent = recurrent(units)
        self.considered = linear(units, units)
        self.aim = linear(units, 2, small)
        self.expected = linear(units, 1, small)
        self.head = linear(units, contest.WORKLOADS["glimpse"].classes)

    def forward(self, images: Tensor) -> Looks:
        """Looks at [B, 1, S, S], at each image in COPIES ways, which stand side by side."""
        fine = F.pad(images, (BORDER,) * 4)
        # Blurred once, so that each look only picks pixels; pooling with overlap is slower than these sums.
        rows = fine[:, :, :-1] + fine[:, :, 1:]
        coarse = (rows[..., :-1] + rows[..., 1:]) / 4
        size = len(images) * contest.COPIES
        place = images.new_zeros(size, 2)
        noise = contest.DEVIATION * torch.randn(contest.LOOKS - 1, size, 2, device=images.device)
        memory = None
        known, means, actions = [], [], []
        for look in range(contest.LOOKS):
            if memory is not None:
                # The policy and the value learn from the memory and do not change it.
                known.append(memory.detach())
                mean = torch.tanh(self.aim(F.relu(self.considered(known[-1]))).float())
                action = (mean + noise[look - 1]).detach()
                means.append(mean)
                actions.append(action)
                place = action.clamp(-1, 1)
            center = (place + 1) / 2 * images.shape[2]
            pixels = torch.cat([self.pick(fine, center, 1), self.pick(coarse, center, 2)], 1)
            seen = F.relu(self.seen(pixels))
            placed = F.relu(self.placed(place))
            memory = self.recurrent(F.relu(self.what(seen) + self.where(placed)), memory)
        value = self.expected(torch.stack(known)).float()[..., 0]
        return Looks(self.head(memory).float(), torch.stack(means), torch.stack(actions), value)

    def pick(self, images: Tensor, center: Tensor, step: int) -> Tensor:
        """Every ``step``-th pixel of squares of images [B, 1, W, W] around centers [N, 2] in pixels: [N, PATCH^2]."""
        batch, width = len(images), images.shape[3]
        corner = torch.round(center - step * contest.PATCH / 2).long() + BORDER
        first = corner[:, :1] * width + corner[:, 1:]
        across = step * torch.arange(contest.PATCH, device=images.device)
        square = (across[:, None] * width + across).flatten()
        return images.view(batch, -1).gather(1, (first + square).view(batch, -1)).view(len(center), -1)


def losses(looks: Looks, label: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the class, and that of policy (REINFORCE with a baseline) and value, from classes [N]."""
    of_class = F.cross_entropy(looks.logits, label)
    reward = (looks.logits.argmax(1) == label).float()
    # Without the constant, which has no gradient.
    log_prob = -0.5 * ((looks.action - looks.mean) / contest.DEVIATION).square().sum(2)
    of_policy = -(log_prob * (reward - looks.value.detach())).sum(0).mean()
    of_value = 0.5 * (looks.value - reward).square().mean()
    return of_class, of_policy + of_value


def looking(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: Any, loss: Callable[..., Any], precision: Callable[[], Any]
) -> Callable[[], Tensor]:
    """The step of the recurrent attention model on images [B, 1, S, S] in classes [B]; it tells the class's loss."""
    label = y.repeat_interleave(contest.COPIES)

    def step() -> Tensor:
        optimizer.zero_grad()
        with precision():
            of_class, of_looks = loss(model(x), label)
        (of_class + of_looks).backward()
        optimizer.step()
        return of_class.detach()

    return step
