"""Curves drawn with signs, for a terminal: training and validation against the epoch, the turning point marked."""

from __future__ import annotations

import math

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.diagnosis import Diagnosis
from wellposed.diagnosis.turning_point import format_place
from wellposed.logs import Array

HEIGHT = 12  # lines of the drawing: a bend shows, and a screen still has room for the verdict
MARGIN = 10  # signs on the left for the numbers of the axis
NARROWEST = 50  # signs of a line; in less, a curve is no curve
WIDEST = 100  # and in more, the eye does not follow
SIGNS, ASCII = "·●▲─│└", ".o^-|+"


def sketch(diagnosis: Diagnosis, width: int = 80, ascii_only: bool = False) -> str:
    """The curves of a diagnosis as text; empty where there is nothing to draw.

    Args:
        width: signs of a line, at least `NARROWEST`; more than `WIDEST` are not used.
        ascii_only: without signs beyond ASCII, for terminals that have none.
    """
    curves = diagnosis.curves
    sides = [(curves.train_loss, 0), (curves.valid_loss, 1)]
    shown = [y for y, _ in sides if len(measure.finite_values(y)) > 1]
    if width < NARROWEST or not shown:
        return ""
    columns = min(width, WIDEST) - MARGIN - 1
    low, high = _frame(shown)
    signs = ASCII if ascii_only else SIGNS
    canvas = [[" "] * columns for _ in range(HEIGHT)]
    for y, side in sides:
        for column, level in enumerate(_spread(curves.epoch, y, columns)):
            if math.isfinite(level):
                height = (min(max(level, low), high) - low) / (high - low)
                canvas[HEIGHT - 1 - round(height * (HEIGHT - 1))][column] = signs[side]
    lines = [f"{_label(row, low, high):>{MARGIN}}{signs[4]}{''.join(line).rstrip()}" for row, line in enumerate(canvas)]
    lines += [" " * MARGIN + signs[5] + signs[3] * columns, *_below(diagnosis, columns, signs)]
    return "\n".join(line.rstrip() for line in lines)


def _frame(shown: list[Array]) -> tuple[float, float]:
    """From the lowest value to the highest, but not so high that one wild start presses everything else flat."""
    values = np.concatenate([measure.finite_values(y) for y in shown])
    low, high = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.95))
    if high - low > 4 * (usual - low) > 0:
        high = usual
    if not math.isfinite(high - low) or high <= low:
        return low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    return low, high


def _spread(x: Array, y: Array, columns: int) -> list[float]:
    """The curve's mean in each column of the drawing; between two points further apart, the line that joins them."""
    at = np.isfinite(y)
    if at.sum() < 2 or x[-1] <= x[0]:
        return [math.nan] * columns
    edges = np.linspace(x[0], x[-1], columns)
    joined = np.interp(edges, x[at], y[at], left=math.nan, right=math.nan)
    place = np.clip(np.round((x[at] - x[0]) / (x[-1] - x[0]) * (columns - 1)).astype(int), 0, columns - 1)
    total, count = np.bincount(place, y[at], columns), np.bincount(place, minlength=columns)
    return [float(total[i] / count[i]) if count[i] else float(joined[i]) for i in range(columns)]


def _label(row: int, low: float, high: float) -> str:
    """The number beside the first, the middle and the last line."""
    share = {0: 1.0, HEIGHT // 2: 1 - (HEIGHT // 2) / (HEIGHT - 1), HEIGHT - 1: 0.0}.get(row)
    return "" if share is None else f"{low + share * (high - low):.3g} "


def _below(diagnosis: Diagnosis, columns: int, signs: str) -> list[str]:
    """The axis' ends, the mark under the turning point, and what the signs mean."""
    x, turned = diagnosis.curves.epoch, diagnosis.turn
    ends = f"{diagnosis.axis} {format_place(x[0])}", format_place(x[-1])
    lines = [" " * (MARGIN + 1) + ends[0] + ends[1].rjust(columns - len(ends[0]))]
    mark = ""
    if turned is not None and turned.certain and x[-1] > x[0]:
        place = round((turned.epoch - x[0]) / (x[-1] - x[0]) * (columns - 1))
        lines.insert(0, " " * (MARGIN + 1 + place) + signs[2])
        mark = f"   {signs[2]} turned at {diagnosis.axis} {format_place(turned.epoch)}"
    lines.append(" " * (MARGIN + 1) + f"{signs[0]} training loss   {signs[1]} validation loss{mark}")
    return lines
