"""At once or after the fact: the same bound, the same number of zeros, and another loss.

    python examples/at_once.py

"First find the weights, then constrain them" solves another problem than "find the best weights that keep to the
constraint". The printed losses are training losses, the mean squared error, on correlated columns.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import wellposed as wp

BOUND = 1.0  # of the norm of each unit's weights
ROWS, COLUMNS = 80, 12


def data() -> tuple[Tensor, Tensor]:
    """Columns that share most of their variance with a common factor, and a target that is not linear in them."""
    draw = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(ROWS, COLUMNS, generator=draw).double() + torch.randn(ROWS, 1, generator=draw).double()
    truth = torch.linspace(-2, 2, COLUMNS).double()
    y = x @ truth + 2 * torch.sin(x[:, 0] * x[:, 1]) + 0.3 * torch.randn(ROWS, generator=draw).double()
    return x - x.mean(0), (y - y.mean())[:, None]


def error(net: nn.Module) -> Tensor:
    """The mean squared error."""
    x, y = data()
    return (net(x) - y).square().mean()


def linear() -> nn.Module:
    """A linear model from zero."""
    net = nn.Linear(COLUMNS, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    return net


def mlp() -> nn.Module:
    """A perceptron with one hidden layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 32), nn.Tanh(), nn.Linear(32, 1)).double()


def train(net: nn.Module, terms: Sequence = (), steps: int = 800) -> nn.Module:
    """Full-batch training, with the rate falling to a thousandth over the second half.

    SGD for the linear model, since a projection is exact in its metric; Adam for the perceptron.
    """
    straight = isinstance(net, nn.Linear)
    make = torch.optim.SGD if straight else torch.optim.Adam
    inner = make(net.parameters(), lr=0.02, **({"momentum": 0.9} if straight else {}))
    optimizer = wp.regularize(inner, net, terms)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * min(1.0, 1e-3 ** (2 * step / steps - 1))
        optimizer.zero_grad()
        error(net).backward()
        optimizer.step()
    return net


def matrices(net: nn.Module) -> list[Tensor]:
    """Weights, not biases."""
    return [p for p in net.parameters() if p.ndim == 2]


def zeros(net: nn.Module) -> int:
    """How many weights are exactly zero."""
    return sum(int((w == 0).sum()) for w in matrices(net))


@torch.no_grad()
def projected(net: nn.Module) -> nn.Module:
    """After the fact: every unit's weights scaled down to the bound."""
    for w in matrices(net):
        w.copy_(wp.MaxNorm(BOUND).project(w))
    return net


@torch.no_grad()
def thresholded(net: nn.Module, count: int) -> nn.Module:
    """After the fact: the ``count`` smallest weights set to zero."""
    sizes = torch.cat([w.abs().flatten() for w in matrices(net)])
    smallest = sizes.sort().values[:count]
    for w in matrices(net):
        w.masked_fill_(w.abs() <= (smallest[-1] if count else -1.0), 0.0)
    return net


@torch.no_grad()
def on_l1_ball(net: nn.Module, bound: float) -> nn.Module:
    """After the fact: the nearest weights whose absolute values sum to ``bound``, a soft threshold found by bisection."""
    (w,) = matrices(net)
    low, high = 0.0, float(w.abs().max())
    for _ in range(100):
        cut = 0.5 * (low + high)
        low, high = (cut, high) if float((w.abs() - cut).clamp_min(0).sum()) > bound else (low, cut)
    w.copy_(w.sign() * (w.abs() - high).clamp_min(0))
    return net


def trained_again(net: nn.Module) -> nn.Module:
    """The weights that are not zero, trained without any term."""
    for w in matrices(net):
        kept = (w != 0).detach()
        w.register_hook(lambda gradient, kept=kept: gradient * kept)
    return train(net)


def constrained_exactly(bound: float) -> Tensor:
    """``argmin |Xw - y|^2`` over ``|w| <= bound``: ``(X'X + mu)^-1 X'y`` with the mu that meets the bound, by bisection."""
    x, y = data()
    low, high = 0.0, 1e6
    for _ in range(200):
        mu = 0.5 * (low + high)
        w = torch.linalg.solve(x.T @ x + mu * torch.eye(COLUMNS).double(), x.T @ y)
        low, high = (mu, high) if float(w.norm()) > bound else (low, mu)
    return w.T


def compare() -> dict[str, tuple[float, float, float]]:
    """Losses of each problem: free, at once, after the fact."""
    found = {}

    def put(name: str, free: nn.Module, at_once: nn.Module, after: nn.Module) -> None:
        found[name] = tuple(float(error(net).detach()) for net in (free, at_once, after))

    for name, make, strength in (("linear", linear, 0.4), ("perceptron", mlp, 0.02)):
        free = train(make())
        bounded, sparse = train(make(), [wp.MaxNorm(BOUND).on()]), train(make(), [wp.L1(strength).on()])
        put(f"{name}, every unit's norm <= {BOUND:g}", free, bounded, projected(copy.deepcopy(free)))
        if name == "linear":
            size = float(sparse.weight.detach().abs().sum())
            put(f"{name}, sum of |w| <= {size:.2f}", free, sparse, on_l1_ball(copy.deepcopy(free), size))
        count = zeros(sparse)
        cut = thresholded(copy.deepcopy(free), count)
        share = f"{count} of {sum(w.numel() for w in matrices(sparse))} weights zero"
        put(f"{name}, {share}", free, sparse, cut)
        put(f"{name}, the same, trained again", free, trained_again(sparse), trained_again(cut))
    return found


def table(found: dict[str, tuple[float, float, float]]) -> str:
    """As text."""
    lines = [f"{'':42}{'free':>9}{'at once':>9}{'after':>9}"]
    return "\n".join([*lines, *(f"{name:42}{a:9.3f}{b:9.3f}{c:9.3f}" for name, (a, b, c) in found.items())])


if __name__ == "__main__":
    print(table(compare()))
