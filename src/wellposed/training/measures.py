"""What a row of a history says: both sides like for like, the weights, the terms; and what a constant would reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wellposed.core.selectors import leaves
from wellposed.losses.per_example import Loss, MeanLoss
from wellposed.losses.score import Score
from wellposed.training.evaluate import BATCH, Evaluation, evaluate
from wellposed.training.loop_activity import real

MOST_NUMBERS = 2**24
"""Outputs that are computed at once: 64 MiB."""


def constant_facts(
    loss: Loss,
    metric: Score | None,
    train: Tensor | None,
    valid: Tensor | None,
    train_weight: Tensor | None = None,
    valid_weight: Tensor | None = None,
) -> dict[str, float]:
    """``constant_loss`` and ``chance_metric`` on validation targets of the constant learned on training targets.

    As the loss says (class shares for cross-entropy, the mean for squared error, of each of several targets), by the weights of the
    rows; empty where it does not, and for targets with more axes.
    """
    if not loss.classifies:  # a column of amounts is a list of them
        train, valid = (t[:, 0] if t is not None and t.ndim == 2 and t.shape[1] == 1 else t for t in (train, valid))
    several = loss.numeric and train is not None and train.ndim == 2
    if train is None or valid is None or train.ndim != 1 + several or valid.ndim != train.ndim or not len(valid):
        return {}
    columns = list(zip(train.T, valid.T, strict=True)) if several else [(train, valid)]
    each = [found for one, other in columns if (found := loss.constant(one, other, train_weight)) is not None]
    if len(each) < len(columns):
        return {}
    guess = torch.stack(each) if several else each[0]
    size = max(1, min(BATCH, MOST_NUMBERS // guess.numel()))
    measured = evaluate(
        nn.Identity(), [(part, part) for part in torch.split(valid, size)], loss, metric, device=torch.device("cpu"),
        forward=lambda _, y: guess.expand(len(y), *guess.shape),
        weights=None if valid_weight is None else [valid_weight.cpu()],
    )  # fmt: skip
    return {"constant_loss": measured.loss.mean, "chance_metric": measured.metric}


def like_for_like(train: Evaluation, valid: Evaluation, best: Tensor | None) -> dict[str, float]:
    """Losses with standard errors and metrics of both sides, and the rise since the best epoch's rows ``best``."""
    rise, rise_se = rise_since(best, valid.loss)
    return {
        "train_loss": train.loss.mean,
        "valid_loss": valid.loss.mean,
        "train_loss_se": train.loss.se,
        "valid_loss_se": valid.loss.se,
        "train_metric": train.metric,
        "valid_metric": valid.metric,
        "valid_rise": rise,
        "valid_rise_se": rise_se,
    }


def term_facts(values: dict[str, float]) -> dict[str, float]:
    """What each term charges now, and all of them together."""
    return {"penalty": math.fsum(values.values()), **{f"term:{name}": value for name, value in values.items()}}


def rise_since(best: Tensor | None, now: MeanLoss) -> tuple[float, float]:
    """Mean paired difference of the rows' losses to the best epoch's, with its standard error; 0 at the first epoch."""
    if best is None or len(best) != len(now.rows):
        return 0.0, 0.0
    difference = now.rows - best
    n = len(difference)
    return float(difference.mean()), float(difference.std() / math.sqrt(n)) if n > 1 else math.nan


@torch.no_grad()
def weight_facts(model: nn.Module) -> dict[str, float]:
    """Norm of all parameters, and the share of exact zeros among weight matrices."""
    found = leaves(model)
    norm = math.sqrt(math.fsum(float(real(leaf.tensor).square().sum()) for leaf in found))
    weights = [leaf.tensor for leaf in found if leaf.role == "weight"]
    count = sum(w.numel() for w in weights)
    zeros = sum(w.numel() - int(torch.count_nonzero(w)) for w in weights)
    return {"weight_norm": norm, "zeros": zeros / count if count else 0.0}
