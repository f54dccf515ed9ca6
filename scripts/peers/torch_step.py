"""PyTorch: the workloads as a PyTorch example would write them. Run by scripts/benchmark.py."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import contest
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_detector import DetectionLoss, Detector
from torch_glimpse import GlimpseNetwork, looking, losses
from torch_translator import Generator, PatchDiscriminator, translation
from torch_unet import UNet

Gelu = partial(nn.GELU, approximate="tanh")


def started(model: nn.Module) -> nn.Module:
    """The model with flax's usual start: normal kernels of variance 1 / inputs, biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            weight = layer.weight
            inputs = weight[:, 0].numel() if isinstance(layer, nn.ConvTranspose2d) else weight[0].numel()
            nn.init.normal_(weight, std=inputs**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def cnn() -> nn.Module:
    """[B, 3, 32, 32] or [B, 1, 28, 28] to logits [B, 10], by two convolutions with pooling and a hidden layer."""
    return nn.Sequential(
        *(nn.LazyConv2d(32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 10)),
    )


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.norm2.weight)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 with a stem for small images."""
    blocks = []
    for stage, features in enumerate((64, 128, 256, 512)):
        inputs = features // 2 if stage else 64
        blocks += [Block(inputs, features, 2 if stage else 1), Block(features, features, 1)]
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions, the last one to four times the features."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * features
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, features, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU(inplace=True)),
            *(nn.Conv2d(features, features, 3, stride, 1, bias=False), nn.BatchNorm2d(features)),
            *(nn.ReLU(inplace=True), nn.Conv2d(features, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        nn.init.zeros_(self.layers[-1].weight)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4D, H / stride, W / stride]."""
        return F.relu(self.layers(x) + self.shortcut(x), inplace=True)


def resnet50(classes: int) -> nn.Module:
    """ResNet-50 with the usual stem for large images."""
    blocks: list[nn.Module] = []
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        features = 64 * 2**stage
        for block in range(count):
            blocks.append(Bottleneck(inputs, features, 2 if stage and not block else 1))
            inputs = 4 * features
    stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def autoencoder() -> nn.Module:
    """[B, 1, 28, 28] to a code of 32 and back, by strided and transposed convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), Gelu(), nn.Conv2d(32, 64, 4, 2, 1), Gelu(), nn.Flatten()),
        *(nn.Linear(7 * 7 * 64, 32), nn.Linear(32, 7 * 7 * 64), Gelu(), nn.Unflatten(1, (64, 7, 7))),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), Gelu(), nn.ConvTranspose2d(32, 1, 4, 2, 1)),
    )


def generator() -> nn.Module:
    """DCGAN's: latents [B, 64] to images [B, 3, 32, 32]."""
    width = contest.GAN_WIDTH
    return nn.Sequential(
        *(nn.Linear(contest.LATENTS, 8 * 8 * 4 * width, bias=False), nn.Unflatten(1, (4 * width, 8, 8))),
        *(nn.BatchNorm2d(4 * width), nn.ReLU(), nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False)),
        *(nn.BatchNorm2d(2 * width), nn.ReLU(), nn.ConvTranspose2d(2 * width, 3, 4, 2, 1), nn.Tanh()),
    )


def discriminator() -> nn.Module:
    """DCGAN's, without normalization: images to logits [B, 1]."""
    width = contest.GAN_WIDTH
    return nn.Sequential(
        *(nn.Conv2d(3, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()),
        nn.Linear(8 * 8 * 4 * width, 1),
    )


class ViT(nn.Module):
    """A small vision transformer: patches of 4x4, width 128, 4 blocks, 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, 128))
        gelu = partial(F.gelu, approximate="tanh")
        options = {"dropout": 0.0, "activation": gelu, "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(128, 4, 256, **options) for _ in range(4)))
        self.norm = nn.LayerNorm(128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] to logits [B, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class RNN(nn.Module):
    """Convolutions over each frame, gated recurrent units over time."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width in contest.RNN_WIDTHS:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = width
        norm = nn.LayerNorm(contest.UNITS, 1e-6)
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(contest.UNITS), norm, nn.ReLU())
        self.recurrent = nn.GRU(contest.UNITS, contest.UNITS, batch_first=True)
        self.head = nn.Linear(contest.UNITS, 10)
        for gate in self.recurrent.weight_ih_l0.chunk(3):
            nn.init.normal_(gate, std=contest.UNITS**-0.5)
        for gate in self.recurrent.weight_hh_l0.chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, x: Tensor) -> Tensor:
        """All frames of all clips, [B * T, C, H, W], to logits [B, 10]."""
        frames = contest.WORKLOADS["rnn"].frames
        return self.head(self.recurrent(self.encoder(x).unflatten(0, (-1, frames)))[0].mean(1))


