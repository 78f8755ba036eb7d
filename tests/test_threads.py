"""wellposed in several Python threads at once gives what it gives in one after another."""

from __future__ import annotations

import ast
import contextlib
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.core import shared
from wellposed.parallel.population.tracing import trace

SOURCE = Path(wp.__file__).parent
THREADS, REPEATS = 8, 3
CHANGES = frozenset(
    {
        "catch_warnings", "simplefilter", "filterwarnings", "set_num_threads", "set_num_interop_threads", "set_default_dtype",
        "set_default_device", "set_rng_state", "set_rng_state_all", "manual_seed_all", "rc_context", "rcdefaults",
        "use_deterministic_algorithms", "set_printoptions", "seterr", "set_float32_matmul_precision", "set_verbosity",
    }
)  # fmt: skip
"""Calls that change what all threads of a process share."""
INSIDE = frozenset({"exclusively", "warnings_apart", "threads_of", "random_states_kept"})
ALLOWED = {("parallel/transfer.py", "set_num_threads"), ("core/random.py", "manual_seed_all")}
"""A worker process sets its own threads, before it does anything else; `reseed` is for use inside `random_states_kept`."""


@pytest.fixture(autouse=True)
def _hurried() -> Iterator[None]:
    """Threads take turns far more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def make(width: int = 16) -> nn.Module:
    """A network whose layers are made one after another, with time for others in between."""
    layers: list[nn.Module] = []
    for size in (6, width, width):
        layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(0.3), nn.AlphaDropout(0.1)]
        time.sleep(0.001)
    return nn.Sequential(*layers, nn.Linear(width, 2))


def problem() -> wp.Problem:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=source)
    return wp.Problem(make, "cross_entropy", wp.Data(train=(x, (x[:, 0] > 0).long())))


RECIPES = (
    wp.Recipe(epochs=3, batch_size=32),
    wp.Recipe(epochs=3, batch_size=32, optimizer={"lr": 1e-2}, averaging={"ema": 0.9}),
    wp.Recipe(epochs=3, batch_size=32, noise={"places": [{"kind": "weight_noise", "std": 0.01, "on": "0"}]}),
)


def content(run: wp.Run) -> list[bytes]:
    """The weights of a run, and its curves."""
    return [tensor.numpy().tobytes() for tensor in run.model.state_dict().values()] + [
        np.array(run.history[name]).tobytes() for name in ("train_loss", "valid_loss", "cost", "grad_norm")
    ]


def fitted(seed: int) -> list[list[bytes]]:
    return [content(wp.fit(problem(), RECIPES[seed % 3], seed=seed))]


def fitted_many(seed: int) -> list[list[bytes]]:
    return [content(run) for run in wp.fit_many(problem(), RECIPES, seeds=[seed], engine="inprocess")]


def looked_at(seed: int) -> list[str]:
    found = wp.diagnose(wp.fit(problem(), RECIPES[0], seed=seed))
    return [repr(finding.to_dict()) for finding in found]


def at_once(work: Callable[[int], object]) -> list[object]:
    """What the work gives in as many threads, begun together."""
    found: list[object] = [None] * THREADS
    together = threading.Barrier(THREADS)

    def one(number: int) -> None:
        together.wait()
        try:
            found[number] = work(number)
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("work", [fitted, fitted_many, looked_at])
def test_threads_at_once_give_what_each_gives_alone(work: Callable[[int], object]) -> None:
    alone = [work(number) for number in range(THREADS)]
    before = torch.get_rng_state(), random.getstate(), torch.get_num_threads(), list(warnings.filters)
    for _ in range(REPEATS):
        assert at_once(work) == alone
    torch.testing.assert_close(torch.get_rng_state(), before[0], rtol=0, atol=0)
    assert (random.getstate(), torch.get_num_threads(), list(warnings.filters)) == before[1:]


def test_threads_that_do_not_take_turns_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_turn", contextlib.nullcontext())
    alone = [fitted(number) for number in range(THREADS)]
    assert any(at_once(fitted) != alone for _ in range(10))


def test_a_model_that_is_traced_leaves_the_calls_of_others_alone() -> None:
    """While torch traces a model it replaces the call of every module, in every thread."""
    tracing, called = threading.Event(), threading.Event()
    found: list[object] = []

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tracing.set()
            called.wait(300)
            return x + 1

    def call() -> None:
        tracing.wait(300)
        try:
            found.append(nn.Linear(3, 2)(torch.zeros(4, 3)).shape)
        except Exception as error:
            found.append(error)
        called.set()

    other = threading.Thread(target=call)
    other.start()
    trace(nn.Sequential(nn.Linear(3, 3), Slow()), torch.zeros(2, 3))
    other.join()
    assert found == [(4, 2)]


def test_a_new_thread_has_as_many_threads_of_torch_as_the_process_had() -> None:
    """It takes them over from whoever has set them last, who may be about to set them back."""
    inside, go_on, found = threading.Event(), threading.Event(), []

    def hold() -> None:
        with shared.threads_of(3):
            inside.set()
            go_on.wait()

    def look() -> None:
        with shared.exclusively():
            found.append(torch.get_num_threads())

    wanted = torch.get_num_threads()
    holding, looking = threading.Thread(target=hold), threading.Thread(target=look)
    holding.start()
    inside.wait()
    looking.start()
    go_on.set()
    holding.join()
    looking.join()
    assert found == [wanted]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with shared.exclusively():
            inside.set()
            go_on.wait()

    holding = threading.Thread(target=hold)
    holding.start()
    inside.wait()
    child = os.fork()
    if not child:
        with shared.exclusively():
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go_on.set()
    holding.join()


def unguarded(tree: ast.AST, inside: bool = False) -> Iterator[str]:
    """The calls that change what is shared, outside of every block in which a thread is alone."""
    if isinstance(tree, ast.With):
        names = [name_of(item.context_expr) for item in tree.items]
        for place, item in enumerate(tree.items):
            yield from unguarded(item.context_expr, inside or any(name in INSIDE for name in names[:place]))
        for statement in tree.body:
            yield from unguarded(statement, inside or bool(INSIDE & set(names)))
        return
    if isinstance(tree, ast.Call) and name_of(tree) in CHANGES and not inside:
        yield name_of(tree)
    for child in ast.iter_child_nodes(tree):
        yield from unguarded(child, inside)


def name_of(call: ast.expr) -> str:
    """The last part of what is called."""
    target = call.func if isinstance(call, ast.Call) else call
    return target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_threads_share_is_changed_by_one_at_a_time(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    found = {(name, call) for call in unguarded(ast.parse(path.read_text()))}
    assert found <= ALLOWED


@pytest.mark.parametrize(
    "text",
    ["torch.set_num_threads(2)", "with warnings.catch_warnings():\n pass", "with f():\n x.rcdefaults()",
     "with warnings.catch_warnings(), alone():\n pass"],
)  # fmt: skip
def test_what_is_shared_and_changed_beside_others_is_noticed(text: str) -> None:
    assert list(unguarded(ast.parse(text)))
