"""What a column is worth: how much more the answer costs on rows held out, once the column's values are shuffled among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from wellposed.core.random import generator
from wellposed.data.encoding import TableEncoder
from wellposed.statistics.intervals import Interval, crossed_interval

MOST = 2_000
"""Rows of a part that are looked at, at most."""

RowCost = Callable[[Tensor, Tensor], Tensor]
"""From encoded rows in place of the rows with these numbers to what their answers cost, ``(rows,)``."""


def importances(
    encoder: TableEncoder, parts: Iterable[tuple[Tensor, Tensor, RowCost]], repeats: int, level: float, seed: int
) -> dict[str, Interval]:
    """The mean rise of the cost of a row for each column, the largest first.

    Args:
        parts: encoded rows ``(rows, features)``, how much each counts, ``(rows,)``, and their cost.
        repeats: how often each column is shuffled.
    """
    counted: list[Tensor] = []
    places = {column.name: place for column, place in encoder.places.items()}
    rises: dict[str, list[Tensor]] = {name: [] for name in places}
    for part, (x, counts, cost) in enumerate(parts):
        rows = torch.arange(len(x))
        if len(x) > MOST:
            rows = torch.randperm(len(x), generator=generator(seed, "rows", part))[:MOST]
        kept = x[rows]
        counted.append(counts[rows])
        before = cost(kept, rows)
        orders = [
            torch.randperm(len(kept), generator=generator(seed, "shuffle", part, again)) for again in range(repeats)
        ]
        for name, place in places.items():
            several = []
            for order in orders:
                shuffled = kept.clone()
                shuffled[:, place] = kept[order][:, place]
                several.append(cost(shuffled, rows) - before)
            rises[name].append(torch.stack(several, 1))
    shares = torch.cat(counted)[:, None]
    shares = shares / shares.mean()
    found = {name: crossed_interval((shares * torch.cat(several)).numpy(), level) for name, several in rises.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1].estimate))
