"""The arguments shared by the commands that open a run: its folder, the file of its system, the checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.settings import registry

Opened = TypeVar("Opened", bound="OpenedRun")


@dataclass(frozen=True)
class OpenedRun:
    """A command that opens a run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    system: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = field(default=None, kw_only=True)
    """Python file that defines the system of the run, if it was trained with --system."""


@dataclass(frozen=True)
class OpenedModel(OpenedRun):
    """A command that opens a run and uses its trained parameters."""

    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="latest|best|STEP")] = field(default=None, kw_only=True)
    """Checkpoint to use: latest, best on the validation split, or a step. Default: latest, or best if the run had
    --patience."""


def read_options(kind: type[Opened], argv: Sequence[str], program: str, examples: Sequence[str] = ()) -> Opened:
    """The command's options; the system that they name is registered, so that the run's settings can be read."""
    options = parse(kind, argv, program, examples=examples)
    if options.system is not None:
        registry.load_file(options.system)
    return options
