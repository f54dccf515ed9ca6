"""The ``jaxrec`` command: each subcommand is a module that parses, calls the library and prints."""

import importlib

from jaxrec.cli.running import run_command
from jaxrec.errors import UserError, nearest

COMMANDS = {
    "train": "train a system and leave a run folder",
    "evaluate": "compute the metrics of a run on its test split",
    "predict": "predict for images from disk with a trained run",
    "explain": "show which parts of images the answers of a run come from",
    "generate": "draw images from a trained generative model",
    "export": "write a trained run as a file that is used without jaxrec",
    "compress": "make a trained run smaller, as a new run",
    "serve": "answer for a trained run on a web page and as JSON",
    "sweep": "search hyper-parameters by training many runs at once",
    "inspect": "show the settings, parameters and checkpoints of a run",
    "compare": "show runs side by side",
    "verify": "repeat steps of a run and compare the states",
    "prepare": "download a data set and prepare it for training",
    "cache": "show what is kept between runs, or remove it",
    "plan": "estimate what a run needs, without data",
}
"""Each subcommand and what it does."""
MODULES = {"inspect": "show"}
"""Commands whose module has another name: a module called inspect would hide Python's own."""


def _help() -> str:
    lines = [f"  {name:<10}{does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxrec COMMAND ...",
            "",
            *lines,
            "",
            "jaxrec COMMAND --help lists the options of a command.",
            "jaxrec --completion bash|zsh|fish prints the tab completion of a shell.",
        ]
    )


def dispatch(argv: list[str]) -> int | None:
    """Runs the subcommand that the first argument names; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    command, *rest = argv
    if command == "--completion":
        from jaxrec.cli.completion import script

        print(script(rest))
        return 0
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command '{command}'{hint}")
    module = importlib.import_module(f"jaxrec.cli.{MODULES.get(command, command)}")
    return module.main(rest)


def main() -> None:
    """The entry point of the installed ``jaxrec`` command."""
    run_command(dispatch)
