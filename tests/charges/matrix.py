"""Penalties of whole matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GIVEN: dict[str, list[dict[str, Any]]] = {}

CLOSED_FORMS: dict[str, Callable[[Callable[..., Any]], None]] = {}
