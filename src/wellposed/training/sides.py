"""The two sides that a watch compares: fixed rows of whatever a person has, so that what the loop itself draws from is not touched.

Rows are asked for by number where that can be done: of arrays, Datasets, loaders over these, and lists of batches whose rows stand
alone. Of a stream the first batches are kept, if it begins anew each time; of a list of other batches (graphs, sequences with
time first, packed ones) whole batches are taken, and so of a loader where the rows of a batch need each other.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from wellposed.core.batches import examples_in, examples_of, mapped, stored_numbers, tensors_in
from wellposed.core.errors import DataError, first_line, guard_call
from wellposed.core.preserve import attributes_kept, reach_kept, reached
from wellposed.core.random import seeded
from wellposed.core.selectors import TRAINERS
from wellposed.data.arrays import Items, rows_of, source_of, split_batch
from wellposed.losses.per_example import PerExample
from wellposed.losses.targets import joined_targets
from wellposed.training.evaluate import BATCH

FEW_TO_SHUFFLE = 2**24
"""Of more rows a probe is drawn number by number: their permutation would take more than 128 MiB."""
STREAMED, MOST_STREAMED = 128, 64
"""Rows that are taken of a stream where nothing is said, and the most batches."""
MOST_DRAWN, ENDLESS = 2**22, 16
"""Rows that a sampler of somebody's own is asked for, to see which there are; and after how many times the Dataset's rows it is
taken for one that never ends, as of loaders that keep their workers from epoch to epoch."""

ANY_ORDER = (WeightedRandomSampler, DistributedSampler)
"""Samplers over all rows of a Dataset: how they draw does not matter to a probe."""
LINE = "Give some batches of it: import itertools; {0}=list(itertools.islice({1}, 8))."

FEWEST_SEEN, MOST_PASSES = 16, 8
"""Rows and batches of a first look: 64 rows in batches of two cost as much as 32 steps of training."""
GRAPH = (
    "The masks say which nodes are whose: train=[(data, data.train_mask)], valid=[(data, data.val_mask)], "
    "forward=lambda model, batch: model(batch[0].x, batch[0].edge_index)[batch[1]], target=lambda batch: batch[0].y[batch[1]]."
)


class Side:
    """How many rows there are, and batches of some of them."""

    size: int

    def pick(self, rows: int, source: torch.Generator) -> Tensor:
        """Numbers that stand for so many rows."""
        return some_rows(self.size, rows, source)

    def few(self, index: Tensor, rows: int) -> Tensor:
        """The numbers of the first so many rows."""
        return index[:rows]

    def batches(self, index: Tensor) -> Iterator[Any]:
        """The batches of these numbers."""
        raise NotImplementedError

    def targets(self, ignored: int) -> Tensor | None:
        """All targets where they lie in memory, without a pass; ``ignored`` is the label that fills up the targets of shorter
        batches.
        """
        return None


@dataclass
class Numbered(Side):
    """Rows by number; batches are as large as the loader's, since a larger one may not fit into memory."""

    size: int
    fetch: Callable[[Tensor], Any]
    at_once: int
    known: Callable[[], Tensor | None]
    kept: Tensor | None = None
    loader: DataLoader[Any] | None = None
    listed: Sequence[Any] | None = None

    def few(self, index: Tensor, rows: int) -> Tensor:
        return index[: min(rows, max(FEWEST_SEEN, MOST_PASSES * self.at_once))]

    def batches(self, index: Tensor) -> Iterator[Any]:
        return map(self.fetch, torch.split(index if self.kept is None else self.kept[index], self.at_once))

    def targets(self, ignored: int) -> Tensor | None:
        return self.known()


class Listed(Side):
    """A list of batches, of which each is given whole."""

    def __init__(self, given: Sequence[Any], sizes: Sequence[int] | None = None) -> None:
        self.given = given
        self.sizes = [max(1, examples_in(batch)) for batch in given] if sizes is None else list(sizes)
        self.size = sum(self.sizes)

    def pick(self, rows: int, source: torch.Generator) -> Tensor:
        order = torch.randperm(len(self.given), generator=source)
        enough = torch.tensor(self.sizes)[order].cumsum(0) < rows
        return order[: int(enough.sum()) + 1].sort().values

    def few(self, index: Tensor, rows: int) -> Tensor:
        return index[:1]

    def batches(self, index: Tensor) -> Iterator[Any]:
        return (self.given[i] for i in index.tolist())

    def targets(self, ignored: int) -> Tensor | None:
        with suppress(DataError):
            found = [split_batch(batch)[1] for batch in self.given]
            known = all(isinstance(t, Tensor) and t.ndim for t in found)
            return joined_targets([t.cpu() for t in found], ignored) if known else None
        return None


