"""Terms that add up, as a figure: bars below one another, each from where the last one ended, and their sum at the bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from wellposed.core import drawing, formats
from wellposed.core.drawing import standalone
from wellposed.core.records import mapping, number_or_nan, part, rows, text
from wellposed.core.signs import escape_html

NAMES = {
    "floor": "floor",
    "regularization": "regularization",
    "capacity": "capacity",
    "charged": "terms and noise",
    "optimization": "optimization",
    "stopping": "stopping",
    "gap": "gap",
    "valid": "validation",
}
COLOURS = {"floor": drawing.REFERENCE, "gap": drawing.VALID, "valid": drawing.INK}
"""Of what is training cost, `draw.TRAIN`."""
ROW, ROOM = 27, 46
"""Height of a row, and of the axis with the room above."""
VALUES = 62
"""Width of the column of numbers on the right."""
NARROWEST = 0.012
"""Of the frame: a whisker below it would be nothing but its caps."""


@dataclass(frozen=True)
class WaterfallBar:
    """One bar: where it starts, how long it is, and where its end lies with certainty."""

    name: str
    start: float
    size: float
    low: float
    high: float

    @property
    def end(self) -> float:
        """Where the next bar starts."""
        return self.start + self.size

    @property
    def whisker(self) -> tuple[float, float] | None:
        """The ends of the interval, beside the end of the bar; None where it is not known."""
        ends = self.start + self.low, self.start + self.high
        return ends if all(math.isfinite(end) for end in ends) else None


def budget_bars(record: Any) -> list[WaterfallBar]:
    """The bars of a budget's record, in order; empty where it is damaged or does not add up."""
    apart = {text(one.get("name"), 40): one for one in rows(part(record, "apart"))}
    pieces: list[dict[str, Any]] = []
    for one in rows(part(record, "parts")):
        split = text(one.get("name"), 40) == "regularization" and {"capacity", "charged"} <= set(apart)
        pieces += [apart["capacity"], apart["charged"]] if split else [one]
    found: list[WaterfallBar] = []
    for one in (*pieces, mapping(part(record, "valid"))):
        numbers = (number_or_nan(one.get(key)) for key in ("estimate", "low", "high"))
        found.append(WaterfallBar(text(one.get("name"), 40), found[-1].end if found else 0.0, *numbers))
    if not pieces or not all(bar.name in NAMES and math.isfinite(bar.size) for bar in found):
        return []
    total = replace(found[-1], start=0.0)
    whole = abs(total.size - found[-1].start) <= 1e-6 * max(1.0, abs(total.size))
    return [*found[:-1], total] if whole else []


