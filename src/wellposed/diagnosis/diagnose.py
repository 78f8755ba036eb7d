"""Curves in, verdicts out: every rule is asked, the surest finding comes first, and one there always is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wellposed import logs
from wellposed.core.checks import checked
from wellposed.core.errors import DataError, InputError, described, guard_call
from wellposed.core.formats import parse_seconds
from wellposed.core.registry import classes_in
from wellposed.diagnosis.caveats import unassigned
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnosis import Diagnoses
from wellposed.diagnosis.diagnosis import Diagnosis as Diagnosis
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.rule import FIT, Rule

UNSURE = 0.5  # of the confidence, where one more loss is there and nothing says whose: it may be validation's


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """One instance of every rule of ours, found by introspection."""
    return tuple(rule() for rule in classes_in("wellposed.diagnosis.rules", Rule).values())  # type: ignore[type-abstract]


def own_rules(given: Sequence[Rule | type[Rule]]) -> tuple[Rule, ...]:
    """Rules of somebody's own as instances."""
    found: list[Rule] = []
    for one in given:
        rule = one() if isinstance(one, type) and issubclass(one, Rule) else one
        missing = [key for key in ("name", "severity", "axis", "pulls") if not hasattr(rule, key)]
        if not isinstance(rule, Rule) or missing:
            raise InputError(
                f"A rule is a wp.Rule with a name, a severity, an axis and what it pulls; {described(one)} "
                f"{'has no ' + missing[0] if isinstance(rule, Rule) else 'is none'}."
            )
        if any(other.name == rule.name for other in (*rules(), *found)):
            raise InputError(f"There is a rule {rule.name!r} already. Give {type(rule).__name__} another name.")
        found.append(rule)
    return tuple(found)


def _with(own: Sequence[Rule]) -> tuple[Rule, ...]:
    return (*rules(), *own)


def apply_rules(curves: Curves, by: Iterable[Rule]) -> tuple[Finding, ...]:
    """Ask every rule; the residual ones only where the others found nothing but noise. Surest first, then severest; a
    cause before what it explains.

    What another finding overrules is left out, so that no two contradict each other: of what diverged, or of losses that chase
    each other, it is not asked how it was fitted. Where a loss is left whose side is not known, nothing is sure.
    """
    by, findings = list(by), list[Finding]()
    rule_of = {rule.name: rule for rule in by}
    for residual in (False, True):
        if not residual or all(found.name == "noisy_evidence" for found in findings):
            asked = (_judged(rule, curves) for rule in by if bool(rule.residual) is residual)
            findings += filter(None, asked)
    silent = {name for found in findings for name in rule_of[found.name].overrules}
    if FIT in silent:
        silent |= {rule.name for rule in by if rule.of_fit}
    findings = [found for found in findings if found.name not in silent]
    if unassigned(curves):
        findings = [replace(found, confidence=UNSURE * found.confidence) for found in findings]
    ordered = sorted(findings, key=lambda found: (-round(found.confidence, 2), found.severity))
    return causes_first(ordered, {name: rule.explains for name, rule in rule_of.items()})


