"""Every format of logs is read to the same curves and the same verdict, and what is odd in a file is said, not swallowed."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import math
import os
import re
import struct
import sys
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock, NonCallableMagicMock
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch

from wellposed.core import tfrecord
from wellposed.core.errors import DataError, InputError
from wellposed.core.reading import reading_up_to
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import diagnose, diagnose_many, rules
from wellposed.diagnosis.diagnosis import Diagnosis
from wellposed.diagnosis.finding import Change, Finding
from wellposed.logs import (
    Log,
    Reading,
    Table,
    cells,
    column_names,
    documents,
    event_files,
    folders,
    read,
    read_all,
)
from wellposed.logs import (
    text as lines_of_text,
)
from wellposed.logs.column_names import parse_name
from wellposed.logs.in_memory import plain
from wellposed.logs.log import columns_of
from wellposed.training.history import History

EPOCHS, TURN, STEPS = 30, 11, 8  # steps an epoch
Case = dict[str, np.ndarray]


def case(kind: str) -> Case:
    """Curves with a known verdict: training and validation loss, and accuracies."""
    e = np.arange(EPOCHS)
    wobble = 0.002 * np.cos(2.4 * e)
    train, valid = 0.1 + 0.9 * np.exp(-e / 6), 0.5 + 0.5 * np.exp(-e / 4) + wobble
    right, hits = 0.98 - 0.5 * np.exp(-e / 6), 0.85 - 0.35 * np.exp(-e / 4)
    if kind == "healthy":
        train, valid, right = 0.4 + 0.6 * np.exp(-e / 3), 0.45 + 0.55 * np.exp(-e / 3) + wobble, hits + 0.01
        hits = 0.85 - 0.35 * np.exp(-e / 3)
    if kind in ("overfits", "overconfident"):
        valid = valid + 0.03 * np.maximum(e - TURN, 0)
    if kind == "overconfident":
        right = hits + 0.02
    if kind == "overfits":
        hits = hits - 0.008 * np.maximum(e - TURN, 0)
    if kind == "diverged":
        train, valid = train.copy(), valid.copy()
        train[20:], valid[20:] = np.nan, np.nan
    return {"train": train, "valid": valid, "right": right, "hits": hits}


def best(curves: Case) -> int:
    return int(np.nanargmin(curves["valid"]))


def cell(value: float) -> str:
    return "nan" if math.isnan(value) else repr(float(value))


def written(path: Path, header: list[str], rows: list[list[Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def rows_of(c: Case) -> list[list[Any]]:
    return [[i, *(cell(c[k][i]) for k in ("right", "train", "hits", "valid"))] for i in range(EPOCHS)]


# Writers: a case in a format; each gives its path and how many the axis advances in an epoch


def keras_csv(folder: Path, c: Case) -> Path:
    return written(folder / "training.log", ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"], rows_of(c))


def keras_json(folder: Path, c: Case) -> Path:
    columns = ("accuracy", "loss", "val_accuracy", "val_loss")
    history = dict(zip(columns, (c[k].tolist() for k in ("right", "train", "hits", "valid")), strict=True))
    (folder / "history.json").write_text(json.dumps(history))
    return folder / "history.json"


def keras_frame_json(folder: Path, c: Case) -> Path:
    """What ``pandas.DataFrame(history.history).to_json()`` writes."""
    value = {n: {str(i): None if math.isnan(y) else y for i, y in enumerate(c[k].tolist())}
             for n, k in (("loss", "train"), ("val_loss", "valid"), ("accuracy", "right"), ("val_accuracy", "hits"))}  # fmt: skip
    (folder / "frame.json").write_text(json.dumps(value))
    return folder / "frame.json"


def keras_tensorboard(folder: Path, c: Case) -> Path:
    """Subfolders ``train`` and ``validation``; losses of epochs count epochs, those of batches count batches."""
    for side, loss, metric in (("train", "train", "right"), ("validation", "valid", "hits")):
        writer = summary_writer(folder / "logs" / side)
        for i in range(EPOCHS):
            writer.add_scalar("epoch_loss", c[loss][i], i, new_style=True)
            writer.add_scalar("epoch_accuracy", c[metric][i], i, new_style=True)
            for batch in range(3):
                tag = "batch_loss" if side == "train" else "evaluation_loss_vs_iterations"
                writer.add_scalar(tag, 9.0, 3 * i + batch, new_style=True)
        writer.close()
    return folder / "logs"


def torch_tensorboard(folder: Path, c: Case) -> Path:
    writer = summary_writer(folder / "tb")
    writer.add_text("about", "a run")
    for i in range(EPOCHS):
        for tag, key in (
            ("Loss/train", "train"),
            ("Loss/val", "valid"),
            ("Accuracy/train", "right"),
            ("Accuracy/val", "hits"),
        ):
            writer.add_scalar(tag, c[key][i], i)
    writer.add_histogram("weights", np.arange(1000.0), 3)
    writer.close()
    return next((folder / "tb").iterdir())


def tensorboard_together(folder: Path, c: Case) -> Path:
    """``add_scalars``: a folder for each curve."""
    writer = summary_writer(folder / "runs")
    for i in range(EPOCHS):
        writer.add_scalars("Loss", {"train": c["train"][i], "valid": c["valid"][i]}, i)
        writer.add_scalars("Acc", {"train": c["right"][i], "valid": c["hits"][i]}, i)
    writer.close()
    return folder / "runs"


def summary_writer(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def lightning_csv(folder: Path, c: Case) -> Path:
    """By Lightning's own logger, in the order in which a Trainer logs: steps, validation, then the epoch's mean."""
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(str(folder), name="run")
    for i in range(EPOCHS):
        for step in (0, STEPS // 2):
            logger.log_metrics({"train_loss_step": c["train"][i] + 0.2, "epoch": i}, step=i * STEPS + step)
        last = (i + 1) * STEPS - 1
        logger.log_metrics({"val_loss": c["valid"][i], "val_acc": c["hits"][i], "epoch": i}, step=last)
        logger.log_metrics({"train_loss_epoch": c["train"][i], "train_acc": c["right"][i], "epoch": i}, step=last)
    logger.log_metrics({"test_loss": 0.7, "epoch": EPOCHS}, step=EPOCHS * STEPS)
    logger.save()
    return Path(logger.log_dir) / "metrics.csv"


def transformers_state(folder: Path, c: Case) -> Path:
    history: list[dict[str, Any]] = []
    for i in range(EPOCHS):
        for part in range(STEPS):
            history.append({"epoch": i + (part + 1) / STEPS, "grad_norm": 1.5, "learning_rate": 1e-4,
                            "loss": c["train"][i], "step": i * STEPS + part + 1})  # fmt: skip
        history.append({"epoch": float(i + 1), "eval_accuracy": c["hits"][i], "eval_loss": c["valid"][i],
                        "eval_runtime": 1.0, "eval_samples_per_second": 9.0, "step": (i + 1) * STEPS})  # fmt: skip
    history.append(
        {"epoch": float(EPOCHS), "step": EPOCHS * STEPS, "total_flos": 1e9, "train_loss": 0.33, "train_runtime": 9.0}
    )
    for checkpoint, rows in ((STEPS, history[:9]), (EPOCHS * STEPS, history)):
        inside = folder / "out" / f"checkpoint-{checkpoint}"
        inside.mkdir(parents=True)
        (inside / "trainer_state.json").write_text(
            json.dumps({"best_metric": None, "global_step": 1, "log_history": rows})
        )
    return folder / "out"


def wandb_csv(folder: Path, c: Case) -> Path:
    header, metrics = ["Step"], {"train/loss": "train", "val/loss": "valid", "train/acc": "right", "val/acc": "hits"}
    for name in metrics:
        header += [f"a - b - {name}", f"a - b - {name}__MIN", f"a - b - {name}__MAX"]
    rows = [[i * STEPS, *(y for k in metrics.values() for y in [cell(c[k][i])] * 3)] for i in range(EPOCHS)]
    return written(folder / "wandb_export.csv", header, rows)


def json_lines(folder: Path, c: Case) -> Path:
    rows = [{"epoch": i, "train_loss": c["train"][i], "val_loss": c["valid"][i], "val_acc": 100 * c["hits"][i],
             "train_acc": 100 * c["right"][i]} for i in range(EPOCHS)]  # fmt: skip
    with gzip.open(folder / "log.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    return folder / "log.jsonl.gz"


def long_table(folder: Path, c: Case) -> Path:
    """A row for each side: all of training first."""
    rows = [[side, i, cell(c[loss][i]), cell(c[hits][i])] for side, loss, hits in
            (("train", "train", "right"), ("val", "valid", "hits")) for i in range(EPOCHS)]  # fmt: skip
    return written(folder / "long.csv", ["phase", "epoch", "loss", "acc"], rows)


def continental(folder: Path, c: Case) -> Path:
    """As a spreadsheet writes it: a mark before UTF-16, semicolons, decimal commas, per cent."""
    lines = ["Epoch;Train Loss;Train Accuracy;Validation Loss;Validation Accuracy"]
    for i in range(EPOCHS):
        cells = [str(i), *(cell(c[k][i]).replace(".", ",") for k in ("train", "right", "valid", "hits"))]
        for at in (2, 4):
            cells[at] = f"{100 * float(cells[at].replace(',', '.')):.6f}%".replace(".", ",")
        lines.append(";".join(cells))
    (folder / "tabelle.csv").write_bytes("\r\n".join(lines).encode("utf-16"))
    return folder / "tabelle.csv"


def tabs(folder: Path, c: Case) -> Path:
    path = written(folder / "log.tsv", ["EPOCH", "trainAcc", "trainLoss", "valAcc", "valLoss"], rows_of(c), "\t")
    with gzip.open(folder / "log.tsv.gz", "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    return folder / "log.tsv.gz"


WRITERS: dict[str, tuple[Callable[[Path, Case], Path], str, float, dict[str, str]]] = {
    "keras csv": (keras_csv, "Keras", 1, {"train_loss": "loss", "valid_loss": "val_loss", "valid_metric": "val_accuracy"}),
    "keras json": (keras_json, "Keras", 1, {"train_loss": "loss", "valid_loss": "val_loss", "train_metric": "accuracy"}),
    "keras frame": (keras_frame_json, "Keras", 1, {"train_loss": "loss", "valid_loss": "val_loss"}),
    "keras events": (keras_tensorboard, "Keras", 1,
                     {"train_loss": "train/epoch_loss", "valid_loss": "validation/epoch_loss"}),
    "torch events": (torch_tensorboard, "TensorBoard", 1, {"train_loss": "Loss/train", "valid_metric": "Accuracy/val"}),
    "events together": (tensorboard_together, "TensorBoard", 1, {"train_loss": "Loss/train", "valid_loss": "Loss/valid"}),
    "lightning": (lightning_csv, "Lightning", 1, {"train_loss": "train_loss_epoch", "valid_metric": "val_acc"}),
    "transformers": (transformers_state, "transformers", 1, {"train_loss": "loss", "valid_loss": "eval_loss"}),
    "wandb": (wandb_csv, "wandb", STEPS, {"train_loss": "train/loss", "valid_loss": "val/loss", "step": "Step"}),
    "json lines": (json_lines, "table", 1, {"train_loss": "train_loss", "train_metric": "train_acc"}),
    "long table": (long_table, "table", 1, {"train_loss": "train loss", "valid_loss": "valid loss"}),
    "continental": (continental, "table", 1, {"train_loss": "Train Loss", "valid_metric": "Validation Accuracy"}),
    "tabs": (tabs, "table", 1, {"train_loss": "trainLoss", "valid_metric": "valAcc"}),
}  # fmt: skip


def reading(source: Any) -> Reading:
    found = read(source).facts["reading"]
    assert isinstance(found, Reading)
    return found


def check(writer: str, kind: str, folder: Path) -> None:
    """That a format gives the planted curves, columns and verdict back."""
    write, format_, unit, columns = WRITERS[writer]
    planted = case(kind)
    path = write(folder, planted)
    curves = Curves.of(path)
    tolerance = {"rtol": 1e-6, "atol": 1e-7}  # event files hold single precision
    np.testing.assert_allclose(curves.train_loss, planted["train"], **tolerance)
    np.testing.assert_allclose(curves.valid_loss, planted["valid"], **tolerance)
    scale = 100 if np.nanmax(curves.valid_metric) > 1 else 1
    np.testing.assert_allclose(curves.valid_metric / scale, planted["hits"], **tolerance)
    if "train_metric" in curves.given:
        np.testing.assert_allclose(curves.train_metric / scale, planted["right"], **tolerance)
    found = diagnose(curves)
    assert kind in found.names, found
    assert ("overfits" in found.names) == (kind == "overfits")
    assert found.best_epoch == best(planted) * unit + curves.epoch[0]
    understood = reading(path)
    assert understood.format == format_
    assert understood.axis == ("step" if writer == "wandb" else "epoch")
    assert columns.items() <= understood.taken.items()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["overfits", "healthy", "diverged", "overconfident"])
def test_every_format_gives_the_same_curves_and_verdict(writer: str, kind: str, tmp_path: Path) -> None:
    check(writer, kind, tmp_path)


def swapped(patch: pytest.MonkeyPatch) -> None:
    """Training and validation exchanged."""
    sides = {column_names.TRAIN: column_names.VALID, column_names.VALID: column_names.TRAIN}
    patch.setattr(column_names, "SIDES", {word: sides.get(side, side) for word, side in column_names.SIDES.items()})


def single_steps_first(patch: pytest.MonkeyPatch) -> None:
    """The loss of a step preferred to that of an epoch."""
    patch.setattr(column_names.Name, "cost", property(lambda self: (0, int(not self.of_a_step), 0)))


def summary_is_a_row(patch: pytest.MonkeyPatch) -> None:
    """What transformers logs at the end, the mean of the whole training, taken for a loss."""
    patch.setattr(documents, "_transformers", lambda value, name: Log(columns_of(value["log_history"]), name))


def first_checkpoint(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folders, "_reached", lambda state: -len(state.parent.name))


def batches_are_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folders, "_of_epochs", lambda tag: False)


def parts_are_runs(patch: pytest.MonkeyPatch) -> None:
    """Subfolders for training and validation taken for two runs."""
    patch.setattr(folders, "SIDES", {})


def hundredfold(patch: pytest.MonkeyPatch) -> None:
    """A decimal comma taken for a separator of thousands."""
    patch.setattr(cells, "COMMA", re.compile("never"))
    patch.setattr(cells, "THOUSANDS", re.compile(r"\d+,\d+"))
    patch.setattr(cells.cell_number, "__defaults__", (True,))


MUTANTS = {
    "swapped": (swapped, "keras csv"),
    "single steps first": (single_steps_first, "lightning"),
    "summary is a row": (summary_is_a_row, "transformers"),
    "first checkpoint": (first_checkpoint, "transformers"),
    "batches are epochs": (batches_are_epochs, "keras events"),
    "parts are runs": (parts_are_runs, "keras events"),
    "hundredfold": (hundredfold, "continental"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_guesses_are_caught(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, writer = MUTANTS[mutant]
    (tmp_path / "sound").mkdir()
    check(writer, "overfits", tmp_path / "sound")
    column_names.parse_name.cache_clear()
    spoil(monkeypatch)
    (tmp_path / "spoilt").mkdir()
    try:
        with pytest.raises((AssertionError, DataError)):
            check(writer, "overfits", tmp_path / "spoilt")
    finally:
        column_names.parse_name.cache_clear()


# Names


@pytest.mark.parametrize(
    ("found", "train", "valid"),
    [
        (["loss", "val_loss"], "loss", "val_loss"),
        (["Train/Loss", "Val/Loss"], "Train/Loss", "Val/Loss"),
        (["trainloss", "lossval"], "trainloss", "lossval"),
        (["training_loss_mean", "validation loss (mean)"], "training_loss_mean", "validation loss (mean)"),
        (["train_box_loss", "train_loss", "val_box_loss", "val_loss"], "train_loss", "val_loss"),
        (["train/box_loss", "train/cls_loss", "val/box_loss", "val/cls_loss"], "train/box_loss", "val/box_loss"),
        (["train_loss", "val_ce_loss", "train_ce_loss"], "train_ce_loss", "val_ce_loss"),
        (["train_loss", "test_loss"], "train_loss", "test_loss"),
        (["train_loss", "test_loss", "dev_loss"], "train_loss", "dev_loss"),
        (["train_nll", "valid_nll"], "train_nll", "valid_nll"),
        (["train_loss_se", "train_loss", "val_loss_min", "val_loss"], "train_loss", "val_loss"),
        (["smoothed train loss", "train loss", "eval loss"], "train loss", "eval loss"),
        (["train_acc", "val_acc"], None, None),
        (["loss/train", "hparam/val_loss", "loss/val"], "loss/train", "loss/val"),
        (["cost", "price"], None, None),
    ],
)
def test_losses_are_known_by_the_words_in_their_names(found: list[str], train: str | None, valid: str | None) -> None:
    taken = column_names.guess(found).taken
    assert (taken.get("train_loss"), taken.get("valid_loss")) == (train, valid)


def test_what_is_doubtful_about_names_is_said() -> None:
    def said(*found: str) -> str:
        return " ".join(column_names.guess(found).notes)

    assert said("loss", "val_loss") == ""
    assert "test loss stands in" in said("train_loss", "test_loss")
    assert "'train/box_loss' was taken, not train/cls_loss" in said("train/box_loss", "train/cls_loss", "val/box_loss")
    assert "may not be the same loss" in said("train_loss", "val_ce_loss")
    assert "smoothed" in said("train_loss_ema", "val_loss")
    assert "nll was taken" in said("train_nll", "valid_nll")


# Rows


def table(**columns: list[Any]) -> Curves:
    return Curves.of(columns)


def test_a_resumed_run_replaces_what_it_wrote_before(tmp_path: Path) -> None:
    lines = ["epoch,loss,val_loss", "0,1.0,1.0", "1,0.8,0.9", "2,9,9", "3,9,9", "epoch,loss,val_loss", "2,0.7,0.8", "3,0.6,0.7",
             "4,0.5,0.7"]  # fmt: skip
    (tmp_path / "log.csv").write_text("\n".join(lines))
    curves = Curves.of(tmp_path / "log.csv")
    assert curves.train_loss.tolist() == [1.0, 0.8, 0.7, 0.6, 0.5]
    assert "as after a resume: what was written again replaces 2 earlier values" in " ".join(
        reading(tmp_path / "log.csv").notes
    )


def test_batches_that_are_counted_anew_in_each_epoch_are_no_resumed_run() -> None:
    c, each = case("overfits"), 10
    batches = {"epoch": np.repeat(np.arange(EPOCHS), each), "batch": np.tile(np.arange(each), EPOCHS)}
    valid = [y if batch == each - 1 else None for y in c["valid"] for batch in range(each)]
    found = diagnose({**batches, "loss": np.repeat(c["train"], each), "val_loss": valid})
    assert found.curves.train_loss == pytest.approx(c["train"])
    assert found.names[0] == "overfits"
    assert "resume" not in str(found)
    resumed = {"epoch": [0, 0, 1, 1, 0, 1, 1, 2], "step": [0, 1, 2, 3, 1, 2, 3, 4], "loss": [9, 9, 9, 9, 3, 2, 2, 1]}
    assert diagnose(resumed).curves.train_loss[-1] == 1
    assert "replaces 3 earlier values" in str(diagnose(resumed))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("counts", ["train", "valid"])
def test_a_side_that_counts_epochs_meets_one_that_counts_steps(tmp_path: Path, first: int, counts: str) -> None:
    c, each = case("overfits"), 7
    writer = summary_writer(tmp_path)
    for epoch in range(EPOCHS):
        for side in ("train", "valid"):
            steps = [first + epoch] if side == counts else [each * epoch + part + 1 for part in range(each)]
            for step in steps:
                writer.add_scalar(f"loss/{side}", c[side][epoch], step)
    writer.close()
    found = diagnose(tmp_path)
    assert found.curves.train_loss == pytest.approx(c["train"], rel=1e-6)
    assert found.curves.valid_loss == pytest.approx(c["valid"], rel=1e-6)
    assert found.curves.epoch.tolist() == [*range(first, first + EPOCHS)]
    assert found.names[0] == "overfits"
    assert "One side counts its epochs" in str(found)


def test_evaluations_of_some_steps_are_not_taken_for_epochs() -> None:
    steps = np.arange(1, 41)
    seldom = [float(step) if step % 8 == 0 else None for step in steps]
    once = [
        1.0 / step if step <= 4 else None for step in steps
    ]  # four first steps, which are fewer than epochs need to be
    for valid in (seldom, once):
        assert "counts its epochs" not in str(diagnose({"step": steps, "loss": 1.0 / steps, "val_loss": valid}))


def test_a_later_start_that_logged_validation_alone_is_a_run_of_its_own(tmp_path: Path) -> None:
    both = [f"step {i} | train loss {9 - i} | dev loss {9 - i / 2} | f1 0.{i}" for i in range(1, 6)]
    alone = [f"dev f1 0.{i}\nstep {i} | dev loss {9 - i / 2}" for i in range(1, 8)]
    (tmp_path / "log.txt").write_text("\n".join([*both, *both, *alone, *alone[:3]]) + "\n")
    assert [len(one.curves.valid_loss) for one in diagnose_many([tmp_path / "log.txt"])] == [5, 5, 7, 3]


def test_gaps_of_a_frame_are_no_values() -> None:
    rows = {"epoch": [0, 0, 1, 1, 2, 2], "loss": [3, math.nan, 2, math.nan, 1, math.nan]}
    found = diagnose({**rows, "val_loss": [math.nan, 3, math.nan, 2, math.nan, 1]})
    assert found.curves.valid_loss.tolist() == [3, 2, 1]
    assert "averaged" not in str(found)


def test_rows_in_no_order_are_sorted_and_values_of_one_epoch_averaged() -> None:
    curves = table(epoch=[3, 1, 2, 0, 4], loss=[0.4, 0.8, 0.6, 1.0, 0.2], val_loss=[0.4, 0.8, 0.6, 1.0, 0.2])
    assert curves.train_loss.tolist() == [1.0, 0.8, 0.6, 0.4, 0.2]
    curves = table(epoch=[0, 0, 1, 1, 5], loss=[1.0, 0.8, 0.6, 0.4, 0.2], val_loss=[None, 0.5, None, 0.4, 0.4])
    np.testing.assert_allclose(curves.train_loss, [0.9, 0.5, 0.2])
    assert curves.epoch.tolist() == [0, 1, 5]  # a gap is a gap


def test_steps_are_said_and_training_is_averaged_up_to_each_evaluation(tmp_path: Path) -> None:
    rows = []
    for step in range(1, 101):
        rows.append({"step": step, "train/loss": float(step)})
        if step % 10 == 0:
            rows.append({"step": step, "val/loss": 200.0 - step, "epoch": 0})
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 1')
    curves = Curves.of(path)
    assert curves.train_loss.tolist() == [5.5 + 10 * i for i in range(10)]
    assert curves.epoch.tolist() == [10.0 * (i + 1) for i in range(10)]
    said = diagnose(path)
    assert said.axis == "step"
    assert said.to_dict()["axis"] == "step"
    text = str(said)
    assert "run along steps" in text
    assert "100 training losses were averaged into 10 points" in text
    assert "last line was cut off" in text
    assert "How many steps an epoch has" in text


def test_training_that_breaks_after_the_last_evaluation_has_diverged() -> None:
    step = list(range(1, 41))
    loss = [1 / s for s in step[:35]] + [math.inf] * 5
    valid = [1 / s if s % 5 == 0 and s <= 35 else None for s in step]
    assert diagnose({"step": step, "loss": loss, "val_loss": valid}).names == ["diverged"]


def test_a_long_training_curve_without_evaluations_is_thinned_by_averaging() -> None:
    curves = table(step=list(range(30_000)), loss=list(np.linspace(3, 1, 30_000)))
    assert len(curves) <= 1000
    assert np.all(np.diff(curves.train_loss) < 0)


def test_several_evaluations_in_an_epoch_keep_their_steps() -> None:
    rows = [{"epoch": e, "step": 100 * e + s, **({"loss": 1.0} if s % 50 else {"val_loss": 1.0 + e + s})}
            for e in range(3) for s in (25, 50, 75, 100)]  # fmt: skip
    curves = Curves.of(rows)
    assert curves.valid_loss.tolist() == [1.0 + e + s for e in range(3) for s in (50, 100)]
    assert curves.epoch.tolist() == [50, 100, 150, 200, 250, 300]


# Several runs


A, B = [0.9, 0.6, 0.4, 0.3, 0.2, 0.15], [0.95, 0.7, 0.5, 0.45, 0.5, 0.55]  # losses of training and of validation


@pytest.mark.parametrize(
    "held",
    [
        {"train": {"logloss": A}, "eval": {"logloss": B}},  # what XGBoost's evals_result holds,
        {"training": {"binary_logloss": A, "auc": B}, "valid_1": {"binary_logloss": B, "auc": A}},  # LightGBM's,
        {"learn": {"Logloss": np.array(A)}, "validation": {"Logloss": np.array(B)}},  # and CatBoost's
        {"history": {"train": {"loss": torch.tensor(A).double()}, "val": {"loss": tuple(B)}}},
        {epoch: {"loss": a, "val_loss": b} for epoch, (a, b) in enumerate(zip(A, B, strict=True))},
        {f"epoch {epoch}": {"train": {"loss": a}, "val": {"loss": b}} for epoch, (a, b) in enumerate(zip(A, B, strict=True))},
        [{"epoch": epoch, "train": {"loss": a}, "val": {"loss": b}} for epoch, (a, b) in enumerate(zip(A, B, strict=True))],
        [{"train": {"loss": np.float32(a)}, "val": {"loss": np.float32(b)}} for a, b in zip(A, B, strict=True)],
        types.SimpleNamespace(evals_result_={"training": {"l2": A}, "valid_1": {"l2": B}}),
        types.SimpleNamespace(evals_result=lambda: {"validation_0": {"rmse": A}, "validation_1": {"rmse": B}}),
        types.SimpleNamespace(get_evals_result=lambda: {"learn": {"RMSE": A}, "validation": {"RMSE": B}}),
        types.SimpleNamespace(
            state=types.SimpleNamespace(
                log_history=[{"loss": a, "epoch": e} for e, a in enumerate(A)]
                + [{"eval_loss": b, "epoch": e} for e, b in enumerate(B)]
            )
        ),
    ],
    ids=lambda held: str(held)[:40].translate({ord("<"): "", ord(">"): ""}).split(" at 0x")[0],
)  # fmt: skip
def test_what_is_nested_in_memory_is_read_as_in_a_file(held: Any, tmp_path: Path) -> None:
    table = read(held)
    assert table.columns["train_loss"] == pytest.approx(A)
    assert table.columns["valid_loss"] == pytest.approx(B)
    if isinstance(held, (dict, list)):
        path = tmp_path / "log.json"
        path.write_text(json.dumps(held, default=lambda cell: cell.tolist()), encoding="utf-8")
        saved = read(path)
        assert [*saved.columns] == [*table.columns]
        assert saved.facts["reading"].taken == table.facts["reading"].taken


@pytest.mark.parametrize("kind", ["dict", "json", "nested json"])
def test_columns_of_other_lengths_have_a_row_where_it_is_clear_which(kind: str, tmp_path: Path) -> None:
    """No side is shifted or stretched against the other, and what is not clear is refused."""

    def held(train: list[float], valid: list[float], **others: list[float]) -> Table:
        columns = {"train_losses": train, "val_losses": valid, **others}
        nested = {"train": {"loss": train}, "val": {"loss": valid}, **others}
        path = tmp_path / "history.json"
        path.write_text(json.dumps(nested if kind == "nested json" else columns), encoding="utf-8")
        return read(columns if kind == "dict" else path)

    batches = [a + noise for a in A for noise in (-0.02, 0.0, 0.02) * 10]
    for train in (batches, batches[:-1]):
        both = held(train, B).columns
        assert both["train_loss"] == pytest.approx(A, abs=0.011 if len(train) % len(A) else 1e-9)
        assert both["valid_loss"] == pytest.approx(B)
        assert both["epoch"].tolist() == [len(train) * look // len(A) - 1 for look in range(1, len(A) + 1)]
    counted = held(batches, B, epoch=[3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).columns
    assert counted["epoch"].tolist() == [3, 4, 5, 6, 7, 8]
    assert counted["train_loss"] == pytest.approx(A)
    before = held(A, [2.3, *B], epoch=[float(epoch) for epoch in range(len(A))]).columns
    assert math.isnan(before["train_loss"][0])
    assert before["train_loss"][1:] == pytest.approx(A)
    assert before["valid_loss"] == pytest.approx([2.3, *B])
    broken = held(A, B[:-1], lr=[0.1] * 3).columns
    assert broken["train_loss"] == pytest.approx(A)
    assert broken["valid_loss"][:-1] == pytest.approx(B[:-1])
    assert math.isnan(broken["valid_loss"][-1])
    half = [*A, *A]
    for train, valid in ((A, B[:-2]), (half, B), (half, [*B, 0.5]), (A * 5, B * 2), (A, B * 5), (batches, B[:2] * 30)):
        with pytest.raises(DataError, match="different lengths"):  # which began late, broke off, or is of some epochs
            held(train, valid)
    with pytest.raises(DataError, match="different lengths"):
        held(A, B, epoch=[0.0, 1.0])


@pytest.mark.parametrize(
    ("places", "own", "rows"),
    [
        ([1, 3, 5, 7, 9, 11], None, [1, 3, 5, 7, 9, 11]),
        ([2, 4, 6, 8, 10, 12], None, [1, 3, 5, 7, 9, 11]),  # counted from 1
        ([6, 7, 8, 9, 10, 11], None, [6, 7, 8, 9, 10, 11]),  # validation began late
        (
            [25, 45, 65, 85, 105, 125],
            [10 * row for row in range(12)],
            [2, 4, 6, 8, 10, 11],
        ),  # steps between those of training
    ],
)
def test_validation_stands_where_its_own_places_say(places: list[int], own: list[int] | None, rows: list[int]) -> None:
    axis = "steps" if own else "epochs"
    table = read({"train_loss": A + A, "val_loss": B, f"val_{axis}": places} | ({"step": own} if own else {}))
    if own:
        assert table.columns["epoch"].tolist() == [own[row] for row in rows]
        assert table.columns["valid_loss"] == pytest.approx(B)
        return
    known = np.isfinite(table.columns["valid_loss"])
    assert np.flatnonzero(known).tolist() == rows
    assert table.columns["valid_loss"][known] == pytest.approx(B)
    assert table.columns["train_loss"] == pytest.approx(A + A)


def test_what_is_left_out_for_its_length_is_said() -> None:
    table = read({"train_loss": A, "val_loss": B, "val_acc": [0.5, 0.6, 0.7, 0.8], "lr": [0.1] * 7})
    assert (
        "Left out, since they have another length than the losses: lr (7), valid_metric (4)."
        in table.facts["reading"].notes
    )


PLACED = {
    side: [{"step": 10 * number + 9, "loss": loss} for number, loss in enumerate(losses)]
    for side, losses in (("train", A), ("val", B))
}


@pytest.mark.parametrize(
    "value",
    [
        {"training_history": {"train_losses": A, "val_losses": B, "best_epoch": 3}, "names": ["a", "b"]},
        {"training_result": {"best_val_loss": 0.4, "train_loss": A, "val_loss": B}, "test_metrics": {"mse": 0.1}},
        {
            "train_losses": A,
            "val_metrics": [{"epoch": epoch, "val_loss": b, "val_acc": 1 - b} for epoch, b in enumerate(B)],
        },
        {
            "train_losses": A,
            "val_losses": B,
            "train_metrics": [{"loss": a + 9} for a in A],
            "val_metrics": [{"loss": 9}] * 6,
        },
        {"losses": {"train": A, "val": B}, "accuracies": {"train": B, "val": A}},
        {"loss": {"training": A, "validation": B}, "time": {"train": 3.0, "val": 1.0}},
        PLACED,
        {"train": PLACED["train"], "val": PLACED["val"][::-1]},
        {"train": [{"loss": a} for a in A], "val": [{"loss": b} for b in B]},
        {"train_loss": [[step, a] for step, a in enumerate(A)], "val_loss": [(step, b) for step, b in enumerate(B)]},
        {"train_losses": A, "test_losses": B, "minibatch_train_losses": [a for a in A for _ in range(9)]},
        {"train_steps": [*range(6)], "train_losses": A, "eval_steps": [*range(6)], "eval_losses": B},
    ],
    ids=[
        "history",
        "result",
        "rows",
        "rows beside",
        "quantities",
        "quantity",
        "steps",
        "other order",
        "no places",
        "pairs",
        "batches",
        "own steps",
    ],
)
@pytest.mark.parametrize("kind", ["memory", "json"])
def test_no_side_is_lost_where_it_stands_under_a_key(value: Any, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    (table,) = read_all(value if kind == "memory" else path)
    assert table.columns["train_loss"] == pytest.approx(A)
    assert table.columns["valid_loss"] == pytest.approx(B)


def test_runs_in_a_list_may_hold_their_curves_in_a_dict() -> None:
    seeds = [{"seed": seed, "widths": [64, 64], "history": {"train_loss": A, "val_loss": B}} for seed in range(3)]
    for value in (seeds, {"results": seeds}):
        for table in (found := read_all(value)):
            assert table.columns["valid_loss"] == pytest.approx(B)
        assert len(found) == 3


def test_remarks_between_json_lines_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    rows = [
        json.dumps({"epoch": epoch, "loss": a, "val_loss": b}) for epoch, (a, b) in enumerate(zip(A, B, strict=True))
    ]
    path.write_text("\n".join([*rows, "", "// two layers", "", *rows, "# three"]), encoding="utf-8")
    found = read_all(path)
    assert [table.columns["valid_loss"].tolist() for table in found] == [B, B]
    assert "Lines of remarks (2) were left out." in found[0].facts["reading"].notes


def test_no_article_and_no_weight_is_a_loss() -> None:
    assert [parse_name(name).what for name in ("val_los", "Train Los", "los")] == ["loss"] * 3
    assert parse_name("in los angeles on july").what == ""
    assert not any(parse_name(f"qa_loss_{word}").is_loss for word in ("factor", "coefficient", "multiplier"))


def test_several_of_a_quantity_are_called_by_its_name() -> None:
    for name, quantity in {
        "val_mses": "mse",
        "val_aucs": "auc",
        "test_f1s": "f1",
        "val_r2s": "r2",
        "val_ious": "iou",
    }.items():
        assert parse_name(name).what == parse_name(name[:-1]).what == quantity


def test_what_is_nested_in_memory_without_curves_is_refused_in_a_sentence() -> None:
    nest: dict[str, Any] = {}
    nest["train"] = nest
    for held in (nest, {"train": {}}, {"a": {"b": {"c": "text"}}}, {"train": {"loss": object()}}):
        with pytest.raises(DataError):
            read(held)


class Failing:
    """A model that is not fitted."""

    def evals_result(self) -> Any:
        raise RuntimeError("not fitted")


class Raising:
    @property
    def evals_result_(self) -> Any:
        raise RuntimeError("not fitted")


def test_objects_without_curves_are_refused_in_a_sentence() -> None:
    own = types.SimpleNamespace()
    own.evals_result = own.history = own
    for held, said in (
        (own, "cannot read a SimpleNamespace"),
        (Failing, "cannot read a type"),
        (Failing(), "evals_result of the Failing raised RuntimeError: not fitted"),
        (Raising(), "results of the Raising raised RuntimeError: not fitted"),
        (types.SimpleNamespace(evals_result_={}), "recorded nothing"),
        (types.SimpleNamespace(get_evals_result=dict), "recorded nothing"),
    ):
        with pytest.raises(InputError, match=said):
            read(held)
    for empty in ([], {}, types.SimpleNamespace(log_history=[])):
        assert "There is no loss" not in str(diagnose(empty))


def test_any_sequence_and_frame_may_be_nested() -> None:
    frames = [pandas.DataFrame({"loss": losses}) for losses in (A, B)]
    for train, valid in (({"loss": deque(A)}, {"loss": tuple(B)}), frames):
        table = read({"train": train, "val": valid})
        assert table.columns["train_loss"] == pytest.approx(A)
        assert table.columns["valid_loss"] == pytest.approx(B)
    table = read({"train": {"loss": A}, "val": {"loss": B}, "train_cfg": {"lr": [0.1, 0.2]}})
    assert table.columns["valid_loss"] == pytest.approx(B)


def test_accuracies_of_both_sides_alone_are_judged_without_an_axis() -> None:
    risen, fallen = [0.5, 0.6, 0.7, 0.8, 0.85, 0.88, 0.9], [0.5, 0.58, 0.65, 0.7, 0.7, 0.69, 0.68]
    for names in (("accuracy", "val_accuracy"), ("train_acc", "valid_acc"), ("f1", "val_f1")):
        assert diagnose(dict(zip(names, (risen, fallen), strict=True))).findings[0].name == "overfits"
    few = {"acc": risen[:2], "val_acc": fallen[:2]}
    for table in ({"size": [*range(7)], "acc": risen, "val_acc": fallen}, {"val_acc": risen}, few):
        with pytest.raises(DataError, match="no column of losses"):
            diagnose(table)


def test_a_chart_of_wandb_holds_a_source_for_each_run(tmp_path: Path) -> None:
    header = ["Step"]
    for run in ("good - 1", "bad"):
        for metric in ("loss", "val_loss"):
            header += [f"{run} - {metric}", f"{run} - {metric}__MIN", f"{run} - {metric}__MAX"]
    cases = [case("healthy"), case("overfits")]
    rows = [
        [i, *(y for c in cases for k in ("train", "valid") for y in (c[k][i], c[k][i] - 0.1, c[k][i]))]
        for i in range(EPOCHS)
    ]
    path = written(tmp_path / "chart.csv", header, rows)
    found = diagnose_many([path])
    assert [one.source.rsplit(": ")[-1] for one in found] == ["good - 1", "bad"]
    assert [one[0].name for one in found.worst_first] == ["overfits", "healthy"]
    assert str(found).splitlines()[1].startswith("overfits")
    assert "several values, between __MIN and __MAX" in str(found[0])
    with pytest.raises(DataError, match=r"holds 2 runs .*diagnose_many"):
        diagnose(path)


def test_runs_are_told_apart_by_a_column_by_keys_and_by_lines(tmp_path: Path) -> None:
    cases = {"a": case("healthy"), "b": case("overfits")}
    rows = [[run, i, c["train"][i], c["valid"][i]] for run, c in cases.items() for i in range(EPOCHS)]
    together = written(tmp_path / "sweep.csv", ["run", "epoch", "train_loss", "valid_loss"], rows)
    columns = {run: {"loss": c["train"].tolist(), "val_loss": c["valid"].tolist()} for run, c in cases.items()}
    (tmp_path / "runs.json").write_text(json.dumps(columns))
    lines = [json.dumps({"run": run, **value, "tags": ["x"]}) for run, value in columns.items()]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines))
    for path in (together, tmp_path / "runs.json", tmp_path / "runs.jsonl"):
        found = diagnose_many([path])
        assert [(one.source, one[0].name) for one in found] == [(f"{path}: a", "healthy"), (f"{path}: b", "overfits")]
    (tmp_path / "sides.json").write_text(
        json.dumps({"train": {"nll": [1.0, 0.5, 0.2]}, "valid": {"nll": [1.0, 0.6, 0.5]}})
    )
    assert Curves.of(tmp_path / "sides.json").valid_loss.tolist() == [1.0, 0.6, 0.5]


def test_a_folder_is_searched_for_every_run_in_it(tmp_path: Path) -> None:
    for kind, write in (("overfits", lightning_csv), ("healthy", transformers_state), ("diverged", torch_tensorboard)):
        (tmp_path / "runs" / kind).mkdir(parents=True)
        write(tmp_path / "runs" / kind, case(kind))
    (tmp_path / "runs" / ".cache").mkdir()
    (tmp_path / "runs" / ".cache" / "metrics.csv").write_text("damaged")
    assert [one[0].name for one in diagnose_many([tmp_path / "runs"]).worst_first] == [
        "diverged",
        "overfits",
        "healthy",
    ]
    (tmp_path / "tables").mkdir()
    keras_csv(tmp_path / "tables", case("overfits")).rename(tmp_path / "tables" / "one.csv")
    (tmp_path / "tables" / "people.csv").write_text("name,age\nx,3\n")
    (only,) = diagnose_many([tmp_path / "tables"])
    assert only[0].name == "overfits"
    assert "without losses: people.csv" in str(only)
    (tmp_path / "runs" / "summary").mkdir()
    (tmp_path / "runs" / "summary" / "metrics.csv").write_text("name,f1\nx,0.3\n")
    writer = summary_writer(tmp_path / "runs" / "hparams")
    writer.add_text("only", "words")
    writer.close()
    found = diagnose_many([tmp_path / "runs"])
    assert len(found) == 3
    assert "without losses: summary/metrics.csv, hparams" in str(found[0])


def test_a_resumed_run_may_have_several_event_files(tmp_path: Path) -> None:
    for begin, end in ((0, 20), (10, 30)):
        writer = summary_writer(tmp_path / f"part{begin}")
        for i in range(begin, end):
            writer.add_scalar("Loss/train", 1 / (i + 1) + 9 * (begin == 0 and i >= 10), i)
            writer.add_scalar("Loss/val", 1.0, i)
        writer.close()
    run = tmp_path / "run"
    run.mkdir()
    for number, begin in enumerate((0, 10)):
        next((tmp_path / f"part{begin}").iterdir()).rename(run / f"events.out.tfevents.{number}")
    np.testing.assert_allclose(Curves.of(run).train_loss, 1 / np.arange(1, 31), rtol=1e-6)


# Lines of text

PRINTED = {
    "a logger": [
        "2023-05-15 22:50:17,398 INFO:Epoch 1: Train Loss=0.9, Val Loss=0.8",
        "2023-05-15 22:50:21,707 INFO:Epoch 2: Train Loss=0.7, Val Loss=0.7",
        "2023-05-15 22:50:26,070 INFO:Epoch 3: Train Loss=0.5, Val Loss=0.75",
    ],
    "bars of Keras": [
        "WARNING: no GPU",
        *(line for e, (a, b) in enumerate([(0.9, 0.8), (0.7, 0.7), (0.5, 0.75)], 1) for line in (
            f"Epoch {e}/3",
            f" 1/9 [..] - loss: 7.0\r9/9 [====] - 1s 3ms/step - loss: {a} - accuracy: 0.8 - val_loss: {b} - val_accuracy: 0.7",
        )),
    ],
    "an example of PyTorch": [
        line for e, (a, b) in enumerate([(0.9, 0.8), (0.7, 0.7), (0.5, 0.75)], 1) for line in (
            f"Train Epoch: {e} [0/60000 (0%)]\tLoss: {a - 0.1}", f"Train Epoch: {e} [640/60000 (1%)]\tLoss: {a + 0.1}", "",
            f"Test set: Average loss: {b}, Accuracy: 9600/10000 (96%)",
        )
    ],
    "columns of words": [
        "[Epoch 1/3] | Train Loss: 0.9 | Train Acc: 60.1% | Val. Loss: 0.8 | Val. Acc: 62.0%",
        "[Epoch 2/3] | Train Loss: 0.7 | Train Acc: 61.1% | Val. Loss: 0.7 | Val. Acc: 62.0%",
        "[Epoch 3/3] | Train Loss: 0.5 | Train Acc: 62.1% | Val. Loss: 0.75 | Val. Acc: 62.0%",
    ],
    "steps": [
        "step 0: train loss 0.9, val loss 0.8", "iter 0: loss 8.0, time 5ms", "step 250: train loss 0.7, val loss 0.7",
        "iter 300: loss 5.0, time 5ms", "step 500: train loss 0.5, val loss 0.75",
    ],
}  # fmt: skip


@pytest.mark.parametrize("writer", PRINTED)
def test_what_a_loop_prints_is_read(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("\n".join(PRINTED[writer]) + "\n", newline="")
    curves = Curves.of(path)
    np.testing.assert_allclose(curves.train_loss, [0.9, 0.7, 0.5])
    np.testing.assert_allclose(curves.valid_loss, [0.8, 0.7, 0.75])
    assert curves.epoch.tolist() == ([0, 250, 500] if writer == "steps" else [1, 2, 3])
    if writer == "an example of PyTorch":
        assert curves.valid_metric.tolist() == [0.96] * 3
    assert "Read from lines of text" in str(diagnose(path))


def test_text_without_losses_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    for words in (
        "It was a loss of 3 men, and one of 4 ships.\nThe end.\n",
        "loss 3\n",
        "loss " * 10_000,
        "loss:" + " " * 100_000,
    ):
        path.write_text(words)
        with pytest.raises(DataError):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        "epoch|loss|val_loss\n0|1|0.9\n1|0.5|0.6\n2|0.4|0.5\n",
        "  epoch   loss  val_loss\n0 1.0    0.9\n1 0.5\t0.6\n2 0.4 0.5\n",
        "# epoch loss val_loss\n0.0e+00 1.0 0.9\n1.0e+00 0.5 0.6\n2.0e+00 0.4 0.5\n",  # numpy's savetxt
        "# train loss of Monday\n# lr 0.1\nepoch,loss,val_loss\n0,1,0.9\n1,0.5,0.6\n2,0.4,0.5\n",
        '# loss: the best run\n"epoch"\t"loss"\t"val_loss"\n0\t1\t0.9\n1\t0.5\t0.6\n2\t0.4\t0.5\n',
    ],
)
def test_odd_separators_and_remarks(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    curves = Curves.of(path)
    assert curves.epoch.tolist() == [0, 1, 2]
    assert curves.train_loss.tolist() == [1, 0.5, 0.4]
    assert curves.valid_loss.tolist() == [0.9, 0.6, 0.5]


def test_blank_rows_at_the_end_are_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("loss,val_loss\n" + "1,1\n" * 5 + ",\n" * 3)
    assert "The last 3 rows are blank and left out" in " ".join(reading(path).notes)
    path.write_text("loss,val_loss\n" + "1,1\n" * 5 + "\n")
    assert not reading(path).notes


def test_other_tables_that_people_have(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "epoch,train_loss,valid_loss,accuracy,time\n0,0.8,0.4,0.89,04:39\n1,0.6,0.3,0.88,04:36\n2,0.5,0.2,0.9,04:34\n"
    )
    assert Curves.of(path).valid_metric.tolist() == [0.89, 0.88, 0.9]  # fastai's metrics are of validation
    assert "last ones counting most" in " ".join(diagnose(path).limits)
    path.write_text("name,epoch,train_loss,val_loss,id\na,25,0.05,0.12,x1\na,29,0.04,0.12,y2\nb,27,0.02,0.16,z3\n")
    with pytest.raises(DataError, match="results, not curves"):
        read(path)
    path.write_text("1,0.49,0.39\n2,0.54,0.44\n")
    with pytest.raises(DataError, match="numbers only: give the columns names"):
        read(path)


def test_binary_data_are_no_log(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 7, 2, 1])))
    with pytest.raises(DataError, match="holds binary data, not text"):
        read(path)


# Event files


def test_several_losses_of_one_rank_in_event_files_are_read(tmp_path: Path) -> None:
    """A detector logs three losses for each side: the one that is kept must be the one that is asked for."""
    writer = summary_writer(tmp_path / "tb")
    for i in range(EPOCHS):
        for part, size in (("box", 1.0), ("cls", 2.0), ("dfl", 3.0)):
            writer.add_scalar(f"train/{part}_loss", size / (i + 1), i)
            writer.add_scalar(f"val/{part}_loss", size / (i + 1) + 0.1, i)
    writer.close()
    table = read(next((tmp_path / "tb").iterdir()))
    assert len(table.columns["train_loss"]) == EPOCHS
    np.testing.assert_allclose(table.columns["valid_loss"] - table.columns["train_loss"], 0.1, atol=1e-6)


def test_checksums_are_those_of_the_standard() -> None:
    assert tfrecord.checksum(b"") == 0xA282EAD8
    crc = (tfrecord.checksum(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert ((crc << 15 | crc >> 17) & 0xFFFFFFFF) == 0xE3069283  # the check value of CRC-32C


def test_tensorboards_own_reader_opens_what_a_history_writes(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = [  # NaN and what single precision cannot hold are left out
        {"epoch": e, "train_loss": 0.9**e, "term:L1(0.1) auf Höhe": (2.0, math.nan, 1e39)[min(e, 2)], "seconds": 0.5}
        for e in range(300)
    ]
    history = History({}, rows)
    history.to_tensorboard(tmp_path / "run")
    path = history.to_tensorboard(tmp_path / "run")  # replaced, not beside it
    seen = accumulator.EventAccumulator(str(tmp_path / "run"), {"scalars": 0}).Reload()
    assert sorted(seen.Tags()["scalars"]) == ["seconds", "term:L1(0.1) auf Höhe", "train_loss"]
    losses = seen.Scalars("train_loss")
    assert [one.step for one in losses] == list(range(300))
    np.testing.assert_allclose([one.value for one in losses], history["train_loss"], rtol=1e-6)
    assert losses[-1].wall_time - losses[0].wall_time == pytest.approx(149.5, abs=1e-3)
    assert len(seen.Scalars("term:L1(0.1) auf Höhe")) == 1
    np.testing.assert_allclose(read(path).columns["train_loss"], history["train_loss"], rtol=1e-6)


def test_event_files_agree_with_the_reader_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    util = pytest.importorskip("tensorboard.util.tensor_util")
    path = torch_tensorboard(tmp_path, case("overfits"))
    expected: dict[str, list[tuple[int, float]]] = {}
    for event in loader.EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                expected.setdefault(value.tag, []).append((event.step, float(util.make_ndarray(value.tensor))))
    found, whole = event_files.scalars(path)
    assert whole
    assert found == expected


@pytest.mark.parametrize("kept", [0.999, 0.6, 0.2])
def test_event_files_that_break_off_are_read_up_to_there(tmp_path: Path, kept: float) -> None:
    data = torch_tensorboard(tmp_path, case("overfits")).read_bytes()
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(data[: int(kept * len(data))])
    assert "breaks off" in " ".join(reading(path).notes)
    spoilt = bytearray(data)
    spoilt[len(data) // 3] ^= 1  # a wrong bit ends it too: nothing after it can be trusted
    path.write_bytes(bytes(spoilt))
    assert len(Curves.of(path)) < EPOCHS


def test_event_files_of_anything_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    random = np.random.default_rng(0)
    for data in (b"epoch,loss\n1,2\n", random.bytes(5000), struct.pack("<QI", 2**63, 0)):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not a file of TensorBoard events"):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no scalars"):
        read(path)
    for length in (1, 7, 30):  # sound records of rubbish
        body = random.bytes(length)
        head = struct.pack("<Q", length)
        sums = [struct.pack("<I", tfrecord.checksum(part)) for part in (head, body)]
        path.write_bytes(head + sums[0] + body + sums[1])
        with pytest.raises(DataError):
            read(path)


# Bad input


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "log.csv",
            b"epoch,loss\n0,0.5\n1,0,4\n",
            "3 cells on line 3, more than its header's 2.*separate the columns by semicolons",
        ),
        ("log.csv", b"epoch,loss,val_loss\n0,1,1e\n", "'val_loss' has '1e' in row 1"),
        ("log.csv", b"epoch,loss,val_loss\n0,1_000,1\n", "'1_000' in row 1"),
        ("log.csv", b"Wall time,Step,Value\n1,2,3\n", "exported by TensorBoard without its name"),
        ("log.csv", b"epoch,loss,val_loss\n0,,\n1,,\n", "not one value in loss, val_loss"),
        ("log.csv", b"\x00" * 100, "."),
        ("log.csv", b"a" * 200_000, "."),
        ("log.json", b"[" * 100_000, "nested too deeply"),
        ("log.json", b'{"loss": [' + b"9" * 5000 + b"]}", "not readable JSON"),
        ("log.json", b'"text"', "needs 'rows' and 'facts'"),
        ("log.json", b"{}", "needs 'rows' and 'facts'"),
        ("log.json", b'{"loss": ["high", "low"]}', "'high' in row 1"),
        ("log.jsonl", b"", "empty"),
        ("log.jsonl", b'{"loss": 1}\n[]\n', "every line needs an object"),
        ("log.jsonl", b'{"loss": 1}\noops\n', "line 2"),
        ("log.csv.gz", b"no gzip", "cannot be unpacked"),
        ("log.csv.gz", gzip.compress(b"epoch,loss\n0,1\n", mtime=0)[:-6], "cannot be unpacked"),
    ],
)
def test_bad_files_get_one_clear_sentence(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) < 1000


def test_pipes_and_empty_names_are_not_read(tmp_path: Path) -> None:
    """A pipe would be waited for without end; an empty name is an unset variable, and no folder."""
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(DataError, match="is a pipe or a device"):
        read(tmp_path / "log.csv")
    with pytest.raises(DataError, match="is a folder without"):
        read(tmp_path)
    with pytest.raises(DataError, match="name of the source is empty"):
        read("")
    with pytest.raises(DataError, match="no column: give each of loss as a list"):
        read({"loss": 0.5})


def test_files_without_end_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"epoch,loss\n" + b"0,1\n" * 2**20))
    with reading_up_to("16MiB"), pytest.raises(DataError, match=r"has 2 MiB or more, unpacked.*--max-memory 1GiB"):
        read(tmp_path / "log.csv.gz")


def test_odd_cells_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        'sep=;\n;epoch;Loss;VAL_LOSS;lr;memo\n0;0;"1,5";1,5;fast;"a;\nb"\n1;1;NaN;N/A;;\n2;2;1e400;0,5;;\n;;;;;\n'
    )
    curves = Curves.of(path)
    assert curves.train_loss.tolist()[0::2] == [1.5, math.inf]
    assert math.isnan(curves.train_loss[1])
    notes = " ".join(reading(path).notes)
    assert "'lr' has 'fast' in row 1; a number is needed. It was left out." in notes
    assert "decimal commas" in notes
    assert Curves.of({"loss": [10**400, 1.0], "val_loss": [1, 2]}).train_loss[0] == math.inf
    assert Curves.of({"epoch": ["1,000", "2,000"], "loss": [1, 2]}).epoch.tolist() == [1000, 2000]


def test_names_of_others_steer_neither_a_terminal_nor_a_page(tmp_path: Path) -> None:
    name = "\x1b[31m loss\x07"
    path = tmp_path / "<b>\x1b]0;title\x07.csv"
    path.write_text(f"epoch,{name},val_loss,<script>\n0,1,1,1\n1,0.5,0.6,1\n2,0.4,0.5,1\n")
    found = diagnose(path)
    assert found.to_dict()["columns"]["train_loss"] == name
    assert "\x1b" not in str(found) + found._repr_html_() + str(diagnose_many([path, path]))
    assert "<script>" not in found._repr_html_()
    assert "&lt;script&gt;" in found._repr_html_()


# The turning point


def test_the_turning_point_is_where_it_was_planted() -> None:
    c = case("overfits")
    turned = diagnose({"loss": c["train"], "val_loss": c["valid"]}).turn
    assert turned is not None
    assert turned.certain
    assert turned.matters
    assert turned.epoch_low <= best(c) <= turned.epoch_high
    assert abs(turned.epoch - best(c)) <= 1
    assert turned.low < c["valid"][-1] - 0.03 - c["valid"].min() < turned.high + 0.03
    assert turned.percent == pytest.approx(100 * turned.rise / c["valid"].min(), rel=0.05)
    assert turned.disagree is None


def test_the_unit_of_the_loss_changes_no_percentage() -> None:
    c = case("overfits")
    first, second = (diagnose({"loss": u * c["train"], "val_loss": u * c["valid"]}).turn for u in (1.0, 1e6))
    assert first is not None
    assert second is not None
    assert second.percent == pytest.approx(first.percent)
    assert (second.epoch, second.since) == (first.epoch, first.since)


@pytest.mark.parametrize("epochs", [20, 100, 1000, 4000])
def test_the_interval_of_the_turning_point_holds_it(epochs: int) -> None:
    """Also in long runs, where the lowest of thousands of levels lies far below them all."""
    t, at = np.arange(epochs), 0.4 * epochs
    clean = 0.4 + np.exp(-8 * t / at) + 0.3 * np.maximum(t - at, 0) / epochs
    held = []
    for seed in range(20):
        noisy = clean + 0.03 * np.random.default_rng(seed).normal(size=epochs)
        turned = diagnose({"loss": np.exp(-t / epochs), "val_loss": noisy}).turn
        if turned is not None and turned.certain:
            held.append(turned.epoch_low <= clean.argmin() <= turned.epoch_high)
    assert len(held) >= 15
    assert np.mean(held) >= 0.95


def test_how_long_ago_is_told_in_epochs_also_where_few_were_validated() -> None:
    c = case("overfits")
    epochs, steps = 10 * np.arange(len(c["valid"])) + 9, 500 * np.arange(len(c["valid"]))
    late = diagnose({"step": steps + 20_240_100, "loss": c["train"], "val_loss": c["valid"]})
    assert late.turn is not None
    assert f"turned at step {late.turn.epoch:.0f} " in str(late)
    by_epoch = diagnose({"epoch": epochs, "loss": c["train"], "val_loss": c["valid"]}).turn
    by_step = diagnose({"step": steps, "loss": c["train"], "val_loss": c["valid"]}).turn
    assert by_epoch is not None
    assert by_step is not None
    assert by_epoch.epoch + by_epoch.since == epochs[-1]
    assert f"{by_epoch.since:g} epochs before the end" in by_epoch.says()
    assert by_step.epoch + by_step.since == steps[-1]
    assert f"{by_step.since:g} steps before the end" in by_step.says("step")


def test_curves_without_noise_have_no_interval_of_rounding() -> None:
    turned = diagnose({"val_loss": [1 - 0.08 * min(i, 8) + 0.03 * max(i - 8, 0) for i in range(20)]})
    assert "±" not in str(turned)
    assert "rose by 0.27 (69.2 %)" in str(turned)


def test_loss_and_error_disagree_where_only_confidence_grew() -> None:
    for kind, expected in (("overfits", False), ("overconfident", True)):
        c = case(kind)
        columns = {"loss": c["train"], "val_loss": c["valid"], "accuracy": c["right"], "val_accuracy": c["hits"]}
        turned = diagnose(columns).turn
        assert turned is not None
        assert turned.disagree is expected
        assert ("Loss and error disagree" in turned.says()) is expected


def test_noise_is_no_turning_point() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(100):
        valid = 0.5 + 0.5 * np.exp(-np.arange(60) / 4) + 0.02 * rng.normal(size=60)
        turned = diagnose({"loss": 0.4 + 0 * valid, "val_loss": valid}).turn
        wrong += turned is not None and turned.certain
    assert wrong <= 5
    falling = list(np.linspace(1, 0.1, 20))
    assert diagnose({"loss": falling, "val_loss": falling}).turn is None
    assert diagnose({"loss": falling}).turn is None


# What is not known


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        ("keras csv", "penalties of layers are inside loss and val_loss alike"),
        ("keras events", "penalties of layers are inside loss and val_loss alike"),
        ("lightning", "of single batches, or averaged over a moving epoch"),
        ("transformers", "divergence may be hidden; label smoothing, if any, is inside loss and eval_loss alike"),
        ("wandb", "smoothed before it was exported"),
        ("long table", "usually taken in training mode"),
    ],
)
def test_what_cannot_be_known_depends_on_the_writer(writer: str, said: str, tmp_path: Path) -> None:
    found = diagnose(WRITERS[writer][0](tmp_path, case("healthy")))
    assert said in " ".join(found.limits)
    assert any("training mode" in sentence for sentence in found.limits)


def test_changes_of_a_recipe_are_shown_with_the_lever() -> None:
    finding = Finding("overfits", 0.9, {}, "regularize", "It overfits.", "regularization", "regularizer",
                      (Change("weight_decay 0 -> 0.01", {}), Change("dropout 0.2", {})))  # fmt: skip
    found = Diagnosis((finding,), Curves.of({"loss": [1.0, 0.5], "val_loss": [1.0, 0.6]}))
    for shown in (str(found), found._repr_html_()):
        assert "regularization | regularizer" in shown
        assert html.unescape(shown).count("Try first: weight_decay 0 -> 0.01; then dropout 0.2.") == 1


# The command


def call(*words: object, terminal: int = 0) -> tuple[int, str, str]:
    """Run the command in this process; ``terminal`` is the width of one, 0 for a pipe."""
    pytest.importorskip("typer")
    from wellposed.cli import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wellposed", "diagnose", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        if terminal:
            patch.setattr(out, "isatty", lambda: True, raising=False)
            patch.setenv("COLUMNS", str(terminal))
        with pytest.raises(SystemExit) as ended:
            main.run()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture
def logs(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for kind in ("healthy", "overfits", "diverged"):
        (tmp_path / kind).mkdir()
        found[kind] = keras_csv(tmp_path / kind, case(kind))
    return found


def test_several_sources_are_one_table_the_worst_first(logs: dict[str, Path]) -> None:
    status, out, err = call(*logs.values())
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["diverged", "overfits", "healthy"]
    assert lines[2].endswith(str(logs["overfits"]))
    assert "Next:" not in out
    _, out, _ = call(*logs.values(), "--details")
    assert out.count("Next:") == 3
    assert out.index("training diverged") < out.index("the network overfits") < out.index("look healthy")


def test_what_cannot_be_read_is_said_and_the_rest_is_judged(logs: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    status, out, err = call(tmp_path / "none.csv", logs["overfits"], bad)
    assert status == 1
    assert out.startswith(f"{logs['overfits']}: overfits")
    assert [line.split(":")[0] for line in err.splitlines()] == ["Error", "Error"]
    assert "no column of losses" in err
    status, out, err = call(logs["healthy"], bad, "--json")
    assert status == 1
    assert [one["source"] for one in json.loads(out)] == [str(logs["healthy"])]
    status, out, err = call(bad, "--json")
    assert (status, out) == (1, "")


def test_a_damaged_run_does_not_keep_the_others_from_being_judged(tmp_path: Path) -> None:
    c = case("overfits")
    good = {"run": "good", "loss": c["train"].tolist(), "val_loss": c["valid"].tolist()}
    lines = [
        good,
        {"run": "bad", "loss": ["oops"], "val_loss": [1.0]},
        {**good, "run": "too"},
        {"run": "none", "best": 0.3},
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, out, err = call(tmp_path / "runs.jsonl", "--json")
    assert status == 1
    assert [one["source"].rsplit(": ", 1)[-1] for one in json.loads(out)] == ["good", "too"]
    assert [line.count("runs.jsonl: ") for line in err.splitlines()] == [1, 1]
    with pytest.raises(DataError, match="'oops' in row 1"):
        diagnose_many([tmp_path / "runs.jsonl"])


def test_json_has_the_contract_and_more(logs: dict[str, Path]) -> None:
    status, out, err = call(*logs.values(), "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert [one["source"] for one in found] == [str(path) for path in logs.values()]  # as given: programs match them up
    for one in found:
        assert {"source", "best_epoch", "findings", "turn", "columns", "limits", "epochs"} <= set(one)
        assert one["epochs"] == EPOCHS
    assert found[1]["turn"]["matters"] is True
    assert found[1]["columns"]["valid_loss"] == "val_loss"


def test_a_terminal_gets_a_drawing_and_a_pipe_none(logs: dict[str, Path]) -> None:
    _, out, _ = call(logs["overfits"], terminal=90)
    drawing = out.split("overfits, confidence")[0].splitlines()
    assert max(map(len, drawing[:16])) <= 90
    assert any("▲" in line for line in drawing)
    assert "● validation loss" in out
    for narrow in (call(logs["overfits"], terminal=40), call(logs["overfits"])):
        assert "●" not in narrow[1]
    _, out, _ = call(*logs.values(), terminal=70)
    assert max(map(len, out.splitlines()[1:4])) <= 100


def test_an_output_of_ascii_alone_gets_what_it_can_take(logs: dict[str, Path]) -> None:
    main = pytest.importorskip("wellposed.cli.main")
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wellposed", "diagnose", str(logs["overfits"])])
        patch.setattr(sys, "stdout", plain)
        patch.setattr(plain, "isatty", lambda: True, raising=False)
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main.run()
    assert not ended.value.code
    plain.flush()
    assert b"^ turned at epoch 10" in plain.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["svg", "png", "html"])
def test_a_source_of_any_script_is_drawn_without_a_warning(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = keras_csv(tmp_path / "漢字 🎉 हिन्दी", case("overfits"))
    status, _, complaints = call(source, "--figure", tmp_path / f"figure.{kind}")
    assert (status, complaints) == (0, "")
    if kind != "png":
        assert "漢字 🎉 हिन्दी" in (tmp_path / f"figure.{kind}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["curves.svg", "curves.png", "curves.html"])
def test_figures_are_written(logs: dict[str, Path], tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    status, out, _ = call(*logs.values(), "--figure", tmp_path / name)
    assert status == 0
    assert out.splitlines()[-1] == f"figure: {tmp_path / name}"
    data = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG")
        return
    words = data.decode()
    assert "turned: 10" in words
    assert "no finite loss" in words
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]*", "", words)  # it loads nothing
    assert not re.search(r"#0000a\d", words)  # every colour has become one of the theme
    if name.endswith("svg"):
        ElementTree.fromstring(words)
    assert words.index("diverged") < words.index("overfits")


def test_a_figure_of_no_kind_is_refused_before_anything_is_read(logs: dict[str, Path]) -> None:
    status, out, err = call(logs["overfits"], "--figure", "curves.bmp")
    assert (status, out) == (1, "")
    assert "ends in .svg, .png, .html" in err


# The page


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "diagnose.md").read_text()
    column_names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, column_names)
    printed, shown = capsys.readouterr().out, "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL))
    number = r"\d+\.?\d*"
    assert re.sub(number, "1", printed) == re.sub(number, "1", shown)
    for a, b in zip(re.findall(number, printed), re.findall(number, shown), strict=True):
        assert float(a) == pytest.approx(float(b), rel=0.1), "the page shows other numbers"


def test_the_page_lists_every_finding_with_its_axis_and_lever() -> None:
    page = (Path(__file__).parents[1] / "docs" / "diagnose.md").read_text()
    listed = {
        name: (axis, pulls) for name, axis, pulls in re.findall(r"^\| `(\w+)` \| (\w+), (\w+) \|", page, re.MULTILINE)
    }
    assert listed == {rule.name: (rule.axis, rule.pulls) for rule in rules()}


def test_a_column_whose_name_has_a_line_end_is_told_in_one_line() -> None:
    with pytest.raises(DataError) as caught:
        diagnose({"train_loss": ["one", "two"], "val\nloss": [1.0, 2.0]})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        cells.cell_numbers(["one"], "train\nloss")
    assert str(caught.value) == "Column 'train loss' has 'one' in row 1; a number is needed."


@pytest.mark.parametrize(
    "text",
    ['loss\n"0.5\n' + "0.4\n" * 300_000, 'epoch loss\n1 "0.5\n' + "1 0.4\n" * 300_000, '"epoch,loss\n' + "1,0.5\n" * 300_000,
     'a,loss\n1,"0.5\n' + "\n" * 300_000, '# written by hand\nloss\n"0.5\n' + "0.4\n" * 300_000],
    ids=["one column", "blanks", "header", "blank lines", "remark"],
)  # fmt: skip
def test_lines_that_can_say_nothing_are_not_searched(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open quote over millions of lines is refused as fast as the text is read."""
    searched: list[str] = []
    real = lines_of_text.understood
    monkeypatch.setattr(lines_of_text, "understood", lambda line: searched.append(line) or real(line))
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be read as a table near line|no column of losses|more cells"):
        diagnose(tmp_path / "log.csv")
    assert len(searched) <= 3


