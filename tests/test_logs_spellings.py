"""One known history, written in many spellings, is read to the same curves; and texts of each kind that was once misread."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import wellposed as wp
from wellposed.core.errors import DataError
from wellposed.logs import Table, read_all
from wellposed.logs.column_names import guess

TRAIN = [2.31, 1.74, 1.32, 1.05, 0.88]
VALID = [2.35, 1.91, 1.66, 1.58, 1.61]
SIDES = [
    ("train", "val"), ("Train", "Valid"), ("training", "validation"), ("tr", "va"), ("trn", "dev"), ("TRAIN", "TEST"),
    ("train", "eval"), ("Training", "Test"), ("learn", "holdout"),
]  # fmt: skip
NAMES = [
    "{side}_loss",
    "{side} loss",
    "{side}/loss",
    "{side}-loss",
    "loss/{side}",
    "loss_{side}",
    "Loss {side}",
    "{side}.loss",
]
COUNTED = [
    "Epoch {e}",
    "epoch: {e}",
    "[Epoch {e}/5]",
    "Epoch {e}/5:",
    "Epoch [{e}/5]",
    "ep {e}",
    "epoch={e}",
    "Epoch #{e}",
    "epoch {e} done",
]
BETWEEN = [", ", " | ", "; ", "  ", "\t", " - "]
MEANS = [": ", "=", " = ", " ", ":"]
HEADS = ["", "INFO:root:", "2024-03-05 10:11:12,345 - INFO - ", "\x1b[32m", "> ", "[trainer] "]
Spelling = tuple[str, str]


def lines(draw: random.Random, a: str, b: str) -> Spelling:
    """One sentence an epoch."""
    count, between, means, head = (draw.choice(kind) for kind in (COUNTED, BETWEEN, MEANS, HEADS))
    accuracy = draw.choice(["", f"{between}lr{means}0.001", f"{between}time{means}3.2s"])
    rows = [
        f"{head}{count.format(e=e)}{between}{a}{means}{x:.4f}{between}{b}{means}{y:.4f}{accuracy}"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
    ]
    return "\n".join(rows) + "\n", "log"


def two_lines(draw: random.Random, a: str, b: str) -> Spelling:
    """The epoch on a line of its own, and a line for each side."""
    count, means = draw.choice(COUNTED), draw.choice(MEANS)
    rows = [
        f"{count.format(e=e)}\n{a}{means}{x:.4f}\n{b}{means}{y:.4f}"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
    ]
    return "\n".join(rows) + "\n", "log"


def bars(draw: random.Random, a: str, b: str) -> Spelling:
    """A bar that rewrites itself, and then the sentence of the epoch."""
    means = draw.choice(MEANS)
    rows = [
        f"Epoch {e}:  50%|█████     | 5/10 [00:01<00:01, 4.2it/s]\rEpoch {e}: 100%|██████████| 10/10 [00:02<00:00, 4.2it/s]\n"
        f"Epoch {e}: {a}{means}{x:.4f}, {b}{means}{y:.4f}"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
    ]
    return "\n".join(rows) + "\n", "log"


def rows_of(a: str, b: str) -> list[dict[str, float]]:
    """A dict an epoch."""
    return [{"epoch": e, a: x, b: y} for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)]


def json_lines(draw: random.Random, a: str, b: str) -> Spelling:
    """JSON lines, in some of which a metric is a list."""
    more = draw.choice([{}, {"per_class": [0.1, 0.2, 0.3]}, {"lr": 0.1}])
    return "".join(json.dumps(row | more) + "\n" for row in rows_of(a, b)), draw.choice(["jsonl", "txt", "log"])


def printed_dicts(draw: random.Random, a: str, b: str) -> Spelling:
    """Dicts as Python prints them, behind some words."""
    head = draw.choice(["", "metrics: ", "INFO:root:"])
    return "".join(f"{head}{row}\n" for row in rows_of(a, b)), "log"


def history(draw: random.Random, a: str, b: str) -> Spelling:
    """A dict of lists, printed on one line or on many."""
    between = draw.choice([", ", ",\n  "])
    cells = [f"'{name}': [{between.join(map(str, values))}]" for name, values in ((a, TRAIN), (b, VALID))]
    return f"Done.\n{{{between.join(cells)}}}\n", draw.choice(["log", "txt"])


def delimited(draw: random.Random, a: str, b: str) -> Spelling:
    """A table of commas, semicolons or tabs."""
    sign = draw.choice([",", ";", "\t"])
    rows = [["epoch", a, b], *([str(cell) for cell in row.values()] for row in rows_of(a, b))]
    return "\n".join(sign.join(row) for row in rows) + "\n", draw.choice(["csv", "tsv", "txt"])


def ruled(draw: random.Random, a: str, b: str) -> Spelling:
    """A table with rules, with colours or marks on the lowest value, or quoted."""
    paint = draw.choice(["{}", "\x1b[36m{}\x1b[0m", "[36m{}[0m", "**{}**"])
    head = draw.choice(["", "> "])
    rows = [["epoch", a, b], ["-----", "------", "------"]]
    rows += [[str(e), paint.format(x), str(y)] for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    bar = draw.choice([True, False])
    return "\n".join(head + ("| " + " | ".join(row) + " |" if bar else "   ".join(row)) for row in rows) + "\n", "txt"


CONTAINERS: list[Callable[[random.Random, str, str], Spelling]] = [
    lines, two_lines, bars, json_lines, printed_dicts, history, delimited, ruled,
]  # fmt: skip


def curves(folder: Path, text: str, ending: str = "txt") -> Table:
    path = folder / f"run.{ending}"
    path.write_text(text, encoding="utf-8")
    (table,) = read_all(path)
    return table


def seen(table: Table, name: str) -> list[float]:
    return [round(float(cell), 6) for cell in table.columns.get(name, ())]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("container", CONTAINERS)
def test_one_history_in_many_spellings_is_one_history(
    container: Callable[[random.Random, str, str], Spelling], seed: int, tmp_path: Path
) -> None:
    draw = random.Random(f"{container.__name__} {seed}")
    for _ in range(4):
        name, sides = draw.choice(NAMES), draw.choice(SIDES)
        text, ending = container(draw, *(name.format(side=side) for side in sides))
        table = curves(tmp_path, text, ending)
        assert (seen(table, "train_loss"), seen(table, "valid_loss")) == (TRAIN, VALID), text


def told(template: str) -> str:
    return "".join(template.format(e=e, x=x, y=y) for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1))


KINDS = {
    "a list among the metrics": told('{{"train_loss": {x}, "test_loss": {y}, "ap": [0.1, {y}, 0.3], "epoch": {e}}}\n'),
    "first of two sets": told("[{e}]\tvalidation_0-logloss:{x}\tvalidation_1-logloss:{y}\n"),
    "numbered batches": told(
        "epoch: {e}, batch_id: 0, loss:9.5\nepoch: {e}, batch_id: 50, loss:9.1\n"
        "epoch: {e} done, train loss: {x}, val loss: {y}\n"
    ),
    "Chinese": told("第 {e} 轮次 | Epoch {e} | 训练损失: {x} | 验证损失: {y}\n"),
    "Russian": told("Epoch {e}: потери обучения: {x}, потери валидации: {y}\n"),
    "Turkish": told("Epok {e}/5, Eğitim Kaybı: {x}, Doğrulama Kaybı: {y}\n"),
    "Polish": told("Epoka {e}/5, strata: {x}, strata walidacyjna: {y}\n"),
    "Indonesian": told("Epoch {e}: loss latih {x}, loss validasi {y}\n"),
    "Korean": told("에포크 {e}/5, 손실: {x}, 검증 손실: {y}\n"),
    "two tabs": told("Epoch {e} of 5 took 1.5s\n  training loss:\t\t{x}\n  validation loss:\t\t{y}\n"),
    "remarks in cells": "| epoch | train_loss | val_loss |\n|---|---|---|\n" + told("| {e}/5 | {x} | {y} (so far best) |\n"),
    "French": told("Epoch {e}: loss entraînement: {x}, loss validation: {y}\n"),
    "escaped signs": told("epoch {e}: train\\_loss {x} | dev\\_loss {y}\n\n"),
    "remarks behind rows": "Epoch\ttrain/loss (avg)\tval/loss\n" + told("{e}\t{x}\t**{y}**\tbest so far\n"),
    "steps within epochs": told(
        "Training loss @ step 5: 9.1\nTraining loss @ step 10: 9.5\nEpoch: {e} Loss/Test: {y}, Loss/Train: {x}\n"
    ),
    "a head of two lines in comments": "% | Epoch | Time Elapsed |  Mini-batch  |  Validation  |\n"
    "% |       | (hh:mm:ss)   |     Loss     |     Loss     |\n"
    + told("% |      {e} |     00:00:10 |       {x} |       {y} |\n"),
    "a table in a string": "op=''' epoch    train_loss    valid_loss\n-------  ---------  ------\n"
    + told("      {e}   {x}   {y}\n")
    + "'''\n",
    "terms of a loss": "Step      Train loss              Test loss             Test metric\n"
    + told("{e}000      [{x}, 0.0e-00]    [{y}, 0.00e+00]    []  \n"),
    "lists that are no terms": "| epoch | train_loss | val_loss | acc | odd | none |\n"
    + told("| {e} | {x} | {y} | [0.1 0.2] | [0.1,] | [-] |\n"),
    "what the loading took": told("load: 0.012 epoch {e} train_loss: {x} val_loss: {y}\n"),
    "a mode on a line of its own": told("epoch: {e}, loss is: {x}\ntesting in eval mode\nepoch: {e}, loss is: {y}\n"),
    "cells that are left out": "  epoch    train_loss    valid_loss    cp     dur\n-----  ----------  ----------  ----  ------\n"
    + "".join(
        f"{e:>7}  {x:>12}  {y:>12}  {'   +' if e < 4 else '    '}  2.2838\n"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
    ),
    "a score of XGBoost": told("[{e}]\ttrain-rmspe:{x}\teval-rmspe:{y}\n"),
    "bars of one side": told("epoch {e}\nVal:  97%|█████▉| 33/34 [00:01<00:00, 20it/s]\nepoch {e} train loss {x} val loss {y}\n"),
    "an evaluation of the end": told("Epoch {e}/5\n9/9 [====] - 1s 2ms/step - loss: {x} - val_loss: {y}\n")
    + "9/9 [====] - 1s 2ms/step - loss: 0.7\n",
    "what was restored": told("Epoch #{e}: train_loss={x}, val_loss={y}\n") + "Loaded best model from epoch 4 (val_loss=1.5)\n",
    "commas below a printed network": "Layer (type)      Output Shape\n====\ndense (Dense)    (None, 1)\n,loss,val_loss\n"
    + told("{e},{x},{y}\n"),
    "sides alone, marks behind": "| Iter | Train | Val |\n|---:|---:|---:|\n" + told("| {e} | {x} | **{y}** \u2b50 |\n"),
    "bars between checkpoints": "--epochs 1\n"
    + told("Training [==  ] 8.5% {e}000/8874 | 4.6 it/s | loss={x} | validation_loss={y}\nSaved at step {e}000 to \"out\"\n"),
    "a bound beside batches": told(
        "TRAIN Batch 9/9, Loss 9.1\nTRAIN Epoch 0{e}/8, Mean Negative ELBO {x}\n"
        "VALID Batch 9/9, Loss 9.2\nVALID Epoch 0{e}/8, Mean Negative ELBO {y}\n"
    ),
    "sizes of sets": "Shape of all test data set is (742, 83)\n" + told("Epoch {e}: train loss {x} val loss {y}\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_were_misread(kind: str, tmp_path: Path) -> None:
    table = curves(tmp_path, KINDS[kind])
    assert (seen(table, "train_loss"), seen(table, "valid_loss")) == (TRAIN, VALID)


SEVERAL = {
    "stages": told("Epoch {e}: Train MSE Loss: {x}\n") + told("Epoch {e}: Train MAE Loss: {y}\n"),
    "stages that count on": told("Epoch {e}: pretrain loss {x}\n") + told("Epoch 1{e}: loss {y}\n"),
    "tables in notes": "".join(
        f"Run {i}, loss is cross entropy, 3.5 in all\n\n| Epoch | Loss |\n|---|---|\n" + told(row)
        for i, row in enumerate(("| {e} | {x} |\n", "| {e} | {y} |\n"), 1)
    ),
    "a name above its rounds": "".join(
        f"INFO : History (loss, {kind}):\n"
        + told(f"INFO : \tround {{e}}: {{{value}}}\n")
        + "INFO : {'accuracy': [(1, 0.5), (2, 0.6)]}\n"
        for kind, value in (("distributed", "x"), ("centralized", "y"))
    ),
    "rounds of experiments": told("Rodada {e}, Perda: {x}\n") + told("Rodada {e}, Perda: {y}\n"),
    "pairs of a server": "".join(f"fit: losses_centralized {[*enumerate(side)]}\n" for side in (TRAIN, VALID)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_runs_in_one_text(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(SEVERAL[kind], encoding="utf-8")
    assert [seen(table, "train_loss") for table in read_all(tmp_path / "train.log")] == [TRAIN, VALID]


def test_scores_of_nobody_are_of_validation(tmp_path: Path) -> None:
    table = curves(tmp_path, "epoch,steps,accuracy_cosine\n" + told("{e},-1,0.{e}\n"), "scores.csv")
    assert seen(table, "valid_metric") == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_several_scores_are_not_added_up(tmp_path: Path) -> None:
    text = "epoch  train_loss  val_loss  val_acc\n" + told("{e}  {x}  {y}  [0.5,0.9]\n")
    table = curves(tmp_path, text)
    assert (seen(table, "train_loss"), seen(table, "valid_loss")) == (TRAIN, VALID)
    assert "valid_metric" not in table.columns


RESULTS = {
    "models": "| model | size | train loss | val loss |\n|---|---|---|---|\n"
    "| small | 12M | 3.1 | 3.2 |\n| big | 90M | 2.4 | 2.9 |\n",
    "methods": "Method   Train loss   Test loss\nridge    0.31   0.44\nlasso    0.35   0.41\nnet    0.11   0.39\n",
    "best epochs": "1. epoch 15: score=0.59, val_loss=0.61\n"
    "2. epoch 11: score=0.58, val_loss=0.62\n3. epoch 12: score=0.57, val_loss=0.63\n"
    "4. epoch 7: score=0.56, val_loss=0.66\n",
    "tests alone": "Test results:\nLoss: 2.31 | Acc: 10%\n"
    "Test results:\nLoss: 2.25 | Acc: 12%\nTest results:\nLoss: 2.20 | Acc: 9%\n",
    "the last epoch": "Final epoch (see the plot):\n   loss: 0.552\n   val_loss: 4.06\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", RESULTS)
def test_results_of_finished_runs_are_no_curves(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        curves(tmp_path, RESULTS[kind])


def test_a_column_alone_is_a_curve(tmp_path: Path) -> None:
    table = curves(tmp_path, "training error\t\n" + "".join(f" {x:.4e}\t\n" for x in TRAIN))
    assert seen(table, "train_loss") == TRAIN


def test_the_error_of_training_alone_is_its_loss(tmp_path: Path) -> None:
    said = "".join(f"iterations: {10 * i}, training error: {x}\n" for i, x in enumerate(TRAIN, 1))
    assert seen(curves(tmp_path, said), "train_loss") == TRAIN
    both = guess(["step", "training error", "test error"])
    assert not both.taken.keys() & {"train_loss", "valid_loss"}


def test_arguments_of_a_script_are_no_row(tmp_path: Path) -> None:
    asked = "Namespace(epochs=300, loss_weights=[1.0, 1.0], lr=0.1, amp=False, seed=None, name='x', debug=True)\n"
    said = "".join(f"epoch {i} total_loss: {x}\n" for i, x in enumerate(TRAIN, 1))
    assert seen(curves(tmp_path, asked + said), "train_loss") == TRAIN
    parts = (
        "epoch {}: a_loss=tensor({}, device='cuda:0'), b=tensor(1., device='cuda:0'), c=tensor(2., device='cuda:0')\n"
    )
    assert seen(curves(tmp_path, "".join(parts.format(i, x) for i, x in enumerate(TRAIN, 1))), "train_loss") == TRAIN


@pytest.mark.parametrize("column", ["loss", "synth/loss"])
def test_a_folder_with_a_file_a_metric_is_one_run(column: str, tmp_path: Path) -> None:
    for side, values in (("train", TRAIN), ("val", VALID)):
        file = tmp_path / side / f"{column if side == 'val' else 'loss'}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("step\tloss\n" + "".join(f"{10 * i}\t{x}\n" for i, x in enumerate(values)), encoding="utf-8")
    (table,) = read_all(tmp_path)
    assert (seen(table, "train_loss"), seen(table, "valid_loss")) == (TRAIN, VALID)


@pytest.mark.parametrize("both", [True, False])
def test_a_folder_with_a_printed_log_a_side_is_one_run(both: bool, tmp_path: Path) -> None:
    looks = [f"[valid] Ep. {e} : Up. {100 * e} : ce-mean-words : {y}\n" for e, y in enumerate(VALID, 1)]
    costs = [f"Ep. {e} : Up. {100 * e} : Cost {x} : Time 4.1s\n" for e, x in enumerate(TRAIN, 1)]
    lines = [line for pair in zip(costs, looks, strict=True) for line in pair] if both else costs
    (tmp_path / "train.log").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "valid.log").write_text("".join(looks), encoding="utf-8")
    (table,) = read_all(tmp_path)
    assert (seen(table, "train_loss"), seen(table, "valid_loss")) == (TRAIN, VALID)


HALVES = {i: f"{1 / i:.3f}" for i in range(1, 7)}
ONE_RUN = {
    "sides in a header's brackets": "| Epoch | Loss (train) | Loss (val) |\n"
    + "".join(f"| {i} | {x} | {x} |\n" for i, x in HALVES.items()),
    "results before the epochs": "config: a\nname,loss\nmlp,0.5\nmlp,0.4\n\n"
    + "".join(f"Epoch {i}: train loss {x}, val loss {x}\n" for i, x in HALVES.items()),
    "steps of one epoch": "".join(f"epoch 1 step {100 * i} loss {x}\n" for i, x in HALVES.items())
    + "".join(f"epoch 1 step {100 * i} eval loss {x}\n" for i, x in HALVES.items()),
    "a table for each side": "Epoch  Train Loss\n" + "".join(f"{i}      {x}\n" for i, x in HALVES.items())
    + "\nEpoch  Val Loss\n" + "".join(f"{i}      {x}\n" for i, x in HALVES.items()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ONE_RUN)
def test_both_sides_of_one_run_stay_together(kind: str, tmp_path: Path) -> None:
    table = curves(tmp_path, ONE_RUN[kind])
    assert seen(table, "train_loss") == seen(table, "valid_loss") == [float(x) for x in HALVES.values()]


def test_a_table_of_commas_goes_on_below_a_blank_line(tmp_path: Path) -> None:
    rows = [f"{i},{x}\n" for i, x in HALVES.items()]
    table = curves(tmp_path, "hello\nworld\nepoch,loss\n" + "".join(rows[:3]) + "\n" + "".join(rows[3:]))
    assert seen(table, "train_loss") == [float(x) for x in HALVES.values()]


def test_evaluations_of_one_epoch_are_a_curve_along_its_steps(tmp_path: Path) -> None:
    said = "".join(f"epoch 0 | step {100 * i} | val loss {x}\n" for i, x in HALVES.items())
    assert seen(curves(tmp_path, said), "valid_loss") == [float(x) for x in HALVES.values()]


def test_a_metric_that_begins_late_is_no_stage(tmp_path: Path) -> None:
    rows = (f"{i},{'' if i > 6 else 1 / i},{1.1 / i},{'' if i < 7 else 1 / i}\n" for i in range(1, 13))
    assert len(curves(tmp_path, "epoch,train_loss,val_loss,mae\n" + "".join(rows), "csv").columns["valid_loss"]) == 12


TRAIN_ALONE = {
    "blocks of cells, the step last": told("-----\n| grad_norm | 3 |\n| loss | {x} |\n| step | {e}0 |\n-----\nsaved\n"),
    "blocks with sections": told("| time/      |     |\n| iterations | {e} |\n| train/     |     |\n| loss       | {x} |\n"),
    "a tensor behind a glued epoch": told("The loss of epoch{e}is:tf.Tensor({x}, shape=(), dtype=float32)\n"),
    "steps above a thousand": "".join(
        f"[epoch:  0, iter:  {900 * i:,}, lr:(2e-04,)] l_pix: {x}\n" for i, x in enumerate(TRAIN, 1)
    ),
    "a loss of the epoch": told("Training at Epoch #{e}...\nIteration:10 | Loss: 9.5\nTraining Loss of the epoch:{x}\n"),
    "means beside single batches": told(
        "".join(f"Epoch [{{e}}/5], Loss: {batch}\n" for batch in (9.5, 9.4, 9.3)) + "Epoch [{e}/5], Average Loss: {x}\n"
    ),
    "a script that prints itself": "    val_loss = 0.0\n" + told("step:{e}/5 train_loss:{x} train_time:1ms\n"),
    "a bar that is all there is": "Reading 1/2\rReading 2/2\n"
    + told("\rTraining progress: {e}0%|██| {e}0/90 [00:01<00:05, 55it/s, Loss={x}]"),
    "dates in words": "=== Training Loss (Mon Mar 11 09:27:59 2019) ===\n" + told("(epoch: {e}, time: 0.05) G_L1: {x}\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRAIN_ALONE)
def test_a_training_loss_among_other_words_and_numbers_is_read(kind: str, tmp_path: Path) -> None:
    table = curves(tmp_path, TRAIN_ALONE[kind])
    assert seen(table, "train_loss") == pytest.approx(TRAIN, rel=1e-3)
    assert "valid_loss" not in table.columns


@pytest.mark.parametrize("batches", ["8/8", "4/20"])
def test_an_evaluation_keeps_its_side_while_it_counts_batches_of_its_own(batches: str, tmp_path: Path) -> None:
    said = [
        f"Epoch {e}/5\nstep 10/20 - loss: 9.5 - 5ms/step\nstep 20/20 - loss: {x} - 5ms/step\n"
        f"Eval begin...\nstep {batches} - loss: {y}\nEval samples: 119\n"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
    ]
    table = curves(tmp_path, "".join(said))
    if batches == "8/8":
        assert seen(table, "valid_loss") == VALID
    else:  # as many as training has: they may be those of training
        assert "valid_loss" not in table.columns


def test_a_loss_that_reaches_zero_keeps_its_last_rows(tmp_path: Path) -> None:
    """A line that sets a loss to 0 is a script's before anything is said, and an epoch's afterwards; epochs count from 0."""
    falling = [0.9, 0.4, 0.1, 0.0, 0.0]
    said = "".join(f"epoch = {e}\ntrain_loss = {x}\nval_loss = {x + 1}\n" for e, x in enumerate(falling))
    table = curves(tmp_path, "train_loss = 0\n" + said)
    assert seen(table, "train_loss") == falling
    assert seen(table, "valid_loss") == [x + 1 for x in falling]


@pytest.mark.parametrize(
    "line", ["Epoch {e}: train loss: {x:,.1f}, val loss: {y:,.1f}\n", "| {e} | {x:,.1f} | {y:,.1f} |\n"]
)
def test_thousands_with_decimals_are_one_number(line: str, tmp_path: Path) -> None:
    rows = [line.format(e=e, x=1000 * x, y=1000 * y) for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    head = "| Epoch | Training Loss | Validation Loss |\n|---|---|---|\n" if line.startswith("|") else ""
    table = curves(tmp_path, head + "".join(rows))
    assert seen(table, "train_loss") == pytest.approx([1000 * x for x in TRAIN])
    assert seen(table, "valid_loss") == pytest.approx([1000 * y for y in VALID])


def test_an_epochs_mean_comes_before_batches_that_validation_stands_beside(tmp_path: Path) -> None:
    rows = "".join(
        f"{10 * e + b},{x + b},{x if b == 3 else ''},{y if b == 3 else ''}\n"
        for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)
        for b in (1, 2, 3)
    )
    table = curves(tmp_path, "step,train_loss,train_loss_epoch,val_loss\n" + rows, "csv")
    assert seen(table, "train_loss") == TRAIN


def test_perplexities_of_several_models_are_results(tmp_path: Path) -> None:
    said = "".join(
        f"--- training {n}-gram model ---\n dev perplexity: {9 - n}.5\n test perplexity: {8 - n}.5\n"
        for n in range(1, 5)
    )
    with pytest.raises(DataError):
        curves(tmp_path, said)


def test_a_loss_of_nobody_beside_one_of_training_is_asked_about(tmp_path: Path) -> None:
    rows = [{"epoch": e, "train_loss": x, "loss": y} for e, (x, y) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    table = curves(tmp_path, json.dumps(rows), "json")
    assert "valid_loss" not in table.columns
    assert table.facts["reading"].unassigned == ("loss",)


BETWEEN_EPOCHS = {
    "a quantity of the writer's own": "Epoch {e:03d}/5  tr_ssl={a}  tr_recon=0.{e}  va_ssl={b}  (62s)",
    "a report of classes below": "Epoch {e} | train loss {a} | val loss {b}\n        precision    recall  f1-score   support\n\n"
    "    0     0.54      0.28      0.37       465\n    accuracy                          0.60      1395\n",
    "two places before the value": "Loss at epoch {e} and iteration 0 is {a}\nValidation loss at epoch {e} and iteration 0 is {b}",
    "an evaluation with names of its own": '{{"epoch": {e}, "train_loss": {a}, "loss": {b}, "f1": 0.{e}}}',
}  # fmt: skip


@pytest.mark.parametrize("kind", BETWEEN_EPOCHS)
def test_both_sides_are_found_by_what_stands_beside_them(kind: str, tmp_path: Path) -> None:
    rows = [BETWEEN_EPOCHS[kind].format(e=e, a=a, b=b) for e, (a, b) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    table = curves(tmp_path, "\n".join(rows) + "\n")
    assert seen(table, "train_loss") == pytest.approx(TRAIN)
    assert seen(table, "valid_loss") == pytest.approx(VALID)


def test_lists_of_batches_and_lists_without_a_sign_are_of_one_run(tmp_path: Path) -> None:
    table = curves(tmp_path, f"Train Batch Losses: {TRAIN}\nTrain Losses {TRAIN}\nValid Losses {VALID}\n")
    assert seen(table, "train_loss") == pytest.approx(TRAIN)
    assert seen(table, "valid_loss") == pytest.approx(VALID)


def test_one_value_of_validation_beside_a_curve_is_left_out_and_said(tmp_path: Path) -> None:
    rows = "\n".join(f"epoch {e}: train_loss {a}" for e, a in enumerate(TRAIN, 1))
    table = curves(tmp_path, f"{rows}\nepoch 5: val_loss 1.6\n")
    assert "valid_loss" not in table.columns
    assert any("val_loss" in note and "no curve" in note for note in table.facts["reading"].notes)


def test_players_of_a_game_are_named_by_letters_and_rewards(tmp_path: Path) -> None:
    gan = "(epoch: {e}, iters: 4, time: 0.1) G_GAN: 0.{e} G_L1: {a} D_real: 0.1 D_fake: 0.4"
    game = "Episode {e} reward: -1{e}.0, Episode loss: {a} Mem size: 100"
    for number, line in enumerate((gan, game)):
        (folder := tmp_path / str(number)).mkdir()
        table = curves(folder, "\n".join(line.format(e=e, a=a) for e, a in enumerate(TRAIN, 1)) + "\n")
        assert wp.diagnose(table).names == ["moving_target"]


@pytest.mark.parametrize(
    "names",
    [
        "D_A,G_A,cycle_A,idt_A",
        "d_adv_loss,f_adv_loss",
        "disc_hinge_loss,gen_hinge_loss",
        "loss_D_B,loss_G_B",
        "netD_loss,g_loss",
    ],
)
def test_players_are_known_by_letters_and_by_what_stands_between(tmp_path: Path, names: str) -> None:
    lines = [f"{e},{','.join(str(a) for _ in names.split(','))}" for e, a in enumerate(TRAIN, 1)]
    assert wp.diagnose(curves(tmp_path, "\n".join([f"epoch,{names}", *lines]) + "\n", "csv")).names == ["moving_target"]


@pytest.mark.parametrize("names", ["adv_loss,nat_loss,val_loss", "train_loss_d,val_loss_d", "loss,gen_len,val_loss"])
def test_words_of_players_alone_are_no_game(tmp_path: Path, names: str) -> None:
    lines = [f"{e},{','.join(str(a) for _ in names.split(','))}" for e, a in enumerate(TRAIN, 1)]
    text = "\n".join([f"epoch,{names}", *lines]) + "\n"
    assert "moving_target" not in wp.diagnose(curves(tmp_path, text, "csv")).names


@pytest.mark.parametrize(
    "date",
    [
        "Wed Oct 30 10:43:06 2024",
        "Mon Feb  1 09:05:01 UTC 2021",
        "May 3, 2022, 9:05 PM",
        "Tuesday, Dec 1 2026 13:01:12",
    ],
)
def test_a_date_behind_the_word_loss_is_none(tmp_path: Path, date: str) -> None:
    lines = [f"(epoch: {e}, iters: 4, time: 0.1) D_A: 0.{e} G_A: {a} cycle_A: 1.2" for e, a in enumerate(TRAIN, 1)]
    table = curves(tmp_path, "\n".join([f"===== Training Loss ({date}) =====", *lines]) + "\n")
    assert "training loss" not in " ".join(table.facts["reading"].taken.values())
    assert wp.diagnose(table).names == ["moving_target"]


@pytest.mark.parametrize(
    "text", ["epoch 1: loss 0.5, val_loss 0.6\n", "hello\n", "=====\nno numbers\n", "wandb: a\nwandb: b\n"]
)
@pytest.mark.parametrize("ending", ["txt", "log", "out"])
def test_a_text_without_curves_is_not_called_a_table(tmp_path: Path, text: str, ending: str) -> None:
    with pytest.raises(DataError, match=r"fewer than two of its lines \(of \d\) say what a loss was"):
        curves(tmp_path, text, ending)


@pytest.mark.parametrize("often", [1, len(TRAIN)])
def test_lists_of_classes_beside_lines_are_no_histories(tmp_path: Path, often: int) -> None:
    """One of one side that is shorter than the lines, or one at each line."""
    lines = [f"Epoch {e}: train loss {a}, val loss {b}" for e, (a, b) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    lists = ["val loss [0.1, 0.2, 0.3]"]
    text = "\n".join([*lines, *lists] if often == 1 else [one for line in lines for one in (line, *lists)])
    table = curves(tmp_path, text + "\n")
    assert seen(table, "train_loss") == pytest.approx(TRAIN)
    assert seen(table, "valid_loss") == pytest.approx(VALID)


def test_histories_beside_lines_that_say_their_ends_are_runs(tmp_path: Path) -> None:
    """Each run prints both lists, and what they end with."""
    runs = [[value + shift for value in VALID] for shift in (0.0, 0.5, 1.0, 1.5)]
    lines = (
        f"Train Losses {TRAIN}\nValid Losses {one}\nFinal Train Loss {TRAIN[-1]}\nFinal Valid Loss {one[-1]}"
        for one in runs
    )
    (path := tmp_path / "log.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tables = read_all(path)
    assert [seen(table, "valid_loss") for table in tables] == [pytest.approx(one) for one in runs]


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        ([*VALID], True),
        ([*TRAIN], False),  # training's own, once more
        ([one for value in VALID for one in (value, value - 0.01)], False),  # of each batch
    ],
)
def test_a_plain_loss_beside_one_of_training_is_an_evaluation_where_it_behaves_as_one(
    other: list[float], taken: bool
) -> None:
    every = len(other) // len(TRAIN)
    train = [TRAIN[place // every] if place % every == 0 else None for place in range(len(other))]
    found = guess({"step": [*range(len(other))], "train_loss": train, "loss": other, "acc": [0.5] * len(other)})
    assert (found.taken.get("valid_loss") == "loss") == taken
    assert found.unassigned == (() if taken else ("loss",))


@pytest.mark.parametrize("word", ["hits", "reward", "correct"])
def test_a_quantity_that_training_raises_is_no_loss(word: str) -> None:
    rising = {"epoch": [1, 2, 3], f"train_{word}": ["1,5", "4.0", "7.0"], f"val_{word}": ["1.0", "3.0", "5.0"]}
    assert not guess(rising).taken.keys() & {"train_loss", "valid_loss"}
    falling = {name: cells[::-1] for name, cells in rising.items()}
    assert guess(falling).taken["valid_loss"] == f"val_{word}"


def test_durations_are_no_losses() -> None:
    for word in ("duration", "minutes", "runtime"):
        assert "train_loss" not in guess({f"train_{word}": ["9", "8", "7"], f"val_{word}": ["3", "2", "1"]}).taken


def test_an_axis_of_episodes_beside_returns_is_one(tmp_path: Path) -> None:
    lines = [f"{e},{e}.5,{a}" for e, a in enumerate(TRAIN, 1)]
    text = "\n".join(["episode,avg_return,loss", *lines]) + "\n"
    assert wp.diagnose(curves(tmp_path, text, "csv")).names == ["moving_target"]


@pytest.mark.parametrize("beside", ["entropy_loss", "success_rate", "num_episodes"])
def test_an_axis_of_episodes_is_no_game(tmp_path: Path, beside: str) -> None:
    lines = [f"{e},{a},{b},0.{e}" for e, (a, b) in enumerate(zip(TRAIN, VALID, strict=True), 1)]
    text = "\n".join([f"episode,train_loss,val_loss,{beside}", *lines]) + "\n"
    assert "moving_target" not in wp.diagnose(curves(tmp_path, text, "csv")).names
