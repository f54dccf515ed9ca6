"""jaxrec --completion SHELL: a script by which bash, zsh or fish complete commands, options and their choices."""

import importlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jaxrec.cli import COMMANDS, MODULES
from jaxrec.cli.training_arguments import listed
from jaxrec.errors import UserError, nearest
from jaxrec.settings import Train, models, preset
from jaxrec.settings.options import Option, options

HOW = {
    "bash": 'eval "$(jaxrec --completion bash)"',
    "zsh": 'eval "$(jaxrec --completion zsh)"',
    "fish": "jaxrec --completion fish | source",
}
"""The line in a shell's start-up file that turns completion on."""

BASH = """# Tab completion of jaxrec. In the start-up file of {shell}: {how}
{before}_jaxrec() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $previous" in
{choices}
      *) case "${{COMP_WORDS[1]}}" in
{options}
      esac;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _jaxrec jaxrec"""
"""Where nothing fits, bash completes file names (``-o default``)."""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def script(arguments: Sequence[str]) -> str:
    """The script for the shell that the arguments name; raises UserError if they name none."""
    shell = arguments[0] if arguments else ""
    if shell not in HOW:
        raise UserError(f"--completion '{shell}' is no shell; expected {', '.join(HOW)}{nearest(shell, HOW)}")
    return "\n".join(_fish()) if shell == "fish" else _bash(shell)


def command_options(command: str) -> dict[str, Option]:
    """The options that may be typed after a command, by name; those of every model if it takes ``--model``."""
    module = importlib.import_module(f"jaxrec.cli.{MODULES.get(command, command)}")
    kind = getattr(module, command.capitalize(), None)
    if kind is None:
        return {}
    found = list(options(kind))
    if issubclass(kind, Train):
        known = {model: preset(model) for model in models()}
        found += listed(Train().task)
        for task in known.values():
            found += options(replace(kind(), task=task))
    typed = [option for option in found if not (option.hidden or option.positional or option.records)]
    return {option.name: option for option in typed}


def _choices(option: Option) -> Sequence[str]:
    return models() if option.name == "--model" else option.choices


def _bash(shell: str) -> str:
    choices, names = [], []
    for command in COMMANDS:
        known = command_options(command)
        names.append(f'      {command}) words="{" ".join(known)} --help";;')
        for option in known.values():
            if _choices(option):
                choices.append(f'      "{command} {option.name}") words="{" ".join(_choices(option))}";;')
    return BASH.format(
        shell=shell,
        how=HOW[shell],
        before=ZSH if shell == "zsh" else "",
        commands=" ".join(COMMANDS),
        choices="\n".join(choices),
        options="\n".join(names),
    )


def _fish() -> Iterator[str]:
    yield f"# Tab completion of jaxrec. In the start-up file of fish: {HOW['fish']}"
    for command, does in COMMANDS.items():
        yield f"complete -c jaxrec -n __fish_use_subcommand -f -a {command} -d {shlex.quote(does)}"
        for option in command_options(command).values():
            line = f"complete -c jaxrec -n '__fish_seen_subcommand_from {command}' -l {option.name.removeprefix('--')}"
            if _choices(option):
                line += f" -x -a {shlex.quote(' '.join(_choices(option)))}"
            elif option.hint is not bool:
                line += " -r"
            yield line
