"""The compiled kernel: built once by the machine's own C compiler and kept in the user's cache; torch alone where that cannot be.

What is loaded is code, so the cache is trusted only as far as it is ours and whole: a file that another user could have
written, that is cut, or whose digest does not fit is built again. It is loaded from a copy in memory, since a file that is cut
while a process uses it kills the process.

Which engine trains must not depend on how busy the machine is. So a compiler is not timed: it is given up when it has not
worked for `IDLE` seconds (it hangs) or has worked for `WORK` seconds of processor time, once a process; that it hung is
remembered for a day, so that other processes neither wait nor decide otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wellposed.core.errors import InputError
from wellposed.core.files import scratch, write_atomically
from wellposed.core.reading import open_regular

SOURCES = ("kernel.c", "kernel_body.h")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-pthread")
COMPILERS = ("cc", "gcc", "clang")
SYMBOLS = ("wp_sizes", "wp_random_bits", "wp_step_f", "wp_step_d", "wp_outputs_f", "wp_outputs_d")
IDLE, WORK = 10.0, 20.0
"""Seconds without any processor time, and of processor time, after which a compiler is given up; three of work are usual."""
AGAIN = 86_400.0
"""Seconds for which a compiler that was given up is not asked again."""
HANGS = "the C compiler does not end"
POLL = 0.1
PRIVATE = 0o600
DIGEST = hashlib.sha256().digest_size
LARGEST = 2**26
"""Bytes of a file in the cache that are read at most; the library has a few hundred thousand."""


class Missing(Exception):
    """There is no kernel; the message says why, for `Run.engine`."""


@dataclass(frozen=True)
class Kernel:
    """The library, and the matrix product of torch's own BLAS for each type.

    Attributes:
        blas_threads: sets the threads of that BLAS for the calling thread and returns what they were.
    """

    library: ctypes.CDLL
    gemm: dict[torch.dtype, int]
    blas_threads: int


def kernel() -> Kernel | None:
    """The kernel; None where there is none, and `load_kernel` says why."""
    known = load_kernel()
    return known if isinstance(known, Kernel) else None


@functools.cache
def load_kernel() -> Kernel | str:
    """The kernel, or why there is none: no Linux, a torch whose BLAS (MKL) cannot be reached, no compiler, one that hangs.

    One answer for the whole life of the process.
    """
    try:
        return _kernel()
    except Missing as why:
        return str(why)


def _kernel() -> Kernel:
    if sys.platform != "linux":
        raise Missing("this system is not Linux")
    try:
        blas = _loaded("libtorch_cpu")
        products = ctypes.CDLL(str(blas)) if blas is not None else None
    except OSError as error:
        raise Missing("torch's library cannot be found") from error
    single, double, threads = (_address(products, name) for name in ("sgemm_", "dgemm_", "MKL_Set_Num_Threads_Local"))
    if single is None or double is None or threads is None:
        raise Missing("this torch has no MKL")
    return Kernel(_built(), {torch.float32: single, torch.float64: double}, threads)


def _loaded(name: str) -> Path | None:
    """The file of a library that this process has loaded."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(name):
            return Path(path)
    return None


def _address(library: ctypes.CDLL | None, symbol: str) -> int | None:
    try:
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    except AttributeError:
        return None


def _library(content: bytes) -> ctypes.CDLL:
    """The library, loaded from a copy in memory, which nobody can cut or change. The copy is open as long as the process."""
    try:
        _check_whole(content)
        handle = os.memfd_create("wellposed-kernel", os.MFD_CLOEXEC)
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            library = ctypes.CDLL(f"/proc/self/fd/{handle}")
        except OSError:
            os.close(handle)
            raise
    except (OSError, struct.error) as error:
        raise Missing("what the C compiler made cannot be loaded") from error
    if not all(hasattr(library, name) for name in SYMBOLS):
        raise Missing("what the C compiler made is no kernel")
    library.wp_sizes.restype = ctypes.c_int64
    return library


def _check_whole(library: bytes) -> None:
    """Look whether an ELF file of 64 bits holds all that its headers let the system map: the process dies where that ends early.

    Raises:
        OSError, struct.error: a compiler was killed, or had no room, and said that all is well.
    """
    (start,), (size, count) = struct.unpack_from("<Q", library, 32), struct.unpack_from("<HH", library, 54)
    for place in range(count):
        offset, length = struct.unpack_from("<8xQ16xQ", library, start + place * size)
        if offset + length > len(library):
            raise OSError("the file was cut")


# The cache


