"""The best constant prediction: what a model that looked at no input would reach."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.losses.metrics import Metric
from wellposed.losses.per_example import Loss
from wellposed.training.evaluate import evaluate


def constant_facts(loss: Loss, metric: Metric | None, train: Tensor | None, valid: Tensor | None) -> dict[str, float]:
    """``constant_loss`` and ``chance_metric`` on validation targets of the constant learned on training targets.

    Class shares for cross-entropy, the mean for squared error; empty for other losses and for targets with more axes.
    """
    if train is None or valid is None or train.ndim != 1 or valid.ndim != 1 or not len(valid):
        return {}
    guess = _constant(loss.name, train, valid)
    if guess is None:
        return {}
    measured = evaluate(
        nn.Identity(), [(valid, valid)], loss, metric, device=torch.device("cpu"),
        forward=lambda _, y: guess.expand(len(y), *guess.shape),
    )  # fmt: skip
    return {"constant_loss": measured.loss.mean, "chance_metric": measured.metric}


def _constant(loss: str, train: Tensor, valid: Tensor) -> Tensor | None:
    if loss == "cross_entropy" and not train.is_floating_point() and int(train.min()) >= 0:
        counts = torch.bincount(train, minlength=int(valid.max()) + 1).float()
        # Half a row more for each class: a class that only validation has must not make the loss infinite.
        return ((counts + 0.5) / (counts + 0.5).sum()).log()
    if loss == "binary_cross_entropy":
        share = train.float().mean().clamp(1e-6, 1 - 1e-6)
        return (share / (1 - share)).log()
    return train.float().mean() if loss == "squared_error" else None
