"""PyTorch: the detector and its loss as a PyTorch project would write them. Used by torch_step.py."""

import math

import contest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 3 * contest.DETECTOR_WIDTH // 2
"""Channels of the pyramid and the head."""
MOST = 10
"""Places that an object may have."""
CLASSES, BOX, SIDES = 1.0, 7.5, 1.5
"""Weights of the parts of the loss."""
TINY = 1e-9


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution, its kernel started as jaxrec's."""
    made = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    """A convolution, its normalization and the nonlinearity."""
    return nn.Sequential(conv(inputs, outputs, size, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Block(nn.Module):
    """Halves the image and adds what a block finds in half as many channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = layer(inputs, outputs, 3, 2)
        self.block = nn.Sequential(layer(outputs, outputs // 2, 1), layer(outputs // 2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, H / 2, W / 2]."""
        x = self.down(x)
        return x + self.block(x)


class Branch(nn.Module):
    """A branch of the head: a convolution that the scales share, a normalization for each, and a last layer."""

    def __init__(self, outputs: int, bias: float) -> None:
        super().__init__()
        self.shared = conv(FEATURES, FEATURES)
        self.norms = nn.ModuleList(nn.BatchNorm2d(FEATURES) for _ in contest.STRIDES)
        self.last = nn.Linear(FEATURES, outputs)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, bias)

    def forward(self, scales: list[Tensor]) -> Tensor:
        """Three scales [B, C, H, W] to all places [B, A, outputs]."""
        found = [F.relu(norm(self.shared(x))) for norm, x in zip(self.norms, scales, strict=True)]
        return self.last(torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in found], 1))


