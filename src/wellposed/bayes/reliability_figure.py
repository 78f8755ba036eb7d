"""The reliability diagram: the share that is right against the confidence, bin by bin, and how many rows each bin has."""

from __future__ import annotations

import math
from typing import Any

from wellposed.core import drawing
from wellposed.core.records import number_or_nan, rows

HEIGHT = 300
MOST_BINS = 100


def calibration_sentence(record: Any) -> str:
    """What a `Calibration`'s record says in words; empty where a number is missing."""
    keys = ("error", "low", "high", "level", "p_value", "ece", "ece_by_chance", "rows")
    numbers = [number_or_nan(record.get(key)) for key in keys]
    if not all(map(math.isfinite, numbers)):
        return ""
    error, low, high, level, p_value, ece, by_chance, count = numbers
    off = "they are not calibrated" if p_value < 1.0 - level else "chance alone may explain that"
    return (
        f"Confidences are {error:.3f} off the share that is right ({100 * level:g} % interval {low:.3f} to {high:.3f}, {count:.0f} "
        f"rows): {off} (p = {p_value:.3g}). The usual ECE is {ece:.3f}; of as many rows a perfectly calibrated model with these "
        f"confidences would show {by_chance:.3f}."
    )


def reliability_picture(record: Any) -> str:
    """The diagram as a figure of its own: SVG that is readable on white and on dark ground; empty where there is no bin."""
    return drawing.standalone(draw_reliability("reliability", record))


def draw_reliability(name: str, record: Any) -> str:
    """The diagram of a `Calibration`'s record as SVG in a page's colours; empty where the record has no whole bin."""
    keys = ("confidence", "right", "low", "high", "rows")
    found = [[number_or_nan(one.get(key)) for key in keys] for one in rows(record.get("bins"))[:MOST_BINS]]
    bins = [one for one in found if all(map(math.isfinite, one)) and all(0.0 <= part <= 1.0 for part in one[:4])]
    if not bins:
        return ""
    sure, right, *ends, counts = map(list, zip(*bins, strict=True))
    said = (f"{r:.3f} at {c:.3f} ({n:.0f} rows)" for c, r, n in zip(sure, right, counts, strict=True))
    label = f"Share that is right against confidence: {', '.join(said)}"

    def paint(axes: Any) -> None:
        least = min(*sure, *ends[0])
        low = 0.0 if least < 0.4 else math.floor(10.0 * least) / 10.0
        axes.plot([low, 1.0], [low, 1.0], color=drawing.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.vlines(sure, ends[0], ends[1], color=drawing.BEST, linewidth=1.5, zorder=2)
        axes.plot(sure, right, color=drawing.BEST, linewidth=1.2, alpha=0.6, zorder=2)
        drawing.draw_markers(axes, list(zip(sure, right, strict=True)), drawing.BEST, "o")
        for axis, limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
            drawing.ticks(axis, low, 1.0)
            limits(low - 0.02 * (1.0 - low), 1.0 + 0.02 * (1.0 - low))
        axes.set_xlabel("confidence")
        axes.annotate(
            "share that is right", (0, 1), xycoords="axes fraction", xytext=(-40, 6), textcoords="offset points", ha="left",
            va="bottom", color=drawing.MUTED,
        )  # fmt: skip
        for text, at, ha in (("surer than right", (0.97, 0.05), "right"), ("not sure enough", (0.03, 0.92), "left")):
            axes.annotate(text, at, xycoords="axes fraction", ha=ha, color=drawing.MUTED)

    return drawing.render_svg(name, label, HEIGHT, paint, bottom=40)
