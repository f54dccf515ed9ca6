"""Sphinx directive ``options CLASS``: a configuration's fields as a table, read from jaxrec/settings.

The text is the field's docstring, so that a page says what ``--help`` says. ``:prefix:`` goes before the option's name;
``:python:`` is for what only Python can set.
"""

import ast
import inspect
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from jaxrec import settings


@cache
def field_docs() -> dict[tuple[str, str], str]:
    """The docstring below each field, by the names of class and field; fields without one are left out."""
    sources = [path.read_text("utf-8") for path in Path(settings.__file__).parent.glob("*.py")]
    classes = [node for text in sources for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return {
        (each.name, field.target.id): text.value.value
        for each in classes
        for field, text in zip(each.body, each.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _default(field: Field, nested: bool) -> str:
    """The default as one would type it."""
    value = field.default
    if value is MISSING:
        return "" if nested else "required"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def rows(kind: type, prefix: str | None) -> list[str]:
    """A Markdown table row for each field that the class itself declares and a user may set."""
    hints = get_type_hints(kind, include_extras=True)
    table = []
    for field in fields(kind):
        hint, doc = hints[field.name], field_docs().get((kind.__name__, field.name))
        suppressed = any("Suppress" in repr(each) for each in getattr(hint, "__metadata__", ()))
        if doc is None or suppressed or field.name not in kind.__annotations__:
            continue
        inner = [each for each in get_args(hint) if each is not Ellipsis]
        choices = get_args(inner[0]) if inner and get_origin(inner[0]) is Literal else ()
        choices = get_args(hint) if get_origin(hint) is Literal else choices
        # The command line cannot spell a list of records.
        python = prefix is None or any(is_dataclass(each) for each in inner)
        name = f"`{field.name}`" if python else f"`--{prefix}{field.name.replace('_', '-')}`"
        listed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        text = " ".join((doc + listed).split()).replace("|", r"\|")
        table.append(f"| {name} | {_default(field, is_dataclass(hint))} | {text} |")
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
