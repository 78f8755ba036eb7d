"""Event files of TensorBoard: framed records with checksums, each a protocol buffer with the numbers of one epoch.

A record is ``length (8 bytes) | checksum of it | data | checksum of it``. Of an ``Event`` this writes ``wall_time`` (1),
``step`` (2), in the first record ``file_version`` (3), and in its summary (5) the values (1): tag (1) and simple_value (2).

Source:
    TensorFlow, ``core/lib/io/record_writer.h``, ``core/util/event.proto`` and ``core/framework/summary.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, bits reversed
DELTA = 0xA282EAD8  # added by TFRecord to the rotated checksum, so that data with checksums inside keep good ones
VERSION = b"brain.Event:2"


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def checksum(data: bytes) -> int:
    """The masked CRC-32C of TFRecord."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + DELTA) & 0xFFFFFFFF


def event_file(epochs: Iterable[tuple[float, int, Mapping[str, float]]]) -> bytes:
    """The file of ``(seconds since 1970, step, {tag: number})``, one for each epoch."""
    records = [b"\x09" + struct.pack("<d", 0.0) + _part(3, VERSION)]
    for when, step, numbers in epochs:
        values = (
            _part(1, _part(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in numbers.items()
        )
        records.append(b"\x09" + struct.pack("<d", when) + b"\x10" + _varint(step) + _part(5, b"".join(values)))
    framed = []
    for data in records:
        length = struct.pack("<Q", len(data))
        framed += [length, struct.pack("<I", checksum(length)), data, struct.pack("<I", checksum(data))]
    return b"".join(framed)


def _part(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
