"""The figures of the page: inline SVG whose colours are the page's CSS variables, so that they follow its theme.

Every word inside a figure is one of ours or a number: names that a user chose stand in the HTML around it, where they
are escaped. Figures are small, so that they stay legible on a phone and stand side by side on a desk.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellposed.core.errors import require
from wellposed.core.shared import alone
from wellposed.core.signs import escaped
from wellposed.search.record import known
from wellposed.search.words import decimals_for, fixed, score, signed

WIDTH = 400  # units of the viewBox, about a phone's width: text is drawn near its own size there
POINTS_PER_INCH = 72
TOP = 22  # room for a word above the axes
UNITS = ((1e6, "M"), (1e3, "k"))
NOT_DRAWN = (
    '<p class="note">Not drawn: the time of the study was over. <code>wellposed report FOLDER</code> draws it.</p>'
)
_left_out: ContextVar[bool] = ContextVar("wellposed_figures_left_out", default=False)
MOST_POINTS = 300  # of a curve; more are thinned out, the chosen epoch kept

# Colours that stand for a meaning; after drawing, each becomes the CSS variable of that name.
INK, MUTED, LINE, TRAIN, VALID, BASELINE, BEST, REFERENCE, PAPER = (f"#0000a{i}" for i in range(1, 10))
VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", TRAIN: "train", VALID: "valid",
    BASELINE: "baseline", BEST: "best", REFERENCE: "reference", PAPER: "card",
}  # fmt: skip
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """One side of a history: where the epochs lie, the values, and their standard errors (NaN where unknown)."""

    epochs: Sequence[float]
    values: Sequence[float]
    se: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A value in a figure: how it is called and which meaning's colour it has."""

    label: str
    value: float
    colour: str


def limits(values: Sequence[float], needed: Sequence[float] = (), pad: float = 0.07) -> tuple[float, float]:
    """A frame around the values that a few wild ones cannot stretch beyond twice the rest; ``needed`` are always inside."""
    low, high = _bulk(values)
    low, high = min([low, *known(list(needed))]), max([high, *known(list(needed))])
    return _padded(low, high, pad)


def common_limits(groups: Sequence[Sequence[float]], needed: Sequence[float]) -> tuple[float, float]:
    """One frame for several groups, each with its own bulk inside: a long history does not crowd out a short one."""
    bulks = [_bulk(group) for group in groups if known(list(group))]
    ends = [end for bulk in bulks for end in bulk] + known(list(needed))
    return _padded(min(ends), max(ends), 0.07) if ends else (0.0, 1.0)


def _bulk(values: Sequence[float]) -> tuple[float, float]:
    found = sorted(known(list(values)))
    if not found:
        return 0.0, 1.0
    inner_low, inner_high = (float(end) for end in np.quantile(found, [0.05, 0.95]))
    span = inner_high - inner_low
    if span <= 0:
        return found[0], found[-1]
    return max(found[0], inner_low - span / 2), min(found[-1], inner_high + span / 2)


def _padded(low: float, high: float, pad: float) -> tuple[float, float]:
    room = (high - low or abs(high) or 1.0) * pad
    return low - room, high + room


def curves(name: str, label: str, train: Curve, valid: Curve, chosen: int, frame: tuple[float, float]) -> str:
    """Training (dashed) and validation (solid) against the epoch, with one standard error, the chosen epoch marked."""

    def paint(axes: Any) -> None:
        for curve, colour, dashes in ((train, TRAIN, (0, (4, 2))), (valid, VALID, "solid")):
            kept = thinned(len(curve.values), chosen)
            x, y, se = (np.asarray(part, dtype=float)[kept] for part in (curve.epochs, curve.values, curve.se))
            if np.isfinite(se).any():
                axes.fill_between(x, y - se, y + se, color=colour, alpha=0.18, linewidth=0)
            dot = "o" if np.isfinite(y).sum() < 3 else ""
            axes.plot(x, y, color=colour, linestyle=dashes, marker=dot, markersize=4)
        ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        span = epoch_span(train.epochs)
        ticks(axes.xaxis, *span, integer=True)
        axes.set_xlim(*span)
        axes.set_xlabel("epoch")
        _mark_chosen(axes, valid, chosen, span)

    return drawn(name, label, 230, paint, bottom=40)


