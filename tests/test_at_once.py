"""At once or after the fact: two problems, with closed forms where there are any."""

from __future__ import annotations

import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the example defines."""
    return runpy.run_path(str(ROOT / "examples" / "at_once.py"), run_name="example")


@pytest.fixture(scope="module")
def found(example: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """What it measures."""
    state = torch.get_rng_state()
    result: dict[str, tuple[float, float, float]] = example["compare"]()
    torch.set_rng_state(state)
    return result


def least_squares(example: dict[str, Any]) -> Tensor:
    x, y = example["data"]()
    return torch.linalg.lstsq(x, y).solution.T


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
def test_training_with_a_bound_solves_the_constrained_problem(example: dict[str, Any], bound: float) -> None:
    net = example["train"](example["linear"](), [wp.MaxNorm(bound).on()])
    torch.testing.assert_close(net.weight.detach(), example["constrained_exactly"](bound), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
def test_projecting_the_solution_does_not(example: dict[str, Any], bound: float) -> None:
    """``bound * w/|w|`` of the free solution is feasible, and worse by the excess that its Hessian gives."""
    x, y = example["data"]()
    free, exact = least_squares(example), example["constrained_exactly"](bound)
    shrunk = bound * free / free.norm()

    def loss(w: Tensor) -> Tensor:
        return (x @ w.T - y).square().mean()

    assert float(exact.norm()) == pytest.approx(bound)
    excess = ((shrunk - free) @ (x.T @ x) @ (shrunk - free).T - (exact - free) @ (x.T @ x) @ (exact - free).T) / len(x)
    assert float(loss(shrunk) - loss(exact)) == pytest.approx(float(excess), rel=1e-9)
    assert float(loss(shrunk)) > 1.01 * float(loss(exact))
    # The constrained solution is the shrunk one only where all columns are alike and uncorrelated.
    angle = float((shrunk * exact).sum()) / bound**2
    assert angle < 0.99


def test_uncorrelated_columns_of_equal_size_make_no_difference() -> None:
    """The limit in which both ways are one: the contours of the loss are circles."""
    draw = torch.Generator().manual_seed(0)
    x, _ = torch.linalg.qr(torch.randn(30, 4, generator=draw).double())
    y = torch.randn(30, 1, generator=draw).double()
    free = (x.T @ y).T
    bound = 0.5 * float(free.norm())
    net = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), lr=5.0), net, [wp.MaxNorm(bound).on()])
    for _ in range(300):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(net.weight.detach(), 0.5 * free, rtol=1e-9, atol=1e-12)


def test_the_lasso_beats_every_other_point_of_its_ball(example: dict[str, Any]) -> None:
    net = example["train"](example["linear"](), [wp.L1(0.4).on()])
    size, best = float(net.weight.detach().abs().sum()), float(example["error"](net).detach())
    after = nn.Linear(example["COLUMNS"], 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        after.weight.copy_(least_squares(example))
    example["on_l1_ball"](after, size)
    assert float(after.weight.detach().abs().sum()) == pytest.approx(size)
    assert float(example["error"](after).detach()) > 1.05 * best
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        rival = copy.deepcopy(net)
        with torch.no_grad():
            w = rival.weight + 0.1 * torch.randn(rival.weight.shape, generator=draw).double()
            rival.weight.copy_(w * size / w.abs().sum())
        assert float(example["error"](rival).detach()) > best


def test_what_the_example_measures(found: dict[str, tuple[float, float, float]]) -> None:
    by_name = {name: values for name, values in found.items() if "again" not in name}
    assert len(by_name) == 5
    for free, at_once, after in by_name.values():
        assert free < at_once < after
    # Where layers build on each other, what is cut afterwards is missing elsewhere.
    for name, (_, at_once, after) in by_name.items():
        if name.startswith("perceptron"):
            assert after > 3 * at_once


def test_the_page_quotes_what_is_measured(
    found: dict[str, tuple[float, float, float]], example: dict[str, Any]
) -> None:
    """Numbers of the linear model to their last digit; those of the perceptron depend on rounding."""
    page = (ROOT / "docs" / "optimization.md").read_text()
    for line in example["table"](found).splitlines()[1:]:
        if line.startswith("linear"):
            assert line in page


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "optimization.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    state = torch.get_rng_state()
    exec("".join(blocks), names)
    torch.set_rng_state(state)
    assert "steepest fall at" in capsys.readouterr().out
    assert names["predictions"].shape == (256, 1)
    assert "perceptron," in page
