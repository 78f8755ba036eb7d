"""The search: lot after lot of recipes, asked of the sampler, trained together, told; between lots, the playbook's rules."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence

from wellposed.core.clock import SAMPLER, enter_stage, spent_on
from wellposed.core.errors import InputError
from wellposed.core.formats import count_noun
from wellposed.core.random import numpy_generator
from wellposed.diagnosis.finding import Change
from wellposed.recipe.recipe import Recipe
from wellposed.search import budget_split, playbook
from wellposed.search.advised_trials import first_changes, measure_against, note_advice
from wellposed.search.confirmation import PAIRS
from wellposed.search.proposals import Proposals, TrialResult
from wellposed.search.runner import Bench, PlannedTrial
from wellposed.search.space import Point, Space
from wellposed.search.successive_halving import Halving
from wellposed.search.timing import FEWEST_EPOCHS, stepped_by_torch, with_epochs
from wellposed.study.ranking import WORST
from wellposed.study.trials import Pending, Trial
from wellposed.training.history import Stopped

LOTS, FEWEST_TOGETHER, MOST_TOGETHER = 5, 4, 48
"""Lots that a search has at least, where it has enough recipes for them, and how many recipes one has."""
GROUP, MOST_GROUPS = 6, 4
"""Recipes of a lot with equal model settings and batch size, at least, and how many such groups a lot has at most."""
QUASI, FEWEST_QUASI, MOST_QUASI = 1 / 3, 8, 64
"""Share of the recipes that are quasi-random, before the first that is learned."""
LATER = 120
"""Runs that come after the search, as if they were of the plain recipe: finalists, confirmation, ablation."""
SLOWEST = 0.5
"""A group of which not even two recipes fit in so large a share of a lot's time is passed over."""
SLOWER, SLOWEST_BY = 1.3, 3.0
"""A lot takes longer than its recipes say, since halving leaves programs with few of them; by how much is learned, up to this."""
SAME_SIZE = 1.5
"""A recipe that takes not much longer than the baseline is always tried."""
DEAR = 2.5
"""Ingredients that make a step so many times as long are tried as much less often."""
MOST_PASSED = 20
"""Groups that may be passed over for being too slow; then the baseline's own settings are taken."""


