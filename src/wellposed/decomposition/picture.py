"""How a notebook shows a measurement: its figure where one can be drawn, and the text that it prints.

Figures are drawn by `wellposed.reporting`, which lies above this folder and knows its classes. It is looked up by name when a
notebook asks, so that nothing here depends on it, or on what it needs.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from wellposed.core.signs import escaped


def shown(thing: Any, module: str) -> str:
    """HTML of a measurement: the figure of ``wellposed.reporting.<module>`` above the text, which is folded away then.

    Without matplotlib the text is all there is.
    """
    lines = "\n".join(map(escaped, str(thing).split("\n")))
    text = f"<pre>{lines}</pre>"
    if find_spec("matplotlib") is None:
        return text
    figure = import_module(f"wellposed.reporting.{module}").picture(thing)
    if not figure:
        return text
    return f'<div style="max-width: 560px">{figure}</div><details><summary>in numbers</summary>{text}</details>'
