"""`improve`: the whole way from a problem to a recipe that is proven better, or honestly not."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellposed.core.errors import InputError, ProblemError, TrainingError, WellposedError, listed
from wellposed.core.progress import report
from wellposed.data.arrays import Arrays, Source, Subset
from wellposed.data.data import Prepared
from wellposed.diagnosis.diagnose import diagnose
from wellposed.diagnosis.evidence import Interval, crossed_interval, look_level
from wellposed.recipe.recipe import Recipe, as_recipe
from wellposed.search.budget import Account, Budget
from wellposed.search.folder import claimed
from wellposed.search.pace import FEWEST_EPOCHS, Pace, threads_of
from wellposed.search.references import References, references
from wellposed.search.space import BASELINE_RATES, Space
from wellposed.search.study import STATE, State, Study, Trial
from wellposed.training.device import resolve_device
from wellposed.training.loop import fit
from wellposed.training.problem import Problem, needs_problem
from wellposed.training.run import Run

TEST_SHARE = 0.2
ALPHA = 0.05
"""One-sided error of all looks together: look k is judged at ``ALPHA/2^k``, which for the first is a 95 % interval."""

SEARCH_RUN, SEARCH_RUN_MOST, FEWEST_STEPS = 0.015, 0.04, 200
"""Of a budget in minutes, what one run of the search may take: 25 recipes fit in 40 %. Where that is less than so many steps,
runs are longer, up to the second share, and fewer. A finalist may take twice as long."""
SLOW_STEP, SLOW_BATCH = 0.02, 64
"""A step of so many seconds is bound by arithmetic: smaller batches then give more steps in the same time."""
REFERENCES_SHARE, SEARCH_ENDS, SEARCH_ENDS_LATEST, FINAL_ENDS, CONFIRM_ENDS = 0.12, 0.42, 0.75, 0.12, 0.96
"""Shares of the budget: of the references, by which the search ends (later where runs are short), of the finalists, and by
which the confirmation ends. The confirmation's runs take what is left, since theirs are the models that are kept."""
FEWEST_RECIPES, SEARCH_ENDS_LATE = 20, 0.6
"""With fewer recipes a search says little: it may then go on up to this share of the time, at the confirmation's cost."""
FEWEST_RATES = 3
"""Learning rates of the baseline, whatever the budget: a gain over an untuned baseline would say nothing."""
MOST_PASSED = 40
"""Proposals that may be passed over for being too slow; then they are tried all the same."""
FINALISTS, MOST_ROUNDS = 3, 3
PAIRS = (4, 5, 10)
"""Pairs of confirmation runs: planned for where runs are long, without a clock, at most."""


def improve(
    problem: Problem,
    budget: str | Budget = "5m",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    recipe: Recipe | str | None = None,
    device: str = "auto",
    resume: bool = False,
    command: str = "wp.improve",
    began: float | None = None,
) -> Study:
    """Search for a better recipe, and confirm it on rows that the search never touched.

    The baseline is plain AdamW with its own search of the learning rate. Everything is chosen on validation rows; the
    test rows (split off first where the problem has none) are looked at once, by paired runs of baseline and best.

    Args:
        budget: ``"90s"``, ``"5m"``, ``"30 recipes"``, ``"200 epochs"``; ``"0"`` compares the default recipe, untuned. A
            budget in minutes bounds the wall-clock of everything here, confirmation included.
        seed: of the proposals and of the runs.
        out: a folder for the study; None keeps it in memory.
        recipe: one of your own, tried first.
        began: value of ``time.monotonic()`` when the clock of the budget started; None is now.
        resume: go on with the study in ``out``: its trials are kept, and the confirmation counts as another look.
    Raises:
        ProblemError, DataError, RecipeError: something given cannot be used.
        FolderInUse: ``out`` holds something else.
    """
    needs_problem("improve", problem)
    account = Account(Budget.parse(budget), time.monotonic() if began is None else began)
    folder = Path(out) if out is not None else None
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(claimed(folder, resume))
        elif resume:
            raise InputError("resume= needs the folder of the study: give out=.")
        search = Search(problem, account, seed, folder, resolve_device(device), resume)
        if recipe is not None:
            search.own = as_recipe(recipe)
        study = search.run(command)
        if folder is not None:
            study.folder = folder
            study.save(folder)
    return study


