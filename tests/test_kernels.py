"""Proximal steps in place are the operators of `wellposed.ops.prox`, to rounding and with the same zeros."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from wellposed.ops.norms import group_norms
from wellposed.ops.prox import group_soft_threshold, shrink, soft_threshold
from wellposed.optim import kernels
from wellposed.optim.kernels import group_soft_thresholds_, soft_threshold_
from wellposed.optim.optimizer_metrics import METRICS, Diagonal, MetricOrStep, needs_metric


def group_soft_threshold_(w: Tensor, metric: Any, strength: float, axis: int, radius: Tensor | None = None) -> Tensor:
    """`group_soft_thresholds_` of one parameter."""
    return group_soft_thresholds_([w], [metric], [strength], axis, [radius])[0]


SHAPES = ((1, 7), (7, 1), (24, 20), (9, 8, 3, 3))
LAYOUTS = ("contiguous", "transposed", "channels_last", "with gaps")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
STRENGTHS = (1e-3, 0.1, 3.0)

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, eps=1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def drawn(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Weights of unit size in some layout."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if layout == "transposed":
        return w.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "channels_last" and w.ndim == 4:
        return w.contiguous(memory_format=torch.channels_last)
    if layout == "with gaps":
        return torch.stack([w, w], dim=-1)[..., 0]
    return w


def metric_for(w: Tensor, still: str = "some", seed: int = 1) -> Diagonal:
    """Second moments over eight decades; of no, some, a column's, a row's or all coordinates without a gradient."""
    source = torch.Generator().manual_seed(seed)
    second = torch.empty_like(w, dtype=w.dtype)
    second.copy_(10.0 ** (8 * torch.rand(w.shape, generator=source, dtype=torch.float64) - 6))
    if still == "some":
        second[torch.rand(w.shape, generator=source) < 0.3] = 0.0
    elif still == "a column":
        second[:, 0] = 0.0
    elif still == "a row":
        second[0] = 0.0
    elif still == "all":
        second.zero_()
    return Diagonal(second, 0.3, 1e-3)


def copied(w: Tensor) -> Tensor:
    """A copy with the same strides, gaps too."""
    room = torch.zeros(1 + sum((n - 1) * s for n, s in zip(w.shape, w.stride(), strict=True)), dtype=w.dtype)
    return room.as_strided(w.shape, w.stride()).copy_(w)


def steps_of(metric: MetricOrStep) -> float | Tensor:
    """The reference's steps; low precision is computed in float32."""
    if not isinstance(metric, Diagonal):
        return metric
    return metric._replace(second=metric.second.to(torch.promote_types(metric.second.dtype, torch.float32))).steps()


def reference(w: Tensor, metric: MetricOrStep, strength: float, axis: int) -> Tensor:
    """The operator on what has had gradients; what has not stays as long as its group, or as nothing of that has."""
    if not isinstance(metric, Diagonal):
        return group_soft_threshold(w, metric, strength, axis)
    spared = metric.second <= metric.floor
    moving = w.masked_fill(spared, 0.0)
    u = group_soft_threshold(moving, steps_of(metric), strength, axis)
    gone = (group_norms(u, axis) == 0) & (group_norms(moving, axis) > 0)
    return torch.where(spared & ~gone, w, u)


def moved_norms(u: Tensor, metric: MetricOrStep, axis: int) -> Tensor:
    """Norms of the groups without what has had no gradient."""
    moved = u.masked_fill(metric.second <= metric.floor, 0.0) if isinstance(metric, Diagonal) else u
    return group_norms(moved, axis).flatten()


def wide(w: Tensor) -> Tensor:
    return w.to(torch.promote_types(w.dtype, torch.float32))


def starts(norms: Tensor, case: int) -> list[Tensor]:
    """Two by turns: the solution, far from it on both sides, nonsense. Low precision takes another path, without a start."""
    if norms.dtype in (torch.bfloat16, torch.float16):
        return []
    found = [norms, norms * 1e-6, norms * 1e6, torch.full_like(norms, math.nan), norms - 1.0]
    return [found[case % 5], found[(case + 2) % 5]]


