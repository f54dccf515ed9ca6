"""Settings of the documentation: sphinx-build -W -b html docs docs/_build."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import jaxrec  # noqa: E402

project = "jaxrec"
author = "the jaxrec authors"
version = release = jaxrec.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "option_tables",
    "public_names",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# A word before a colon, or in an option's placeholder, is looked up as a type, and several classes may have that name.
suppress_warnings = ["ref.python"]

autodoc_default_options = {"members": True, "special-members": "__call__"}
autodoc_member_order = "bysource"
# A method documents itself: what a base class says would pass for it.
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_title = f"jaxrec {release}"


def _escape_bars(app, what, name, obj, options, lines) -> None:
    """Docstrings write norms and conditions with bars, which reStructuredText would take for substitutions."""
    lines[:] = [re.sub(r"(?<!\\)\|", r"\\|", line) if "``" not in line else line for line in lines]


def _hide_linen_fields(app, what, name, obj, options, signature, returns) -> tuple[str | None, str | None]:
    """Every Linen module's last two arguments are Flax's own."""
    return re.sub(r", parent(:[^=]*)?=\s*<.*$", ")", signature) if signature else signature, returns


def _skip_generated(app, what, name, obj, skip, options) -> bool | None:
    """``replace`` is what Flax gives every state, and ``dtype`` what Linen modules share."""
    return True if name in ("replace", "dtype") else None


def setup(app) -> None:
    """Connects the corrections above."""
    app.connect("autodoc-skip-member", _skip_generated)
    app.connect("autodoc-process-docstring", _escape_bars)
    app.connect("autodoc-process-signature", _hide_linen_fields)
