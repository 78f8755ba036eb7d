"""Schedules of the learning rate against torch's, and of strengths: closed forms, both ends, equality, what is refused."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedules

import wellposed as wp
from wellposed.core.errors import InputError, ProblemError, RecipeError
from wellposed.decomposition.learning_curve import as_many_steps
from wellposed.optim.schedules import (
    COURSES,
    SHAPES,
    TORCH_NAMES,
    Plateau,
    PlateauClock,
    decay_to,
    named_schedule,
    ramp,
    rate_at,
    staircase,
)
from wellposed.recipe.recipe import Recipe, ScheduleSpec
from wellposed.training.checkpoint import save_run


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_ramp(steps: int) -> None:
    rise = ramp(steps)
    assert [rise(0), rise(steps), rise(10 * steps)] == [0.0, 1.0, 1.0]
    assert all(rise(step) == step / steps for step in range(steps))


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("steps", [1, 6, 1000])
def test_decay_to(steps: int, floor: float) -> None:
    fall = decay_to(steps, floor)
    assert fall(0) == 1.0
    assert fall(steps) == fall(steps + 1) == floor
    for step in range(steps):
        # cos^2 of half the angle, another way to write it.
        wanted = floor + (1 - floor) * math.cos(0.5 * math.pi * step / steps) ** 2
        assert fall(step) == pytest.approx(wanted, abs=1e-14)
    if steps == 6:
        assert fall(3) == pytest.approx((1 + floor) / 2)


def test_staircase() -> None:
    fall = staircase({2000: 0.1, 1000: 0.5})
    assert [fall(step) for step in (0, 999, 1000, 1999, 2000, 10**9)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    assert staircase({0: 0.0, 10: 3.0})(0) == 0.0
    assert staircase({0: 0.0, 10: 3.0})(10) == 3.0


def test_a_staircase_does_not_change_with_the_mapping_it_came_from() -> None:
    given = {10: 0.5}
    fall = staircase(given)
    given[10] = 7.0
    assert fall(10) == 0.5
    assert fall == staircase(((10, 0.5),))


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_shaped_is_the_learning_rates_factor(name: str, warmup: float) -> None:
    found = named_schedule(name, 20, warmup)
    rates = [rate_at(SHAPES[name], 1.0, step, 20, warmup) for step in range(20)]
    assert [found(step) for step in range(20)] == rates
    assert found(20) == found(10**6) == rates[-1]


@pytest.mark.parametrize("make", [lambda: ramp(3), lambda: decay_to(3, 0.5), lambda: staircase({3: 0.5}),
                                  lambda: named_schedule("cosine", 3, 0.1)])  # fmt: skip
def test_schedules_can_be_shown_compared_and_stored(make: Any) -> None:
    schedule = make()
    assert schedule == make()
    assert hash(schedule) == hash(make())
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert "3" in repr(schedule)
    assert schedule not in (ramp(4), decay_to(4), staircase({4: 0.5}), named_schedule("cosine", 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ramp(0), "Ramp needs steps= to be a whole number >= 1; it was given 0"),
        (lambda: ramp(True), "steps= to be a whole number >= 1; it was given True"),
        (lambda: ramp(2.5), "steps= to be a whole number >= 1; it was given 2.5"),  # type: ignore[arg-type]
        (lambda: decay_to(-1), "DecayTo needs steps= to be a whole number"),
        (lambda: decay_to(5, -0.1), r"DecayTo needs floor= to be a number in \[0, 1\]; it was given -0.1"),
        (lambda: decay_to(5, math.nan), r"a number in \[0, 1\]; it was given nan"),
        (lambda: staircase({}), "at least one step"),
        (lambda: staircase({-1: 0.5}), "stairs= to be a mapping from a whole number >= 0 to a number"),
        (lambda: staircase({1: -0.5}), "it was given {1: -0.5}"),
        (lambda: staircase({1: math.inf}), "it was given {1: inf}"),
        (lambda: named_schedule("cosin", 5), "no shape 'cosin'. Did you mean 'cosine'"),
        (lambda: named_schedule("plateau", 5), "no shape 'plateau'"),
        (lambda: named_schedule("cosine", 0), "total_steps= to be a whole number >= 1"),
        (lambda: named_schedule("cosine", 5, 1.0), r"a number in \[0, 1\); it was given 1.0"),
    ],
)  # fmt: skip
def test_impossible_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# ---- the learning rate, as torch's schedulers move it

BASE, EPOCHS = 0.3, 23


def torch_rates(make: Callable[[torch.optim.Optimizer], Any], count: int, base: float = BASE) -> list[float]:
    """The rates of ``count`` steps of a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def one_cycle(t: int) -> float:
    """No scheduler of torch ends at a hundredth of the rate after a rise from 1/25 that takes 30 % of all steps."""
    progress = t / EPOCHS
    if progress < 0.3:
        return 0.04 + 0.96 * math.sin(math.pi * progress / 0.6) ** 2
    return 0.01 + 0.99 * math.cos(math.pi * (progress - 0.3) / 1.4) ** 2


