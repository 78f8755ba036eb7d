"""`improve`: the whole way from a problem to a recipe that is proven better, or honestly not. The stages, in order."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wellposed.core.checks import Seed, checked
from wellposed.core.clock import WRITING, clock_open, enter_stage, spent_on
from wellposed.core.errors import InputError, did_you_mean, listed, require
from wellposed.diagnosis.diagnose import Diagnosis, own_rules
from wellposed.diagnosis.rules.rule import Rule
from wellposed.parallel.executors import ENGINES
from wellposed.recipe.presets import as_recipe
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split
from wellposed.search.ablation import Ablation, ablation
from wellposed.search.advised_trials import advice_sentence
from wellposed.search.baseline import findings_of, tuned_baseline
from wellposed.search.confirmation import Confirmed, against_references, confirm, reliability
from wellposed.search.error_sources import error_budgets
from wellposed.search.finalists import best_of_finalists
from wellposed.search.holdout import in_a_sentence, plain_recipe, with_test
from wellposed.search.lots import Rounds
from wellposed.search.playbook import edge_note
from wellposed.search.progress_bar import show_progress
from wellposed.search.references import References, references
from wellposed.search.runner import Bench
from wellposed.search.smaller import smaller
from wellposed.search.space import Space
from wellposed.search.timing import FEWEST_RECIPES
from wellposed.search.timing_probes import measure_pace, plan_runs
from wellposed.study.budget import Account, Budget
from wellposed.study.fingerprint import fingerprint
from wellposed.study.folder import claim_folder
from wellposed.study.ranking import best_loss, chosen_row, shown_score
from wellposed.study.resume import resume_study
from wellposed.study.study import Study
from wellposed.study.trials import STATE, State
from wellposed.training.device import resolve_device
from wellposed.training.problem import Problem
from wellposed.training.run import Run

__all__ = ["Search", "improve", "with_test"]


@checked
def improve(
    problem: Problem,
    budget: str | Budget = "5m",
    seed: Seed = 0,
    out: str | Path | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    resume: bool = False,
    small: bool = False,
    rules: Sequence[Rule | type[Rule]] = (),
    command: str = "wp.improve",
    began: float | None = None,
    verbose: bool = True,
) -> Study:
    """Search for a better recipe, and confirm it on rows that the search never touched.

    The baseline is plain AdamW with its own search of the learning rate. Everything is chosen on validation rows; the
    test rows (split off first where the problem has none) are looked at once, by paired runs of baseline and best.

    Args:
        budget: ``"90s"``, ``"5m"``, ``"30 recipes"``, ``"200 epochs"``; ``"0"`` compares the default recipe, untuned. A
            budget in minutes bounds the wall-clock of everything here, confirmation included.
        seed: of the proposals and of the runs.
        out: a folder for the study; None keeps it in memory.
        recipe: one of your own, tried first. Of penalties and constraints in it that you wrote, other sizes are tried too.
        engine: where recipes are trained: ``auto``, ``inprocess``, ``processes`` or ``ray``.
        small: train the best recipe with a group penalty of growing strength too, and keep score against size in ``study.json``.
        rules: of your own, asked beside ours what holds a run back; what they advise is tried first too.
        began: value of ``time.monotonic()`` when the clock of the budget started; None is now.
        resume: go on with the study in ``out``, with a larger budget than it has spent: its trials are kept, and the
            confirmation counts as another look.
        verbose: show the progress, in a terminal or a notebook only.
    Raises:
        ProblemError, DataError, RecipeError: something given cannot be used.
        InputError: a study that is resumed is of something else.
        StudyFinished: it has spent its budget.
        FolderInUse: ``out`` holds something else.
    """
    if engine not in ENGINES:
        raise InputError(f"There is no engine {engine!r}.{did_you_mean(engine, ENGINES)} Use {listed(ENGINES)}.")
    spent = Budget.parse(budget)
    folder = Path(out) if out is not None else None
    with contextlib.ExitStack() as stack:
        clock = stack.enter_context(clock_open(began))
        if folder is not None:
            stack.enter_context(claim_folder(folder, resume))
        elif resume:
            raise InputError("resume= needs the folder of the study: give out=.")
        stack.enter_context(show_progress(spent, quiet=not verbose))
        account = Account(spent, time.monotonic() if began is None else began)
        search = Search(problem, account, seed, folder, resolve_device(device), resume, engine, own_rules(rules), small)
        if recipe is not None:
            search.own = as_recipe(recipe)
            search.own.to_dict()  # refuses what a study could not write down
        study = search.run(command)
        study.facts["clock"] = clock.told()
        if folder is not None:
            enter_stage(WRITING)
            with spent_on(WRITING):
                study.folder = folder
                study.facts["clock"] = clock.told()
                study.save(folder)
                search.close()
        study.late, study.interrupted = search.bench.late(), search.bench.interrupted
    return study


class Search:
    """The stages of a study; each trial is kept on disk as soon as it is done."""

    def __init__(
        self,
        problem: Problem,
        account: Account,
        seed: int,
        folder: Path | None,
        device: torch.device,
        resume: bool,
        engine: str = "auto",
        rules: Sequence[Rule] = (),
        small: bool = False,
    ) -> None:
        own_test = problem.data.test is not None and not isinstance(problem.data.test, float)
        if problem.data.test is None:
            problem = with_test(problem)
        with in_a_sentence("The data cannot be prepared"):
            self.plain = plain_recipe(len(problem.prepared.train))
        name = problem.metric.name if problem.metric else "loss"
        state = State(fingerprint(problem), name, seed, own_test)
        if resume and folder is not None and (folder / STATE).exists():
            state, account = resume_study(folder, state, account, problem, budget_split.SEARCH)
        self.problem, self.account, self.folder = problem, account, folder
        self.own: Recipe | None = None
        self.small = small
        kept_free = budget_split.SMALL if small else 0.0
        self.bench = Bench(problem, account, state, folder, device, engine, rules, kept_free)
        self.space: Space | None = None

    def run(self, command: str) -> Study:
        """Go through all stages in their order, and return the study."""
        bench = self.bench
        with bench.pace.calm():
            self.check()
        found = self.references()
        self.plain, epochs, rows = measure_pace(bench, self.plain)
        baseline = tuned_baseline(bench, self.plain, epochs, rows)
        best = baseline
        if self.account.timed:
            epochs, rows = plan_runs(bench, self.plain)  # its own lot has shown how fast it is
        with bench.pace.calm():
            self.space = self.declared(baseline)
        if self.space is not None and self.account.budget.none:
            best = self.own or self.space.default()
        elif self.space is not None and not bench.interrupted:
            Rounds(bench, self.space, self.own, self.plain, epochs, rows).run()
            if said := edge_note(bench.state.of("search"), bench.sign, "the search"):
                bench.notes.append(said)
            best = best_of_finalists(bench, baseline, epochs)
        with bench.pace.calm():
            shown = confirm(bench, baseline, best, epochs)
        parts = {"small": smaller(bench, shown)} if self.small else {}
        taken = Ablation()
        if shown.looks and not self.account.budget.none:
            taken = ablation(bench, shown.baseline, shown.best, shown.epochs, shown.rows)
        if taken.cocktail is not None:
            parts["cocktail"] = taken.cocktail
        parts["error_budget"] = error_budgets(bench, shown)
        with bench.pace.calm():
            return self.study(shown, taken, found, parts, command)

    def close(self) -> None:
        """The study is written: what its budget was is spent, and its look is over."""
        state, budget = self.bench.state, self.account.budget
        if state.looking is not None and not self.bench.interrupted:
            state.close(budget.unit, budget.amount)
            state.save(self.bench.folder or Path())

    # --- stages

    def check(self) -> None:
        """Fail early and clearly on what cannot be trained."""
        enter_stage("checks")
        if not self.account.budget.none:
            require("optuna", "search")
        pace = self.bench.pace
        for recipe in filter(None, (self.plain, self.own)):
            pace.check(recipe)
        for key, values in self.problem.space.items():
            for value in values:
                self.plain.replace(model={key: value})

    def references(self) -> References:
        """A constant, a linear model and boosting on the same rows."""
        enter_stage("references")
        account = self.account
        if account.timed and account.spent >= budget_split.STARTED:
            of_all = f"{account.elapsed:.0f} of {account.budget.amount:g} s"
            said = f"There was no time for the reference models: the start took {of_all}. A larger budget compares with them."
            return References(notes=(said,))
        return references(self.problem, account.deadline(account.spent + budget_split.REFERENCES))

    def declared(self, baseline: Recipe) -> Space | None:
        """The space around the baseline; None after Ctrl-C."""
        bench = self.bench
        try:
            return Space(self.problem, baseline, findings_of(bench, baseline), bench.state.ranges, self.own)
        except KeyboardInterrupt:
            bench.interrupted = True
            return None

    # --- the study

    def study(self, shown: Confirmed, taken: Ablation, found: References, parts: dict[str, Any], command: str) -> Study:
        """Put the results of all stages together."""
        bench = self.bench
        pairs = shown.pairs or [(bench.stand_in(shown.baseline), bench.stand_in(shown.best))]
        picked = [min((pair[side] for pair in pairs), key=best_loss) for side in (0, 1)]
        bench.keep()
        self._say_shortfall()
        facts = self.facts(pairs, shown, command) | parts | {"calibration": {}}
        if shown.looks and self.in_time:
            told = {name: reliability(run) for name, run in zip(("baseline", "best"), picked, strict=True)}
            facts["calibration"] = {name: one for name, one in told.items() if one is not None}
        worths = [worth.told() for worth in taken.worths]
        return Study(
            picked[0], picked[1], shown.interval, [run for pair in pairs for run in pair], list(bench.state.trials),
            found.scores if shown.looks else {}, {"baseline": self.diagnosed(picked[0]), "best": self.diagnosed(picked[1])},
            facts, [*bench.notes, *found.notes], worths, taken.simplest, against=against_references(shown, found),
        )  # fmt: skip

    @property
    def in_time(self) -> bool:
        """Whether the clock leaves room for what a study can do without."""
        return not self.account.timed or self.account.spent < budget_split.LATEST

    def diagnosed(self, run: Run) -> Diagnosis:
        """What holds a run back, seen from inside; by its curves alone where the time is over."""
        if self.in_time:
            return self.bench.diagnosed(run)
        said = "There was no time to look inside the models, nor at how sure they are: the diagnoses are of their curves alone."
        if said not in self.bench.notes:
            self.bench.notes.append(said)
        return self.bench.diagnosed(run.history)

    def _say_shortfall(self) -> None:
        notes, failed = self.bench.notes, self.bench.state.failed
        tried = len(self.bench.state.of("baseline", "search"))
        if self.account.timed and tried < FEWEST_RECIPES:
            notes.append(
                f"The time was enough for {tried} recipes; with fewer than {FEWEST_RECIPES} a search says little. Give more time."
            )
        if cut := self.bench.cut_short:
            stages = {"finalist": "finalists", "small": "smaller networks"}
            told = ", ".join(f"{count} of the {stages.get(kind, kind)}" for kind, count in cut.items())
            notes.append(f"The time ran out before some runs had ended: {told}.")
        if failed:
            count = "A recipe" if len(failed) == 1 else f"{len(failed)} recipes, such as this one,"
            notes.append(f"{count} could not be trained: {failed[0].why}")
        if self.bench.interrupted:
            notes.append("Interrupted: what was trained is kept, and --resume goes on from here.")

    def facts(self, pairs: list[tuple[Run, Run]], shown: Confirmed, command: str) -> dict[str, Any]:
        """What a report says of the circumstances."""
        data, problem, bench = self.problem.prepared, self.problem, self.bench
        sizes = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test) if data.test else 0}
        sign = bench.sign if problem.metric is not None else -1.0
        scores = {
            name: {
                "valid": [shown_score(chosen_row(pair[side])) for pair in pairs],
                "test": [sign * float(pair[side].mean()) for pair in shown.tested] or [math.nan],
            }
            for side, name in enumerate(("baseline", "best"))
        }
        budget = self.account.budget
        return {
            "scores": scores,
            "constant": self.constants(shown.looks > 0),
            "looks": shown.looks,
            "device": str(bench.device),
            "engine": bench.engine,
            "threads": bench.pace.torch_threads,
            "command": command,
            "seed": bench.seed,
            "task": data.task,
            "metric": {"name": bench.state.metric, "higher_is_better": bench.sign > 0},
            "name": problem.name,
            "budget": f"{budget.amount:.12g} {budget.unit}",
            "data": {"rows": sum(sizes.values()), "features": self.features(), **sizes, "sha256": bench.state.data},
            "confirmation_seeds": [a.seed for a, _ in pairs],
            "warnings": [*problem.warnings, *data.warnings],
            "seconds": self.account.elapsed,
            "space": self.space.told() if self.space is not None else [],
            "advice": [{**advice, "told": advice_sentence(advice)} for advice in bench.state.advice],
        }

    def features(self) -> int:
        """Numbers in an example's input, without the pieces of each."""
        data = self.problem.prepared
        return data.features if data.encoder is None else len(data.encoder.whole)

    def constants(self, looked: bool) -> dict[str, float]:
        """What the best constant prediction of the training rows scores on each side, by the metric or else by the loss."""
        data = self.problem.prepared
        key = "chance_metric" if self.problem.metric is not None else "constant_loss"
        sides = {"valid": data.valid, "test": data.test if looked else None}
        scored = {s: self.problem.constant_on(rows).get(key) for s, rows in sides.items() if rows is not None}
        return {side: value for side, value in scored.items() if value is not None and math.isfinite(value)}
