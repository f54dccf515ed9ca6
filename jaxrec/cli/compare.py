"""jaxrec compare RUN RUN ...: runs side by side."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxrec.cli.arguments import parse
from jaxrec.errors import UserError
from jaxrec.run.store import folder
from jaxrec.settings import registry

if TYPE_CHECKING:
    from jaxrec.run.show.compare import Comparison

EXAMPLES = (
    "jaxrec compare runs/cnn-mnist-1 runs/cnn-mnist-2",
    "jaxrec compare runs/* --out comparison.html",
)


@dataclass(frozen=True)
class Compare:
    """Show runs side by side: settings that differ, test metrics, and curves laid over each other."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folders."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = "compare.html"
    """The page that is written."""
    system: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = field(default=None, kw_only=True)
    """Python file that defines the system of the runs, if they were trained with --system."""


def main(argv: list[str]) -> None:
    """Prints tables and writes a page."""
    options = parse(Compare, argv, "jaxrec compare", examples=EXAMPLES)
    if options.system is not None:
        registry.load_file(options.system)
    # The pattern runs/* also names the list of the runs.
    runs = [folder.find(run) for run in options.runs if Path(run).name != "index.html"]
    if len(runs) < 2:
        raise UserError(f"there is nothing to compare with: got {len(runs)}, expected two or more runs")
    from jaxrec.run.show.compare import compare, write_comparison

    found = compare(runs)
    out = Path(options.out)
    if not out.absolute().parent.is_dir():
        raise UserError(f"the folder of --out {options.out} does not exist; make it, or choose another place")
    write_comparison(found, out)
    _print(found)
    print(f"read {out}")


def _print(found: "Comparison") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from jaxrec.run.show.compare import commands

    console = Console(highlight=False)
    for title, rows in (("settings that differ", found.settings), ("test metrics", found.figures)):
        table = Table("", *map(escape, found.names), title=title)
        for number, row in enumerate(rows):
            cells = [Text(cell) for cell in row]
            best = found.best[number] if rows is found.figures else None
            if best is not None:
                cells[1 + best].stylize("bold green")
            table.add_row(*cells)
        console.print(table)
    for name, command in commands(found):
        console.print(f"{name}: {command}", markup=False, soft_wrap=True)
    for remark in found.remarks:
        console.print(remark, markup=False, soft_wrap=True)
