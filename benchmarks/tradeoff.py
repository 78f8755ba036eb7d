"""Figures of bias and variance, of learning curves, and of where regularization is needed; in the style of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wellposed.core.drawing import (
    BEST,
    INK,
    MUTED,
    PAPER,
    REFERENCE,
    TRAIN,
    VALID,
    axis_limits,
    draw_markers,
    render_svg,
    tick_labels,
    ticks,
)
from wellposed.core.errors import InputError
from wellposed.decomposition.bias_variance import BiasVariance
from wellposed.decomposition.learning_curve import LearningCurve, RecipeCurve
from wellposed.decomposition.repeated_training import amount_of, is_bound

COLOURS = (VALID, TRAIN, BEST, REFERENCE)
"""Of the first four recipes; more would not be told apart."""
LONGEST_NAME = 22
CLOSEST = 1.5
"""Ratio of two sizes whose numbers stand side by side without touching."""


def trade_off(name: str, found: BiasVariance) -> str:
    """Bias, variance and their sum against the strength, with 95 % bands, the lowest loss marked.

    Args:
        name: makes the figure's ids its own.
        found: of at least two recipes with strengths, as of `wellposed.bias_variance_path`.
    Raises:
        InputError: there are no strengths.
        MissingExtra: matplotlib is not installed.
    """
    if len(found.points) < 2 or any(point.strength is None for point in found.points):
        raise InputError(
            "This figure needs at least two recipes with strengths. Use wp.bias_variance_path, or strengths=."
        )
    strengths = [float(point.strength or 0.0) for point in found.points]
    places = _log_places(strengths)
    bias = "noise + bias²" if found.loss == "squared_error" else "noise + bias"
    shown = (("loss", "sum: the loss", INK), ("bias", bias, TRAIN), ("variance", "variance", VALID))
    parts = {key: [point.parts[key] for point in found.points] for key, _, _ in shown}
    best = found.points.index(found.best)
    values = [end for each in parts.values() for part in each for end in (part.estimate, part.low, part.high)]
    frame = axis_limits([part.estimate for each in parts.values() for part in each], _inner(values))
    frame = (frame[0] if min(part.estimate for each in parts.values() for part in each) < 0 else 0.0, frame[1])
    label = (
        f"{bias} and variance of {found.loss} against the strength; the lowest loss is at {amount_of(strengths[best])}."
    )

    def paint(axes: Any) -> None:
        for key, _, colour in shown:
            low, high = ([getattr(part, end) for part in parts[key]] for end in ("low", "high"))
            axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
            y = [part.estimate for part in parts[key]]
            axes.plot(places, y, color=colour, linewidth=2.4 if key == "loss" else 2)
            draw_markers(axes, list(zip(places, y, strict=True)), colour, "o", 4.5)
        axes.axvline(places[best], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        draw_markers(axes, [(places[best], parts["loss"][best].estimate)], INK, "o", 8)
        right = best > len(places) / 2
        axes.annotate(
            f"lowest: {amount_of(strengths[best])}", (places[best], 1), xycoords=("data", "axes fraction"),
            xytext=(-5 if right else 5, 2), textcoords="offset points", ha="right" if right else "left", va="bottom", color=INK,
        )  # fmt: skip
        ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        axes.set_xticks(places, [amount_of(value) for value in strengths])
        axes.set_xlim(places[0] - 0.15, places[-1] + 0.15)
        axes.set_xlabel(_axis_of(found))
        _beside(axes, [(parts[key][-1].estimate, word, colour) for key, word, colour in shown], frame)

    return render_svg(name, label, 270, paint, bottom=44, right=_room([word for _, word, _ in shown]), left=46)


def learning_curves(name: str, found: LearningCurve) -> str:
    """The losses of new rows (solid, with 95 % bands) and of training rows (dashed) against the number of training rows, and
    what twice the rows would bring; the first four recipes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    curves = found.curves[: len(COLOURS)]
    values = [x.valid.estimate for c in curves for x in c.levels] + [x.train for c in curves for x in c.levels]
    ends = [end for c in curves for x in c.levels for end in (max(x.valid.low, 0.0), x.valid.high)]
    frame = axis_limits(values, _inner([*values, *ends]))
    frame = (max(frame[0], 0.0) if min(values) >= 0 else frame[0], frame[1])
    sizes = [x.rows for x in curves[0].levels]
    label = (
        f"{found.loss} of {found.on} and training rows against the number of training rows, {sizes[0]} to {sizes[-1]}."
    )

    def paint(axes: Any) -> None:
        for curve, colour in zip(curves, COLOURS, strict=False):
            rows = [level.rows for level in curve.levels]
            valid = [level.valid for level in curve.levels]
            axes.fill_between(
                rows, [v.low for v in valid], [v.high for v in valid], color=colour, alpha=0.13, linewidth=0
            )
            axes.plot(rows, [v.estimate for v in valid], color=colour)
            axes.plot(rows, [level.train for level in curve.levels], color=colour, linestyle=(0, (4, 2)), linewidth=1.5)
            dots = [(n, v.estimate) for n, v in zip(rows, valid, strict=True) if frame[0] <= v.estimate <= frame[1]]
            draw_markers(axes, dots, colour, "o", 4.5)
            _ahead(axes, curve, colour)
        axes.set_xscale("log")
        _row_ticks(axes, sizes, found)
        ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        axes.set_xlim(sizes[0] / 1.12, 2.15 * sizes[-1])
        axes.set_xlabel("training rows")
        ends = [(_end_of(curve), _short(curve.name), colour) for curve, colour in zip(curves, COLOURS, strict=False)]
        _beside(axes, ends, frame)
        axes.annotate(
            f"solid: {found.on} rows, dotted: expected, dashed: training rows", (0, 1), xycoords="axes fraction",
            xytext=(0, 6), textcoords="offset points", va="bottom", color=MUTED, fontsize=11,
        )  # fmt: skip

    return render_svg(name, label, 280, paint, bottom=44, right=_room([curve.name for curve in curves]), left=46)


