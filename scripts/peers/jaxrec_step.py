"""jaxrec's own contestant: the step that the training command compiles. Run by scripts/benchmark.py."""

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

import contest
import jax
import numpy as np
import xla

import jaxrec
from jaxrec.run.initial import initializer
from jaxrec.run.world.devices import Devices
from jaxrec.settings import (
    GAN,
    RNN,
    Augment,
    Autoencoder,
    Classifier,
    Detector,
    Glimpse,
    Optimizer,
    Segmenter,
    Task,
    Translator,
)
from jaxrec.tasks.system import system_of


def config_of(workload: contest.Workload, images: Any, bf16: bool, width: float) -> Task:
    """The workload in jaxrec's settings."""
    optimizer = Optimizer("adam", contest.LEARNING_RATE, "constant", 0.0, momentum=contest.BETA1, beta2=contest.BETA2)
    mean, std = contest.moments(images)
    common = {"precision": "bf16" if bf16 else "f32", "average": 0.0, "optimizer": optimizer}
    if workload.model == "autoencoder":
        return Autoencoder(width=32, code=32, **common)
    if workload.model == "dcgan":
        settings = {"width": contest.GAN_WIDTH, "latents": contest.LATENTS, "conditional": False}
        return GAN(architecture="dcgan", loss="non-saturating", r1=0.0, r2=0.0, classes=10, **settings, **common)
    if workload.model == "translator":
        return translator(common)
    common |= {"classes": workload.classes, "mean": mean, "std": std}
    if workload.model == "glimpse":
        return glimpse(common)
    if workload.model == "detector":
        return Detector(width=contest.DETECTOR_WIDTH, bins=contest.BINS, augment=Augment(), **common)
    if workload.model == "rnn":
        return RNN(units=contest.UNITS, width=contest.RNN_WIDTHS[0], earlier=0, **common)
    if workload.model == "unet":
        return Segmenter(width=contest.UNET_WIDTH, depth=contest.UNET_DEPTH, **common)
    if workload.model in contest.SPEEDNET:
        widths, pooled = contest.SPEEDNET[workload.model]
        return Classifier(model="speednet", width=widths[1] / 256, stem="large" if pooled else "auto", **common)
    return Classifier(model=workload.model, width=width, **common)


def glimpse(common: dict[str, Any]) -> Task:
    """The recurrent attention model, without the CNN to compare with."""
    sizes = {"units": contest.UNITS, "width": contest.UNITS, "patch": contest.PATCH, "scales": 2}
    looks = {"looks": contest.LOOKS, "samples": contest.COPIES, "deviation": contest.DEVIATION}
    return Glimpse(core="gru", start="center", policy="reinforce", reward="end", cnn=False, **sizes, **looks, **common)


def translator(common: dict[str, Any]) -> Task:
    """The translation of pairs, without penalties."""
    sizes = {"width": contest.TRANSLATOR_WIDTH, "depth": contest.DEPTH}
    sizes |= {"discriminator_width": contest.TRANSLATOR_WIDTH, "halvings": contest.HALVINGS}
    return Translator(pairs="own", game="least-squares", norm="batch", pixel=contest.PIXEL, **sizes, **common)


def batch_of(workload: contest.Workload) -> dict[str, np.ndarray]:
    """The workload's batch in jaxrec's features."""
    images, label = contest.examples(workload)
    batch = {"label": label, "index": np.arange(len(label), dtype=np.int32)}
    if workload.masks:
        batch["mask"] = batch.pop("label")
    if workload.frames:
        return batch | {"clip": images, "length": np.full(len(label), workload.frames, np.int32)}
    if workload.objects:
        batch["boxes"] = contest.boxes(workload)
    if workload.model == "translator":
        batch["target"] = contest.targets(images)
    return batch | {"image": images}


def build(workload: contest.Workload, options: Any) -> contest.Contestant:
    """Compiles the step; with ``--runs``, of so many runs at once, each with a seed of its own."""
    jaxrec.tune_cpu(tune_allocator=options.tuned)
    config = config_of(workload, contest.examples(workload)[0], options.bf16, options.width)
    system, devices = system_of(config), Devices()
    batch = devices.share(batch_of(workload))
    if options.runs == 1:
        state = initializer(config, system, devices)(jax.random.key(0), batch)
        step = system.train_step
    else:
        keys = jax.random.split(jax.random.key(0), options.runs)
        state = jax.jit(jax.vmap(partial(system.init, config), (0, None)))(keys, batch)
        step = jax.vmap(system.train_step, (0, None))
    name = "discriminator_loss" if workload.model == "dcgan" else "loss"
    calls = contest.STEPS_A_CALL if options.several else 1

    def several(state: Any, batch: Any) -> tuple[Any, Any]:
        """The state after the steps of a call, and the metrics of each."""
        return jax.lax.scan(lambda state, _: step(state, batch), state, length=calls)

    forms = jaxrec.plain_forms() if options.plain else contextlib.nullcontext()
    with forms:
        lowered = jax.jit(step if calls == 1 else several, donate_argnums=0).lower(state, batch)
    with contest.turn(options):
        compiled = lowered.compile()
    metrics = None

    def advance(steps: int) -> float:
        nonlocal state, metrics
        is_first = metrics is None
        for _ in range(-(-steps // calls)):
            state, metrics = devices.finish(compiled(state, batch))
        loss = metrics[name]
        if calls > 1:
            # The first loss is compared with that of the others, who have made one step by then.
            loss = loss[0 if is_first else -1]
        return float(loss.mean())

    count = sum(leaf.size for player in state.players.values() for leaf in jax.tree.leaves(player.params))
    version = f"jaxrec {jaxrec.__version__}, jax {jax.__version__}"
    facts = xla.facts(compiled, options, "jaxrec")
    if calls > 1:
        # XLA does not say how often a loop is run.
        facts["bytes"] = None
    return contest.Contestant(advance, count // options.runs, version, steps=calls, **facts)


if __name__ == "__main__":
    parser = contest.parser()
    for axis, default in (("batch", 0), ("side", 0), ("runs", 1)):
        parser.add_argument(f"--{axis}", type=int, default=default)
    parser.add_argument("--width", type=float, default=1.0)
    options = parser.parse_args()
    workload = contest.workload_of(options)
    if options.side:
        workload = replace(workload, size=(options.side, options.side))
    contest.serve(build, options, replace(workload, batch=options.batch or workload.batch))