class Detector(nn.Module):
    """A backbone, a pyramid of three scales, and a head with a branch for the classes and one for the boxes."""

    def __init__(self) -> None:
        super().__init__()
        first, second, *rest = contest.LEVELS
        self.stem = nn.Sequential(layer(3, first, 3, 2), layer(first, second, 3, 2))
        self.blocks = nn.ModuleList(map(Block, (second, *rest[:-1]), rest))
        self.sides = nn.ModuleList(layer(features, FEATURES, 1) for features in rest)
        self.finer = nn.ModuleList(layer(FEATURES, FEATURES) for _ in range(2))
        self.coarser = nn.ModuleList(layer(FEATURES, FEATURES, 3, 2) for _ in range(2))
        classes = contest.WORKLOADS["detector"].classes
        self.scores = Branch(classes, -math.log((1 - contest.PRIOR) / contest.PRIOR))
        self.distances = Branch(4 * contest.BINS, 0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] to logits [B, A, classes] and logits [B, A, 4, bins] of the distances to the sides."""
        height, width = (-side % contest.STRIDES[-1] for side in x.shape[2:])
        x = self.stem(F.pad(x, (0, width, 0, height), mode="replicate"))
        scales = []
        for block, side in zip(self.blocks, self.sides, strict=True):
            x = block(x)
            scales.append(side(x))
        fine, middle, coarse = scales
        middle = self.finer[0](middle + F.interpolate(coarse, scale_factor=2.0))
        fine = self.finer[1](fine + F.interpolate(middle, scale_factor=2.0))
        middle = self.coarser[0](fine) + middle
        coarse = self.coarser[1](middle) + coarse
        scales = [fine, middle, coarse]
        return self.scores(scales), self.distances(scales).unflatten(-1, (4, contest.BINS))


class DetectionLoss(nn.Module):
    """Task-aligned assignment; cross-entropy with its qualities, complete IoU, and the distribution focal loss."""

    def __init__(self, workload: contest.Workload, classes: Tensor) -> None:
        super().__init__()
        centers, strides = map(torch.from_numpy, contest.places(workload))
        self.register_buffer("centers", centers)
        self.register_buffer("strides", strides)
        self.register_buffer("bins", torch.arange(contest.BINS, dtype=torch.float32))
        self.register_buffer("boxes", torch.from_numpy(contest.boxes(workload)))
        self.register_buffer("classes", classes)

    def forward(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over the images, of logits [B, A, classes] and [B, A, 4, bins]."""
        logits, distances = (output.float() for output in outputs)
        pixels = (distances.softmax(-1) @ self.bins) * self.strides[:, None]
        boxes = torch.cat([self.centers - pixels[..., :2], self.centers + pixels[..., 2:]], -1)
        owner, quality = self.assign(logits.detach().sigmoid(), boxes.detach())
        norm = quality.sum(1).clamp(min=1)
        true_boxes = self.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
        its_class = self.classes.gather(1, owner)
        target = torch.zeros_like(logits).scatter_(2, its_class[..., None], quality[..., None])
        of_classes = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2))
        of_boxes = (quality * (1 - complete_iou(boxes, true_boxes))).sum(1)
        of_sides = (quality * self.distribution_focal(distances, true_boxes)).sum(1)
        return ((CLASSES * of_classes + BOX * of_boxes + SIDES * of_sides) / norm).mean()

    @torch.no_grad()
    def assign(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The true box of each place and the score it should have, both [B, A]; the score of background is 0."""
        true = self.boxes[:, :, None]
        overlap = iou(true, boxes[:, None])
        score = scores.transpose(1, 2).gather(1, self.classes[..., None].expand(-1, -1, scores.shape[1]))
        center, extent = (true[..., :2] + true[..., 2:]) / 2, true[..., 2:] - true[..., :2]
        half = torch.clamp(extent / 2, min=contest.STRIDES[0] / 2)
        near = ((self.centers - center).abs() < half).all(-1)
        alignment = score.sqrt() * overlap.pow(6) * near
        chosen = alignment.topk(MOST).indices
        claimed = torch.zeros_like(near).scatter_(2, chosen, True) & (alignment > 0)
        owner = overlap.masked_fill(~claimed, -1).argmax(1)
        owned = claimed & (owner[:, None] == torch.arange(true.shape[1], device=owner.device)[:, None])
        alignment = alignment * owned
        best = alignment.amax(2, keepdim=True)
        highest = (overlap * owned).amax(2, keepdim=True)
        return owner, (alignment / best.clamp(min=1e-30) * highest).amax(1)

    def distribution_focal(self, distances: Tensor, boxes: Tensor) -> Tensor:
        """Mean over the sides [B, A]."""
        away = torch.cat([self.centers - boxes[..., :2], boxes[..., 2:] - self.centers], -1)
        exact = (away / self.strides[:, None]).clamp(0, contest.BINS - 1)
        left = exact.long().clamp(max=contest.BINS - 2)
        right = (exact - left)[..., None]
        logs = distances.log_softmax(-1)
        near = torch.cat([left[..., None], left[..., None] + 1], -1)
        return -(torch.cat([1 - right, right], -1) * logs.gather(-1, near)).sum(-1).mean(-1)


def areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of boxes [..., 4]."""
    top_a, left_a, bottom_a, right_a = a.unbind(-1)
    top_b, left_b, bottom_b, right_b = b.unbind(-1)
    height = (torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b)).clamp(min=0)
    width = (torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b)).clamp(min=0)
    inside = height * width
    union = (bottom_a - top_a) * (right_a - left_a) + (bottom_b - top_b) * (right_b - left_b) - inside
    return inside, union.clamp(min=TINY)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4]."""
    inside, union = areas(a, b)
    return inside / union


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes [..., 4]."""
    overlap = iou(a, b)
    sides = torch.maximum(a, b)[..., 2:] - torch.minimum(a, b)[..., :2]
    diagonal = sides.square().sum(-1).clamp(min=TINY)
    centers = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    shape = 4 / math.pi**2 * (angle(a) - angle(b)).square()
    with torch.no_grad():
        weight = shape / (1 - overlap + shape).clamp(min=TINY)
    return overlap - centers.square().sum(-1) / diagonal - weight * shape


def angle(boxes: Tensor) -> Tensor:
    """The angle of the diagonal from the upright."""
    height, width = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6).unbind(-1)
    return torch.atan2(width, height)
