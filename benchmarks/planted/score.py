"""How well findings agree with planted causes: detected, missed, false alarms, confused with what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Judged:
    """One case and what was found in it.

    Args:
        found: names of findings, with their confidence; those below the least confidence are left out already.
        dropped: why the ground truth does not hold; such a case is counted and not scored.
        error: what the judge raised; then nothing was found.
        first: what a practitioner may name first.
    """

    kind: str
    half: str
    group: str
    seed: int
    causes: frozenset[str]
    allowed: frozenset[str]
    found: Mapping[str, float]
    dropped: str = ""
    error: str = ""
    seconds: float = 0.0
    first: frozenset[str] = frozenset()

    @property
    def named(self) -> str:
        """The first finding; the cause, where it may be named in its place."""
        name = next(iter(self.found), "nothing")
        return min(self.causes) if name in self.causes | self.first else name

    @property
    def missed(self) -> frozenset[str]:
        """Causes that were not found."""
        return self.causes - set(self.found)

    @property
    def false(self) -> frozenset[str]:
        """Findings that are neither causes nor allowed."""
        return frozenset(self.found) - self.causes - self.allowed

    @property
    def alarmed(self) -> bool:
        """Whether there is a false finding of a fault: one that is not ``healthy``."""
        return bool(self.false - {"healthy"})

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        sets = {name: sorted(getattr(self, name)) for name in ("causes", "allowed", "first", "missed", "false")}
        return {**asdict(self), **sets, "found": dict(self.found), "named": self.named}


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a share, at 95 %; (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share = hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(hits: int, trials: int) -> dict[str, float]:
    """A share with its interval."""
    low, high = wilson(hits, trials)
    return {"hits": hits, "trials": trials, "share": hits / trials if trials else math.nan, "low": low, "high": high}


def by_cause(rows: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Per cause: detected, missed, false alarms, with what it was confused, precision, recall and F1.

    A missed cause counts as confused with each false finding of its case.
    """
    names = sorted({name for row in rows for name in (*row.causes, *row.false)})
    table = {}
    for name in names:
        planted = [row for row in rows if name in row.causes]
        detected = sum(name in row.found for row in planted)
        false = sum(name in row.false for row in rows)
        confused = Counter(other for row in planted if name in row.missed for other in row.false)
        precision = detected / (detected + false) if detected + false else math.nan
        recall = detected / len(planted) if planted else math.nan
        table[name] = {
            "planted": len(planted), "detected": detected, "missed": len(planted) - detected, "false_alarms": false,
            "confused_with": dict(confused.most_common()), "precision": precision, "recall": recall,
            "f1": 2 * detected / (len(planted) + detected + false) if planted else 0.0,
        }  # fmt: skip
    return table


def verdicts(rows: Sequence[Judged]) -> dict[str, Any]:
    """How often the first finding is one that a practitioner may name first, and the mean F1 of the first findings alone."""
    f1 = []
    for cause in sorted({min(row.causes) for row in rows}):
        planted = [row for row in rows if min(row.causes) == cause]
        right, said = sum(row.named == cause for row in planted), sum(row.named == cause for row in rows)
        f1.append(2 * right / (len(planted) + said))
    right = sum(row.named == min(row.causes) for row in rows)
    return {"right": rate(right, len(rows)), "macro_f1": math.fsum(f1) / len(f1) if f1 else math.nan}


def score(rows: Iterable[Judged]) -> dict[str, Any]:
    """Everything that is reported about judged cases.

    ``macro_f1`` is the mean of F1 over the causes that were planted, ``healthy`` among them. A false alarm of a cause that was
    planted nowhere lowers no F1: it shows in its own row and in the rate of false alarms.
    """
    everything = list(rows)
    kept = [row for row in everything if not row.dropped]
    table = by_cause(kept)
    planted = [entry["f1"] for entry in table.values() if entry["planted"]]
    alarms = {}
    for group in ("healthy", "near_miss"):
        part = [row for row in kept if row.group == group]
        alarms[group] = rate(sum(row.alarmed for row in part), len(part))
    both = [row for row in kept if row.group in ("healthy", "near_miss")]
    alarms["both"] = rate(sum(row.alarmed for row in both), len(both))
    return {
        "cases": len(kept),
        "dropped": len(everything) - len(kept),
        "errors": sum(bool(row.error) for row in kept),
        "macro_f1": math.fsum(planted) / len(planted) if planted else math.nan,
        "exact": rate(sum(not row.missed and not row.false for row in kept), len(kept)),
        "alarms": alarms,
        "first": verdicts(kept),
        "causes": table,
        "kinds": by_kind(everything),
    }


def by_kind(rows: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Per kind: cases, how many are right in every respect, what was missed and falsely found, what was dropped."""
    table = {}
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        kept = [row for row in mine if not row.dropped]
        table[kind] = {
            "group": mine[0].group, "cases": len(kept), "dropped": len(mine) - len(kept),
            "right": sum(not row.missed and not row.false for row in kept),
            "missed": dict(Counter(name for row in kept for name in row.missed).most_common()),
            "false": dict(Counter(name for row in kept for name in row.false).most_common()),
        }  # fmt: skip
    return table


def counted(counts: Mapping[str, int]) -> str:
    """``name 3, other 1``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def ratio(value: float) -> str:
    """Two digits, or a dash."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def markdown(scored: Mapping[str, Any], title: str) -> str:
    """The score as tables for people."""
    lines = [
        f"## {title}", "",
        f"{scored['cases']} cases, {scored['dropped']} dropped by their ground truth, {scored['errors']} errors. "
        f"Macro-F1 {ratio(scored['macro_f1'])}; right in every respect {share(scored['exact'])}.", "",
        f"The first finding alone: right {share(scored['first']['right'])}, macro-F1 {ratio(scored['first']['macro_f1'])}.", "",
        "| cases without a fault | with a false alarm |", "|---|---|",
        *(f"| {group} | {share(found)} |" for group, found in scored["alarms"].items()), "",
        "| cause | planted | detected | missed | false alarms | confused with | precision | recall | F1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in scored["causes"].items():
        lines.append(
            f"| {name} | {row['planted']} | {row['detected']} | {row['missed']} | {row['false_alarms']} | "
            f"{counted(row['confused_with'])} | {ratio(row['precision'])} | {ratio(row['recall'])} | {ratio(row['f1'])} |"
        )
    lines += ["", "| kind | group | cases | right | missed | false | dropped |", "|---|---|---|---|---|---|---|"]
    for name, row in scored["kinds"].items():
        lines.append(
            f"| {name} | {row['group']} | {row['cases']} | {row['right']} | {counted(row['missed'])} | "
            f"{counted(row['false'])} | {row['dropped']} |"
        )
    return "\n".join(lines)


def share(found: Mapping[str, float]) -> str:
    """``3 of 40 (8 %, 95 % interval 3 to 20 %)``."""
    if not found["trials"]:
        return "no cases"
    return (
        f"{found['hits']:.0f} of {found['trials']:.0f} ({100 * found['share']:.0f} %, "
        f"95 % interval {100 * found['low']:.0f} to {100 * found['high']:.0f} %)"
    )
