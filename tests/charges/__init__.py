"""What each charge is tried with: constructor arguments for the laws, one closed form by hand, and wrong ones.

A module here has ``GIVEN`` (constructor arguments by name), ``CLOSED_FORMS`` (a check of a class by name) and mutants:
subclasses of our own classes that are wrong in one way, and must be caught by the laws or by the closed form.
``tests/test_calculus.py`` runs them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def equal(found: Tensor, wanted: list[Any] | float) -> None:
    """Agreement to rounding in float64."""
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype), rtol=1e-12, atol=1e-12)
