"""Regularization is constrained optimization: a strength and a bound trace the same curve, and the multiplier is the strength.

    python examples/constrained.py [--figure docs/figures/constrained.svg]

Linear models on the diabetes table, full batch in double precision: ridge against `wp.L2Ball` and `wp.NormBound`, the lasso
against `wp.L1Ball`. Then a perceptron on digits, trained by Adam in mini-batches: a bound for each of its matrices, the
multipliers that were found, and plain L2 with these as strengths. docs/constrained.md says what to read from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp
from wellposed.penalties.base import Term

STRENGTHS = (1.0, 0.5, 0.2, 0.1, 0.05)
SAME = 1e-8
"""Weights that are nearer than this are one solution."""
BOUNDS = {"0.weight": 5.0, "2.weight": 4.0}


@dataclass(frozen=True)
class Fitted:
    """Weights at which training has come to rest, with loss and gradient of the loss alone."""

    w: Tensor
    grad: Tensor
    loss: float
    multiplier: float | None = None


def table() -> tuple[Tensor, Tensor]:
    """Ten standardized columns and the standardized target."""
    x, y = (torch.tensor(values) for values in load_diabetes(return_X_y=True))
    return (x - x.mean(0)) / x.std(0, correction=0), ((y - y.mean()) / y.std(correction=0))[:, None]


def fitted(term: Term, steps: int = 500) -> Fitted:
    """A linear model without a bias under one term, by SGD with momentum on all rows."""
    x, y = table()
    net = nn.Linear(x.shape[1], 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    curvature = 2 * float(torch.linalg.matrix_norm(x, 2)) ** 2 / len(x)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=0.5 / curvature, momentum=0.9), net, term)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    return Fitted(net.weight.detach(), net.weight.grad, loss.item(), multipliers(optimizer).get("weight"))


def multipliers(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """What `wp.NormBound` has found, by parameter."""
    return {name: float(value) for name, value in optimizer.state_dict()["wellposed"]["multipliers"].items()}


def apart(a: Tensor, b: Tensor) -> str:
    """The largest difference of two weights, or that there is none."""
    difference = float((a - b).abs().max())
    return f"< {SAME:g}" if difference < SAME else f"{difference:.2g}"


def ridge(strength: float) -> list[str]:
    """One row: the penalty, the ball of the same norm, and the bound that finds its multiplier."""
    penalized = fitted(wp.L2(strength).on(how="prox"))
    norm = float(penalized.w.norm())
    ball, bound = fitted(wp.L2Ball(norm).on()), fitted(wp.NormBound(norm).on())
    price = float(ball.grad.norm() / ball.w.norm())
    found = [apart(other.w, penalized.w) for other in (ball, bound)]
    return [f"{strength:.2f}", f"{norm:.6f}", found[0], f"{price:.6f}", found[1], f"{bound.multiplier:.6f}"]


def lasso(strength: float) -> list[str]:
    """One row: the penalty, and the ball of the same norm."""
    penalized = fitted(wp.L1(strength).on())
    norm = float(penalized.w.abs().sum())
    ball = fitted(wp.L1Ball(norm).on())
    zeros = [str(int((one.w == 0).sum())) for one in (penalized, ball)]
    return [
        f"{strength:.2f}", f"{norm:.6f}", apart(ball.w, penalized.w), f"{float(ball.grad.abs().max()):.6f}", *zeros,
    ]  # fmt: skip


def fall(strength: float) -> float:
    """By how much the loss falls per unit of ``1/2 |w|^2``, measured between two bounds that are 1 % apart."""
    norm = float(fitted(wp.L2(strength).on(how="prox")).w.norm())
    low, high = (norm * factor for factor in (0.995, 1.005))
    return (fitted(wp.L2Ball(low).on()).loss - fitted(wp.L2Ball(high).on()).loss) / (0.5 * (high**2 - low**2))


def perceptron(terms: Sequence[Term], steps: int = 1000) -> tuple[nn.Sequential, dict[str, float], float, Tensor]:
    """A perceptron on digits under terms: the model, multipliers, training loss and probabilities."""
    x, y = (torch.tensor(values) for values in load_digits(return_X_y=True))
    x, y = x[:500] / 16, y[:500]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    adam, draw = torch.optim.Adam(net.parameters(), lr=0.01), torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, eta_min=1e-4)
    optimizer = wp.regularize(adam, net, terms)
    for _ in range(steps):
        rows = torch.randint(len(x), (50,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        scores = net(x)
        return net, multipliers(optimizer), float(F.cross_entropy(scores, y)), scores.softmax(1)


def digits() -> tuple[list[list[str]], str]:
    """A row for each matrix, and how far the two networks are apart."""
    free, *_ = perceptron([])
    bounded, found, loss, sure = perceptron([wp.NormBound(bound).on(name) for name, bound in BOUNDS.items()])
    charged, _, again, other = perceptron([wp.L2(found[name]).on(name, how="prox") for name in BOUNDS])
    rows = []
    for name, bound in BOUNDS.items():
        norms = [float(net.get_parameter(name).detach().norm()) for net in (free, bounded, charged)]
        rows.append(
            [name, f"{norms[0]:.1f}", f"{bound:.1f}", f"{norms[1]:.3f}", f"{found[name]:.4f}", f"{norms[2]:.2f}"]
        )
    change = (sure - other).abs()
    return rows, (
        f"training loss {loss:.3f} with the bounds, {again:.3f} with the strengths;\n"
        f"probabilities differ by {float(change.mean()):.4f} on average, by {float(change.max()):.3f} at most"
    )


def printed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with right-aligned columns."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in (header, *rows))


def main() -> None:
    """Print the tables, and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", help="where to write the figure (SVG)")
    figure = parser.parse_args().figure
    print("ridge, and the same norm as a bound")
    header = ["strength", "norm |w|", "ball: apart", "ball: |grad|/|w|", "bound: apart", "bound: multiplier"]
    print(printed(header, [ridge(strength) for strength in STRENGTHS]))
    print(f"at strength 0.20 the loss falls by {fall(0.2):.4f} per unit of 1/2 |w|^2\n")
    print("lasso, and the same norm as a bound")
    header = ["strength", "norm |w|_1", "ball: apart", "ball: max |grad|", "zeros", "ball: zeros"]
    print(printed(header, [lasso(strength) for strength in STRENGTHS]))
    rows, apart_by = digits()
    print("\nperceptron, a bound for each matrix, and then L2 with the multipliers found")
    print(printed(["matrix", "free norm", "bound", "norm", "multiplier", "norm under L2"], rows))
    print(apart_by)
    if figure:
        draw(figure)


