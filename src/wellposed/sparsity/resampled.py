"""Two choices of inputs that need no validation rows: stability selection, and the strength that empties a null model.

Both ask how the path behaves where nothing can be learned: stability selection bounds how many parts are kept in vain by how often
halves of the rows agree; the null strength is the one that pure chance rarely exceeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.core.errors import DataError, InputError
from wellposed.core.progress import emit
from wellposed.core.random import numpy_generator
from wellposed.data.arrays import Source
from wellposed.data.splits import split
from wellposed.sparsity.droppable import Support
from wellposed.sparsity.path import PathTrainer


def first_parts(parts: int, most_false: float, threshold: float) -> int:
    """``q = floor(sqrt(most_false (2 threshold - 1) parts))``: how many parts a half of the rows may choose.

    Raises:
        InputError: not even one, so that the bound can hold for no choice.
    """
    number = math.floor(math.sqrt(most_false * (2.0 * threshold - 1.0) * parts) + 1e-9)
    if not number:
        raise InputError(
            f"With a threshold of {threshold:g} and at most {most_false:g} parts kept in vain, a half of the rows may choose "
            f"none of the {parts} parts. Give a larger most_false= or threshold=."
        )
    return min(number, parts)


def frequencies(
    trainer: PathTrainer, support: Support, first: int, pairs: int, seed: int, grid: Sequence[float]
) -> np.ndarray[Any, Any]:
    """How often each part is among the first ones to enter, over pairs of complementary halves of the rows, ``(parts,)``.

    Args:
        first: how many parts a half chooses: those that enter its path first.
        grid: shares in (0, 1] of the strength that empties the selection of a half, decreasing.
    Raises:
        DataError: the problem has ``time=``, whose rows are no draws of one distribution.
    Source:
        Meinshausen & Buehlmann (2010), JRSS-B 72(4); the pairs: Shah & Samworth (2013), JRSS-B 75(1).
    """
    rows = trainer.rows
    if rows.time is not None:
        raise DataError("Stability selection draws halves of the rows at random, and these have time=. Leave it out.")
    if rows.groups is not None and not rows.paired:
        raise DataError("Stability selection needs groups= of all rows. Give a share as valid=.")
    chosen = np.zeros(len(support.names))
    for pair in range(pairs):
        for half in split(len(rows), 0.5, seed=seed, stream=f"pair {pair}", groups=rows.groups):
            net = trainer.new(seed)
            end = trainer.emptied(net, support, half)
            found = trainer.path(net, support, half, [end * share for share in grid], True, False, enough=first)
            norms = np.stack([support.norms(fitted.net).numpy() for fitted in found])
            inside = norms != 0
            entered = np.where(inside.any(0), inside.argmax(0), len(norms))
            order = np.lexsort((-norms[-1], entered))[:first]
            chosen[order[inside[-1][order]]] += 1
        emit("stability", pair=pair + 1, pairs=pairs)
    return chosen / (2 * pairs)


def null_strength(trainer: PathTrainer, support: Support, level: float, draws: int, seed: int) -> float:
    """The strength that the selection's emptying strength exceeds with probability ``level`` at most where targets are chance.

    Targets are given to other rows at random, ``draws`` times, which leaves their distribution and that of the inputs as they are;
    of the strengths that empty the selection then, the ``ceil((1 - level)(draws + 1))``-th smallest is taken. So where nothing
    depends on the inputs, anything at all is kept with probability ``level`` at most.

    Source:
        Giacobino, Sardy, Diaz-Rodriguez & Hengartner (2017), Electronic J. Statistics 11(2): the quantile universal threshold.
    """
    place = math.ceil((1.0 - level) * (draws + 1))
    if place > draws:
        raise InputError(
            f"A level of {level:g} needs more draws than {draws}. Give at least {math.ceil(1 / level) - 1}."
        )
    rows, net, source = trainer.rows, trainer.new(seed), numpy_generator(seed, "null")
    everything = np.arange(len(rows))
    found = []
    for _ in range(draws):
        order = torch.from_numpy(source.permutation(len(rows)))
        other = replace(trainer, rows=replace(rows, source=_Exchanged(rows.source, order)))
        found.append(other.emptied(net, support, everything))
    return sorted(found)[place - 1]


class _Exchanged(Source):
    """The rows of a source, each with the target of another."""

    def __init__(self, source: Source, order: Tensor) -> None:
        self.source, self.order = source, order

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, index: Tensor) -> tuple[Any, Any]:
        return self.source.batch(index)[0], self.source.batch(self.order[index])[1]
