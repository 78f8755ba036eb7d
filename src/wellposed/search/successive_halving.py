"""Successive halving inside a population: schedules span the whole training, and at two rungs the worse half is stopped.

A run is judged by the weights that would be used (averaged ones, where there is an average yet), by its best epoch so far. No rung
lies before a third of the planned epochs: curves that rise late, under strong noise or a long schedule, get their chance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from wellposed.parallel.jobs import Standing
from wellposed.study.ranking import WORST, Rank, standing_rank
from wellposed.training.history import History

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
    """The `Cull` of a lot of the search, whose jobs come on alike.

    A rung is judged when all that are trained together have reached it; who comes later (there was no place) is compared with
    those that were there.

    Args:
        sign: 1 where a higher score is better, else -1.
        before: what jobs of the lot that ended in an earlier session had reached: ``(epoch, rank)``.
    """

    def __init__(self, sign: float, before: Iterable[tuple[int, Rank]] = ()) -> None:
        self.sign = sign
        self.board: dict[int, dict[int, Rank]] = {}
        self.judged: set[tuple[int, int]] = set()
        for number, (epoch, rank) in enumerate(before, 1):
            self.board.setdefault(epoch, {})[-number] = rank

    def __call__(self, standings: Sequence[Standing]) -> Collection[int]:
        """The jobs to be stopped now."""
        at: dict[int, set[int]] = {}
        for standing in standings:
            epoch = len(standing.history)
            if epoch in rungs(standing.epochs) and (epoch, standing.job) not in self.judged:
                at.setdefault(epoch, set()).add(standing.job)
                self.board.setdefault(epoch, {})[standing.job] = standing_rank(standing.history, self.sign)
        stopped: set[int] = set()
        for epoch, jobs in at.items():
            behind = any(len(s.history) < epoch and epoch in rungs(s.epochs) for s in standings)
            if not behind:
                self.judged |= {(epoch, job) for job in jobs}
                stopped |= losers(self.board[epoch]) & jobs
        return stopped


def reached_rungs(history: History, epochs: int, sign: float) -> list[list[float]]:
    """The rungs that a run of so many planned epochs came to, each with its epoch and the rank that it had there."""
    return [
        [float(epoch), *standing_rank(History(history.facts, history.rows[:epoch]), sign)]
        for epoch in rungs(epochs)
        if epoch <= len(history)
    ]
