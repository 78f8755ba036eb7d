"""Every format of logs is read to the same curves and the same verdict, and what is odd in a file is said, not swallowed."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import diagnose
from wellposed.diagnosis.logs import Reading, read

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
    "keras events": (keras_tensorboard, "TensorBoard", 1,
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


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["overfits", "healthy", "diverged", "overconfident"])
def test_every_format_gives_the_same_curves_and_verdict(writer: str, kind: str, tmp_path: Path) -> None:
    write, format_, unit, columns = WRITERS[writer]
    planted = case(kind)
    path = write(tmp_path, planted)
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
    first = curves.epoch[0]
    assert found.best_epoch == best(planted) * unit + first
    understood = reading(path)
    assert understood.format == format_
    assert columns.items() <= understood.taken.items()