def waterfall_limits(
    several: Sequence[Sequence[WaterfallBar]], below: float = 0.25, above: float = 0.5, room: bool = False
) -> tuple[float, float]:
    """One frame for several waterfalls: from zero, or below it where a bar goes there; whiskers may not press bars together.

    Args:
        below, above: how far whiskers may stretch the frame, as shares of what the bars span.
        room: below zero, wherever the bars are.
    """
    ends = [end for steps in several for step in steps for end in (step.start, step.end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = high - low or 1.0
    whiskers = [end for steps in several for step in steps for end in step.whisker or ()]
    low, high = (
        min([low, *(max(end, low - below * span) for end in whiskers)]),
        max([high, *(min(end, high + above * span) for end in whiskers)]),
    )
    pad = 0.03 * (high - low)
    return (low - pad if room or low < 0 else 0.0), high + pad


def draw_waterfall(
    name: str, label: str, steps: Sequence[WaterfallBar], frame: tuple[float, float], lever: str = "",
    names: Mapping[str, str] = NAMES, colours: Mapping[str, str] = COLOURS, left: int = 112, constant: float = math.nan,
) -> str:  # fmt: skip
    """The terms below one another, each from where the last one ended, with its interval, and their sum at the bottom.

    Args:
        lever: the bar that is to be pulled first; its number is drawn in bold.
        names, colours: of the bars, by the steps' names; without a colour a bar has that of training cost.
        left: room for the names.
        constant: the loss of the best constant prediction, a dotted line where it lies inside the frame.
    """
    span = frame[1] - frame[0]
    decimals = min(max(formats.decimals_for(span / 4), 2), 6)

    def paint(axes: Any) -> None:
        for row, step in enumerate(steps):
            colour = colours.get(step.name, drawing.TRAIN)
            down = step.size < 0 and row + 1 < len(steps)
            axes.barh(
                row, step.size, left=step.start, height=0.54, color=drawing.PAPER if down else colour,
                edgecolor=colour, linewidth=1.2 if down else 0, alpha=0.62 if step.name == "capacity" else 1, zorder=2,
            )  # fmt: skip
            if abs(step.size) < span / 300:
                axes.vlines(step.start, row - 0.27, row + 0.27, color=colour, linewidth=2, zorder=2)
            if step.whisker is not None:
                _whisker(axes, row, step.whisker, frame)
            if row + 1 < len(steps):
                axes.vlines(step.end, row + 0.27, row + 0.73, color=drawing.MUTED, linewidth=1, zorder=1)
            write = formats.format_decimals if step.name == "valid" else formats.with_sign
            bold = step.name == lever or row + 1 == len(steps)
            axes.annotate(
                write(step.size, decimals), (1, row), xycoords=("axes fraction", "data"), xytext=(VALUES - 8, 0),
                textcoords="offset points", ha="right", va="center", color=drawing.INK, weight="bold" if bold else "normal",
            )  # fmt: skip
        axes.axhline(len(steps) - 1.5, color=drawing.LINE, linewidth=1, zorder=0)
        if frame[0] < constant < frame[1]:
            axes.axvline(constant, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        if frame[0] < 0:
            axes.axvline(0, color=drawing.MUTED, linewidth=1, zorder=0)
        drawing.named_rows(axes, [names[step.name] for step in steps])
        drawing.ticks(axes.xaxis, *frame, most=4)
        axes.set_xlim(*frame)

    return drawing.render_svg(name, label, ROOM + ROW * len(steps), paint, left=left, right=VALUES)


def budget_picture(record: Any, recipe: str) -> str:
    """The waterfall of an error budget's record as a figure of its own, SVG that is readable on white and on dark ground; empty
    where a loss is not finite.
    """
    steps = budget_bars(record)
    if not steps:
        return ""
    lever = lever_of(steps, next(iter(rows(part(record, "findings"))), {}))
    label = f"Error budget of {recipe}: {bars_in_words(steps, NAMES)}"
    return on_any_ground(draw_waterfall("error-budget", label, steps, waterfall_limits([steps]), lever))


def on_any_ground(svg: str) -> str:
    """The figure as a file of its own. What has the colour of the paper on a page (hollow bars, rims) is not painted, since the
    ground is not known."""
    return standalone(svg.replace("var(--card)", "none"))


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


def bars_in_words(steps: Sequence[WaterfallBar], names: Mapping[str, str]) -> str:
    return ", ".join(f"{names[step.name]} {formats.score(step.size)}" for step in steps)


def _whisker(axes: Any, row: int, ends: tuple[float, float], frame: tuple[float, float]) -> None:
    """A thin line with caps; what leaves the frame has no cap there."""
    low, high = max(ends[0], frame[0]), min(ends[1], frame[1])
    if high < frame[0] or low > frame[1] or high - low < NARROWEST * (frame[1] - frame[0]):
        return
    axes.hlines(row, low, high, color=drawing.PAPER, linewidth=3.2, zorder=3)
    axes.hlines(row, low, high, color=drawing.INK, linewidth=1.2, zorder=4)
    for end in ends:
        if frame[0] <= end <= frame[1]:
            axes.vlines(end, row - 0.12, row + 0.12, color=drawing.INK, linewidth=1.2, zorder=4)


def lever_of(steps: Sequence[WaterfallBar], finding: dict[str, Any]) -> str:
    """The bar whose size is the evidence of the first finding."""
    size = number_or_nan(part(finding, "evidence", "estimate"))
    return next((step.name for step in steps if step.name != "valid" and step.size == size), "")