INK, LINE, DOT, TANGENT = "#6e7681", "#2f75b5", "#bf4a26", "#a64a80"
"""Contrast of at least 4.5 on white, and readable on dark ground."""
TOUCHED = {"ridge": 2.0, "lasso": 0.5}
"""The strength at which the slope is drawn."""
Point = tuple[float, float]


def curves(model: str) -> tuple[list[Point], list[Point], Point]:
    """What is charged, at strength 1, and the loss: by strengths, by bounds, and at `TOUCHED`."""
    ridged = model == "ridge"

    def charged(found: Fitted) -> Point:
        return float(found.w.square().sum() / 2 if ridged else found.w.abs().sum()), found.loss

    def penalized(strength: float) -> Fitted:
        return fitted(wp.L2(strength).on(how="prox") if ridged else wp.L1(strength).on(), steps=1000)

    strengths = torch.logspace(1.8 if ridged else 0.07, -1.5, 24).tolist()
    line = [penalized(strength) for strength in strengths]
    end = line[-1].w
    radius, ball = (float(end.norm()), wp.L2Ball) if ridged else (float(end.abs().sum()), wp.L1Ball)
    dots = [fitted(ball(radius * share).on(), steps=1000) for share in (0.15, 0.3, 0.55, 0.75, 0.95)]
    return [(0.0, 1.0), *map(charged, line)], [charged(dot) for dot in dots], charged(penalized(TOUCHED[model]))


def draw(path: str) -> None:
    """Loss against what is charged: one curve by strengths and by bounds, and its slope at one point."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "wellposed", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.1), sharey=True)
    for axis, (model, strength) in zip(axes, TOUCHED.items(), strict=True):
        line, dots, (x, y) = curves(model)
        axis.plot(*zip(*line, strict=True), color=LINE, linewidth=1.6)
        axis.plot(*zip(*dots, strict=True), "o", color=DOT, markersize=5)
        reach = 0.25 * line[-1][0] if model == "ridge" else 0.35
        ends = [max(x - reach, 0.0), x + reach]
        axis.plot(ends, [y - strength * (end - x) for end in ends], color=TANGENT, linewidth=1.2)
        axis.plot([x], [y], "D", color=TANGENT, markersize=5, zorder=5)
        says = f"slope -{strength:g}: its strength,\nand the multiplier of its bound"
        axis.annotate(says, (x, y), (8, 8), color=TANGENT, textcoords="offset points")
        if axis is axes[0]:
            axis.annotate("line: by strengths", line[1], (8, -3), color=LINE, textcoords="offset points")
            axis.annotate("dots: by bounds", dots[0], (8, -3), color=DOT, textcoords="offset points")
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(model, color=INK, fontsize=10, loc="left")
        axis.set_xlabel("1/2 |w|^2" if model == "ridge" else "|w|, sum of absolute values", color=INK)
        axis.tick_params(colors=INK, length=2)
        axis.patch.set_alpha(0)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
    axes[0].set_ylabel("training loss", color=INK)
    figure.tight_layout()
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
