"""Schedules of strengths: closed forms, both ends, equality, and what is refused."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from wellposed.core.errors import InputError
from wellposed.optim.schedules import SHAPES, decay_to, ramp, rate_at, shaped, staircase


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
    found = shaped(name, 20, warmup)
    rates = [rate_at(SHAPES[name], 1.0, step, 20, warmup) for step in range(20)]
    assert [found(step) for step in range(20)] == rates
    assert found(20) == found(10**6) == rates[-1]


@pytest.mark.parametrize("make", [lambda: ramp(3), lambda: decay_to(3, 0.5), lambda: staircase({3: 0.5}),
                                  lambda: shaped("cosine", 3, 0.1)])  # fmt: skip
def test_schedules_can_be_shown_compared_and_stored(make: Any) -> None:
    schedule = make()
    assert schedule == make()
    assert hash(schedule) == hash(make())
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert "3" in repr(schedule)
    assert schedule not in (ramp(4), decay_to(4), staircase({4: 0.5}), shaped("cosine", 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ramp(0), "Ramp needs a whole number steps >= 1; it was given 0"),
        (lambda: ramp(True), "steps >= 1; it was given True"),
        (lambda: ramp(2.5), "steps >= 1; it was given 2.5"),  # type: ignore[arg-type]
        (lambda: decay_to(-1), "DecayTo needs a whole number steps"),
        (lambda: decay_to(5, -0.1), r"DecayTo needs floor in \[0, 1\]; it was given -0.1"),
        (lambda: decay_to(5, math.nan), r"floor in \[0, 1\]; it was given nan"),
        (lambda: staircase({}), "at least one step"),
        (lambda: staircase({-1: 0.5}), "step >= 0; it was given -1"),
        (lambda: staircase({1: -0.5}), "finite factor >= 0; it was given -0.5"),
        (lambda: staircase({1: math.inf}), "finite factor >= 0"),
        (lambda: shaped("cosin", 5), "no shape 'cosin'. Did you mean 'cosine'"),
        (lambda: shaped("plateau", 5), "no shape 'plateau'"),
        (lambda: shaped("cosine", 0), "total_steps >= 1"),
        (lambda: shaped("cosine", 5, 1.0), r"warmup in \[0, 1\); it was given 1.0"),
    ],
)  # fmt: skip
def test_impossible_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
