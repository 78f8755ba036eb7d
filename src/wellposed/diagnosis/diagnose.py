"""Curves in, verdicts out: every rule is asked, the surest finding comes first, and one there always is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellposed import logs
from wellposed.core.checks import checked
from wellposed.core.errors import DataError
from wellposed.core.registry import classes_in
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnosis import Diagnoses
from wellposed.diagnosis.diagnosis import Diagnosis as Diagnosis
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.rule import Rule

if TYPE_CHECKING:
    from wellposed.training.run import Run


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """One instance of every rule, found by introspection."""
    return tuple(rule() for rule in classes_in("wellposed.diagnosis.rules", Rule).values())  # type: ignore[type-abstract]


def apply_rules(curves: Curves, by: Iterable[Rule]) -> tuple[Finding, ...]:
    """Ask every rule; the residual ones only where the others found nothing but noise. Surest first, then severest; a
    cause before what it explains.

    Of what diverged it is not asked how it was fitted, since that was not reached.
    """
    by = list(by)
    rule_of = {rule.name: rule for rule in by}
    findings = [found for rule in by if not rule.residual and (found := rule.judge(curves)) is not None]
    if any(found.name == "diverged" for found in findings):
        findings = [found for found in findings if not rule_of[found.name].of_fit]
    if all(found.name == "noisy_evidence" for found in findings):
        findings += [found for rule in by if rule.residual and (found := rule.judge(curves)) is not None]
    ordered = sorted(findings, key=lambda found: (-round(found.confidence, 2), rule_of[found.name].severity))
    return causes_first(ordered, {name: rule.explains for name, rule in rule_of.items()})


def causes_first(findings: Sequence[Finding], explains: Mapping[str, Collection[str]]) -> tuple[Finding, ...]:
    """The findings in their order, but each cause before the first of those that it explains.

    Example:
        >>> found = [Finding("slow", 0.9), Finding("overfits", 0.8), Finding("rate_too_low", 0.7)]
        >>> [finding.name for finding in causes_first(found, {"rate_too_low": ("slow",)})]
        ['rate_too_low', 'slow', 'overfits']
    """
    ordered = list(findings)
    for cause in findings:
        place = ordered.index(cause)
        explained = [at for at in range(place) if ordered[at].name in explains.get(cause.name, ())]
        if explained:
            ordered.insert(explained[0], ordered.pop(place))
    return tuple(ordered)


@checked
def diagnose(source: Any) -> Diagnosis:
    """What holds this run back, how sure, and which lever to pull.

    Args:
        source: a Watch, Run or History; a frame, dict of lists or list of dicts of curves; a path to a log: CSV, TSV,
            JSON or JSON lines (also .gz), event files of TensorBoard, a file or folder that Keras, Lightning,
            transformers or wandb left, or a run folder of ours. Losses are needed; standard errors, metrics, the
            constant prediction's loss and the cost make the verdict surer where they are given.
    Returns:
        A `Diagnosis`: a sequence of at least one `Finding`, the surest first.
    Raises:
        DataError: the source cannot be read or has no losses.

    Example:
        >>> falling = [1.0, 0.7, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08, 0.05]
        >>> turning = [1.0, 0.8, 0.7, 0.65, 0.63, 0.66, 0.72, 0.80, 0.90, 1.0]
        >>> diagnose({"loss": falling, "val_loss": turning})[0].name
        'overfits'
    """
    curves = Curves.of(source)
    findings = apply_rules(curves, rules())
    if hasattr(source, "recipe") and hasattr(source, "problem"):
        findings = _advised(findings, source)
    return Diagnosis(findings, curves)


def _advised(findings: tuple[Finding, ...], run: Run) -> tuple[Finding, ...]:
    """With the changes of the run's recipe. Only here is torch needed, which logs alone do without."""
    from wellposed.diagnosis.advice import Room, with_advice

    return with_advice(findings, run.recipe, Room.of(run.problem, run.model))


@checked
def diagnose_many(sources: Iterable[Any]) -> Diagnoses:
    """`diagnose` of every run in each source: a file may hold several, a folder many.

    Args:
        sources: what `diagnose` takes, and files and folders with several runs.
    Returns:
        The diagnoses in the given order. Printed, they are one table, the worst first.
    Raises:
        DataError: a source cannot be read or has no losses.
    """
    found = []
    for source in sources:
        for one in every_run(source):
            if isinstance(one, DataError):
                raise one
            found.append(one)
    return Diagnoses(tuple(found), worst_first(found))


def every_run(source: Any) -> list[Diagnosis | DataError]:
    """`diagnose` of every run in one source; for one of several that cannot be read, the reason.

    Raises:
        DataError: the source itself cannot be read.
    """
    if isinstance(source, Curves) or not isinstance(source, (str, Path, Mapping, Sequence)):
        return [diagnose(source)]
    return [one if isinstance(one, DataError) else diagnose(one) for one in logs.read_each(source)]


def worst_first(found: Sequence[Diagnosis]) -> tuple[tuple[int, int], ...]:
    """The worst first: positions, each with that of its worst finding which is likelier than not (else of the surest).

    By the severity of that finding, then by its confidence.
    """
    severity = {rule.name: rule.severity for rule in rules()}
    mildest = max(severity.values(), default=0)
    ranks = []
    for position, one in enumerate(found):
        likely = [i for i, finding in enumerate(one) if finding.confidence >= 0.5] or [0]
        worst = min(likely, key=lambda i: (severity.get(one[i].name, mildest), -one[i].confidence))
        ranks.append((severity.get(one[worst].name, mildest), -one[worst].confidence, position, worst))
    return tuple((position, worst) for *_, position, worst in sorted(ranks))
