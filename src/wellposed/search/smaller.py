"""Score against size: the best recipe as it is, and with a group penalty of growing strength, each model without its zeros.

Proximal steps make whole inputs of the matrices exactly zero, and `compress` removes them with the units that only they read. The
zeros form late in a training, so that the last epoch counts and not the best one. A norm over all units of a layer reads each of
them, and none could leave: where the model's factory says how it does without (``separable``), that is what is trained. All models
are trained together, with a seed on which nothing was chosen, and scored on the validation rows; the test rows are looked at for
the picked one alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wellposed.core.clock import enter_stage
from wellposed.core.errors import CompositionError, InputError, listed
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.confirmation import Confirmed
from wellposed.search.runner import Bench
from wellposed.search.timing import with_epochs
from wellposed.sparsity.compress import Compressed, compress
from wellposed.training.history import Stopped
from wellposed.training.run import Run

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""On tables, from most of the network to little or nothing of it."""
SEEDS = 3000
"""Their seed is so far from the study's own."""
FEWEST_EPOCHS = 10
"""With fewer, hardly a zero has formed."""


def smaller(bench: Bench, shown: Confirmed) -> dict[str, Any]:
    """What ``study.json`` keeps of the models: ``points`` from the largest to the smallest, ``test`` and ``recipe`` of the picked
    one, and ``said`` where there is nothing to choose from. Empty where the study was interrupted.

    The smallest model is picked whose validation score is within one standard error of the best one's, by paired rows.
    """
    if bench.interrupted or not shown.looks:
        return {}
    enter_stage("smaller networks")
    try:
        return _traded(bench, shown)
    except InputError as error:
        return _without(bench, f"Score against size was not measured: {error}")
    except KeyboardInterrupt:
        bench.interrupted = True
        return {}


def _traded(bench: Bench, shown: Confirmed) -> dict[str, Any]:
    compress(shown.pairs[0][1])  # a network that cannot be traced is refused before any of this is trained
    epochs = shown.epochs
    if bench.account.timed:
        alike = [shown.best] * (1 + len(STRENGTHS))
        each = bench.pace.seconds("small", alike, 1, shown.rows or bench.total)
        epochs = min(epochs, int(bench.seconds_until(budget_split.CONFIRMATION) / max(each, 1e-9)))
        if epochs < min(FEWEST_EPOCHS, shown.epochs):
            return _without(bench, "There was no time for smaller networks. Give more time.")
    recipes = [shown.best, *charged(bench, shown.best)]
    lot = [bench.planned("small", one, with_epochs(one, epochs), SEEDS + bench.seed) for one in recipes]
    runs = bench.train("small", lot, shown.rows, ends=bench.until(budget_split.ABLATION))
    ended: list[tuple[float, Run, np.ndarray, Compressed]] = []
    empty = []
    for strength, run in zip((0.0, *STRENGTHS), runs, strict=True):
        if run is None or run.stopped == Stopped.BUDGET or not np.isfinite(scores := run.row_scores("valid")).all():
            continue
        try:
            ended.append((strength, run, scores, compress(run)))
        except InputError:  # it can be traced, as was seen above, so that it is a constant
            empty.append(strength)
    if empty:
        bench.notes.append(f"At strength {listed([f'{one:g}' for one in empty])} nothing would be left of the network.")
    if bench.interrupted:
        return {}
    if not any(small.shrunk for _, _, _, small in ended):
        return _without(bench, "No strength of the group penalty made the network smaller.")
    ended.sort(key=lambda one: -one[3].after.parameters)
    return _judged(ended)


def _judged(ended: list[tuple[float, Run, np.ndarray, Compressed]]) -> dict[str, Any]:
    """All models with their place among the others; the picked one is looked at on the test rows."""
    means = [float(np.mean(scores)) for _, _, scores, _ in ended]
    costs = [(small.after.parameters, -mean) for mean, (_, _, _, small) in zip(means, ended, strict=True)]
    best = ended[int(np.argmax(means))][2]
    points = [
        {
            "strength": strength,
            "parameters": cost[0],
            "before": small.before.parameters,
            "valid": run.score("valid"),
            "valid_se": _error_of_mean(scores),
            "behind": float(np.mean(best - scores)),
            "behind_se": _error_of_mean(best - scores),
            "front": not any(other != cost and other[0] <= cost[0] and other[1] <= cost[1] for other in costs),
        }
        for cost, (strength, run, scores, small) in zip(costs, ended, strict=True)
    ]
    close = [i for i, point in enumerate(points) if point["behind"] <= point["behind_se"]]
    picked = min(close, key=costs.__getitem__)
    points = [{**point, "picked": i == picked} for i, point in enumerate(points)]
    run = ended[picked][1]
    return {"points": points, "test": run.score("test"), "recipe": run.recipe.to_toml()}


def _error_of_mean(values: np.ndarray) -> float:
    """Of the mean over rows."""
    return float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values)))


def _without(bench: Bench, said: str) -> dict[str, Any]:
    bench.notes.append(said)
    return {"points": [], "said": said}


def charged(bench: Bench, recipe: Recipe) -> list[Recipe]:
    """The recipe with a group penalty of each strength on the inputs of all weights, trained to the last epoch; without terms of
    its own where these have no joint step with it, which is noted."""
    separable = {**recipe.model, **getattr(bench.problem.model, "separable", {})}
    plain = recipe.replace(model=separable, stopping={"patience": 0, "keep": "last"})

    def made(own: tuple[Any, ...]) -> list[Recipe]:
        group = {"penalty": "group_l2", "by": "input"}
        return [plain.replace(terms=[*own, {**group, "strength": strength}]) for strength in STRENGTHS]

    found = made(recipe.terms)
    try:
        bench.pace.check(found[0])
    except CompositionError as error:
        bench.notes.append(f"The smaller networks are trained without the recipe's own terms: {error}")
        found = made(())
    return found
