"""Which of the training rows a job is trained on: all, some, a nested subset, or a bootstrap resample of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.core.random import generator, numpy_generator
from wellposed.data.arrays import Subset
from wellposed.data.data import Prepared


@dataclass(frozen=True)
class Sample:
    """A sample of the training rows; the same for every seed and recipe.

    Args:
        rows: at most so many (stratified); None takes all.
        draw: which order of the rows the first ``rows`` are taken of, so that the subsets of one draw are nested; None takes
            the subset that everything else takes.
        resample: number of the bootstrap resample of those rows, drawn with replacement; None leaves each in once.
    """

    rows: int | None = None
    draw: int | None = None
    resample: int | None = None

    @property
    def own(self) -> bool:
        """Whether jobs of equally many rows may have others: the population then gathers rows for each."""
        return self.draw is not None or self.resample is not None


def with_sample(prepared: Prepared, sample: Sample) -> Prepared:
    if not sample.own:
        return prepared if sample.rows is None else prepared.limited(sample.rows, seed=0)
    return prepared.of_rows(sample_index(prepared, sample))


def sample_index(prepared: Prepared, sample: Sample) -> Tensor:
    """The numbers of the sample's rows among the training rows; of a resample some come several times."""
    index = torch.arange(len(prepared.train))
    if sample.draw is not None:
        index = nested_order(prepared, sample.draw)[: sample.rows]
    elif sample.rows is not None:
        limited = prepared.limited(sample.rows, seed=0).train
        index = limited.index if limited is not prepared.train and isinstance(limited, Subset) else index
    if sample.resample is not None:
        drawn = torch.randint(len(index), (len(index),), generator=generator(0, "resample", sample.resample))
        index = index[drawn]
    return index


def nested_order(prepared: Prepared, draw: int) -> Tensor:
    """An order of all training rows in which every beginning is stratified by class, to one row of each.

    Classes are whole numbers, or a column of 0 and 1 as binary cross-entropy has it; rows of other targets come at random.
    The ``j``-th row of a class of ``n`` comes at ``(j + u)/n``, with one random ``u`` in [0, 1) for each class.
    """
    rng = numpy_generator(0, "draw", draw)
    order = rng.permutation(len(prepared.train))
    target = prepared.train.targets()
    if (
        target is None
        or target.numel() != len(order)
        or (target.is_floating_point() and not ((target == 0) | (target == 1)).all())
    ):
        return torch.from_numpy(order)
    classes = target.flatten().numpy()[order]
    place = np.empty(len(order))
    for found in np.unique(classes):
        mine = np.flatnonzero(classes == found)
        place[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return torch.from_numpy(order[np.argsort(place, kind="stable")])
