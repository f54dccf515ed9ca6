"""The training run, top to bottom: data, state, steps, and what is left in the run folder."""

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.data import Split, cache_dir
from jaxrec.errors import UserError, enough_memory
from jaxrec.run.evaluation import Evaluator, Interrupted, at_once, initializer, plain, scalars
from jaxrec.run.judge import judge_gan
from jaxrec.run.setup import (
    CompiledStep,
    Data,
    Watch,
    batches,
    check_same_data,
    compile_step,
    complete,
    open_data,
    steps_at_once,
    unharmed,
)
from jaxrec.run.show.log import Log, scores_line
from jaxrec.run.show.pictures import EVOLVING, save_artifacts
from jaxrec.run.show.report import write_report
from jaxrec.run.store import folder
from jaxrec.run.store.checkpoints import Checkpoints, hashes_of, split_state
from jaxrec.run.store.hashes import Hashes
from jaxrec.run.world import processes
from jaxrec.run.world.devices import Devices, fetch, keep_programs, tune_allocator
from jaxrec.run.world.stop import Stop
from jaxrec.settings import GAN, Autoencoder, Train, to_dict
from jaxrec.tasks import task_of
from jaxrec.tasks.state import State

INIT_EXAMPLES = 5000
"""Most training images shown to a model when it is initialised (speednet takes its whitening filters from them)."""
PICTURE_SECONDS = 10
"""Pictures that the next evaluation draws anew are written at most this often."""
PICTURE_EXAMPLES = 1000
"""Most images among which artifacts are looked for."""
VALIDATION_CODES = 10
"""Most codes drawn per validation image for a variational autoencoder's bound, which takes hours with hundreds."""


ROLLBACKS, ROLLBACK_FACTOR = 3, 0.5
"""How often --on-nonfinite rollback goes back, and what it multiplies the learning rates with each time."""


class NonFinite(UserError):
    """Step ``failed`` had a loss that is not finite, for the reason given."""

    def __init__(self, reason: str, failed: int) -> None:
        super().__init__(reason)
        self.failed = failed


def train(config: Train, kind: "Callable[..., Trainer] | None" = None) -> int:
    """Trains as configured; returns the process's exit code: 0, or 128 + the number of the signal that stopped it.

    A run that fails before its first checkpoint leaves no folder behind. ``kind`` makes the trainer: a ``Trainer``, or
    one of many runs at once.
    """
    began = time.perf_counter()
    processes.join(config)
    config = replace(config, coordinator=None, processes=None, process=None)
    if not jax.distributed.is_initialized():
        return _train(config, kind, began)
    go_on = "go on with --resume on the processes that are left, or on other ones"
    processes.leave_together(go_on)
    if kind is not None and processes.several():
        processes.abandon(UserError("many runs at once are trained by one process; give --processes 1"), go_on)
    try:
        return _train(config, kind, began)
    except BaseException as error:
        processes.abandon(error, go_on)