@pytest.mark.parametrize(
    "quantity", [*sorted({*column_names.HEADS, "wer", "bleu"}), "Top1", "LOSS", "Acc", "eRR", "Learning Rate", "LR"]
)
@pytest.mark.parametrize("place", ["ep 3", "Epoch: 3", "EPS#3", "step=3", "Iteration (3", "iters 3", "STEPS [3"])
def test_every_line_that_says_something_is_searched(quantity: str, place: str) -> None:
    lines = [f"{quantity}: 0.5", place, f"x {place} y"]
    for line in lines:
        assert [*lines_of_text.speaking(f"1\n\n2\n{line}\n3")] == [line]
        assert [*lines_of_text.speaking(line)] == [line]
    assert [*lines_of_text.speaking("\n".join(lines))] == lines


@pytest.mark.parametrize("kind", [Mock, MagicMock, NonCallableMagicMock])
def test_what_answers_to_every_name_is_no_frame(kind: type) -> None:
    with pytest.raises(DataError, match="cannot read a"):
        Curves.of(kind())


def test_a_dict_that_holds_itself_under_many_keys_is_read_at_once() -> None:
    curves: dict[str, Any] = {
        "train_loss": [1.0 / (i + 1) for i in range(30)],
        "val_loss": [1.1 / (i + 1) for i in range(30)],
    }
    once = plain(curves)
    for i in range(200):  # 200 ** 6 ways lead into it
        curves[f"again {i}"] = curves
    read = plain(curves)
    assert {key: read[key] for key in once} == once
    assert read["again 7"] is None
