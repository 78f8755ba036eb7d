"""The ground floor: streams that are the same everywhere, whole files, one sink, classes found, errors that help."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import pickle
import random
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import UserDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wellposed.core import errors
from wellposed.core.batches import bytes_in, count_numbers, examples_in, examples_of, tensors_in
from wellposed.core.errors import FormatError, InputError, MissingExtra, WellposedError, did_you_mean, listed, require
from wellposed.core.files import jsonable, read_json, write_atomically, write_json
from wellposed.core.preserve import buffers_kept, modes_kept, random_states_kept
from wellposed.core.progress import emit, reporting_to
from wellposed.core.random import (
    generator,
    numpy_generator,
    random_bits,
    reseed,
    seeded,
    stream_seed,
)
from wellposed.core.registry import classes_in, lookup, snake_case

# Streams


def test_streams_are_what_they_were_when_this_was_written() -> None:
    """If these change, every recorded seed means another run: raise the schema of what is saved."""
    assert stream_seed(0) == 4_246_866_556_266_386_882
    assert stream_seed(0, "order", 3) == 587_594_600_949_321_619
    assert stream_seed(7, "dropout", 0, "layers.2") == 8_457_706_701_228_273_845


def test_streams_are_equal_in_another_process() -> None:
    code = "from wellposed.core.random import stream_seed, generator; import torch;"
    code += "print(stream_seed(7, 'dropout', 3, 'a.b'), torch.randint(0, 2**31, (3,), generator=generator(1, 'x')).tolist())"
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    numbers = torch.randint(0, 2**31, (3,), generator=generator(1, "x")).tolist()
    assert found.stdout.strip() == f"{stream_seed(7, 'dropout', 3, 'a.b')} {numbers}"


def test_different_keys_give_different_streams() -> None:
    keys: list[tuple[Any, ...]] = [
        (),
        ("a",),
        ("a", 1),
        ("a", "1"),
        ("a1",),
        ("a", 1, 1),
        (1, "a"),
        ("a", 11),
        ("", "a"),
    ]
    seeds = {stream_seed(seed, *key) for seed in (0, 1, 10**12, -1) for key in keys}
    assert len(seeds) == 4 * len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(True) == stream_seed(1) == stream_seed(np.int64(1))  # type: ignore[arg-type]


def test_generators_are_independent_of_each_other() -> None:
    a, b = (torch.randn(20_000, generator=generator(0, "x", step)) for step in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.03
    assert torch.equal(a, torch.randn(20_000, generator=generator(0, "x", 0)))
    assert numpy_generator(0, "x").integers(1 << 30) == numpy_generator(0, "x").integers(1 << 30)
    assert numpy_generator(0, "x").integers(1 << 30) != numpy_generator(1, "x").integers(1 << 30)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 1001])
def test_random_bits_have_the_asked_length(count: int) -> None:
    bits = random_bits(count, generator(0, "bits"))
    assert bits.shape == (count,)
    assert bits.dtype == torch.int16


def test_random_bits_are_uniform() -> None:
    bits = random_bits(400_000, generator(0, "bits")).double()
    assert abs(float(bits.mean()) + 0.5) < 5 * 65536 / math.sqrt(12 * 400_000)
    assert float(bits.std()) == pytest.approx(65536 / math.sqrt(12), rel=0.01)
    assert float(bits.min()) < -32_760
    assert float(bits.max()) > 32_760
    for place in range(16):
        share = float(((bits.long() >> place) & 1).double().mean())
        assert abs(share - 0.5) < 0.005


def global_state() -> tuple[list[int], Any, list[int]]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def draw_all() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002


def test_random_states_kept_gives_all_three_states_back_also_after_an_error() -> None:
    before = global_state()
    with random_states_kept():
        draw_all()
    assert global_state() == before
    with pytest.raises(ZeroDivisionError), random_states_kept():
        draw_all()[0] / 0
    assert global_state() == before


def test_seeded_is_a_function_of_its_stream() -> None:
    before = global_state()
    drawn = []
    for keys in ((0, "model"), (0, "model"), (1, "model"), (0, "data")):
        with seeded(*keys):
            drawn.append(draw_all())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3
    assert global_state() == before
    with random_states_kept():
        reseed(0, "model")
        assert draw_all() == drawn[0]


# Files


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert write_atomically(path, "old ä") == path
    assert path.read_text(encoding="utf-8") == "old ä"
    write_atomically(str(path), b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("where", ["fsync", "replace", "fdopen", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "study.json", "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, where, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["study.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "study.json", "old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["study.json"]


def test_the_new_file_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *a, **b: (calls.append("replace"), replace(*a, **b))[1])
    write_atomically(tmp_path / "x", "y")
    assert calls == ["fsync", "replace", "fsync"]  # of the file, and of its name in the folder


def test_json(tmp_path: Path) -> None:
    value = {
        "schema": 1,
        "numbers": [1, 2.5, math.nan, math.inf, np.float32(0.5), np.int64(3), np.arange(2), torch.tensor([1.0])],
        "truth": [True, None, np.bool_(True)],
        "names": {3: Path("a/b"), "ä": ("x",)},
    }
    path = write_json(tmp_path / "value.json", value)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "NaN" not in text
    assert read_json(path, 1, "study") == {
        "schema": 1,
        "numbers": [1, 2.5, None, None, 0.5, 3, [0, 1], [1.0]],
        "truth": [True, None, True],
        "names": {"3": str(Path("a/b")), "ä": ["x"]},
    }
    assert jsonable(-math.inf) is None


def test_saved_files_are_refused_clearly(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    with pytest.raises(FormatError, match="There is no study at"):
        read_json(path, 1, "study")
    for content, message in (
        ("{", "is not a readable study"),
        ("[1]", "is not a study: it has no 'schema'"),
        ("{}", "is not a study: it has no 'schema'"),
        (json.dumps({"schema": 2}), "schema 2; this wellposed reads schema 1. Update wellposed"),
        (json.dumps({"schema": 0}), "schema 0; this wellposed reads schema 1 only"),
        (json.dumps({"schema": "1"}), "schema '1'; this wellposed reads schema 1 only"),
    ):
        path.write_text(content)
        with pytest.raises(FormatError, match=message):
            read_json(path, 1, "study")
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(FormatError, match="is not a readable study"):
        read_json(path, 1, "study")


# Progress


def test_the_sink_hears_everything_inside_its_block_only(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    inner: list[str] = []
    emit("before")
    with reporting_to(lambda event, fields: heard.append((event, fields))):
        emit("epoch", number=3, loss=0.5)
        with reporting_to(lambda event, fields: inner.append(event)):
            emit("nested")
        emit("epoch", number=4)
    with pytest.raises(RuntimeError, match="inside"), reporting_to(lambda event, fields: heard.append((event, fields))):
        raise RuntimeError("inside")
    emit("after")
    assert heard == [("epoch", {"number": 3, "loss": 0.5}), ("epoch", {"number": 4})]
    assert inner == ["nested"]
    assert capfd.readouterr() == ("", "")


# Registry


def test_snake_case() -> None:
    names = {"GroupL2": "group_l2", "MaxNorm": "max_norm", "L1": "l1", "ElasticNet": "elastic_net", "L2": "l2"}
    assert {name: snake_case(name) for name in names} == names


def test_classes_are_found_where_they_are_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Base(ABC):
        @abstractmethod
        def value(self) -> int: ...

    folder = tmp_path / "rooms_found"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text("Base = None\n")
    (folder / "one.py").write_text(
        "from rooms_found.base import Base\n"
        "class Right(Base):\n    def value(self): return 1\n"
        "class Named(Base):\n    name = 'special'\n    def value(self): return 2\n"
        "class StillAbstract(Base): pass\n"
        "class _Private(Base):\n    def value(self): return 3\n"
        "class Stranger: pass\n"
    )
    (folder / "two.py").write_text("from rooms_found.one import Right\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    importlib.import_module("rooms_found.base").Base = Base  # type: ignore[attr-defined]
    found = classes_in("rooms_found", Base)
    assert list(found) == ["right", "special"]
    for name in [name for name in sys.modules if name.startswith("rooms_found")]:
        monkeypatch.delitem(sys.modules, name)


def test_lookup() -> None:
    assert lookup("metric", "accuracy", {"accuracy": 1}) == 1
    with pytest.raises(
        InputError, match=r"There is no metric 'acuracy'. Did you mean 'accuracy'\? Known: accuracy, f1."
    ):
        lookup("metric", "acuracy", {"accuracy": 1, "f1": 2})


# Errors


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    drawn = {line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line}
    real = {
        name
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, WellposedError) and cls is not WellposedError
    }
    assert drawn == real
    for line in (errors.__doc__ or "").splitlines():
        if "(also " in line:
            name, builtin = line.split("── ")[1].split()[0], line.split("(also ")[1].split(")")[0]
            assert issubclass(getattr(errors, name), __builtins__[builtin])  # type: ignore[index]
        if line.startswith("│   "):
            assert issubclass(getattr(errors, line.split("── ")[1].split()[0]), InputError)


def test_every_error_passes_from_a_worker_to_its_parent() -> None:
    from wellposed.parallel.jobs import NotBegun

    def below(cls: type[WellposedError]) -> set[type[WellposedError]]:
        return {cls}.union(*map(below, cls.__subclasses__()))

    ours = {cls for cls in below(WellposedError) if cls.__module__.startswith("wellposed.")}
    assert NotBegun in ours
    for error in (NotBegun(), *(cls("why") for cls in ours)):
        sent = pickle.loads(pickle.dumps(error))
        assert (type(sent), str(sent)) == (type(error), str(error))


def test_suggestions_and_lists() -> None:
    assert did_you_mean("adamx", ["adam", "sgd"]) == " Did you mean 'adam'?"
    assert did_you_mean("zzz", ["adam", "sgd"]) == ""
    assert did_you_mean("x", []) == ""
    assert listed([1, 2, 3]) == "1, 2, 3"
    assert listed(range(10), 3) == "0, 1, 2 and 7 more"
    assert listed([]) == ""


def test_a_missing_extra_is_one_sentence_with_the_command() -> None:
    assert require("json", "x") is json
    with pytest.raises(
        MissingExtra, match=r"needs 'not_there', which is not installed. Run: pip install 'wellposed\[y\]'"
    ):
        require("not_there.inside", "y")
    assert issubclass(MissingExtra, ImportError)


def test_a_fault_inside_an_extra_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import not_there_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there_either") as caught:
        require("broken_extra", "x")
    assert not isinstance(caught.value, MissingExtra)


def test_a_training_error_keeps_its_run() -> None:
    error = errors.TrainingError("diverged", run=3)
    assert error.run == 3
    assert isinstance(error, RuntimeError)
    assert errors.TrainingError("diverged").run is None


def test_batches_of_any_shape_are_walked() -> None:
    @dataclass
    class Pair:
        x: Tensor
        name: str

    class Tokens(UserDict[str, Tensor]):
        """A mapping that is no dict, as a tokenizer's batch."""

    batch = (torch.ones(3, 2), {"a": [torch.zeros(3)], "b": None}, Pair(torch.ones(3), "p"), Tokens(t=torch.ones(2)))
    assert count_numbers(batch) == 6 + 3 + 3 + 2
    assert bytes_in(batch) == 4 * count_numbers(batch)
    assert [tuple(found.shape) for found in tensors_in(batch)] == [(3, 2), (3,), (3,), (2,)]
    assert examples_in(batch) == 3
    assert examples_in("nothing") == 0
    x, inner, pair, tokens = examples_of(batch, torch.tensor([0, 2]), 3)
    assert x.shape == (2, 2)
    assert inner["a"][0].shape == (2,)
    assert inner["b"] is None
    assert (pair.x.shape, pair.name) == ((2,), "p")
    assert type(tokens) is dict
    assert len(tokens["t"]) == 2  # it had two rows, not three: left whole
    assert examples_of(batch, slice(0, 1), 3)[0].shape == (1, 2)


def test_buffers_and_modes_come_back_as_the_same_tensors() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model.register_buffer("wide", torch.ones(1).expand(4))  # cannot be written to
    model.register_buffer("none", None)
    model[1].eval()
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    with suppress(ZeroDivisionError), modes_kept(model, training=True), buffers_kept(model):
        assert model[1].training
        model(torch.randn(5, 2))
        model[0].running_var = torch.zeros(2)
        _ = 1 / 0
    assert [module.training for module in model.modules()] == [True, True, False]
    for name, buffer in model.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])
