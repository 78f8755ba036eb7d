"""Sources of examples: one way to ask arrays, tensors, Datasets and DataLoaders for the rows of a batch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torch.utils.data import Subset as Rows
from torch.utils.data import sampler as samplers

from wellposed.core.batches import mapped, tensors_in
from wellposed.core.errors import DataError, described, first_line, noting

TARGET_KEYS = ("labels", "label", "targets", "target", "y")


def split_batch(batch: Any) -> tuple[Any, Any]:
    """``(inputs, target)`` of a batch: the last of a tuple is the target, or a mapping's ``labels``/``target``/``y``.

    Raises:
        DataError: the batch has neither form.
    """
    if isinstance(batch, Mapping):
        for key in TARGET_KEYS:
            if key in batch:
                return {k: v for k, v in batch.items() if k != key}, batch[key]
        raise DataError(
            f"A batch is a mapping with keys {list(batch)}; the target must be one of {', '.join(TARGET_KEYS)}, or give "
            "forward= and target= to say how it is read."
        )
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    raise DataError(
        f"A batch must be (inputs, target), (inputs, ..., target) or a mapping; this one is {type(batch).__name__}. "
        "Give forward= and target= to say how it is read."
    )


def to_device(batch: Any, device: torch.device | str, copied: bool = False) -> Any:
    """The batch with every tensor on ``device``, and every object that has a ``to`` of its own.

    Args:
        copied: tensors are copies also where they were there, so that code which writes into a batch leaves the given one alone.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            if not hasattr(leaf, "to") or isinstance(leaf, (type, nn.Module)):
                return leaf
            held = copy.copy(leaf)
            moved = held.to(device)
            return held if moved is None else moved  # some move in place, and may return nothing
        if leaf.is_meta and torch.device(device).type != "meta":
            raise DataError(
                "A tensor on the device meta has a shape and no numbers, so it is no data; give one with numbers."
            )
        moved = leaf.to(device, non_blocking=True, copy=copied)
        return moved.detach().requires_grad_() if copied and leaf.requires_grad else moved

    return mapped(one, batch)