def _built() -> ctypes.CDLL:
    """The shared library for this source, compiler and processor, compiled if it is not in the cache.

    Raises:
        Missing: there is no compiler, or it fails.
    """
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise Missing("no C compiler")
    here, folder = Path(__file__).parent, _make_cache()
    sources = [(here / name).read_bytes() for name in SOURCES]
    digest = hashlib.sha256()
    for part in (*sources, repr((FLAGS, compiler, _version(compiler), _processor())).encode()):
        digest.update(hashlib.sha256(part).digest())
    name = f"kernel-{digest.hexdigest()[:24]}"
    if folder is None:
        return _library(_compiled(compiler, here))
    kept, given_up = folder / f"{name}.so", folder / f"{name}.hangs"
    content = _ours(kept) or b""
    if content[-DIGEST:] == hashlib.sha256(content[:-DIGEST]).digest():
        with contextlib.suppress(Missing):
            return _library(content[:-DIGEST])
    if _ours(given_up, AGAIN):
        raise Missing(HANGS)
    try:
        content = _compiled(compiler, here)
        library = _library(content)
    except Hangs:
        _keep(given_up, HANGS.encode())
        raise
    _keep(kept, content + hashlib.sha256(content).digest())
    return library


def _make_cache() -> Path | None:
    """A folder that only this user can write to; None where there is none."""
    try:
        folder = Path.home() / ".cache" / "wellposed"
        if not folder.is_absolute():
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder if _only_ours(folder.stat()) else None
    except (OSError, RuntimeError):
        return None


def _only_ours(seen: os.stat_result) -> bool:
    return seen.st_uid == os.getuid() and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _ours(path: Path, within: float = math.inf) -> bytes | None:
    """The content of a file in the cache that only this user could have written, and within so many seconds of now."""
    try:
        with open_regular(path, InputError) as file:
            seen = os.fstat(file.fileno())
            fits = _only_ours(seen) and seen.st_size <= LARGEST and abs(time.time() - seen.st_mtime) < within
            return file.read(seen.st_size) if fits else None
    except (InputError, OSError):
        return None


def _keep(path: Path, content: bytes) -> None:
    """Put into the cache; where it cannot be written, the next process builds again."""
    with contextlib.suppress(OSError, InputError):
        path.unlink(missing_ok=True)  # with the mode that another user may have given it
        write_atomically(path, content, path.parent, mode=PRIVATE)


def _version(compiler: str) -> tuple[int, int] | None:
    """Tells a compiler from one that was installed in its place."""
    try:
        seen = os.stat(compiler)
        return seen.st_size, seen.st_mtime_ns
    except OSError:
        return None


# The compiler


class Hangs(Missing):
    """The compiler was given up."""


def _compiled(compiler: str, here: Path) -> bytes:
    """The library, made in a folder of this process alone.

    Raises:
        Missing: the compiler fails, hangs, or there is no room for its files.
    """
    try:
        with scratch() as folder:
            compiled, linked = folder / "kernel.o", folder / "kernel.so"
            for command in (
                [compiler, *FLAGS, "-c", str(here / SOURCES[0]), "-o", str(compiled)],
                [compiler, "-shared", "-pthread", str(compiled), "-o", str(linked), "-lm"],
            ):
                if _status(command, folder):
                    raise Missing("the C compiler fails")
            with open_regular(linked, InputError) as file:
                return file.read(min(os.fstat(file.fileno()).st_size, LARGEST))
    except (OSError, InputError) as error:
        raise Missing("the C compiler leaves no library") from error


def _status(command: Sequence[str], folder: Path) -> int:
    """The exit status of a compiler. It is watched for work and not timed, for a busy machine makes it slow.

    Raises:
        Hangs: it did nothing, or worked without end.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(folder)}, start_new_session=True,
    )  # fmt: skip
    seen, since = -1.0, time.monotonic()
    try:
        limit_process(process.pid)
        while True:
            try:
                return process.wait(POLL)
            except subprocess.TimeoutExpired:
                work = _work(process.pid)
            if work != seen:
                seen, since = work, time.monotonic()
            if work > WORK or time.monotonic() - since > IDLE:
                raise Hangs(HANGS)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def limit_process(process: int) -> None:
    """Let the system end a compiler, and what it starts, that works without end, also after this process was killed."""
    import resource  # of Unix alone, and so is the kernel

    with contextlib.suppress(OSError):  # it has ended
        most = math.ceil(2 * WORK) + 1
        resource.prlimit(process, resource.RLIMIT_CPU, (most, most))


def _work(session: int) -> float:
    """Seconds of processor time of all processes of a session: a compiler works through others that it starts."""
    ticks = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                told = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
                fields = told.rpartition(")")[2].split()
                if int(fields[3]) == session:
                    ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    """What the compiled code depends on: a home folder may be shared by machines of several kinds."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    told = sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    return repr((platform.machine(), told))
