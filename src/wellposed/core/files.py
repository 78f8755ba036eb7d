"""Writes that are whole or not there, and saved formats that know their schema."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from wellposed.core.errors import FormatError, described, first_line


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write to a neighbour, flush to disk, and rename over ``path``: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def jsonable(value: Any) -> Any:
    """The value with what JSON cannot say (NaN, infinities, numpy and path types) put into what it can."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)


def write_json(path: str | Path, value: dict[str, Any]) -> Path:
    """Write a JSON object atomically; numbers that are not finite become ``null``."""
    return write_atomically(path, json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, schema: int, kind: str) -> dict[str, Any]:
    """Read a JSON object that was saved with ``"schema": schema``.

    Raises:
        FormatError: the file is missing, damaged, or of another schema.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"There is no {kind} at '{path}'.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"'{path}' is not a readable {kind}: {first_line(error)}.") from None
    if not isinstance(value, dict) or "schema" not in value:
        raise FormatError(f"'{path}' is not a {kind}: it has no 'schema'.")
    check_schema(value["schema"], schema, path, kind)
    return value


def check_schema(found: object, expected: int, path: str | Path, kind: str) -> None:
    """Refuse a schema that this version cannot read, saying which side is older."""
    if found == expected and not isinstance(found, bool):
        return
    if isinstance(found, int) and not isinstance(found, bool) and found > expected:
        raise FormatError(
            f"'{path}' is a {kind} of schema {found}; this wellposed reads schema {expected}. Update wellposed to read it."
        )
    raise FormatError(
        f"'{path}' is a {kind} of schema {described(found)}; this wellposed reads schema {expected} only."
    )
