"""The curves of a diagnosis with the turning point marked: its interval, the best epoch, and the rise since.

One drawing serves three files: ``.svg`` and ``.html`` follow the reader's light or dark theme, ``.png`` is light.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.core import drawing
from wellposed.core.errors import InputError, listed
from wellposed.core.files import write_atomically
from wellposed.core.records import clean_json
from wellposed.core.signs import escape_html, visible
from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import reading_notes
from wellposed.diagnosis.diagnosis import Diagnoses, Diagnosis, shorten_middle
from wellposed.diagnosis.turning_point import Turn, format_place, give_or_take
from wellposed.reporting import figures as draw
from wellposed.reporting.pages import page

KINDS = (".svg", ".png", ".html")
MOST_PANELS = 12  # more are a wall; the table names the others
HEIGHT = 256  # units of a panel's viewBox, its width being that of the report's figures
HEAD = 42  # units above a panel for the finding and the source
GAP = 24  # units between panels
DOTS_PER_INCH = 200
LONGEST_SOURCE = 58  # signs of a source that fit above a panel


@dataclass(frozen=True)
class Ink:
    """The colours of one drawing: the report's variables in SVG, plain colours in a picture."""

    ink: str = drawing.INK
    muted: str = drawing.MUTED
    train: str = drawing.TRAIN
    valid: str = drawing.VALID
    card: str = drawing.PAPER


def check_name(path: Path) -> None:
    """Refuse a name whose ending is no kind of figure."""
    if path.suffix.lower() not in KINDS:
        raise InputError(f"'{path}' is no kind of figure; give a name that ends in {listed(KINDS)}.")


def write_figure(found: Diagnoses, path: str | Path) -> Path:
    """Draw the curves of each source, the worst first, and write them as one file.

    Args:
        found: at least one diagnosis; of more than `MOST_PANELS` the worst are drawn.
        path: ends in ``.svg``, ``.png`` or ``.html``.
    """
    path = Path(path)
    check_name(path)
    shown = found.worst_first[:MOST_PANELS]
    if not shown:
        raise InputError("There is nothing to draw: no diagnosis was given.")
    made: str | bytes
    if path.suffix.lower() == ".html":
        title = f"{len(found)} sources, the worst first" if len(found) > 1 else _heading(shown[0])
        cards = [clean_json(_card(one)) | {"panel": _panel(one, number)} for number, one in enumerate(shown)]
        made = page("curves.html.j2", {"title": title, "cards": cards, "more": len(found) - len(shown)})
    else:
        made = _png(shown) if path.suffix.lower() == ".png" else _svg(shown)
    return write_atomically(path, made)


# One panel


def _paint(one: Diagnosis, colour: Ink) -> Callable[[Any], None]:
    curves, turned = one.curves, one.turn
    certain = turned if turned is not None and turned.certain else None
    # The lowest level of validation: the end's, less the rise that is shown.
    level = math.nan if certain is None else measure.end(curves.valid_loss) - certain.rise
    losses = (curves.train_loss, curves.valid_loss)
    both = [float(value) for side in losses for value in measure.finite_values(side)]
    frame = drawing.axis_limits(both, [level, level + certain.rise] if certain is not None else [])
    span = draw.epoch_span(curves.epoch.tolist())

    def paint(axes: Any) -> None:
        if certain is not None:
            _mark_turn(axes, certain, level, span, frame, colour)
        for y, ink, dashes, label in (
            (curves.train_loss, colour.train, (0, (4, 2)), "training loss"),
            (curves.valid_loss, colour.valid, "solid", "validation loss"),
        ):
            at = np.isfinite(y)
            if not at.any():
                continue
            kept = draw.thin_out(int(at.sum()), -1)
            dot = "o" if at.sum() < 3 else ""
            axes.plot(
                curves.epoch[at][kept], y[at][kept], color=ink, linestyle=dashes, marker=dot, markersize=4, label=label
            )
        _mark_break(axes, one, span, colour)
        best, side = measure.best_index(curves), "valid" if "valid_loss" in curves.given else "train"
        if best is not None:
            y, ink = getattr(curves, f"{side}_loss"), getattr(colour, side)
            axes.plot(
                [curves.epoch[best]], [y[best]], "o", linestyle="", color=ink, markersize=8, markeredgecolor=colour.card,
                markeredgewidth=1.2, clip_on=False, zorder=4, label=f"best {one.axis} {one.best_epoch}",
            )  # fmt: skip
        drawing.ticks(axes.yaxis, *frame)
        axes.set_ylim(*frame)
        drawing.ticks(axes.xaxis, *span, integer=True)
        axes.set_xlim(*span)
        axes.set_xlabel(one.axis)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.225), ncols=3, frameon=False, labelcolor=colour.muted, handlelength=1.8,
            columnspacing=1.2, handletextpad=0.5, borderpad=0, fontsize=11.5,
        )  # fmt: skip

    return paint


