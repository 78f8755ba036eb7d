"""Going on with a study: only with the same data, metric and seed, and only with budget left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wellposed.core.errors import InputError, StudyFinished
from wellposed.core.files import read_json
from wellposed.core.records import listing
from wellposed.study.budget import Account, Budget
from wellposed.study.fingerprint import digest_of_test_rows
from wellposed.study.study import STUDY
from wellposed.study.trials import SCHEMA, State, book_trials
from wellposed.training.problem import Problem

UNITS = {"seconds": "s", "recipes": " recipes", "epochs": " epochs"}


def resume_study(folder: Path, fresh: State, account: Account, problem: Problem, most: float) -> tuple[State, Account]:
    """The state of the study in a folder, and the account with what it has spent of this budget.

    Args:
        fresh: of this problem, for comparison.
        most: the share of a budget in minutes that the search may have taken.
        account: of the budget that is given now: of the whole study in recipes or epochs, and of all its sessions in minutes.
    """
    old = State.load(folder)
    for what, mine, theirs in (("data", fresh.data, old.data), ("metric", fresh.metric, old.metric)):
        if mine != theirs:
            raise InputError(
                f"The study in '{folder}' has another {what}; resume it with the same, or use another --out."
            )
    if old.own_test and not fresh.own_test:
        raise InputError(
            f"The study in '{folder}' was confirmed on rows given by --test, and trained on all others. Give --test again."
        )
    old.own_test = fresh.own_test
    if old.seed != fresh.seed:
        raise InputError(f"The study in '{folder}' has seed {old.seed}; resume it with --seed {old.seed}.")
    end_look(folder, old)
    return old, continue_account(folder, old, account, digest_of_test_rows(problem), most)


def end_look(folder: Path, state: State) -> None:
    """A process that was killed right after it wrote its results has shown them: that look is over."""
    if state.looking is None:
        return
    try:
        record = read_json(folder / STUDY, SCHEMA, "study")
        budget = Budget.parse(str(record.get("budget")))
    except InputError:
        return  # there is none, or none of ours: nothing of this look was shown
    shown = len(listing(record.get("trials")))
    if record.get("looks") == state.looks.get(state.looking) and shown == len(state.trials):
        state.close(budget.unit, budget.amount)
        state.save(folder)


def continue_account(folder: Path, state: State, account: Account, rows: str, most: float) -> Account:
    """The account with what the study has spent."""
    budget = account.budget
    if budget.none:
        return account
    before = state.finished.get(budget.unit, 0.0)
    ended = not state.pending and state.looking is None and state.confirmed == len(state.trials)
    if ended and budget.amount <= before and rows in state.looks:
        raise StudyFinished(
            f"The study in '{folder}' has spent its budget of {before:g}{UNITS[budget.unit]} and is confirmed. Give a larger "
            "budget to go on with it (all of it counts), or rows that it never saw with --test; wellposed report shows its results."
        )
    if budget.unit != "seconds":
        book_trials(account, state.trials, state.failed)
        return account
    if budget.amount > before:
        account = dataclasses.replace(account, budget=dataclasses.replace(budget, amount=budget.amount - before))
        used = min(state.seconds, most * account.budget.amount)
    else:
        used = budget.amount / 2  # new rows, for which the search goes on a little
    return dataclasses.replace(account, began=account.began - used)
