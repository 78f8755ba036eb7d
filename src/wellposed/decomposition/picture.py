"""How a notebook shows a measurement: its figure where one can be drawn, and the text that it prints."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from wellposed.core.signs import escape_html


def figure_html(text: str, draw: Callable[[], str]) -> str:
    """HTML of a measurement: its figure above its text, which is folded away then. Without matplotlib the text is all there is.

    Args:
        text: what ``print`` shows.
        draw: gives the figure as SVG, or an empty string where there is nothing to draw.
    """
    lines = "\n".join(map(escape_html, text.split("\n")))
    printed = f"<pre>{lines}</pre>"
    if find_spec("matplotlib") is None or not (figure := draw()):
        return printed
    return f'<div style="max-width: 560px">{figure}</div><details><summary>in numbers</summary>{printed}</details>'
