"""Halving by planted curves: a pure function of how the runs stand."""

from __future__ import annotations

import math

import pytest

from wellposed.parallel.jobs import Standing
from wellposed.search.successive_halving import FEWEST, Halving, losers, reached_rungs, rungs
from wellposed.study.ranking import WORST
from wellposed.training.history import History

EPOCHS = 30


def history(curve: list[float]) -> History:
    """Of a loss that falls while the accuracy rises."""
    return History({}, [{"epoch": i, "valid_metric": v, "valid_loss": 1.0 - v} for i, v in enumerate(curve)])


def run(curves: dict[int, list[float]], halving: Halving, alive: set[int] | None = None) -> dict[int, int]:
    """Train all curves side by side; the epoch after which each was stopped."""
    alive, stopped = set(curves) if alive is None else alive, {}
    for epoch in range(1, EPOCHS + 1):
        standings = [Standing(job, history(curves[job][:epoch]), EPOCHS) for job in sorted(alive)]
        for job in halving(standings):
            stopped[job] = epoch
            alive = alive - {job}
    return stopped


def rising(end: float, late: float = 0.0) -> list[float]:
    """A curve that ends at ``end``; the share ``late`` of the training it waits."""
    return [end * max(0.0, (epoch / EPOCHS - late) / (1 - late)) for epoch in range(1, EPOCHS + 1)]


def test_no_rung_lies_before_a_third_of_the_epochs_and_short_runs_have_none() -> None:
    for epochs in range(1, 300):
        assert all(rung >= epochs / 3 for rung in rungs(epochs))
        assert all(rung < epochs for rung in rungs(epochs))
    assert rungs(8) == ()


def test_the_better_half_goes_on_at_each_rung() -> None:
    curves = {job: rising((job + 1) / 8) for job in range(8)}
    stopped = run(curves, Halving(1.0))
    assert {job for job, epoch in stopped.items() if epoch == 10} == {0, 1, 2, 3}
    assert {job for job, epoch in stopped.items() if epoch == 20} == {4, 5}
    assert not {6, 7} & set(stopped)


def test_a_lower_score_is_better_where_it_is_said() -> None:
    curves = {job: [1.0 - job / 10] * EPOCHS for job in range(4)}
    assert set(run(curves, Halving(1.0))) == {2, 3}
    flipped = Halving(-1.0)
    standings = [
        Standing(job, History({}, [{"valid_metric": job / 10, "valid_loss": job / 10}] * 10), EPOCHS)
        for job in range(4)
    ]
    assert set(flipped(standings)) == {2, 3}


def test_a_curve_that_rises_late_but_within_the_first_third_wins() -> None:
    curves = {job: rising(0.5) for job in range(4)} | {4: rising(0.99, late=0.05)}
    assert 4 not in run(curves, Halving(1.0))


def test_the_best_epoch_so_far_counts_not_the_last() -> None:
    """Its best weights are kept, so a run that rose and fell is as good as its best epoch."""
    curves = {job: rising(0.5) for job in range(4)} | {4: [0.9] * 5 + [0.1] * (EPOCHS - 5)}
    assert 4 not in run(curves, Halving(1.0))


def test_what_diverged_is_stopped_and_few_are_left_alone() -> None:
    broken = {"valid_metric": math.nan, "valid_loss": math.nan}
    standings = [Standing(job, history(rising(0.5)[:10]), EPOCHS) for job in range(4)]
    standings += [Standing(4, History({}, [broken] * 10), EPOCHS)]
    assert 4 in Halving(1.0)(standings)
    assert losers({job: (float(job), 0.0) for job in range(FEWEST - 1)}) == set()
    assert losers(dict.fromkeys(range(4), (0.5, -0.5))) == {2, 3}, "of equals the first asked for go on"
    assert losers(dict.fromkeys(range(4), WORST)) == {0, 1, 2, 3}


def test_a_rung_waits_for_all_that_are_trained_together() -> None:
    """Programs take turns: at one moment some jobs are an epoch behind."""
    halving = Halving(1.0)
    ahead = [Standing(job, history(rising(0.5 + job / 10)[:10]), EPOCHS) for job in range(4)]
    behind = [Standing(job, history(rising(0.1)[:9]), EPOCHS) for job in range(4, 8)]
    assert set(halving([*ahead, *behind])) == set()
    caught_up = [Standing(job, history(rising(0.1)[:10]), EPOCHS) for job in range(4, 8)]
    assert set(halving([*ahead, *caught_up])) == {4, 5, 6, 7}
    assert set(halving(ahead)) == set(), "a rung is judged once"


@pytest.mark.parametrize("ended", [{0, 5}, {1, 2, 3}, {7}, {0, 1, 2, 3}])
def test_a_lot_that_was_cut_and_goes_on_stops_the_same_ones(ended: set[int]) -> None:
    """What had ended in the earlier session is compared with, as if it were there."""
    curves = {job: rising((job + 1) / 8) for job in range(8)}
    whole = run(curves, Halving(1.0))
    lengths = {job: whole.get(job, EPOCHS) for job in curves}
    before = [
        (int(epoch), (a, b))
        for job in ended
        for epoch, a, b in reached_rungs(history(curves[job][: lengths[job]]), EPOCHS, 1.0)
    ]
    again = run(curves, Halving(1.0, before), alive=set(curves) - ended)
    assert again == {job: epoch for job, epoch in whole.items() if job not in ended}
    forgotten = run(curves, Halving(1.0), alive=set(curves) - ended)
    assert ended == {0, 5} or forgotten != again, "the mutant: without them, others are stopped"
