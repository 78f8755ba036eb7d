"""The baseline's own search: which learning rates are tried."""

from __future__ import annotations

from collections.abc import Mapping

from wellposed.study.ranking import Rank

BASELINE_RATES = (1e-3, 3e-3, 3e-4, 1e-2, 3e-2)
"""Learning rates of the baseline's own search, the likeliest first; a best one at the border brings the next beyond it."""
FEWEST_RATES = 3
"""Learning rates of the baseline, whatever the budget: a gain over an untuned baseline would say nothing."""
BEYOND = 2
"""Rates beyond the border of the list, at most."""


def next_rates(done: Mapping[float, Rank], limit: int) -> list[float]:
    """The first rates of the list, all at once; then, one by one, up to two beyond the border while the best is there.

    Args:
        done: how each rate that was tried ranks.
        limit: of the rates of the list.
    """
    waiting = [rate for rate in BASELINE_RATES[:limit] if rate not in done]
    if waiting:
        return waiting
    if not 1 < limit <= len(done) < limit + BEYOND:
        return []
    best = max(done, key=lambda rate: done[rate])
    if best not in (min(done), max(done)):
        return []
    return [float(f"{best * (3 if best == max(done) else 1 / 3):.1g}")]
