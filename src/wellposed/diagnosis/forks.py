"""Which future wins: continuations of one training, each with one change, against just going on.

All start from the same weights, with the same memory of the optimizer, and see the same rows in the same order, seed by seed;
so their differences are those that the changes make.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellposed.core.checks import Count, checked
from wellposed.core.drawing import BASELINE, BEST, REFERENCE, TRAIN, VALID, render_svg, standalone
from wellposed.core.errors import InputError, described
from wellposed.core.files import jsonable, write_atomically
from wellposed.core.records import text
from wellposed.diagnosis.advice import recipe_difference
from wellposed.diagnosis.finding import Change
from wellposed.recipe.recipe import Recipe
from wellposed.statistics.compare import Comparison, compare
from wellposed.training.continuation import Continuation, continue_from
from wellposed.training.run import Run

LEVEL = 0.95
"""Of all branches together: each of k has the level 1 - 0.05/k."""
GO_ON = "just go on"


@dataclass(frozen=True)
class Branch:
    """One continuation, a run for each seed.

    Attributes:
        says: the change, in words.
        recipe: that it is trained with.
        start: the continuation that was trained.
        runs: of each seed.
        gain: by how much its validation loss is below that of going on, paired by row and seed; of going on itself, below
            that of the weights at the fork.
    """

    says: str
    recipe: Recipe
    start: Continuation
    runs: tuple[Run, ...]
    gain: Comparison

    @property
    def loss(self) -> float:
        """The mean validation loss of its best epochs."""
        return float(np.mean([run.losses(run.problem.prepared.valid).mean for run in self.runs]))

    def __str__(self) -> str:
        i = self.gain.interval
        between = f"{i.low:.3g} to {i.high:.3g}, {i.pairs} seeds x {i.rows} rows"
        if i.low > 0:
            return f"{self.says}: lowers the validation loss by {i.estimate:.3g} ({between})"
        if i.high < 0:
            return f"{self.says}: raises the validation loss by {-i.estimate:.3g} ({between})"
        return f"{self.says}: not shown ({between})"


@dataclass(frozen=True)
class Fork(Sequence[Branch]):
    """Continuations of one training from one state; the first of them changes nothing.

    Attributes:
        branches: as they were asked for.
        after: how many epochs there had been.
        epochs: that each branch was trained for.
    """

    branches: tuple[Branch, ...]
    after: int
    epochs: int

    def __getitem__(self, index: Any) -> Any:
        return self.branches[index]

    def __len__(self) -> int:
        return len(self.branches)

    @property
    def best(self) -> Branch:
        """The continuation with the largest gain of those that are shown; where none is, the one that changes nothing."""
        shown = [branch for branch in self.branches[1:] if branch.gain.shown]
        return max(shown, key=lambda branch: branch.gain.interval.estimate, default=self.branches[0])

    def __str__(self) -> str:
        seeds = len(self.branches[0].runs)
        head = (
            f"{self.epochs} epochs more after {self.after}, {seeds} seed{'s' if seeds > 1 else ''} each; going on unchanged is "
            "compared with the weights at the fork, each change with going on unchanged:"
        )
        return "\n".join([head, *(f"  {branch}" for branch in self.branches)])

    def to_dict(self) -> dict[str, Any]:
        """The fork as ``{"after", "epochs", "branches": [{"says", "loss", "gain"}]}``, which JSON can hold."""
        branches = [{"says": b.says, "loss": b.loss, "gain": b.gain.to_dict()} for b in self.branches]
        found: dict[str, Any] = jsonable({"after": self.after, "epochs": self.epochs, "branches": branches})
        return found

    @checked
    def figure(self, path: str | Path) -> Path:
        """Validation losses of all branches after the fork, the mean over seeds with a line for each seed, as SVG."""
        path = Path(path)
        label = "Validation loss of each continuation. " + " ".join(f"{branch}." for branch in self.branches)
        write_atomically(path, standalone(render_svg("fork", label, 240, self._paint)).encode())
        return path

    def _paint(self, axes: Any) -> None:
        for branch, colour in zip(self.branches, itertools.cycle((BASELINE, BEST, TRAIN, VALID, REFERENCE))):
            curves = [run.history["valid_loss"] for run in branch.runs]
            whole = min(map(len, curves))
            for curve in curves:
                axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.4)
            mean = np.mean([curve[:whole] for curve in curves], axis=0)
            axes.plot(range(1, whole + 1), mean, color=colour, linewidth=1.8)
            axes.annotate(
                text(branch.says, 26), (whole, mean[-1]), xytext=(4, 0), textcoords="offset points", color=colour,
                va="center", annotation_clip=False, fontsize=9,
            )  # fmt: skip
        axes.set_xlabel("epochs after the fork")


@checked
def fork(
    source: Any,
    changes: Sequence[Recipe | Change | Mapping[str, Any]],
    epochs: Count = 20,
    *,
    at: Count | None = None,
    repeats: Count = 3,
    device: str | torch.device = "auto",
    deadline: float = math.inf,
) -> Fork:
    """Train one run on with several changes, and going on as before, from the same state.

    Args:
        source: a Run, or the Watch of a loop of one's own that knows its optimizer; nothing of it is touched.
        changes: recipes; or what to change of the run's recipe, ``{"noise": {"dropout": 0.2}}``; or a finding's changes.
        epochs: of each branch.
        at: after how many epochs of a run; None for all of them.
        repeats: how often each branch is trained, with other orders and noise, the same for all branches.
        deadline: a value of ``time.monotonic()`` after which no further seed is begun.
    Returns:
        A `Fork`: a sequence of branches, the first of which goes on as before.
    Raises:
        InputError: the source cannot be gone on with.
        RecipeError: a change is none of a recipe.
    Example:
        >>> import torch, wellposed as wp
        >>> x = torch.randn(80, 4)
        >>> problem = wp.Problem(lambda: torch.nn.Linear(4, 1), "mse", wp.Data(train=(x, x[:, :1]), valid=0.5))
        >>> run = wp.fit(problem, wp.Recipe(epochs=2, optimizer={"lr": 1e-4}))
        >>> wp.fork(run, [{"optimizer": {"lr": 0.03}}], epochs=3).best.says
        'lr 0.0001 -> 0.03'
    """
    start = continue_from(source, at)
    wanted = []
    for change in changes:
        if not isinstance(change, Change):
            recipe = change if isinstance(change, Recipe) else start.recipe.replace(**change)
            change = Change(recipe_difference(start.recipe, recipe) or "no change", recipe)
        wanted.append(change)
    return forked(start, wanted, epochs, repeats, device, deadline)


def forked(
    start: Continuation, changes: Sequence[Change], epochs: int, seeds: int, device: str | torch.device, deadline: float
) -> Fork:
    """Train the branches seed by seed, so that one that is not begun is missing in all of them."""
    if not changes:
        raise InputError(f"A fork needs a change to compare with going on; it was given {described(changes)}.")
    wanted = [Change(GO_ON, start.recipe), *changes]
    starts: list[Continuation] = [change.remake(start) if change.remake else start for change in wanted]
    trained: list[list[Run]] = [[] for _ in wanted]
    for number in range(seeds):
        if number and time.monotonic() > deadline:
            break
        for change, begin, runs in zip(wanted, starts, trained, strict=True):
            runs.append(begin.go_on(change.recipe, epochs, start.seed + number, device=device))
    rows = [[run.losses(run.problem.prepared.valid).rows.double().numpy() for run in runs] for runs in trained]
    losses = [np.stack(columns, axis=1) for columns in rows]
    here = np.repeat(start.losses()[:, None], len(trained[0]), axis=1)
    level = 1.0 - (1.0 - LEVEL) / len(wanted)
    branches: list[Branch] = []
    for change, begin, runs, loss in zip(wanted, starts, trained, losses, strict=True):
        gain = compare(-(losses[0] if branches else here), -loss, level=level)
        branches.append(Branch(change.says, change.recipe, begin, tuple(runs), gain))
    return Fork(tuple(branches), start.state.epoch, epochs)
