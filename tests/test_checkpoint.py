"""A saved model predicts as the trained one, holds no pickle, and a file that is not what it should be is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import DataError, FormatError, InputError
from wellposed.data.tables import prepare_table
from wellposed.training.checkpoint import DESCRIPTION, SCHEMA, WEIGHTS, load, save_run
from wellposed.training.ready_problems import image_problem, table_problem

SHORT = wp.Recipe(epochs=3, batch_size=16, optimizer={"name": "adam", "lr": 0.01})


def fit(problem: wp.Problem, recipe: wp.Recipe = SHORT) -> wp.Run:
    return wp.fit(problem, recipe, device="cpu")


def frame(target: str = "kind") -> Any:
    pandas = pytest.importorskip("pandas")
    draw = np.random.default_rng(0)
    number = draw.normal(size=80)
    town = draw.choice(["Rome", "Oslo", "Bern"], 80)
    kind = np.where(number > 0, "high", "low")
    price = 1000 + 50 * number + 10 * (town == "Rome") + draw.normal(size=80)
    columns = {"number": number, "town": town, "day": pandas.date_range("2020-01-01", periods=80)}
    return pandas.DataFrame({**columns, target: kind if target == "kind" else price})


@pytest.fixture(scope="module")
def table_run() -> wp.Run:
    return fit(table_problem(prepare_table(frame(), "kind")), SHORT.replace(model={"width": 16, "depth": 1}))


@pytest.fixture
def saved(table_run: wp.Run, tmp_path: Path) -> Path:
    return save_run(table_run, tmp_path / "model")


# Round trips


def test_a_table_of_classes(table_run: wp.Run, saved: Path) -> None:
    valid = table_run.problem.prepared.valid
    encoder, found = table_run.problem.prepared.encoder, load(saved)
    assert encoder is not None
    assert not found.model.training
    rows = frame().drop(columns="kind")
    rows.loc[3, "town"] = "Nowhere"  # never seen
    rows.loc[4, "number"] = np.nan
    with torch.no_grad():
        wanted = table_run.model(torch.from_numpy(encoder.transform(rows)))
    assert torch.equal(found.outputs(rows), wanted)
    predicted = found.predict(rows)
    assert list(predicted) == ["prediction", "p_high", "p_low"]
    assert set(predicted["prediction"]) <= {"high", "low"}
    np.testing.assert_array_equal(predicted["p_high"], wanted.softmax(1)[:, 0].double().numpy())
    np.testing.assert_allclose(predicted["p_high"] + predicted["p_low"], 1.0, rtol=1e-6)
    assert (predicted["prediction"] == np.where(predicted["p_high"] > predicted["p_low"], "high", "low")).all()
    assert len(valid) == 16


def test_a_table_of_numbers_predicts_in_the_targets_units(tmp_path: Path) -> None:
    run = fit(table_problem(prepare_table(frame("price"), "price")), SHORT.replace(epochs=40))
    found = load(save_run(run, tmp_path))
    rows = frame("price")
    predicted = found.predict(rows)
    assert list(predicted) == ["prediction"]
    assert predicted["prediction"].shape == (80,)
    assert np.corrcoef(predicted["prediction"], rows["price"])[0, 1] > 0.8
    assert abs(predicted["prediction"].mean() - rows["price"].mean()) < 25


def test_images_of_bytes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", X_train=images, y_train=np.arange(40) % 2)
    run = fit(image_problem(tmp_path / "set.npz"), SHORT.replace(model={"width": 4, "depth": 2}))
    found = load(save_run(run, tmp_path / "model"))
    x, _ = run.problem.prepared.valid.batch(torch.arange(8))
    with torch.no_grad():
        assert torch.equal(found.outputs(x), run.model(x))
    assert torch.equal(found.outputs(x.numpy()), found.outputs(x))
    assert list(found.predict(x)) == ["prediction", "p_0", "p_1"]
    assert torch.count_nonzero(found.model.mean) == 1  # the pixels' statistics came along


class Tied(nn.Module):
    """Two names for one tensor, and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, width)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor, shift: float) -> Tensor:
        out: Tensor = self.head(self.embed(x).mean(1)) * self.scale + shift
        return out


def custom() -> wp.Problem:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randint(6, (40, 4), generator=draw), torch.randint(6, (40,), generator=draw)
    return wp.Problem(Tied, "cross_entropy", (x, y), forward=lambda model, x: model(x, 0.5))


def test_a_problem_of_ones_own_with_tied_weights_and_its_own_forward(tmp_path: Path) -> None:
    run = fit(custom(), SHORT.replace(model={"width": 5}))
    save_run(run, tmp_path)
    assert {"embed.weight", "head.weight", "scale"} == set(load_file(tmp_path / WEIGHTS))
    found = load(tmp_path, custom())
    x, _ = run.problem.prepared.valid.batch(torch.arange(8))
    assert found.model.head.weight is found.model.embed.weight
    assert torch.equal(found.outputs(x), run.outputs(run.problem.prepared.valid))
    with pytest.raises(InputError, match="give it again as FILE"):
        load(tmp_path)