class Drawn(Listed):
    """The batches that a loader's own sampler draws, as lists of row numbers that are fetched when they are asked for."""

    def __init__(self, drawn: Sequence[Tensor], fetch: Callable[[Tensor], Any]) -> None:
        super().__init__(drawn, [len(rows) for rows in drawn])
        self.fetch = fetch

    def batches(self, index: Tensor) -> Iterator[Any]:
        return map(self.fetch, super().batches(index))

    def targets(self, ignored: int) -> Tensor | None:
        return None


class Sliced(Listed):
    """A list of batches whose rows stand alone: those of a batch are given together."""

    pick, few = Side.pick, Side.few

    def batches(self, index: Tensor) -> Iterator[Any]:
        start = 0
        for batch, size in zip(self.given, self.sizes, strict=True):
            local = index[(index >= start) & (index < start + size)] - start
            if len(local):
                yield examples_of(batch, local, size)
            start += size


def sliced(side: Side) -> TypeGuard[Sliced]:
    """Whether rows are taken out of somebody's batches."""
    return isinstance(side, Sliced)


def in_batches(sides: Mapping[str, Side]) -> tuple[dict[str, Side], int]:
    """The sides in whole batches, for a loss whose rows need each other, and how many rows a batch of training has.

    Batches that a sampler of somebody's own composes (episodes, so many of each class) are taken as it draws them. Others are
    random rows, on both sides in batches as large as those of training: a contrastive loss grows with its batch.
    """
    train = sides["train"]
    size = train.at_once if isinstance(train, Numbered) and train.loader is not None else 1
    found = dict(sides)
    for name, side in sides.items():
        if isinstance(side, Numbered) and side.loader is not None:
            plain = _plain(side.loader)
            found[name] = replace(side, at_once=size) if plain else Drawn(_first_drawn(side.loader, name), side.fetch)
    return found, 1 if isinstance(found["train"], Drawn) else size


