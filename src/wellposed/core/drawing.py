"""Figures as inline SVG: one canvas, one style, colours that stand for a meaning, round ticks.

Every word inside a figure is one of ours or a number: names that a user chose stand in the HTML around it, where they
are escaped. Colours are CSS variables, so that a figure follows the theme of its page. matplotlib is imported when
something is drawn.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from wellposed.core.errors import require
from wellposed.core.formats import format_decimals, with_sign
from wellposed.core.records import finite_numbers
from wellposed.core.shared import exclusively
from wellposed.core.signs import escape_html

WIDTH = 400  # units of the viewBox, about a phone's width: text is drawn near its own size there
POINTS_PER_INCH = 72
TOP = 22  # room for a word above the axes
UNITS = ((1e6, "M"), (1e3, "k"))
# Colours that stand for a meaning; after drawing, each becomes the CSS variable of that name.
INK, MUTED, LINE, TRAIN, VALID, BASELINE, BEST, REFERENCE, PAPER = (f"#0000a{i}" for i in range(1, 10))
VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", TRAIN: "train", VALID: "valid",
    BASELINE: "baseline", BEST: "best", REFERENCE: "reference", PAPER: "card",
}  # fmt: skip
NOT_DRAWN = (
    '<p class="note">Not drawn: the time of the study was over. <code>wellposed report FOLDER</code> draws it.</p>'
)
_left_out: ContextVar[bool] = ContextVar("wellposed_figures_left_out", default=False)
LIGHT = {
    "paper": "#f6f5f2", "card": "#ffffff", "ink": "#1c2025", "muted": "#59616b", "line": "#dddfe2", "code": "#f1f0ec",
    "train": "#1768ac", "valid": "#c24e00", "baseline": "#686f79", "best": "#0b7a5c", "reference": "#868d96",
    "shown": "#0b7a5c", "unproven": "#875a00", "worse": "#b3261e", "missing": "#59616b",
}  # fmt: skip
DARK = {
    "paper": "#121417", "card": "#1a1d21", "ink": "#e7e9ec", "muted": "#a4acb6", "line": "#33383f", "code": "#22262b",
    "train": "#6db3f2", "valid": "#f59b52", "baseline": "#a9b1bb", "best": "#45cba0", "reference": "#89919b",
    "shown": "#45cba0", "unproven": "#e6b450", "worse": "#ff8a80", "missing": "#a4acb6",
}  # fmt: skip
PAPER_THEME = LIGHT | {
    "paper": "#fff", "card": "#fff", "ink": "#000", "muted": "#444", "line": "#bbb", "code": "#fff", "missing": "#444",
}  # fmt: skip
"""The colours of pages and figures, for light and dark screens, and printed."""
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'


def variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def theme() -> str:
    """The CSS that makes variables of all colours, by the reader's light or dark theme."""
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}"
    return f":root {{ color-scheme: light dark; {variables(LIGHT)} }}\n{dark}"


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


def axis_limits(values: Sequence[float], needed: Sequence[float] = (), pad: float = 0.07) -> tuple[float, float]:
    """A frame around the values that a few wild ones cannot stretch beyond twice the rest; ``needed`` are always inside."""
    low, high = _bulk(values)
    low, high = min([low, *finite_numbers(list(needed))]), max([high, *finite_numbers(list(needed))])
    return _padded(low, high, pad)


def _bulk(values: Sequence[float]) -> tuple[float, float]:
    found = sorted(finite_numbers(list(values)))
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


def draw_markers(axes: Any, dots: Sequence[tuple[float, float]], colour: str, sign: str, size: float = 6.5) -> None:
    """Markers with a thin rim, so that they stand apart where they meet."""
    axes.plot(
        [x for x, _ in dots], [y for _, y in dots], sign, linestyle="", color=colour, markersize=size,
        markeredgecolor=PAPER, markeredgewidth=1, clip_on=False, zorder=4,
    )  # fmt: skip


