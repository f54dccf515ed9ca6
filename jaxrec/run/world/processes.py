"""Several processes that train one model: how they join, what the first does for all, and how they end together."""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.errors import UserError
from jaxrec.settings import Train

T = TypeVar("T")
HEARTBEAT = 20
"""Seconds after which a process that is not heard of counts as ended."""
JOINING = 300
"""Seconds that a process waits for the others to be started."""
ENDING = 3600
"""Seconds that a process which is done waits for the others: the first one may train a judge and draw the report."""
OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""What other launchers leave there, of whom jax learns no address."""
LAUNCHERS = (
    ("SLURM_NTASKS", {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"}),
    ("OMPI_COMM_WORLD_SIZE", {"OMPI_MCA_orte_hnp_uri"}),
)
"""What srun and Open MPI's mpirun leave in the environment: the number of processes, and what jax needs besides."""


def _launched() -> bool:
    """Whether a launcher that jax knows has started this process as one of several."""
    return any(os.environ.get(count, "1") != "1" and others <= os.environ.keys() for count, others in LAUNCHERS)


def join(config: Train) -> None:
    """Makes this process one of those that train together, if the settings or the environment say that it is.

    Call it before jax computes anything. Raises UserError if the settings are incomplete or nobody answers.
    """
    if jax.distributed.is_initialized():  # by a launcher in Python, such as Ray's
        return
    if config.processes == 1:
        return
    given = (config.coordinator, config.processes, config.process)
    if given == (None, None, None) and not _launched():
        _refuse_other_launchers()
        return
    settings: dict[str, Any] = {}
    if config.coordinator not in (None, "auto"):
        settings = _coordinated(config)
    elif (config.processes, config.process) != (None, None):
        raise UserError("--processes and --process need --coordinator HOST:PORT; give the three together")
    try:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=JOINING,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=ENDING,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the processes did not come together ({reason}); check that all were started and reach "
            f"the first one (--coordinator {config.coordinator or 'HOST:PORT'}), or give --processes 1"
        ) from error


def _refuse_other_launchers() -> None:
    """Raises UserError if a launcher has started several processes and left no address."""
    for count in OTHER_LAUNCHERS:
        if os.environ.get(count, "1") != "1":
            raise UserError(
                f"{count} is {os.environ[count]}, but this launcher does not say where the processes meet; give "
                "--coordinator HOST:PORT, --processes and --process, or --processes 1 to train in each alone"
            )


def _coordinated(config: Train) -> dict[str, Any]:
    """What jax is told of processes that meet at a given address; raises UserError if the settings do not fit."""
    given = (config.coordinator, config.processes, config.process)
    host, _, port = str(config.coordinator).rpartition(":")
    if None in given or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            "--coordinator HOST:PORT, --processes N and --process I belong together, such as --coordinator "
            f"10.0.0.1:1234 --processes 2 --process 0; got {', '.join(map(str, given))}"
        )
    if not 0 <= (config.process or 0) < (config.processes or 0):
        raise UserError(
            f"--process {config.process} is none of --processes {config.processes}; "
            f"expected 0 to {(config.processes or 0) - 1}"
        )
    return {
        "coordinator_address": config.coordinator,
        "num_processes": config.processes,
        "process_id": config.process,
        "cluster_detection_method": "deactivate",
    }


def several() -> bool:
    """Whether more than one process trains; if this is the only one, asking starts no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes: the only one, or the first of several."""
    return not several() or jax.process_index() == 0


def share() -> tuple[int, int]:
    """(i, n): this process reads the i-th of n parts of each batch."""
    return (jax.process_index(), jax.process_count()) if several() else (0, 1)


def by_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, as JSON data, in every process.

    A UserError that it raises there is raised in every process. In a process that is alone this is ``make()``.
    """
    if not several():
        return make()
    answer: dict[str, Any] = {}
    if first():
        try:
            answer = {"value": make()}
        except UserError as error:
            answer = {"error": str(error)}
    said = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(_firsts(np.array(len(said), np.int32)))
    said = _firsts(np.resize(said, length))
    answer = json.loads(said.tobytes())
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def arrays_by_first(tree: Any) -> Any:
    """The first process's numpy arrays in every process, which gives arrays of the same shapes."""
    if not several():
        return tree

    def firsts(x: np.ndarray) -> np.ndarray:
        # As bytes: they are added up with zeros, which would make 0.0 of -0.0.
        return np.frombuffer(_firsts(np.frombuffer(x.tobytes(), np.uint8)).tobytes(), x.dtype).reshape(x.shape)

    return jax.tree.map(firsts, tree)


def summed(counts: np.ndarray) -> np.ndarray:
    """The sum over all processes of integers."""
    if not several():
        return counts
    # As bytes, because jax would make them numbers of 32 bits.
    pieces = _exchanged(np.frombuffer(counts.astype(np.int64).tobytes(), np.uint8), _all)
    return np.sum([np.frombuffer(piece.tobytes(), np.int64).reshape(counts.shape) for piece in pieces], axis=0)


def _firsts(x: np.ndarray) -> np.ndarray:
    return _exchanged(x if first() else np.zeros_like(x), _total)


def _total(each: jax.Array) -> jax.Array:
    return each.sum(0, dtype=each.dtype)


def _all(each: jax.Array) -> jax.Array:
    return each


def _exchanged(x: np.ndarray, combine: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """``combine`` of every process's x, stacked; in every process, when all of its devices have it.

    jax's own exchanges (``multihost_utils``) end with the process's first device: see `Devices.finish`.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices).reshape(jax.process_count(), -1), ("process", "device"))
    each = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), x[None])
    combined = jax.jit(combine, out_shardings=NamedSharding(mesh, PartitionSpec()))(each)
    return np.asarray(jax.block_until_ready(combined).addressable_data(0))


def agree(what: dict[str, Any]) -> None:
    """Raises UserError in a process for which ``what``, by name, is not what it is in the first."""
    if not several():
        return
    theirs = by_first(lambda: what)
    for name, value in json.loads(json.dumps(what)).items():
        if theirs.get(name) != value:
            raise UserError(
                f"in process {jax.process_index()} {name} is {value!r:.60}, in the first {theirs.get(name)!r:.60}; "
                "start all processes with the same options, data and versions"
            )


def end_on_sigterm() -> None:
    """Lets SIGTERM end this process, one of several, at once; jax's preemption service would keep it to itself."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def abandon(error: BaseException, go_on: str) -> NoReturn:
    """Ends this process, one of several, over an error, and says which; jax then ends the others.

    It ends at once, because an orderly end would wait for the others, which may wait for this one.
    """
    code = 2
    if isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    elif isinstance(error, jax.errors.JaxRuntimeError):
        reason = str(error).strip().splitlines()[0][:200]
        print(f"jaxrec: another process of this run has ended ({reason}); {go_on}", file=sys.stderr, flush=True)
    elif isinstance(error, UserError):
        print(f"jaxrec: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
        code = 1
    os._exit(code)


GO_ON = "resume with --resume on the processes that are left, or on other ones"


@contextlib.contextmanager
def together(members: bool) -> Iterator[None]:
    """Ends this process at once over an error inside, if it is one of several that train together.

    ``members``: many runs are trained at once, which one process does alone; several end in a sentence.
    """
    if not jax.distributed.is_initialized():
        yield
        return
    try:
        if members and several():
            raise UserError("many runs at once are trained by one process; give --processes 1")
        yield
    except BaseException as error:
        abandon(error, GO_ON)
