"""What a finding makes of a recipe: small moves, each from a recipe to another one, and for each finding those to try, in order.

A move leaves the recipe as it is where it finds nothing to do; then the next one is asked. What no recipe can mend (a loss that
does not fit, a loop that forgets a mode) has no moves: the finding's lever says what to change in the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from torch import nn

from wellposed.diagnosis.finding import Change, Finding
from wellposed.noise.activations import dropouts
from wellposed.recipe.recipe import Recipe
from wellposed.training.problem import Problem

if TYPE_CHECKING:
    from wellposed.diagnosis.rules.rule import Rule

MOST_CHANGES = 3
"""Changes that a finding proposes: more would be a search."""
LOWEST_RATE, HIGHEST_RATE = 1e-7, 10.0
"""Learning rates beyond these are no advice but a bug elsewhere."""


@dataclass(frozen=True)
class Room:
    """What a problem leaves room for.

    Attributes:
        dropout: whether the model has dropout layers.
        labels: whether the loss classifies, so that labels can be smoothed.
        settings: of the model, with the values that may be tried.
        rate: the largest of the model's own dropout rates.
    """

    dropout: bool = False
    labels: bool = False
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    rate: float = 0.0

    @classmethod
    def of(cls, problem: Problem, model: nn.Module) -> Room:
        """The room of a problem, whose model is looked at."""
        rates = [layer.p for layer in dropouts(model).values()]
        rates += [module.dropout for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
        return cls(bool(rates), problem.loss.softens, dict(problem.space), float(max(rates, default=0.0)))


RecipeMove = Callable[[Recipe, Room], Recipe]


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


def usual_rate(recipe: Recipe) -> float | None:
    """The usual learning rate of the recipe's optimizer; None where there is none."""
    rate = USUAL_RATES.get(recipe.optimizer.name)
    momentum = recipe.optimizer.settings.get("momentum", 0.0)
    return None if rate is None else rate * (1.0 - float(momentum))


def with_usual_rate(recipe: Recipe, room: Room) -> Recipe:
    """The optimizer's usual learning rate, where the recipe's is a factor of ten or more away from it."""
    usual = usual_rate(recipe)
    if usual is None or 0.1 < recipe.optimizer.lr / usual < 10.0:
        return recipe
    return _rated(recipe, usual)


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
    return Recipe(**{**recipe.model_dump(), "optimizer": {"name": "adamw", "lr": USUAL_RATES["adamw"]}})


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


def with_dropout(rate: float) -> RecipeMove:
    """Dropout of at least ``rate``, where the model has a place for it."""

    def move(recipe: Recipe, room: Room) -> Recipe:
        if not room.dropout or (recipe.noise.dropout or 0.0) >= rate:
            return recipe
        return recipe.replace(noise={"dropout": rate})

    return move


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


def with_label_smoothing(rate: float) -> RecipeMove:
    """Labels smoothed by at least ``rate``, where there are labels."""

    def move(recipe: Recipe, room: Room) -> Recipe:
        if not room.labels or recipe.noise.label_smoothing >= rate:
            return recipe
        return recipe.replace(noise={"label_smoothing": rate})

    return move


def with_averaging(recipe: Recipe, room: Room) -> Recipe:
    """An exponential average of the weights in the place of the last ones."""
    return recipe if recipe.averaging.ema or recipe.averaging.swa else recipe.replace(averaging={"ema": 0.99})


def with_less_regularization(by: float) -> RecipeMove:
    """Every strength, rate and noise that regularizes divided by ``by`` > 1, the model's own dropout too; bounds times it."""

    def move(recipe: Recipe, room: Room) -> Recipe:
        terms = [
            {**t.model_dump(), **({"bound": t.bound * by} if t.bound is not None else {}),
             **({"strength": t.strength / by} if t.strength is not None else {})}
            for t in recipe.terms
        ]  # fmt: skip
        noise = recipe.noise.weaker(lambda size: float(f"{size / by:.3g}"))
        if recipe.noise.dropout is None and room.rate:
            noise |= {"dropout": float(f"{room.rate / by:.3g}")}
        values: dict[str, Any] = {"terms": terms, "noise": noise}
        if decay := recipe.optimizer.settings.get("weight_decay"):
            values["optimizer"] = {"weight_decay": decay / by}
        return recipe.replace(**values)

    return move


def with_larger_batches(least: int) -> RecipeMove:
    """Batches of at least so many rows."""
    return lambda recipe, room: recipe if recipe.batch_size >= least else recipe.replace(batch_size=least)


