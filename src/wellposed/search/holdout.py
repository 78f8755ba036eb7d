"""What is studied: a problem with rows that are kept for the end, and the recipe that it begins with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from wellposed.core.errors import ProblemError, WellposedError
from wellposed.recipe.recipe import Recipe
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import TEST_SHARE


def with_test(problem: Problem) -> Problem:
    """The same problem with test rows split off first."""
    changed = Problem.__new__(type(problem))
    changed.__dict__.update({k: v for k, v in problem.__dict__.items() if k not in ("prepared", "metric")})
    changed.data = dataclasses.replace(problem.data, test=TEST_SHARE)
    return changed


@contextlib.contextmanager
def in_a_sentence(what: str) -> Iterator[None]:
    """Whatever somebody's model or data set raises inside is said as one sentence that begins with ``what``.

    Raises:
        ProblemError: it raised something.
    """
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:
        raise ProblemError(f"{what}: {type(error).__name__}: {error}.") from error


def plain_recipe(rows: int) -> Recipe:
    """Plain AdamW; the batch size sets the speed, so small data get small batches and large data large ones."""
    return Recipe(batch_size=32 if rows < 1000 else 128 if rows < 20000 else 256)
