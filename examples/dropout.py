"""What dropout does to the hidden units of a network: less co-adaptation, measured three ways on images of digits.

Run: python examples/dropout.py                              prints the numbers (about ten seconds)
     python examples/dropout.py docs/figures/dropout.svg     and draws them
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp

RATE, SEEDS, ROWS, EPOCHS, UNITS = 0.5, 5, 600, 100, 128
INK, PLAIN, DROPPED = "#6e7681", "#bf4a26", "#2f75b5"  # contrast of at least 4.5 on white, and readable on dark ground


def trained(rate: float, seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network with two hidden layers of rectified linear units, and validation rows that it was not trained on."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    random = torch.Generator().manual_seed(seed)
    train, valid = torch.randperm(len(x), generator=random).split([ROWS, len(x) - ROWS])
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0)
    with wp.perturb(net, [wp.Dropout(rate).on(nn.ReLU)], seed=seed):
        for _ in range(EPOCHS):
            for rows in train[torch.randperm(ROWS, generator=random)].split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    return net.eval(), x[valid], y[valid]


def correlation(h: Tensor) -> float:
    """Mean absolute correlation of two hidden units over the validation rows, among the units that are not constant."""
    moving = h[:, h.std(0) > 1e-6]
    c = torch.corrcoef(moving.T).abs()
    return float((c.sum() - len(c)) / (len(c) * (len(c) - 1)))


def deletions(net: nn.Sequential, h: Tensor) -> Tensor:
    """Delete each first-layer unit alone: by how much the predicted probabilities move (total variation, %), sorted."""
    rest, whole = net[2:], net[2:](h).softmax(1)
    effects = []
    for unit in range(UNITS):
        without = h.clone()
        without[:, unit] = 0
        effects.append(50 * (rest(without).softmax(1) - whole).abs().sum(1).mean())
    return torch.stack(effects).sort(descending=True).values


@torch.no_grad()
def measured(net: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float | Tensor]:
    """How much the units of a trained network depend on each other."""
    first = net[:2](x)
    second = net[2:4](first)
    effects = deletions(net, first)
    weights = net[0].weight
    return {
        "validation error, %": float((net(x).argmax(1) != y).double().mean()) * 100,
        "mean |correlation| of units, layer 1": correlation(first),
        "mean |correlation| of units, layer 2": correlation(second),
        "mean |correlation| of incoming weights, layer 1": correlation(weights.T),
        "one unit of layer 1 deleted: mean change of probabilities, %": float(effects.mean()),
        "one unit of layer 1 deleted: largest change, %": float(effects[0]),
        "share of units that are active, layer 1": float((first > 0).double().mean()),
        "share of units that are active, layer 2": float((second > 0).double().mean()),
        "mean activation, layer 1": float(first.mean()),
        "mean activation, layer 2": float(second.mean()),
        "effects": effects,
    }


def table(plain: list[dict], dropped: list[dict]) -> str:
    """Means over the seeds with their standard deviations, and in how many seeds dropout's is the lower one."""
    lines = [f"{f'mean and standard deviation of {SEEDS} seeds':62}{'plain':>16}{f'dropout {RATE}':>16}   lower with"]
    for name in plain[0]:
        if name != "effects":
            a, b = (torch.tensor([found[name] for found in side]) for side in (plain, dropped))
            cells = "".join(f"{f'{v.mean():.3g} ± {v.std():.1g}':>16}" for v in (a, b))
            lines.append(f"{name:62}{cells}   {int((b < a).sum())} of {SEEDS}")
    return "\n".join(lines)


def draw(plain: list[dict], dropped: list[dict], path: str) -> None:
    """Left: how much units move together. Right: what the network loses with one unit."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "dropout", "font.size": 10.5, "text.color": INK, "axes.edgecolor": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11.5,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.6, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
        for side, colour in ((plain, PLAIN), (dropped, DROPPED)):
            for layer in (1, 2):
                values = [found[f"mean |correlation| of units, layer {layer}"] for found in side]
                shift = layer + (-0.11 if side is plain else 0.11)
                spread = [shift + 0.025 * (i - (SEEDS - 1) / 2) for i in range(SEEDS)]
                left.plot(spread, values, "o", color=colour, markersize=5.5, markeredgewidth=0)
            for found in side:
                right.plot(range(1, UNITS + 1), found["effects"], color=colour, linewidth=1.4, alpha=0.85)
        beside = {"fontweight": "bold", "va": "center"}
        left.annotate(
            "plain",
            (0.84, mean(plain, 1)),
            ha="right",
            color=PLAIN,
            xytext=(-3, 0),
            textcoords="offset points",
            **beside,
        )
        left.annotate(
            f"dropout {RATE}",
            (1.2, mean(dropped, 1)),
            color=DROPPED,
            xytext=(3, 0),
            textcoords="offset points",
            **beside,
        )
        left.set(xlim=(0.45, 2.5), ylim=(0, None), xticks=[1, 2], xticklabels=["layer 1", "layer 2"])
        left.set_title("Mean |correlation| of two hidden units")
        right.set_title("Change of the prediction without one unit, %")
        right.set(xlabel=f"the {UNITS} units of layer 1, the most important first", xlim=(0, UNITS), ylim=(0, None))
        place = UNITS // 8
        for side, colour, name, up in ((plain, PLAIN, "plain", 14), (dropped, DROPPED, f"dropout {RATE}", 14)):
            height = max(float(found["effects"][place]) for found in side)
            right.annotate(name, (place, height), color=colour, xytext=(8, up), textcoords="offset points", **beside)
        figure.savefig(path, transparent=True, metadata={"Date": None} if path.endswith(".svg") else None, dpi=110)


def mean(side: list[dict], layer: int) -> float:
    """Of one layer's correlations over the seeds."""
    return sum(found[f"mean |correlation| of units, layer {layer}"] for found in side) / len(side)


if __name__ == "__main__":
    torch.set_num_threads(1)
    plain, dropped = ([measured(*trained(rate, seed)) for seed in range(SEEDS)] for rate in (0.0, RATE))
    print(table(plain, dropped))
    for path in sys.argv[1:]:
        draw(plain, dropped, path)
