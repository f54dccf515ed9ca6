"""What a run writes when it begins and when it ends: settings, history, metrics on the test split, pictures, report."""

import shlex
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxrec.data import class_names
from jaxrec.run.data import Data
from jaxrec.run.evaluation import Evaluator, plain
from jaxrec.run.feed import steps_per_call
from jaxrec.run.introduction import for_the_report
from jaxrec.run.measures import measured
from jaxrec.run.observers import Evaluation, check_finite
from jaxrec.run.session import Session
from jaxrec.run.show.figures import scores
from jaxrec.run.show.index import write_index
from jaxrec.run.show.log import Log
from jaxrec.run.show.pictures import save_artifacts
from jaxrec.run.show.report import write_report
from jaxrec.run.store import folder
from jaxrec.run.store.manifest import write_history
from jaxrec.run.world import processes
from jaxrec.run.world.devices import fetch
from jaxrec.settings import to_dict
from jaxrec.tasks.state import State


def write_config(session: Session) -> None:
    """Writes the settings into the run's folder."""
    if processes.first():
        folder.write_json(session.folder / "config.json", to_dict(session.config))


def note_history(session: Session) -> None:
    """Writes down for ``verify`` what the steps from here on are made with, of what may change at a resume."""
    config, noted = session.config, session.progress.made_with
    settings = {
        "steps": config.steps,
        "on_nonfinite": config.on_nonfinite,
        "fuse_steps": steps_per_call(config, session.devices),
    }
    if not noted or noted[-1][1] != settings:
        session.progress.made_with = [*noted, [session.progress.step, settings]]
    if processes.first():
        write_history(session.folder, session.progress.made_with)


def finish(
    session: Session, log: Log, evaluation: Evaluation, state: State, seconds: dict[str, float]
) -> tuple[State, dict[str, Any]]:
    """The best parameters if the run has patience, the metrics on the test split, the last pictures, and the report.

    ``evaluation`` has compiled what evaluates and draws. Returns the state and the metrics.
    """
    step = session.progress.step
    if session.progress.skipped:
        log.say(f"skipped {session.progress.skipped} updates with non-finite values")
    best = session.checkpoints.best()
    if session.config.patience and best is not None and best != step:
        step = best
        state = session.checkpoints.restore_model(state, step)
        log.say(f"restored the best parameters, of step {step}")
    results = tested(evaluation.evaluator, state, session.data, session.config.test_split, step)
    check_finite(session, results, "test", step)
    if processes.first():
        folder.write_json(session.folder / "results.json", results)
    figures = {name: value for name, value in results.items() if name not in ("examples", "step")}
    facts, names = for_the_report(session.system, session.config.task), class_names(session.data.dataset.features)
    shown = scores(figures, facts, names)
    log.results(f"{results['split']}, {results['examples']} examples, step {step}:", shown, figures)
    if best is not None and processes.first():
        log.say(best_line(session, best, step))
    evaluation.pictures.last(state, worst_of(results))
    log.pictures(step)
    conclude(session, log, results, seconds)
    return state, results


def best_line(session: Session, best: int, tested_step: int) -> str:
    """Says which checkpoint is the best on the validation split, and how to use it if another was tested."""
    score = session.system.score
    assert score is not None
    least = session.checkpoints.scores[best]
    value = least if score.lower else -least
    line = f"best checkpoint: step {best}, validation {score.name} {value:.4g}"
    if best == tested_step:
        return line
    command = shlex.join(["jaxrec", "evaluate", str(session.folder), "--checkpoint", "best"])
    return f"{line}; the test metrics are of step {tested_step}, those of the best: {command}"


def tested(evaluator: Evaluator, state: State, data: Data, split: str, step: int) -> dict[str, Any]:
    """The metrics on the test split as JSON data: split, examples, step, then each metric by name."""
    system, metrics = evaluator.system, evaluator(state, data.test)
    if system.measures:
        state = fetch(state) if processes.several() else state
        if processes.first():
            metrics |= measured(system, state, data)
    return {"split": split, "examples": len(data.test), "step": step, **plain(metrics)}


def worst_of(results: Mapping[str, Any]) -> np.ndarray | None:
    """Number and loss of the worst examples [K, 2]; None if the system does not say."""
    # JSON has no infinity, which is the loss of those whose loss is no number.
    return np.array(results["worst"], float) if "worst" in results else None


def conclude(session: Session, log: Log, results: dict[str, Any], seconds: dict[str, float]) -> None:
    """Draws what sums up the results, notes how long the run took, and writes the report."""
    if not processes.first():
        return
    pictures = session.system.summary_pictures(results)
    names = class_names(session.data.dataset.features)
    save_artifacts(session.folder / "pictures", jax.device_get(pictures), names, None)
    manifest = folder.read_json(session.folder / "manifest.json")
    seconds["total"] = time.perf_counter() - session.began
    folder.write_json(session.folder / "manifest.json", {**manifest, "seconds": seconds})
    report = write_report(session.folder)
    try:
        write_index(session.folder.parent)
    except OSError as error:  # The run is whole without it.
        log.say(f"the list of runs, index.html, cannot be written ({error.strerror})")
    log.say(f"{seconds['total']:.0f} s in all")
    log.say(f"read {report}")
