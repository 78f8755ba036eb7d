"""Image sets in ``.npz`` files: read, checked, and kept compact until a batch is made."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from wellposed.core.errors import DataError, listed
from wellposed.core.reading import check_memory, format_bytes, open_regular

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NEEDED, OPTIONAL = ("X_train", "y_train"), ("X_test", "y_test")
CHANNELS = (1, 3, 4)  # grey, colours, colours and opacity
BROKEN = (
    ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, struct.error, OverflowError,
)  # fmt: skip
"""What the zip and the header of an array raise when they are damaged; RuntimeError where a password is needed."""
CHUNK = 2048  # images in double precision at a time, so that statistics need little memory


def read_npz(path: str | Path) -> dict[str, Array]:
    """``X_train, y_train`` and, if the file has them, ``X_test, y_test``.

    Images are ``(n, height, width)`` or ``(n, height, width, channels)`` with 1, 3 or 4 channels, uint8 or floating, as
    they are in the file; labels become int64 ``(n,)`` and keep their values. Nothing in the file is executed.

    Raises:
        DataError: the file is missing or damaged, or arrays are missing, of unequal lengths, of a shape or type that
            are no images and labels, or not finite; or the training labels have one class, or lack a test label.
    """
    path = Path(path)
    arrays, _ = arrays_in(path, (*NEEDED, *OPTIONAL))
    absent = [key for key in NEEDED if key not in arrays]
    if len({key in arrays for key in OPTIONAL}) == 2:
        absent += [key for key in OPTIONAL if key not in arrays]
    if absent:
        raise DataError(
            f"'{path}' has {listed(arrays) or 'none of the arrays'} and lacks {listed(absent)}. "
            "An image set needs X_train and y_train, and X_test and y_test or neither."
        )
    found = {key: arrays[key] for key in (*NEEDED, *OPTIONAL) if key in arrays}
    for key in found:
        found[key] = _images(found[key], key) if key.startswith("X") else _labels(found[key], key)
    _check_pairs(found)
    return found


def image_tensor(x: Array) -> Tensor:
    """``(n, height, width[, channels])`` as ``(n, channels, height, width)``, uint8 kept as uint8, floating as float32.

    The values are not scaled: divide and center a batch by `pixel_statistics` when it is used.

    Raises:
        DataError: ``x`` has another shape or type, or is not finite.
    """
    x = _images(np.asarray(x), "X")
    if x.ndim == 3:
        x = x[..., None]
    compact = x if x.dtype == np.uint8 else x.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(compact.transpose(0, 3, 1, 2)))


def pixel_statistics(x: Array | Tensor) -> tuple[Tensor, Tensor]:
    """``mean, std`` of each channel, float32 ``(channels,)``, in the unit of ``x``: learn them on training rows.

    Args:
        x: ``(n, height, width[, channels])`` array, or ``(n, channels, height, width)`` tensor as from `image_tensor`.
    Raises:
        DataError: ``x`` is an array and no images. A channel without variation has std 1, so that dividing is safe.
    """
    images = x if isinstance(x, Tensor) else image_tensor(x)
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    chunks = torch.split(images, CHUNK)
    mean = torch.stack([chunk.double().sum(dim=(0, 2, 3)) for chunk in chunks]).sum(dim=0) / pixels
    squares = [(chunk.double() - mean.view(-1, 1, 1)).square().sum(dim=(0, 2, 3)) for chunk in chunks]
    std = (torch.stack(squares).sum(dim=0) / pixels).sqrt()
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()


def arrays_in(path: Path, wanted: Iterable[str]) -> tuple[dict[str, Array], list[str]]:
    """The ``wanted`` arrays that an ``.npz`` file has, and the names of all its arrays. Only the wanted ones are read.

    Raises:
        DataError: there is no such file, it is no whole ``.npz``, too large, or one of the arrays is damaged.
    """
    with open_regular(path, DataError) as content:
        try:
            archive = zipfile.ZipFile(content)
        except BROKEN:
            raise DataError(f"'{path}' is not a whole .npz file. Make it again with numpy.savez_compressed.") from None
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        found = {key: members[key] for key in wanted if key in members}
        unpacked = sum(info.file_size for info in found.values())
        check_memory(f"'{path}' has {listed(found)} of {format_bytes(unpacked)} together", 2 * unpacked, DataError)
        return {key: _array(archive, info, key, path) for key, info in found.items()}, list(members)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, path: Path) -> Array:
    """An array of an archive, if it is as long as its header says: memory is taken for what the header says."""
    try:
        with archive.open(info) as file:
            header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
            length = info.file_size - file.tell()
        if not dtype.hasobject:
            if math.prod(shape) * dtype.itemsize != length:
                raise ValueError("its header says another size")
            with archive.open(info) as file:
                return npy.read_array(file, allow_pickle=False)
    except BROKEN:
        raise DataError(f"{key} in '{path}' is damaged. Make the file again with numpy.savez_compressed.") from None
    raise DataError(f"{key} in '{path}' holds Python objects, which are not loaded. Save arrays of numbers.")


def _images(x: Array, name: str) -> Array:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{name} has type {x.dtype}; images need uint8 or floating numbers. Convert it.")
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in CHANNELS):
        raise DataError(
            f"{name} has shape {x.shape}; images need (n, height, width) or (n, height, width, channels), "
            "with 1, 3 or 4 channels."
        )
    if 0 in x.shape:
        raise DataError(f"{name} has shape {x.shape}: it is empty. Give at least one image.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(
            f"{name} has {int((~np.isfinite(x)).sum())} values that are NaN or infinite. Remove or replace them."
        )
    return x


def _labels(y: Array, name: str) -> Array:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{name} has shape {y.shape}; labels need one integer for each image, shape (n,).")
    whole = y.dtype.kind in "iub" or (y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all())
    if not whole:
        raise DataError(f"{name} has type {y.dtype}; labels need to be integers. Number the classes 0, 1, ...")
    return y.astype(np.int64)


def _check_pairs(found: dict[str, Array]) -> None:
    for x, y in (NEEDED, OPTIONAL):
        if x in found and len(found[x]) != len(found[y]):
            raise DataError(f"{x} has {len(found[x])} images and {y} {len(found[y])} labels; they need equal lengths.")
    known = np.unique(found["y_train"])
    if len(known) < 2:
        raise DataError(f"y_train has one class only ({known[0]}); a classifier needs at least two.")
    if "X_test" not in found:
        return
    if found["X_test"].shape[1:] != found["X_train"].shape[1:]:
        raise DataError(
            f"X_train has images of shape {found['X_train'].shape[1:]} and X_test of {found['X_test'].shape[1:]}; "
            "they need the same shape."
        )
    unknown = np.setdiff1d(found["y_test"], known)
    if unknown.size:
        raise DataError(f"y_test has the classes {listed(unknown)}, which y_train never has. Remove these images.")