class Source(ABC):
    """Rows that can be asked for by index; ``weight`` has one number a row, or is None."""

    weight: Tensor | None = None

    @property
    def arrays(self) -> Arrays | None:
        """The arrays that the rows are taken from; None where rows are fetched one by one."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    @abstractmethod
    def batch(self, index: Tensor) -> tuple[Any, Any]:
        """``(inputs, target)`` of these rows."""

    def subset(self, index: Tensor) -> Subset:
        """A source of the rows at ``index`` ``(n,)`` alone, in that order."""
        return Subset(self, index)

    def targets(self) -> Tensor | None:
        """All targets where they are at hand, else None."""
        return None


class Arrays(Source):
    """Tensors with rows first: ``inputs`` is a tensor, or a tuple or mapping of tensors."""

    def __init__(self, inputs: Any, target: Tensor, weight: Tensor | None = None) -> None:
        sizes = {len(part) for part in tensors_in(inputs)} | {len(target)}
        if len(sizes) > 1:
            raise DataError(f"Inputs and targets must have equally many rows; they have {sorted(sizes)}.")
        if len(target) == 0:
            raise DataError("The data are empty: there is no row.")
        self.inputs, self.target, self.weight = inputs, target, weight

    @property
    def arrays(self) -> Arrays:
        """These rows themselves, since they are in memory."""
        return self

    def __len__(self) -> int:
        return len(self.target)

    def batch(self, index: Tensor) -> tuple[Any, Any]:
        """Inputs and targets of the rows at ``index`` ``(n,)``: each tensor ``(n, ...)``."""
        inputs = mapped(lambda part: _rows(part, index), self.inputs)
        return inputs, self.target.index_select(0, index)

    def targets(self) -> Tensor:
        """The targets of all rows, ``(rows, ...)``."""
        return self.target


class Items(Source):
    """A map-style Dataset: items are fetched one by one and collated."""

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.dataset, self.collate = dataset, collate or default_collate
        try:
            self.length = len(dataset)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError("A Dataset must have a length; give one with __len__ and __getitem__.") from None
        if self.length == 0:
            raise DataError("The data are empty: the Dataset has length 0.")

    def __len__(self) -> int:
        return self.length

    def raw(self, index: Tensor) -> Any:
        """The collated batch as the loader would give it."""
        items = []
        for i in index.tolist():
            with noting("the Dataset", i):
                items.append(self.dataset[i])
        try:
            with noting("collate_fn", items):
                return self.collate(items)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise DataError(
                f"The examples of the data cannot be put into a batch: {first_line(error)}. The first is {described(items[0])}; "
                "give examples (x, y) of tensors, arrays or numbers, or collate_fn=."
            ) from error

    def batch(self, index: Tensor) -> tuple[Any, Any]:
        """The collated batch, taken apart."""
        return split_batch(self.raw(index))


class Subset(Source):
    """Some rows of another source."""

    def __init__(self, source: Source, index: Tensor) -> None:
        self.source, self.index = source, index
        self.weight = None if source.weight is None else source.weight[index]

    @property
    def arrays(self) -> Arrays | None:
        """The arrays in memory that the other source reads from; None where there are none."""
        return self.source.arrays

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor) -> tuple[Any, Any]:
        """The rows at ``index`` among ours."""
        return self.source.batch(self.index[index])

    def targets(self) -> Tensor | None:
        """The targets of our rows."""
        found = self.source.targets()
        return None if found is None else found[self.index]


def source_of(
    given: Any, collate: Callable[[list[Any]], Any] | None = None, weight: Any = None, double: bool = False
) -> Source:
    """A source from ``(X, y)``, a Dataset, or a DataLoader over one.

    Args:
        double: whether doubles stay doubles; by default arrays of them become float32, in which most networks reckon.
    Raises:
        DataError: it is none of these, or a loader whose order cannot be asked for by index.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, DataLoader):
        kept = rows_of(given)
        if kept is None:
            return source_of(given.dataset, collate or given.collate_fn, weight, double)
        return _weighed(source_of(given.dataset, collate or given.collate_fn, double=double).subset(kept), weight)
    if isinstance(given, IterableDataset):
        raise DataError("An iterable Dataset cannot be asked for rows by number; give a map-style Dataset.")
    if type(given) is Rows and type(given.dataset) is TensorDataset:
        given = TensorDataset(*given.dataset[list(given.indices)])
    if type(given) is TensorDataset and collate in (None, default_collate) and len(given.tensors) > 1:
        *inputs, target = given.tensors
        given = (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    if _is_pair(given):
        return _weighed(Arrays(tensors(given[0], double), target_tensor(given[1], double)), weight)
    if hasattr(given, "columns"):
        raise DataError(
            'Data are (X, y); a frame alone has no target. Write (frame.drop(columns=["y"]), frame["y"]), say.'
        )
    listlike = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if isinstance(given, Dataset) or (listlike and not isinstance(given, (str, bytes, Mapping))):
        return _weighed(Items(given, collate), weight)
    kind = type(given)
    name = f"{kind.__name__} of {kind.__module__}" if kind.__name__ in ("Dataset", "DataLoader") else kind.__name__
    raise DataError(
        f"Data are (X, y), a Dataset or a DataLoader; {name} is none of them. A watch also takes a list of its batches."
    )


def _weighed(source: Source, weight: Any) -> Source:
    source.weight = None if weight is None else weight_tensor(weight, len(source))
    return source


def _is_pair(given: Any) -> bool:
    """``(X, y)``, and not a list of two examples or a pair of numbers."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or isinstance(given[0], (int, float, str)):
        return False
    return not (isinstance(given, list) and all(isinstance(part, (tuple, list, Mapping)) for part in given))


def rows_of(loader: DataLoader[Any], lost: tuple[type, ...] = ()) -> Tensor | None:
    """The rows of the Dataset that a loader goes through, without drawing from it; None for all of them.

    Args:
        lost: samplers that draw from all rows, and whose way of drawing does not matter to the caller.
    Raises:
        DataError: the rows cannot be told, or a way of drawing would be lost.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise DataError(
            "A loader over an iterable Dataset, or with batch_size=None, cannot be asked for rows by number; "
            "give a loader over a map-style Dataset, or the Dataset."
        )
    own_batches = type(loader.batch_sampler) is not samplers.BatchSampler
    sampler: Any = loader.batch_sampler if own_batches else loader.batch_sampler.sampler  # type: ignore[attr-defined]
    if type(sampler) is samplers.SubsetRandomSampler:
        return torch.as_tensor(sampler.indices, dtype=torch.long)
    if type(sampler) not in (samplers.SequentialSampler, samplers.RandomSampler, *lost):
        raise DataError(
            f"The loader draws with {type(sampler).__name__}, which may leave out or repeat rows. Give a plain loader "
            "over the same rows, DataLoader(dataset, collate_fn=...); example weights go into wp.Data(weight=)."
        )
    return None


def array_of(value: Any, what: str) -> np.ndarray:
    """A value as one array.

    Raises:
        DataError: it is ragged, or a tensor whose numbers are not at hand (sparse, on the device meta).
    """
    try:
        return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} must be an array, with a row for each example; {described(value)} is none: {first_line(error)}."
        ) from None


