"""Which of two runs is better: by the metric on validation rows, then by the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wellposed.training.history import History, Stopped
from wellposed.training.problem import Problem
from wellposed.training.run import Run

Rank = tuple[float, float]
"""Greater is better; `WORST` for a run without a finite loss."""
WORST: Rank = (-math.inf, -math.inf)


def sign_of(problem: Problem) -> float:
    """1 where a higher score is better, else -1."""
    return 1.0 if problem.metric is not None and problem.metric.higher_is_better else -1.0


def rank_of(score: float, loss: float, sign: float) -> Rank:
    """How a validation score and loss rank; the loss alone where there is no score."""
    if not math.isfinite(loss):
        return WORST
    return (sign * score if math.isfinite(score) else -loss), -loss


def standing_rank(history: History, sign: float) -> Rank:
    """How the best weights of a history so far rank."""
    best = history.best
    if best < 0:
        return WORST
    row = history.rows[best]
    return rank_of(shown_score(row), row["valid_loss"], sign)


def chosen_row(run: Run) -> dict[str, float]:
    """The history's row of the epoch whose weights were kept; NaN where none was."""
    if run.history.rows and run.best_epoch >= 0:
        return run.history.rows[run.best_epoch]
    return dict.fromkeys(("valid_loss", "train_loss", "valid_metric"), math.nan)


def ended_usable(run: Run) -> bool:
    """Whether it ended with a finite loss, and not in its first epoch, whatever its first weights happen to score."""
    return math.isfinite(chosen_row(run)["valid_loss"]) and not (
        run.stopped == Stopped.DIVERGED and len(run.history) == 1
    )


def shown_score(row: Mapping[str, float]) -> float:
    """The metric of an epoch, or the loss where there is none."""
    metric = row.get("valid_metric", math.nan)
    return metric if math.isfinite(metric) else row["valid_loss"]


def best_loss(run: Run) -> float:
    """The lowest validation loss; infinite where there is none."""
    losses = [loss for loss in run.history["valid_loss"] if math.isfinite(loss)]
    return min(losses, default=math.inf)