class Rounds:
    """The lots of a search.

    Args:
        own: a recipe of the user's, tried first.
        epochs, rows: of each run; rows None takes all.
    """

    def __init__(
        self, bench: Bench, space: Space, own: Recipe | None, plain: Recipe, epochs: int, rows: int | None
    ) -> None:
        self.bench, self.space, self.own, self.plain, self.epochs, self.rows = bench, space, own, plain, epochs, rows
        self.passed, self.cheapened, self.slower = 0, 0, SLOWER
        self.stepped: dict[str, bool] = {}
        self.size = self._size()
        quasi = min(max(FEWEST_QUASI, round(QUASI * self._expected())), MOST_QUASI)
        self.proposals = Proposals(space, bench.seed, quasi)

    def run(self) -> None:
        """Lots until the search's share of the budget is gone."""
        enter_stage("search")
        bench, state = self.bench, self.bench.state
        if bench.journal is not None:
            bench.journal.open(self.space, state.trials)
        if self.pending:
            self.finish_lot()
        while not bench.interrupted and not self.over():
            self.plan_lot()
            if not self.pending:
                break
            self.finish_lot()
        wider = playbook.widening_note(self.space.declared, self.space.dimensions)
        bench.notes += [*([wider] if wider else []), *state.said]
        if self.rows is not None and state.of("search"):
            bench.notes.append(
                f"The search trained on {self.rows} of {bench.total} training rows, so that each recipe had at least "
                f"{FEWEST_EPOCHS} epochs' time; the finalists and the confirmation trained on as many as the time allowed."
            )
        if self.cheapened:
            bench.notes.append(
                f"From {count_noun(self.cheapened, 'recipe')} ingredients were left out that make each step at least "
                f"{DEAR:g} times as long, so that more recipes could be tried."
            )
        if self.passed:
            bench.notes.append(
                f"{self.passed} groups of recipes were skipped: they train too slowly for this budget. A larger one tries them."
            )

    # --- how much

    def _expected(self) -> int:
        """How many recipes the search will have in all."""
        budget = self.bench.account.budget
        if budget.unit == "recipes":
            return int(budget.amount)
        if budget.unit == "epochs":
            return round(budget.amount / self.epochs)
        left = (self.ends() - self.bench.account.spent) * budget.amount
        each = self.slower * self.epochs * self.bench.pace.cost("search", self.plain, self.rows_or_all)
        return int(max(left, 0.0) / max(each, 1e-9))

    def _size(self) -> int:
        return min(max(self._expected() // LOTS, FEWEST_TOGETHER), MOST_TOGETHER)

    @property
    def rows_or_all(self) -> int:
        """The rows that a run is trained on."""
        return self.rows or self.bench.total

    def ends(self) -> float:
        """By which share of the budget the search ends: under a clock, later where what follows is short."""
        bench = self.bench
        if not bench.account.timed:
            return 1.0
        needed = bench.pace.seconds("finalist", [self.plain] * LATER, self.epochs, bench.total) / budget_split.HASTE
        share = needed / ((1.0 - bench.start) * bench.account.budget.amount)
        return bench.until(min(max(budget_split.ABLATION - share, budget_split.SEARCH), budget_split.SEARCH_LATEST))

    def over(self) -> bool:
        """Whether the search has had its share; under a clock, where too few would fit for another lot."""
        account = self.bench.account
        if not account.timed:
            return account.spent >= 1.0
        return account.spent >= self.ends() or self._expected() < FEWEST_TOGETHER

    def room(self) -> int:
        """How many recipes the next lot may have."""
        budget, account = self.bench.account.budget, self.bench.account
        left = self._expected()
        if budget.unit == "recipes":
            left = int(budget.amount) - account.recipes
        elif budget.unit == "epochs":
            left = math.ceil((budget.amount - account.epochs) / self.epochs)
        return min(self.size, left)

    # --- a lot

    @property
    def pending(self) -> list[Pending]:
        """The lot of the search that is being trained."""
        return [pending for pending in self.bench.state.pending if pending.kind == "search"]

    def told(self) -> list[TrialResult]:
        """What became of every point so far, the baseline's own among them."""
        found = []
        for trial in self.bench.state.of("baseline", "search"):
            point = trial.params
            if trial.kind == "baseline":
                point = self.space.plain(trial.built.optimizer.lr)
            if point:
                culled = trial.epochs if trial.stopped == Stopped.CULLED else None
                found.append(TrialResult(point, WORST if trial.diverged else self.bench.rank(trial), culled))
        return found

    def plan_lot(self) -> None:
        """Ask for the next lot, and write down what it is before it is trained."""
        state, room = self.bench.state, self.room()
        self.size = max(self.size, self._size()) if self.bench.account.timed else self.size
        recipes: list[tuple[Recipe, Point]] = []
        advice: list[tuple[str, Change]] = []
        if state.lots == 0:
            changes = first_changes(self.bench, self.space.baseline)
            advice = [(name, change) for name, change in changes if self.can_be_confirmed(change.recipe)]
            starts = [(self.space.recipe(point), point) for point in self.space.starts()]
            recipes = [(self.own, {})] if self.own is not None else []
            recipes += [(change.recipe, {}) for _, change in advice]
            recipes = [*recipes, *(start for start in starts if self.can_be_confirmed(start[0]))][:room]
        told = self.told()
        for number, count in enumerate(shared_out(room - len(recipes))):
            shared, count = self.group(state.lots, number, told, count)
            running = [point for _, point in recipes if point]
            with spent_on(SAMPLER):
                points = self.proposals.ask(
                    count, state.proposals, MOST_GROUPS * state.lots + number, told, shared, running
                )
            state.proposals += len(points)
            points = [self.cheaper(point, state.proposals + place) for place, point in enumerate(points, -len(points))]
            recipes += [(self.space.recipe(point), point) for point in points]
        state.pending = [
            Pending(state.number(), recipe.to_dict(), point, self.epochs, self.rows, seed=self.bench.seed)
            for recipe, point in recipes
        ]
        state.advice += [
            {"finding": name, "says": change.says, "trial": pending.index}
            for pending, (name, change) in zip(state.pending[self.own is not None :], advice, strict=False)
        ]
        if state.advice and state.lots == 0:
            measure_against(self.bench, self.space.baseline)
        state.lots += 1
        self.bench.keep()

    def group(self, lot: int, number: int, told: Sequence[TrialResult], count: int) -> tuple[Point, int]:
        """The shared settings of a group, and how many recipes of it fit; slow ones get fewer, too slow ones are passed over."""
        bench = self.bench
        if not bench.account.timed:
            return self.proposals.group(lot, number, told), count
        pace, rows = bench.pace, self.rows_or_all
        least = pace.cost("search", self.plain, rows)
        for again in range(MOST_PASSED):
            shared = self.proposals.group(lot, number + MOST_GROUPS * again, told)
            try:
                recipe = self.space.recipe({**self.space.plain(1e-3), **shared})
                each = pace.cost("search", recipe, rows)
            except InputError:  # it says so when it is tried
                return shared, count
            if each <= max(SLOWEST * count, 1.0) * least and self.can_be_confirmed(recipe):
                return shared, max(1, min(2 * count, int(count * least / each)))
            self.passed += 1
        plain = self.space.plain(1e-3).items()
        return {name: value for name, value in plain if self.space.dimensions[name].shared}, count

    def cheaper(self, point: Point, number: int) -> Point:
        """Under a clock, the point without the ingredients whose steps torch takes for its recipe alone, where these make it
        several times as slow: as much more rarely they stay in it."""
        if not self.bench.account.timed:
            return point
        inside = [one.name for one in self.space.ingredients if point.get(one.name)]
        try:
            dear = {name for name in inside if self.by_torch(name, point)}
            if not dear:
                return point
            without = point_without(point, dear)
            times = self.bench.pace.step(self.space.recipe(point)) / self.bench.pace.step(self.space.recipe(without))
        except InputError:  # it says so when it is tried
            return point
        if times <= DEAR or numpy_generator(self.bench.seed, "cheaper", number).random() < 1 / times:
            return point
        self.cheapened += 1
        return without

    def by_torch(self, name: str, point: Point) -> bool:
        """Whether an ingredient of the point has steps that torch takes for its recipe alone."""
        if name not in self.stepped:
            others = {one.name for one in self.space.ingredients if one.name != name and point.get(one.name)}
            self.stepped[name] = stepped_by_torch(self.space.recipe(point_without(point, others)))
        return self.stepped[name]

    def can_be_confirmed(self, recipe: Recipe) -> bool:
        """Whether the fewest pairs of the confirmation fit its share of the time: else the best recipe would be judged after fewer
        epochs, or on fewer rows, than the search judged it."""
        bench = self.bench
        if not bench.account.timed:
            return True
        share = (1.0 - bench.start) * (budget_split.CONFIRMATION - budget_split.SEARCH - budget_split.FINALISTS)
        try:
            pair = bench.pace.seconds("confirmation", [self.plain, recipe], self.epochs, self.rows_or_all)
        except InputError:
            return True
        plain = bench.pace.seconds("confirmation", [self.plain] * 2, self.epochs, self.rows_or_all)
        time = budget_split.HASTE * share * bench.account.budget.amount
        return PAIRS[0] * pair <= max(time, SAME_SIZE * PAIRS[0] * plain)

    def finish_lot(self) -> None:
        """Train what is pending, less what need not be trained again; then look at ranges and rates."""
        bench, state = self.bench, self.bench.state
        numbers = {pending.index for pending in self.pending}
        lot = bench.left([self.planned(pending) for pending in self.pending])
        if lot:
            apart = numbers - {planned.index for planned in lot}
            before = [
                (int(epoch), (-math.inf if a is None else a, -math.inf if b is None else b))
                for trial in state.of("search") if trial.index in apart
                for epoch, a, b in trial.rungs
            ]  # fmt: skip
            rows = self.pending[0].rows
            expected = 0.0
            if bench.account.timed:
                with contextlib.suppress(InputError):  # one of them cannot be trained, and says so in a moment
                    recipes = [planned.run for planned in lot]
                    expected = bench.pace.seconds("search", recipes, self.epochs, rows or bench.total)
            began = time.monotonic()
            bench.train(
                "search", lot, rows, ends=self.ends() + budget_split.FINALISTS / 4, halving=Halving(bench.sign, before),
                note=lambda trial, run: note_advice(bench, self.space.baseline, trial, run),
            )  # fmt: skip
            if expected > 0:
                ratio = (time.monotonic() - began) / expected
                self.slower = min(max(math.sqrt(self.slower * ratio), 1.0), SLOWEST_BY)
        if bench.interrupted:
            return
        self.look([trial for trial in state.of("search") if trial.index in numbers])
        state.pending, state.losses = [], ""
        bench.keep()

    def planned(self, pending: Pending) -> PlannedTrial:
        """A pending recipe as it is trained."""
        recipe = Recipe(**pending.recipe)
        return PlannedTrial(pending.index, recipe, with_epochs(recipe, pending.epochs), self.bench.seed, pending.params)

    def look(self, lot: Sequence[Trial]) -> None:
        """Widen the space where the best point lies at its border, and shrink it where many diverged."""
        shrunk = playbook.narrow_rates(self.space, lot)
        widened = playbook.widen(self.space, self.bench.state.of("search"), self.bench.sign)
        for dimension in [*widened, *(dimension for dimension, _ in shrunk)]:
            self.space.dimensions[dimension.name] = dimension
            self.bench.state.ranges[dimension.name] = [dimension.low, dimension.high]
        self.bench.state.said += [said for _, said in shrunk]


def point_without(point: Point, names: set[str]) -> Point:
    """The point without these ingredients."""
    kept = {key: value for key, value in point.items() if key.removesuffix(".size") not in names}
    return kept | dict.fromkeys(names, False)


def shared_out(count: int) -> list[int]:
    """Recipes of a lot by group: few groups, since only recipes of one are trained together.

    Example:
        >>> shared_out(5), shared_out(20), shared_out(48)
        ([5], [7, 7, 6], [12, 12, 12, 12])
    """
    groups = min(MOST_GROUPS, max(1, count // GROUP))
    return [count // groups + (number < count % groups) for number in range(groups)] if count > 0 else []
