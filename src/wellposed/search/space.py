"""The first space of recipes: which there are, and random draws from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.random import numpy_generator
from wellposed.noise.activations import dropouts
from wellposed.recipe.presets import PRESETS
from wellposed.recipe.recipe import Recipe
from wellposed.training.problem import Problem

BASELINE_RATES = (1e-3, 3e-3, 3e-4, 1e-2, 3e-2)
"""Learning rates of the baseline's own search, the likeliest first; a best one at the border brings the next beyond it."""
STARTERS = ("steady", "small_data")


class Space:
    """Recipes that fit a problem. Draw ``k`` is a function of (seed, k) alone.

    Args:
        problem: says which noise its model and inputs take, and which settings of the model may vary.
        baseline: the tuned baseline; learning rates are drawn around its own.
        findings: names of findings about the baseline; they move the odds.
        seed: of the draws.
    """

    def __init__(self, problem: Problem, baseline: Recipe, findings: Collection[str], seed: int) -> None:
        self.problem, self.baseline, self.seed = problem, baseline, seed
        self.findings = set(findings)
        self.has_dropout = bool(dropouts(problem.build(baseline.model, seed=0)))
        data = problem.prepared
        inputs, target = data.train_clean.batch(torch.arange(min(2, len(data.train_clean))))
        self.floating = isinstance(inputs, Tensor) and inputs.is_floating_point()
        classifying = problem.loss.name in ("cross_entropy", "binary_cross_entropy")
        self.smoothable = (
            classifying and isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()
        )

    def draw(self, k: int) -> Recipe:
        """The ``k``-th proposal: presets that fit first, then random recipes."""
        starters = [r for name in STARTERS if (r := self.fitting(PRESETS[name].recipe)) is not None]
        if k < len(starters):
            return starters[k]
        return self.random(numpy_generator(self.seed, "recipe", k))

    def fitting(self, recipe: Recipe) -> Recipe | None:
        """The recipe without noise that the problem cannot take."""
        noise = {
            "dropout": recipe.noise.dropout if self.has_dropout else None,
            "label_smoothing": recipe.noise.label_smoothing if self.smoothable else 0.0,
            "input": recipe.noise.input if self.floating else 0.0,
        }
        return recipe.replace(noise=noise, model=self.baseline.model)

    def random(self, draw: np.random.Generator) -> Recipe:
        """A random recipe; where the baseline overfits, regularizers are likelier, where it underfits, capacity is."""
        overfits = bool(self.findings & {"overfits", "overconfident"})
        underfits = bool(self.findings & {"underfits", "undertrained"}) and not overfits
        often = 0.75 if overfits else 0.25 if underfits else 0.5
        optimizer = self._optimizer(draw)
        space = self.problem.space
        return Recipe(
            batch_size=int(draw.choice(self._batch_sizes())),
            optimizer=optimizer,
            schedule={"name": str(draw.choice(["constant", "cosine", "one_cycle"], p=[0.3, 0.4, 0.3]))},
            terms=self._terms(draw, often),
            noise=self._noise(draw, often),
            averaging=self._averaging(draw),
            clip=float(draw.choice([0.0, 1.0], p=[0.7, 0.3])),
            model={**self.baseline.model, **{key: _plain(v[draw.integers(len(v))]) for key, v in space.items()}},
        )

    def _batch_sizes(self) -> list[int]:
        """Half, as many and twice as many rows as the baseline's: the batch size sets the speed above all."""
        return [self.baseline.batch_size // 2, self.baseline.batch_size, self.baseline.batch_size * 2]

    def _optimizer(self, draw: np.random.Generator) -> dict[str, Any]:
        """AdamW around the baseline's rate within a factor of 4, or SGD with Nesterov momentum between 0.003 and 0.3."""
        kind = str(draw.choice(["adamw", "adam", "rmsprop", "sgd"], p=[0.5, 0.2, 0.1, 0.2]))
        if kind == "sgd":
            return {"name": "sgd", "lr": _log_uniform(draw, 3e-3, 0.3), "momentum": 0.9, "nesterov": True}
        rate = self.baseline.optimizer.lr
        return {"name": kind, "lr": _log_uniform(draw, rate / 4, rate * 4)}

    def _terms(self, draw: np.random.Generator, often: float) -> list[dict[str, Any]]:
        terms: list[dict[str, Any]] = []
        if draw.random() < often:
            terms.append({"penalty": "l2", "strength": _log_uniform(draw, 1e-3, 1.0)})
        if draw.random() < often / 2:
            terms.append({"penalty": "l1", "strength": _log_uniform(draw, 1e-6, 1e-3)})
        elif draw.random() < often / 4:
            group = {"penalty": "group_l2", "strength": _log_uniform(draw, 1e-6, 1e-3), "by": "input", "on": "inputs"}
            terms.append(group)
        if draw.random() < often / 4:
            terms.append({"penalty": "max_norm", "bound": float(draw.choice([1.0, 2.0, 4.0]))})
        return terms

    def _noise(self, draw: np.random.Generator, often: float) -> dict[str, Any]:
        dropout, smoothing, level = draw.random() < often, draw.random() < often / 2, draw.random() < often / 2
        rates = float(draw.choice([0.1, 0.2, 0.3, 0.5])), float(draw.choice([0.05, 0.1])), _log_uniform(draw, 0.02, 0.3)
        return {
            "dropout": rates[0] if dropout and self.has_dropout else None,
            "label_smoothing": rates[1] if smoothing and self.smoothable else 0.0,
            "input": rates[2] if level and self.floating else 0.0,
        }

    @staticmethod
    def _averaging(draw: np.random.Generator) -> dict[str, float]:
        kind = str(draw.choice(["none", "ema", "swa"], p=[0.5, 0.4, 0.1]))
        if kind == "ema":
            return {"ema": float(draw.choice([0.98, 0.99, 0.999]))}
        return {"swa": 0.3} if kind == "swa" else {}


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if hasattr(value, "item") else value


def _log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    """Two significant digits are enough for a rate or a strength, and people can read them."""
    return float(f"{np.exp(draw.uniform(np.log(low), np.log(high))):.2g}")
