"""What wellposed changes for a while and gives back as it was: modes and buffers of a model, and global random states.

Each of these is a context manager that puts things back after an exception too, so that they can be combined in one ``with``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from wellposed.core.shared import exclusively


class OwnHook:
    """A hook that stays with its own model: in a copy, and in a pickled model, it does nothing.

    So the copy of a model is clean, and what it does never reaches what belongs to the original.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes any arguments and returns None; from the standard library, so that a pickle needs nothing of ours.
        return getattr, (nullcontext(), "__exit__")


@contextmanager
def modes_kept(model: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Every module's mode comes back; inside, all modules are in the mode ``training``, or as they were with None."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        if training is not None:
            for module, _ in modes:
                module.training = training
        yield
    finally:
        for module, before in modes:
            module.training = before


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers come back: the tensors themselves, with what they held; those that a state_dict leaves out too."""
    kept = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for module, name, buffer, values in kept:
            module._buffers[name] = buffer
            if buffer is None or values is None:
                continue
            # An expanded buffer cannot be written to, and a graph of the user's may wait for one that did not change.
            if buffer.layout != torch.strided or not torch.equal(buffer, values):
                buffer.data.copy_(values)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Torch's (all devices), numpy's and Python's global random states come back. Other threads of wellposed wait."""
    with exclusively():
        cpu, python, legacy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - kept, not used
        started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if started else None
        try:
            yield
        finally:
            torch.set_rng_state(cpu)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - the user's own state goes back
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