def test_inputs_in_parts(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.head(a + b)
            return out

    parts = {"a": torch.randn(20, 3), "b": torch.randn(20, 3)}
    problem = wp.Problem(Sum, "cross_entropy", (parts, torch.arange(20) % 2))
    run = fit(problem)
    found = load(save_run(run, tmp_path), problem)
    with torch.no_grad():
        wanted = run.model(**parts)
    assert torch.equal(found.outputs(parts), wanted)
    assert torch.equal(found.outputs((parts["a"], parts["b"])), wanted)


def test_nothing_is_predicted_for_no_rows(saved: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        load(saved).predict(frame().iloc[:0])


def test_what_is_written_is_safetensors_and_json(table_run: wp.Run, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {WEIGHTS, DESCRIPTION}
    description = json.loads((saved / DESCRIPTION).read_text())
    assert description["schema"] == SCHEMA
    assert description["architecture"] == "mlp"
    assert wp.Recipe.from_toml(description["recipe"]) == table_run.recipe
    for path in saved.iterdir():
        with pytest.raises((pickle.UnpicklingError, EOFError, KeyError, IndexError, UnicodeDecodeError, ValueError)):
            pickle.loads(path.read_bytes())
    assert save_run(table_run, saved) == saved  # over itself


# What is not as it should be


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_pickle_in_its_place_is_never_run(name: str, saved: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    (saved / name).write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(FormatError):
        load(saved)
    torch.save({"w": Evil(trap)}, saved / name)
    with pytest.raises(FormatError):
        load(saved)
    assert not trap.exists()


def test_truncated_and_scrambled_files(saved: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        whole = (saved / name).read_bytes()
        for cut in (0, 1, 7, 8, 9, len(whole) // 3, len(whole) - 3):
            (saved / name).write_bytes(whole[:cut])
            with pytest.raises(FormatError):
                load(saved)
        for garbage in (
            b"\x00" * 64,
            b"\xff" * 64,
            b"{}",
            b"[]",
            b"null",
            b"[" * 10**6,
            b"9" * 64,
            (2**62).to_bytes(8, "little"),
        ):
            (saved / name).write_bytes(garbage)
            with pytest.raises(FormatError):
                load(saved)
        (saved / name).unlink()
        with pytest.raises(FormatError, match=r"There (is|are) no"):
            load(saved)
        (saved / name).mkdir()
        with pytest.raises(FormatError):
            load(saved)
        (saved / name).rmdir()
        (saved / name).write_bytes(whole)
    load(saved)


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({"schema": SCHEMA + 1}, "Update wellposed to read it"),
    "older": ({"schema": 0}, f"reads schema {SCHEMA} only"),
    "schema of another kind": ({"schema": "1"}, f"reads schema {SCHEMA} only"),
    "no schema": ({"schema": None}, f"reads schema {SCHEMA} only"),
    "unknown architecture": ({"architecture": "transformer"}, "'transformer'; this wellposed builds mlp, convnet"),
    "architecture of another kind": ({"architecture": ["mlp"]}, r"damaged: architecture is \['mlp'\]"),
    "no settings": ({"settings": None}, "damaged"),
    "unknown setting": ({"settings": {"inputs": 3, "outputs": 2, "nonsense": 1}}, "do not build a mlp.*nonsense"),
    "impossible setting": ({"settings": {"inputs": -3, "outputs": 2}}, "do not build a mlp"),
    "setting of another kind": ({"settings": {"inputs": "3", "outputs": 2}}, "do not build a mlp"),
    "another size": ({"settings": {"inputs": 3, "outputs": 2, "width": 5, "depth": 1}}, "do not fit the model.*mismatch"),
    "encoder of another schema": ({"encoder": {"schema": 99, "columns": []}}, "99"),
    "damaged encoder": ({"encoder": {"schema": 1, "columns": [{"kind": "number"}]}}, "damaged"),
    "encoder of another kind": ({"encoder": [1]}, "damaged"),
    "damaged target": ({"target": {"schema": 1}}, "damaged"),
    "target of another kind": ({"target": "yes"}, "damaged"),
    "unknown task": ({"task": "clustering"}, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_descriptions_that_cannot_be_read(name: str, saved: Path) -> None:
    change, sentence = DAMAGE[name]
    description = json.loads((saved / DESCRIPTION).read_text())
    (saved / DESCRIPTION).write_text(json.dumps({**description, **change}))
    with pytest.raises(FormatError, match=sentence) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    name = next(iter(weights))
    for changed in (
        {k: v for k, v in weights.items() if k != name},
        {**weights, "more": torch.ones(1)},
        {**weights, name: torch.ones(2, 2)},
    ):
        save_file(changed, saved / WEIGHTS)
        with pytest.raises(FormatError, match="do not fit the model"):
            load(saved)


@pytest.mark.parametrize("part", ["architecture", "settings", "task", "encoder", "target", "mean", "scale", "labels"])
def test_a_part_that_is_missing_is_no_default(part: str, saved: Path) -> None:
    """Without its scale a prediction would silently be in other units, without its target no label."""
    description = json.loads((saved / DESCRIPTION).read_text())
    del (description["target"] if part in ("mean", "scale", "labels") else description)[part]
    (saved / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(FormatError, match=f"damaged: {part} is missing|{part}"):
        load(saved)
    description[part] = None
    if part == "target":
        (saved / DESCRIPTION).write_text(json.dumps(description))
        with pytest.raises(FormatError, match="their target is missing"):
            load(saved)


def test_weights_that_give_no_numbers_are_refused(saved: Path) -> None:
    """A few flipped bytes make a NaN, and a NaN is no prediction."""
    weights = load_file(saved / WEIGHTS)
    weights["head.bias"][0] = float("nan")
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(FormatError, match="gives outputs that are no numbers"):
        load(saved).predict(frame().drop(columns="kind"))
