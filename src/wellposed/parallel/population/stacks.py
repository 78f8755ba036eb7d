"""Tensors of many slots in one, and a slot's own model as views of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

ALIGNED_BYTES = 64
"""Whatever a slot hands to a matrix product begins at a multiple of this, a line of the cache, as torch's own tensors do: where a
slot lies must not change what it computes, to the last bit."""


def padded_size(count: int, bytes_each: int) -> int:
    """The least number of elements, >= ``count`` and a multiple of 16, after which the next tensor begins at a multiple of
    `ALIGNED_BYTES`."""
    every = max(16, ALIGNED_BYTES // bytes_each)
    return -(-max(1, count) // every) * every


class Stack:
    """One tensor for each of several places.

    Args:
        like: its shape, type and device.
        places: >= 1.
    """

    def __init__(self, like: Tensor, places: int) -> None:
        self.shape, self.count = like.shape, like.numel()
        self.stride = padded_size(self.count, like.element_size())
        self.storage = torch.zeros(places, self.stride, dtype=like.dtype, device=like.device)

    def at(self, place: int) -> Tensor:
        """The tensor of a place, a view."""
        return self.storage[place, : self.count].view(self.shape)

    def of(self, places: Tensor | None) -> Tensor:
        """``(places, *shape)``: a view of all where ``places`` is None, else a copy of these."""
        chosen = self.storage if places is None else self.storage[places]
        return chosen[:, : self.count].view(len(chosen), *self.shape)

    @property
    def address(self) -> int:
        """Where it begins in memory."""
        return self.storage.data_ptr()


class Stacks:
    """Weights, gradients, moments, averages and buffers of all slots of a population, by name.

    Args:
        model: one of the slots' models; the others have equal names and shapes.
        places: >= 1.
        averaged: whether any slot averages its weights.
        disturbed: whether any slot computes with noise on its weights.
    """

    def __init__(self, model: nn.Module, places: int, averaged: bool, disturbed: bool) -> None:
        weights = dict(model.named_parameters())
        self.places = places
        self.weights = make_stacks(weights, places)
        self.gradients = make_stacks(weights, places)
        self.moments = tuple(make_stacks(weights, places) for _ in range(2))
        self.buffers = make_stacks(floating_only(model.named_buffers()), places)
        self.noisy = make_stacks(weights, places) if disturbed else self.weights
        self.averages = make_stacks(weights, places) if averaged else self.weights
        self.average_buffers = make_stacks(floating_only(model.named_buffers()), places) if averaged else self.buffers

    def adopt(self, model: nn.Module, place: int, average: nn.Module | None) -> None:
        """Let a model, and its average, live in a place."""
        for moment in self.moments:
            for stack in moment.values():
                stack.at(place).zero_()
        move_into_stack(model, self.weights, self.buffers, place)
        for name, parameter in model.named_parameters():
            parameter.grad = self.gradients[name].at(place).zero_()
        if average is not None:
            move_into_stack(average, self.averages, self.average_buffers, place)


def make_stacks(tensors: Mapping[str, Tensor], places: int) -> dict[str, Stack]:
    return {name: Stack(tensor.detach(), places) for name, tensor in tensors.items()}


def floating_only(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Those that hold numbers and not counts."""
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


@torch.no_grad()
def move_into_stack(model: nn.Module, weights: Mapping[str, Stack], buffers: Mapping[str, Stack], place: int) -> None:
    """Move a model's tensors into a place: they become views."""
    for name, parameter in model.named_parameters():
        parameter.data = weights[name].at(place).copy_(parameter.data)
    for name, buffer in floating_only(model.named_buffers()).items():
        buffer.data = buffers[name].at(place).copy_(buffer.data)


@torch.no_grad()
def give_own_memory(model: nn.Module) -> None:
    """Give a model memory of its own again."""
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
    for buffer in model.buffers():
        buffer.data = buffer.data.clone()
