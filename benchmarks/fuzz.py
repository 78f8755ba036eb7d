"""Every kind of file that is read, damaged in many ways: a right result or one clear sentence, whatever the file holds.

``python benchmarks/fuzz.py --seed 0 --mutations 2000`` prints a table: kind, tried, held, failed. A mutation has failed where
reading raises anything but an error of wellposed's own, where that error is no single sentence, where a warning is given, or
where a number that comes back is not what it may be. Equal seeds give equal files. ``tests/test_fuzz.py`` does the same
with few mutations of each kind.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gzip
import io
import json
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import wellposed as wp
from wellposed.core.errors import WellposedError
from wellposed.core.files import read_json
from wellposed.core.records import texts
from wellposed.data.table_files import read_table
from wellposed.data.tables import prepare_table
from wellposed.search.optuna_journal import Journal
from wellposed.search.proposals import quietly
from wellposed.search.space import Space
from wellposed.sparsity.verify import CLAIMS
from wellposed.study.resume import end_look
from wellposed.study.study import summary
from wellposed.study.trials import State
from wellposed.training.checkpoint import load, save_run
from wellposed.training.ready_problems import image_problem, new_images, table_problem

EPOCHS = 12


# --- mutators: bytes to bytes, by a generator ------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One to eight bytes replaced."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        if found:
            found[draw.randrange(len(found))] = draw.randrange(256)
    return bytes(found)


def cut(data: bytes, draw: random.Random) -> bytes:
    """The beginning alone."""
    return data[: draw.randrange(len(data) + 1)]


def without(data: bytes, draw: random.Random) -> bytes:
    """A piece from the middle is gone."""
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.randint(1, 40) :]


def doubled(data: bytes, draw: random.Random) -> bytes:
    """A piece stands twice, or the whole does."""
    if draw.random() < 0.3:
        return data + data
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start : start + draw.randint(1, 80)] + data[start:]


def inserted(data: bytes, draw: random.Random) -> bytes:
    """Something that no writer wrote stands in it: NUL, a mark, a long run, another encoding's letters."""
    start = draw.randrange(len(data) + 1)
    return data[:start] + draw.choice(PIECES) + data[start:]


PIECES = (
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe9",
    "中文🎉".encode(),
    b"\x1b[31m",
    b"\r",
    b"\n\n",
    b'"',
    b"'",
    b",",
    b",,,,",
    b";",
    b"\t",
    b"x" * 70_000,
    b"9" * 500,
    b"-",
    b"nan",
    b"inf",
    b"1e400",
    b"1e160",
    b"[" * 50,
    b"{",
    b"\xed\xa0\x80",
)
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    1e160,
    -1e308,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "nan",
    "1e400",
    "中文🎉",
    "a" * 5000,
    "\ud800",
    "\0",
    [],
    [None],
    [[]],
    [1, 2, 3],
    {},
    {"x": None},
    {"schema": 1},
    [{}],
)
CELLS = (
    "",
    "NA",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e160",
    "-1e308",
    '"',
    '""',
    "'",
    "a,b",
    "0x10",
    "1_000",
    "1,5",
    "true",
    "é",
    "中文🎉",
    "\ufeff",
    "9" * 400,
    "x" * 9000,
    "-",
    "1e",
    "2020-13-45",
    "0001-01-01",
    "9999-12-31",
    "12:61",
)


