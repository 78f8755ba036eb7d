"""What a rule is, and what several of them ask of curves.

A rule is one small class for each finding: its definition, the reasons for its thresholds, and the lever it names. It returns a
`Finding`, or None where its definition does not hold. Ours are found by introspection; a new one is a new class in this folder.
One of somebody's own is a subclass too, and is given to `wellposed.diagnose(source, rules=[...])`.
All thresholds are ratios or multiples of the noise, so that the unit of the loss plays no part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import EvidenceValue, Finding
from wellposed.logs import Array

if TYPE_CHECKING:
    from wellposed.diagnosis.moves import RecipeMove
    from wellposed.diagnosis.signals import Signals
    from wellposed.recipe.recipe import Recipe

FIT = "of_fit"  # among what a rule overrules: every finding on how it was fitted
FEWEST_EPOCHS = 3  # a rise, a trend and a noise each need three points
FAR = 0.2  # of the constant prediction's loss: a usual start lies within a tenth of it
MATERIAL_PROGRESS = 0.02  # a fiftieth of all that training achieved: less is not worth a lever
PACE = 0.6  # of the last quarter's pace, in its second half: where a rate goes to 0 it is half, in a training cut short more
DROPPED = 0.7  # of the units or inputs of a layer: what is left of so few says little
LOW_ERROR = 0.25  # an error rate below this is not that of an untrained network, whatever the first epoch was
MENDED_SHARE = 0.1  # of the constant prediction's errors: hardly anything is less
MENDED = 0.97  # of the highest error rate: the wobble of guessing stays above it for a hundred answers or more


class Rule(ABC):
    """A definition of one finding.

    ``residual`` rules are asked only where no other rule found anything but noise; those ``of_fit`` say how it was
    fitted, which nothing that diverged was. What a rule ``explains`` are findings that are consequences of its own: mending
    the cause mends them, so that it is told first. What it ``overrules`` would contradict it, and is not said beside it.
    """

    name: ClassVar[str]
    severity: ClassVar[int]  # 0 is the worst; decides between equally sure findings
    axis: ClassVar[str]  # what fails, one of `finding.AXES`
    pulls: ClassVar[str]  # the kind of lever, one of `finding.PULLS`
    residual: ClassVar[bool] = False
    of_fit: ClassVar[bool] = False
    explains: ClassVar[tuple[str, ...]] = ()
    overrules: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[tuple[tuple[RecipeMove, ...], ...]] = ()  # of a recipe, that pull the lever: see `advice`
    # What a proof tries that no recipe says.
    beyond: ClassVar[Literal["", "shuffled", "anew", "standardized", "rescored"]] = ""
    code: ClassVar[str] = ""  # what to do first, as a line of Python in the reader's own loop

    @abstractmethod
    def judge(self, curves: Curves) -> Finding | None:
        """The finding, or None where the definition does not hold."""

    def advice(self, recipe: Recipe) -> Iterable[Recipe]:
        """Recipes that pull the lever, the one to be tried first first; `moves` come after them."""
        return ()

    def finding(self, confidence: float, evidence: Mapping[str, EvidenceValue], lever: str, says: str) -> Finding:
        """A finding under this rule's name, its confidence held inside [0, 1]."""
        sure = min(max(float(confidence), 0.0), 1.0)
        return Finding(
            self.name, sure, dict(evidence), lever, says, self.axis, self.pulls, severity=self.severity, code=self.code
        )


class Inside(Rule):
    """A rule of what is seen inside a Watch or a Run; logs alone give it nothing to judge."""

    def judge(self, curves: Curves) -> Finding | None:
        return None if curves.signals is None else self.inside(curves, curves.signals)

    @abstractmethod
    def inside(self, curves: Curves, signals: Signals) -> Finding | None:
        """The finding, or None where the definition does not hold or what it rests on was not seen."""


def comes_down(curves: Curves) -> bool:
    """Whether both losses, which began far above the best constant prediction's, are more than half of the way down to it and
    still fall: what will be learned cannot be told yet."""
    constant, sides = curves.fact("constant_loss"), (curves.train_loss, curves.valid_loss)
    if constant is None:
        return False
    above = [(measure.start(y) - constant, measure.end(y) - constant) for y in sides]
    far = all(first > FAR * abs(constant) and last < first / 2 for first, last in above)
    return far and all(falls(y, constant, PACE) for y in sides)


def falls(y: Array, reference: float | None = None, pace: float = 0.25) -> bool:
    """Whether a curve still falls at its end: reliably, by a material share of its progress, and not levelling off.

    Over the last quarter of the epochs the interval of the fitted fall lies above 0, the fall is at least a fiftieth
    of all the progress, the lowest level lies there, so that it does not only come back from a bump, and the second half of
    that quarter falls at no less than a quarter (``pace``) of its pace, as far as noise lets it be seen.
    """
    if len(measure.finite_values(y)) < FEWEST_EPOCHS or not improves(y):
        return False
    trend = measure.trend(y)
    return trend.gain >= MATERIAL_PROGRESS * measure.progress(y, reference) and trend.keeps(pace)


