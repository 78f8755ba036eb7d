"""The compiled kernel: what it draws, where it may come from, and wrong versions of it that the law of a slot must catch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from populations import FEATURES, XV, X, alone, classes, difference, problem, recipe, together
from wellposed.core.random import generator, random_bits, stream_seed
from wellposed.optim.optimizer_metrics import Diagonal
from wellposed.parallel.jobs import Job, Outcome
from wellposed.parallel.population import compiled
from wellposed.parallel.population import grouping as together_module
from wellposed.parallel.population.compiled import Kernel, kernel
from wellposed.parallel.population.native import CHARGE, OP, RULE, Int, P, _Step
from wellposed.training.run import Run

pytestmark = pytest.mark.skipif(kernel() is None, reason="no C compiler, or another BLAS")


def check_sizes(kernel: Kernel) -> None:
    """Refuse a library whose structures are not these."""
    sizes = [kernel.library.wp_sizes(Int(i)) for i in range(4)]
    ours = [OP.itemsize, RULE.itemsize, CHARGE.itemsize, ctypes.sizeof(_Step)]
    assert sizes == ours, f"kernel.c and native.py differ: {sizes}, {ours}"


SOURCE = Path(compiled.__file__).parent
TOLERANCE = 1e-9


def built() -> Kernel:
    found = kernel()
    assert found is not None
    return found


# What it draws


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [5, 1247, 1248, 1249, 2500], [60000, 7, 70001]])
def test_random_bits_are_those_of_the_streams(numbers: list[int], threads: int) -> None:
    """Bit for bit torch's generator: within one state of it, at its edges, and over many; seeds with all their bits."""
    seeds = np.array([stream_seed(3, "dropout", i, "site") for i in range(len(numbers) - 1)] + [2**63 - 1], np.uint64)
    stride = -(-max(numbers) // 4) * 4
    out = torch.zeros(len(numbers), stride, dtype=torch.int16)
    counts = np.array(numbers, np.int64)
    built().library.wp_random_bits(
        Int(len(numbers)), P(seeds.ctypes.data), P(counts.ctypes.data), Int(stride), P(out.data_ptr()), Int(threads)
    )
    for row, seed, count in zip(out, seeds, numbers, strict=True):
        wanted = random_bits(count, torch.Generator().manual_seed(int(seed)))
        assert torch.equal(row[:count], wanted)


def test_streams_are_the_generators() -> None:
    assert torch.equal(
        random_bits(99, generator(3, "dropout", 1, "a")),
        random_bits(99, torch.Generator().manual_seed(stream_seed(3, "dropout", 1, "a"))),
    )


def test_structures_are_those_of_the_source() -> None:
    check_sizes(built())


def test_callers_at_once_get_their_own_bits() -> None:
    """The pool serves one caller at a time; another one does its work itself."""
    count, rows = 40000, 6
    wanted = [random_bits(count, torch.Generator().manual_seed(seed)) for seed in range(rows)]
    wrong: list[int] = []

    def caller(first: int) -> None:
        order = [(first + i) % rows for i in range(rows)]
        seeds, counts = np.array(order, np.uint64), np.full(rows, count)
        for _ in range(20):
            out = torch.zeros(rows, count, dtype=torch.int16)
            built().library.wp_random_bits(
                Int(rows), P(seeds.ctypes.data), P(counts.ctypes.data), Int(count), P(out.data_ptr()), Int(3)
            )
            wrong.extend(seed for row, seed in zip(out, order, strict=True) if not torch.equal(row, wanted[seed]))

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(3)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert not wrong


# Where it comes from


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, in which the kernel is looked for anew."""
    monkeypatch.setattr(compiled.Path, "home", lambda: tmp_path)
    compiled.load_kernel.cache_clear()
    yield tmp_path
    compiled.load_kernel.cache_clear()


def cached(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "wellposed").iterdir())


REAL = next((found for name in compiled.COMPILERS if (found := shutil.which(name))), None)
QUICK = ("-O0", "-fPIC", "-pthread")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a script the only compiler; each run adds a line to ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = shutil.which

    def make(script: str) -> Path:
        path = folder / "cc"
        path.write_text(f"#!/bin/sh\necho $$ >> {folder}/calls\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda name: str(path) if name == "cc" else real(name))
        return folder / "calls"

    monkeypatch.setattr(compiled, "FLAGS", QUICK)
    return make


def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """In a home without a cached library; with equal results."""
    given = problem()
    jobs = [Job(recipe(terms=[{"penalty": "l1", "strength": 0.1}]), seed) for seed in range(2)]
    wanted = [alone(given, job) for job in jobs]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiled.kernel() is None
    for one, other in zip(wanted, together(given, jobs), strict=True):
        assert isinstance(other, Run)
        assert other.engine == "torch population of 2: there is no compiled kernel for cpu: no C compiler"
        assert difference(one, other) < TOLERANCE


WRONG_COMPILERS = {
    "exit 1": "the C compiler fails",
    "exit 0": "the C compiler leaves no library",
    "kill -9 $$": "the C compiler fails",
    'for last; do :; done; for a in "$@"; do case $a in *.o|*.so) echo junk > $a;; esac; done': "cannot be loaded",
    'for a in "$@"; do case $a in *.so) exec REAL -shared -x c /dev/null -o $a;; esac; done': "is no kernel",
}


@pytest.mark.parametrize("script", WRONG_COMPILERS)
def test_a_compiler_that_fails_leaves_nothing(script: str, compiler: Callable[[str], Path], home: Path) -> None:
    compiler(script.replace("REAL", str(REAL)))
    assert WRONG_COMPILERS[script] in str(compiled.load_kernel())
    assert compiled.kernel() is None
    assert cached(home) == []


def alive(process: int) -> bool:
    """Whether it runs still; one that has ended and was not waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize("script", ["sleep 600 & wait", "while :; do :; done"])
def test_a_compiler_that_does_not_end_is_given_up_and_not_asked_again(
    script: str, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(compiled, "IDLE", 0.5)
    monkeypatch.setattr(compiled, "WORK", 0.5)
    calls = compiler(script)
    began = time.monotonic()
    assert compiled.load_kernel() == "the C compiler does not end"
    assert time.monotonic() - began < 300.0
    (first,) = map(int, calls.read_text().split())
    assert not alive(first)
    assert [path.suffix for path in cached(home)] == [".hangs"]
    compiled.load_kernel.cache_clear()  # another process
    assert compiled.load_kernel() == "the C compiler does not end"
    assert len(calls.read_text().split()) == 1
    os.utime(cached(home)[0], (0, 0))
    compiled.load_kernel.cache_clear()  # another day
    compiled.load_kernel()
    assert len(calls.read_text().split()) == 2


def test_a_slow_compiler_is_waited_for(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """On a busy machine it takes long, but it works."""
    monkeypatch.setattr(compiled, "IDLE", 5.0)
    monkeypatch.setattr(compiled, "POLL", 0.01)
    compiler(f'sleep 1; exec {REAL} "$@"')
    assert compiled.kernel() is not None


def test_a_folder_that_others_can_write_to_is_not_used(compiler: Callable[[str], Path], home: Path) -> None:
    """What is loaded is code. The kernel is then built in a folder of this process alone, every time."""
    calls = compiler(f'exec {REAL} "$@"')
    folder = home / ".cache" / "wellposed"
    folder.mkdir(parents=True)
    for count, mode in enumerate((0o777, 0o770, 0o702), 1):
        folder.chmod(mode)
        compiled.load_kernel.cache_clear()
        assert compiled.kernel() is not None
        assert cached(home) == []
        assert len(calls.read_text().split()) == 2 * count
    folder.chmod(0o700)
    compiled.load_kernel.cache_clear()
    assert compiled.kernel() is not None
    assert [path.stat().st_mode & 0o777 for path in cached(home)] == [0o600]


@pytest.mark.parametrize("where", ["file", "nowhere", "error"])
def test_without_a_home_it_is_built_for_this_process(
    where: str, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    compiler(f'exec {REAL} "$@"')
    (home / ".cache").write_text("a file")
    if where == "nowhere":
        monkeypatch.setattr(compiled.Path, "home", lambda: Path())
        monkeypatch.chdir(home)
    if where == "error":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(compiled.Path, "home", homeless)
    assert compiled.kernel() is not None
    assert sorted(os.listdir(home)) == [".cache", "bin"]


def test_without_room_for_files_torch_does_it(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    compiler(f'exec {REAL} "$@"')
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(tempfile, "tempdir", str(home / "nothing"))
        assert compiled.load_kernel() == "the C compiler leaves no library"

    def refused(*_: object) -> int:
        raise PermissionError("vm.memfd_noexec = 2")

    monkeypatch.setattr(os, "memfd_create", refused)
    compiled.load_kernel.cache_clear()
    assert compiled.load_kernel() == "what the C compiler made cannot be loaded"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "as it is": lambda path: None,
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to a header": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "zeros in the middle": lambda path: changed(path, 4096, bytes(8192)),
    "zeros for all": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit": lambda path: changed(path, 5000, bytes([path.read_bytes()[5000] ^ 1])),
    "more at its end": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "another library": lambda path: path.write_bytes(Path(libm()).read_bytes()),
    "others can write": lambda path: path.chmod(0o666),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a dead link": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def changed(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def libm() -> str:
    """A library without our symbols."""
    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libm" in line)


def damaged_in_turn(home: Path) -> None:
    """In a process of its own, which a library that is cut would kill: each damage, and what is found then."""
    compiled.FLAGS = QUICK  # type: ignore[assignment]
    compiled.Path.home = lambda: home  # type: ignore[method-assign,assignment]
    compiled.load_kernel.cache_clear()
    compiled.load_kernel()
    (path,) = cached(home)
    whole = path.read_bytes()
    for name, damage in DAMAGES.items():
        damage(path)
        compiled.load_kernel.cache_clear()
        built = compiled.kernel()
        assert built is not None, name
        check_sizes(built)
        if name == "a folder":  # cannot be replaced by a file, and harms nobody
            assert path.is_dir()
        else:
            assert path.read_bytes() == whole, name
            assert path.stat().st_mode & 0o777 == 0o600, name
        print(name)
    library = whole[: -compiled.DIGEST]
    for cut in range(0, len(library), len(library) // 60):  # by a compiler that says that all is well
        with contextlib.suppress(compiled.Missing):
            compiled._library(library[:cut])


def test_a_damaged_library_is_built_again(tmp_path: Path) -> None:
    code = f"from pathlib import Path; import test_population_kernel as t; t.damaged_in_turn(Path({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(DAMAGES)


def test_a_library_that_is_cut_while_it_is_used_does_no_harm(compiler: Callable[[str], Path], home: Path) -> None:
    compiler(f'exec {REAL} "$@"')
    built = compiled.kernel()
    assert built is not None
    os.truncate(cached(home)[0], 0)
    check_sizes(built)


def test_a_library_of_another_processor_is_not_loaded(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Nor one of another source, compiler or flags; the same one is built once."""
    calls = compiler(f'exec {REAL} "$@"')

    def built() -> int:
        """How many are in the cache when the kernel was looked for, and how often the compiler was asked."""
        compiled.load_kernel.cache_clear()
        assert compiled.kernel() is not None
        assert len(calls.read_text().split()) == 2 * len(cached(home))
        return len(cached(home))

    assert [built(), built()] == [1, 1]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(compiled, "_processor", lambda: "another one")
        assert built() == 2
    monkeypatch.setattr(compiled, "FLAGS", (*QUICK, "-g"))
    assert built() == 3
    compiler(f'exec {REAL}  "$@"')  # of the same name
    assert built() == 4


def test_the_processor_tells_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"old": "processor : 0\nflags\t\t: fpu sse2\n", "new": "processor : 0\nflags\t\t: fpu sse2 avx512f\n"}
    found = set()
    for text in texts.values():
        monkeypatch.setattr(compiled.Path, "read_text", lambda self, text=text, **_: text)
        found.add(compiled._processor())
    assert len(found) == 2


# Its operators, beside ours


PROBE = """
#include "kernel.c"
#define OPERATORS(T, S) \\
    void shrink_##S##_(const Rule *r, const Charge *c, int64_t n, const T *v, T *p) { shrink_##S(r, c, n, v, p); } \\
    void bound_##S##_(const Charge *c, int64_t n, int64_t rows, T *p) { bound_##S(c, n, rows, p); } \\
    void group_##S##_(const Rule *r, const Charge *c, int64_t n, int64_t rows, const T *v, T *p, T *line) { \\
        group_##S(r, c, n, rows, v, p, line); }
OPERATORS(float, f)
OPERATORS(double, d)
"""


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The static functions of the kernel, from outside."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text(PROBE)
    compiler = next(found for name in compiled.COMPILERS if (found := shutil.which(name)))
    command = [
        compiler,
        *compiled.FLAGS,
        "-shared",
        f"-I{SOURCE}",
        str(folder / "probe.c"),
        "-o",
        str(folder / "probe.so"),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "probe.so"))


def stepped(
    operators: ctypes.CDLL, w: torch.Tensor, metric: Diagonal | float, rows: int, **charge: float
) -> torch.Tensor:
    """What the compiled operator of this charge makes of a matrix."""
    kind, at = ("f" if w.dtype == torch.float32 else "d"), w.clone()
    rule, charges, line = np.zeros(1, RULE), np.zeros(1, CHARGE), torch.empty(2 * w.numel(), dtype=w.dtype)
    rule["root2"] = rule["ramp"] = 1.0
    rule["kind"], rule["lr"] = (1, metric.scale) if isinstance(metric, Diagonal) else (3, metric)
    rule["eps"] = metric.eps if isinstance(metric, Diagonal) else 0.0
    for name, value in charge.items():
        charges[name] = value
    second = metric.second if isinstance(metric, Diagonal) else torch.ones_like(w)
    r, c, v, p = (P(x) for x in (rule.ctypes.data, charges.ctypes.data, second.data_ptr(), at.data_ptr()))
    n = Int(w.numel())
    if "bound" in charge:
        getattr(operators, f"bound_{kind}_")(c, n, Int(rows), p)
    elif "group" in charge:
        getattr(operators, f"group_{kind}_")(r, c, n, Int(rows), v, p, P(line.data_ptr()))
    else:
        getattr(operators, f"shrink_{kind}_")(r, c, n, v, p)
    return at


BAD = [None, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_compiled_operators_are_ours(
    operators: ctypes.CDLL, size: float, bad: float | None, dtype: torch.dtype, adaptive: bool
) -> None:
    """Of any size, and of what is not finite, which stays what it is and leaves its group alone."""
    draw = torch.Generator().manual_seed(3)
    w = (size * torch.randn(4, 6, generator=draw, dtype=torch.float64)).to(dtype)
    w[0] = 0.0
    if bad is not None:
        w[2, 3] = bad
    step: float | Diagonal = 0.3 * size
    steps: float | torch.Tensor = step
    if adaptive:
        second = torch.rand(w.shape, generator=draw, dtype=torch.float64).to(dtype) + 0.1
        second[1, 2] = second[2, 4] = second[3, 3] = 0.0
        step = Diagonal(second, step, 1e-3)
        steps = step.steps()
    spared = steps == 0 if isinstance(steps, torch.Tensor) else torch.zeros_like(w, dtype=torch.bool)
    wanted = {"l1": wp.L1(0.7).prox(w, steps), "l2": wp.L2(0.7 / size).prox(w, steps)}
    found = {"l1": stepped(operators, w, step, 4, l1=0.7), "l2": stepped(operators, w, step, 4, l2=0.7 / size)}
    for axis, by in enumerate(("unit", "input")):
        charge = wp.GroupL2(0.3, by=by)
        amount = float(charge.scaled(w))
        moved = charge.prox_sparing(w, steps, spared) if isinstance(steps, torch.Tensor) else charge.prox(w, steps)
        wanted[f"group {by}"] = moved
        found[f"group {by}"] = stepped(operators, w, step, 4, group=amount, group_axis=axis)
        wanted[f"bound {by}"] = wp.MaxNorm(1.5 * size, by=by).project(w)
        found[f"bound {by}"] = stepped(operators, w, step, 4, bound=1.5 * size, bound_axis=axis)
    tolerance = 20 * torch.finfo(dtype).eps
    for name, right in wanted.items():
        gap = f"{name}:\n{found[name]}\n{right}"
        assert torch.equal(torch.isfinite(found[name]), torch.isfinite(right)), gap
        torch.testing.assert_close(found[name], right, rtol=tolerance, atol=tolerance * size, equal_nan=True, msg=gap)
        if bad is not None:
            assert not bool(torch.isfinite(right[2, 3])), gap


# Wrong versions


def compiled_from(folder: Path, changes: list[tuple[str, str]]) -> Kernel:
    """The kernel of a changed source, quickly."""
    body = (SOURCE / "kernel_body.h").read_text()
    for old, new in changes:
        assert old in body, f"the source has no {old!r} any more; write this mutant anew"
        body = body.replace(old, new)
    (folder / "kernel_body.h").write_text(body)
    shutil.copy(SOURCE / "kernel.c", folder / "kernel.c")
    library = folder / "kernel.so"
    compiler = next(found for name in compiled.COMPILERS if (found := shutil.which(name)))
    command = [compiler, "-O0", "-fPIC", "-pthread", "-shared", str(folder / "kernel.c"), "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    loaded.wp_sizes.restype = ctypes.c_int64
    real = built()
    return Kernel(loaded, real.gemm, real.blas_threads)


class Case:
    """A job and the problem that it is of; trained beside one that ends after an epoch and one that shares its seed."""

    def __init__(self, given: Callable[[], wp.Problem], **settings: Any) -> None:
        self.given, self.job = given, Job(recipe(**{"epochs": 3, **settings}), 1)
        self.wanted: Outcome | None = None

    def broken(self, by: Kernel, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Whether the law of a slot does not hold."""
        given = self.given()
        self.wanted = self.wanted or alone(given, self.job)
        noise = {"dropout": 0.5} if self.job.recipe.noise.dropout else {}
        first = Job(recipe(epochs=1, noise=noise, sharpness=self.job.recipe.sharpness), 7)
        last = Job(recipe(epochs=3, noise=noise, sharpness=self.job.recipe.sharpness), 1)
        monkeypatch.setattr(together_module, "kernel", lambda: by)
        found = together(given, [first, self.job, last])[1]
        assert isinstance(found, Run)
        assert found.engine == "compiled population of 3"
        return not difference(self.wanted, found) < TOLERANCE


def unseen() -> wp.Problem:
    """A feature that is always 0: its weights get no gradient."""
    x, xv = X.clone(), XV.clone()
    x[:, 5] = xv[:, 5] = 0.0

    def model() -> nn.Module:
        class Doubles(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 3)).double()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                found: torch.Tensor = self.net(x.double())
                return found

        return Doubles()

    return wp.Problem(model, "cross_entropy", wp.Data(train=(x, classes(X)), valid=(xv, classes(XV))))


SGD = {"name": "sgd", "lr": 0.05}
L1, L2 = {"penalty": "l1", "strength": 0.1}, {"penalty": "l2", "strength": 0.5}
CASES: dict[str, Case] = {
    "adam": Case(problem, optimizer={"name": "adam", "lr": 0.01, "weight_decay": 0.3, "eps": 1e-3}, clip=0.3),
    "decay": Case(problem, terms=[L2]),
    "l1 adam": Case(problem, optimizer={"lr": 0.05}, terms=[L1, {**L2, "how": "prox"}], averaging={"ema": 0.9}),
    "l1 sgd": Case(problem, optimizer={**SGD, "momentum": 0.8}, terms=[L1, {**L2, "how": "prox"}]),
    "sgd": Case(problem, optimizer={**SGD, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}, clip=0.3),
    "nesterov": Case(problem, optimizer={**SGD, "momentum": 0.8, "nesterov": True}),
    "rmsprop": Case(problem, optimizer={"name": "rmsprop", "lr": 0.01, "momentum": 0.5}, terms=[L1]),
    "unseen": Case(unseen, optimizer={"lr": 0.01}, terms=[L1]),
    "unseen groups": Case(unseen, optimizer={"lr": 0.01}, terms=[{"penalty": "group_l2", "strength": 0.1}]),
    "groups": Case(problem, optimizer={"lr": 0.01}, terms=[{"penalty": "group_l2", "strength": 0.1, "by": "input"}]),
    "groups sgd": Case(problem, optimizer={**SGD, "momentum": 0.5}, terms=[{"penalty": "group_l2", "strength": 0.05}]),
    "bound": Case(problem, terms=[{"penalty": "max_norm", "bound": 0.6, "by": "input"}]),
    "batch": Case(lambda: problem("batch"), averaging={"ema": 0.9}),
    "batch average": Case(lambda: problem("batch"), averaging={"ema": 0.9, "warmup": "none", "buffers": "average"}),
    # The decay of the first step leaves 0 of weights without a gradient, and the average remembers what they were.
    "zeros by chance": Case(
        unseen, optimizer={**SGD, "lr": 0.1}, terms=[{**L2, "strength": 10.0}],
        averaging={"ema": 0.9, "warmup": "none", "start": "model"},
    ),
    "outside in": Case(lambda: problem("outside_in"), noise={"dropout": 0.3}),
    "skips": Case(lambda: problem("skips")),
    "twice": Case(lambda: problem("twice_itself")),
    "activations": Case(lambda: problem("activations"), optimizer={"lr": 0.1}, epochs=5),
    "residual": Case(lambda: problem("residual"), noise={"dropout": 0.3}),
    "smooth": Case(problem, noise={"label_smoothing": 0.2, "mixup": 0.5}),
    "weighted": Case(lambda: problem(weighted=True)),
    "binary": Case(lambda: problem("no_norm", "binary_cross_entropy")),
    "squared": Case(lambda: problem("no_norm", "squared_error")),
    "absolute": Case(lambda: problem("no_norm", "absolute_error")),
    "mean of squares": Case(lambda: problem("no_norm", "mse"), optimizer=SGD),
    "huber": Case(lambda: problem("no_norm", "huber")),
    "sharp": Case(lambda: problem("batch"), sharpness={"radius": 0.3}),
    "adaptive": Case(problem, sharpness={"radius": 0.3, "adaptive": True}),
}  # fmt: skip

MUTANTS: dict[str, tuple[str, str, str]] = {
    # the update
    "first moment not corrected": ("adam", "rule->lr / rule->correction1", "rule->lr"),
    "second moment not corrected": ("adam", "root = (REAL)(1 / rule->root2)", "root = 1"),
    "eps inside the root": ("adam", "(FN(root)(v[i]) * root + eps)", "FN(root)(v[i] * root * root + eps * eps)"),
    "decay after the step": (
        "decay",
        "p[i] = w - rate * m[i] / (FN(root)(v[i]) * root + eps);",
        "p[i] = decay * (p[i] - rate * m[i] / (FN(root)(v[i]) * root + eps));",
    ),
    "decay forgotten": ("decay", "REAL w = p[i] * decay, g", "REAL w = p[i], g"),
    "coupled decay before the clip": ("sgd", "grad[i] * clip + coupled * w", "(grad[i] + coupled * w) * clip"),
    "clip after the update": ("adam", "grad[i] * clip + coupled", "grad[i] + coupled"),
    "momentum not reset at the first step": ("sgd", "new = rule->first != 0 ? 1 : kept", "new = kept"),
    "dampening forgotten": ("sgd", "kept = (REAL)(1 - rule->dampening);", "kept = 1;"),
    "nesterov forgotten": ("nesterov", "nesterov ? g + momentum * b : b", "b"),
    "rmsprop without momentum": ("rmsprop", "m[i] = momentum * m[i] + g", "m[i] = g"),
    "memory of another slot": (
        "adam",
        "rule = s->rule + j;\n    int64_t place = s->active[j];",
        "rule = s->rule + j;\n    int64_t place = j;",
    ),
    "average not masked": ("l1 adam", "a[i] = sparse && p[i] == 0 ? 0 : moved;", "a[i] = moved;"),
    "average masked where no term makes zeros": ("zeros by chance", "sparse && p[i] == 0", "p[i] == 0"),
    "average without buffers": ("batch", "FN(mix)(s->buffer_size[b]", "FN(mix)(0"),
    "buffers copied and not averaged": ("batch average", "rule->buffers != 0 ? share : 1", "1"),
    # penalties
    "prox without the metric": ("l1 adam", "v[i] > 0 ? scale / (FN(root)(v[i]) + eps) : 0", "scale"),
    "prox without momentum": ("l1 sgd", "(rule->lr * kept / (1 - rule->momentum)), a", "(rule->lr * kept), a"),
    "prox without the ramp": (
        "l1 adam",
        "(rule->ramp * rule->lr * (rule->kind == ADAM ? rule->root2",
        "(rule->lr * (rule->kind == ADAM ? rule->root2",
    ),
    "prox of rmsprop without momentum": ("rmsprop", "1 / (1 - rule->momentum)));\n    for", "1));\n    for"),
    "squares forgotten": ("l1 adam", "/ (1 + t * l2);", ";"),
    "zero gradients are shrunk": (
        "unseen",
        "v[i] > 0 ? scale / (FN(root)(v[i]) + eps) : 0",
        "scale / (FN(root)(v[i]) + eps)",
    ),
    "groups of the other axis": (
        "groups",
        "groups = c->group_axis == 0 ? rows : columns",
        "groups = c->group_axis != 0 ? rows : columns",
    ),
    "groups without the ramp": ("groups", "c->group * rule->ramp * rule->lr", "c->group * rule->lr"),
    "groups stop early": ("groups", "k < 64", "k < 1"),
    "groups that shrink what has had no gradient": (
        "unseen groups",
        "size[i] = second[i * step] > 0 ?",
        "size[i] = 1 ?",
    ),
    "groups without momentum": (
        "groups sgd",
        "c->group * rule->lr * kept / (1 - rule->momentum)",
        "c->group * rule->lr * kept",
    ),
    "bound on the other axis": ("bound", "c->bound_axis == 0", "c->bound_axis != 0"),
    "bound on squares": (
        "bound",
        "double norm = sqrt(square)",
        "double norm = square",
    ),
    # gradients
    "bias gradient not zeroed": ("adam", "memset(b, 0, n * sizeof(REAL));", ""),
    "norm gradient not zeroed": ("adam", "if (dgamma) memset(dgamma, 0, n * sizeof(REAL));", ""),
    "sums of a batch norm not zeroed": ("batch", "memset(sum, 0, 2 * n * sizeof(REAL));", ""),
    "batch-norm variance uncorrected": ("batch", "square[i] / (rows - 1)", "square[i] / rows"),
    "batch-norm momentum turned": (
        "batch",
        "mean[i] = (1 - m) * mean[i] + m * shift[i]",
        "mean[i] = m * mean[i] + (1 - m) * shift[i]",
    ),
    "batch-norm gradient without its mean": ("batch", "(g[r * n + i] - sum[i] - keep", "(g[r * n + i] - keep"),
    "layer-norm gradient without its projection": ("residual", "- k[i] * along", ""),
    "layer-norm gradient without its mean": ("residual", "(d[i] - mean - k[i]", "(d[i] - k[i]"),
    "eps of a layer norm forgotten": ("outside in", "(square / n + (REAL)op->eps)", "(square / n)"),
    "mask of a neighbour": (
        "residual",
        "s->bits[j * s->sites + op->site]",
        "s->bits[(j + s->count - 1) % s->count * s->sites + op->site]",
    ),
    "no mask backward": (
        "residual",
        "s->threshold[j * s->sites + op->site],\n                         (REAL)s->scale[j * s->sites + op->site], d);",
        "-40000, 1, d);",
    ),
    "mask not rescaled": ("residual", "h[i] * scale : 0", "h[i] : 0"),
    "skip not added to": ("skips", "if (to == ASSIGN)", "if (1)"),
    "second branch forgotten": ("skips", "if (op->to2 != SKIP &&", "if (0 &&"),
    "sum with itself once": ("twice", "out[i] = in[i] + other[i]", "out[i] = in[i]"),
    "silu's slope": ("activations", "p * (1 + y[i] * (1 - p))", "p * (1 + y[i] * p)"),
    "gelu's slope": ("activations", "c + y[i] * (REAL)0.39894228040143267794", "c + (REAL)0.39894228040143267794"),
    "tanh's slope": ("activations", "1 - t * t", "1 - t"),
    "sigmoid's slope": ("activations", "d[i] *= p * (1 - p)", "d[i] *= p"),
    "leaky slope": ("activations", "d[i] *= y[i] > 0 ? 1 : slope;", "d[i] *= y[i] > 0 ? 1 : 0;"),
    "elu's slope": ("activations", "1 : slope * FN(exp)(y[i])", "1 : slope"),
    "relu lets all through": (
        "activations",
        "case RELU: for (i = 0; i < n; i++) d[i] = y[i] > 0 ? d[i] : 0; break;",
        "",
    ),
    # losses
    "smoothing not in the gradient": ("smooth", "(d[q] / sum - smooth / c)", "(d[q] / sum)"),
    "mixed with the other share": (
        "smooth",
        "d[y2] -= share * (1 - smooth) * (1 - mix)",
        "d[y2] -= share * (1 - smooth) * mix",
    ),
    "weights not in the gradient": (
        "weighted",
        "share = (REAL)((weight ? weight[i] : 1) / size)",
        "share = (REAL)(1 / size)",
    ),
    "weights not in the cost": ("weighted", "total += value * (weight ? weight[i] : 1)", "total += value"),
    "weights do not sum": ("weighted", "for (int64_t i = 0; i < s->batch; i++) size += weight[i];", "size = s->batch;"),
    "half of the square": ("squared", "slope = 2 * r;", "slope = r;"),
    "a mean over outputs as a sum": ("mean of squares", "size *= c;", ";"),
    "huber as squares": ("huber", "slope = r > 1 ? 1 : r < -1 ? -1 : r;", "slope = r;"),
    "absolute as 0 and 1": ("absolute", "slope = r > 0 ? 1 : r < 0 ? -1 : 0;", "slope = r > 0 ? 1 : 0;"),
    "binary with the label turned": ("binary", "FN(sigmoid)(a[q]) - t[q]", "FN(sigmoid)(a[q]) - (1 - t[q])"),
    "binary cost without its logarithm": ("binary", "+ (REAL)log1p((double)FN(exp)(-e))", ""),
    # sharpness
    "the second pass moves running means": (
        "sharp",
        "FN(forward)(s, j, w, 0);\n        FN(loss)",
        "FN(forward)(s, j, w, 1);\n        FN(loss)",
    ),
    "no ascent": ("sharp", "s->source[j] = 2;", ""),
    "the ascent stays": (
        "sharp",
        "scale > 0 && s->moves[l] ? p[i] +",
        "scale > 0 && s->moves[l] ? ((REAL *)p)[i] = p[i] +",
    ),
    "as far for every weight": ("adaptive", "scale * a * a * g[i]", "scale * g[i]"),
    "not as far as the radius": ("adaptive", "square += d * d;", "square += 2 * d * d;"),
}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return compiled_from(tmp_path_factory.mktemp("kernel"), [])


@pytest.mark.parametrize("name", CASES)
def test_the_law_holds_without_a_change(name: str, unchanged: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the mutants are built: with another compiler's flags it is the same law."""
    assert not CASES[name].broken(unchanged, monkeypatch)


def test_every_case_has_a_mutant() -> None:
    assert {case for case, _, _ in MUTANTS.values()} == set(CASES)


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_kernels_are_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, old, new = MUTANTS[name]
    wrong = compiled_from(tmp_path, [(old, new)])
    assert CASES[case].broken(wrong, monkeypatch)


def test_a_compiler_is_bounded_by_the_system_too() -> None:
    """A process that was killed cannot end the compiler that it started."""
    import resource

    with subprocess.Popen(["sleep", "60"]) as process:
        compiled.limit_process(process.pid)
        assert resource.prlimit(process.pid, resource.RLIMIT_CPU)[0] == 2 * compiled.WORK + 1
        process.kill()
    compiled.limit_process(process.pid)  # it has ended: nothing to be said