TORCH: dict[str, list[tuple[dict[str, Any], Callable[[Any], Any]]]] = {
    "constant": [({}, lambda o: torch_schedules.ConstantLR(o, factor=1.0))],
    "cosine": [
        ({"min_lr": 0.0}, lambda o: torch_schedules.CosineAnnealingLR(o, EPOCHS)),
        ({"min_lr": 0.02}, lambda o: torch_schedules.CosineAnnealingLR(o, EPOCHS, eta_min=0.02)),
        ({}, lambda o: torch_schedules.CosineAnnealingLR(o, EPOCHS, eta_min=BASE / 100)),
    ],
    "cosine_restarts": [
        ({"T_0": 4}, lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 4)),
        ({"T_0": 1}, lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 1)),
        ({"T_0": 3, "T_mult": 2}, lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 3, 2)),
        ({"T_0": 2, "T_mult": 3, "min_lr": 0.01}, lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 2, 3, 0.01)),
    ],
    "one_cycle": [({}, lambda o: torch_schedules.LambdaLR(o, one_cycle))],
    "step": [
        ({"step_size": 5}, lambda o: torch_schedules.StepLR(o, 5)),
        ({"step_size": 1, "gamma": 0.5}, lambda o: torch_schedules.StepLR(o, 1, 0.5)),
        ({"gamma": 0.2}, lambda o: torch_schedules.MultiStepLR(o, [12, 18], 0.2)),  # 1/2 and 3/4 of 23
    ],
    "multistep": [
        ({"milestones": [4, 9, 15], "gamma": 0.3}, lambda o: torch_schedules.MultiStepLR(o, [4, 9, 15], 0.3)),
        ({"milestones": [9, 4, 9]}, lambda o: torch_schedules.MultiStepLR(o, [9, 4, 9])),
        ({"milestones": [90]}, lambda o: torch_schedules.MultiStepLR(o, [90])),
    ],
    "exponential": [
        ({"gamma": 0.9}, lambda o: torch_schedules.ExponentialLR(o, 0.9)),
        ({"gamma": 1.1}, lambda o: torch_schedules.ExponentialLR(o, 1.1)),
    ],
    "linear": [
        ({}, lambda o: torch_schedules.LinearLR(o, 1.0, 0.0, EPOCHS)),
        (
            {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5},
            lambda o: torch_schedules.LinearLR(o),  # by its defaults
        ),
    ],
    "polynomial": [
        ({}, lambda o: torch_schedules.PolynomialLR(o, EPOCHS)),
        ({"power": 2.5, "total_iters": 9}, lambda o: torch_schedules.PolynomialLR(o, 9, 2.5)),
        ({"total_iters": 60, "power": 0.5}, lambda o: torch_schedules.PolynomialLR(o, 60, 0.5)),
    ],
    "plateau": [({}, lambda o: torch_schedules.ConstantLR(o, factor=1.0))],  # as long as nothing is a plateau
}
CASES = [(name, *case) for name, cases in TORCH.items() for case in cases]


def test_every_schedule_is_compared_with_torch() -> None:
    assert set(TORCH) == set(COURSES)