def real_numbers(value: Any, what: str, instead: str) -> Tensor:
    """A value as a tensor of real numbers.

    Raises:
        DataError: it holds texts, objects or complex numbers, or is a tensor that is sparse or on the device meta.
    """
    if not isinstance(value, Tensor):
        array = array_of(value, what)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{what} must be numbers; these are {array.dtype}. {instead}")
        value = torch.from_numpy(np.require(array, requirements=["C", "W"]))  # torch warns of what cannot be written
    if kind := _unfit(value):
        raise DataError(
            f"{what} must be a dense tensor of real numbers, a row for each example; this one is {kind}. {instead}"
        )
    return value.detach()  # type: ignore[no-any-return]


def doubles(value: Any, what: str, instead: str = "Give an array of numbers.") -> Tensor:
    """`real_numbers` in double precision on the CPU."""
    return real_numbers(value, what, instead).cpu().double()


def _unfit(value: Tensor) -> str:
    """Why a tensor is no table of numbers; empty where it is one."""
    if value.is_nested or value.layout is not torch.strided:
        return "nested" if value.is_nested else "sparse"
    if value.is_meta or value.is_complex():
        return "without data" if value.is_meta else "complex"
    return "" if value.ndim else "a single number"


def in_numpy(value: Tensor) -> np.ndarray:
    """The numbers of a tensor on the CPU; NumPy has no bfloat16, whose numbers float32 has too."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _single(value: Tensor, what: str) -> Tensor:
    """As float32, in which a network reckons."""
    found = value.float()
    if value.dtype == torch.float64 and bool((found.isinf() & value.isfinite()).any()):
        raise DataError(f"{what} have numbers beyond 3.4e38, the range of float32. Give them in a larger unit.")
    return found


def tensors(value: Any, double: bool = False) -> Any:
    """Arrays as tensors: doubles become float32, images of bytes stay bytes; tuples and mappings part by part.

    Args:
        double: whether doubles stay doubles.
    """

    def one(part: Any) -> Tensor:
        found = real_numbers(part, "Inputs", "Give numbers, or a frame to have columns encoded.")
        return _single(found, "Inputs") if found.dtype == torch.float64 and not double else found

    return mapped(one, value, whole=lambda part: isinstance(part, list))


def target_tensor(value: Any, double: bool = False) -> Tensor:
    """Targets as a tensor: integers and booleans as class indices (int64), numbers as float32, or doubles as they are."""
    found = real_numbers(value, "Targets", "Encode labels as 0, 1, ..., or give a frame.")
    if double and found.dtype == torch.float64:
        return found
    return _single(found, "Targets") if found.is_floating_point() else found.long()


def weight_tensor(value: Any, rows: int) -> Tensor:
    """Example weights: finite, >= 0, not all 0, one for each row.

    Raises:
        DataError: they are not.
    """
    weight = real_numbers(value, "weight=", "Give one number for each row.").float()
    if weight.shape != (rows,) or not bool(weight.isfinite().all() and (weight >= 0).all() and weight.sum() > 0):
        raise DataError(f"weight= needs {rows} finite numbers >= 0, not all 0; it has shape {tuple(weight.shape)}.")
    return weight


def _rows(part: Any, index: Tensor) -> Any:
    """Rows of a tensor by number; several times faster than by indexing."""
    return part.index_select(0, index) if isinstance(part, Tensor) else part[index]