def improves(y: Array) -> bool:
    """Whether a curve reliably falls over its last quarter (or throughout its later half, in a short log), by however little,
    and has its lowest level there."""
    trend, values = measure.trend(y), measure.finite_values(y)
    levels = measure.running_mean(values, measure.window(len(values)))
    sure = trend.low > 0 or measure.falls_throughout(y)
    return sure and int(levels.argmin()) >= len(levels) - max(trend.epochs, len(levels) // 4)


def descent(y: Array, constant: float | None) -> tuple[float, float, float]:
    """How far a curve came below the constant prediction (below its own start, where that is unknown).

    Returns:
        The descent, its standard error from the noise, and the level it started from.
    """
    values = measure.finite_values(y)
    if len(values) == 0:
        return math.nan, math.inf, math.nan
    reference = float(values[0]) if constant is None else constant
    lowest = float(measure.running_mean(values, measure.window(len(values))).min())
    return reference - lowest, math.sqrt(2.0) * measure.level_se(y), reference


def shows_learning(curves: Curves) -> bool:
    """Whether either loss came below its reference by a fiftieth of it and by more than the noise.

    An error rate overrules: a tenth of the errors gone is learning. Where the constant prediction is known, that is asked of
    validation rows, beyond three standard errors of as many rows: answers that are all but undecided fall to one side or
    the other on the rows trained on, while the loss knows better. Where the constant prediction is unknown and the
    network began with most answers wrong, hardly one of which it mended, the loss fell by shrinking the outputs alone.
    """
    if measure.chance_level(curves) is not None:
        return False
    share, constant, values = measure.remaining(curves), curves.fact("constant_loss"), curves.train
    if share is not None and share.of == "error":
        if _mended_enough(curves, share):
            return True
        if not share.certain and not error_improved(curves):
            return False
    for y in (curves.train_loss, curves.valid_loss):
        depth, se, reference = descent(y, constant)
        if depth > max(MATERIAL_PROGRESS * abs(reference), 3 * se):
            return True
    if constant is None or not curves.facts.get("like_for_like") or len(values) < FEWEST_EPOCHS:
        return False
    # The noise of the curve may be that of weights which know more at some epochs than at others.
    return float(np.quantile(values[len(values) // 2 :], 0.25)) < constant - MENDED_SHARE * abs(constant)


def _mended_enough(curves: Curves, share: measure.RelativeError) -> bool:
    """Whether a tenth of the constant prediction's errors is gone for sure."""
    if not share.certain or not math.isfinite(share.valid):
        return min(share.train, share.valid) < 1 - MENDED_SHARE
    rows, chance = curves.fact("valid_rows"), measure.chance_error(curves)
    se = math.sqrt(max(1 - chance, 1 / rows) / (chance * rows)) if rows and chance else 0.0  # as a share, near chance
    return share.valid < 1 - max(MENDED_SHARE, 3 * se)


def valid_learned(curves: Curves) -> bool:
    """Whether validation ever came below what it is without learning, by a fiftieth; True where it is not known, and where three
    answers of four are right, which a log may begin with."""
    values, reference = curves.valid, measure.reference_level(curves)
    if len(values) == 0 or not math.isfinite(reference):
        return True
    error, chance = measure.error_rate(curves, "valid"), measure.chance_error(curves)
    fewest = math.inf if error is None else float(measure.finite_values(error).min())
    if error is not None and chance is not None:
        return fewest < (1 - MENDED_SHARE) * chance
    if curves.fact("constant_loss") is None and fewest < LOW_ERROR:
        return True
    lowest = float(measure.running_mean(values, measure.window(len(values))).min())
    return reference - lowest > MATERIAL_PROGRESS * abs(reference)


def error_improved(curves: Curves) -> bool:
    """Whether the error rate on either side ever came below 97 % of its highest value, or the hits rose by a quarter and beyond
    the noise, which among a hundred classes is much less."""
    for rate in (measure.error_rate(curves, side) for side in ("train", "valid")):
        values = measure.finite_values(rate) if rate is not None else np.ones(1)
        hits, last = 1 - float(values[0]), 1 - measure.end(values)
        more = last > max(1.25 * hits, hits + 3 * measure.level_se(values))
        if more or float(values.min()) < MENDED * float(values.max()):
            return True
    return False


def regularizes(curves: Curves) -> bool:
    """Whether the source says that something regularizes: a mapping with a number above 0, or True."""
    what = curves.facts.get("regularized")
    if isinstance(what, Mapping):
        return any(isinstance(value, (int, float)) and value > 0 for value in what.values())
    return bool(what)


def dropout(curves: Curves) -> float:
    """The largest rate of dropout, where the source says it; else 0."""
    what = curves.facts.get("regularized")
    rate = what.get("dropout", 0.0) if isinstance(what, Mapping) else 0.0
    return float(rate) if isinstance(rate, (int, float)) else 0.0


def measured(what: str, estimate: float, *bounds: float) -> dict[str, EvidenceValue]:
    """The main number of the evidence, in words, with its 95 % interval: from one standard error, or from both ends."""
    if len(bounds) == 1:
        bounds = estimate - measure.Z * bounds[0], estimate + measure.Z * bounds[0]
    return {"measured": what, "estimate": estimate, **dict(zip(("low", "high"), bounds, strict=False))}


def end_of(curves: Curves) -> dict[str, EvidenceValue]:
    """The levels at the end, for the evidence."""
    return {"train_loss": measure.end(curves.train_loss), "valid_loss": measure.end(curves.valid_loss)}