class Search:
    """The stages of a study; each trial is kept on disk as soon as it is done."""

    def __init__(
        self, problem: Problem, account: Account, seed: int, folder: Path | None, device: torch.device, resume: bool
    ) -> None:
        own_test = problem.data.test is not None and not isinstance(problem.data.test, float)
        if problem.data.test is None:
            problem = with_test(problem)
        self.problem, self.account, self.seed, self.folder, self.device = problem, account, seed, folder, device
        self.own: Recipe | None = None
        self.notes: list[str] = []
        self.pace = Pace(problem, account, device)
        self.rows: int | None = None
        self.share = SEARCH_RUN
        self.plain = plain_recipe(len(prepared(problem).train))
        self.interrupted = False
        self.cut: Run | None = None
        self.failed: list[str] = []
        self.runs: dict[int, Run] = {}
        name = problem.metric.name if problem.metric else "loss"
        self.state = State(fingerprint(problem), name, seed, own_test)
        if resume and folder is not None and (folder / STATE).exists():
            self.state = self._resumed(folder)
            for trial in self.state.trials[self.state.confirmed :]:
                if trial.kind in ("baseline", "search"):
                    self.account.book(trial.epochs)

    def _resumed(self, folder: Path) -> State:
        old = State.load(folder)
        for what, mine, theirs in (("data", self.state.data, old.data), ("metric", self.state.metric, old.metric)):
            if mine != theirs:
                raise InputError(
                    f"The study in '{folder}' has another {what}; resume it with the same, or use another --out."
                )
        if old.own_test and not self.state.own_test:
            raise InputError(
                f"The study in '{folder}' was confirmed on rows given by --test, and trained on all others. Give --test again."
            )
        old.own_test = self.state.own_test
        if old.seed != self.seed:
            raise InputError(f"The study in '{folder}' has seed {old.seed}; resume it with --seed {old.seed}.")
        return old

    @property
    def sign(self) -> float:
        """1 where a higher score is better, else -1."""
        return 1.0 if self.problem.metric is not None and self.problem.metric.higher_is_better else -1.0

    def run(self, command: str) -> Study:
        """All stages, in order."""
        self.check()
        found = self.references()
        baseline = self.baseline()
        best = baseline
        if not self.account.budget.none:
            findings = self.findings_of(baseline)
            self.search(baseline, findings)
            best = self.final(baseline)
        else:
            best = self.own or Space(self.problem, baseline, (), self.seed).draw(0)
        return self.confirm(baseline, best, found, command)

    # --- stages

    def references(self) -> References:
        """A constant, a linear model and boosting on the same rows."""
        report("phase", text="references")
        return references(self.problem, self.account.deadline(REFERENCES_SHARE))

    def check(self) -> None:
        """Fail early and clearly on what cannot be trained; decide on how many rows the search trains."""
        report("phase", text="checks")
        total = len(self.problem.prepared.train)
        self.pace.speed(self.plain)
        if self.own is not None:
            self.pace.speed(self.own)
        for key, values in self.problem.space.items():
            for value in values:
                self.plain.replace(model={key: value})
        if self.account.timed:
            self.settle_rows(total)

    def settle_rows(self, total: int) -> None:
        """On how many rows the search trains, and what share of the time a run has."""
        if self.pace.speed(self.plain).step > SLOW_STEP:
            self.plain = self.plain.replace(batch_size=min(self.plain.batch_size, SLOW_BATCH))
        step = self.pace.speed(self.plain).step
        self.share = min(max(SEARCH_RUN, FEWEST_STEPS * step / self.account.budget.amount), SEARCH_RUN_MOST)
        rows = self.pace.affordable_rows(self.plain, self.share)
        if rows < total:
            self.rows = rows
            self.notes.append(
                f"The search trained on {rows} of {total} training rows, so that each recipe had at least "
                f"{FEWEST_EPOCHS} epochs' time; the finalists and the confirmation trained on as many as the time allowed."
            )

    def baseline(self) -> Recipe:
        """Plain AdamW with the best of several learning rates, looking beyond the border where the best is there."""
        report("phase", text="baseline")
        plain = self.plain
        if self.account.budget.none:
            return plain
        done = {trial.built.optimizer.lr: trial for trial in self.trials("baseline")}
        limit = len(BASELINE_RATES)
        if self.account.budget.unit == "recipes":
            limit = max(FEWEST_RATES, min(limit, int(self.account.budget.amount) // 3))
        while not self.interrupted and (len(done) < FEWEST_RATES or self.account.spent < SEARCH_ENDS / 2):
            rate = self.next_rate(done, limit)
            if rate is None:
                break
            tried = self.trial("baseline", plain.replace(optimizer={"lr": rate}))
            if tried is not None:
                done[rate] = tried
        if not done:
            return plain  # interrupted before the first one ended
        if not any(math.isfinite(trial.valid_loss) for trial in done.values()):
            raise diverged(done)
        return max(done.values(), key=self.rank).built

    def next_rate(self, done: Mapping[float, Trial], limit: int) -> float | None:
        """The first rates of the list, then up to two beyond the border while the best is there; None: enough."""
        waiting = [rate for rate in BASELINE_RATES[:limit] if rate not in done]
        if waiting:
            return waiting[0]
        if not 1 < limit <= len(done) < limit + 2:
            return None
        best = max(done, key=lambda rate: self.rank(done[rate]))
        if best not in (min(done), max(done)):
            return None
        return float(f"{best * (3 if best == max(done) else 1 / 3):.1g}")

    def findings_of(self, baseline: Recipe) -> list[str]:
        """What holds the baseline back."""
        trials = [t for t in self.trials("baseline") if t.built == baseline and t.index in self.runs]
        if trials:
            self.state.findings = [finding.name for finding in diagnose(self.runs[trials[0].index])]
            self._keep()
        return self.state.findings

    def search(self, baseline: Recipe, findings: list[str]) -> None:
        """Proposals until the search's share of the budget is gone."""
        report("phase", text="search")
        space = Space(self.problem, baseline, findings, self.seed)
        if self.own is not None and self.own.to_dict() not in [t.recipe for t in self.trials("search")]:
            self.trial("search", self.own)
        proposal = self.state.proposals
        least = self.least_epochs(baseline)
        passed = 0
        while not self.interrupted and not self.over():
            candidate = space.draw(proposal)
            proposal += 1
            if self.account.timed and proposal > 1 and passed < MOST_PASSED and self.too_slow(candidate, least):
                passed += 1
                continue
            self.state.proposals = proposal
            self.trial("search", candidate)
        if passed:
            self.notes.append(
                f"{passed} proposals were passed over: within the time of one run they would have had less than half of the "
                "baseline's epochs."
            )

    def least_epochs(self, baseline: Recipe) -> float:
        """Half of the epochs that the baseline has: a recipe with fewer would be judged before it has learned."""
        return self.search_plan(baseline)[0].epochs / 2

    def too_slow(self, recipe: Recipe, least: float) -> bool:
        """Whether the recipe would have fewer epochs than ``least``. One that cannot be trained says so when it is tried."""
        try:
            return self.search_plan(recipe)[0].epochs < least
        except InputError:
            return False

    def search_plan(self, recipe: Recipe) -> tuple[Recipe, int]:
        """A recipe of the search with its epochs, and its rows."""
        return self.pace.planned(recipe, self.rows or len(self.problem.prepared.train), self.share)

    def over(self) -> bool:
        """Whether the search has had its share."""
        unit = self.account.budget.unit
        ends = {"seconds": self.search_ends(), "recipes": 1.0, "epochs": 1.0}[unit]
        if self.account.timed and self.account.recipes < FEWEST_RECIPES:
            ends = max(ends, SEARCH_ENDS_LATE)
        return self.account.spent >= ends

    def search_ends(self) -> float:
        """By which share of the time the search ends: what finalists and confirmation need is kept back."""
        seconds = [trial.seconds for trial in self.state.trials if math.isfinite(trial.seconds)]
        if self.rows is not None or not seconds:
            return SEARCH_ENDS
        runs = (1 + FINALISTS) * MOST_ROUNDS + 2 * PAIRS[2]
        needed = 1.3 * runs * float(np.median(seconds)) / max(self.account.budget.amount, 1e-9)
        return min(max(CONFIRM_ENDS - needed, SEARCH_ENDS), SEARCH_ENDS_LATEST)

    def final(self, baseline: Recipe) -> Recipe:
        """The best few again with another seed and on more rows; the best mean in validation wins."""
        report("phase", text="finalists")
        ends = self.account.spent + FINAL_ENDS
        ranked = sorted(self.trials("search"), key=self.rank, reverse=True)
        finalists = {t.built.to_toml(): t.built for t in ranked if math.isfinite(t.valid_loss)}
        candidates = [baseline, *list(finalists.values())[:FINALISTS]]
        # The run that made a recipe a finalist was chosen for its luck; only new seeds say what the recipe is worth.
        scores: dict[str, list[float]] = defaultdict(list)
        for again in range(1, 1 + MOST_ROUNDS):
            for recipe in candidates:
                if self.interrupted or (self.account.timed and self.account.spent > ends):
                    break
                finalist = self.trial("finalist", recipe, self.seed + again, full=True)
                if finalist is not None:
                    scores[recipe.to_toml()].append(self.rank(finalist)[0])
        scored = [recipe for recipe in candidates if scores[recipe.to_toml()]]
        return max(scored, key=lambda r: float(np.mean(scores[r.to_toml()])), default=baseline)

    def confirm(self, baseline: Recipe, best: Recipe, found: References, command: str) -> Study:
        """Paired runs of both recipes, and one look at the test rows."""
        report("phase", text="confirmation")
        pairs: list[tuple[Run, Run]] = []
        tested: list[tuple[np.ndarray, np.ndarray]] = []
        cut: list[tuple[Run, Run]] = []
        rows, most = len(self.problem.prepared.train), PAIRS[2] if self.account.timed else PAIRS[1]
        share = self.confirmation_share(best) if self.account.timed else self.share
        plans = [self.pace.planned(recipe, rows, share) for recipe in (baseline, best)]
        limit = min(count for _, count in plans) if self.account.timed else rows
        if limit < rows:
            self.notes.append(f"The confirmation trained on {limit} of {rows} training rows to stay within the budget.")
        took = 0.0
        while len(pairs) < most and not self.interrupted:
            late = self.account.timed and self.account.elapsed + took > CONFIRM_ENDS * self.account.budget.amount
            if late and len(pairs) >= 1:
                break
            began = time.monotonic()
            seed = 1000 + self.seed + len(pairs)
            ours = self.confirmed(plans[0][0], seed, limit, share)
            theirs = ours if baseline == best else self.confirmed(plans[1][0], seed, limit, share)
            took = time.monotonic() - began
            if ours is None or theirs is None:
                break
            if self.account.budget.none and not learned(ours):
                raise diverged([baseline.optimizer.lr])
            if "budget" in (ours.stopped, theirs.stopped):
                # A run that was cut by the clock says less of its recipe than no run.
                if pairs or cut:
                    break
                cut.append((ours, theirs))
                took = time.monotonic() - began
                continue
            pairs.append((ours, theirs))
            ours_test = ours.row_scores("test")
            theirs_test = ours_test if theirs is ours else theirs.row_scores("test")
            if not np.isfinite(theirs_test).all() and np.isfinite(ours_test).all():
                self.notes.append(
                    f"The best recipe diverged in the confirmation, and the baseline is kept ({best.describe()})."
                )
                return self.confirm(baseline, baseline, found, command)
            tested.append((ours_test, theirs_test))
            took = time.monotonic() - began
        if cut:
            self.notes.append("A pair of confirmation runs was cut by the clock and does not count as evidence.")
        whole = bool(pairs)
        if cut and not whole:
            pairs, tested = cut, [(a.row_scores("test"), b.row_scores("test")) for a, b in cut]
        return self.study(pairs, tested, whole, baseline, best, found, command)

    def confirmation_share(self, best: Recipe) -> float:
        """What of the budget one run may take, so that the planned pairs are trained and scored in what is left."""
        test = self.problem.prepared.test
        scoring = self.pace.speed(best).row * (0 if test is None else len(test)) / self.account.budget.amount
        return max(self.share, (CONFIRM_ENDS - self.account.spent) / (2 * PAIRS[0] + 1) - scoring)

    def confirmed(self, recipe: Recipe, seed: int, rows: int, share: float) -> Run | None:
        """One confirmation run."""
        limit = self.account.deadline(self.account.spent + 2 * share) if self.account.timed else math.inf
        deadline = min(limit, self.account.deadline(1.05))
        trial = self.fitted(
            "confirmation", recipe, seed, rows if rows < len(self.problem.prepared.train) else None, deadline
        )
        if trial is None:
            return None
        return self.runs[trial.index]

    def study(
        self,
        pairs: list[tuple[Run, Run]],
        tested: list[tuple[np.ndarray, np.ndarray]],
        whole: bool,
        baseline: Recipe,
        best: Recipe,
        found: References,
        command: str,
    ) -> Study:
        """Put everything together; ``tested`` has what each test row adds to the scores of a pair.

        Runs that were cut (not ``whole``) have scores, but are no evidence.
        """
        interval: Interval | None = None
        looks = 0
        scores: dict[str, dict[str, list[float]]] = {n: {"valid": [], "test": [math.nan]} for n in ("baseline", "best")}
        if tested and not self.interrupted:
            self.state.confirmed = len(self.state.trials)
            rows = _content(self.problem.prepared.test).hex()
            looks = self.state.looks[rows] = self.state.looks.get(rows, 0) + 1
            # Only a gain counts, so the error of a two-sided interval is one-sided: its level may use twice ALPHA.
            level = look_level(looks, 2.0 * ALPHA)
            if whole:
                interval = crossed_interval(np.stack([b - a for a, b in tested], axis=1), level)
        if not pairs:
            pairs = [(self.stand_in(baseline), self.stand_in(best))]
        for name, side in (("baseline", 0), ("best", 1)):
            scores[name]["valid"] = [shown_score(_chosen(pair[side])) for pair in pairs]
            if looks:
                sign = self.sign if self.problem.metric is not None else -1.0
                scores[name]["test"] = [sign * float(pair[side].mean()) for pair in tested]
        chosen = [min((pair[side] for pair in pairs), key=_best_loss) for side in (0, 1)]
        self._keep()
        self._say_shortfall()
        return Study(
            chosen[0], chosen[1], interval, [run for pair in pairs for run in pair], list(self.state.trials),
            found.test if looks else {}, {"baseline": diagnose(chosen[0]), "best": diagnose(chosen[1])},
            self.facts(scores, pairs, command, looks), [*self.notes, *found.notes],
        )  # fmt: skip

    def _say_shortfall(self) -> None:
        tried = len(self.trials("baseline")) + len(self.trials("search"))
        if self.account.timed and tried < FEWEST_RECIPES:
            self.notes.append(
                f"The time was enough for {tried} recipes; with fewer than {FEWEST_RECIPES} a search says little."
            )
        if self.failed:
            count = "A recipe" if len(self.failed) == 1 else f"{len(self.failed)} recipes, such as this one,"
            self.notes.append(f"{count} could not be trained: {self.failed[0]}")
        if self.interrupted:
            self.notes.append("Interrupted: what was trained is kept, and --resume goes on from here.")

    def facts(self, scores: dict[str, Any], pairs: list[tuple[Run, Run]], command: str, looks: int) -> dict[str, Any]:
        """What a report says of the circumstances."""
        data, problem = self.problem.prepared, self.problem
        sizes = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test) if data.test else 0}
        metric = {"name": self.state.metric, "higher_is_better": self.sign > 0}
        budget = self.account.budget
        return {
            "scores": scores,
            "looks": looks,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "command": command,
            "seed": self.seed,
            "task": data.task,
            "metric": metric,
            "name": problem.name,
            "budget": f"{budget.amount:g} {budget.unit}",
            "data": {"rows": sum(sizes.values()), "features": data.features, **sizes, "sha256": self.state.data},
            "confirmation_seeds": [a.seed for a, _ in pairs],
            "warnings": [*problem.warnings, *data.warnings],
            "seconds": self.account.elapsed,
        }

    def stand_in(self, recipe: Recipe) -> Run:
        """A run of the recipe for a study that was interrupted before its confirmation."""
        same = [
            i
            for i, run in self.runs.items()
            if run.recipe.optimizer == recipe.optimizer and run.recipe.terms == recipe.terms
        ]
        if same:
            return self.runs[same[-1]]
        stood_in = next(iter(self.runs.values()), self.cut)
        if stood_in is None or not stood_in.history.rows:
            raise KeyboardInterrupt
        return stood_in

    # --- one trial

    def trials(self, kind: str) -> list[Trial]:
        """The trials of a kind so far."""
        return [trial for trial in self.state.trials if trial.kind == kind]

    def rank(self, trial: Trial) -> tuple[float, float]:
        """Greater is better: by the metric in validation, then by the loss; a failed run comes last."""
        if not math.isfinite(trial.valid_loss):
            return -math.inf, -math.inf
        score = self.sign * trial.valid if math.isfinite(trial.valid) else -trial.valid_loss
        return score, -trial.valid_loss

    def trial(self, kind: str, recipe: Recipe, seed: int | None = None, full: bool = False) -> Trial | None:
        """Train a recipe within its share of the time; None where it was interrupted or could not be trained."""
        total, share = len(self.problem.prepared.train), 2 * self.share if full else self.share
        try:
            planned, count = self.pace.planned(recipe, total, share) if full else self.search_plan(recipe)
        except InputError as error:
            self.not_trained(kind, recipe, error)
            return None
        rows = count if count < total else None
        budget = self.account
        deadline = min(budget.deadline(budget.spent + 2 * share), budget.deadline(CONFIRM_ENDS))
        trial = self.fitted(kind, planned, self.seed if seed is None else seed, rows, deadline, as_proposed=recipe)
        if trial is not None and budget.timed:
            self.pace.took(share * budget.budget.amount, trial.seconds)
        return trial

    def fitted(
        self, kind: str, recipe: Recipe, seed: int, rows: int | None, deadline: float, as_proposed: Recipe | None = None
    ) -> Trial | None:
        """Train, book, keep."""
        began = time.monotonic()
        try:
            with threads_of(self.pace.threads(recipe)):
                run = fit(
                    self.problem, recipe, seed, device=str(self.device), deadline=deadline, rows=rows,
                    probe_rows=self.pace.probe_rows(rows or len(self.problem.prepared.train)),
                )  # fmt: skip
        except (TrainingError, InputError) as error:
            self.not_trained(kind, recipe, error)
            return None
        except KeyboardInterrupt:  # before its first step
            self.interrupted = True
            return None
        if run.stopped == "interrupted":
            # Half a run says nothing of its recipe; the study goes on with a whole one.
            self.interrupted, self.cut = True, run
            return None
        last = _chosen(run)
        finite = learned(run)
        trial = Trial(
            index=len(self.state.trials),
            kind=kind,
            recipe=(as_proposed or recipe).to_dict(),
            describe=recipe.describe(),
            seed=seed,
            valid=shown_score(last) if finite else math.nan,
            valid_loss=last["valid_loss"] if finite else math.nan,
            train_loss=last["train_loss"] if finite else math.nan,
            epochs=len(run.history),
            best_epoch=run.best_epoch,
            seconds=time.monotonic() - began,
            stopped=run.stopped,
            train_rows=rows or len(self.problem.prepared.train),
        )
        self.runs[trial.index] = run
        self.state.trials.append(trial)
        if kind in ("baseline", "search"):
            self.account.book(trial.epochs)
        self._keep()
        self._forget()
        report("trial", trial=trial, best=self.best_so_far(), elapsed=self.account.elapsed, spent=self.account.spent)
        return trial

    def not_trained(self, kind: str, recipe: Recipe, error: TrainingError | InputError) -> None:
        """What cannot be trained is said and passed over in the search; baseline and confirmation need their runs."""
        if kind in ("baseline", "confirmation"):
            raise error
        self.account.book(1)
        self.failed.append(f"{recipe.describe()}: {error}")

    def _keep(self) -> None:
        """Write the state, so that a killed process loses at most the trial that it was training."""
        if self.folder is not None:
            self.state.save(self.folder)

    def best_so_far(self) -> float:
        """The best validation score of the baseline and the search; NaN before there is one."""
        ranked = [t for t in self.state.trials if t.kind in ("baseline", "search") and math.isfinite(t.valid_loss)]
        return max(ranked, key=self.rank).valid if ranked else math.nan

    def _forget(self) -> None:
        """Keep the models of baseline and confirmation, and the last of the search: many models would fill the memory."""
        kinds = {trial.index: trial.kind for trial in self.state.trials}
        for index in [i for i in self.runs if kinds[i] in ("search", "finalist")][:-5]:
            del self.runs[index]


