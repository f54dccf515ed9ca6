"""Sphinx directive ``options CLASS``: a configuration's fields as a table, read from jaxrec/settings.

The text is the field's docstring, so that a page says what ``--help`` says. ``:prefix:`` goes before the option's name;
``:python:`` is for what only Python can set.
"""

import inspect
from dataclasses import MISSING, fields
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from jaxrec import settings
from jaxrec.settings.options import options


def _default(value: Any) -> str:
    """The default as one would type it."""
    if value is MISSING:
        return "required"
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def rows(kind: type, prefix: str | None) -> list[str]:
    """A Markdown table row for each field that the class itself declares and a user may set."""
    table = []
    own = [field.name for field in fields(kind) if field.name in kind.__annotations__]
    for option in options(kind):
        name = option.name.removeprefix("--")
        # Nested settings have tables of their own, and the task's fields are another class's.
        if option.hidden or not option.help or name.replace("-", "_") not in own:
            continue
        # The command line cannot spell a list of records.
        python = prefix is None or option.records
        shown = f"`{name.replace('-', '_')}`" if python else f"`--{prefix}{name}`"
        if not python:
            shown = ", ".join([shown, *(f"`{alias}`" for alias in option.aliases)])
        text = option.help
        unnamed = [choice for choice in option.choices if choice not in text]
        if unnamed:
            text += f" One of {', '.join(f'`{choice}`' for choice in option.choices)}."
        escaped = text.replace("|", r"\|")
        table.append(f"| {shown} | {_default(option.value)} | {escaped} |")
    return table


class OptionTable(SphinxDirective):
    """The directive."""

    required_arguments = 1
    option_spec = {"prefix": directives.unchanged, "python": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Parses the table as Markdown."""
        kind = getattr(settings, self.arguments[0])
        prefix = None if "python" in self.options else self.options.get("prefix", "")
        self.env.note_dependency(inspect.getsourcefile(kind))
        lines = ["| option | default | meaning |", "|---|---|---|", *rows(kind, prefix)]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, kind.__name__), self.content_offset, container)
        return container.children


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("options", OptionTable)
    return {"parallel_read_safe": True}
