"""Curves in, verdicts out: every rule is asked, the surest finding comes first, and one there always is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from wellposed.core.registry import classes_in
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnosis import Diagnosis as Diagnosis
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.base import Rule


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """One instance of every rule, found by introspection."""
    return tuple(rule() for rule in classes_in("wellposed.diagnosis.rules", Rule).values())  # type: ignore[type-abstract]


def judged(curves: Curves, by: Iterable[Rule]) -> tuple[Finding, ...]:
    """Ask every rule; the residual ones only where the others found nothing but noise. Surest first, then severest.

    Of what diverged it is not asked how it was fitted, since that was not reached.
    """
    by = list(by)
    rule_of = {rule.name: rule for rule in by}
    findings = [found for rule in by if not rule.residual and (found := rule.judge(curves)) is not None]
    if any(found.name == "diverged" for found in findings):
        findings = [found for found in findings if not rule_of[found.name].of_fit]
    if all(found.name == "noisy_evidence" for found in findings):
        findings += [found for rule in by if rule.residual and (found := rule.judge(curves)) is not None]
    return tuple(sorted(findings, key=lambda found: (-round(found.confidence, 2), rule_of[found.name].severity)))


def diagnose(source: Any) -> Diagnosis:
    """What holds this run back, how sure, and which lever to pull.

    Args:
        source: a Watch, Run or History; a frame, dict of lists or list of dicts of curves; a path to a CSV file or a
            run folder. Losses are needed; standard errors, metrics, the constant prediction's loss and the cost make
            the verdict surer where they are given.
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
    return Diagnosis(judged(curves, rules()), curves)


def diagnose_many(sources: Iterable[Any]) -> list[Diagnosis]:
    """`diagnose` of each source, in the given order."""
    return [diagnose(source) for source in sources]
