"""The pages' templates and their one style. No torch is imported here, so that a page is there before anything is read."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from typing import Any

from wellposed.core import drawing, formats
from wellposed.core.errors import require

FILTERS: tuple[Callable[..., str], ...] = (
    formats.score, formats.count, formats.percent, formats.duration, formats.count_noun, formats.number_or_text,
)  # fmt: skip


def page(template: str, view: dict[str, Any], *filters: Callable[..., str]) -> str:
    """A page of this folder's template in the one style of all pages; every text of the view is escaped.

    Args:
        filters: what the template calls by name beside the formats of numbers.
    Raises:
        MissingExtra: jinja2 is not installed.
    """
    themes = {"theme": drawing.theme(), "paper": drawing.variables(drawing.PAPER_THEME), "font": drawing.FONT}
    found = environment(*filters).get_template(template)
    return str(found.render(**view, **{k: _safe(v) for k, v in themes.items()}))


def environment(*filters: Callable[..., str]) -> Any:
    """What renders the templates, with every text escaped."""
    jinja2 = require("jinja2", "report")
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({kind.__name__: kind for kind in (*FILTERS, *filters)})
    made.filters["drawn"] = _safe  # only what `drawing.drawn` made
    return made


def _safe(made: str) -> Any:
    """What was made here, and holds nothing of a user's."""
    return require("markupsafe", "report").Markup(made)


def _template(name: str) -> str:
    return importlib.resources.files("wellposed.reporting").joinpath(name).read_text(encoding="utf-8")
