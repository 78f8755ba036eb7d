"""The rows of each step: gathered once for all slots that share seed and epoch, and disturbed for those that want it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wellposed.core.random import generator
from wellposed.data.arrays import Source, Subset
from wellposed.training.loop import MixingDraw, Training


@dataclass
class Batch:
    """What one step sees; a slot reads its lane unless it has rows of its own.

    Attributes:
        inputs, target, weight: ``(lanes, rows, ...)``.
        lane: of each active slot.
        own: inputs of slots that disturb theirs, by number among the active ones.
        mixing: of slots that mix two examples.
    """

    inputs: Tensor
    target: Tensor
    weight: Tensor | None
    lane: np.ndarray
    own: dict[int, Tensor] = field(default_factory=dict)
    mixing: dict[int, MixingDraw] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many examples each slot gets."""
        return self.inputs.shape[1]

    def inputs_of(self, slot: int) -> Tensor:
        """The inputs of one slot, ``(rows, ...)``: its own if it has noise on them, else those of its lane."""
        return self.own[slot] if slot in self.own else self.inputs[self.lane[slot]]

    def target_of(self, slot: int) -> Tensor:
        """What its rows were before they were mixed."""
        return self.target[self.lane[slot]]

    def weight_of(self, slot: int) -> Tensor | None:
        """How much they count, before they were mixed."""
        return None if self.weight is None else self.weight[self.lane[slot]]


class Feed:
    """The batches of one epoch of several runs on the same rows.

    Args:
        source: the training rows, in memory; those of a run may be a `Subset` of them.
        runs: with equal batch sizes; each with the epoch that it is in.
        rows: that an epoch sees.
    """

    def __init__(self, source: Source, runs: Sequence[tuple[Training, int]], rows: int) -> None:
        self.source, self.size = source, runs[0][0].recipe.batch_size
        keys = [(training.seed, epoch, id(training.data.train)) for training, epoch in runs]
        trains = {id(training.data.train): training.data.train for training, _ in runs}
        self.lanes = list(dict.fromkeys(keys))
        number = {key: lane for lane, key in enumerate(self.lanes)}
        self.lane_of = np.array([number[key] for key in keys])
        self.orders = torch.stack([self.order(seed, epoch, trains[of])[:rows] for seed, epoch, of in self.lanes])

    @property
    def width(self) -> int:
        """Numbers of an example."""
        inputs = self.source.arrays.inputs if self.source.arrays is not None else None
        return inputs[0].numel() if isinstance(inputs, Tensor) else 1

    def order(self, seed: int, epoch: int, train: Source) -> Tensor:
        """The rows of an epoch in the order of a run, by their numbers in the source."""
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
        return order if train is self.source or not isinstance(train, Subset) else train.index[order]

    @property
    def steps(self) -> int:
        """How many batches the epoch has."""
        return -(-self.orders.shape[1] // self.size)

    def batch(self, step: int, live: np.ndarray, trainings: Sequence[Training]) -> Batch:
        """The rows of a step for the runs numbered ``live``, which are ``trainings``."""
        index = self.orders[:, step * self.size : (step + 1) * self.size]
        lanes, rows = index.shape
        flat = index.reshape(-1)
        inputs, target = self.source.batch(flat)
        weight = None if self.source.weight is None else self.source.weight[flat].view(lanes, rows)
        found = Batch(
            inputs.view(lanes, rows, *inputs.shape[1:]), target.view(lanes, rows, *target.shape[1:]), weight,
            self.lane_of[live],
        )  # fmt: skip
        for j, training in enumerate(trainings):
            if training.recipe.noise.acting("inputs"):
                found.own[j], mixing = training.disturbed(found.inputs_of(j))
                if mixing is not None:
                    found.mixing[j] = mixing
        return found
