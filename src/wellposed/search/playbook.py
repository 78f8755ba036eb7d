"""What an expert checks by hand while searching: borders, divergence, the edge of stability. Pure functions of the trials.

Source: the deep-learning tuning playbook of Google (2023), restated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wellposed.search.space import Dimension, Space
from wellposed.study.ranking import WORST
from wellposed.study.trials import Trial
from wellposed.training.history import Stopped

BEST_OF = 8
"""Trials from which a best point at the border says something about the range."""
MANY, FEWEST_DIVERGED = 0.4, 3
"""Share of a lot that diverges, and how many at least, from which the rates are too high."""
RATES = ("rate", "sgd_rate")
REMEDIES = "warm it up, clip gradients, take another optimizer, or normalize inside residual branches, in this order"


def widen(space: Space, trials: Sequence[Trial], sign: float) -> list[Dimension]:
    """Dimensions whose best point lies at the border of their range, widened there."""
    known = [trial for trial in trials if trial.params and trial.rank(sign) > WORST and trial.stopped != Stopped.CULLED]
    if len(known) < BEST_OF:
        return []
    best = max(known, key=lambda trial: trial.rank(sign))
    found = []
    for name, value in best.params.items():
        dimension = space.dimensions.get(name)
        if dimension is None or dimension.kind != "size" or (side := dimension.side(value)) is None:
            continue
        wider = dimension.widened(side)
        if (wider.low, wider.high) != (dimension.low, dimension.high):
            found.append(wider)
    return found


def widening_note(declared: Sequence[Dimension], now: Mapping[str, Dimension]) -> str:
    """A sentence that says which ranges were widened; empty where none was."""
    wider = [
        f"{d.name} from {d.low:g} to {d.high:g} became {now[d.name].low:g} to {now[d.name].high:g}"
        for d in declared
        if d.name in now and (now[d.name].low < d.low or now[d.name].high > d.high)
    ]
    if not wider:
        return ""
    return f"The best recipe so far lay at the edge of the searched range, which was widened there: {'; '.join(wider)}."


def narrow_rates(space: Space, lot: Sequence[Trial]) -> list[tuple[Dimension, str]]:
    """Learning rates of a lot in which many diverged, with a range that ends where the first of them did."""
    found = []
    for name in RATES:
        tried = [trial for trial in lot if name in trial.params]
        failed = [trial.params[name] for trial in tried if trial.diverged]
        if name not in space.dimensions or len(failed) < max(FEWEST_DIVERGED, MANY * len(tried)):
            continue
        dimension = space.dimensions[name]
        shrunk = dimension.shrunk(math.sqrt(min(failed) * dimension.low))
        if shrunk.high < dimension.high:
            said = (
                f"{len(failed)} of {len(tried)} recipes with a {name} between {dimension.low:g} and {dimension.high:g} diverged; "
                f"the search went on below {shrunk.high:g}."
            )
            found.append((shrunk, said))
    return found


def edge_note(trials: Sequence[Trial], sign: float, whose: str) -> str:
    """A sentence where the best learning rate stands at the edge of divergence: the next higher one tried diverged."""
    known = [trial for trial in trials if not trial.diverged]
    if not known:
        return ""
    best = max(known, key=lambda trial: trial.rank(sign))
    optimizer = best.built.optimizer
    rates = {t.built.optimizer.lr: t.diverged for t in trials if t.built.optimizer.name == optimizer.name}
    higher = [rate for rate in sorted(rates) if rate > optimizer.lr]
    if not higher or not rates[higher[0]]:
        return ""
    return (
        f"The best learning rate of {whose}, {optimizer.lr:g} with {optimizer.title}, stands at the edge of divergence: "
        f"{higher[0]:g} diverged. That is a problem of stability to be solved first: {REMEDIES}; then tune the rate again."
    )
