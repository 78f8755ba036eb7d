"""Elementwise penalties: global minimizers against a search over grids, limits to known ones, references, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import InputError, ShapeError
from wellposed.core.selectors import Leaf, leaves
from wellposed.ops.nonconvex_prox import hard_threshold, mcp_prox, scad_prox
from wellposed.penalties.base import Penalty
from wellposed.penalties.elementwise import WeightedL1
from wellposed.penalties.nonconvex import L0, MCP, SCAD
from wellposed.penalties.reference import L1SP, L2SP

CURVATURES = (0.05, 0.5, 0.9, 0.999, 1.0, 1.001, 1.5, 3.0, 40.0)
"""Steps times weak convexity: 1 is where the proximal problem stops being convex."""


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nonconvex(name: str, curvature: float) -> tuple[Penalty, float, list[float]]:
    """A penalty, the step at which step * weak convexity is ``curvature``, and the kinks of its value."""
    if name == "l0":
        return L0(0.7), curvature, [0.0]
    gamma, strength = {"mcp": (1.7, 0.6), "flat mcp": (25.0, 0.2), "scad": (3.7, 0.6), "steep scad": (2.05, 1.3)}[name]
    if name.endswith("mcp"):
        return MCP(strength, gamma), curvature * gamma, [0.0, gamma * strength]
    return SCAD(strength, gamma), curvature * (gamma - 1.0), [0.0, strength, gamma * strength]


def each(penalty: Penalty, u: Tensor) -> Tensor:
    """What every weight alone is charged: the value of each entry, by the slope of the sum's gradient, checked below."""
    s = penalty.strength
    size = u.abs()
    if isinstance(penalty, MCP):
        return torch.where(
            size <= penalty.gamma * s, s * size - u.square() / (2 * penalty.gamma), penalty.gamma * s**2 / 2
        )
    if isinstance(penalty, SCAD):
        a = penalty.gamma
        middle = (2 * a * s * size - u.square() - s**2) / (2 * (a - 1))
        return torch.where(size <= s, s * size, torch.where(size <= a * s, middle, s**2 * (a + 1) / 2))
    return s * (u != 0).to(u.dtype)


NONCONVEX = ["mcp", "flat mcp", "scad", "steep scad", "l0"]


@pytest.mark.parametrize("name", NONCONVEX)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_prox_is_the_global_minimizer(name: str, curvature: float) -> None:
    """No point of a fine grid, nor a kink, nor w, is better; and the best of them is no better than rounding allows."""
    penalty, step, kinks = nonconvex(name, curvature)
    reach = 1.2 * max(max(kinks), penalty.strength * (1 + step), math.sqrt(2 * step * penalty.strength))
    w = torch.cat([reach * draw(1, 150), torch.linspace(-reach, reach, 151, dtype=torch.float64)])
    u = penalty.prox(w, step)
    assert torch.equal(u, penalty.prox(w, torch.full_like(w, step)))
    grid = torch.linspace(-1.0, 1.0, 4001, dtype=torch.float64) * 1.05 * float(w.abs().max())
    marks = torch.tensor([sign * kink for kink in kinks for sign in (1, -1)], dtype=torch.float64)
    rivals = torch.cat([grid.expand(len(w), -1), marks.expand(len(w), -1), w[:, None]], dim=1)
    costs = (rivals - w[:, None]).square() / (2 * step) + each(penalty, rivals)
    found = (u - w).square() / (2 * step) + each(penalty, u)
    best = costs.amin(dim=1)
    assert (found <= best + 1e-12 * (1 + best)).all()
    # The grid finds the same minimum up to its width: the charge falls by at most strength times the way.
    width = float(grid[1] - grid[0])
    slope = penalty.strength + float(w.abs().max()) / step
    assert (found >= best - width * slope).all()


@pytest.mark.parametrize("name", NONCONVEX)
def test_steps_of_a_coordinate_do_not_touch_the_others(name: str) -> None:
    """One call with a step for each coordinate is a call for each."""
    penalty, unit, _ = nonconvex(name, 1.0)
    steps = unit * torch.tensor([0.0, *CURVATURES], dtype=torch.float64)
    w = draw(2, 60, 1).expand(60, len(steps)).clone()
    together = penalty.prox(w, steps)
    for i, step in enumerate(steps.tolist()):
        torch.testing.assert_close(together[:, i], penalty.prox(w[:, i], step), rtol=1e-12, atol=1e-15)
    assert torch.equal(together[:, 0], w[:, 0])