ADVICE: dict[str, tuple[tuple[RecipeMove, ...], ...]] = {
    "diverged": ((with_lower_rate(10),), (with_lower_rate(10), with_clipping, with_annealing), (with_lower_rate(100),)),
    "not_learning": (
        (with_usual_rate,),
        (with_less_regularization(10),),
        (with_lower_rate(10),),
        (with_higher_rate(10),),
    ),
    "undertrained": ((with_more_epochs(3),), (with_higher_rate(3), with_annealing)),
    "slow": ((with_adaptive_optimizer, with_annealing), (with_higher_rate(5), with_annealing), (with_more_epochs(3),)),
    "rate_too_low": ((with_higher_rate(10),), (with_higher_rate(100),), (with_adaptive_optimizer,)),
    "rate_too_high": (
        (with_lower_rate(10),),
        (with_lower_rate(3), with_clipping, with_annealing),
        (with_lower_rate(100),),
    ),
    "oscillates": ((with_annealing,), (with_lower_rate(5),), (with_averaging,)),
    "underfits": ((with_larger_model,), (with_higher_rate(3), with_annealing), (with_less_regularization(10),)),
    "over_regularized": (
        (with_less_regularization(10),),
        (with_less_regularization(3),),
        (with_less_regularization(100),),
    ),
    "overfits": (
        (with_decay(0.5),),
        (with_dropout(0.3), with_decay(0.5), with_label_smoothing(0.05)),
        (with_dropout(0.5), with_decay(3.0)),
    ),
    "overconfident": (
        (with_decay(0.5), with_label_smoothing(0.05)),
        (with_dropout(0.3), with_decay(0.5)),
        (with_lower_rate(3), with_averaging),
    ),
    "noisy_evidence": ((with_annealing, with_averaging), (with_lower_rate(3),)),
    "label_noise": (
        (with_decay(0.5), with_label_smoothing(0.1)),
        (with_dropout(0.3), with_decay(0.5)),
        (with_lower_rate(3), with_averaging),
    ),
    "vanishing_gradients": ((with_higher_rate(3), with_annealing), (with_adaptive_optimizer,)),
    "exploding_gradients": ((with_clipping,), (with_lower_rate(10), with_clipping), (with_lower_rate(100),)),
    "dying_units": ((with_lower_rate(10), with_annealing), (with_lower_rate(10), with_clipping)),
    "batch_too_small": ((with_larger_batches(32),), (with_lower_rate(3), with_averaging)),
    "decayed_norms": ((with_selective_decay,),),
}
"""For each finding the moves to try, in order; moves of one entry are made together."""


def changes_for(name: str, recipe: Recipe, room: Room, rules: Sequence[Rule] = ()) -> tuple[Change, ...]:
    """The changes of a recipe that pull the lever of a finding, the first to be tried first; empty where none can."""
    found: list[Change] = []
    tried = [recipe]
    own = (changed for rule in rules if rule.name == name for changed in rule.advice(recipe))
    moved = (reduce(lambda so_far, move: move(so_far, room), moves, recipe) for moves in ADVICE.get(name, ()))
    for changed in (*own, *moved):
        if changed not in tried:
            tried.append(changed)
            found.append(Change(recipe_difference(recipe, changed), changed))
    return tuple(found[:MOST_CHANGES])


def with_advice(
    findings: Sequence[Finding], recipe: Recipe, room: Room, rules: Sequence[Rule] = ()
) -> tuple[Finding, ...]:
    """The findings with the changes of this recipe that pull their levers."""
    return tuple(replace(finding, changes=changes_for(finding.name, recipe, room, rules)) for finding in findings)


def recipe_difference(old: Recipe, new: Recipe) -> str:
    """The difference of two recipes in a few words: ``"lr 0.1 -> 0.01, l2 0.1 added"``."""
    words = [
        f"{NAMED.get(key, key.rpartition('.')[2].replace('_', ' '))} {_short(key, a)} -> {_short(key, b)}"
        for key, (a, b) in old.differences(new).items()
        if not key.startswith("terms") and key != "stopping.patience"
    ]
    before = {(t.penalty, t.on): t.amount for t in old.terms}
    for term in new.terms:
        amount = before.get((term.penalty, term.on))
        if amount is None:
            words.append(f"{term.name} {term.amount:.3g} added")
        elif amount != term.amount:
            words.append(f"{term.name} {amount:.3g} -> {term.amount:.3g}")
    after = {(t.penalty, t.on) for t in new.terms}
    words += [f"{term.name} {term.amount:.3g} removed" for term in old.terms if (term.penalty, term.on) not in after]
    return ", ".join(words)


NAMED = {"optimizer.name": "optimizer", "schedule.name": "schedule"}
"""What the last part of a key does not say."""


def _short(key: str, value: Any) -> str:
    if value is None:
        return "the model's own" if key.startswith(("noise", "model")) else "none"
    return f"{value:.3g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