def assert_same(got: Tensor, expected: Tensor, w: Tensor, metric: MetricOrStep, name: str = "") -> None:
    """Equal to rounding, equal zeros, and what has no step is untouched."""
    expected, tolerance = expected.to(got.dtype), TOLERANCES[got.dtype]
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * 0.1, equal_nan=True, msg=name or None)
    assert torch.equal(got == 0, expected == 0), name
    if isinstance(metric, Diagonal):
        still = (metric.second <= metric.floor) & (expected != 0)
        assert torch.equal(got[still], w[still]), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_soft_threshold_is_the_operator(dtype: torch.dtype, layout: str) -> None:
    for shape, still, l1, l2 in itertools.product(
        SHAPES, ("none", "some", "a column", "all"), (0.0, *STRENGTHS), (0.0, 0.7)
    ):
        w = drawn(shape, layout, dtype)
        for metric in (metric_for(w, still), 0.2):
            u = copied(w)
            soft_threshold_([u], [metric], [l1], [l2])
            steps = steps_of(metric)
            expected = shrink(soft_threshold(wide(w), steps * l1), steps * l2)
            assert u.stride() == w.stride()
            assert_same(u, expected, w, metric, f"{shape} {still} {l1} {l2}")


@pytest.mark.parametrize(
    ("layout", "dtype", "axis"),
    [
        # Half of them: each layout in each precision, by unit or by input.
        pytest.param(layout, dtype, axis, marks=() if (i + j + axis) % 2 == 0 else pytest.mark.nightly)
        for i, layout in enumerate(LAYOUTS)
        for j, dtype in enumerate(DTYPES)
        for axis in (0, 1)
    ],
)
def test_the_group_threshold_is_the_operator_from_any_start(layout: str, dtype: torch.dtype, axis: int) -> None:
    cases = itertools.product(SHAPES, ("none", "some", "a row", "all", None), STRENGTHS)
    for case, (shape, still, strength) in enumerate(cases):
        w = drawn(shape, layout, dtype)
        strength *= math.sqrt(w.numel() / w.shape[axis])
        metric = 0.2 if still is None else metric_for(w, still)
        expected = reference(wide(w), metric, strength, axis)
        norms = moved_norms(expected, metric, axis).to(dtype)
        for start in (None, *starts(norms, case)) if still else (None,):
            u = copied(w)
            radius = group_soft_threshold_(u, metric, strength, axis, start)
            assert_same(u, expected, w, metric, f"{shape} {still} {strength} {start}")
            assert radius.shape == (w.shape[axis],)
            assert torch.equal(radius == 0, norms == 0)
            torch.testing.assert_close(radius, moved_norms(u, metric, axis), rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_reference_in_double_precision_agrees(axis: int, dtype: torch.dtype) -> None:
    w = drawn((200, 300), "contiguous", dtype)
    metric = metric_for(w)
    exact = metric._replace(second=metric.second.double())
    for strength in (0.1, 1.0, 10.0):
        u, v = w.clone(), w.clone()
        group_soft_threshold_(u, metric, strength, axis)
        assert_same(u, reference(w.double(), exact, strength, axis), w, metric)
        soft_threshold_([v], [metric], [strength], [0.0])
        assert_same(v, soft_threshold(w.double(), exact.steps() * strength), w, metric)


@pytest.mark.parametrize("name", sorted(cls.__name__ for cls in METRICS))
@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_metric_of_an_optimizer(name: str, count: int) -> None:
    w = drawn((12, 9), "contiguous", torch.float64)
    optimizer = OPTIMIZERS[name]([w])
    for step in range(count):
        w.grad = drawn((12, 9), "contiguous", torch.float64, seed=step + 5)
        w.grad[:, 2] = 0.0
        look = needs_metric(optimizer).before
        before = look(w, optimizer.param_groups[0], optimizer.state[w]) if look else {}
        optimizer.step()
    metric = needs_metric(optimizer)(optimizer.param_groups[0], {**optimizer.state[w], **before}, count)
    for strength in (0.01, 0.3):
        u, v = w.clone(), w.clone()
        soft_threshold_([u], [metric], [strength], [0.0])
        assert_same(u, soft_threshold(w, steps_of(metric) * strength), w, metric)
        group_soft_threshold_(v, metric, strength, 0)
        assert_same(v, reference(w, metric, strength, 0), w, metric)


def several(count: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[MetricOrStep]]:
    """Tensors of several shapes with metrics of several families, some large enough to be cut."""
    shapes = ((4, 4), (3, 4), (4, 4, 3, 3), (2, 36), (1, 5), (300, 70))
    ws = [drawn(shapes[i % len(shapes)], LAYOUTS[i // 7 % 4], dtype, seed=i) for i in range(count)]
    metrics = [metric_for(w, ("some", "none", "a column")[i % 3], seed=i + 100) for i, w in enumerate(ws)]
    return ws, [m if i % 5 else 0.1 for i, m in enumerate(metrics)]


@pytest.mark.parametrize("chunk", [kernels.CHUNK, 1000])
def test_many_tensors_at_once_are_each_alone(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    ws, metrics = several(90)
    l1 = [(0.0, 0.05, 0.2)[i % 3] for i in range(90)]
    l2 = [(0.0, 0.4)[i % 2] for i in range(90)]
    together = [copied(w) for w in ws]
    soft_threshold_(together, metrics, l1, l2)
    for u, w, metric, absolute, square in zip(together, ws, metrics, l1, l2, strict=True):
        steps = steps_of(metric)
        assert_same(u, shrink(soft_threshold(w, steps * absolute), steps * square), w, metric)


@pytest.mark.parametrize("chunk", [kernels.CHUNK, 1000])
@pytest.mark.parametrize("axis", [0, 1])
def test_many_groups_at_once_are_each_alone(axis: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    ws, metrics = several(90)
    strengths = [(0.0, 0.3, 2.0)[i % 3] for i in range(90)]
    radii: list[Any] = [None] * 90
    for _ in range(2):  # cold, then warm
        together = [copied(w) for w in ws]
        radii = group_soft_thresholds_(together, metrics, strengths, axis, radii)
        for u, w, metric, strength, radius in zip(together, ws, metrics, strengths, radii, strict=True):
            assert_same(u, reference(w, metric, strength, axis), w, metric)
            torch.testing.assert_close(radius, moved_norms(u, metric, axis), rtol=1e-5, atol=0)


def test_groups_die_and_come_back() -> None:
    w = drawn((20, 10), "contiguous", torch.float64)
    metric = metric_for(w, "none")
    radius = group_soft_threshold_(w, metric, 1e9, 0)
    assert not w.any()
    assert not radius.any()
    for size in (1e-9, 1.0):  # a small push leaves them at 0, a large one brings them back
        pushed = size * drawn((20, 10), "contiguous", torch.float64, seed=3)
        w = pushed.clone()
        radius = group_soft_threshold_(w, metric, 0.5, 0, radius)
        assert_same(w, reference(pushed, metric, 0.5, 0), pushed, metric)
        assert bool(w.any()) == (size == 1.0)


def test_a_run_of_steps_stays_with_the_operator() -> None:
    w = drawn((40, 30), "contiguous", torch.float32)
    radius = None
    for step in range(30):
        w += 0.05 * drawn((40, 30), "contiguous", torch.float32, seed=step)
        metric = metric_for(w, "none", seed=step // 10)
        expected = reference(w, metric, 0.02 * step, 0)
        before = w.clone()
        radius = group_soft_threshold_(w, metric, 0.02 * step, 0, radius)
        assert_same(w, expected, before, metric)


def evaluations(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> int:
    """How often the secular equation is evaluated."""
    count = 0
    spread = kernels._spread

    def counted(*arguments: Any) -> Tensor:
        nonlocal count
        count += 1
        return spread(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_spread", counted)
        run()
    return count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_warm_start_saves_evaluations(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    w = drawn((8, 30), "contiguous", dtype)  # one block
    spread = torch.rand(w.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    metric = Diagonal((10.0 ** (2 * spread - 2)).to(dtype), 0.3, 1e-3)
    radius = group_soft_threshold_(w.clone(), metric, 0.1, 0)
    known = evaluations(monkeypatch, lambda: group_soft_threshold_(w.clone(), metric, 0.1, 0, radius))
    near = evaluations(monkeypatch, lambda: group_soft_threshold_(w.clone(), metric, 0.1, 0, radius * 1.001))
    far = evaluations(monkeypatch, lambda: group_soft_threshold_(w.clone(), metric, 0.1, 0, radius * 1e6))
    assert known == 1
    assert near == (2 if dtype == torch.float32 else 3)
    assert far <= 6


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("adaptive", [False, True])
def test_groups_of_any_size(size: float, adaptive: bool) -> None:
    """As in float64, whose squares fit: also beside a group of ordinary size, and where the step is far from the weights."""
    for step in (size, 1.0):
        w = drawn((6, 5), "contiguous", torch.float32)
        w[:3] *= size
        second = torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) + 0.1
        metric = Diagonal(second, step, 1e-3) if adaptive else step
        steps = metric.steps().double() if isinstance(metric, Diagonal) else metric
        u = w.clone()
        group_soft_threshold_(u, metric, 0.2, 0)
        wanted = group_soft_threshold(w.double(), steps, 0.2, 0)
        for rows in (slice(3), slice(3, None)):
            room = 1e-5 * float(w[rows].abs().max())
            torch.testing.assert_close(u[rows].double(), wanted[rows], rtol=1e-5, atol=room)
            assert torch.equal(u[rows] == 0, wanted[rows] == 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number_ends_and_stays_in_its_group(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    w = drawn((6, 5), "contiguous", torch.float32)
    metric = metric_for(w, "none")
    expected = reference(w, metric, 0.3, 0)
    u, v = w.clone(), w.clone()
    u[2, 3] = v[2, 3] = bad
    assert evaluations(monkeypatch, lambda: group_soft_threshold_(u, metric, 0.3, 0)) < 20
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(u[others], expected[others], rtol=2e-5, atol=2e-6)
    wanted = w[2].clone()
    wanted[3] = bad
    torch.testing.assert_close(u[2], wanted, rtol=0, atol=0, equal_nan=True)  # its group comes back as it is
    soft_threshold_([v], [metric], [0.3], [0.0])
    assert int((~torch.isfinite(v)).sum()) == 1


def test_nothing_to_do_changes_no_bit() -> None:
    w = drawn((6, 5), "contiguous", torch.float32)
    empty = torch.empty(0, 5)
    for metric in (metric_for(w), metric_for(w).times(0.0), 0.2, 0.0):
        u, strength = w.clone(), 0.0 if metric == 0.2 or (isinstance(metric, Diagonal) and metric.scale) else 0.5
        soft_threshold_([u, empty], [metric, 0.1], [strength, 0.1], [0.0, 0.0])
        (radius, none) = group_soft_thresholds_([u, empty], [metric, 0.1], [strength, 0.1], 0, [None, None])
        assert torch.equal(u, w)
        torch.testing.assert_close(radius, moved_norms(w, metric, 0))
        assert none.shape == (0,)
    soft_threshold_([], [], [], [])
    assert group_soft_thresholds_([], [], [], 0, []) == []


def test_parameters_and_not_copies_are_changed() -> None:
    parameter = torch.nn.Parameter(drawn((6, 5), "contiguous", torch.float32))
    metric, before, version = metric_for(parameter.detach()), parameter.data_ptr(), parameter._version
    second = metric.second.clone()
    soft_threshold_([parameter], [metric], [10.0], [0.0])
    group_soft_threshold_(parameter, metric, 10.0, 0)
    assert parameter.data_ptr() == before
    assert parameter.requires_grad
    assert parameter._version > version, "autograd must see that a saved weight has changed"
    assert torch.equal(metric.second, second)


class Memory(TorchDispatchMode):
    """The most bytes alive in storages that were allocated inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int]] = {}
        self.most = 0

    def now(self) -> int:
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        return sum(size for _, size in self.alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {
            x.untyped_storage().data_ptr()
            for x in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(x, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in inputs:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = (
                    torch.multiprocessing.reductions.StorageWeakRef(storage),
                    storage.nbytes(),
                )
        self.most = max(self.most, self.now())
        return result


@pytest.mark.parametrize(
    "shapes", [((400, 300), (300, 200)), ((16, 16),) * 200, ((64, 32, 3, 3), (8, 8, 1, 1), (500, 64))]
)
def test_scratch_is_smaller_than_the_weights_and_nothing_stays(shapes: tuple[tuple[int, ...], ...]) -> None:
    ws = [drawn(shape, "contiguous", torch.float32) for shape in shapes]
    metrics: list[MetricOrStep] = [metric_for(w) for w in ws]
    size = sum(w.numel() * w.element_size() for w in ws)
    with Memory() as memory:
        soft_threshold_(ws, metrics, [0.1] * len(ws), [0.0] * len(ws))
        assert 0 < memory.most <= size
        assert memory.now() == 0
        for axis in (0, 1):
            memory.most = 0
            radii = group_soft_thresholds_(ws, metrics, [0.1] * len(ws), axis, [None] * len(ws))
            assert 0 < memory.most <= size
            assert memory.now() == sum(w.shape[axis] * w.element_size() for w in ws)
            del radii


class Calls(TorchFunctionMode):
    """Calls of operators from Python; questions about a tensor are none."""

    ASKED = ("numel", "stride", "is_contiguous", "dim", "size", "__get__", "__len__")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") not in self.ASKED
        return func(*args, **(kwargs or {}))


def test_many_small_tensors_cost_a_handful_of_calls() -> None:
    found: dict[str, list[int]] = {"soft": [], "unit": [], "input": []}
    for count in (64, 512):
        ws = [drawn((16, 16), "contiguous", torch.float32, seed=i) for i in range(count)]
        metrics: list[MetricOrStep] = [metric_for(w, "none") for w in ws]
        radii = [group_norms(w, 0).flatten() for w in ws]
        rest: tuple[Any, ...] = ([0.01] * count, [0.0] * count)
        for name, run in {
            "soft": lambda ws=ws, metrics=metrics, rest=rest: soft_threshold_(ws, metrics, *rest),
            "unit": lambda ws=ws, metrics=metrics, rest=rest, radii=radii: group_soft_thresholds_(
                ws, metrics, rest[0], 0, radii
            ),
            "input": lambda ws=ws, metrics=metrics, rest=rest, radii=radii: group_soft_thresholds_(
                ws, metrics, rest[0], 1, radii
            ),
        }.items():
            with Calls() as calls:
                run()
            found[name].append(calls.count)
    for name, (few, many) in found.items():
        assert many <= few * 1.5, (name, few, many)


def broken(name: str) -> tuple[str, Any]:
    """A part of the kernels that is deliberately wrong."""
    original, threshold = kernels._Scale.of, torch.threshold

    def unfrozen(second: Tensor, floor: float, value: float, out: Tensor) -> Tensor:
        return out.copy_(second)

    def no_floor(second: Tensor, floor: float, value: float, out: Tensor) -> Tensor:
        return threshold(second, 1e-3, value, out=out)

    def doubled(metric: MetricOrStep, strength: float) -> Any:
        found = original(metric, strength)
        return found._replace(amount=2 * found.amount)

    def rootless(metric: MetricOrStep, strength: float) -> Any:
        return original(metric, strength)._replace(root=False)

    def off_by_some(x: Tensor) -> Tensor:
        return _sums(x) * (1 + 1e-4)

    _sums = kernels._group_sums
    return {
        "a coordinate without a gradient moves": ("torch.threshold", unfrozen),
        "a small gradient is taken for none": ("torch.threshold", no_floor),
        "the root is forgotten": ("_Scale.of", staticmethod(rootless)),
        "the strength is doubled": ("_Scale.of", staticmethod(doubled)),
        "a norm is slightly off": ("_group_sums", off_by_some),
        "one step of Newton, warm or not": ("NEWTON_STEPS", 1),
        "rows are taken for columns": ("_by_stride", lambda w: list(range(w.ndim))[::-1]),
        "packed weights are not written back": ("_unpack", lambda flat, part: None),
        "a chunk is left out": ("_parts", lambda items, size: iter([items[:1]])),
    }[name]


WRONG = (
    "a coordinate without a gradient moves",
    "a small gradient is taken for none",
    "the root is forgotten",
    "the strength is doubled",
    "a norm is slightly off",
    "one step of Newton, warm or not",
    "rows are taken for columns",
    "packed weights are not written back",
    "a chunk is left out",
)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, wrong = broken(name)
    *path, attribute = where.split(".")
    owners = {"": kernels, "_Scale": kernels._Scale, "torch": torch}
    monkeypatch.setattr(owners["".join(path)], attribute, wrong)
    for check in (
        lambda: test_the_soft_threshold_is_the_operator(torch.float64, "transposed"),
        lambda: test_many_tensors_at_once_are_each_alone(kernels.CHUNK, monkeypatch),
        lambda: test_the_group_threshold_is_the_operator_from_any_start("contiguous", torch.float64, 0),
        lambda: test_many_groups_at_once_are_each_alone(1, kernels.CHUNK, monkeypatch),
    ):
        try:
            check()
        except (AssertionError, RuntimeError, KeyError, ValueError, TypeError):
            return
    pytest.fail("no check has seen it")