def _train(config: Train, kind: "Callable[..., Trainer] | None", began: float) -> int:
    if config.tune_allocator:
        tune_allocator()
    keep_programs(cache_dir() / "programs")
    if config.resume and not config.name:
        raise UserError("--resume goes on with the run that --name names; give --name")
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install 'jaxrec[tensorboard]'")
    resumed = folder.find(Path(config.runs) / str(config.name)) if config.resume else None
    if resumed is not None and (resumed / "members.json").exists():
        raise UserError(
            f"run '{resumed.name}' is a population, of which the best member alone was saved: it cannot be resumed; "
            "train again under another --name"
        )
    if resumed is not None:
        folder.refuse_links(resumed)
    devices = Devices(config.mesh)
    devices.check_batch(config.batch_size)
    data = open_data(config, trains=True)
    config = replace(complete(config, data), resume=False)
    same = {name: value for name, value in folder.settings(config).items() if name not in ("runs", "data_dir")}
    processes.agree({**same, "the data set": data.dataset.fingerprint, "jax": jax.__version__})
    if resumed is not None:
        folder.check_same(folder.read_config(resumed), config)
        if (resumed / "manifest.json").exists():  # else it was killed before it wrote any
            check_same_data(data, folder.read_dataset(resumed))
    trainer = (kind or Trainer)(config, data, devices)
    state = trainer.initial()
    trainer.run = run = resumed or Path(processes.by_first(lambda: str(folder.create(config))))
    trainer.config = replace(config, name=run.name)
    lock = processes.by_first(lambda: folder.lock(run))
    trainer.stop = stop = Stop()
    try:
        with enough_memory(), Checkpoints(run) as trainer.checkpoints:
            # A run that was killed before its first checkpoint begins again.
            if trainer.checkpoints.steps():
                read = partial(trainer.checkpoints.restore, state)
                _, (state, progress) = trainer.checkpoints.newest_whole(read)
                trainer.progress |= progress
            return trainer.train(state, began)
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        begun = any(path.name.isdigit() for path in (run / "checkpoints").glob("*"))
        if not begun and resumed is None and processes.first():
            shutil.rmtree(run, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        go_on = f"go on with --name {run.name} --runs {config.runs} --resume"
        again = "train again under another --name" if (run / "members.json").exists() else go_on
        advice = f"then {again if begun else 'start again'}"
        raise UserError(
            f"writing to run '{run}' failed ({error.strerror or error}); make room or give permission, {advice}"
        ) from error
    finally:
        stop.restore()
        if processes.first():
            os.close(lock)


class Trainer:
    """One run: holds what does not change from step to step."""

    run: Path
    stop: Stop
    checkpoints: Checkpoints
    hashes: Hashes
    """Of the state at the last logged step; every step that is evaluated or saved is logged before."""

    def __init__(self, config: Train, data: Data, devices: Devices) -> None:
        self.config, self.data, self.devices = config, data, devices
        self.task = task_of(config.task)
        self.evaluator = Evaluator(config.task, devices)
        self.draw = jax.jit(self.task.artifacts, out_shardings=devices.replicated)
        self.progress: dict[str, Any] = {"step": 0, "best": None, "waited": 0, "seconds": 0.0}
        self.progress |= {"skipped": 0, "unevaluated": False, "made_with": [], "went_back": []}
        self.pictured = -math.inf  # When all pictures were written last.
        self.evolving = True  # Whether some are written at every evaluation; known when they are first drawn.

    def initial(self) -> Any:
        """The state at step 0."""
        make = initializer(self.config.task, self.devices)
        return self.devices.finish(make(jax.random.key(self.config.seed), self._examples()))

    def _examples(self) -> dict[str, np.ndarray]:
        most = max(1, 2**24 // math.prod(self.data.train.image_shape))
        return self.data.train.read(np.arange(min(INIT_EXAMPLES, most, len(self.data.train))))

    def train(self, state: Any, began: float) -> int:
        """All steps from the state's on, then the figures on the test split; returns the exit code."""
        config, start = self.config, self.progress["step"]
        steps = config.steps or 0
        if start > steps:
            raise UserError(
                f"run '{self.run.name}' has made {start} steps already; give more than {steps} with --steps"
            )
        self.checkpoints.check_room(self._shown(state))
        run, unevaluated = self.run if processes.first() else None, self.progress["unevaluated"]
        with Log(run, steps, start, unevaluated=unevaluated, tensorboard=config.tensorboard) as log:
            # Only now, when the rows of steps that are made again are dropped.
            self._write_config()
            self._note_history()
            self._introduce(log, self._shown(state))
            clock = time.perf_counter()
            step = self._compile(state)
            compiling = time.perf_counter() - clock
            left = "no steps are left" if start == steps else f"training steps {start + 1} to {steps}"
            log.say(f"step compiled in {compiling:.1f} s; {left}")
            self.clock = time.perf_counter() - self.progress["seconds"]
            log.start_clock(start, config.batch_size)
            while True:
                try:
                    state = self._steps(log, state, step, self.progress["step"], steps)
                    break
                except NonFinite as failure:
                    state = self._go_back(log, failure)
            self.checkpoints.wait()
            if self.stop.signal is not None:
                log.say(f"stopped by {self.stop.signal.name} after step {self.progress['step']}, {self._saved()}")
                return 128 + self.stop.signal
            # All is saved: from here a signal ends the process at once, and a resumed run takes the figures.
            self.stop.at_once()
            seconds = {"compile": compiling, "train": time.perf_counter() - self.clock}
            self._finish(log, state, seconds, began)
        return 0

    def _note_history(self) -> None:
        """Writes down for `verify` what the steps from here on are made with, of what may change at a resume."""
        config, noted = self.config, self.progress["made_with"]
        settings = {"steps": config.steps, "on_nonfinite": config.on_nonfinite}
        settings["fuse_steps"] = steps_at_once(config, self.devices)
        if not noted or noted[-1][1] != settings:
            self.progress["made_with"] = [*noted, [self.progress["step"], settings]]
        if processes.first():
            history = {name: self.progress[name] for name in ("made_with", "went_back")}
            folder.write_json(self.run / "history.json", history)

    def _saved(self) -> str:
        again = f"python -m jaxrec.train --name {self.run.name} --runs {self.config.runs} --resume"
        return f"state saved; go on with: {again}"

    def _write_config(self) -> None:
        if processes.first():
            folder.write_json(self.run / "config.json", to_dict(self.config))

    def _shown(self, state: Any) -> State:
        """The state that checkpoints and pictures are of."""
        return state

    def _compile(self, state: Any) -> CompiledStep:
        _, batch = next(self._batches(0, self.config.steps or 0))
        return compile_step(self.config, self.data, self.devices, state, batch)

    def _batches(self, start: int, steps: int) -> Iterator[tuple[int, Any]]:
        """As ``batches``, on the devices."""
        before, shared = None, None
        for made, batch in batches(self.config, self.data, self.devices, self.config.seed, start, steps):
            if batch is not before:
                before, shared = batch, self.devices.share(batch)
            yield made, shared

    def _introduce(self, log: Log, state: State) -> None:
        """Says what is trained on what, and writes the manifest."""
        data, names = self.data, self.data.dataset.class_names
        parameters = sum(leaf.size for player in state.players.values() for leaf in jax.tree.leaves(player.params))
        sizes = {"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)}
        described = {
            "name": data.dataset.name,
            "fingerprint": data.dataset.fingerprint,
            "image_shape": data.dataset.image_shape,
            "class_names": names,
            "skipped": data.dataset.skipped,
            **sizes,
        }
        devices = self.devices.describe()
        if processes.first():
            folder.write_manifest(self.run, described, devices, parameters)
        log.say(f"{self.config.task.model} with {parameters:,} parameters on {', '.join(devices)}")
        if self.devices.mesh.size > 1:
            log.say(self.devices.describe_mesh(state))
        shape = "x".join(map(str, data.dataset.image_shape))
        where = "on the device" if data.resident else "streamed"
        log.say(
            f"{data.dataset.name}: {sizes['train']} training, {sizes['validation']} validation, {sizes['test']} test "
            f"images {shape} of {len(names)} classes, {where}"
            + (f"; {data.dataset.skipped} unreadable images left out" if data.dataset.skipped else "")
        )
        log.say(f"run folder {self.run}")

    def _steps(self, log: Log, state: Any, step: CompiledStep, start: int, steps: int) -> Any:
        """The loop, from step ``start`` to ``steps``.

        A logged step's metrics are fetched while later steps run, unless each ends first: see `tune_cpu` and
        `Devices.finish`.
        """
        config, waiting, self.skipped = self.config, None, self.progress["skipped"]
        watch = unharmed(self.devices, state)
        if self.progress["unevaluated"]:
            # The run was stopped in the middle of this evaluation, and its checkpoint has no score yet.
            self.hashes = jax.device_get(self.devices.finish(hashes_of(*split_state(state))))
            self._pause(log, start, state, evaluating=True, saving=True)
            if self.progress["unevaluated"]:
                return state
        for made, batch in self._batches(start, steps):
            if self._waited_enough():
                break
            with jax.transfer_guard("disallow"):
                state, watch, metrics = step(state, watch, batch)
            last = self.stop.due() or made == steps
            evaluating = made % (config.eval_every or 1) == 0 or made == steps
            saving = last or (config.save_every is not None and made % config.save_every == 0)
            if made % config.log_every == 0 or evaluating or saving:
                if waiting is not None:
                    self._log(log, *waiting)
                waiting = (made, metrics, *self._seen(state, watch))
            if (evaluating or saving) and waiting is not None:
                self._log(log, *waiting)
                waiting = None
            self.progress["step"] = made
            self._pause(log, made, state, evaluating=evaluating, saving=saving)
            if last or self.progress["unevaluated"]:
                break
        return state

    def _pause(self, log: Log, made: int, state: Any, *, evaluating: bool, saving: bool) -> None:
        """What is due between two steps."""
        score, self.progress["unevaluated"] = None, False
        with log.pause():
            try:
                score = self._evaluate(log, state, made) if evaluating else None
            except Interrupted:
                self.progress["unevaluated"] = True
            if evaluating or saving:
                self.progress["seconds"] = time.perf_counter() - self.clock
                self._save(made, state, score, may_wait=not saving and not self.progress["unevaluated"])

    def _save(self, made: int, state: Any, score: float | None, *, may_wait: bool) -> None:
        if not self.checkpoints.save(made, state, self.hashes, self.progress, score, may_wait=may_wait):
            self._give_up(f"the parameters are not finite after step {made}", made + 1)

    def _waited_enough(self) -> bool:
        return 0 < self.config.patience <= self.progress["waited"]

    def _check(self, watch: Watch) -> None:
        self.progress["skipped"] = self.skipped + int(watch.skipped)
        if watch.failed >= 0:
            self._give_up(f"the loss is not finite at step {watch.failed}", int(watch.failed))

    def _good(self, failed: int) -> int | None:
        """The checkpoint to go back to from a step that failed."""
        kept = self.checkpoints.steps()
        # The step before made the parameters that this one failed with: they are finite, and a last resort.
        good = [step for step in kept if step < failed - 1] or [step for step in kept if step < failed]
        return max(good, default=None)

    def _give_up(self, reason: str, failed: int, *, for_good: bool = False) -> None:
        if not for_good and self.config.on_nonfinite == "rollback" and self._rollbacks() < ROLLBACKS:
            raise NonFinite(reason, failed)
        unwritten = ""
        try:
            self.checkpoints.wait()
        except UserError as error:  # What ended the run is worth more than what followed from it.
            unwritten = f", and {error}"
        kept = self._good(failed)
        good = "no good checkpoint had been saved" if kept is None else f"the last good checkpoint is of step {kept}"
        count = self._rollbacks()
        tried = f", after {count} rollback{'s' * (count > 1)}" if count else ""
        raise UserError(
            f"{reason}{tried}; {good}{unwritten}: lower --optimizer.lr or set --optimizer.clip 1, and train under "
            "another --name"
        )

    def _go_back(self, log: Log, failure: NonFinite) -> State:
        """The state to go on from: the last good checkpoint's, or the first, with lower learning rates."""
        self.checkpoints.wait()
        first = state = self.initial()
        progress = {**self.progress, "step": 0, "best": None, "waited": 0, "unevaluated": False}
        progress["made_with"] = []
        good = self._good(failure.failed)
        self.checkpoints.drop_from(0 if good is None else good + 1)
        if self.checkpoints.steps():
            _, (state, progress) = self.checkpoints.newest_whole(partial(self.checkpoints.restore, first))
        step = progress["step"]
        self.progress |= {**progress, "went_back": [*self.progress["went_back"], step]}
        log.go_back(step)
        self._note_history()
        factor = ROLLBACK_FACTOR ** self._rollbacks()
        log.say(f"{failure}: back to step {step} with {factor:g} of the learning rate")
        return self._slowed(state, first, self._rollbacks())

    def _rollbacks(self) -> int:
        return len(self.progress["went_back"])

    def _slowed(self, state: State, first: State, rollbacks: int) -> State:
        """``state`` with the learning rates of the ``first`` one lowered as after so many rollbacks."""
        factor = ROLLBACK_FACTOR**rollbacks
        rates = {name: value * factor for name, value in first.hyper.items() if name.endswith("lr")}
        return state.replace(hyper=self.devices.copy({**state.hyper, **rates}))

    def _seen(self, state: Any, watch: Any) -> tuple[Any, Any]:
        """The watch, which the next step overwrites, and the hashes of the state, still on the devices."""
        return self.devices.finish(_copied_and_hashed(state, watch))

    def _log(self, log: Log, made: int, metrics: Any, watch: Watch, hashes: Hashes) -> None:
        metrics, watch, hashes = jax.device_get((metrics, watch, hashes))
        self._check(watch)
        skipped = {"skipped": self.progress["skipped"]} if self.config.on_nonfinite == "skip" else {}
        log.write(made, "train", scalars(metrics) | skipped, state=hashes.digest())
        self.hashes = hashes

    def _pictures(self, state: State, split: Split, step: int | None) -> None:
        recent = processes.by_first(lambda: time.monotonic() - self.pictured < PICTURE_SECONDS)
        if step is not None and recent and not self.evolving:
            return
        examples = split.read(np.arange(at_once(PICTURE_EXAMPLES, 2**22, split)))
        batch = self.devices.copy({**examples, "index": np.arange(len(examples["label"]), dtype=np.int32)})
        pictures = self.devices.finish(self.draw(state, batch))
        self.evolving = not pictures.keys().isdisjoint(EVOLVING)
        if step is not None and recent:
            pictures = {name: pictures[name] for name in EVOLVING if name in pictures}
        else:
            self.pictured = time.monotonic()
        if processes.first():
            pictures = jax.device_get(pictures)
            save_artifacts(self.run / "pictures", pictures, self.data.dataset.class_names, step)

    def _validated(self, state: State, split: Split) -> dict[str, float]:
        """The single figures on the validation split."""
        task = state.config
        if isinstance(task, Autoencoder):
            task = replace(task, eval_samples=min(task.eval_samples, VALIDATION_CODES))
        return scalars(self.evaluator(state.replace(config=task), split, self.stop.due))

    def _evaluate(self, log: Log, state: Any, made: int) -> float | None:
        """Figures and pictures on the validation split.

        Returns the figure that the best checkpoint has least of and that early stopping watches: the loss, and None
        for a gan, whose losses do not tell better from worse.
        """
        self._pictures(state, self.data.validation or self.data.train, made)
        if self.data.validation is None:
            return None
        metrics = self._validated(state, self.data.validation)
        log.write(made, "validation", metrics, state=self.hashes.digest())
        score, progress = metrics["loss"], self.progress
        if not math.isfinite(score):
            self._give_up(f"the loss on the validation split is not finite at step {made}", made)
        if progress["best"] is None or score < progress["best"] - self.config.min_delta:
            progress |= {"best": score, "waited": 0}
        else:
            progress["waited"] += 1
        return None if isinstance(self.config.task, GAN) else score

    def _test(self, log: Log, state: Any, step: int) -> dict[str, Any]:
        """Writes the figures on the test split and returns those of the state that is shown."""
        results = test_results(self.config, self.data, self.evaluator, state, step)
        if results["loss"] is None:
            self._give_up("the loss on the test split is not finite", step, for_good=True)
        if processes.first():
            folder.write_json(self.run / "results.json", results)
        log.say(f"test: {scores_line(results)}")
        return results

    def _finish(self, log: Log, state: Any, seconds: dict[str, float], began: float) -> None:
        """The figures on the test split, the pictures and the report."""
        step = self.progress["step"]
        if self.progress["skipped"]:
            log.say(f"{self.progress['skipped']} updates were left out, for they were not finite")
        if self.config.patience and (best := self.checkpoints.best()) != step:
            step = best
            state = self.checkpoints.restore_model(state, step)
            log.say(f"restored the best weights, of step {step}")
        results = self._test(log, state, step)
        self._pictures(self._shown(state), self.data.test, None)
        if not processes.first():
            return
        if "confusion" in results:
            matrix = {"confusion_matrix": {"matrix": np.asarray(results["confusion"])}}
            save_artifacts(self.run / "pictures", matrix, self.data.dataset.class_names, None)
        manifest = folder.read_json(self.run / "manifest.json")
        seconds["total"] = time.perf_counter() - began
        folder.write_json(self.run / "manifest.json", {**manifest, "seconds": seconds})
        report = write_report(self.run)
        log.say(f"{seconds['total']:.0f} s in all; read {report}")


@jax.jit
def _copied_and_hashed(state: State, watch: Watch) -> tuple[Watch, Hashes]:
    return jax.tree.map(lambda each: each + 0, watch), hashes_of(*split_state(state))


def test_results(config: Train, data: Data, evaluator: Evaluator, state: State, step: int) -> dict[str, Any]:
    """The figures on the test split as JSON data: split, examples, step, then each metric by name."""
    metrics = evaluator(state, data.test)
    if isinstance(config.task, GAN):
        state = fetch(state) if processes.several() else state
        metrics |= judge_gan(state, data, cache_dir()) if processes.first() else {}
    return {"split": config.test_split, "examples": len(data.test), "step": step, **plain(metrics)}