@pytest.mark.parametrize(("name", "given", "make"), CASES, ids=lambda value: str(value) if not callable(value) else "")
@pytest.mark.parametrize("per", ["epoch", "step", 7])
def test_rates_are_those_of_torch(name: str, given: dict[str, Any], make: Any, per: Any) -> None:
    """Stepped once an epoch, once a step, or every 7 steps."""
    wanted, each = torch_rates(make, EPOCHS), {"epoch": 4, "step": 1}.get(per, 7)
    spec = ScheduleSpec(name=name, per=per, **given)
    found = [spec.rate(BASE, step, EPOCHS * each, 4) for step in range(EPOCHS * each)]
    assert found == pytest.approx([rate for rate in wanted for _ in range(each)], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("name", "given", "make"), CASES, ids=lambda value: str(value) if not callable(value) else "")
def test_what_counts_counts_epochs_and_what_spans_all_moves_at_each_step(
    name: str, given: dict[str, Any], make: Any
) -> None:
    spec = ScheduleSpec(name=name, **given)
    total = EPOCHS * 3
    found = [spec.rate(BASE, step, total, 3) for step in range(total)]
    counts = {"step_size", "milestones", "T_0", "total_iters"} & set(given) or name == "exponential"
    said = ScheduleSpec(name=name, per="epoch" if counts else "step", **given)
    assert found == [said.rate(BASE, step, total, 3) for step in range(total)]
    whole = [found[i] for i in range(0, total, 3)]
    if counts:
        assert whole == pytest.approx(torch_rates(make, EPOCHS), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_constant_rate_after_a_warmup_is_torchs_linear_rise(name: str) -> None:
    """The rise multiplies what the schedule gives at its start, so that the rate does not jump where it ends."""
    warm, total = 5, 20
    rise = torch_rates(lambda o: torch_schedules.LinearLR(o, 1 / (warm + 1), 1.0, warm), warm + 1)
    spec = ScheduleSpec(name=name, warmup=warm / total)
    found = [spec.rate(BASE, step, total, 1) for step in range(warm + 1)]
    start = found[-1] / BASE
    assert found == pytest.approx([start * rate for rate in rise], rel=1e-12)


def test_a_warmup_does_not_move_the_epoch_of_a_milestone() -> None:
    spec = ScheduleSpec(name="multistep", milestones=[3, 6], warmup=0.2)
    found = [spec.rate(1.0, step, 40, 4) for step in range(40)]
    assert found == pytest.approx([(i + 1) / 9 for i in range(8)] + [1.0] * 4 + [0.1] * 12 + [0.01] * 16)


def test_a_long_training_overflows_nothing() -> None:
    spec = ScheduleSpec(name="exponential", gamma=0.5)
    assert spec.rate(1.0, 10**6, 10**7, 1) == 0.0
    assert ScheduleSpec(name="cosine_restarts", T_0=1).rate(1.0, 10**7, 10**8, 1) == 1.0


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_the_name_of_a_scheduler_of_torch_leads_to_ours(name: str) -> None:
    for called in (name, getattr(torch_schedules, name)):
        with pytest.raises(RecipeError, match=f"torch's {name} is '{TORCH_NAMES[name]}' here.*function of the count"):
            Recipe(schedule={"name": called})


def test_a_schedule_without_settings_says_so() -> None:
    with pytest.raises(RecipeError, match=r"'one_cycle' takes no div_factor\. It takes no settings"):
        Recipe(schedule={"name": "one_cycle", "div_factor": 500})


# ---- a plateau

VALUES = st.floats(-3, 3) | st.floats(0.99, 1.01) | st.sampled_from([math.nan, math.inf, 0.0, 1.0])
PLATEAUS = st.fixed_dictionaries(
    {},
    optional={
        "factor": st.floats(0.05, 0.95),
        "patience": st.integers(0, 4),
        "cooldown": st.integers(0, 3),
        "min_lr": st.sampled_from([0.0, 1e-3, 0.2, 0.5]),
        "threshold": st.sampled_from([0.0, 1e-4, 0.1]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "eps": st.sampled_from([0.0, 1e-6, 1e-2]),
    },
)


def plateaus(
    values: Sequence[float], higher: bool, given: dict[str, Any], base: float
) -> tuple[list[float], list[float]]:
    """Rates after each epoch: ours and torch's."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    theirs = torch_schedules.ReduceLROnPlateau(optimizer, mode="max" if higher else "min", **given)
    ours = PlateauClock(Plateau(**given), higher)
    pairs = []
    for value in values:
        theirs.step(value)
        ours.update(value)
        pairs.append((ours.rate(base), float(optimizer.param_groups[0]["lr"])))
    return [a for a, _ in pairs], [b for _, b in pairs]


@given(st.lists(VALUES, max_size=40), st.booleans(), PLATEAUS, st.sampled_from([0.1, 1.0, 1e-7]))
@settings(max_examples=400, deadline=None)
def test_a_plateau_is_torchs(values: list[float], higher: bool, given: dict[str, Any], base: float) -> None:
    """Bit for bit, with all of its settings, where values are no numbers, and where reductions become too small."""
    ours, theirs = plateaus(values, higher, given, base)
    assert ours == theirs


def test_a_plateau_by_hand() -> None:
    """Two bad epochs are borne, the third reduces; then one epoch is not counted; 0.1 is the floor."""
    clock = PlateauClock(Plateau(factor=0.5, patience=2, cooldown=1, min_lr=0.2, threshold=0.1, threshold_mode="abs"))
    found = []
    for loss in (1.0, 0.95, 0.91, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        clock.update(loss)
        found.append(clock.rate(1.0))
    # 0.95, 0.91 and 0.9 are less than 0.1 better than 1 (0.9 < 1 - 0.1 is false)
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2]


DRAW = torch.Generator().manual_seed(0)
X, XV = torch.randn(60, 5, generator=DRAW), torch.randn(40, 5, generator=DRAW)
Y, YV = ((x[:, 0] + 0.7 * torch.randn(len(x), generator=DRAW) > 0).long() for x in (X, XV))


def problem(**settings: Any) -> wp.Problem:
    def net() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))

    given = {"loss": "cross_entropy", "data": wp.Data(train=(X, Y), valid=(XV, YV)), **settings}
    return wp.Problem(net, **given)


def train(given: wp.Problem | None = None, **settings: Any) -> wp.Run:
    plain = {"epochs": 20, "batch_size": 20, "optimizer": {"name": "sgd", "lr": 0.5}, "stopping": {"patience": 0}}
    return wp.fit(given or problem(), Recipe(**{**plain, **settings}), device="cpu")


@pytest.mark.parametrize("monitor", ["valid_loss", "valid_metric", "train_loss", "train_metric", "cost"])
@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_plateau_in_fit_looks_at_what_it_is_told_to(monitor: str, metric: str) -> None:
    """The rates of each epoch are those of torch's scheduler after the history's values; more accuracy is better, less loss."""
    given = {"factor": 0.5, "patience": 1, "cooldown": 1, "threshold": 0.2, "min_lr": 0.05}
    run = train(problem(metric=metric), schedule={"name": "plateau", "monitor": monitor, **given})
    higher = monitor.endswith("metric") and metric == "accuracy"
    _, theirs = plateaus(run.history[monitor], higher, given, 0.5)
    assert run.history["lr"] == [0.5, *theirs[:-1]]
    assert run.history["lr"][-1] < 0.5


def test_schedules_in_fit_are_stepped_once_an_epoch() -> None:
    """Three steps an epoch; torch's scheduler, once an epoch, through the same number of epochs."""
    for name, course, make in CASES:
        if name not in ("plateau", "one_cycle"):
            run = train(
                epochs=EPOCHS,
                optimizer={"name": "sgd", "lr": BASE},
                schedule={"name": name, "per": "epoch", **course},
            )
            assert run.history["lr"] == pytest.approx(torch_rates(make, EPOCHS), rel=1e-12, abs=1e-15), (name, course)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_every_group_of_an_optimizer_of_ones_own_is_scheduled(per: str) -> None:
    """Each with its own rate, and no group below ``min_lr``."""
    made: list[torch.optim.Optimizer] = []

    def own(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD([{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.1}]))
        return made[0]

    schedule = {"name": "cosine_restarts", "T_0": 3, "min_lr": 0.05, "per": per}
    plain = {"epochs": 3, "batch_size": 60, "stopping": {"patience": 0}}
    wp.fit(problem(), Recipe(**plain, schedule=schedule), device="cpu", optimizer=own)
    cosine = (1 + math.cos(2 * math.pi / 3)) / 2
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx(
        [0.05 + 0.95 * cosine, 0.05 + 0.05 * cosine]
    )


# ---- a schedule of one's own


def halving(count: int) -> float:
    return 0.5**count


def test_a_function_is_torchs_lambda(tmp_path: Path) -> None:
    run = train(epochs=6, schedule=halving)
    assert run.history["lr"] == pytest.approx(torch_rates(lambda o: torch_schedules.LambdaLR(o, halving), 6, 0.5))
    steps = train(epochs=2, schedule={"name": ramp(6), "per": "step"})
    assert steps.history["lr"] == pytest.approx([0.5 * 2 / 6, 0.5 * 5 / 6])
    assert wp.fit_many(problem(), [run.recipe], engine="inprocess")[0].engine.endswith(
        "alone: its schedule is a function of your own"
    )


def test_a_recipe_with_a_function_is_not_written_and_not_lost(tmp_path: Path) -> None:
    recipe = Recipe(schedule=halving)
    for write in (recipe.to_toml, recipe.to_dict):
        with pytest.raises(
            RecipeError, match=r"halving is a function, which cannot be written down. Take one of constant"
        ):
            write()
    assert "halving" in str(recipe)
    assert "halving" in recipe.describe()
    assert "0x" not in str(recipe) + repr(recipe)
    assert recipe.replace(epochs=3).schedule == recipe.schedule
    assert recipe == Recipe(schedule={"name": halving}) != Recipe(schedule=lambda count: 1.0)
    ones, twos = (lambda count: 1.0), (lambda count: 2.0)
    assert Recipe(schedule=ones).differences(Recipe(schedule=twos)).keys() == {"schedule.name"}
    assert recipe.differences(Recipe()).keys() == {"schedule.name"}
    assert not recipe.differences(Recipe(schedule=halving))
    assert Recipe(schedule=ramp(4)) == Recipe(schedule=ramp(4)) != Recipe(schedule=ramp(5))
    run = train(epochs=2, schedule=halving)
    save_run(run, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(RecipeError, match="cannot be written down"):
        wp.improve(problem(), "2 recipes", recipe=recipe, out=tmp_path / "study")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda count: -1.0, "finite factor >= 0"),
        (lambda count: math.nan, "finite factor >= 0"),
        (lambda: 1.0, "A schedule is a function of the step"),
    ],
)
def test_a_function_that_gives_no_factor(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(schedule=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "exponential"}, "schedule 'exponential' needs gamma"),
        ({"name": "exponential", "gama": 0.9}, "takes no gama. Did you mean 'gamma'"),
        ({"name": "exponental", "gamma": 0.9}, "no schedule 'exponental'. Did you mean 'exponential'"),
        ({"name": "exponential", "gamma": "0.9"}, "gamma= to be a number .*; it was given '0.9'"),
        ({"name": "exponential", "gamma": 0.0}, "gamma= to be a number"),
        ({"name": "cosine", "gamma": 0.9}, "takes no gamma"),
        ({"name": "step", "step_size": 0}, "step_size= to be a whole number >= 1 or None"),
        (
            {"name": "multistep", "milestones": 3},
            "milestones= to be a list of which each is a whole number >= 0; it was given 3",
        ),
        ({"name": "multistep", "milestones": [1.5]}, "each is a whole number >= 0"),
        ({"name": "cosine_restarts", "T_0": 2.5}, "T_0= to be a whole number >= 1"),
        ({"name": "cosine_restarts", "T_0": 2, "T_mult": 0}, "T_mult= to be a whole number >= 1"),
        ({"name": "linear", "end_factor": -1.0}, "end_factor= to be a number"),
        ({"name": "polynomial", "power": math.inf}, "power= to be a number"),
        ({"name": "plateau", "factor": 1.0}, r"factor= to be a number in \(0, 1\)"),
        ({"name": "plateau", "patience": -1}, "patience= to be a whole number >= 0"),
        ({"name": "plateau", "threshold": 1.0}, "a relative threshold below 1; it was given 1.0"),
        ({"name": "plateau", "threshold_mode": "relative"}, "threshold_mode= to be 'rel' or 'abs'"),
        ({"name": "plateau", "monitor": "valid_los"}, "Did you mean 'valid_loss'"),
        ({"name": "cosine", "per": "epochs"}, "'epoch', 'step' or a number of steps >= 1"),
        ({"name": "cosine", "per": 0}, "a number of steps >= 1"),
        ({"name": halving, "gamma": 0.9}, "takes no settings"),
        ({"name": torch_schedules.ExponentialLR}, "there is no schedule"),
    ],
)
def test_impossible_schedules(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe(schedule=given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["schedule", "stopping"])
def test_a_metric_that_is_not_there_cannot_be_waited_for(section: str) -> None:
    given = {"schedule": {"name": "plateau"}, "stopping": {}}[section]
    regression = problem(loss="huber", data=wp.Data(train=(X, X[:, :2]), valid=(XV, XV[:, :2])))
    assert regression.metric is None
    with pytest.raises(
        ProblemError, match=rf"\[{section}\] monitor = 'valid_metric' needs a metric, and the problem has none"
    ):
        train(regression, **{section: {**given, "monitor": "valid_metric"}})


def test_a_metric_that_is_not_measured_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wellposed.training.evaluate.KEPT_OUTPUTS", 10)
    with pytest.raises(ProblemError, match=r"the metric is not measured\. Or monitor valid_loss"):
        train(stopping={"monitor": "valid_metric"})
    assert train().stopped == "epochs"


# ---- what else holds schedules


@pytest.mark.parametrize(("name", "given", "make"), CASES, ids=lambda value: str(value) if not callable(value) else "")
def test_schedules_are_written_checked_and_compared(
    name: str, given: dict[str, Any], make: Any, tmp_path: Path
) -> None:
    recipe = Recipe(schedule={"name": name, "per": 3, **given})
    assert Recipe.from_toml(recipe.to_toml()) == recipe == Recipe(**recipe.to_dict()) == recipe.replace()
    other = recipe.replace(schedule={"name": "cosine", "warmup": 0.1})
    assert (other.schedule.warmup, other.schedule.per) == (0.1, 3)
    assert other.schedule.settings == (given if name == "cosine" else {}), "another schedule does not inherit settings"
    assert other.replace(schedule=recipe.schedule) == recipe
    if given and name != "cosine":
        key = sorted(given)[0]
        assert f"schedule.{key}" in recipe.differences(Recipe())
    if name == "multistep":
        (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
        words = [sys.executable, "-m", "wellposed.cli.main", "recipe", "check", str(tmp_path / "r.toml")]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "is a valid recipe" in found.stdout


@pytest.mark.parametrize(("name", "given", "make"), CASES, ids=lambda value: str(value) if not callable(value) else "")
def test_a_learning_curve_keeps_the_rate_of_every_step(name: str, given: dict[str, Any], make: Any) -> None:
    """A quarter of the rows have four times the epochs: counts in epochs go on to be as many steps."""
    recipe = Recipe(epochs=8, batch_size=10, schedule={"name": name, **given})
    fewer = as_many_steps(recipe, 25, 100)
    assert (fewer.epochs, fewer.batch_size) == (40, 13)  # two steps of 13 and 12 rows, where there were ten of 10
    before = [recipe.schedule.rate(1.0, step, 80, 10) for step in range(80)]
    after = [fewer.schedule.rate(1.0, step, 80, 2) for step in range(80)]
    assert after == before