def _judged(rule: Rule, curves: Curves) -> Finding | None:
    """What a rule says; the error of one that somebody wrote is told as theirs."""
    ours = type(rule).__module__.startswith("wellposed.")
    return rule.judge(curves) if ours else guard_call(f"The rule {rule.name!r}", rule.judge)(curves)


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
def diagnose(
    source: Any,
    *,
    readers: Sequence[logs.Reader] = (),
    rules: Sequence[Rule | type[Rule]] = (),
    prove: str | None = None,
) -> Diagnosis:
    """What holds this run back, how sure, and which lever to pull.

    Args:
        source: a Watch, Run or History; a frame, dict of lists or list of dicts of curves; a path to a log: CSV, TSV,
            JSON or JSON lines (also .gz), event files of TensorBoard, a file or folder that Keras, Lightning,
            transformers or wandb left, or a run folder of ours. Losses are needed; standard errors, metrics, the
            constant prediction's loss and the cost make the verdict surer where they are given.
        readers: of your own, asked before ours: functions from a source to one that is read here, such as a dict of lists, or None
            where it is not theirs.
        rules: of your own, asked beside ours.
        prove: ``"2m"``: of a Run, or a Watch that knows its optimizer, the first changes that pull the levers are trained from
            this very state for about so long, with a few seeds, beside going on; ``proof`` has what each is worth, with its
            interval. Nothing of the source is touched.
    Returns:
        A `Diagnosis`: a sequence of at least one `Finding`, the surest first.
    Raises:
        DataError: the source cannot be read or has no losses.
        InputError: ``prove`` is no time, or there is nothing that can be tried.

    Example:
        >>> falling = [1.0, 0.7, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08, 0.05]
        >>> turning = [1.0, 0.8, 0.7, 0.65, 0.63, 0.66, 0.72, 0.80, 0.90, 1.0]
        >>> diagnose({"loss": falling, "val_loss": turning})[0].name
        'overfits'
    """
    curves, own = Curves.of(source, readers), own_rules(rules)
    findings = apply_rules(curves, _with(own))
    if hasattr(source, "recipe") and hasattr(source, "problem"):
        from wellposed.diagnosis.advice import Room, with_advice  # needs torch, which logs alone do without

        findings = with_advice(findings, source.recipe, Room.of(source.problem, source.model), own)
    if prove is None:
        return Diagnosis(findings, curves)
    from wellposed.diagnosis.proof import prove as tried  # needs torch, which logs alone do without

    if (seconds := parse_seconds(prove)) is None or not seconds:
        raise InputError(f"prove= is how long to try changes, such as '2m' or '90s'; it was given {prove!r}.")
    findings, proof = tried(source, findings, own, seconds)
    return Diagnosis(findings, curves, proof)


@checked
def diagnose_many(
    sources: Iterable[Any], *, readers: Sequence[logs.Reader] = (), rules: Sequence[Rule | type[Rule]] = ()
) -> Diagnoses:
    """Diagnose every run in each source, as `diagnose` does one: a file may hold several runs, a folder many.

    Args:
        sources: what `diagnose` takes, and files and folders with several runs.
        readers, rules: as of `diagnose`.
    Returns:
        The diagnoses in the given order. Printed, they are one table, the worst first.
    Raises:
        DataError: a source cannot be read or has no losses.
    """
    found: list[Diagnosis] = []
    for one in (one for source in sources for one in every_run(source, readers, rules)):
        if isinstance(one, DataError):
            raise one
        found.append(one)
    return Diagnoses(tuple(found), worst_first(found))


def every_run(
    source: Any, readers: Sequence[logs.Reader] = (), rules: Sequence[Rule | type[Rule]] = ()
) -> list[Diagnosis | DataError]:
    """`diagnose` of every run in one source; for one of several that cannot be read, the reason."""
    if isinstance(source, Curves) or not isinstance(source, (str, Path, Mapping, Sequence)):
        return [diagnose(source, readers=readers, rules=rules)]
    found = logs.read_each(source, readers)
    return [one if isinstance(one, DataError) else diagnose(one, rules=rules) for one in found]


def worst_first(found: Sequence[Diagnosis]) -> tuple[tuple[int, int], ...]:
    """The worst first: positions, each with that of its worst finding which is likelier than not (else of the surest).

    By the severity of that finding, then by its confidence.
    """
    ranks = []
    for position, one in enumerate(found):
        likely = [i for i, finding in enumerate(one) if finding.confidence >= 0.5] or [0]
        worst = min(likely, key=lambda i: (one[i].severity, -one[i].confidence))
        ranks.append((one[worst].severity, -one[worst].confidence, position, worst))
    return tuple((position, worst) for *_, position, worst in sorted(ranks))
