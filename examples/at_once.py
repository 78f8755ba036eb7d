"""At once or after the fact: the same bound, the same number of zeros, and another loss.

    python examples/at_once.py

"First find the weights, then constrain them" solves another problem than "find the best weights that keep to the
constraint". The printed losses are training losses, the mean squared error, on correlated columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import wellposed as wp

BOUND = 1.0  # of the norm of each unit's weights
ROWS, COLUMNS = 80, 12


def data() -> tuple[Tensor, Tensor]:
    """Columns that share half of their variance with a common factor, and a target that is not linear in them."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, COLUMNS, generator=draw).double() + torch.randn(ROWS, 1, generator=draw).double()
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


def train(net: nn.Module, terms: list[wp.penalties.base.Term] = (), steps: int = 1500) -> nn.Module:
    """Full-batch Adam, with the rate falling to a thousandth over the second half."""
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=0.02), net, terms)
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
    """Losses of each problem: unconstrained, at once, after the fact."""
    found = {}
    for name, make, strength in (("linear", linear, 2.0), ("perceptron", mlp, 0.02)):
        free = float(error(train(make())).detach())
        bounded = train(make(), [wp.MaxNorm(BOUND).on()])
        sparse = train(make(), [wp.L1(strength).on()])
        found[f"{name}, every unit's norm <= {BOUND:g}"] = (
            free,
            float(error(bounded).detach()),
            float(error(projected(train(make()))).detach()),
        )
        found[f"{name}, {zeros(sparse)} of {sum(w.numel() for w in matrices(sparse))} weights zero"] = (
            free,
            float(error(sparse).detach()),
            float(error(thresholded(train(make()), zeros(sparse))).detach()),
        )
    return found


def table(found: dict[str, tuple[float, float, float]]) -> str:
    """As text."""
    lines = [f"{'':42}{'free':>9}{'at once':>9}{'after':>9}"]
    return "\n".join([*lines, *(f"{name:42}{a:9.3f}{b:9.3f}{c:9.3f}" for name, (a, b, c) in found.items())])


if __name__ == "__main__":
    print(table(compare()))
