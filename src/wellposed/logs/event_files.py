"""TensorBoard's event files: framed records with checksums, each a protocol buffer, of which only scalars are read.

A record is ``length (8 bytes) | checksum of it | data | checksum of it``. Of an ``Event`` this reads its step (field 2) and in its
summary (field 5) the values (1): tag (1) and simple_value (2), or a tensor (8) without axes. Nothing else is unpacked.

Source:
    TensorFlow, ``core/lib/io/record_writer.h``, ``core/util/event.proto``, ``core/framework/summary.proto`` and ``tensor.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from wellposed.core.errors import DataError
from wellposed.core.reading import check_memory, open_regular
from wellposed.core.tfrecord import checksum

LONGEST = 1 << 16  # bytes; a record of scalars is far shorter. Images and graphs are skipped unread
FLOATS = {1: "<f", 2: "<d", 3: "<i", 9: "<q", 19: "<e"}  # DataType -> how one number is packed
TYPED = {5: "<f", 6: "<d"}  # fields of a tensor with numbers: float_val, double_val


def scalars(path: Path) -> tuple[dict[str, list[tuple[int, float]]], bool]:
    """The scalars of an event file: ``{tag: [(step, value), ...]}`` in the order of writing, and whether it is whole.

    A file that breaks off, as that of a run which was killed, is read up to there.

    Raises:
        DataError: it cannot be read, or is no event file: its first record is damaged.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    first, count = True, 0
    try:
        with open_regular(path, DataError) as file:
            while head := file.read(12):
                if len(head) < 12 or checksum(head[:8]) != struct.unpack("<I", head[8:])[0]:
                    break
                length = struct.unpack("<Q", head[:8])[0]
                if length > LONGEST:
                    file.seek(length + 4, 1)
                    continue
                data, end = file.read(length), file.read(4)
                if len(data) < length or len(end) < 4 or checksum(data) != struct.unpack("<I", end)[0]:
                    break
                first = False
                step, values = _event(data)
                count += len(values)
                check_memory(f"'{path}' has {count:,} scalars or more", 256 * count, DataError)
                for tag, value in values:
                    found.setdefault(tag, []).append((step, value))
            else:
                return found, True
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    except DataError:
        raise
    except (IndexError, ValueError, OverflowError, struct.error):
        first = first or not found
    if first:
        raise DataError(f"'{path}' is not a file of TensorBoard events, or its first record is damaged.")
    return found, False


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: a number for a varint, bytes for anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield field, number
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError(f"wire type {kind}")
            size, at = _varint(data, at)
        if at + size > len(data):
            raise ValueError("a field is longer than its message")
        yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number is too long")


def _event(data: bytes) -> tuple[int, list[tuple[str, float]]]:
    step, found = 0, []
    for field, value in _fields(data):
        if field == 2 and isinstance(value, int):
            step = value - (1 << 64) if value >> 63 else value
        elif field == 5 and isinstance(value, bytes):
            found += [scalar for one, part in _fields(value) if one == 1 and (scalar := _scalar(part)) is not None]
    return step, found


def _scalar(data: int | bytes) -> tuple[str, float] | None:
    tag, number = "", None
    for field, value in _fields(data) if isinstance(data, bytes) else ():
        if field == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif field == 2 and isinstance(value, bytes) and len(value) == 4:
            number = float(struct.unpack("<f", value)[0])
        elif field == 8 and isinstance(value, bytes):
            number = _tensor(value)
    return None if number is None else (tag, number)


def _tensor(data: bytes) -> float | None:
    """The number in a tensor without axes; None in any other."""
    kind, packed, number = 0, b"", None
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 2 and value:  # it has axes
            return None
        elif field == 4 and isinstance(value, bytes):
            packed = value
        elif field in TYPED and isinstance(value, bytes) and len(value) == struct.calcsize(TYPED[field]):
            number = float(struct.unpack(TYPED[field], value)[0])
    form = FLOATS.get(kind, "")
    if number is None and form and len(packed) == struct.calcsize(form):
        return float(struct.unpack(form, packed)[0])
    return number if kind in FLOATS else None