def _mark_chosen(axes: Any, valid: Curve, chosen: int, span: tuple[float, float]) -> None:
    if not 0 <= chosen < len(valid.epochs) or not math.isfinite(valid.epochs[chosen]):
        return
    x = valid.epochs[chosen]
    right = x > (span[0] + span[1]) / 2
    axes.axvline(x, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    points(axes, [(x, valid.values[chosen])], VALID, "o", size=8)
    axes.annotate(
        f"chosen: epoch {fixed(x, 0)}", (x, 1), xycoords=("data", "axes fraction"), xytext=(-5 if right else 5, 1),
        textcoords="offset points", ha="right" if right else "left", va="bottom", color=INK,
    )  # fmt: skip


def epoch_span(epochs: Sequence[float]) -> tuple[float, float]:
    found = known(list(epochs)) or [0.0]
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 1, high + 1)


def thinned(length: int, chosen: int) -> list[int]:
    if length <= MOST_POINTS:
        return list(range(length))
    kept = {round(i) for i in np.linspace(0, length - 1, MOST_POINTS)}
    return sorted(kept | {chosen} if 0 <= chosen < length else kept)


def waterfall(name: str, label: str, train: float, valid: float, frame: tuple[float, float], constant: float) -> str:
    """Training loss, plus the gap with its sign, is the validation loss: three steps, one below the other."""
    steps = [
        ("training cost", 0.0, train, TRAIN),
        ("gap", train, valid - train, VALID),
        ("validation", 0.0, valid, VALID),
    ]

    def paint(axes: Any) -> None:
        decimals = decimals_for(abs(valid - train)) if valid != train else 4
        decimals = min(max(decimals, 2), 5)
        for row, (_, start, width, colour) in enumerate(steps):
            gap = row == 1
            axes.barh(row, width, left=start, height=0.56, color=colour, alpha=0.45 if gap else 1, linewidth=0)
            text = signed(width, decimals) if gap else fixed(width, decimals)
            end = max(start + width, start)
            axes.annotate(text, (end, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
        axes.vlines([train, valid], [0.28, 1.28], [0.72, 1.72], color=MUTED, linewidth=1)
        if math.isfinite(constant) and frame[0] < constant < frame[1]:
            axes.axvline(constant, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=0)
            axes.annotate(
                "constant", (constant, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", color=MUTED
            )
        if frame[0] < 0:
            axes.axvline(0, color=MUTED, linewidth=1)
        _named_rows(axes, [step[0] for step in steps])
        ticks(axes.xaxis, *frame)
        axes.set_xlim(*frame)

    return drawn(name, label, 162, paint, left=98, right=12)


def waterfall_frame(pairs: Sequence[tuple[float, float]], constant: float) -> tuple[float, float]:
    """One frame for the waterfalls of several recipes, with room for the numbers beside the bars."""
    ends = known([value for pair in pairs for value in pair])
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if math.isfinite(constant) and 0 < constant < 1.6 * high:
        high = max(high, constant)
    span = high - low or 1.0
    return (low - 0.05 * span if low < 0 else 0.0), high + 0.2 * span


def dots(name: str, label: str, marks: Sequence[Mark]) -> str:
    """Scores below one another on one axis, their values written beside them."""
    frame = _dots_frame([mark.value for mark in marks])

    def paint(axes: Any) -> None:
        for row, mark in enumerate(marks):
            inside = frame[0] <= mark.value <= frame[1]
            x = min(max(mark.value, frame[0]), frame[1])
            axes.axhline(row, color=LINE, linewidth=1, zorder=0)
            sign = "o" if inside else "<" if mark.value < frame[0] else ">"
            filled = mark.colour in (BASELINE, BEST)
            axes.plot(
                [x], [row], sign, markersize=9, color=mark.colour, markeredgewidth=2, clip_on=False,
                markerfacecolor=mark.colour if filled else PAPER,
            )  # fmt: skip
            axes.annotate(
                score(mark.value), (1, row), xycoords=("axes fraction", "data"), xytext=(10, 0),
                textcoords="offset points", va="center", color=INK,
            )  # fmt: skip
        _named_rows(axes, [mark.label for mark in marks], pad=14)
        ticks(axes.xaxis, *frame, most=4)
        axes.set_xlim(*frame)

    return drawn(name, label, 48 + 28 * len(marks), paint, left=140, right=66)


def _dots_frame(values: Sequence[float]) -> tuple[float, float]:
    """Around all values, but for one that would press the others together: it is drawn at the edge."""
    found = sorted(known(list(values)))
    for inner in (found[1:], found[:-1]):
        if len(inner) >= 3 and found[-1] - found[0] > 8 * (inner[-1] - inner[0]) > 0:
            return limits(inner, inner, pad=0.15)
    return limits(found, found)


def trials(
    name: str, label: str, order: Sequence[float], scores: Sequence[float], baseline: Sequence[bool], higher: bool
) -> str:
    """The validation score of each recipe in the order of trying, and the best score so far as a line."""
    running = _running_best(scores, higher)
    frame = limits(scores, running[-1:])

    def paint(axes: Any) -> None:
        axes.plot(order, running, color=BEST, drawstyle="steps-post", linewidth=1.5, zorder=2)
        for mine, colour, sign in ((True, BASELINE, "s"), (False, BEST, "o")):
            dots = [(x, y) for x, y, b in zip(order, scores, baseline, strict=True) if b is mine and math.isfinite(y)]
            points(axes, [(x, y) for x, y in dots if frame[0] <= y <= frame[1]], colour, sign)
            points(axes, [(x, frame[0]) for x, y in dots if y < frame[0]], colour, "v")
            points(axes, [(x, frame[1]) for x, y in dots if y > frame[1]], colour, "^")
        ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        low, high = min(order), max(order)
        ticks(axes.xaxis, low, high, integer=True)
        axes.set_xlim(low - 0.5, high + 0.5)
        axes.set_xlabel("recipe, in the order of trying")

    return drawn(name, label, 250, paint, bottom=40)


def points(axes: Any, dots: Sequence[tuple[float, float]], colour: str, sign: str, size: float = 6.5) -> None:
    """Markers with a thin rim, so that they stand apart where they meet."""
    axes.plot(
        [x for x, _ in dots], [y for _, y in dots], sign, linestyle="", color=colour, markersize=size,
        markeredgecolor=PAPER, markeredgewidth=1, clip_on=False, zorder=4,
    )  # fmt: skip


def outside(scores: Sequence[float], higher: bool) -> int:
    """How many scores `trials` draws at the edge of its frame."""
    low, high = limits(scores, _running_best(scores, higher)[-1:])
    return sum(not low <= value <= high for value in known(list(scores)))


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
    frame = limits(ends, ends, pad=0.1)

    def paint(axes: Any) -> None:
        axes.axvspan(max(frame[0], 0.0), frame[1], color=BEST, alpha=0.08, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.hlines([0], low, high, color=BEST, linewidth=3)
        points(axes, [(estimate, 0)], BEST, "o", size=10)
        if pairs:
            points(axes, [(pair, 1) for pair in pairs], MUTED, "D")
        _named_rows(axes, ["improvement", "each seed"] if pairs else ["improvement"])
        ticks(axes.xaxis, *frame, most=4, sign=True)
        axes.set_xlim(*frame)
        for text, ha, gap in (("worse", "right", -5), ("better", "left", 5)):
            axes.annotate(
                text, (0, 1), xycoords=("data", "axes fraction"), xytext=(gap, 2), textcoords="offset points",
                ha=ha, va="bottom", color=MUTED,
            )  # fmt: skip

    return drawn(name, label, 124 if pairs else 92, paint, left=104, right=16)


def _named_rows(axes: Any, names: Sequence[str], pad: int = 6) -> None:
    """Rows from the top down, named on the left."""
    ticker = require("matplotlib.ticker", "report")
    axes.tick_params(axis="y", pad=pad, labelcolor=INK)
    axes.grid(False)
    axes.yaxis.set_major_locator(ticker.FixedLocator(range(len(names))))
    axes.yaxis.set_major_formatter(ticker.FixedFormatter(names))  # whose names `lettered` can change
    axes.set_ylim(len(names) - 0.4, -0.6)


def ticks(axis: Any, low: float, high: float, most: int = 6, integer: bool = False, sign: bool = False) -> None:
    """Round ticks, written alike."""
    locator = require("matplotlib.ticker", "report").MaxNLocator(nbins=most, integer=integer, steps=[1, 2, 2.5, 5, 10])
    margin = 1e-9 * (high - low)
    places = [float(tick) for tick in locator.tick_values(low, high) if low - margin <= tick <= high + margin]
    axis.set_ticks(places, tick_labels(places, sign))


def tick_labels(ticks: Sequence[float], sign: bool = False) -> list[str]:
    """Ticks with as many decimals as tell them apart, in thousands or millions where that is shorter.

    Example:
        >>> tick_labels([0.0, 0.25, 0.5]), tick_labels([0.0, 50000.0, 100000.0])
        (['0', '0.25', '0.50'], ['0', '50k', '100k'])
    """
    largest = max((abs(tick) for tick in ticks), default=0.0)
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=largest or 1.0)
    size, unit = next(((size, unit) for size, unit in UNITS if largest >= 10 * size), (1.0, ""))
    decimals = next((d for d in range(7) if _is_whole(step / size * 10**d)), 7)
    if decimals == 7 or largest >= 1e10:
        return ["0" if tick == 0 else f"{tick:.2g}".replace("-", "−").replace("e+", "e") for tick in ticks]
    written = signed if sign else fixed
    return ["0" if abs(tick) < step / 1e6 else written(tick / size, decimals) + unit for tick in ticks]


def _is_whole(value: float) -> bool:
    return round(value) > 0 and abs(value - round(value)) < 1e-6


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Inside the block no figure is drawn: where it would stand, the page says that there was no time for it."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def drawn(
    name: str, label: str, height: int, paint: Callable[[Any], None], left: int = 54, right: int = 12, bottom: int = 26
) -> str:
    """Paint on a fresh canvas of our own style, whatever the user's style is, and give it back as inline SVG."""
    if _left_out.get():
        return NOT_DRAWN
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    canvas = require("matplotlib.backends.backend_svg", "report")
    with alone(), matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = figures.Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH))
        canvas.FigureCanvasSVG(figure)
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - TOP) / height)
        paint(figure.add_axes(box))
        stand_ins = lettered(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    for stand_in, sign in stand_ins.items():
        svg = svg.replace(stand_in, escaped(sign))
    return _inlined(svg, name, label, height)


STAND_INS = "".join(map(chr, range(0x2801, 0x2900)))
"""Braille, which matplotlib's own font has and no label of ours uses."""
BOX = "\u25a1"


def lettered(figure: Any, back: bool = True) -> dict[str, str]:
    """Put signs that the font can draw in place of those that it cannot (Chinese, emoji), which are measured all the same.

    Args:
        back: the signs come back after drawing, since in an SVG it is the reader's browser that draws them; where False, as in a
            PNG, all of them are boxes.
    Returns:
        Each stand-in with the sign that it stands for.
    """
    fonts = require("matplotlib.font_manager", "report")
    known = fonts.get_font(fonts.findfont(fonts.FontProperties())).get_charmap()
    used: dict[str, str] = {}

    def drawable(said: str) -> str:
        for sign in sorted({sign for sign in said if ord(sign) not in known and sign != "\n"}):
            free = STAND_INS[len(used)] if back and len(used) < len(STAND_INS) else BOX
            said = said.replace(sign, used.setdefault(sign, free))
        return said

    for text in figure.findobj(require("matplotlib.text", "report").Text):
        text.set_text(drawable(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if hasattr(formatter, "seq"):
                formatter.seq = [drawable(label) for label in formatter.seq]
    return {stand_in: sign for sign, stand_in in used.items() if stand_in != BOX}


def _inlined(svg: str, name: str, label: str, height: int) -> str:
    """A standalone SVG made fit for a page: no prologue, ids of its own, our colours and fonts, a description."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    for noise in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style.*?</style>", r"<defs>\s*</defs>"):
        body = re.sub(noise, "", body, flags=re.DOTALL)
    body = _with_own_ids(body, name)
    body = re.sub(r"font: (?:[a-z0-9]+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*(?:; )?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    for sentinel, variable in VARIABLES.items():
        body = body.replace(sentinel, f"var(--{variable})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    words = escaped(label)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<desc>{words}</desc>{body.strip()}</svg>"
    )


def _with_own_ids(body: str, name: str) -> str:
    """Only ids that something refers to, each with the figure's name before it."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