@pytest.mark.parametrize("penalty", [MCP(0.6, 1.7), SCAD(0.6, 2.5), L0(0.6)], ids=lambda p: p.name)
def test_value_is_the_sum_of_the_definition(penalty: Penalty) -> None:
    w = 2 * draw(3, 40)
    torch.testing.assert_close(penalty.value(w), each(penalty, w).sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("penalty", "step", "w"),
    [(MCP(1.0, 1.0), 4.0, 2.0), (SCAD(1.0, 3.0), 4.0, 4.0), (SCAD(1.0, 3.0), 9.0, 6.0), (L0(2.0), 1.0, 2.0)],
    ids=str,
)
def test_ties_go_to_the_sparser(penalty: Penalty, step: float, w: float) -> None:
    at = torch.tensor([w, -w], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    assert float(at.square().sum()) / (2 * step) == float(penalty.value(at))
    assert torch.equal(penalty.prox(at, step), zero)
    assert torch.equal(penalty.prox(at, torch.full_like(at, step)), zero)
    above = at * (1 + 1e-12)
    assert torch.equal(penalty.prox(above, step), above)


@pytest.mark.parametrize("step", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("far", [MCP(0.4, 1e13), SCAD(0.4, 1e13)], ids=lambda p: p.name)
def test_mcp_and_scad_with_a_large_gamma_are_l1(far: Penalty, step: float) -> None:
    w, grad, near = 3 * draw(4, 50), draw(5, 50), wp.L1(0.4)
    torch.testing.assert_close(far.prox(w, step), near.prox(w, step), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(far.value(w), near.value(w), rtol=1e-10, atol=0)
    sparse = near.prox(w, 1.0)
    torch.testing.assert_close(far.violation(sparse, grad), near.violation(sparse, grad), rtol=1e-10, atol=0)


@pytest.mark.parametrize("step", [1e-3, 0.3, 5.0])
def test_mcp_with_a_small_gamma_is_l0(step: float) -> None:
    gamma, count = 1e-14, L0(0.4)
    mcp = MCP(math.sqrt(2 * 0.4 / gamma), gamma)
    w = 3 * draw(6, 200)
    assert torch.equal(mcp.prox(w, step), count.prox(w, step))
    torch.testing.assert_close(mcp.value(w), count.value(w), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rates", [1.0, torch.ones(5), torch.ones(4, 1, dtype=torch.float64), torch.ones(()).bool()])
def test_weighted_l1_with_ones_is_l1(rates: Any) -> None:
    w, grad, step = draw(7, 4, 5), draw(8, 4, 5), draw(9, 4, 5).abs()
    weighted, plain = WeightedL1(0.3, rates), wp.L1(0.3)
    for t in (0.0, 0.7, step):
        torch.testing.assert_close(weighted.prox(w, t), plain.prox(w, t), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(weighted.value(w), plain.value(w), rtol=1e-6, atol=0)
    torch.testing.assert_close(weighted.violation(w, grad), plain.violation(w, grad), rtol=1e-6, atol=0)
    assert weighted.prox(w.float(), 0.7).dtype == weighted.value(w.float()).dtype == torch.float32


@pytest.mark.parametrize("reference", [0.0, torch.zeros(5), torch.zeros(4, 1)])
def test_towards_zero_they_are_l1_and_l2(reference: Any) -> None:
    w, grad, step = draw(10, 4, 5), draw(11, 4, 5), draw(12, 4, 5).abs()
    w[0] = 0.0
    for towards, plain in ((L2SP(0.3, reference), wp.L2(0.3)), (L1SP(0.3, reference), wp.L1(0.3))):
        for t in (0.0, 0.7, step):
            torch.testing.assert_close(towards.prox(w, t), plain.prox(w, t), rtol=1e-15, atol=1e-15)
        assert torch.equal(towards.value(w), plain.value(w))
        assert torch.equal(towards.violation(w, grad), plain.violation(w, grad))


def test_the_reference_is_the_origin_of_a_shift() -> None:
    """``prox`` towards ``w0`` is that towards 0 around ``w0``; what is near becomes it bit for bit."""
    w, start = draw(13, 4, 5), draw(14, 5)
    for towards, plain in ((L2SP(0.3, start), wp.L2(0.3)), (L1SP(0.3, start), wp.L1(0.3))):
        torch.testing.assert_close(towards.prox(w, 0.8), start + plain.prox(w - start, 0.8), rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(towards.value(w), plain.value(w - start), rtol=1e-14, atol=0)
    kept = L1SP(10.0, start).prox(w, 1.0)
    assert torch.equal(kept, start.expand(4, 5))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def leaf(model: nn.Module, name: str) -> Leaf:
    return next(found for found in leaves(model) if name in found.aliases)


def test_a_state_dict_is_read_by_name_and_copied_when_bound() -> None:
    model = net()
    pretrained = {name: value + 1 for name, value in model.state_dict().items()}
    for start in (pretrained, model.state_dict(), None, model[2].weight):
        bound = L2SP(0.1, start).at(leaf(model, "2.weight"))
        wanted = pretrained["2.weight"] if start is pretrained else model[2].weight
        assert torch.equal(bound.center, wanted)
        assert not bound.center.requires_grad
        assert bound.center.data_ptr() != model[2].weight.data_ptr()
        assert bound.center.data_ptr() != pretrained["2.weight"].data_ptr()
        assert bound.times(0.5) == L2SP(0.05)
        assert bound.times(0.5).center is bound.center
    low = L1SP(0.1, pretrained["2.weight"].double()).at(leaf(model, "2.weight"))
    assert isinstance(low.reference, torch.Tensor)
    assert low.reference.dtype == torch.float32
    assert L1SP(0.1, 0.5).at(leaf(model, "2.weight")).reference == 0.5


def test_a_tied_parameter_is_found_by_any_of_its_names() -> None:
    model = net()
    model.again = model[2]
    tied = leaf(model, "again.weight")
    assert tied.name == "2.weight"
    start = torch.ones(2, 4)
    assert torch.equal(L2SP(0.1, {"again.weight": start}).at(tied).center, start)


def test_a_reference_that_does_not_fit_is_refused() -> None:
    model = net()
    head = leaf(model, "2.weight")
    with pytest.raises(
        InputError, match=r"L2SP needs a tensor for '2.weight'.*Did you mean '2.weights'\?.*It has: 2.w"
    ):
        L2SP(0.1, {"2.weights": torch.zeros(2, 4), "fc": torch.zeros(2)}).at(head)
    with pytest.raises(
        ShapeError, match=r"L1SP needs a reference of shape \(2, 4\) for '2.weight'; it was given \(4,\)"
    ):
        L1SP(0.1, {"2.weight": torch.zeros(4)}).at(head)
    for refusing in (
        lambda: L1SP(0.1, torch.zeros(3)).at(head),
        lambda: L1SP(0.1, torch.zeros(3)).check("2.weight", head.tensor),
    ):
        with pytest.raises(ShapeError, match=r"shape \(2, 4\) for '2.weight'; it was given \(3,\)"):
            refusing()
    with pytest.raises(InputError, match=r"that of '2.weight' has NaN or infinity"):
        L2SP(0.1, torch.full((4,), math.nan)).at(head)
    for start, text in ((None, "has no reference"), ({}, "has references by name")):
        for penalty in (L2SP(0.1, start), L1SP(0.1, start)):
            for use in (penalty.value, lambda w, p=penalty: p.prox(w, 0.1), lambda w, p=penalty: p.violation(w, w)):
                with pytest.raises(
                    InputError, match=f"{penalty.name.upper().replace('_', '')} {text}.*once it is bound"
                ):
                    use(torch.zeros(2))
    for wrong in (math.nan, math.inf, True, "start"):
        with pytest.raises(
            InputError, match="needs a reference that is a finite number, a tensor, a state_dict or None"
        ):
            L2SP(0.1, wrong)  # type: ignore[arg-type]


def test_rates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"'fc.weight' has shape \(4, 3\), the weights have \(4,\)"):
        WeightedL1(0.1, torch.ones(4)).check("fc.weight", torch.zeros(4, 3))
    with pytest.raises(ShapeError):
        WeightedL1(0.1, torch.ones(1, 1, 3)).check("fc.weight", torch.zeros(4, 3))
    WeightedL1(0.1, torch.ones(4, 1)).check("fc.weight", torch.zeros(4, 3))
    for wrong in (torch.tensor([1.0, -1.0]), torch.tensor([math.inf]), torch.tensor([math.nan]), torch.tensor([1j])):
        with pytest.raises(InputError, match="WeightedL1 needs finite weights >= 0; the tensor"):
            WeightedL1(0.1, wrong)
    for number in (-1.0, math.inf, "1", None):
        with pytest.raises(InputError, match="WeightedL1 needs a finite weights >= 0"):
            WeightedL1(0.1, number)  # type: ignore[arg-type]


def test_rates_are_constants() -> None:
    rates = torch.ones(3, requires_grad=True)
    w = torch.ones(3, requires_grad=True)
    WeightedL1(0.1, rates).value(w).backward()
    assert rates.grad is None
    assert w.grad is not None


@pytest.mark.parametrize("cls", [WeightedL1, MCP, SCAD, L0, L2SP, L1SP])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
def test_impossible_strengths(cls: Any, value: Any) -> None:
    with pytest.raises(InputError, match=f"{cls.__name__} needs a finite strength >= 0"):
        cls(value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "3", True])
def test_impossible_gammas(value: Any) -> None:
    with pytest.raises(InputError, match="MCP needs gamma= to be a number > 0, finite; it was given"):
        MCP(0.1, value)
    with pytest.raises(InputError, match="SCAD needs gamma= to be a number > 2, finite; it was given"):
        SCAD(0.1, value)
    with pytest.raises(InputError, match="SCAD needs gamma= to be a number > 2, finite; it was given 2"):
        SCAD(0.1, 2)


def test_how_they_are_enforced_and_written() -> None:
    for penalty in (WeightedL1(0.1), MCP(0.1), SCAD(0.1), L2SP(0.1), L1SP(0.1)):
        assert penalty.on().how == "prox"
        assert penalty.on(how="loss").how == "loss"
        with pytest.raises(InputError, match="cannot be enforced by how='decay'"):
            penalty.on(how="decay")
    with pytest.raises(InputError, match="L0 cannot be enforced by how='loss'"):
        L0(0.1).on(how="loss")
    assert str(MCP(0.1)) == "MCP(strength=0.1, gamma=3.0)"
    assert str(WeightedL1(0.1, torch.ones(4, 3))) == "WeightedL1(strength=0.1, weights=<4x3>)"
    assert repr(L2SP(0.1)) == "L2SP(strength=0.1)"
    assert repr(L2SP(0.1, torch.ones(4, 3))) == "L2SP(strength=0.1, reference=<4x3>)"
    assert str(L1SP(0.1, {"w": torch.ones(1)})) == "L1SP(strength=0.1, reference=<1 tensors>)"
    for penalty in (WeightedL1(0.1, torch.ones(4, 3)), L2SP(0.1, torch.ones(4, 3))):
        assert hash(penalty) == hash(penalty.times(1.0))
        assert penalty == penalty.times(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_its_type(dtype: torch.dtype) -> None:
    w = draw(15, 8, 3).to(dtype)
    for penalty in (
        WeightedL1(0.3, torch.ones(3)),
        MCP(0.3),
        SCAD(0.3),
        L0(0.3),
        L2SP(0.3, torch.ones(3)),
        L1SP(0.3, 0.5),
    ):
        for step in (0.0, 0.5, 9.0, torch.full((8, 3), 0.5, dtype=dtype)):
            found = penalty.prox(w, step)
            assert found.dtype == penalty.value(w).dtype == penalty.violation(w, w).dtype == dtype
            assert torch.isfinite(found).all()
        assert torch.equal(penalty.prox(w, 0.0), w)


def test_no_negative_zeros() -> None:
    """A zero prints as 0, whatever the sign of the weight that it was."""
    w, zero = torch.tensor([-0.1, -1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for found in (mcp_prox(w, 1.0, 3.0, 5.0), scad_prox(w, 1.0, 3.0, 5.0), hard_threshold(w, 2.0)):
        assert torch.equal(torch.copysign(torch.ones(2, dtype=torch.float64), found), zero + 1)


def test_mcp_solves_a_regression_without_the_bias_of_l1() -> None:
    """On orthonormal columns the proximal step is the solution: large coefficients come back as least squares has them."""
    X = torch.linalg.qr(draw(16, 40, 6)).Q * math.sqrt(40 / 2)
    truth = torch.tensor([3.0, -2.0, 1.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    y = X @ truth + 0.05 * draw(17, 40)
    least = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    for penalty in (MCP(0.3), SCAD(0.3), L0(0.1)):
        w = torch.zeros(6, dtype=torch.float64)
        for _ in range(50):
            grad = 2 / 40 * X.T @ (X @ w - y)
            w = penalty.prox(w - 0.7 * grad, 0.7)
        assert torch.equal(w != 0, truth != 0)
        torch.testing.assert_close(w[:3], least[:3], rtol=1e-9, atol=1e-9)
        assert float(penalty.violation(w, 2 / 40 * X.T @ (X @ w - y), 0.7)) < 1e-8
