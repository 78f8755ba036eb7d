"""Nearly equal columns: ridge spreads the weight over them, the lasso selects one, the elastic net does some of both.

    python examples/multicollinearity.py [--figure docs/figures/multicollinearity.svg]

The body-mass index of the diabetes table stands there three times, each with a little noise of its own, beside its blood
pressure. Paths of coefficients over the strength are trained with `wp.regularize`, certified, and compared with scikit-learn.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from torch import nn

import wellposed as wp

NAMES = ("body mass, 1st copy", "2nd copy", "3rd copy", "blood pressure")
STRENGTHS = np.geomspace(2.0, 0.02, 25)
MODELS = ("ridge", "lasso", "elastic net")


def table() -> tuple[np.ndarray, np.ndarray]:
    """Four standardized columns, of which three are nearly equal, and the standardized target."""
    given = load_diabetes()
    draw = np.random.default_rng(0)
    bmi, pressure = (given.data[:, j] / given.data[:, j].std() for j in (2, 3))
    x = np.column_stack([*(bmi + 0.05 * draw.normal(size=len(bmi)) for _ in range(3)), pressure])
    y = given.target[:, None]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def penalty(model: str, strength: float) -> Any:
    """The penalty of a model."""
    return {"ridge": wp.L2(strength), "lasso": wp.L1(strength), "elastic net": wp.ElasticNet(strength, mix=0.5)}[model]


def train(model: str, strength: float, x: np.ndarray, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of a linear model, trained on all rows by SGD with momentum, settled and certified."""
    net = nn.Linear(x.shape[1], 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(start[None]))
    data = torch.tensor(x), torch.tensor(y)
    term = penalty(model, strength).on(wp.weights, how="prox")
    curvature = 2 * np.linalg.norm(x, 2) ** 2 / len(x)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=1 / curvature, momentum=0.9), net, term)
    for _ in range(200):
        optimizer.zero_grad()
        (net(data[0]) - data[1]).square().mean().backward()
        optimizer.step()
    proof = wp.settle(net, "squared_error", data, term, tolerance=1e-9)
    if not wp.certify(net, "squared_error", data, optimizer, tolerance=1e-9).optimal:
        raise RuntimeError(f"{model} at strength {strength:g} is not optimal:\n{proof}")
    return net.weight.detach().numpy()[0].copy()


def oracle(model: str, strength: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """scikit-learn's coefficients, in its conventions."""
    tight = {"fit_intercept": False, "tol": 1e-14, "max_iter": 200_000}
    fitted = {
        "ridge": Ridge(alpha=strength * len(x) / 2, fit_intercept=False, solver="cholesky"),
        "lasso": Lasso(alpha=strength / 2, **tight),
        "elastic net": ElasticNet(alpha=strength / 2, l1_ratio=0.5, **tight),
    }[model].fit(x, y[:, 0])
    found: np.ndarray = fitted.coef_
    return found


def paths() -> tuple[dict[str, np.ndarray], float]:
    """Coefficients ``(strengths, columns)`` of each model, and the largest difference to scikit-learn's."""
    x, y = table()
    found, apart = {}, 0.0
    for model in MODELS:
        rows: list[np.ndarray] = []
        for strength in STRENGTHS:
            rows.append(train(model, float(strength), x, y, rows[-1] if rows else np.zeros(x.shape[1])))
            apart = max(apart, float(np.abs(rows[-1] - oracle(model, float(strength), x, y)).max()))
        found[model] = np.array(rows)
    return found, apart


COLORS = ("#bf4a26", "#96690f", "#a64a80", "#2f75b5")
INK = "#6e7681"
"""Contrast of at least 4.5 on white, and readable on dark ground."""


def draw(found: dict[str, np.ndarray], path: str) -> None:
    """Three small panels, labelled where the lines end."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "wellposed", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.6), sharey=True)
    for axis, (model, rows) in zip(axes, found.items(), strict=True):
        for line, color in zip(rows.T, COLORS, strict=True):
            axis.plot(STRENGTHS, line, color=color, linewidth=1.6, solid_capstyle="round")
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.axhline(0, color=INK, linewidth=0.6)
        axis.set_title(model, color=INK, fontsize=10, loc="left")
        axis.set_xlabel("strength, weaker to the right", color=INK)
        axis.tick_params(colors=INK, which="both", length=2)
        axis.patch.set_alpha(0)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
    axes[0].set_ylabel("coefficient", color=INK)
    end = spread([float(line[-1]) for line in found["elastic net"].T], 0.045)
    for name, color, height in zip(NAMES, COLORS, end, strict=True):
        axes[-1].annotate(
            name, (1.03, height), xycoords=("axes fraction", "data"), color=color, va="center", annotation_clip=False
        )
    figure.tight_layout()
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def spread(heights: list[float], least: float) -> list[float]:
    """The heights, moved apart where labels would overlap."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = [heights[i] for i in order]
    for _ in range(100):
        for i in range(1, len(placed)):
            short = least - (placed[i] - placed[i - 1])
            if short > 0:
                placed[i - 1], placed[i] = placed[i - 1] - short / 2, placed[i] + short / 2
    return [height for _, height in sorted(zip(order, placed, strict=True))]


def main() -> None:
    """Print the coefficients at one strength, and draw the paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", help="where to write the figure (SVG)")
    figure = parser.parse_args().figure
    found, apart = paths()
    near = int(np.argmin(np.abs(STRENGTHS - 0.2)))
    print(f"coefficients at strength {STRENGTHS[near]:.2f}: " + ", ".join(NAMES))
    for model, rows in found.items():
        print(f"  {model:12}" + "  ".join(f"{value:7.4f}" for value in rows[near]))
    print(f"largest difference to scikit-learn over {len(MODELS) * len(STRENGTHS)} models: {apart:.1e}")
    if not math.isfinite(apart) or apart > 1e-6:
        raise SystemExit("the paths do not agree with scikit-learn's")
    if figure:
        draw(found, figure)


if __name__ == "__main__":
    main()
