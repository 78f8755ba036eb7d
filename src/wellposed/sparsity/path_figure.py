"""The path as a figure: norms, validation loss and support against the strength, and which parts enter when."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wellposed.core import drawing

if TYPE_CHECKING:
    from wellposed.sparsity.path import Path

MOST_ROWS = 10
"""Parts whose time of entry is shown by name."""
PANEL, GAP, ROW = 110, 26, 17
"""Heights in the units of the figure: of a panel, between panels, and of a named row."""
BOTTOM = 40


def path_figure(path: Path) -> str:
    """SVG that is readable on white and on dark ground.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    first = [i for i in path.ranking() if path.entered[path.names[i]]][:MOST_ROWS]
    rows = max(1, len(first)) * ROW
    height = 3 * (PANEL + GAP) + rows + 22 + BOTTOM
    x = np.log10([point.strength for point in path.points])
    chosen = ((path.best, drawing.BEST, "best"), (path.one_se, drawing.INK, "1 SE"))

    def paint(axes: Any) -> None:
        figure = axes.figure
        left, _, width, _ = axes.get_position().bounds
        others = [axes, *(figure.add_axes((0, 0, 1, 1)) for _ in range(3))]
        top: float = height - 22
        for one, tall in zip(others, (PANEL, PANEL, PANEL, rows), strict=True):
            one.set_position((left, (top - tall) / height, width, tall / height))
            one.set_xlim(max(x) + 0.05, min(x) - 0.05)
            one.set_xticks([])
            top -= tall + GAP
        norms, losses, sizes, entries = others
        values = np.array([point.norms for point in path.points])
        for i in reversed(range(values.shape[1])):
            norms.plot(
                x,
                values[:, i],
                color=drawing.TRAIN if i in first else drawing.LINE,
                linewidth=1.2,
                zorder=3 if i in first else 2,
            )
        _named(norms, f"norm of the {path.noun}", [0.0, float(np.nanmax(values, initial=0.0)) or 1.0])
        valid, se = (np.array([getattr(point, name) for point in path.points]) for name in ("valid", "valid_se"))
        trained = [point.train for point in path.points]
        losses.fill_between(x, valid - se, valid + se, color=drawing.VALID, alpha=0.18, linewidth=0)
        losses.plot(x, valid, color=drawing.VALID)
        losses.plot(x, trained, color=drawing.TRAIN, linestyle=(0, (4, 2)))
        _named(
            losses,
            "loss: validation with one SE, training (dashed)",
            drawing.axis_limits([*valid[np.isfinite(valid)].tolist(), *trained]),
        )
        counts = [len(point.support) for point in path.points]
        sizes.step(x, counts, where="mid", color=drawing.TRAIN)
        _named(sizes, f"{path.noun} left", [0.0, max(1.0, *counts)])
        for row, i in enumerate(first):
            entries.plot(
                [math.log10(path.entered[path.names[i]]), min(x) - 0.05], [row, row], color=drawing.TRAIN, linewidth=5
            )
        drawing.named_rows(entries, [_short(path.names[i]) for i in first] or ["none"])
        for point, colour, word in chosen:
            place = math.log10(point.strength)
            for one in others:
                one.axvline(place, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
            drawing.draw_markers(losses, [(place, point.valid)], colour, "o")
            if point is not path.best or word == "best":
                norms.annotate(
                    word, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, -12), textcoords="offset points", color=colour
                )  # fmt: skip
        decades = range(math.ceil(min(x)), math.floor(max(x)) + 1)
        entries.set_xticks(list(decades), [f"{10.0**d:g}" for d in decades])
        entries.set_xlabel("strength, from empty to dense")

    label = f"The path of {path.penalty}: {path.sentences()[0]}"
    return drawing.standalone(drawing.render_svg("path", label, height, paint, left=112, bottom=BOTTOM))


def _named(axes: Any, title: str, frame: Any) -> None:
    low, high = frame
    drawing.ticks(axes.yaxis, low, high, most=4)
    axes.set_ylim(low, high + 0.04 * (high - low))
    axes.set_title(title, loc="left", fontsize=12, color=drawing.MUTED, pad=4)


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
