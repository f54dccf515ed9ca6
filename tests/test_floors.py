"""The floors of the library: what may import what, and who may name a system."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxrec.settings import registry

PACKAGE = Path(__file__).parents[1] / "jaxrec"
FLOORS = (
    ("errors", "files", "waiting"),
    ("settings",),
    ("data", "weights"),
    ("augment", "boxes", "environments", "losses", "metrics", "models", "optimizers", "parallel"),
    ("tasks", "host"),
    ("after",),
    ("run",),
    ("cli",),
    ("train", "__main__"),
)
"""From the lowest to the highest; a module imports from its own floor and those below."""
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
PURE = ("augment", "boxes", "environments", "losses", "metrics", "models", "optimizers", "parallel", "tasks", "after")
WORLD = {"io", "logging", "os", "pathlib", "random", "shutil", "socket", "subprocess", "tempfile", "threading", "time"}
"""Modules by which code reads a clock, opens a file or keeps something that is global."""
CONFIGS = "|".join(rf"\b{module.Config.__name__}\b" for module in registry.own().values())
SYSTEMS = rf"{CONFIGS}|isinstance\(.*\.task|class_consistency|worst_class|confusion|miou|psnr|map50"
"""Names that only a system's own files know."""


def sources(*rooms: str) -> list[Path]:
    found = []
    for room in rooms:
        found += sorted((PACKAGE / room).rglob("*.py"))
        if (PACKAGE / f"{room}.py").exists():
            found.append(PACKAGE / f"{room}.py")
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, also those inside functions and for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = str(node.module)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_floor():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("room", LEVEL)
def test_a_floor_imports_from_below(room):
    upward = []
    for path in sources(room):
        for module in imports(path):
            package, _, rest = module.partition(".")
            there = rest.partition(".")[0]
            if package == "jaxrec" and LEVEL.get(there, 0) > LEVEL[room]:
                upward.append((str(path.relative_to(PACKAGE)), module))
    assert upward == []


def test_pure_floors_do_not_touch_the_world():
    touching = []
    for path in sources(*PURE):
        touching += [(path.name, module) for module in imports(path) if module.partition(".")[0] in WORLD]
    assert touching == []


def test_only_a_systems_own_files_name_it():
    naming = []
    for path in sources("run", "data", "cli"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if re.search(SYSTEMS, line):
                naming.append(f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}")
    assert naming == []


@pytest.mark.parametrize(
    "module, brought", [("jaxrec", set()), ("jaxrec.settings", {"docstring_parser", "typing_extensions", "tyro"})]
)
def test_importing_starts_nothing(module, brought):
    """``import jaxrec`` brings in nothing but itself; settings and ``--help`` do without jax."""
    script = f"""
import sys
before = set(sys.modules)
import {module}
print(*(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert "jaxrec" in packages
    assert packages - {"jaxrec"} - sys.stdlib_module_names <= brought


def test_public_names_are_imported_when_they_are_used():
    script = (
        "import sys, jaxrec; jaxrec.fit; print('jax' in sys.modules, sorted(set(jaxrec._LATER) - set(dir(jaxrec))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "[]"]
