"""The pace under a clock: on how many threads, how fast together, and so how many epochs on how many rows."""

from __future__ import annotations

import time

from wellposed.core.clock import PACE, enter_stage
from wellposed.core.shared import threads_of
from wellposed.parallel.executors import train_jobs
from wellposed.parallel.jobs import Job
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.baseline import BASELINE_RATES
from wellposed.search.runner import Bench
from wellposed.search.timing import TrialTiming
from wellposed.training.history import Stopped
from wellposed.training.run import Run

SLOW_STEP, SLOW_BATCH = 0.02, 64
"""A step of so many seconds is bound by arithmetic: smaller batches then give more steps in the same time."""
TOGETHER, STEPS, EPOCHS = 8, 6, 2
"""Recipes of a probe, steps of its epochs, and epochs; the first pays for what is made once."""


def measure_pace(bench: Bench, plain: Recipe) -> tuple[Recipe, int, int | None]:
    """The plain recipe with a batch size that suits the machine, and the epochs and rows (None: all) of the baseline's runs."""
    account, pace, total = bench.account, bench.pace, bench.total
    if not account.timed:
        return plain, pace.search_plan(plain, total, 0.0)[0], None
    enter_stage(PACE)
    bench.look_around()
    pace.load = bench.slower
    probe(bench, plain)
    if pace.factor(plain) * pace.step(plain) > SLOW_STEP:
        plain = plain.replace(batch_size=min(plain.batch_size, SLOW_BATCH))
    bench.start = min(0.9, account.spent)
    return plain, *plan_runs(bench, plain)


def plan_runs(bench: Bench, plain: Recipe) -> tuple[int, int | None]:
    """Epochs and rows (None: all) of runs of the search, by what is known of the pace now."""
    account, total = bench.account, bench.total
    seconds = max(0.0, bench.until(budget_split.SEARCH) - account.spent) * account.budget.amount
    epochs, rows = bench.pace.search_plan(plain, total, seconds)
    return epochs, rows if rows < total else None


def probe(bench: Bench, plain: Recipe) -> None:
    """Train a few steps of a small lot that nobody keeps, with one thread and with all, and learn the pace from the faster."""
    pace = bench.pace
    rows = min(STEPS * plain.batch_size, bench.total)
    found: dict[int, float] = {}
    for threads in dict.fromkeys((1, pace.most)):
        if bench.account.spent < budget_split.STARTED:
            found[threads] = time_lot(bench, plain, rows, threads, bench.account.spent + budget_split.PROBES / 2)
    if found:
        pace.together = min(found, key=found.__getitem__)
        pace.took("probe", [TrialTiming(plain, 1, found[pace.together], False)], rows, 0.0)


def time_lot(bench: Bench, plain: Recipe, rows: int, threads: int, ends: float) -> float:
    """Seconds that each epoch of a plain recipe adds to a lot of them on so many rows; cut when the share ``ends`` is gone."""
    recipe = plain.replace(epochs=EPOCHS, stopping={"patience": 0})
    rates = [BASELINE_RATES[number % len(BASELINE_RATES)] for number in range(TOGETHER)]
    jobs = [Job(recipe.replace(optimizer={"lr": rate}), seed, rows) for seed, rate in enumerate(rates)]
    began = time.monotonic()
    with threads_of(threads):
        outcomes = train_jobs(
            bench.problem, jobs, engine=bench.engine, device=bench.device,
            deadline=bench.account.deadline(ends),
            probe_rows=bench.pace.probe_rows(rows),
        )  # fmt: skip
    took = time.monotonic() - began
    if any(getattr(outcome, "stopped", "") == Stopped.INTERRUPTED for outcome in outcomes):
        raise KeyboardInterrupt  # nothing was trained yet that could be kept
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    if len(runs) == TOGETHER and all("population" in run.engine and run.stopped == Stopped.EPOCHS for run in runs):
        return sum(run.history["seconds"][-1] for run in runs) / TOGETHER
    return took / max(1, sum(len(run.history) for run in runs))  # one after another, in several processes, or cut
