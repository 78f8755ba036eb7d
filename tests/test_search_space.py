"""The declared space: its dimensions, the recipes at its points, what steers it, and what is taken out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wellposed.data.data import Data
from wellposed.recipe.recipe import Recipe
from wellposed.search.ingredients import FixedPart, contents, ingredients
from wellposed.search.space import Dimension, Space
from wellposed.training.problem import Problem

BASELINE = Recipe(batch_size=32, optimizer={"lr": 3e-3})


def make_net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, 2))


def rows(shape: tuple[int, ...] = (3,)) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, *shape, generator=draw)
    return x, (x.flatten(1)[:, 0] > 0).long()


def problem(model: Any = make_net, data: Any = None, loss: str = "cross_entropy", **more: Any) -> Problem:
    return Problem(model, loss, Data(train=rows() if data is None else data), **more)


def draws(space: Space, count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    names = list(space.dimensions)
    return [space.point(dict(zip(names, draw.random(len(names)), strict=True))) for _ in range(count)]


# --- the declaration -----------------------------------------------------------------------------------------------


def test_a_cocktail_has_at_least_thirteen_regularizers_to_choose_from() -> None:
    space = Space(problem(), BASELINE, ())
    assert len(space.ingredients) >= 13
    assert set(space.refused) == {"cutmix", "cutout"}, "which need images"
    flat = [nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 2)]
    images = Space(problem(lambda: nn.Sequential(*flat), rows((1, 4, 4))), BASELINE, ())
    assert {"cutmix", "cutout"} <= {i.name for i in images.ingredients}


def test_what_the_problem_does_not_take_is_left_out_with_its_reason() -> None:
    x, _ = rows()
    numbers = Space(problem(lambda: nn.Linear(3, 1), (x, x[:, :1]), "squared_error"), BASELINE, ())
    assert {"dropout", "label_smoothing", "confidence"} <= set(numbers.refused)
    assert "no dropout layer" in numbers.refused["dropout"]
    assert not {"dropout", "dropout.size"} & set(numbers.dimensions)
    tokens = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(0))
    embedded = problem(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)), (tokens, rows()[1]))
    assert {"input_noise", "mixup"} <= set(Space(embedded, BASELINE, ()).refused)


def test_presence_is_a_dimension_and_the_size_a_conditional_one() -> None:
    space = Space(problem(), BASELINE, ())
    for ingredient in space.ingredients:
        presence, size = space.dimensions[ingredient.name], space.dimensions[f"{ingredient.name}.size"]
        assert presence.kind == "in"
        assert size.when == ((ingredient.name, (True,)),)
    for point in draws(space, 100):
        for name, dimension in space.dimensions.items():
            assert (name in point) == dimension.active(point)
        assert not (point.get("ema") and point.get("swa")), "two averages at once"
        assert ("rate" in point) == (point["optimizer"] != "sgd")


def test_every_point_is_a_recipe_that_has_what_the_point_says() -> None:
    found = problem(space={"width": [4, 8]})
    space = Space(found, BASELINE, ())
    by_name = {i.name: i for i in space.ingredients}
    for point in draws(space, 100):
        recipe = space.recipe(point)
        for name, ingredient in by_name.items():
            assert ingredient.inside(recipe) == bool(point.get(name)), name
        assert recipe.model == {"width": point["model.width"]}
        assert recipe.optimizer.lr == point.get("rate", point.get("sgd_rate"))


@pytest.mark.parametrize("ingredient", ingredients(), ids=lambda i: i.name)
def test_an_ingredient_that_is_put_in_is_recognized_and_taken_out_again(ingredient: Any) -> None:
    values = BASELINE.model_dump()
    ingredient.put(values, ingredient.high)
    recipe = Recipe(**values)
    assert ingredient.inside(recipe)
    assert not ingredient.inside(BASELINE)
    assert ingredient.removed(recipe) == BASELINE
    assert contents(recipe, BASELINE) == [ingredient], "and is no other one"
    assert ingredient.least <= ingredient.low < ingredient.high <= ingredient.most


def test_parts_are_those_that_differ_from_the_baseline() -> None:
    recipe = BASELINE.replace(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9}, schedule={"name": "cosine"})
    assert [part.name for part in contents(recipe, BASELINE)] == ["optimizer", "schedule"]
    optimizer, schedule = FixedPart("optimizer", BASELINE), FixedPart("schedule", BASELINE)
    assert optimizer.removed(recipe).optimizer == BASELINE.optimizer, "its settings too: adamw takes no momentum"
    assert schedule.removed(optimizer.removed(recipe)) == BASELINE


def test_the_space_is_told_as_data() -> None:
    told = {d["name"]: d for d in Space(problem(space={"width": [4, 8]}), BASELINE, ()).told()}
    assert told["model.width"] == {"name": "model.width", "kind": "choice", "choices": [4, 8]}
    assert told["l2.size"]["when"] == {"l2": [True]}
    assert (told["rate"]["low"], told["rate"]["high"], told["rate"]["log"]) == (pytest.approx(7.5e-4), 1.2e-2, True)


# --- what steers it ------------------------------------------------------------------------------------------------


def regularizers(space: Space) -> float:
    """How many regularizers a recipe has on average."""
    names = [i.name for i in space.ingredients if i.regularizes]
    return float(np.mean([sum(bool(point.get(name)) for name in names) for point in draws(space, 300)]))


def test_a_diagnosis_steers_what_is_tried_first() -> None:
    found = problem(space={"width": [4, 8, 16]})
    overfits, plain, underfits = (Space(found, BASELINE, names) for names in (["overfits"], [], ["underfits"]))
    assert regularizers(overfits) > 1.2 * regularizers(plain) > 1.5 * regularizers(underfits)
    widths = [[p["model.width"] for p in draws(space, 300)] for space in (plain, underfits)]
    assert np.mean(widths[1]) > np.mean(widths[0]) + 0.5, "capacity where it underfits"
    strong, none = (sum(bool(v) for i in ingredients() if i.regularizes for v in [space.starts()[0].get(i.name)])
                    for space in (overfits, underfits))  # fmt: skip
    assert strong >= 3
    assert none == 0
    assert underfits.starts()[0]["model.width"] == 16


def test_starts_are_points_of_the_space() -> None:
    for findings in ([], ["overfits"], ["underfits"]):
        space = Space(problem(space={"width": [4, 8]}), BASELINE, findings)
        for start in space.starts():
            assert space.fits(start)
            assert start["model.width"] in (4, 8)


# --- ranges --------------------------------------------------------------------------------------------------------


def test_values_lie_on_the_scale_of_their_range() -> None:
    rate = Dimension("rate", "size", 1e-4, 1e-2, True, 1e-6, 1.0)
    assert [rate.at(u) for u in (0.0, 0.5, 0.999999)] == pytest.approx([1e-4, 1e-3, 1e-2])
    share = Dimension("share", "size", 0.0, 0.5, False, 0.0, 1.0)
    assert share.at(0.5) == pytest.approx(0.25)
    kind = Dimension("kind", "choice", choices=("a", "b"), odds=(0.25, 0.75))
    assert [kind.at(u) for u in (0.0, 0.24, 0.26, 0.99)] == ["a", "a", "b", "b"]


def test_a_range_widens_up_to_its_bounds_and_shrinks_not_to_nothing() -> None:
    rate = Dimension("rate", "size", 1e-4, 1e-2, True, 5e-5, 1.0)
    assert (rate.side(1e-2), rate.side(1.1e-4), rate.side(1e-3)) == ("high", "low", None)
    assert rate.widened("high").high == pytest.approx(0.03)
    assert rate.widened("low").low == 5e-5
    assert rate.shrunk(1e-3).high == 1e-3
    assert rate.shrunk(1e-9).high > 1e-4


def test_ranges_that_were_changed_are_taken_up_again() -> None:
    space = Space(problem(), BASELINE, (), {"l2.size": [1e-5, 10.0], "gone": [0.0, 1.0]})
    assert (space.dimensions["l2.size"].low, space.dimensions["l2.size"].high) == (1e-5, 10.0)
    assert "gone" not in space.dimensions
