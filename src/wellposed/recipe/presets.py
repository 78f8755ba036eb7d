"""Recipes with names: the plain baseline, and good general ones to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wellposed.core.errors import InputError, RecipeError, did_you_mean, listed
from wellposed.recipe.recipe import Recipe


@dataclass(frozen=True)
class Preset:
    """A recipe with a name and the reason to use it."""

    recipe: Recipe
    says: str


PRESETS: dict[str, Preset] = {
    "baseline": Preset(
        Recipe(),
        "plain AdamW, constant rate, early stopping, no regularizer: what an improvement is measured against",
    ),
    "steady": Preset(
        Recipe(
            optimizer={"name": "adamw", "lr": 2e-3},
            schedule={"name": "cosine", "warmup": 0.05},
            terms=[{"penalty": "l2", "strength": 1e-2}],
            noise={"dropout": 0.1},
            averaging={"ema": 0.99},
        ),
        "AdamW with a cosine, light decay and dropout, averaged weights: a good first choice",
    ),
    "small_data": Preset(
        Recipe(
            batch_size=32,
            optimizer={"name": "adamw", "lr": 2e-3},
            schedule={"name": "one_cycle"},
            terms=[{"penalty": "l2", "strength": 0.1}],
            noise={"dropout": 0.3, "label_smoothing": 0.05, "input": 0.05},
        ),
        "strong decay, dropout and input noise: for hundreds of rows, or where the baseline overfits",
    ),
    "many_inputs": Preset(
        Recipe(
            optimizer={"name": "adam", "lr": 2e-3},
            schedule={"name": "cosine"},
            terms=[
                {"penalty": "group_l2", "strength": 1e-3, "by": "input", "on": "inputs"},
                {"penalty": "l2", "strength": 1e-2, "how": "prox"},
            ],
            noise={"dropout": 0.2},
        ),
        "whole inputs driven to exactly zero: for wide tables in which most columns do not matter",
    ),
    "sparse": Preset(
        Recipe(
            optimizer={"name": "adam", "lr": 2e-3},
            schedule={"name": "cosine"},
            terms=[{"penalty": "l1", "strength": 1e-4}],
        ),
        "single weights driven to exactly zero by a proximal step",
    ),
    "vision": Preset(
        Recipe(
            epochs=50,
            optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
            schedule={"name": "cosine", "warmup": 0.05},
            terms=[{"penalty": "l2", "strength": 5e-4, "how": "loss"}],
            noise={"label_smoothing": 0.1},
            clip=5.0,
        ),
        "SGD with momentum, cosine, L2 in the cost and label smoothing: the classical recipe for convolutional networks",
    ),
}


def as_recipe(given: object) -> Recipe:
    """A recipe from a recipe, a preset's name, or a path to a TOML file.

    Raises:
        RecipeError: it is none of these.
    """
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given].recipe
    if isinstance(given, Path) or (isinstance(given, str) and ("=" in given or given.endswith(".toml"))):
        return Recipe.from_toml(given)
    if isinstance(given, str):
        raise RecipeError(f"There is no preset {given!r}.{did_you_mean(given, PRESETS)} Known: {listed(PRESETS, 20)}.")
    raise InputError(f"A recipe is a wp.Recipe, a preset's name or a path to a .toml file; {given!r} is none of them.")