def prepared(problem: Problem) -> Prepared:
    """The problem's data; whatever somebody's data set raises is said as one sentence.

    Raises:
        ProblemError: they cannot be prepared.
    """
    try:
        return problem.prepared
    except WellposedError:
        raise
    except Exception as error:
        raise ProblemError(f"The data cannot be prepared: {type(error).__name__}: {error}.") from error


def diverged(rates: Iterable[float]) -> ProblemError:
    """The error for a baseline that learns nothing at any rate."""
    return ProblemError(
        f"Plain training diverged in its first epoch, at every learning rate tried ({listed(f'{r:g}' for r in rates)}): "
        "the cost is NaN or infinite. Look for NaN and huge values in inputs and targets, and for logarithms and divisions "
        "in model and loss."
    )


def learned(run: Run) -> bool:
    """Whether it ended with a finite loss, and not in its first epoch, whatever its first weights happen to score."""
    return math.isfinite(_chosen(run)["valid_loss"]) and not (run.stopped == "diverged" and len(run.history) == 1)


def _chosen(run: Run) -> dict[str, float]:
    """The history's row of the epoch whose weights were kept; NaN where none was."""
    if run.history.rows and run.best_epoch >= 0:
        return run.history.rows[run.best_epoch]
    return dict.fromkeys(("valid_loss", "train_loss", "valid_metric"), math.nan)