def of_json(data: bytes, draw: random.Random) -> bytes:
    """A key is gone, or a value is another: a type, a size, a length, a depth."""
    try:
        value = json.loads(data)
    except ValueError:
        return flipped(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        value = _changed(value, draw)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def of_json_lines(data: bytes, draw: random.Random) -> bytes:
    """One line's value is another; or lines change places."""
    lines = data.splitlines()
    if len(lines) < 2:
        return flipped(data, draw)
    at = draw.randrange(len(lines))
    if draw.random() < 0.2:
        lines.insert(draw.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] = of_json(lines[at], draw)
    return b"\n".join(lines) + b"\n"


def _changed(value: Any, draw: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(draw.choice(ODD))
    holder, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.15:
        del holder[key]
    elif kind < 0.25 and isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key] * 2 if draw.random() < 0.5 else holder[key][: draw.randrange(len(holder[key]))]
    elif kind < 0.3:
        for _ in range(draw.choice((1, 30))):
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"x": holder[key]}
    elif kind < 0.4:
        other, name = draw.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[name]))
    elif kind < 0.5 and isinstance(holder, dict):
        holder[draw.choice(("x", "schema", "", "中文"))] = copy.deepcopy(draw.choice(ODD))
    elif kind < 0.6 and isinstance(holder[key], (int, float)):
        holder[key] = draw.choice((holder[key] * -1, holder[key] + 1, holder[key] * 10**6, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(draw.choice(ODD))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where a value lies: its holder and its key there."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, item in items:
        yield value, key
        yield from _places(item)


def of_cells(data: bytes, draw: random.Random) -> bytes:
    """Cells are other ones, gone or too many; rows change length; the encoding is another."""
    text = data.decode("utf-8", "replace")
    separator = "\t" if text.count("\t") > text.count(",") else ","
    rows = [line.split(separator) for line in text.splitlines()]
    for _ in range(draw.choice((1, 1, 2, 5))):
        if not rows:
            break
        row = rows[draw.randrange(len(rows))]
        kind = draw.random()
        if kind < 0.4 and row:
            row[draw.randrange(len(row))] = draw.choice(CELLS)
        elif kind < 0.5 and row:
            row.pop(draw.randrange(len(row)))
        elif kind < 0.6:
            row.insert(draw.randrange(len(row) + 1), draw.choice(CELLS))
        elif kind < 0.7:  # a whole column
            at, cell = draw.randrange(max(map(len, rows))), draw.choice(CELLS)
            for line in rows[1:]:
                if at < len(line):
                    line[at] = cell
        elif kind < 0.8:
            rows.pop(draw.randrange(len(rows)))
        elif kind < 0.9:
            rows.insert(draw.randrange(len(rows) + 1), list(row))
        else:
            del rows[draw.randrange(len(rows)) :]
    written = draw.choice(("\n", "\n", "\r\n", "\r")).join(separator.join(row) for row in rows)
    return written.encode(
        draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin1", "cp1252")), "replace"
    )


def of_toml(data: bytes, draw: random.Random) -> bytes:
    """A value of a recipe is another, or a line is gone or stands twice."""
    lines = data.decode("utf-8", "replace").splitlines()
    at = draw.randrange(len(lines)) if lines else 0
    if lines and "=" in lines[at] and draw.random() < 0.7:
        odd = (
            "nan",
            "inf",
            "-1",
            "0",
            "1e400",
            "true",
            '""',
            '"x"',
            "[]",
            "{}",
            "[[]]",
            "10e300",
            str(10**30),
            "1979-05-27",
            "'''x'''",
        )
        lines[at] = f"{lines[at].split('=')[0]}= {draw.choice(odd)}"
    elif lines and draw.random() < 0.5:
        lines.pop(at)
    else:
        lines.insert(
            at, draw.choice([*lines, "[[terms]]", "[x]", "x = 1", '[[noise.places]]\nkind = "dropout"', "= 3"])
        )
    return "\n".join(lines).encode()


def zipped(mutate: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """The same, inside a gzip file."""
    return lambda data, draw: gzip.compress(mutate(gzip.decompress(data), draw), mtime=0)


PLAIN = (flipped, cut, without, doubled, inserted)
Mutate = Callable[[bytes, random.Random], bytes]


# --- kinds: how a file is made, and how it is read and used -----------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes a whole one into a folder (with what lies beside it), and gives its path.
        use: reads it and does what a person would do with it.
        mutate: mutators that know its form, beside those of bytes.
        costs: about how many times as long a reading takes as a usual one; so many times fewer mutations are tried.
    """

    make: Callable[[Path], Path]
    use: Callable[[Path], object]
    mutate: tuple[Mutate, ...] = ()
    costs: int = 1


def frame(rows: int = 40) -> pd.DataFrame:
    """A table with a number, a category, a date, a truth, gaps and two classes."""
    draw = np.random.default_rng(0)
    number = draw.normal(size=rows).round(3)
    town = draw.choice(["Rome", "Oslo", "Bern"], rows).astype(object)
    town[3] = None
    return pd.DataFrame(
        {
            "number": number,
            "town": town,
            "day": pd.date_range("2020-01-01", periods=rows).astype(str),
            "sold": draw.random(rows) > 0.5,
            "kind": np.where(number > 0, "high", "low"),
        }
    )


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def learned(target: str) -> Callable[[Path], object]:
    """A table is read, encoded and looked at by the network for a step."""

    def use(path: Path) -> None:
        problem = table_problem(prepare_table(read_table(path), target))
        prepared = problem.prepared
        inputs, targets = prepared.train.batch(torch.arange(min(8, len(prepared.train))))
        assert bool(torch.isfinite(inputs).all()), "encoded inputs are finite"
        assert bool(torch.isfinite(targets.double()).all()), "targets are finite"
        model = problem.build({"width": 4, "depth": 1}, seed=0)
        problem.check(model, torch.device("cpu"))
        problem.constant()

    return use


def of_images(path: Path) -> None:
    prepared = image_problem(path).prepared
    prepared.train.batch(torch.arange(min(4, len(prepared.train))))
    new_images(path)


def npz(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    with io.BytesIO() as file:
        np.savez(
            file,
            X_train=draw.integers(0, 255, (20, 6, 6), dtype=np.uint8),
            y_train=np.arange(20) % 2,
            X_test=draw.integers(0, 255, (6, 6, 6), dtype=np.uint8),
            y_test=np.arange(6) % 2,
        )
        return written(folder / "images.npz", file.getvalue())


def curves() -> dict[str, list[float]]:
    e = np.arange(EPOCHS)
    return {
        "epoch": e.tolist(),
        "train_loss": (0.1 + np.exp(-e / 4)).round(4).tolist(),
        "val_loss": (0.5 + 0.5 * np.exp(-e / 3) + 0.02 * np.maximum(e - 5, 0)).round(4).tolist(),
        "val_accuracy": (0.9 - 0.4 * np.exp(-e / 4)).round(4).tolist(),
    }


def delimited(name: str, separator: str = ",") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns = curves()
        lines = [
            separator.join(columns),
            *(separator.join(map(str, row)) for row in zip(*columns.values(), strict=True)),
        ]
        text = "\n".join(lines) + "\n"
        return written(folder / name, gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text)

    return make


def curves_in_cells(folder: Path) -> Path:
    """Whole curves in the cells of a row for each run."""
    whole = {name: [str(curve)] * 2 for name, curve in curves().items()}
    return written(folder / "runs.csv", pd.DataFrame({"run": ["a", "b"], **whole}).to_csv(index=False))


def rows_of_curves() -> list[dict[str, float]]:
    columns = curves()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def trainer_state(folder: Path) -> Path:
    history: list[dict[str, float]] = []
    for row in rows_of_curves():
        step = 8 * (int(row["epoch"]) + 1)
        history.append({"epoch": row["epoch"] + 1, "loss": row["train_loss"], "learning_rate": 1e-4, "step": step})
        history.append(
            {
                "epoch": row["epoch"] + 1,
                "eval_loss": row["val_loss"],
                "eval_accuracy": row["val_accuracy"],
                "step": step,
            }
        )
    return written(
        folder / "trainer_state.json", json.dumps({"best_metric": None, "global_step": 96, "log_history": history})
    )


def wandb(folder: Path) -> Path:
    lines = [
        "Step,a - train/loss,a - train/loss__MIN,a - train/loss__MAX,a - val/loss,a - val/loss__MIN,a - val/loss__MAX"
    ]
    lines += [
        f"{8 * r['epoch']}," + ",".join(str(r[k]) for k in ("train_loss", "val_loss") for _ in range(3))
        for r in rows_of_curves()
    ]
    return written(folder / "wandb_export.csv", "\n".join(lines) + "\n")


def lightning(folder: Path) -> Path:
    lines = ["epoch,step,train_loss_epoch,train_loss_step,val_acc,val_loss"]
    for r in rows_of_curves():
        step = 8 * (r["epoch"] + 1) - 1
        lines += [
            f"{r['epoch']},{step - 4},,{r['train_loss']},,",
            f"{r['epoch']},{step},,,{r['val_accuracy']},{r['val_loss']}",
            f"{r['epoch']},{step},{r['train_loss']},,,",
        ]
    return written(folder / "metrics.csv", "\n".join(lines) + "\n")


def printed(folder: Path) -> Path:
    lines = [
        f"Epoch {r['epoch'] + 1}/12 - loss: {r['train_loss']} - val_loss: {r['val_loss']}" for r in rows_of_curves()
    ]
    return written(folder / "train.log", "\n".join(lines) + "\n")


def events(folder: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "events"))
    for row in rows_of_curves():
        writer.add_scalar("Loss/train", row["train_loss"], int(row["epoch"]))
        writer.add_scalar("Loss/val", row["val_loss"], int(row["epoch"]))
    writer.close()
    return next((folder / "events").iterdir())


def diagnosed(path: Path) -> None:
    """What the command prints of it, and what it gives to others."""
    found = wp.diagnose_many([path])
    str(found)
    for one in found:
        str(one)
        assert all(0 <= finding.confidence <= 1 for finding in one), "a confidence is a probability"
        json.dumps(one.to_dict(), allow_nan=False)


def predictions(folder: Path) -> Path:
    lines = ["row,target,p_a,p_b"] + [f"{i},{'ab'[i % 2]},{0.2 + 0.02 * i:.2f},{0.8 - 0.02 * i:.2f}" for i in range(30)]
    written(folder / "other.csv", "\n".join(lines).replace("0.2", "0.3") + "\n")
    return written(folder / "predictions.csv", "\n".join(lines) + "\n")


def compared(path: Path) -> None:
    str(wp.compare(path, path.with_name("other.csv")))


RECIPE = wp.Recipe(
    epochs=2,
    batch_size=16,
    model={"width": 8, "depth": 1},
    schedule={"name": "cosine", "warmup": 0.1},
    terms=[
        {"penalty": "l1", "strength": 0.001, "on": "weights"},
        {"penalty": "max_norm", "bound": 3.0, "by": "unit", "on": "weights"},
    ],
    noise={"label_smoothing": 0.1, "places": [{"kind": "dropout", "rate": 0.1, "on": "layers.*"}]},
    averaging={"ema": 0.9},
)


SHORT = RECIPE.replace(noise={"places": ()})
"""For a model whose layers have other names."""


def recipe(folder: Path) -> Path:
    return written(folder / "recipe.toml", RECIPE.to_toml())


def cooked(path: Path) -> None:
    found = wp.Recipe.from_toml(path)
    assert wp.Recipe.from_toml(found.to_toml()) == found, "a recipe that is written is read again"
    found.describe()
    if found.epochs < 1000 and found.batch_size > 0:
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        wp.regularize(found.optimizer.build(list(model.parameters())), model, found.build_terms(10)).audit()


def saved(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        problem = table_problem(prepare_table(frame(), "kind"))
        save_run(wp.fit(problem, SHORT, device="cpu"), folder)
        return folder / name

    return make


def predicted(path: Path) -> None:
    found = load(path.parent).predict(frame().drop(columns="kind"))
    assert all(len(column) == 40 for column in found.values()), "a prediction for each row"
    assert all(np.isfinite(column).all() for name, column in found.items() if name.startswith("p_")), "finite chances"


def estimator(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data = frame()
        wp.Classifier("0", recipe=SHORT, members=2, random_state=0).fit(data.drop(columns="kind"), data["kind"]).save(
            folder
        )
        return folder / name

    return make


def classified(path: Path) -> None:
    model, rows = wp.load(path.parent), frame().drop(columns="kind")
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Column ", UserWarning
        )  # is not as in training, says an encoder that was changed
        assert len(model.predict(rows)) == 40, "a prediction for each row"
        assert np.isfinite(model.predict_proba(rows)).all(), "finite chances"


def study(folder: Path) -> Path:
    """A whole study of a few recipes, made once."""
    wp.improve(
        table_problem(prepare_table(frame(60), "kind")), "0", out=folder, recipe=SHORT, device="cpu", engine="inprocess"
    )
    return folder


@functools.cache
def space() -> Space:
    return Space(table_problem(prepare_table(frame(), "kind")), SHORT, ())


def journal(folder: Path) -> Path:
    made = study(folder / "study")
    Journal(made, maximize=True).open(space(), State.load(made).trials)
    return made / "optuna.journal"


def part_of_study(name: str) -> Callable[[Path], Path]:
    return lambda folder: study(folder / "study") / name


def resumed(path: Path) -> None:
    """The state is read, and its trials go to the journal and the rankings."""
    state = State.load(path.parent)
    end_look(path.parent, state)
    for trial in state.trials:
        trial.rank(1.0)
        _ = trial.built
    state.save(path.parent / "again")
    assert State.load(path.parent / "again").trials is not None, "a state that is written is read again"


def reported(path: Path) -> None:
    page = wp.report(path.parent, path.parent / "page.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>"), "a whole page"


def finished(path: Path) -> None:
    """What is printed of a study that had ended, and whose page is written again."""
    record = read_json(path, 1, "study")
    summary(record)
    texts(record.get("warnings"))


def journaled(path: Path) -> None:
    """A journal that does not fit the state is made anew."""
    trials = State.load(path.parent).trials
    again = Journal(path.parent, maximize=True)
    again.open(space(), trials)
    with quietly():
        held = {trial.number for trial in again._opened(again.path).get_trials()}
    assert len(held) == len([trial for trial in trials if trial.kind in ("baseline", "search")])


def history(folder: Path) -> Path:
    rows = [
        {"epoch": r["epoch"], "train_loss": r["train_loss"], "valid_loss": r["val_loss"], "lr": 0.1}
        for r in rows_of_curves()
    ]
    return wp.History({"metric": "accuracy", "constant_loss": 0.7}, rows).save(folder / "history.json")


def told(path: Path) -> None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return  # no JSON: who reads it says so before a history is asked
    if isinstance(value, dict):
        found = wp.History.from_dict(value)
        str(found), found.to_csv(), found.best, str(wp.diagnose(found))


def claimed(folder: Path) -> Path:
    """What a compressed network claims, beside the network."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    torch.nn.init.zeros_(net[0].weight[3:])
    return wp.compress(net, torch.randn(4, 3)).save(folder / "small") / CLAIMS


KINDS: dict[str, Kind] = {
    "table.csv": Kind(
        lambda f: written(f / "t.csv", frame().to_csv(index=False)), learned("kind"), (of_cells,) * 5, costs=4
    ),
    "numbers.csv": Kind(
        lambda f: written(f / "n.csv", frame().to_csv(index=False)), learned("number"), (of_cells,) * 5, costs=4
    ),
    "table.tsv": Kind(
        lambda f: written(f / "t.tsv", frame().to_csv(index=False, sep="\t")), learned("kind"), (of_cells,) * 5, costs=4
    ),
    "table.csv.gz": Kind(
        lambda f: written(f / "t.csv.gz", gzip.compress(frame().to_csv(index=False).encode(), mtime=0)),
        learned("kind"),
        (zipped(of_cells), zipped(inserted)),
        costs=4,
    ),
    "table.parquet": Kind(
        lambda f: (frame().to_parquet(f / "t.parquet"), f / "t.parquet")[1], learned("kind"), costs=4
    ),
    "images.npz": Kind(npz, of_images),
    "claims.json": Kind(claimed, lambda path: wp.verify(path.parent), (of_json,) * 5, costs=8),
    "curves.csv": Kind(delimited("curves.csv"), diagnosed, (of_cells,) * 5),
    "curves.tsv": Kind(delimited("curves.tsv", "\t"), diagnosed, (of_cells,) * 5),
    "curves.csv.gz": Kind(delimited("curves.csv.gz"), diagnosed, (zipped(of_cells), zipped(inserted))),
    "cells.csv": Kind(curves_in_cells, diagnosed, (of_cells,) * 5),
    "curves.json": Kind(lambda f: written(f / "history.json", json.dumps(curves())), diagnosed, (of_json,) * 5),
    "curves.jsonl": Kind(
        lambda f: written(f / "log.jsonl", "\n".join(map(json.dumps, rows_of_curves()))),
        diagnosed,
        (of_json_lines,) * 5,
    ),
    "wandb": Kind(wandb, diagnosed, (of_cells,) * 5),
    "lightning": Kind(lightning, diagnosed, (of_cells,) * 5),
    "trainer_state": Kind(trainer_state, diagnosed, (of_json,) * 5),
    "printed": Kind(printed, diagnosed),
    "dicts": Kind(lambda f: written(f / "train.log", "\n".join(map(repr, rows_of_curves()))), diagnosed),
    "tensorboard": Kind(events, diagnosed),
    "predictions": Kind(predictions, compared, (of_cells,) * 5),
    "recipe.toml": Kind(recipe, cooked, (of_toml,) * 5),
    "model.json": Kind(saved("model.json"), predicted, (of_json,) * 5, costs=2),
    "safetensors": Kind(saved("model.safetensors"), predicted, costs=2),
    "estimator.json": Kind(estimator("estimator.json"), classified, (of_json,) * 5, costs=4),
    "held_out": Kind(estimator("held_out.safetensors"), classified, costs=4),
    "state.json": Kind(part_of_study("state.json"), resumed, (of_json,) * 5, costs=2),
    "study.json": Kind(part_of_study("study.json"), reported, (of_json,) * 5, costs=20),
    "looked": Kind(part_of_study("study.json"), resumed, (of_json,) * 5, costs=2),
    "finished": Kind(part_of_study("study.json"), finished, (of_json,) * 5),
    "journal": Kind(journal, journaled, (of_json_lines,) * 5, costs=4),
    "history": Kind(history, told, (of_json,) * 5),
}


# --- the trial --------------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """What came out for one kind."""

    tried: int = 0
    held: int = 0
    failed: list[str] = field(default_factory=list)


def verdict(use: Callable[[Path], object], path: Path) -> str:
    """What is wrong with how a file was read; empty where it is a right result or one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            use(path)
        except WellposedError as error:
            said = str(error)
            clear = re.fullmatch(r".{20,1000}([.?')]|OLD > NEW)", said) and "Traceback" not in said
            return "" if clear else f"no sentence: {said[:200]!r}"
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in at if "wellposed" in frame.filename] or at
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            return f"{type(error).__name__} at {where}: {str(error)[:120]}"
    return ""


def mutated(kind: Kind, whole: bytes, seed: int, name: str, number: int) -> bytes:
    """The file of this number: a function of the seed alone."""
    draw = random.Random(f"{seed}:{name}:{number}")
    return draw.choice((*PLAIN, *kind.mutate))(whole, draw)


def fuzz(name: str, mutations: int, seed: int, folder: Path, keep: Path | None = None) -> Table:
    """Try so many mutations of a kind; ``keep`` gets the files that failed."""
    kind, found = KINDS[name], Table()
    path = kind.make(folder)
    whole = path.read_bytes()
    before = verdict(kind.use, path)
    if before:
        raise AssertionError(f"The whole {name} is not read: {before}")
    for number in range(max(1, mutations // kind.costs)):
        path.write_bytes(mutated(kind, whole, seed, name, number))
        wrong = verdict(kind.use, path)
        found.tried += 1
        found.held += not wrong
        if wrong:
            found.failed.append(f"{number}: {wrong}")
            if keep is not None:
                written(keep / f"{name}.{number}{path.suffix}", path.read_bytes())
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    parser.add_argument("--show", type=int, default=5, help="failures that are shown of each kind")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| kind | tried | held | failed | seconds |\n|---|---|---|---|---|")
    everything: list[str] = []
    for name in chosen.kinds:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(name, chosen.mutations, chosen.seed, Path(folder), chosen.keep)
        everything += [f"{name} {said}" for said in found.failed[: chosen.show]]
        took = time.perf_counter() - began
        print(f"| {name} | {found.tried} | {found.held} | {len(found.failed)} | {took:.1f} |", flush=True)
    print("\n".join(everything))
    sys.exit(bool(everything))


if __name__ == "__main__":
    main()
