"""What a run says of itself before its first step, and writes into its manifest."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxrec.data import class_names, pictured
from jaxrec.data.features import image_shape, to_json
from jaxrec.data.walk import counted
from jaxrec.metrics.meanings import MEANINGS
from jaxrec.optimizers import schedule
from jaxrec.run.data import Data
from jaxrec.run.initial import count_parameters
from jaxrec.run.session import Session
from jaxrec.run.show.log import Log
from jaxrec.run.store.listing import LEFT_OUT, Listed, write_examples, write_left_out
from jaxrec.run.store.manifest import write_manifest
from jaxrec.run.world import hardware, processes
from jaxrec.settings import Task, registry
from jaxrec.tasks.state import State
from jaxrec.tasks.system import System

BATCH = "A training batch as the model sees it, after augmentation."


def introduce(session: Session, log: Log, state: State) -> None:
    """Says what is trained on what, and writes the manifest."""
    parameters, devices = count_parameters(state), session.devices.describe()
    if processes.first():
        manifest = {
            "report": for_the_report(session.system, session.config.task),
            "parameters": parameters,
            "accelerators": session.devices.accelerators(),
            "machine": hardware.machine(),
        }
        write_manifest(session.folder, describe(session.data), devices, manifest)
    log.say(f"{session.config.task.model} with {parameters:,} parameters on {session.devices.describe_fully()}")
    if session.devices.mesh.size > 1:
        log.say(session.devices.describe_mesh(state))
    log.say(_data_line(session.data))
    for note in data_notes(session):
        log.say(note)
    for note in session.start_notes:
        log.say(note)
    log.say(f"run folder {session.folder}")
    changed = changed_schedule(session, state)
    if changed:
        log.say(changed)


def changed_schedule(session: Session, state: State) -> str:
    """Says that a resumed run of another length goes on with another learning rate; "" if it does not."""
    noted, step = session.progress.made_with, session.progress.step
    if len(noted) < 2 or noted[-1][0] != step:
        return ""
    before, now = noted[-2][1]["steps"], session.config.steps
    optimizer = session.config.task.optimizer
    rates = []
    for steps in (before, now):
        share = schedule(replace(optimizer, steps=steps), jnp.asarray(step, jnp.int32))
        rates.append(float(state.hyper["lr"] * share))
    if before == now or math.isclose(*rates, rel_tol=1e-3):
        return ""
    return (
        f"the schedule '{optimizer.schedule}' now ends at step {now}, not {before}: the learning rate goes on at "
        f"{rates[1]:.3g}, where it was {rates[0]:.3g}"
    )


def describe(data: Data) -> dict[str, Any]:
    """The data set as the manifest records it."""
    features = data.dataset.features
    return {
        "name": data.dataset.name,
        "fingerprint": data.dataset.fingerprint,
        "features": to_json(features),
        "image_shape": image_shape(features),
        "class_names": class_names(features),
        "left_out": len(data.dataset.left_out),
        "remarks": [*data.dataset.remarks, *data.remarks],
        "facts": data.facts,
        "train": len(data.train),
        "validation": 0 if data.validation is None else len(data.validation),
        "test": len(data.test),
    }


def for_the_report(system: System, task: Task) -> dict[str, Any]:
    """What the report has to know of a system under these settings: it is made from files alone."""
    commands = ["evaluate"]
    if system.rows is not None:
        commands.append("predict")
    if system.explained is not None:
        commands.append("explain")
    if system.can_generate(task):
        commands.append("generate")
    score = None if system.score is None else system.score._asdict()
    return {
        "headline": list(system.headline),
        "captions": {**system.captions, "batch": BATCH},
        "meanings": {name: each._asdict() for name, each in {**MEANINGS, **system.meanings}.items()},
        "evolving": list(system.evolving),
        "score": score,
        "commands": commands,
        "system": registry.file_of(task),
    }


def data_notes(session: Session) -> list[str]:
    """What was done to the data; writes the list of what was left out of them."""
    dataset = session.data.dataset
    notes = [*dataset.remarks, *session.data.remarks]
    if processes.first():
        write_left_out(session.folder, dataset.left_out)
        if dataset.files:
            write_examples(session.folder, listed(session.data))
    if dataset.left_out:
        notes.append(f"{counted(dataset.left_out)}; {session.folder / LEFT_OUT} names them")
    return notes


def listed(data: Data) -> list[Listed]:
    """Every example of a set of files, with its split, what it is used as and its class."""
    dataset = data.dataset
    roles = {}
    # Of an example in several splits, it is told that it was trained on.
    for role, split in {"test": data.test, "validation": data.validation, "train": data.train}.items():
        if split is None:
            continue
        for index in range(len(split)):
            roles[split.file(index)] = role
    names = class_names(dataset.features)
    splits: list[str] = []
    for name, size in dataset.sizes.items():
        splits += [name] * size
    classes = dataset.splits["test"].classes
    examples = []
    for row, (path, digest) in enumerate(zip(dataset.files, dataset.digests, strict=True)):
        label = "" if classes is None else names[classes[row]]
        examples.append(Listed(path, splits[row], roles.get(path, ""), label, digest))
    return examples


def _data_line(data: Data) -> str:
    features = data.dataset.features
    shape = "x".join(map(str, image_shape(features)))
    feature = pictured(features)
    what = "images" if feature.kind == "image" else f"clips of up to {feature.shape[0]} frames"
    validation = 0 if data.validation is None else len(data.validation)
    line = (
        f"{data.dataset.name}: {len(data.train)} training, {validation} validation, {len(data.test)} test "
        f"{what} {shape}"
    )
    names = class_names(features)
    if names:
        line += f" of {len(names)} classes"
    channels = image_shape(features)[2]
    if channels not in (1, 3):
        line += f" (pictures show {'the first three' if channels > 3 else 'the first'} of their {channels} channels)"
    line += ", on the device" if data.resident else ", streamed"
    return line