class SpeedNet(nn.Module):
    """airbench94's network, its stem pooled if asked for; ``kernel`` [2, 2, 3, 24] is the fixed whitening."""

    def __init__(self, kernel: np.ndarray, widths: tuple[int, ...], pooled: bool) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, kernel.shape[-1], 2)
        self.whiten.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        self.whiten.weight.requires_grad = False
        nn.init.zeros_(self.whiten.bias)
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if pooled else []
        inputs = kernel.shape[-1]
        for i, features in enumerate(widths):
            for j in range(2):
                conv = nn.Conv2d(inputs, features, 3, padding=1, bias=False)
                conv.weight.data = torch.from_numpy(
                    contest.dirac((3, 3, inputs, features)).transpose(3, 2, 0, 1).copy()
                )
                norm = nn.BatchNorm2d(features, momentum=0.4)
                norm.weight.requires_grad = False
                layers += [conv, *([nn.MaxPool2d(2)] if not j and (i or not pooled) else []), norm, Gelu()]
                inputs = features
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten())
        self.head = nn.Linear(inputs, 10, bias=False)
        nn.init.normal_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] to logits [B, 10]."""
        return self.head(self.layers(F.gelu(self.whiten(x), approximate="tanh"))) / 9


MODELS = {"cnn": cnn, "resnet18": resnet18, "autoencoder": autoencoder, "vit": ViT, "rnn": RNN}


def model_of(workload: contest.Workload, images: np.ndarray) -> nn.Module:
    """The model of a workload; ``images``, float32 as it will see them, give sizes and whitening."""
    name = workload.model
    if name in contest.SPEEDNET:
        return SpeedNet(contest.whitening(images), *contest.SPEEDNET[name])
    if name == "detector":
        return Detector()
    if name == "glimpse":
        return GlimpseNetwork()
    if name == "unet":
        return UNet(contest.UNET_WIDTH, contest.UNET_DEPTH, workload.classes)
    if name == "resnet50":
        return started(resnet50(workload.classes))
    model = MODELS[name]()
    model(channels_first(images[:2]))
    return started(model)


def players_of(workload: contest.Workload, pixels: np.ndarray) -> list[nn.Module]:
    """The models of a workload: a generator and a discriminator, or one model alone."""
    if workload.model == "dcgan":
        return [started(generator()), started(discriminator())]
    if workload.model == "translator":
        return [Generator(), PatchDiscriminator()]
    return [model_of(workload, pixels)]


def channels_first(images: np.ndarray) -> Tensor:
    """Images [B, H, W, C], or the frames of clips [B, T, H, W, C], as [N, C, H, W]."""
    return torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2)


def adam(parameters: Iterable[nn.Parameter], lr: float = contest.LEARNING_RATE) -> torch.optim.Adam:
    """Adam in its fastest form."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # As part of a CUDA graph it may keep no number on the host.
    capturable = trained[0].is_cuda
    return torch.optim.Adam(trained, lr, (contest.BETA1, contest.BETA2), fused=True, capturable=capturable)


def count(*models: nn.Module) -> int:
    """Number of trainable parameters.

    A GRU has a second bias of its first two gates, which only adds to the first one and is not counted.
    """
    counted = sum(p.numel() for model in models for p in model.parameters() if p.requires_grad)
    for model in models:
        counted -= sum(2 * layer.hidden_size for layer in model.modules() if isinstance(layer, nn.GRU))
    return counted


Step = Callable[[], Tensor]


