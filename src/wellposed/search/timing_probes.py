"""Before the study under a clock: on how many threads, how fast together, and so how many epochs on how many rows."""

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
from wellposed.search.timing import FEWEST_EPOCHS, TrialTiming
from wellposed.training.history import Stopped
from wellposed.training.run import Run

SLOW_STEP, SLOW_BATCH = 0.02, 64
"""A step of so many seconds is bound by arithmetic: smaller batches then give more steps in the same time."""
TOGETHER = 16
"""Recipes of a probe."""
WARM, EPOCHS = 1, 3
"""Epochs of a first lot, which pays for what is made once, and of the one that is timed."""


def measure_pace(bench: Bench, plain: Recipe) -> tuple[Recipe, int, int | None]:
    """The plain recipe with a batch size that suits the machine, and the epochs and rows (None: all) of the search's runs."""
    account, pace, total = bench.account, bench.pace, bench.total
    if not account.timed:
        return plain, pace.search_plan(plain, total, 0.0)[0], None
    enter_stage(PACE)
    if pace.speed(plain).step > SLOW_STEP:
        plain = plain.replace(batch_size=min(plain.batch_size, SLOW_BATCH))
    if account.spent < budget_split.STARTED:
        probe(bench, plain)
    bench.start = min(0.9, account.spent)
    seconds = (bench.until(budget_split.SEARCH) - account.spent) * account.budget.amount
    epochs, rows = pace.search_plan(plain, total, seconds)
    if rows < total:
        bench.notes.append(
            f"The search trained on {rows} of {total} training rows, so that each recipe had at least "
            f"{FEWEST_EPOCHS} epochs' time; the finalists and the confirmation trained on as many as the time allowed."
        )
    return plain, epochs, rows if rows < total else None


def probe(bench: Bench, plain: Recipe) -> None:
    """Train a small lot that nobody keeps, with one thread and with all, and learn the pace from the faster."""
    pace = bench.pace
    pace.together = pace.speed(plain).threads
    seconds = budget_split.PROBES * bench.account.budget.amount
    rows = bench.total
    each = TOGETHER * (WARM + 2 * EPOCHS) * pace.epoch(plain, rows)
    if each > seconds:
        rows = max(4 * plain.batch_size, int(rows * seconds / each))
    rows = min(rows, bench.total)
    if TOGETHER * EPOCHS * pace.epoch(plain, rows) > 4 * seconds:
        return  # even so little is too much: the lots themselves will tell
    ends = bench.account.spent + 2 * budget_split.PROBES
    time_lot(bench, plain, WARM, rows, pace.together, ends)
    found: dict[int, tuple[float, list[Run]]] = {}
    for threads in dict.fromkeys((1, pace.most)):
        if not found or bench.account.spent < ends:
            found[threads] = time_lot(bench, plain, EPOCHS, rows, threads, ends)
    pace.together = min(found, key=lambda threads: found[threads][0])
    seconds, runs = found[pace.together]
    pace.took("probe", [TrialTiming.of(run) for run in runs], rows, seconds)


def time_lot(bench: Bench, plain: Recipe, epochs: int, rows: int, threads: int, ends: float) -> tuple[float, list[Run]]:
    """Seconds that a lot of plain recipes takes for so many epochs, and its runs; cut when the share ``ends`` is gone."""
    recipe = plain.replace(epochs=epochs, stopping={"patience": 0})
    rates = [BASELINE_RATES[number % len(BASELINE_RATES)] for number in range(TOGETHER)]
    jobs = [Job(recipe.replace(optimizer={"lr": rate}), seed, rows) for seed, rate in enumerate(rates)]
    began = time.monotonic()
    with threads_of(threads):
        outcomes = train_jobs(
            bench.problem, jobs, engine=bench.engine, device=bench.device,
            deadline=bench.account.deadline(ends),
            probe_rows=bench.pace.probe_rows(rows),
        )  # fmt: skip
    if any(getattr(outcome, "stopped", "") == Stopped.INTERRUPTED for outcome in outcomes):
        raise KeyboardInterrupt  # nothing was trained yet that could be kept
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    trained = sum(len(run.history) for run in runs)
    return (time.monotonic() - began) * epochs * TOGETHER / max(trained, 1), runs  # the clock may have cut it
