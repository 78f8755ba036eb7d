"""Scores of how unlike its training rows a new row is: higher is stranger. `auroc` says how well a score tells two sets apart.

Each is a function of a network's outputs, or of the features before its last layer. None knows what it was not shown: try them on
rows that stand for what may come.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from wellposed.core.checks import Count, Positive, Within, checked
from wellposed.core.errors import DataError
from wellposed.data.arrays import doubles, real_numbers
from wellposed.losses.metrics import AUC

LARGEST_BLOCK = 2**24
"""Distances held at once: 128 MB."""


def least_confidence(outputs: Any) -> Tensor:
    """``1 - max_c softmax(outputs)_c``, ``(rows,)``, of outputs ``(rows, classes)``.

    Source:
        Hendrycks & Gimpel (2017), ICLR.
    """
    return 1.0 - _table(outputs, "outputs=").softmax(1).max(1).values


@checked
def energy(outputs: Any, temperature: Positive = 1.0) -> Tensor:
    """``-T logsumexp(outputs / T)``, ``(rows,)``, of outputs ``(rows, classes)`` before the softmax.

    Source:
        Liu et al. (2020), NeurIPS.
    """
    return -temperature * (_table(outputs, "outputs=") / temperature).logsumexp(1)


def _both(features: Any, known: Any) -> tuple[Tensor, Tensor]:
    x, train = _table(features, "features="), _table(known, "known=")
    if x.shape[1] != train.shape[1]:
        raise DataError(
            f"features= and known= must have equally many columns; they have {x.shape[1]} and {train.shape[1]}."
        )
    return x, train


@checked
def mahalanobis(features: Any, known: Any, labels: Any, ridge: Annotated[float, Within(0, 1)] = 1e-6) -> Tensor:
    """``min_c (x - m_c)' S^-1 (x - m_c)``, ``(rows,)``: the nearest class mean, by the covariance that the classes share.

    Args:
        features: ``(rows, features)`` of new rows. ``known``: ``(training rows, features)``, with ``labels`` ``(training rows,)``.
        ridge: share of the mean variance that is added to each, so that the covariance of few rows can be inverted.
    Source:
        Lee et al. (2018), NeurIPS.
    """
    x, train = _both(features, known)
    classes = real_numbers(labels, "labels=", "Give a class for each training row.").cpu()
    place = torch.unique(classes, return_inverse=True)[1]
    if place.shape != train.shape[:1]:
        raise DataError(
            f"labels= must be a class for each of the {len(train)} training rows; it has shape {tuple(place.shape)}."
        )
    means = torch.stack([train[place == c].mean(0) for c in range(int(place.max()) + 1)])
    within = train - means[place]
    shared = within.T @ within / len(train)
    shared += torch.eye(len(shared), dtype=shared.dtype) * (ridge * shared.diagonal().mean()).clamp_min(1e-300)
    root = torch.linalg.cholesky(shared)
    white = [torch.linalg.solve_triangular(root, part.T, upper=False).T for part in (x, means)]
    return torch.cdist(*white).square().min(1).values


@checked
def neighbours(features: Any, known: Any, k: Count = 10) -> Tensor:
    """The distance to the ``k``-th nearest training row, ``(rows,)``, of features that are divided by their length.

    Source:
        Sun et al. (2022), ICML.
    """
    x, train = _both(features, known)
    if k > len(train):
        raise DataError(f"k= must be at most the {len(train)} training rows; it was given {k}.")
    x, train = (torch.nn.functional.normalize(part, dim=1) for part in (x, train))
    parts = torch.split(x, max(1, LARGEST_BLOCK // len(train)))
    return torch.cat([torch.cdist(part, train).kthvalue(k, 1).values for part in parts])


def auroc(inside: Any, outside: Any) -> float:
    """The chance that a row from outside has a higher score than one from inside; ties count one half, and 0.5 is a coin's.

    Args:
        inside, outside: scores ``(rows,)`` of rows like those of training, and of rows that are not.
    """
    known, new = doubles(inside, "inside=").flatten(), doubles(outside, "outside=").flatten()
    return AUC().score(torch.cat([known, new]), (torch.arange(len(known) + len(new)) >= len(known)).long())


def _table(given: Any, what: str) -> Tensor:
    found = doubles(given, what, "Give a tensor (rows, numbers).")
    if found.ndim != 2 or not found.numel() or not bool(found.isfinite().all()):
        raise DataError(
            f"{what} must be finite numbers of shape (rows, numbers), not empty; it has shape {tuple(found.shape)}."
        )
    return found