def named_rows(axes: Any, names: Sequence[str], pad: int = 6) -> None:
    """Rows from the top down, named on the left."""
    ticker = require("matplotlib.ticker", "report")
    axes.tick_params(axis="y", pad=pad, labelcolor=INK)
    axes.grid(False)
    axes.yaxis.set_major_locator(ticker.FixedLocator(range(len(names))))
    axes.yaxis.set_major_formatter(ticker.FixedFormatter(names))  # whose names `replace_missing_signs` can change
    axes.set_ylim(len(names) - 0.4, -0.6)


def ticks(axis: Any, low: float, high: float, most: int = 6, integer: bool = False, sign: bool = False) -> None:
    """Put at most about ``most`` round numbers along an axis from ``low`` to ``high``, all with equally many decimals."""
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
    steps = (step / size * 10**decimals for decimals in range(7))
    decimals = next((d for d, x in enumerate(steps) if round(x) > 0 and abs(x - round(x)) < 1e-6), 7)
    if decimals == 7 or largest >= 1e10:
        return ["0" if tick == 0 else f"{tick:.2g}".replace("-", "−").replace("e+", "e") for tick in ticks]
    written = with_sign if sign else format_decimals
    return ["0" if abs(tick) < step / 1e6 else written(tick / size, decimals) + unit for tick in ticks]


@contextlib.contextmanager
def canvas(backend: str, width: float, height: float, style: Mapping[str, Any]) -> Iterator[Any]:
    """A fresh figure of that many points, drawn by a backend of matplotlib's in our own style, whatever the user's is."""
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    drawer = require(f"matplotlib.backends.backend_{backend}", "report")
    with exclusively(), matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = figures.Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
        getattr(drawer, f"FigureCanvas{backend.upper() if backend == 'svg' else backend.title()}")(figure)
        yield figure


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Inside the block no figure is drawn: where it would stand, the page says that there was no time for it."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def render_svg(
    name: str, label: str, height: int, paint: Callable[[Any], None], left: int = 54, right: int = 12, bottom: int = 26
) -> str:
    """Paint on a fresh `canvas`, and give it back as inline SVG."""
    if _left_out.get():
        return NOT_DRAWN
    out = io.StringIO()
    with canvas("svg", WIDTH, height, {**STYLE, "svg.hashsalt": name}) as figure:
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - TOP) / height)
        paint(figure.add_axes(box))
        stand_ins = replace_missing_signs(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    for stand_in, sign in stand_ins.items():
        svg = svg.replace(stand_in, escape_html(sign))
    return _inlined(svg, name, label, height)


STAND_INS = "".join(map(chr, range(0x2801, 0x2900)))
"""Braille, which matplotlib's own font has and no label of ours uses."""
BOX = "\u25a1"


def replace_missing_signs(figure: Any, back: bool = True) -> dict[str, str]:
    """Put signs that the font can draw in place of those that it cannot (Chinese, emoji), which are measured all the same; each
    stand-in with the sign that it stands for. Without ``back``, as for a PNG, all are boxes: in an SVG the reader's browser
    draws the signs.
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
    words = escape_html(label)
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


ON_ANY_GROUND = {
    "ink": "#6e7681", "muted": "#6e7681", "line": "rgba(139, 148, 158, 0.4)", "train": "#2f75b5", "valid": "#bf4a26",
    "baseline": "#6e7681", "best": "#17805f", "reference": "#8a63b5", "card": "#ffffff",
}  # fmt: skip
"""The page's colours for a figure that stands alone: contrast of at least 4.5 on white, and readable on dark ground;
lines of the grid let the ground through, so that they stay behind what is drawn on either."""


def standalone(svg: str) -> str:
    """A figure of the page as a file of its own, with colours that are readable on white and on dark ground."""
    for variable, colour in ON_ANY_GROUND.items():
        svg = svg.replace(f"var(--{variable})", colour)
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    wide = "" if size is None else f'width="{size[1]}" height="{size[2]}" '
    return svg.replace('<svg class="plot"', f'<svg {wide}style="font-family: system-ui, sans-serif"', 1) + "\n"
