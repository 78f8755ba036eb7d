"""Batches of any shape: tensors in tuples, lists, mappings, dataclasses, and these in one another.

Torch's pytrees know tuples, named tuples, lists and dicts. Mappings of another kind (a tokenizer's batch) and dataclasses are
leaves to them, and are opened here; a mapping comes back as a dict. Of other objects (a batch of graphs, padded images with their
mask) the tensors are looked at, and the object stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map


def mapped(change: Callable[[Any], Any], batch: Any, whole: Callable[[Any], bool] | None = None) -> Any:
    """The batch with ``change(leaf)`` in place of each leaf; its containers are new ones.

    Args:
        whole: what of containers is a leaf; None opens all of them.

    Example:
        >>> mapped(abs, (-1, {"a": [-2, 3]}))
        (1, {'a': [2, 3]})
    """
    if isinstance(batch, Tensor):  # most batches, and several times as fast
        return change(batch)
    if whole is None and type(batch) in (tuple, list) and all(isinstance(part, Tensor) for part in batch):
        return type(batch)(map(change, batch))

    def changed(leaf: Any) -> Any:
        if whole is None or not whole(leaf):
            if isinstance(leaf, Mapping):
                return {key: mapped(change, value, whole) for key, value in leaf.items()}
            if _is_dataclass(leaf):
                return dataclasses.replace(
                    leaf, **{name: mapped(change, value, whole) for name, value in _fields(leaf).items()}
                )
        return change(leaf)

    return tree_map(changed, batch, is_leaf=lambda leaf: _packed(leaf) or (whole is not None and whole(leaf)))


def tensors_in(batch: Any, inside: frozenset[int] = frozenset()) -> Iterator[Tensor]:
    """The tensors of a batch in order; ``inside`` are the ids of objects that are being looked at, which may hold themselves."""
    for leaf in tree_iter(batch, is_leaf=_packed):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from tensors_in(list(leaf.values()), inside)
        elif _is_dataclass(leaf):
            yield from tensors_in(list(_fields(leaf).values()), inside)
        elif not isinstance(leaf, (type, nn.Module, ModuleType)) and id(leaf) not in inside:
            held = getattr(leaf, "__dict__", {}).values()
            parts = [one for one in held if isinstance(one, (Tensor, Mapping)) or _of_tensors(one)]
            yield from tensors_in(parts, inside | {id(leaf)})


def _packed(value: Any) -> bool:
    """Whether it is a tuple of torch's that is one thing: its parts are no rows, and stay on devices of their own."""
    return isinstance(value, nn.utils.rnn.PackedSequence)


def _of_tensors(value: Any) -> bool:
    """Whether it is a list of tensors; not a whole Dataset that a batch may hold."""
    return isinstance(value, (tuple, list)) and bool(value) and isinstance(value[0], Tensor)


def stored_numbers(tensor: Tensor) -> Tensor:
    """The numbers of a tensor in one axis; of a sparse one those that it stores, whatever its size."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_sparse_coo().coalesce().values()  # type: ignore[no-untyped-call]
    return tensor.detach().flatten()


def count_numbers(batch: Any) -> int:
    return sum(tensor.numel() for tensor in tensors_in(batch))


def bytes_in(batch: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(batch))


def examples_in(batch: Any) -> int:
    """How many examples a batch that is an object says that it has, else the length of its first tensor with an axis; or 0."""
    told = (getattr(batch, name, None) for name in ("num_graphs", "batch_size"))
    return next((size for size in told if isinstance(size, int)), None) or next(
        (len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 0
    )


def examples_of(batch: Any, index: Tensor | slice, count: int) -> Any:
    """Some examples of a batch of ``count``: what has as many rows is indexed, anything else is left whole."""

    def chosen(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != count:
            return leaf
        rows = index.to(leaf.device) if isinstance(index, Tensor) else index
        if leaf.layout != torch.strided:  # torch takes rows of a sparse tensor by their numbers alone
            numbers = torch.arange(count, device=leaf.device)[rows]
            rows_alone = leaf.to_sparse_coo().index_select(0, numbers)  # type: ignore[no-untyped-call]
            return rows_alone.to_sparse(layout=leaf.layout)
        return leaf[rows]

    return mapped(chosen, batch)


def cat_padded(parts: Sequence[Tensor], fill: float) -> Tensor:
    """Tensors of rows one after another; those of batches that were padded to a shorter length are filled up at their ends."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    longest = [max(sizes) for sizes in zip(*(part.shape[:0:-1] for part in parts), strict=True)]
    missing = [[most - size for size, most in zip(part.shape[:0:-1], longest, strict=True)] for part in parts]
    return torch.cat(
        [
            nn.functional.pad(part, [more for few in short for more in (0, few)], value=fill)
            for part, short in zip(parts, missing, strict=True)
        ]
    )


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
