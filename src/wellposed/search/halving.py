"""Successive halving inside a population: schedules span the whole training, and at two rungs the worse half is stopped.

A run is judged by the weights that would be used (averaged ones, where there is an average yet), by its best epoch so far. No rung
lies before a third of the planned epochs: curves that rise late, under strong noise or a long schedule, get their chance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from wellposed.search.ranking import WORST, Rank, standing_rank
from wellposed.training.history import History
from wellposed.training.jobs import Standing

RUNGS = (1 / 3, 2 / 3)
KEPT = 0.5
FEWEST = 4
"""Runs at a rung below which nothing is stopped: of three, the best may be behind by chance."""
SHORTEST = 9
"""Epochs below which halving saves nothing worth the mistake."""


def rungs(epochs: int) -> tuple[int, ...]:
    """After how many epochs the runs are compared; empty where they are too short.

    Example:
        >>> rungs(30), rungs(8)
        ((10, 20), ())
    """
    return tuple(math.ceil(share * epochs) for share in RUNGS) if epochs >= SHORTEST else ()


def losers(ranks: Mapping[int, Rank]) -> set[int]:
    """Those that are stopped at a rung: all but the better half, and whoever diverged; none of fewer than `FEWEST`.

    Example:
        >>> sorted(losers({0: (0.9, 0.0), 1: (0.7, 0.0), 2: (0.8, 0.0), 3: (0.6, 0.0)}))
        [1, 3]
    """
    if len(ranks) < FEWEST:
        return set()
    order = sorted(ranks, key=lambda place: (ranks[place], -place), reverse=True)
    return set(order[math.ceil(KEPT * len(order)) :]) | {place for place in ranks if ranks[place] == WORST}


class Halving:
    """The `Cull` of a lot of the search.

    Args:
        groups: of each job; only jobs of one group are compared with each other, since they are trained together.
        sign: 1 where a higher score is better, else -1.
        before: what jobs of the lot that ended in an earlier session had reached: ``(group, epoch, rank)``.
    """

    def __init__(
        self, groups: Sequence[Hashable], sign: float, before: Iterable[tuple[Hashable, int, Rank]] = ()
    ) -> None:
        self.groups, self.sign = list(groups), sign
        self.board: dict[tuple[Hashable, int], dict[int, Rank]] = {}
        for number, (group, epoch, rank) in enumerate(before, 1):
            self.board.setdefault((group, epoch), {})[-number] = rank

    def __call__(self, standings: Sequence[Standing]) -> Collection[int]:
        """The jobs to be stopped now."""
        at: dict[tuple[Hashable, int], list[int]] = {}
        for standing in standings:
            epoch = len(standing.history)
            if epoch in rungs(standing.epochs):
                key = (self.groups[standing.job], epoch)
                at.setdefault(key, []).append(standing.job)
                self.board.setdefault(key, {})[standing.job] = standing_rank(standing.history, self.sign)
        return {job for key, jobs in at.items() for job in losers(self.board[key]) & set(jobs)}


def reached(history: History, epochs: int, sign: float) -> list[list[float]]:
    """The rungs that a run of so many planned epochs came to, each with its epoch and the rank that it had there."""
    return [
        [float(epoch), *standing_rank(History(history.facts, history.rows[:epoch]), sign)]
        for epoch in rungs(epochs)
        if epoch <= len(history)
    ]
