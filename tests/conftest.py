"""Every test runs on eight simulated CPU devices, with strict promotion of dtypes.

On a machine with a GPU, ``JAXREC_TEST_ON=cuda python -m pytest ...`` runs tests there, on as many devices as there are.
"""

import gc
import os
from importlib.metadata import version

PLATFORM = os.environ.get("JAXREC_TEST_ON", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM if PLATFORM == "cpu" else f"{PLATFORM},cpu"
# Many test processes share the card, and each would take three quarters of its memory.
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
FLAGS = ["--xla_force_host_platform_device_count=8"]
if version("jaxlib").startswith("0.10."):
    # Without optimizations, this compiles in half the time.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
if PLATFORM != "cpu":
    # A GPU rounds what it multiplies to ten bits, and a TPU to seven, which no closed form forgives.
    jax.config.update("jax_default_matmul_precision", "highest")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from systems import SMALL, add_rows

import jaxrec
from jaxrec.cli.train import main
from jaxrec.errors import UserError
from jaxrec.run.store.checkpoints import Checkpoints
from jaxrec.run.store.leaves import to_host
from jaxrec.run.trained import load
from jaxrec.run.world.devices import Devices
from jaxrec.settings import registry

jaxrec.tune_cpu(tune_allocator=False)  # As the commands do. What is for plain operations says so by `plain_forms`.

ROOT = Path(__file__).parents[1]
TOO_FEW = ("Number of devices", "does not fit the")
"""Of what jax and jaxrec say of a mesh that is larger than the machine."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--system FILE`` adds the system of a file to those that the conformance suite runs."""
    parser.addoption("--system", metavar="FILE", help="a file with a system to run in tests/test_conformance.py")


def pytest_configure(config: pytest.Config) -> None:
    """Adds the rows before the tests are collected."""
    file = config.getoption("--system")
    if file is not None:
        add_rows(file)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skips what asks for more devices than there are; on a CPU there are eight."""
    try:
        yield
    except (ValueError, AssertionError, UserError) as error:
        if PLATFORM == "cpu" or not any(words in str(error) for words in TOO_FEW):
            raise
        pytest.skip(f"needs more than {jax.device_count()} devices: {error}")


@pytest.fixture(scope="module", autouse=True)
def systems_of_files_stay_in_their_module() -> Iterator[None]:
    """A system that one module's tests load from a file has a name and options that no other module's tests expect."""
    before = dict(registry._given)
    yield
    registry._given.clear()
    registry._given.update(before)


def surroundings(devices: int = 1, **changes: str) -> dict[str, str]:
    """The environment of a process that a test starts: so many CPU devices, programs compiled as quickly as here."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    quick = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **quick, **changes}


def small(model: str, *options: object) -> list[str]:
    """The arguments of a run of a few seconds; options given again hold."""
    given = {str(option) for option in options}
    usual = {"--steps": "6", "--batch-size": "64", "--eval-every": "3", "--log-every": "2"}
    arguments = [part for option, value in usual.items() if option not in given for part in (option, value)]
    return ["--model", model, *SMALL.get(model, []), "--no-tune-allocator", *arguments, *map(str, options)]


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All arrays of a run's latest checkpoint, by path."""
    state = load(run, Devices("data=1")).state
    with Checkpoints(run, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(state, checkpoints.latest())
    return to_host(state)


def same_arrays(run: Path, other: Path) -> bool:
    """Whether two runs' latest checkpoints hold the same numbers."""
    one, two = arrays(run), arrays(other)
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Asserts that two trees hold nearly the same arrays: of the same shapes and dtypes."""

    def check(a: Any, b: Any) -> None:
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=1.0))

    jax.tree.map(check, got, expected)


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Where float32 loses digits, as in derivatives of derivatives, forms are held to the plain operation in 64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def as_users_run_it() -> Iterator[None]:
    """Commands run outside the tests' strict promotion, under which optax's own Adam raises."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced believes that there is one device, as on most users' machines."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, shared by the files that use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """A file's programs are of no use to the next, and the garbage collector would look through all of them each time.

    Collected here, what they leave behind (Orbax's failed reads warn of it) is laid at no other file's door.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests compile thousands of programs of which each runs for milliseconds.

    A file whose tests are about compiled programs themselves says ``AS_COMPILED_FOR_USERS = True``.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", not getattr(request.module, "AS_COMPILED_FOR_USERS", False))
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of the given model on digits, trained in this process, once."""
    runs = tmp_path_factory.mktemp("runs")

    @cache
    def train(model: str) -> Path:
        with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
            patch.setenv("JAXREC_CACHE", str(runs / "cache"))
            assert main(small(model, "--runs", runs, "--name", model)) == 0
        return runs / model

    return train
