"""Random streams: every draw is a function of (seed, stream, step, site), never of torch's global state.

A run is then the same alone, among others, and resumed: what one site draws at one step does not depend on what was
drawn before it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from wellposed.core.preserve import random_states_kept

StreamKey = int | str


def stream_seed(seed: int, *keys: StreamKey) -> int:
    """A 63-bit seed that is a hash of ``(seed, *keys)``: equal keys give equal seeds, on every machine."""
    text = "\x1f".join([repr(int(seed)), *(repr(key) for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: StreamKey) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, *keys))


def numpy_generator(seed: int, *keys: StreamKey) -> np.random.Generator:
    return np.random.default_rng(stream_seed(seed, *keys))


def random_bits(count: int, source: torch.Generator) -> Tensor:
    """``count`` uniform 16-bit integers in [-32768, 32767], four from each 64-bit draw."""
    words = torch.empty((count + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=source)
    return words.view(torch.int16)[:count]


@contextmanager
def seeded(seed: int, *keys: StreamKey) -> Iterator[None]:
    """Run other people's code (factories, data sets, collate functions) with every global generator set to a stream."""
    with random_states_kept():
        reseed(seed, *keys)
        yield


def reseed(seed: int, *keys: StreamKey) -> None:
    """Set every global generator to a stream. For use inside `random_states_kept`."""
    value = stream_seed(seed, *keys)
    # Not torch.manual_seed: without a started CUDA it formats and keeps a traceback at each call.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - other people's code draws from it
