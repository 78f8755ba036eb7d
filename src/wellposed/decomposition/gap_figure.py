"""The visible gap as a figure: the true gap, what each thing that training adds makes of it, and the gap that a loop shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wellposed.core import drawing
from wellposed.decomposition.waterfall import WaterfallBar, bars_in_words, draw_waterfall, on_any_ground

NAMES = {
    "generalization": "true gap",
    "averaging": "averaged weights",
    "batch_norm": "batch norm",
    "dropout": "dropout, noise inside",
    "inputs": "mixing, noise of inputs",
    "smoothing": "label smoothing",
    "penalty": "penalty",
    "moving": "weights that moved",
    "unseen": "what is not seen",
    "visible": "visible gap",
}
COLOURS = {"generalization": drawing.VALID, "visible": drawing.INK}
LEFT = 152
"""Room for the longest name."""


ShareNumbers = tuple[str, float, float, float]
"""A share of the gap: its name, its estimate, and the ends of its interval."""


def gap_bars(shares: Sequence[ShareNumbers], visible: float) -> list[WaterfallBar]:
    """The true gap, the shares from the inside out, and their sum, the visible gap.

    That is the order of the table turned around: a reader begins with what is so, and sees what is laid upon it.
    """
    steps: list[WaterfallBar] = []
    start = 0.0
    for name, estimate, low, high in reversed(shares):
        steps.append(WaterfallBar(name, start, estimate, low, high))
        start = steps[-1].end
    return [*steps, WaterfallBar("visible", 0.0, visible, math.nan, math.nan)]


def gap_picture(shares: Sequence[ShareNumbers], visible: float) -> str:
    """The waterfall of a visible gap as a figure of its own: SVG that is readable on white and on dark ground; empty where a
    loss is not finite.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    steps = gap_bars(shares, visible)
    if not all(math.isfinite(step.size) for step in steps):
        return ""
    label = f"What the visible gap is made of: {bars_in_words(steps, NAMES)}"
    return on_any_ground(
        draw_waterfall("gap-split", label, steps, gap_frame(steps), "generalization", NAMES, COLOURS, LEFT)
    )


def gap_frame(steps: Sequence[WaterfallBar]) -> tuple[float, float]:
    """Around zero and all bars, and their intervals as far as those do not press the bars together."""
    ends = [end for step in steps for end in (step.start, step.end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = high - low or 1.0
    whiskers = [end for step in steps for end in step.whisker or ()]
    inside = [min(max(end, low - span), high + span) for end in whiskers]
    low, high = min([low, *inside]), max([high, *inside])
    return low - 0.03 * (high - low), high + 0.03 * (high - low)