def needed(name: str, found: LearningCurve, pairs: Sequence[tuple[str, str]]) -> str:
    """How much of the loss regularization takes away against the number of training rows, with 95 % intervals: above zero
    it is needed.

    Args:
        pairs: a plain recipe's name and a regularized one's, at most four.
    Raises:
        InputError: there is no such recipe.
        MissingExtra: matplotlib is not installed.
    """
    shown = []
    for plain, regularized in pairs[: len(COLOURS)]:
        losses = {level.rows: level.valid.estimate for level in found.curve(plain).levels}
        shown.append(
            {
                n: tuple(100 * v / losses[n] for v in (d.estimate, d.low, d.high))
                for n, d in found.differences(plain, regularized).items()
            }
        )
    values = [value for each in shown for triple in each.values() for value in triple]
    frame = axis_limits([triple[0] for each in shown for triple in each.values()], [*_inner(values), 0.0])
    sizes = list(shown[0])
    label = (
        f"Share of {found.loss} that regularization takes away, in percent, at {sizes[0]} to {sizes[-1]} training rows."
    )

    def paint(axes: Any) -> None:
        axes.axhspan(max(frame[0], 0.0), frame[1], color=BEST, alpha=0.06, linewidth=0)
        axes.axhline(0, color=INK, linewidth=1.2)
        for i, (each, colour) in enumerate(zip(shown, COLOURS, strict=False)):
            shift = 1.035 ** (i - (len(shown) - 1) / 2)
            x = [n * shift for n in each]
            y, low, high = (np.array([triple[k] for triple in each.values()]) for k in range(3))
            axes.vlines(x, low, high, color=colour, linewidth=2, alpha=0.55)
            axes.plot(x, y, color=colour, linewidth=1.6)
            draw_markers(axes, list(zip(x, y.tolist(), strict=True)), colour, "o", 6)
        axes.set_xscale("log")
        _row_ticks(axes, sizes, None)
        ticks(axes.yaxis, *frame, sign=True)
        axes.set_ylim(*frame)
        axes.set_xlim(sizes[0] / 1.12, 1.12 * sizes[-1])
        axes.set_xlabel("training rows")
        ends = [
            (list(each.values())[-1][0], _short(plain), colour)
            for each, (plain, _), colour in zip(shown, pairs, COLOURS, strict=False)
        ]
        _beside(axes, ends, frame)
        axes.annotate(
            "% of the loss taken away by regularization", (0, 1), xycoords="axes fraction", xytext=(0, 6),
            textcoords="offset points", va="bottom", color=MUTED, fontsize=11,
        )  # fmt: skip

    return render_svg(name, label, 250, paint, bottom=44, right=_room([plain for plain, _ in pairs]), left=46)


