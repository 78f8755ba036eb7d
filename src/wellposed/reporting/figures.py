"""The figures of the page: inline SVG whose colours are the page's CSS variables, so that they follow its theme.

Every word inside a figure is one of ours or a number: names that a user chose stand in the HTML around it, where they
are escaped. Figures are small, so that they stay legible on a phone and stand side by side on a desk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wellposed.core import drawing
from wellposed.core.formats import format_decimals, score
from wellposed.core.records import finite_numbers

MOST_POINTS = 300  # of a curve; more are thinned out, the chosen epoch kept


@dataclass(frozen=True)
class Curve:
    """One side of a history: where the epochs lie, the values, and their standard errors (NaN where unknown)."""

    epochs: Sequence[float]
    values: Sequence[float]
    se: Sequence[float]


class Mark(NamedTuple):
    """A value in a figure: how it is called and which meaning's colour it has."""

    label: str
    value: float
    colour: str


def common_limits(groups: Sequence[Sequence[float]], needed: Sequence[float]) -> tuple[float, float]:
    """One frame for several groups, each with its own bulk inside: a long history does not crowd out a short one."""
    bulks = [drawing._bulk(group) for group in groups if finite_numbers(list(group))]
    ends = [end for bulk in bulks for end in bulk] + finite_numbers(list(needed))
    return drawing._padded(min(ends), max(ends), 0.07) if ends else (0.0, 1.0)


def curves(name: str, label: str, train: Curve, valid: Curve, chosen: int, frame: tuple[float, float]) -> str:
    """Training (dashed) and validation (solid) against the epoch, with one standard error, the chosen epoch marked."""

    def paint(axes: Any) -> None:
        for curve, colour, dashes in ((train, drawing.TRAIN, (0, (4, 2))), (valid, drawing.VALID, "solid")):
            kept = thin_out(len(curve.values), chosen)
            x, y, se = (np.asarray(part, dtype=float)[kept] for part in (curve.epochs, curve.values, curve.se))
            if np.isfinite(se).any():
                axes.fill_between(x, y - se, y + se, color=colour, alpha=0.18, linewidth=0)
            dot = "o" if np.isfinite(y).sum() < 3 else ""
            axes.plot(x, y, color=colour, linestyle=dashes, marker=dot, markersize=4)
        drawing.ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        span = epoch_span(train.epochs)
        drawing.ticks(axes.xaxis, *span, integer=True)
        axes.set_xlim(*span)
        axes.set_xlabel("epoch")
        _mark_chosen(axes, valid, chosen, span)

    return drawing.render_svg(name, label, 230, paint, bottom=40)


def _mark_chosen(axes: Any, valid: Curve, chosen: int, span: tuple[float, float]) -> None:
    if not 0 <= chosen < len(valid.epochs) or not math.isfinite(valid.epochs[chosen]):
        return
    x = valid.epochs[chosen]
    axes.axvline(x, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    drawing.draw_markers(axes, [(x, valid.values[chosen])], drawing.VALID, "o", size=8)
    write_above(axes, f"chosen: epoch {format_decimals(x, 0)}", x, span, drawing.INK, 5, 1)


def write_above(
    axes: Any, words: str, x: float, span: tuple[float, float], colour: str, beside: float, above: float
) -> None:
    """Words above the axes, beside a place: on its left in the right half."""
    right = x > (span[0] + span[1]) / 2
    axes.annotate(
        words, (x, 1), xycoords=("data", "axes fraction"), xytext=(-beside if right else beside, above),
        textcoords="offset points", ha="right" if right else "left", va="bottom", color=colour,
    )  # fmt: skip


def epoch_span(epochs: Sequence[float]) -> tuple[float, float]:
    found = finite_numbers(list(epochs)) or [0.0]
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 1, high + 1)


def thin_out(length: int, chosen: int) -> list[int]:
    if length <= MOST_POINTS:
        return list(range(length))
    kept = {round(i) for i in np.linspace(0, length - 1, MOST_POINTS)}
    return sorted(kept | {chosen} if 0 <= chosen < length else kept)


def dots(name: str, label: str, marks: Sequence[Mark]) -> str:
    """Scores below one another on one axis, their values written beside them."""
    frame = _dots_frame([mark.value for mark in marks])

    def paint(axes: Any) -> None:
        for row, mark in enumerate(marks):
            inside = frame[0] <= mark.value <= frame[1]
            x = min(max(mark.value, frame[0]), frame[1])
            axes.axhline(row, color=drawing.LINE, linewidth=1, zorder=0)
            sign = "o" if inside else "<" if mark.value < frame[0] else ">"
            filled = mark.colour in (drawing.BASELINE, drawing.BEST)
            axes.plot(
                [x], [row], sign, markersize=9, color=mark.colour, markeredgewidth=2, clip_on=False,
                markerfacecolor=mark.colour if filled else drawing.PAPER,
            )  # fmt: skip
            axes.annotate(
                score(mark.value), (1, row), xycoords=("axes fraction", "data"), xytext=(10, 0),
                textcoords="offset points", va="center", color=drawing.INK,
            )  # fmt: skip
        drawing.named_rows(axes, [mark.label for mark in marks], pad=14)
        drawing.ticks(axes.xaxis, *frame, most=4)
        axes.set_xlim(*frame)

    return drawing.render_svg(name, label, 48 + 28 * len(marks), paint, left=140, right=66)


