"""The error budget in the report: a waterfall from the floor to the validation loss, and the sentences beside it."""

from __future__ import annotations

import math
from typing import Any

from wellposed.core import formats
from wellposed.core.records import finite_numbers, mapping, number_or_nan, numbers_or_nan, part, rows, text, texts
from wellposed.decomposition.waterfall import NAMES, bars_in_words, budget_bars, draw_waterfall, lever_of
from wellposed.study.verdict import estimate_and_ends

MOST_NOTES = 8


def panel(side: str, title: str, record: Any, frame: tuple[float, float]) -> dict[str, Any]:
    """What the template shows of one side's budget."""
    steps = budget_bars(record)
    finding = next(iter(rows(part(record, "findings"))), {})
    label = f"{title}: {bars_in_words(steps, NAMES)}"
    return {
        "side": title,
        "svg": draw_waterfall(f"{side}-budget", label, steps, frame, lever_of(steps, finding)),
        "budget": True,
        "finding": text(finding.get("name"), 80).replace("_", " "),
        "says": text(finding.get("says"), 600),
        "lever": text(finding.get("lever"), 400),
        "facts": _facts(record),
        "notes": texts(part(record, "notes"), 500, MOST_NOTES),
    }


def _facts(record: Any) -> list[tuple[str, str]]:
    """How much of the cost is left, what validation gains at the best weights, and what measuring cost."""
    facts = []
    for key, name in (
        ("shortfall", "cost left, at least"),
        ("valid_gain", "validation gain at the best weights"),
        ("way_gain", "validation gain on the way there"),
    ):
        estimate, low, high = estimate_and_ends(mapping(part(record, key)))
        if not math.isfinite(estimate):
            continue
        decimals = formats.decimals_for(high - low if math.isfinite(high - low) else abs(estimate))
        span = f" ({formats.with_sign(low, decimals)} to {formats.with_sign(high, decimals)})"
        said = formats.with_sign(estimate, decimals)
        facts.append((name, f"{said}{span if finite_numbers([low, high]) else ''}"))
    if seeds := finite_numbers(numbers_or_nan(part(record, "seeds"))):
        facts.append(("seeds", formats.count(len(seeds))))
    runs, seconds = number_or_nan(part(record, "runs")), number_or_nan(part(record, "seconds"))
    if math.isfinite(runs) and math.isfinite(seconds):
        facts.append(("measured by", f"{formats.count_noun(runs, 'run')}, {formats.duration(seconds)}"))
    return facts
