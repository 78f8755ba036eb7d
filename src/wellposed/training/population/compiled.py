"""The compiled kernel: built once by the machine's own C compiler, kept in the user's cache; None where that cannot be."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

SOURCES = ("kernel.c", "kernel_body.h")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-pthread")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 120
"""A compiler that takes longer is given up; two seconds are usual."""


@dataclass(frozen=True)
class Kernel:
    """The library, and the matrix product of torch's own BLAS for each type.

    Attributes:
        blas_threads: sets the threads of that BLAS for the calling thread and returns what they were.
    """

    library: ctypes.CDLL
    gemm: dict[torch.dtype, int]
    blas_threads: int


@functools.cache
def kernel() -> Kernel | None:
    """The kernel; None where there is no Linux, no compiler, or a torch whose BLAS (MKL) cannot be reached."""
    if sys.platform != "linux":
        return None
    try:
        blas = _loaded("libtorch_cpu")
        if blas is None:
            return None
        products = ctypes.CDLL(str(blas))
        single, double = _address(products, "sgemm_"), _address(products, "dgemm_")
        threads = _address(products, "MKL_Set_Num_Threads_Local")
        built = None if single is None or double is None or threads is None else _built()
        if built is None or single is None or double is None or threads is None:
            return None
        library = ctypes.CDLL(str(built))
    except OSError:
        return None
    library.wp_sizes.restype = ctypes.c_int64
    return Kernel(library, {torch.float32: single, torch.float64: double}, threads)


def _loaded(name: str) -> Path | None:
    """The file of a library that this process has loaded."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(name):
            return Path(path)
    return None


def _address(library: ctypes.CDLL, symbol: str) -> int | None:
    try:
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    except AttributeError:
        return None


def _built() -> Path | None:
    """The shared library for this source, compiler and processor, compiled if it is not in the cache."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    folder = _cache()
    if compiler is None or folder is None:
        return None
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for part in (*((here / name).read_bytes() for name in SOURCES), repr((FLAGS, compiler, _processor())).encode()):
        digest.update(hashlib.sha256(part).digest())
    target = folder / f"kernel-{digest.hexdigest()[:24]}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = Path(scratch) / "kernel.o", Path(scratch) / "kernel.so"
        commands = (
            [compiler, *FLAGS, "-c", str(here / SOURCES[0]), "-o", str(compiled)],
            [compiler, "-shared", "-pthread", str(compiled), "-o", str(linked), "-lm"],
        )
        for command in commands:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0:
                    continue
            return None
        os.replace(linked, target)
    return target


def _cache() -> Path | None:
    """A folder that only this user can write to; what is loaded from it is code."""
    try:
        folder = Path.home() / ".cache" / "wellposed"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if own and os.access(folder, os.W_OK) else None


def _processor() -> str:
    """What the compiled code depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    return repr((platform.machine(), told))
