"""What the comparisons with other tools share: a table as one problem for all sides, and batches of a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wellposed.data.arrays import Source
from wellposed.data.tables import prepare_table, read_table
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import table_problem

EVALUATED_AT_ONCE = 1024
"""Rows, as in wellposed's own evaluation."""
TEST_SHARE = 0.2
"""As `wp.improve` itself splits off where a problem has no test rows."""


def problem_of(path: Path) -> Problem:
    """The table with test rows split off, encoded by its training rows: what every side is given."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    problem = table_problem(prepare_table(read_table(path), "target", name=name))
    problem.data = replace(problem.data, test=TEST_SHARE)
    _ = problem.prepared  # now, so that no side's clock pays for it
    return problem


@dataclass(frozen=True)
class Rows:
    """Inputs and targets of some rows."""

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, source: Source, most: int | None = None) -> Rows:
        """The first ``most`` rows of a source; None takes all."""
        return cls(*source.batch(torch.arange(len(source))[:most]))

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Batches:
    """Batches by index, without a DataLoader; shuffled ones are in a new order each time."""

    rows: Rows
    size: int
    shuffled: bool = False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.shuffled:
            return iter(zip(self.rows.x.split(self.size), self.rows.y.split(self.size), strict=True))
        order = torch.randperm(len(self.rows)).split(self.size)
        return ((self.rows.x[index], self.rows.y[index]) for index in order)
