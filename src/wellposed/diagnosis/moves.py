"""Moves: small changes, each from a recipe to another one, which a rule names for its finding.

A move leaves the recipe as it is where it finds nothing to do. Torch is not imported here, since rules judge logs without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellposed.diagnosis.advice import Room
    from wellposed.recipe.recipe import Recipe

RecipeMove = Callable[["Recipe", "Room"], "Recipe"]
LOWEST_RATE, HIGHEST_RATE = 1e-7, 10.0
"""Learning rates beyond these are no advice but a bug elsewhere."""


def with_lower_rate(by: float) -> RecipeMove:
    """The learning rate divided by ``by`` > 1."""
    return lambda recipe, room: _rated(recipe, recipe.optimizer.lr / by)


def with_higher_rate(by: float) -> RecipeMove:
    """The learning rate times ``by`` > 1."""
    return lambda recipe, room: _rated(recipe, recipe.optimizer.lr * by)


def _rated(recipe: Recipe, rate: float) -> Recipe:
    return recipe.replace(optimizer={"lr": float(f"{min(max(rate, LOWEST_RATE), HIGHEST_RATE):.2g}")})


USUAL_RATES = {"adamw": 2e-3, "adam": 2e-3, "nadam": 2e-3, "radam": 2e-3, "rmsprop": 1e-3, "adagrad": 2e-2, "sgd": 5e-2}
"""Where each optimizer's learning rate usually lies for small and middle-sized networks, within a factor of ten; SGD's is that
without momentum, and shrinks with it as its steps grow."""


def with_usual_rate(recipe: Recipe, room: Room) -> Recipe:
    """The optimizer's usual learning rate, where the recipe's is a factor of ten or more away from it."""
    if recipe.optimizer.name not in USUAL_RATES:
        return recipe
    usual = USUAL_RATES[recipe.optimizer.name] * (1.0 - float(recipe.optimizer.settings.get("momentum", 0.0)))
    return recipe if 0.1 < recipe.optimizer.lr / usual < 10.0 else _rated(recipe, usual)


def with_more_epochs(by: float) -> RecipeMove:
    """So many times the epochs, and the patience with them."""
    return lambda recipe, room: recipe.replace(
        epochs=round(by * recipe.epochs), stopping={"patience": round(by * recipe.stopping.patience)}
    )


def with_annealing(recipe: Recipe, room: Room) -> Recipe:
    """A learning rate that is warmed up and comes down to zero, so that the end is calm."""
    if recipe.schedule.name in ("cosine", "one_cycle"):
        return recipe
    return recipe.replace(schedule={"name": "cosine", "warmup": max(recipe.schedule.warmup, 0.05)})


def with_clipping(recipe: Recipe, room: Room) -> Recipe:
    """Gradients with a norm of at most 1."""
    return recipe if 0 < recipe.clip <= 1 else recipe.replace(clip=1.0)


def with_adaptive_optimizer(recipe: Recipe, room: Room) -> Recipe:
    """AdamW with a usual rate in the place of another optimizer: each weight gets a step of its own size."""
    if recipe.optimizer.name in ("adamw", "adam", "nadam", "radam"):
        return recipe
    return type(recipe)(**{**recipe.model_dump(), "optimizer": {"name": "adamw", "lr": USUAL_RATES["adamw"]}})


def with_larger_model(recipe: Recipe, room: Room) -> Recipe:
    """The next larger value of each of the model's settings that is a number, where the problem has one."""
    chosen = {}
    for key, values in room.settings.items():
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if key.startswith(("drop", "noise")) or len(numbers) < 2:
            continue
        now = recipe.model.get(key, min(numbers))
        more = sorted(v for v in numbers if isinstance(now, (int, float)) and v > now)
        if more:
            chosen[key] = more[min(1, len(more) - 1)]
    return recipe.replace(model=chosen) if chosen else recipe


MOST_DECAY, MORE_DECAY = 3.0, 10.0


def with_decay(strength: float) -> RecipeMove:
    """Decay of the weights with ``strength``; ten times as much where there is decay already."""

    def move(recipe: Recipe, room: Room) -> Recipe:
        own = [t for t in recipe.terms if t.penalty == "l2" and t.on == "weights"]
        if recipe.optimizer.settings.get("weight_decay"):
            return with_selective_decay(recipe, room)
        amount = min(max(strength, MORE_DECAY * own[0].amount), MOST_DECAY) if own else strength
        others = [t.model_dump() for t in recipe.terms if t not in own]
        term = {**own[0].model_dump(), "strength": amount} if own else {"penalty": "l2", "strength": amount}
        return recipe.replace(terms=[*others, term])

    return move


def with_selective_decay(recipe: Recipe, room: Room) -> Recipe:
    """The optimizer's decay of everything becomes one of weight matrices alone, with the same strength."""
    decay = recipe.optimizer.settings.get("weight_decay")
    if not isinstance(decay, (int, float)) or not decay:
        return recipe
    how = {"how": "decay"} if recipe.optimizer.name == "adamw" else {"how": "loss"}
    terms = [*(t.model_dump() for t in recipe.terms), {"penalty": "l2", "strength": float(decay), **how}]
    return recipe.replace(optimizer={"weight_decay": 0.0}, terms=terms)


def with_averaging(recipe: Recipe, room: Room) -> Recipe:
    """An exponential average of the weights in the place of the last ones."""
    return recipe if recipe.averaging.ema or recipe.averaging.swa else recipe.replace(averaging={"ema": 0.99})


def with_less_regularization(by: float) -> RecipeMove:
    """Every strength, rate and noise that regularizes divided by ``by`` > 1, the model's own dropout too; bounds times it."""

    def smaller(size: float) -> float:
        return float(f"{size / by:.3g}")

    def move(recipe: Recipe, room: Room) -> Recipe:
        terms = [
            {**t.model_dump(), **({"bound": t.bound * by} if t.bound is not None else {}),
             **({"strength": t.strength / by} if t.strength is not None else {})}
            for t in recipe.terms
        ]  # fmt: skip
        own = {key: size for key, size in room.noise.items() if size and getattr(recipe.noise, key) is None}
        noise = recipe.noise.weaker(smaller) | {key: smaller(size) for key, size in own.items()}
        values: dict[str, Any] = {"terms": terms, "noise": noise}
        if decay := recipe.optimizer.settings.get("weight_decay"):
            values["optimizer"] = {"weight_decay": decay / by}
        return recipe.replace(**values)

    return move


def with_larger_batches(least: int) -> RecipeMove:
    """Batches of at least so many rows."""
    return lambda recipe, room: recipe if recipe.batch_size >= least else recipe.replace(batch_size=least)
