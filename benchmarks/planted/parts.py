"""Which kinds and parameters make a part."""

from __future__ import annotations

from importlib import import_module

from benchmarks.planted.case import Kinds

PARTS = {
    "tuned": (("tuned", "tuned"),),
    "frozen": (("frozen", "test"), ("tuned", "test"), ("frozen_codes", "test")),
    "frozen_two": (("frozen_two", "test"),),
}
"""Halves of the kinds, each with the side of its parameters."""


def kinds_of(half: str) -> Kinds:
    """The kinds of a half; the frozen half is not even read where it is not asked for."""
    kinds: Kinds = import_module(f"benchmarks.planted.{half}").KINDS
    return kinds