def shown_score(row: dict[str, float]) -> float:
    """The metric of an epoch, or the loss where there is none."""
    return row["valid_metric"] if math.isfinite(row["valid_metric"]) else row["valid_loss"]


def plain_recipe(rows: int) -> Recipe:
    """Plain AdamW; the batch size sets the speed, so small data get small batches and large data large ones."""
    return Recipe(batch_size=32 if rows < 1000 else 128 if rows < 20000 else 256)


def with_test(problem: Problem) -> Problem:
    """The same problem with test rows split off first."""
    changed = Problem.__new__(type(problem))
    changed.__dict__.update({k: v for k, v in problem.__dict__.items() if k not in ("prepared", "metric")})
    changed.data = dataclasses.replace(problem.data, test=TEST_SHARE)
    return changed


def fingerprint(problem: Problem) -> str:
    """SHA-256 of the data: a table's own, or that of all tensors; of other sources only their sizes are known."""
    if problem.sha256:
        return problem.sha256
    digest = hashlib.sha256()
    data = problem.prepared
    for source in (data.train_clean, data.valid, data.test):
        digest.update(_content(source))
    return digest.hexdigest()


def _content(source: Source | None) -> bytes:
    if source is None:
        return b"none"
    root = source.source if isinstance(source, Subset) else source
    digest = hashlib.sha256(str(len(source)).encode())
    if isinstance(root, Arrays) and isinstance(root.inputs, torch.Tensor):
        inputs, target = source.batch(torch.arange(len(source)))
        digest.update(np.ascontiguousarray(inputs.numpy()).tobytes())
        digest.update(np.ascontiguousarray(target.numpy()).tobytes())
    return digest.digest()


def _best_loss(run: Run) -> float:
    losses = [loss for loss in run.history["valid_loss"] if math.isfinite(loss)]
    return min(losses, default=math.inf)