def build(workload: contest.Workload, options: Any) -> contest.Contestant:
    """Makes the step of the workload."""
    torch.manual_seed(0)
    on_card = contest.on_card(options)
    device = torch.device("cuda" if on_card else "cpu")
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    images, label = contest.examples(workload)
    pixels = contest.inputs(workload, images)
    x = channels_first(pixels).contiguous(memory_format=layout).to(device)
    y = torch.from_numpy(label).long().to(device)
    if workload.model == "translator":
        y = channels_first(contest.inputs(workload, contest.targets(images)))
        y = y.contiguous(memory_format=layout).to(device)
    precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=options.bf16)
    models = [model.to(device, memory_format=layout) for model in players_of(workload, pixels)]
    parameters = count(*models)
    if on_card:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        # Chooses the convolutions of this process while few others disturb it; compiling takes much longer than that.
        with contest.turn(options):
            step_of(workload, copy.deepcopy(models), x, y, precision, False)().item()
        torch.cuda.empty_cache()
    if options.compile:
        models = [torch.compile(model) for model in models]
    step = step_of(workload, models, x, y, precision, options.compile)
    first = float(step())
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    if on_card and options.graph:
        step = captured(step)

    def advance(steps: int) -> float:
        for _ in range(steps):
            loss = step()
        return float(loss)

    peak = None
    if on_card:
        step()
        # The memory of a graph belongs to it, and its replays take none.
        most = torch.cuda.max_memory_allocated()
        peak = lambda: max(most, torch.cuda.max_memory_allocated())  # noqa: E731
    return contest.Contestant(advance, parameters, f"torch {torch.__version__}", first=first, peak=peak)


def step_of(
    workload: contest.Workload, models: list[nn.Module], x: Tensor, y: Tensor, precision: Any, compiled: bool
) -> Step:
    """The step of the workload's models on inputs ``x`` and classes or targets ``y``; a loss may be compiled too."""
    if workload.model == "dcgan":
        return gan(*models, x, precision)
    if workload.model == "translator":
        return translation(models, (x, y), [adam(model.parameters()) for model in models], precision)
    (model,) = models
    if workload.model == "glimpse":
        return looking(model, x, y, adam(model.parameters()), torch.compile(losses) if compiled else losses, precision)
    return one_player(model, x, loss_of(workload, x, y, compiled), precision)


def captured(step: Step) -> Step:
    """The step as one CUDA graph: nothing is left for Python to do."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def loss_of(workload: contest.Workload, x: Tensor, y: Tensor, compiled: bool) -> Callable[[Any], Tensor]:
    """The loss of a model's outputs."""
    if workload.model == "autoencoder":
        return lambda outputs: F.mse_loss(outputs.float(), x)
    if workload.objects:
        loss = DetectionLoss(workload, y).to(x.device)
        return torch.compile(loss) if compiled else loss
    return lambda outputs: F.cross_entropy(outputs.float(), y)


def one_player(
    model: nn.Module, x: Tensor, loss_of_outputs: Callable[[Any], Tensor], precision: Callable[[], Any]
) -> Callable[[], Tensor]:
    """The step of a model other than the DCGAN."""
    optimizer = adam(model.parameters())

    def step() -> Tensor:
        optimizer.zero_grad()
        with precision():
            loss = loss_of_outputs(model(x))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def gan(g: nn.Module, d: nn.Module, x: Tensor, precision: Callable[[], Any]) -> Callable[[], Tensor]:
    """The step of the DCGAN: the discriminator's turn, then the generator's on fresh latents."""
    d_optimizer, g_optimizer = adam(d.parameters()), adam(g.parameters())

    def latents() -> Tensor:
        return torch.randn(x.shape[0], contest.LATENTS, device=x.device)

    def step() -> Tensor:
        d_optimizer.zero_grad()
        with precision():
            with torch.no_grad():
                fake = g(latents())
            loss = (F.softplus(-d(x).float()) + F.softplus(d(fake).float())).mean()
        loss.backward()
        d_optimizer.step()
        d.requires_grad_(False)
        g_optimizer.zero_grad()
        with precision():
            g_loss = F.softplus(-d(g(latents())).float()).mean()
        g_loss.backward()
        g_optimizer.step()
        d.requires_grad_(True)
        return loss.detach()

    return step


if __name__ == "__main__":
    options = contest.parser().parse_args()
    contest.serve(build, options, contest.workload_of(options))