def _log_places(strengths: Sequence[float]) -> list[float]:
    """Where strengths stand, the weakest to the left: by their logarithm, whose sign is turned where less is stronger; zero or
    none, which has no logarithm, one step before or after the others."""
    logs = [math.log10(value) if 0 < value < math.inf else math.nan for value in strengths]
    known = [place for place in logs if not math.isnan(place)]
    if len(known) < 2:
        return [float(i) for i in range(len(strengths))]
    sign = 1.0 if known[-1] > known[0] else -1.0
    step = max(abs(known[-1] - known[0]) / (len(known) - 1), 0.3)
    ends = [sign * known[0] - 1.3 * step, sign * known[-1] + 1.3 * step]
    return [ends[i > 0] if math.isnan(place) else sign * place for i, place in enumerate(logs)]


def _axis_of(found: BiasVariance) -> str:
    """``strength of l2``, ``bound of max_norm``, ``dropout``; else ``strength``."""
    section, _, key = found.varies.partition(".")
    if section == "terms" and key:
        return f"{'bound' if is_bound(found.varies) else 'strength'} of {_short(key)}"
    return _short((key or section).replace("_", " ")) or "strength"


def _inner(values: Sequence[float]) -> list[float]:
    """Ends of intervals that a figure needs: all of them but the widest tenth, which would press the rest together."""
    known = np.array([value for value in values if math.isfinite(value)])
    return [float(end) for end in np.quantile(known, [0.05, 0.95])] if len(known) else [0.0, 1.0]


def _room(names: Sequence[str]) -> int:
    """For names beside the lines, in units of the figure: a bold letter of this size takes about 7.2."""
    return round(16 + 7.2 * max(len(_short(name)) for name in names))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _ahead(axes: Any, curve: RecipeCurve, colour: str) -> None:
    """The law's mean from the last size to twice the rows, dotted, and the interval there."""
    if curve.law is None or curve.gain is None:
        return
    last, now = curve.last.rows, curve.last.valid.estimate
    rows = np.geomspace(last, 2 * last, 12)
    shift = now - curve.law.at(last).estimate
    axes.plot(rows, [curve.law.at(float(n)).estimate + shift for n in rows], color=colour, linestyle=(0, (1, 1.6)))
    axes.vlines([2 * last], now - curve.gain.high, now - curve.gain.low, color=colour, linewidth=3, alpha=0.55)
    axes.plot(
        [2 * last], [now - curve.gain.estimate], "o", color=PAPER, markeredgecolor=colour, markersize=5.5, zorder=4
    )


def _end_of(curve: RecipeCurve) -> float:
    return curve.last.valid.estimate - (0.0 if curve.gain is None else curve.gain.estimate)


def _row_ticks(axes: Any, sizes: Sequence[int], found: LearningCurve | None) -> None:
    """Ticks at the sizes, and at twice the last where a law says something of it; no more than fit side by side."""
    ahead = found is not None and any(curve.law is not None for curve in found.curves)
    wanted = [*sizes, 2 * sizes[-1]] if ahead else list(sizes)
    kept = [wanted[-1]]
    for size in reversed(wanted[:-1]):
        if kept[-1] / size > CLOSEST:
            kept.append(size)
    kept.reverse()
    axes.set_xticks(kept, [tick_labels([float(size)])[0] for size in kept])
    axes.minorticks_off()


def _beside(axes: Any, ends: Sequence[tuple[float, str, str]], frame: tuple[float, float]) -> None:
    """Names to the right of the lines' ends, moved apart where they would touch."""
    room = 0.072 * (frame[1] - frame[0])
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    places = [min(max(ends[i][0], frame[0] + room / 2), frame[1] - room / 2) for i in order]
    for _ in range(50):
        for a in range(len(places) - 1):
            lack = room - (places[a + 1] - places[a])
            if lack > 0:
                places[a], places[a + 1] = places[a] - lack / 2, places[a + 1] + lack / 2
        places = [max(p, frame[0] + room / 2) for p in places]
    for i, place in zip(order, places, strict=True):
        axes.annotate(
            ends[i][1], (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            va="center", color=ends[i][2], fontweight="bold", fontsize=11.5,
        )  # fmt: skip
