"""Which settings of a run differ from the defaults of its model, and the command that spells them."""

import shlex
from typing import Any, NamedTuple

from jaxrec.settings.options import Option, options
from jaxrec.settings.registry import file_of, preset
from jaxrec.settings.run import Train

APART = ("--model", "--name", "--runs", "--resume")
"""Options that say which run it is, not how it is made."""


class Change(NamedTuple):
    """A setting that differs from its default."""

    option: Option
    default: Any


def changes(config: Train) -> list[Change]:
    """The settings that a user may give and that differ from the defaults of the model; raises UserError for none."""
    defaults = {option.name: option.value for option in options(Train(task=preset(config.task.model)))}
    found = []
    for option in options(config):
        if option.hidden or option.name in APART:
            continue
        default = defaults.get(option.name)
        if option.value != default:
            found.append(Change(option, default))
    return found


def train_command(config: Train) -> str:
    """The command that trains a run with these settings; what only Python can spell is left out."""
    words = ["jaxrec", "train", "--model", config.task.model]
    file = file_of(config.task)
    if file is not None:
        words += ["--system", file]
    for change in changes(config):
        if not change.option.records and change.option.value is not None:
            words += _typed(change.option)
    return shlex.join(words)


def _typed(option: Option) -> list[str]:
    """An option with its value as one types it."""
    if isinstance(option.value, bool):
        start, dot, last = option.name.removeprefix("--").rpartition(".")
        return [option.name if option.value else f"--{start}{dot}no-{last}"]
    if isinstance(option.value, tuple):
        return [option.name, *map(str, option.value)]
    return [option.name, str(option.value)]