def _mark_turn(
    axes: Any, turned: Turn, level: float, span: tuple[float, float], frame: tuple[float, float], colour: Ink
) -> None:
    """A band where the turn lies, a line at its level to the end, and the rise as an arrow beside its number."""
    unit = (span[1] - span[0]) / 300  # a band of one epoch is still seen
    axes.axvspan(turned.epoch_low - unit, turned.epoch_high + unit, color=colour.valid, alpha=0.14, linewidth=0)
    axes.axvline(turned.epoch, color=colour.muted, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.hlines([level], turned.epoch, span[1], color=colour.valid, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "", (span[1], level + turned.rise), xytext=(span[1], level), annotation_clip=False, zorder=5,
        arrowprops={"arrowstyle": "-|>", "color": colour.valid, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    rose = give_or_take(turned.rise, turned.low, turned.high, "+.3g").replace(" ± ", "\n±")
    share = "" if turned.percent is None else f"\n+{turned.percent:.3g} %"
    middle = min(max(level + turned.rise / 2, frame[0]), frame[1])
    axes.annotate(
        f"{rose}{share}", (span[1], middle), xytext=(7, 0), textcoords="offset points", ha="left",
        va="center", color=colour.ink, annotation_clip=False, linespacing=1.25,
    )  # fmt: skip
    draw.write_above(axes, f"turned: {format_place(turned.epoch)}", turned.epoch, span, colour.ink, 4, 2)


def _mark_break(axes: Any, one: Diagnosis, span: tuple[float, float], colour: Ink) -> None:
    """From where on no loss is a number, if the curves end so."""
    sound = np.flatnonzero(np.isfinite(one.curves.train_loss) | np.isfinite(one.curves.valid_loss))
    if not len(sound) or sound[-1] == len(one.curves) - 1:
        return
    begin = float(one.curves.epoch[sound[-1]])
    axes.axvspan(begin, span[1], color=colour.muted, alpha=0.1, linewidth=0)
    right = begin > (span[0] + span[1]) / 2
    draw.write_above(axes, "no finite loss", span[1] if right else begin, span, colour.ink, 0 if right else 4, 2)


def _said(one: Diagnosis) -> str:
    """What the drawing shows, for those who cannot see it."""
    turned = one.turn
    return f"Training and validation loss. {', '.join(one.names)}. {turned.says(one.axis) if turned is not None else ''}".strip()


def _heading(one: Diagnosis) -> str:
    return f"{one[0].name}, confidence {one[0].confidence:.2f}"


LEFT, RIGHT, BOTTOM = 48, 66, 64


def _panel(one: Diagnosis, number: int) -> str:
    room = {"left": LEFT, "right": RIGHT, "bottom": BOTTOM}
    return drawing.render_svg(f"turn{number}", _said(one), HEIGHT, _paint(one, Ink()), **room)


# Files


def _laid_out(count: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Width and height of the whole, and the upper left corner of each panel."""
    across = min(count, 2)
    wide, high = drawing.WIDTH + GAP, HEAD + HEIGHT + GAP
    places = [(GAP + wide * (i % across), GAP + high * (i // across)) for i in range(count)]
    return GAP + across * wide, GAP + math.ceil(count / across) * high, places


def _svg(shown: Sequence[Diagnosis]) -> str:
    width, height, places = _laid_out(len(shown))
    parts = []
    for number, (one, (x, y)) in enumerate(zip(shown, places, strict=True)):
        panel = _panel(one, number).replace(
            "<svg ", f'<svg x="{x}" y="{y + HEAD}" width="{drawing.WIDTH}" height="{HEIGHT}" ', 1
        )
        source = escape_html(shorten_middle(one.source, LONGEST_SOURCE))
        parts.append(
            f'<text x="{x}" y="{y + 16}" style="font-size: 16px; font-weight: 640; fill: var(--ink)">'
            f"{escape_html(_heading(one))}</text>"
            f'<text x="{x}" y="{y + 35}" style="font-size: 12px; fill: var(--muted)">{source}</text>{panel}'
        )
    words = escape_html("; ".join(f"{one.source}: {_said(one)}" for one in shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f"<style>{drawing.theme()} text {{ font-family: {drawing.FONT}; font-variant-numeric: tabular-nums }}"
        ".plot { overflow: visible }</style>"
        f'<rect width="100%" height="100%" style="fill: var(--card)"/>{"".join(parts)}</svg>\n'
    )


def _png(shown: Sequence[Diagnosis]) -> bytes:
    width, height, places = _laid_out(len(shown))
    light = drawing.LIGHT
    named = {sentinel: light[name] for sentinel, name in drawing.VARIABLES.items()}
    colour = Ink(**{one.name: light[one.name] for one in fields(Ink)})
    style = {key: named.get(value, value) if isinstance(value, str) else value for key, value in drawing.STYLE.items()}
    out = io.BytesIO()
    with drawing.canvas("agg", width, height, style | {"figure.facecolor": light["card"]}) as figure:
        for one, (x, y) in zip(shown, places, strict=True):
            base = height - y - HEAD - HEIGHT
            inside = HEIGHT - BOTTOM - drawing.TOP
            corner = (x + LEFT) / width, (base + BOTTOM) / height
            size = (drawing.WIDTH - LEFT - RIGHT) / width, inside / height
            axes = figure.add_axes((*corner, *size), facecolor=light["card"])
            _paint(one, colour)(axes)
            figure.text(x / width, 1 - (y + 16) / height, _heading(one), fontsize=15, weight="bold", color=light["ink"])
            source = shorten_middle(visible(one.source), LONGEST_SOURCE)
            figure.text(x / width, 1 - (y + 35) / height, source, fontsize=11.5, color=light["muted"])
        drawing.replace_missing_signs(figure, back=False)
        figure.savefig(out, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def _card(one: Diagnosis) -> dict[str, Any]:
    """What the page says of one source."""
    return {
        "names": ", ".join(one.names),
        "source": one.source,
        "count": f"{len(one.curves)} {'epochs' if one.axis == 'epoch' else 'points'}",
        "turn": "" if one.turn is None else one.turn.says(one.axis),
        "findings": [
            {key: getattr(f, key) for key in ("name", "confidence", "axis", "pulls", "says", "advice")} for f in one
        ],
        "told": {"How it was read": reading_notes(one.curves), "Not known from these curves": list(one.limits)},
    }
