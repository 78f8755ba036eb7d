"""Calls that a signature or its documentation allows, in the forms in which scripts make them."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import wellposed as wp

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
PROBLEM = wp.Problem(lambda: nn.Linear(3, 1), "squared_error", (X, X[:, :1]))


@pytest.mark.parametrize(
    "made", [iter, set, lambda seeds: dict.fromkeys(seeds).keys(), lambda seeds: (s for s in seeds)]
)
def test_a_sequence_may_be_written_as_what_gives_one(made: Callable[[Iterable[int]], Iterable[int]]) -> None:
    recipes = (wp.Recipe(epochs=epochs) for epochs in (1, 2))
    runs = wp.fit_many(PROBLEM, recipes, seeds=made([0, 1]))  # type: ignore[arg-type]
    assert [(run.recipe.epochs, run.seed) for run in runs] == [(1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("seeds", [(s for s in ["a"]), itertools.count(), {0.5}])
def test_what_they_give_is_checked(seeds: object) -> None:
    with pytest.raises(wp.WellposedError, match="fit_many needs seeds= to be a list of which each is a whole number"):
        wp.fit_many(PROBLEM, wp.Recipe(epochs=1), seeds=seeds)  # type: ignore[arg-type]


def test_a_recipe_may_be_a_path(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 1\n")
    assert (
        wp.fit(PROBLEM, path).recipe == wp.fit_many(PROBLEM, path)[0].recipe == wp.fit_many(PROBLEM, [path])[0].recipe
    )
    wp.error_budget(PROBLEM, path, seeds=(0, 1), epochs=3)
    wp.bias_variance(PROBLEM, [path], resamples=3)


def test_a_choice_may_be_a_text_of_a_subclass() -> None:
    choice = enum.StrEnum("choice", ["copy"]).copy  # type: ignore[attr-defined]
    assert wp.Average(nn.Linear(2, 1), ema=0.9, buffers=choice).buffers == "copy"


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("script", [torch.jit.script, lambda net: torch.jit.trace(net, X)])  # type: ignore[no-untyped-call]
def test_a_scripted_model_is_refused_where_it_cannot_be_used(script: Callable[[nn.Module], nn.Module]) -> None:
    net = script(nn.Linear(3, 1))
    for call in (lambda: wp.watch(net, "squared_error", (X, X[:, :1]), (X, X[:, :1])), lambda: wp.Average(net)):
        with pytest.raises(wp.WellposedError, match="as it was before scripting"):
            call()


def test_the_target_of_a_frame_may_be_a_frame_of_one_column() -> None:
    frame = pd.DataFrame(X.numpy(), columns=list("abc"))
    one, other = (wp.Data((frame, target)).prepare() for target in (frame[["a"]], frame["a"]))
    np.testing.assert_array_equal(one.train.targets(), other.train.targets())
    both = wp.Data((frame, frame[["a", "b"]])).prepare().train.targets()
    assert both is not None
    assert both.shape[1:] == (2,)