def rows_stand_alone(side: Side, each: Callable[[Any], PerExample | None], told: bool = False) -> bool:
    """Whether rows can be taken out of what a list holds: not where time comes first, or a row needs others.

    Of a batch the last rows alone must give what they give in it. What is read as an example must give the same as it is.

    Args:
        each: what each row of a batch gives, of which there may be fewer or more.
        told: whether it was said how a batch is read, so that an example as it is may be one.
    """
    with suppress(Exception):  # whatever a model raises on a part that it was not made for
        if isinstance(side, Numbered) and side.listed and told:
            one, whole = each(side.fetch(torch.tensor([0]))), each(side.listed[0])
            return one is None or whole is None or math.isclose(one.mean(), whole.mean(), rel_tol=1e-2, abs_tol=1e-4)
    if not sliced(side):
        return True
    batch, size = side.given[0], side.sizes[0]
    last = slice(size - size // 2, size)
    if size < 2:
        return True
    with suppress(Exception):
        whole, part = each(batch), each(examples_of(batch, last, size))
        if whole is not None and part is not None and len(whole.total) == size:
            expected = whole.total[last]
            return part.total.shape == expected.shape and torch.allclose(part.total, expected, 1e-2, 1e-4)
    return False


def sides_of(given: Any, double: bool = False, name: str = "valid", rows: int | None = None) -> list[Side]:
    """What a person gave in each way that it can be read, the likeliest first: a list may be one of batches or of examples.

    Args:
        double: whether the network reckons in doubles, so that arrays of them stay what they are.
        name: of the argument, for a line to type.
        rows: that are wanted of a stream.
    """
    given = _inside(given)
    if isinstance(given, DataLoader):
        if isinstance(given.dataset, IterableDataset) or given.batch_sampler is None:
            again = DataLoader(
                given.dataset, batch_size=given.batch_size, collate_fn=given.collate_fn, drop_last=given.drop_last
            )
            return _of_stream(again, name, rows)
        kept, items = watched_rows(given, name), Items(given.dataset, given.collate_fn)
        at_once = getattr(given.batch_sampler, "batch_size", None) or len(_first_drawn(given, name, 1)[0])
        size = len(items) if kept is None else len(kept)
        fetch = guard_call("The Dataset", items.raw)
        return [Numbered(size, fetch, at_once, lambda: _targets_in(given, kept), kept, given)]
    if hasattr(given, "__next__"):
        raise DataError(f"An iterator would be used up by watching. {LINE.format(name, 'it')}")
    if isinstance(given, IterableDataset):
        return sides_of(_taken(given, name, lambda one: 1, rows), double)
    if hasattr(given, "train_mask") and not hasattr(given, "columns"):
        raise DataError(f"{type(given).__name__} is one graph for both sides. {GRAPH}")
    if not isinstance(given, (Dataset, str, bytes, Mapping)) and _streams(given):
        return _of_stream(given, name, rows)
    return [*_of_list(given), *_by_number(given, double)] if _is_batches(given) else _last_of_list(given, double)


def _inside(given: Any) -> Any:
    """The loader inside of a trainer's, which hands its batches on as they are, but for the device."""
    if isinstance(given, DataLoader) or type(given).__module__.split(".")[0] not in TRAINERS:
        return given
    return next((held for held in vars(given).values() if isinstance(held, DataLoader)), given)


def _streams(given: Any) -> bool:
    """Whether something can only be gone through."""
    return hasattr(given, "__iter__") and not hasattr(given, "__getitem__") and not hasattr(given, "columns")


def _by_number(given: Any, double: bool) -> list[Side]:
    source = source_of(given, double=double)
    fetch = guard_call("The Dataset", source.raw) if isinstance(source, Items) else source.batch
    listed = given if isinstance(given, list) and isinstance(source, Items) else None
    if source.arrays is not None and any(part.requires_grad for part in tensors_in(given)):
        fetch = _by_which_is_derived(source.batch)
    return [Numbered(len(source), fetch, BATCH, source.targets, listed=listed)]


def _by_which_is_derived(fetch: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Rows of inputs that require gradients in the loop, where a model derives by them."""

    def fetched(index: Tensor) -> Any:
        inputs, target = fetch(index)
        return mapped(lambda part: part.requires_grad_() if part.is_floating_point() else part, inputs), target

    return fetched


def _of_list(batches: Sequence[Any]) -> list[Side]:
    return [Sliced(batches), Listed(batches)]


def _last_of_list(given: Any, double: bool) -> list[Side]:
    """Examples; and where they may be batches all the same, these."""
    whole = [Listed(given)] if isinstance(given, list) and given and not isinstance(given[0], (int, float, str)) else []
    try:
        return [*_by_number(given, double), *whole]
    except DataError:
        if whole:
            return list(whole)
        raise


def _of_stream(given: Any, name: str, rows: int | None) -> list[Side]:
    return _of_list(_taken(given, name, lambda batch: max(1, examples_in(batch)), rows))


def _taken(given: Iterable[Any], name: str, size: Callable[[Any], int], rows: int | None) -> list[Any]:
    """The first of what can be gone through again and again."""
    found: list[Any] = []
    first: list[Any] = []
    try:
        for part in (first, found):
            with reach_kept(given), attributes_kept(*_objects_in(given)), seeded(0, "watch"):
                for one in itertools.islice(
                    given, 1 if part is first else MOST_STREAMED * (1 if size(0) > 1 else BATCH)
                ):
                    part.append(one)
                    if sum(map(size, part)) >= (rows or STREAMED):
                        break
    except Exception as error:  # any error of other people's code; it is told
        raise DataError(
            f"{type(given).__name__} could not be gone through: {first_line(error)}. {LINE.format(name, 'it')}"
        ) from error
    if not found:
        raise DataError(f"The data are empty: {type(given).__name__} gives nothing.")
    pairs = zip(tensors_in(first[0]), tensors_in(found[0]), strict=False)
    if not all(a.shape == b.shape and torch.equal(stored_numbers(a), stored_numbers(b)) for a, b in pairs):
        raise DataError(
            f"{type(given).__name__} goes on where it was left, so that watching would take rows from your loop. "
            f"{LINE.format(name, 'iter(it)')}"
        )
    return found


def _objects_in(given: Any) -> list[Any]:
    """An iterator and the objects that it holds, which may keep the state of a shuffle."""
    held = getattr(given, "__dict__", {})
    plain = [one for one in held.values() if hasattr(one, "__dict__") and not callable(one)]
    return [given, *(one for one in plain if not isinstance(one, (Tensor, ModuleType)))] if held else []


def watched_rows(loader: DataLoader[Any], name: str) -> Tensor | None:
    """The rows that a loader goes through; None for all of them."""
    with suppress(DataError):
        return rows_of(loader, ANY_ORDER)
    with seeded(0, "watch"):
        return torch.as_tensor(sorted(set(drawn_rows(loader, name).tolist())), dtype=torch.long)


def drawn_rows(loader: DataLoader[Any], name: str, epoch: int = 0) -> Tensor:
    """Row numbers in the order in which a loader's own sampler draws them for an epoch, repeats included.

    Args:
        name: of the argument, for a line to type.
        epoch: for a sampler that has ``set_epoch``.
    """
    own = _own_sampler(loader)
    if own is not loader.batch_sampler:
        return torch.as_tensor(_drawn(loader, own, int, name, MOST_DRAWN, epoch))
    found = _drawn(loader, own, _row_numbers, name, MOST_DRAWN, epoch)
    with suppress(TypeError):  # an epoch of what never ends is as long as the loader says
        found = found[: len(loader)] if sum(map(len, found)) >= ENDLESS * len(loader.dataset) else found  # type: ignore[arg-type]
    return torch.cat(found)


def _first_drawn(loader: DataLoader[Any], name: str, most: int = MOST_STREAMED) -> list[Tensor]:
    with seeded(0, "watch"):
        return _drawn(loader, loader.batch_sampler, _row_numbers, name, most)


def _row_numbers(batch: Any) -> Tensor:
    return torch.as_tensor([int(row) for row in batch])


def _own_sampler(loader: DataLoader[Any]) -> Any:
    """What draws: the sampler inside of torch's own sampler of batches, else the sampler of batches."""
    batches: Any = loader.batch_sampler
    return batches.sampler if type(batches) is BatchSampler else batches


def _plain(loader: DataLoader[Any]) -> bool:
    """Whether any rows may be in a batch together."""
    return type(_own_sampler(loader)) in (SequentialSampler, RandomSampler, SubsetRandomSampler, DistributedSampler)


def _drawn(
    loader: DataLoader[Any], sampler: Any, read: Callable[[Any], Any], name: str, most: int, epoch: int = 0
) -> list[Any]:
    """What a copy of a sampler draws.

    A copy draws, by the global generators and by generators of its own that these seed, so that the loop's sampler stays as
    it is: it may count its passes or shuffle a list of its own.
    """
    parts = [part for one in (sampler, _own_sampler(loader)) for part in getattr(one, "__dict__", {}).values()]
    held = [loader.dataset, *(one for one in parts if isinstance(one, Dataset)), *reached(sampler)]
    try:
        with reach_kept(sampler):
            for own in reached(sampler):
                _sow(own, random.getrandbits(32))
            mine = copy.deepcopy(sampler, {id(one): one for one in held})
            if hasattr(mine, "set_epoch"):
                mine.set_epoch(epoch)
            found, rows = [], 0
            limit = min(MOST_DRAWN, ENDLESS * len(data) if isinstance(data := loader.dataset, Sized) else MOST_DRAWN)
            for one in itertools.islice(mine, most):
                found.append(read(one))
                rows += len(one) if isinstance(one, Sized) else 1
                if rows >= limit:
                    break
            return found
    except Exception as error:  # of other people's code
        raise DataError(
            f"The loader draws with {type(sampler).__name__}, whose rows cannot be told: {first_line(error)}. "
            f"{LINE.format(name, 'loader')}"
        ) from error


def _sow(own: object, seed: int) -> None:
    """Seed somebody's own generator of random numbers."""
    if isinstance(own, torch.Generator):
        own.manual_seed(seed)
    elif isinstance(own, (random.Random, np.random.RandomState)):
        own.seed(seed)
    elif isinstance(own, np.random.Generator):
        kind: Any = type(own.bit_generator)
        own.bit_generator.state = kind(seed).state


def _targets_in(loader: DataLoader[Any], rows: Tensor | None = None) -> Tensor | None:
    """The targets of a loader over these rows of a TensorDataset, or of a part of one."""
    data: Any = loader.dataset
    if type(data) is Subset:
        part = torch.as_tensor(data.indices, dtype=torch.long)
        data, rows = data.dataset, part if rows is None else part[rows]
    if type(data) is not TensorDataset or len(data.tensors) < 2 or loader.collate_fn is not default_collate:
        return None
    found: Tensor = data.tensors[-1]
    return found if rows is None else found[rows.to(found.device)]


def _is_batches(side: Any) -> bool:
    """A list of batches, not of examples: all tensors have the same first axis, and one has another axis beside it."""
    if not (isinstance(side, list) and side and isinstance(side[0], (tuple, list, Mapping))):
        return False
    parts = list(side[0].values()) if isinstance(side[0], Mapping) else list(side[0])
    tensors = list(tensors_in(parts))
    if not tensors or not all(isinstance(part, (Tensor, tuple, list, Mapping)) for part in parts):
        return False
    return all(t.ndim for t in tensors) and len({len(t) for t in tensors}) == 1 and any(t.ndim > 1 for t in tensors)


def some_rows(size: int, rows: int, source: torch.Generator) -> Tensor:
    """``rows`` different numbers below ``size``, sorted, in memory that millions of rows (windows over a text) do not swell."""
    if size <= FEW_TO_SHUFFLE:
        return torch.randperm(size, generator=source)[:rows].sort().values
    found = torch.empty(0, dtype=torch.long)
    while len(found) < rows:
        found = torch.unique(torch.cat([found, torch.randint(size, (rows,), generator=source)]))
    return found[torch.randperm(len(found), generator=source)[:rows]].sort().values