def _dots_frame(values: Sequence[float]) -> tuple[float, float]:
    """Around all values, but for one that would press the others together: it is drawn at the edge."""
    found = sorted(finite_numbers(list(values)))
    for inner in (found[1:], found[:-1]):
        if len(inner) >= 3 and found[-1] - found[0] > 8 * (inner[-1] - inner[0]) > 0:
            return drawing.axis_limits(inner, inner, pad=0.15)
    return drawing.axis_limits(found, found)


def draw_trials(
    name: str, label: str, order: Sequence[float], scores: Sequence[float], baseline: Sequence[bool], higher: bool
) -> str:
    """The validation score of each recipe in the order of trying, and the best score so far as a line."""
    running = _running_best(scores, higher)
    frame = drawing.axis_limits(scores, running[-1:])

    def paint(axes: Any) -> None:
        axes.plot(order, running, color=drawing.BEST, drawstyle="steps-post", linewidth=1.5, zorder=2)
        for mine, colour, sign in ((True, drawing.BASELINE, "s"), (False, drawing.BEST, "o")):
            dots = [(x, y) for x, y, b in zip(order, scores, baseline, strict=True) if b is mine and math.isfinite(y)]
            drawing.draw_markers(axes, [(x, y) for x, y in dots if frame[0] <= y <= frame[1]], colour, sign)
            drawing.draw_markers(axes, [(x, frame[0]) for x, y in dots if y < frame[0]], colour, "v")
            drawing.draw_markers(axes, [(x, frame[1]) for x, y in dots if y > frame[1]], colour, "^")
        drawing.ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        low, high = min(order), max(order)
        drawing.ticks(axes.xaxis, low, high, integer=True)
        axes.set_xlim(low - 0.5, high + 0.5)
        axes.set_xlabel("recipe, in the order of trying")

    return drawing.render_svg(name, label, 250, paint, bottom=40)


def score_against_size(
    name: str, label: str, points: Sequence[tuple[float, float]], front: Sequence[tuple[float, float]]
) -> str:
    """The validation score of models against their parameters; a line through those that no smaller one equals."""
    frame = drawing.axis_limits([y for _, y in points], [y for _, y in points])

    def paint(axes: Any) -> None:
        axes.plot(*zip(*sorted(front), strict=True) if front else ([], []), color=drawing.BEST, linewidth=1.5, zorder=2)
        drawing.draw_markers(axes, [dot for dot in points if dot not in front], drawing.MUTED, "o")
        drawing.draw_markers(axes, front, drawing.BEST, "o")
        drawing.ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        wide = drawing.axis_limits([0.0, *(x for x, _ in points)], [0.0, *(x for x, _ in points)])
        drawing.ticks(axes.xaxis, *wide, most=4)
        axes.set_xlim(*wide)
        axes.set_xlabel("parameters that are left")

    return drawing.render_svg(name, label, 250, paint, bottom=40)


def outside(scores: Sequence[float], higher: bool) -> int:
    """How many scores `draw_trials` draws at the edge of its frame."""
    low, high = drawing.axis_limits(scores, _running_best(scores, higher)[-1:])
    return sum(not low <= value <= high for value in finite_numbers(list(scores)))


def _running_best(scores: Sequence[float], higher: bool) -> list[float]:
    best, running = math.nan, []
    for value in scores:
        if math.isfinite(value) and not (value <= best if higher else value >= best):
            best = value
        running.append(best)
    return running


def interval(name: str, label: str, estimate: float, low: float, high: float, pairs: Sequence[float]) -> str:
    """The improvement with its interval against zero, and below it the difference of each paired seed."""
    ends = [0.0, estimate, low, high, *pairs]
    frame = drawing.axis_limits(ends, ends, pad=0.1)

    def paint(axes: Any) -> None:
        axes.axvspan(max(frame[0], 0.0), frame[1], color=drawing.BEST, alpha=0.08, linewidth=0)
        axes.axvline(0, color=drawing.INK, linewidth=1.2)
        axes.hlines([0], low, high, color=drawing.BEST, linewidth=3)
        drawing.draw_markers(axes, [(estimate, 0)], drawing.BEST, "o", size=10)
        if pairs:
            drawing.draw_markers(axes, [(pair, 1) for pair in pairs], drawing.MUTED, "D")
        drawing.named_rows(axes, ["improvement", "each seed"] if pairs else ["improvement"])
        drawing.ticks(axes.xaxis, *frame, most=4, sign=True)
        axes.set_xlim(*frame)
        for text, ha, gap in (("worse", "right", -5), ("better", "left", 5)):
            axes.annotate(
                text, (0, 1), xycoords=("data", "axes fraction"), xytext=(gap, 2), textcoords="offset points",
                ha=ha, va="bottom", color=drawing.MUTED,
            )  # fmt: skip

    return drawing.render_svg(name, label, 124 if pairs else 92, paint, left=104, right=16)
