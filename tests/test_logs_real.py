"""What people really have: whose a loss is, what a run and an epoch are, and what is printed, nested or a metric alone."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wellposed.core.errors import DataError
from wellposed.diagnosis.curves import Curves, error_rate
from wellposed.diagnosis.diagnose import diagnose, diagnose_many
from wellposed.logs import Reading, Table, read, read_all, read_each
from wellposed.logs.column_names import LOWER_IS_BETTER, guess, parse_name

TRAIN, VALID = (0.9, 0.7, 0.5, 0.4), (0.8, 0.6, 0.55, 0.65)
PAIRS = list(zip(TRAIN, VALID, strict=True))


def written(folder: Path, text: str, name: str = "train.log") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def reading(source: Any) -> Reading:
    found = read(source).facts["reading"]
    assert isinstance(found, Reading)
    return found


def lines(form: str) -> str:
    """Each epoch in a form: ``{e}`` counts from 1, ``{i}`` from 0, ``{t}`` and ``{v}`` are the losses, ``{b}`` is a batch's."""
    return "\n".join(form.format(e=i + 1, i=i, t=t, v=v, b=t + 0.1, s=100 * (i + 1)) for i, (t, v) in enumerate(PAIRS))


# Sides

SIDED = {
    "boosting, validation first": "[{i}]\teval-logloss:{v}\ttrain-logloss:{t}",
    "boosting behind clocks": "22/06/01 10:06:44 INFO Tracker: 2022-06-01 10:06:44,668 INFO [{i}] "
    "train-logloss:{t} eval-logloss:{v}",
    "tabs of a cloud": "[{i}]#011train-rmse:{t}#011validation-rmse:{v}",
    "gradient boosting": "[{e}]\ttraining's binary_logloss: {t}\tvalid_0's binary_logloss: {v}",
    "by sides alone": "{i}:\tlearn: {t}\ttest: {v}\tbest: {v} (0)\ttotal: 50ms\tremaining: 1m 4s",
    "camel case": "Epoch: {e}, TrainLoss: {t}, ValLoss: {v}",
    "glued": "epoch {e} trainloss={t} valloss={v}",
    "glued behind": "epoch {e} losstrain={t} lossval={v}",
    "sections": "Epoch {e} train: loss {t} acc .5 | valid: loss {v} acc .4",
    "sections, first of the line": "Epoch {e}: Train: Loss {t}, Acc 0.52 |Val: Loss {v}, Acc 0.69, F1 0.8",
    "quantity as section": "epoch {e} loss: train {t}, val {v}; acc: train 0.7, val 0.6",
    "slashes": "epoch {e} train/loss {t} val/loss {v}",
    "side behind a slash": "epoch {e} Loss/train: {t} Loss/val: {v}",
    "in parentheses": "Epoch {e} - Loss (train): {t} - Loss (val): {v}",
    "short": "ep {e} tr_loss {t} va_loss {v}",
    "v alone, behind a bar": "Validation: | | 0/? [00:00<?, ?it/s]\x1b[A[12/09/24 14:03:31] INFO Epoch {e}: v_loss {v} loss {t}",
    "two sides of one name": "Epoch {e}: loss (train/val): {t}/{v}",
    "sides behind numbers": "Epoch {e} loss: {t} (train) {v} (val)",
    "printed by knitr": "## Epoch {e} train loss {t} valid loss {v}",
    "tf.estimator": "INFO:tensorflow:loss = {t}, step = {s} (1.2 sec)\n"
    "INFO:tensorflow:Saving dict for global step {s}: accuracy = 0.5, global_step = {s}, loss = {v}",
    "a whole bar of Keras with ETA": "Epoch {e}/4\n9/9 [=====] - ETA: 0s - loss: {b}\n"
    "9/9 [=====] - 1s 5ms/step - loss: {t} - val_loss: {v}",
    "a whole bar of Keras 3, and its last state": "Epoch {e}/4\n8/9 ━━ 1s 5ms/step - loss: {b}\n"
    "9/9 ━━━ 0s 5ms/step - loss: {b}\n"
    "9/9 ━━━━ 2s 70ms/step - loss: {t} - val_loss: {v} - learning_rate: 0.0010",
    "bars without an epoch": "Training: 100%|█████| 5/5 [00:01<00:00, 4.0it/s, loss={t}]\n"
    "Validation: 100%|█████| 5/5 [00:01<00:00, 4.0it/s, loss={v}]",
    "a text that the network wrote": "Epoch {e} train loss {t} val loss {v}\nSample 0: this is a very nice step 10 for you and all "
    "of the other people who like to read what a network has to say",
    "Julia's @show": "(epoch, train_loss(x[1]), val_loss(y)) = ({e}, {t}f0, {v}f0)",
    "German": "Epoche {e}: Trainingsverlust {t}, Validierungsverlust {v}",
    "Portuguese": "Época {e}: perda treino = {t}, perda validação = {v}",
    "French": "Époque {e} : perte entraînement {t} perte validation {v}",
    "cv": "epoch {e} tr_loss {t} cv_loss {v}",
    "dev": "Epoch {e} | train loss {t} | dev loss {v}",
    "hold-out": "epoch {e}, training loss {t}, hold-out loss {v}",
    "letters": "epoch {e} t_loss={t} v_loss={v}",
    "test": "Epoch {e}, Train Loss: {t}, Test Loss: {v}",
    "validation first": "epoch {e} val_loss: {v} - val_acc: 0.5 - loss: {t} - acc: 0.6",
    "Keras with its rate": "Epoch {e}/4\n9/9 - 1s - loss: {t} - accuracy: 0.8 - val_loss: {v} - val_accuracy: 0.7 - lr: 0.001",
    "two lines": "Epoch: {e:02d} | Epoch Time: 0m 31s\n\tTrain Loss: {t} | Train Acc: 50.00%\n"
    "\t Val. Loss: {v} |  Val. Acc: 49.00%",
    "headings": "Epoch {e}\nTraining:\n  loss: {t}\nValidation:\n  loss: {v}",
    "phases of a tutorial": "Epoch {i}/3\n----------\ntrain Loss: {t} Acc: 0.8\nval Loss: {v} Acc: 0.7",
    "a checkpoint between": "Epoch {e} train_loss {t} val_loss {v}\nEpoch {e}: val_loss improved from 9.1 to {v}, saving model",
    "a patience between": "Epoch {e}: train loss {t}, val loss {v}\nValidation loss decreased (9.3 --> {v}).  Saving model ...",
    "the best beside": "epoch {e} best test acc: 0.912, train loss: {t}; val loss: {v}",
    "item": "epoch={e} train_loss.item()={t} valid_loss.item()={v}",
    "misspelt": "Epoch: {e} Train_los: {t}, Val_los: {v}",
    "a grid's margin": "| end of epoch {e} | time: 36.96s | train loss {t} | valid loss {v}",
    "Flair": "EPOCH {e} done: loss {t} - lr 0.000039\nDEV : loss {v} - f1-score (micro avg)  0.5871",
    "Chainer": '{{"epoch": {e}, "main/loss": {t}, "validation/main/loss": {v}}}',
    "perplexities": "epoch {e} train ppl {t} valid ppl {v}",
}  # fmt: skip


@pytest.mark.parametrize("form", SIDED)
def test_whose_a_loss_is(form: str, tmp_path: Path) -> None:
    curves = Curves.of(written(tmp_path, lines(SIDED[form])))
    of = np.log if form == "perplexities" else np.asarray
    np.testing.assert_allclose(curves.train_loss, of(TRAIN))
    np.testing.assert_allclose(curves.valid_loss, of(VALID))


@pytest.mark.parametrize("side", ["tr", "trn", "train", "training", "Train", "TRAIN", "fit", "learn"])
@pytest.mark.parametrize(
    "other", ["va", "val", "valid", "validation", "cv", "dev", "eval", "holdout", "heldout", "te", "test"]
)
def test_any_usual_name_of_a_side_before_or_behind(side: str, other: str) -> None:
    for sign in ("_", "/", ".", "-", " ", ":"):
        for form in ("{}{}loss", "loss{1}{0}"):
            names = [form.format(one, sign) for one in (other, side)]
            taken = guess(names).taken
            assert (taken.get("train_loss"), taken.get("valid_loss")) == (names[1], names[0]), names


def test_two_equal_names_on_one_line_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"two values called 'loss' on one line \(0.9 and 0.8\).*train_loss and val_loss"
    ):
        read(written(tmp_path, lines("epoch {e} loss {t} loss {v}")))
    assert len(read(written(tmp_path, lines("epoch {e} loss {t} loss {t}"))).columns["train_loss"]) == 4


def test_a_loss_of_an_unknown_side_is_carried_on_and_asked_about() -> None:
    found = {"epoch": [1, 2, 3], "loss": [3, 2, 1], "shadow_loss": [2, 1, 2]}
    assert reading(found).unassigned == ("shadow_loss",)
    assert "If it is of validation, call it val_loss." in " ".join(reading(found).notes)
    assert not reading({**found, "val_loss": [2, 1, 2]}).unassigned
    assert not reading({"epoch": [1, 2, 3], "loss": [3, 2, 1], "kl_loss": [2, 1, 2]}).unassigned


# Runs and epochs

ONCE = {
    "one epoch at a time": "Epoch 1/1\n9/9 [====] - 1s - loss: {t} - val_loss: {v}",
    "one epoch on its line": "Epoch 1/1 loss: {t} val_loss: {v}",
    "batches in brackets": "Epoch: [{i}][10/30] Loss {b} ({b})\nEpoch: [{i}][20/30] Loss {t}\n"
    "Epoch: {i} train loss {t} val loss {v}",
    "steps of an epoch": "Epoch [{e}/4], Step [10/30], Loss: {b}\nEpoch [{e}/4], Train Loss: {t}, Val Loss: {v}",
    "bars": "Epoch {e}/4\n1/9 [>...] - ETA: 3s - loss: {b}\n5/9 [==>.] - ETA: 1s - loss: {b}\n"
    "9/9 [====] - loss: {t} - val_loss: {v}",
    "rewritten bars": "Epoch {e}/4\n1/9 [>...] - loss: {b}\b\b\b\b\r9/9 [====] - loss: {t} - val_loss: {v}",
    "a bar of tqdm": "Epoch {e}:  50%|█████     | 5/9 [00:01<00:01, loss={b}]\n"
    "Epoch {e}: 100%|█| 9/9 [00:01<00:00, loss={t}, val_loss={v}]",
}  # fmt: skip


@pytest.mark.parametrize("form", ONCE)
def test_what_an_epoch_is(form: str, tmp_path: Path) -> None:
    curves = Curves.of(written(tmp_path, lines(ONCE[form])))
    np.testing.assert_allclose(curves.train_loss, TRAIN)
    np.testing.assert_allclose(curves.valid_loss, VALID)


def test_batches_without_a_summary_are_averaged_within_their_epoch(tmp_path: Path) -> None:
    text = lines("[{e},  1000] loss: {b}\n[{e},  2000] loss: {t}")
    np.testing.assert_allclose(Curves.of(written(tmp_path, text)).train_loss, np.array(TRAIN) + 0.05)


@pytest.mark.parametrize("between", ["", "===== Fold 2 =====\n", "Starting training\n"])
def test_numbers_that_begin_anew_are_several_runs(between: str, tmp_path: Path) -> None:
    form = lines("Epoch {e}/4 loss: {t} val_loss: {v}")
    first = "===== Fold 1 =====\n" if "Fold" in between else ""
    path = written(tmp_path, f"{first}{form}\n{between}{form}\n")
    assert [table.columns["train_loss"].tolist() for table in read_all(path)] == [[*TRAIN], [*TRAIN]]
    assert len(diagnose_many([path])) == 2
    with pytest.raises(DataError, match="holds 2 runs"):
        diagnose(path)


@pytest.mark.parametrize("first", [0, 1])
def test_a_table_that_begins_anew_holds_several_runs_and_a_resumed_one_is_one(first: int, tmp_path: Path) -> None:
    rows = [[first + i, t, v] for i, (t, v) in enumerate(PAIRS)]

    def table(*parts: list[list[float]]) -> Path:
        text = "\n".join(",".join(map(str, row)) for part in parts for row in part)
        return written(tmp_path, f"epoch,loss,val_loss\n{text}\n", "log.csv")

    assert len(read_all(table(rows, rows, rows))) == 3
    assert len(read_all(table(rows[:1], rows))) == 2
    assert len(read_all(table(rows, rows[2:]))) == 1  # it goes back to an epoch that is not the first
    assert len(read_all(table(rows[::-1]))) == 1


def test_a_second_stage_of_another_pace_is_a_run(tmp_path: Path) -> None:
    stages = [f"epoch {e}: train_loss={3 / (e + 1):.5f}\n" for e in range(30)]
    stages += [f"epoch {e}: train_loss={0.1 / e:.5f}\n" for e in range(5, 26, 5)]
    assert [len(table.columns["epoch"]) for table in read_all(written(tmp_path, "".join(stages)))] == [30, 5]


def test_an_epoch_at_a_time_ends_where_several_are_planned(tmp_path: Path) -> None:
    runs = [
        "Epoch 1/1 loss {:.3f}\n" * 3,
        "".join(f"Epoch {e}/9 loss {{:.3f}}\n" for e in (1, 2, 3)),
        "Epoch 1/1 loss {:.3f}\n" * 3,
    ]
    text = "".join(runs).format(*np.linspace(2, 1, 9))
    assert [table.columns["epoch"].tolist() for table in read_all(written(tmp_path, text))] == [[1, 2, 3]] * 3


def test_rows_that_were_written_again_leave_no_blanks() -> None:
    epochs = [*range(10), 3, 5, 7]
    curves = Curves.of({"epoch": epochs, "loss": [1 / (e + 1) for e in epochs]})
    assert curves.epoch.tolist() == [0, 1, 2, 3, 5, 7]


def test_accuracies_on_so_many_images_are_metrics(tmp_path: Path) -> None:
    text = "".join(
        f"[{e}, 2000] loss: {x}\nAccuracy of the network on train images: {30 + e} %\n"
        f"Accuracy of the network on the 10000 test images: {20 + e} %\n"
        for e, (x, _) in enumerate(PAIRS, 1)
    )
    curves = Curves.of(written(tmp_path, text))
    assert (curves.train_metric[-1], curves.valid_metric[-1]) == (34, 24)


def test_training_that_was_started_epoch_by_epoch_is_one_run() -> None:
    curves = Curves.of({"epoch": [1, 2] * 5, "loss": np.linspace(2, 1, 10), "val_loss": np.linspace(2, 1, 10)})
    assert curves.epoch.tolist() == [*range(1, 11)]
    assert len(Curves.of({"epoch": [1] * 40, "loss": np.linspace(2, 1, 40), "val_loss": np.linspace(2, 1, 40)})) == 40


def test_fractions_of_epochs_stay_fractions(tmp_path: Path) -> None:
    text = "\n".join(
        f"{{'loss': {t}, 'epoch': {0.5 + i}}}\n{{'eval_loss': {v}, 'epoch': {0.976 + i}}}"
        for i, (t, v) in enumerate(PAIRS)
    )
    found = diagnose(written(tmp_path, text))
    assert found.curves.epoch.tolist() == [0.976, 1.976, 2.976, 3.976]
    assert found.best_epoch == 2.976
    assert "best epoch 2.976" in str(found)


# Printed and nested

HISTORY = {"loss": [*TRAIN], "val_loss": [*VALID]}
ROWS = [{"epoch": i, "train": {"loss": t}, "valid": {"loss": v}} for i, (t, v) in enumerate(PAIRS)]
NESTED: dict[str, Any] = {
    "sides over columns": {"train": {"loss": [*TRAIN]}, "valid": {"loss": [*VALID]}},
    "columns over sides": {"loss": {"train": [*TRAIN], "valid": [*VALID]}},
    "deeper": {"config": {"lr": 0.1}, "result": {"history": HISTORY}},
    "keyed by epoch": {str(i): {"train_loss": t, "val_loss": v} for i, (t, v) in enumerate(PAIRS)},
    "keyed by a word and epoch": {f"epoch_{i}": {"train": {"loss": t}, "val": {"loss": v}} for i, (t, v) in enumerate(PAIRS)},
    "rows of sides": ROWS,
    "rows within": {"model": "net", "epochs": ROWS},
    "three sides": {"test": {"out": {"loss": [9.0] * 4}}, "training": {"out": {"loss": [*TRAIN]}},
     "validation": {"out": {"loss": [*VALID]}}},
    "cells in lists": {"iterations": [{"iteration": i, "learn": [t], "test": [v]} for i, (t, v) in enumerate(PAIRS)]},
    "steps beside values": {"train_loss": [[i, t] for i, t in enumerate(TRAIN)], "val_loss": [[i, v] for i, v in enumerate(VALID)]},
}  # fmt: skip


@pytest.mark.parametrize("form", NESTED)
def test_nested_json_is_read(form: str, tmp_path: Path) -> None:
    curves = Curves.of(written(tmp_path, json.dumps(NESTED[form]), "history.json"))
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])


SPACY = "E    #       LOSS TOK2VEC  LOSS NER  ENTS_F  ENTS_P  ENTS_R  SCORE\n"
"---  ------  ------------  --------  ------  ------  ------  ------\n"
PRINTED = {
    "dicts of a Trainer": lines("{{'loss': {t}, 'grad_norm': 1.5, 'learning_rate': 5e-05, 'epoch': {e}.0}}\n"
                                "{{'eval_loss': {v}, 'eval_runtime': 1.3, 'epoch': {e}.0}}")
    + "\n{'train_runtime': 10.0, 'train_loss': 0.33, 'epoch': 4.0}",
    "a dict with tensors": lines("epoch {e} {{'train_loss': tensor({t}, device='cuda:0'), 'val_loss': "
    "np.float64({v}), 'best': nan}}"),
    "a nested dict": lines("INFO {{'epoch': {e}, 'train': {{'loss': {t}}}, 'val': {{'loss': {v}}}}}"),
    "a whole history": f"done\n{HISTORY}\n",
    "printed lists": f"train_losses = {[*TRAIN]}\nval_losses = {[*VALID]}\n",
    "JSON behind a clock": lines('2020-01-01 12:00:00 | INFO | train | {{"epoch": {e}, "train_loss": "{t}"}}\n'
                                 '2020-01-01 12:00:00 | INFO | valid | {{"epoch": {e}, "valid_loss": "{v}"}}'),
    "JSON of a section": lines('12:00:00 | INFO | train | {{"epoch": {e}, "loss": {t}}}\n'
    '12:00:00 | INFO | valid | {{"epoch": {e}, "loss": {v}}}'),
    "several processes": lines("10.96.202.43: {{'loss': {t}, 'eval_loss': {v}, 'epoch': {e}.0}}\n"
                               "10.96.202.17: {{'loss': {t}, 'eval_loss': {v}, 'epoch': {e}.0}}"),
    "a model card": "# A model\n\nIt is a model, with a loss, of course.\n\n"
    "| Training Loss | Epoch | Step | Validation Loss | Accuracy |\n"
    "|:-------------:|:-----:|:----:|:---------------:|:--------:|\n"
    "" + lines("| {t}        | {e}.0   | {s}   | {v}          | 0.5 |"),
    "a grid of signs": "+-------+------------+----------+\n| epoch | train_loss | val_loss |\n+-------+------------+----------+\n"
    + lines("|   {e}   | {t}        | {v}      |"),
    "skorch": "  epoch    train_loss    valid_acc    valid_loss     dur\n-------  ------------  -----------  ------------  ------\n"
    + lines("      {e}        {t}       0.4419        {v}  0.2719"),
    "fastai": "Total time: 00:52\nepoch  train_loss  valid_loss  error_rate\n" + lines("{e}      {t}    {v}    0.19    (00:18)"),
    "a table of single blanks": "begin\nepoch trn_loss val_loss\n" + lines("{e} {t} {v}"),
    "fairseq": lines("| epoch 00{e} | loss {t} | nll_loss 8.5 | ppl 362 | wps 1000 | lr 0.1\n"
                     "| epoch 00{e} | valid on 'valid' subset | valid_loss {v} | valid_nll_loss 7.3 | valid_ppl 157"),
    "fairseq, later": lines("2020-01-01 | INFO | train | epoch 00{e} | loss {t} | nll_loss 8.5\n"
                            "2020-01-01 | INFO | valid | epoch 00{e} | valid on 'valid' subset | loss {v} | nll_loss 7.3"),
    "llm.c": lines("s:{s} tel:{v}\ns:{s} trl:{t}"),
    "nanoGPT": lines("step {s}: train loss {t}, val loss {v}\niter {s}: loss 9.1, time 5ms, mfu 3.1%"),
    "litgpt": lines("iter {s} | step {e}: loss {t}, iter time: 263.85 ms (optimizer.step)\n"
    "iter {s}: val loss {v}, val time: 3778.02 ms"),
    "iteration behind the name": lines("Train loss {s} {t} Grad Norm 13.484264 5.71s/it\nValidation loss {s}:  {v}"),
    "word language model": "Namespace(batch_size=20, epochs=40, lr=20, seed=1111, log_interval=200)\n" + lines(
        "| epoch   {e} |   200/ 2983 batches | lr 20.0 | ms/batch 11.99 | loss  {t} | ppl  9.77\n"
        "| end of epoch   {e} | time: 36.96s | valid loss  {v} | valid ppl   9.23"),
    "commas early": "Loading data, please wait, loss is cross entropy, good\n" + lines("Epoch {e}, train loss {t}, val loss {v}"),
    "StreamingLogger": lines("[Epoch {e}/4] [D: {b}] train_loss: {t} val_loss: {v}"),
    "OpenNMT": lines("[2024-05-08 04:06:12,127 INFO] Step {s}/ 400; acc: 12.0; xent: {t}; lr: 1.0; 4505/4502 tok/s; 14 sec\n"
                     "[2024-05-08 04:06:12,127 INFO] Validation xent: {v}"),
    "mm": lines("2023/06/05 20:10:13 - mmengine - INFO - Epoch(train)   [{e}][3/6]  lr: 4.0e-08  eta: 4:59:11  "
    "time: 9.97  loss: {t}\n"
                "2023/06/05 20:10:13 - mmengine - INFO - Epoch(val)   [{e}][3/6]  loss: {v}"),
}  # fmt: skip


@pytest.mark.parametrize("form", PRINTED)
def test_what_is_printed_is_read(form: str, tmp_path: Path) -> None:
    curves = Curves.of(written(tmp_path, PRINTED[form]))
    np.testing.assert_allclose(curves.train_loss, TRAIN)
    np.testing.assert_allclose(curves.valid_loss, VALID)


TRAINING_ALONE = {
    "Deeplearning4j": lines("12:00:00.403 [main] INFO o.d.o.l.ScoreIterationListener - Score at iteration {s} is {t}"),
    "Darknet": lines(" {s}: 9.1, {t} avg loss, 0.001000 rate, 3.2 seconds, 64 images, 10 hours left"),
    "a GAN": lines("discriminator loss at step {s}: {t}\nadversarial loss at step {s}: {v}"),
    "boosting alone": lines("{i}:\tlearn: {t}\ttotal: 130ms\tremaining: 1m 4s"),
    "the Lua OpenNMT": lines("> Epoch 1 ; Iteration {s}/1830 ; Learning rate 1.0 ; Source tokens/s 196 ; Loss {t}"),
    "no numbers of anything": lines("loss: {t}"),
    "a table of a game": lines("| epoch | {e} |\n| policy/loss | {t} |\n| mean reward | 0.2 |"),
    "hand-typed": lines("{s} iterations -- training loss {t}"),
    "beside scores of sides": lines("Epoch: {e}, Loss: {t}, Train: 0.7, Val: 0.6, Test: 0.5"),
    "behind scores of sides": lines("[Epoch {e}] train=0.7 val=0.6 loss={t}"),
    "torchtune": lines("1|{e}|Loss: {t}: 100%|█████| {e}/9 [00:01<00:00]"),
    "a time before it": lines("Step {s} per-step time 0.5s loss={t}"),
    "R nnet": "initial value 1.2\n" + lines("iter  {e}0 value {t}") + "\nfinal value 0.4",
    "a total": lines("[epoch: {e}/4, iter: 9/9] total: {t}"),
    "an objective with accuracies": lines(
        "Step {s}: Cross entropy = {t}\nStep {s}: Train accuracy = 50%\nStep {s}: Validation accuracy = 40%"
    ),
    "gradient descent": lines("After {e} iterations bias = 0.1 weight = 0.2 error = {t}"),
    "no line's end": "".join(f"epoch: {e}/4, train_loss: {t}" for e, t in enumerate(TRAIN, 1)) + "\n",
    "one bar alone": "".join(
        f"Epochs: {e}%|█ | {e}/9 [00:01<00:00, 9.5it/s, t_loss={t}]\r" for e, t in enumerate(TRAIN, 1)
    ),
    "YOLOv5": lines(
        "     Epoch   gpu_mem       box       obj     total\n       {i}/3     2.87G   0.1   0.1    {t}: 100%|███| 8/8 [00:03<00:00]"
    ),
    "H2O": "    timestamp            duration    epochs    training_rmse\n"
    + lines("    2017-05-08 20:52:5{e}  1.{e} sec    {e}         {t}"),
    "gbm": "Iter   TrainDeviance   ValidDeviance   StepSize\n"
    + lines("     {e}          {t}             nan     0.1000"),
}


@pytest.mark.parametrize("form", TRAINING_ALONE)
def test_training_alone_is_read(form: str, tmp_path: Path) -> None:
    curves = Curves.of(written(tmp_path, TRAINING_ALONE[form]))
    np.testing.assert_allclose(curves.train_loss, TRAIN)
    assert "valid_loss" not in curves.given


def test_no_log_is_a_blank(tmp_path: Path) -> None:
    rows = "".join(f"{100 * i}\t{'No log' if i < 2 else t}\t{v}\n" for i, (t, v) in enumerate(PAIRS, 1))
    curves = Curves.of(written(tmp_path, "Step\tTraining Loss\tValidation Loss\n" + rows))
    assert np.isnan(curves.train_loss[0])
    assert curves.valid_loss.tolist() == [*VALID]


def test_the_table_of_spacy_has_scores_of_validation(tmp_path: Path) -> None:
    curves = Curves.of(
        written(
            tmp_path,
            f"{SPACY}  0      0          0.00     226.1    31.73    0.39    5.43    0.01\n"
            + lines("  {i}    {s}          0.00     {t}    3{e}.73    0.39    5.43    0.01"),
        )
    )
    assert curves.train_loss.tolist() == [*TRAIN]  # that of step 0 is of one batch
    assert curves.valid_metric.tolist() == [31.73, 32.73, 33.73, 34.73]


def test_a_row_with_a_bar_behind_it_is_a_row(tmp_path: Path) -> None:
    text = lines(
        "      Epoch    GPU_mem   box_loss   Instances       Size\n"
        "       {e}/4      9.02G     {t}         16        640: 100%|██████████| 954/954 [11:32<00:00,  1.38it/s]\n"
        "                 Class     Images      Box(P          R      mAP50  mAP50-95): 100%|██████████| 66/66\n"
        "                   all       1049      0.764      0.776      0.7{e}9      0.526\n"
    )
    curves = Curves.of(written(tmp_path, text))
    assert curves.epoch.tolist() == [1, 2, 3, 4]
    assert curves.train_loss.tolist() == [*TRAIN]
    assert curves.valid_metric.tolist() == [0.719, 0.729, 0.739, 0.749]


def test_a_notebook_is_read_by_what_its_cells_printed(tmp_path: Path) -> None:
    cell = {
        "cell_type": "code",
        "source": ["loss = 5"],
        "outputs": [{"text": [line + "\n" for line in lines("epoch {e} loss {t} val_loss {v}").split("\n")]}],
    }
    curves = Curves.of(
        written(
            tmp_path, json.dumps({"cells": [{"cell_type": "markdown", "source": []}, cell], "nbformat": 4}), "a.ipynb"
        )
    )
    assert curves.valid_loss.tolist() == [*VALID]


def allennlp(folder: Path) -> None:
    for i, (t, v) in enumerate(PAIRS):
        written(
            folder,
            json.dumps({"epoch": i, "training_loss": t, "validation_loss": v, "best_validation_loss": 0.1}),
            f"metrics_epoch_{i}.json",
        )


def mlflow(folder: Path) -> None:
    for name, values in (("train_loss", TRAIN), ("val_loss", VALID), ("lr", TRAIN)):
        written(folder, "".join(f"165000000{i} {y} {i}\n" for i, y in enumerate(values)), f"0/abc/metrics/{name}")
    written(folder, "adam", "0/abc/params/optimizer")


def by_side(folder: Path) -> None:
    for name, values in (("learn_error.tsv", TRAIN), ("test_error.tsv", VALID)):
        written(folder, "iter\tRMSE\n" + "".join(f"{i}\t{y}\n" for i, y in enumerate(values)), name)


def boosted(folder: Path) -> None:
    """CatBoost: a loss of one's own beside a score, a second set of rows, and event files of the same numbers."""
    for name, values in (("learn", TRAIN), ("test", VALID), ("test1", TRAIN)):
        rows = "".join(f"{i}\t0.5\t{y}\n" for i, y in enumerate(values))
        written(folder, f"iter\tAUC:type=Ranking\tMultiClassOneVsAll\n{rows}", f"catboost_info/{name}_error.tsv")
    written(folder, "none that could be read", "catboost_info/learn/events.out.tfevents")


def boosted_json(folder: Path) -> None:
    metrics = [{"best_value": "Max", "name": "AUC"}, {"best_value": "Min", "name": "Own"}]
    rows = [{"learn": [t], "iteration": i, "test": [0.5, v]} for i, (t, v) in enumerate(PAIRS)]
    meta = {"learn_sets": ["learn"], "test_sets": ["test"], "learn_metrics": metrics[1:], "test_metrics": metrics}
    written(folder, json.dumps({"meta": meta, "iterations": rows}), "catboost_training.json")


def text_file(folder: Path) -> None:
    written(folder, lines("epoch {e} loss {t} val_loss {v}"), "run/output.txt")
    written(folder, "torch==2.6\n", "requirements.txt")


@pytest.mark.parametrize("write", [allennlp, mlflow, by_side, boosted, boosted_json, text_file])
def test_folders_of_other_trainers(write: Any, tmp_path: Path) -> None:
    write(tmp_path)
    curves = Curves.of(tmp_path)
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])


# Long tables


def test_a_row_for_each_value(tmp_path: Path) -> None:
    rows = [(i, name, y) for name, values in (("loss", TRAIN), ("val_loss", VALID)) for i, y in enumerate(values)]
    table = "step,metric,value\n" + "".join(f"{i},{name},{y}\n" for i, name, y in rows)
    assert Curves.of(written(tmp_path, table, "long.csv")).valid_loss.tolist() == [*VALID]
    sides = "epoch,value,metric,data\n" + "".join(
        f"{i},{y},{metric},{data}\n" for metric in ("loss", "acc") for data, values in (("training", TRAIN), ("validation", VALID))
        for i, y in enumerate(values)
    )  # fmt: skip
    curves = Curves.of(written(tmp_path, sides, "r.csv"))
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])


@pytest.mark.parametrize(
    "text",
    [
        '{"config": {"lr": 0.1}, "validation_loss": 0.5}\n{"config": {"lr": 0.2}, "validation_loss": 0.4}\n'
        '{"config": {"lr": 0.3}, "validation_loss": 0.3}\n',
        "RMSE: 12.966\nTitle 0.0385\nRMSE: 12.916\nTitle 0.04\nRMSE: 12.796\n",
        "Early stopping, best iteration is:\n[45]\tvalid_0's rmse: 1.459\nEarly stopping, best iteration is:\n"
        "[83]\tvalid_0's rmse: 1.558\n" * 2,
        "name,precision,recall\na,0.5,0.6\nb,0.6,0.6\nc,0.6,0.6\n",
        "stage,epoch,loss\nsum,199,0.1\nmean,199,0.2\nmax,199,0.3\n",
        "number,value,params_lr,state\n" + "".join(f"{i},0.{i},0.0{i},COMPLETE\n" for i in range(1, 9)),
        "lr,dropout,train_loss,val_loss\n" + "".join(f"0.{i},0.{d},0.{d},0.{i}\n" for i in range(1, 4) for d in range(1, 4)),
        "".join(f"[I 2023] Trial {i} finished with value: 0.5 and parameters: {{'lr': 0.{i}}}.\n" for i in range(9)),
        "".join(f"Epoch 1/1\nloss: 0.{i} - val_loss: 0.{i}\nTrial {i} Complete [00h]\nval_loss: 0.{i}\n" for i in range(1, 9)),
    ],
)  # fmt: skip
def test_results_are_no_curves(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{lines('Epoch {e}: train loss {t}, val loss {v}')}\n[I 2023] Trial {i} finished with value: 0.5 and "
                  f"parameters: {{'lr': 0.{i}}}." for i in range(3)),
        "\n".join(f"Search: Running Trial #{i}\n{lines('Epoch {e}/4 - loss: {t} - val_loss: {v}')}\nTrial {i} Complete [00h]\n"
                  f"val_loss: 0.1\n\nBest val_loss So Far: 0.1" for i in range(3)),
        "\n".join(f'{{"loss": {t}, "val_loss": {v}, "training_iteration": {i}, "trial_id": "{k}", "config": {{"lr": 0.{k}}}}}'
                  for k in range(3) for i, (t, v) in enumerate(PAIRS, 1)),
    ],
)  # fmt: skip
def test_the_trials_of_a_search_are_runs(text: str, tmp_path: Path) -> None:
    found = read_all(written(tmp_path, text))
    assert [table.columns["valid_loss"].tolist() for table in found] == [[*VALID]] * 3
    assert {table.name.rpartition(": ")[2] for table in found} == {"0", "1", "2"}


# Which encoding


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("第{e}轮 训练损失：{t} 验证损失：{v}", "gb18030"),
        ("epoch {e} 学習 loss {t} 検証 loss {v}", "cp932"),
        ("epoch {e} 학습 loss {t} 검증 loss {v}", "cp949"),
        ("эпоха {e} loss обучения {t} loss валидации {v}", "cp1251"),
        ("Époque {e} : entraînement loss {t}, validación loss {v}", "cp1252"),
    ],
)
def test_words_of_an_old_encoding_are_read_and_it_is_said(form: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(lines(form).encode(encoding))
    curves = Curves.of(path)
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])
    assert f"it was read as {encoding}" in " ".join(reading(path).notes)


def test_text_that_was_cut_through_is_still_utf8_and_binary_data_no_text(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(lines("██ epoch {e} loss {t} val_loss {v}").encode() + b"\n\xe2\x96")
    assert Curves.of(path).valid_loss.tolist() == [*VALID]
    assert "1 of the signs" in " ".join(reading(path).notes)
    path.write_bytes(b"epoch 1 loss 2\n\xff\x00\x01")
    with pytest.raises(DataError, match="UTF-8"):
        read(path)
    path.write_bytes(b"\0" * 9 + lines("epoch {e} loss {t} val_loss {v} of 100 batches").encode())
    assert Curves.of(path).valid_loss.tolist() == [*VALID]


# Which loss


def test_parts_are_added_and_the_one_that_turned_is_named() -> None:
    columns = {"epoch": [1, 2, 3, 4]}
    for side, cls in (("train", TRAIN), ("val", (0.8, 0.5, 0.9, 1.4))):
        columns |= {f"{side}/box_loss": [*TRAIN], f"{side}/cls_loss": [*cls], f"{side}/dfl_loss": [1.0] * 4}
    table = read(columns)
    np.testing.assert_allclose(table.columns["train_loss"], 2 * np.array(TRAIN) + 1)
    np.testing.assert_allclose(table.columns["valid_loss"], np.array(TRAIN) + (0.8, 0.5, 0.9, 1.4) + 1)
    assert {*table.facts["parts"]} == {"box", "cls", "dfl"}
    assert "train/box_loss + train/cls_loss" in reading(columns).taken["train_loss"]
    assert "parts of the loss rose: cls from" in " ".join(reading(columns).notes)


def test_two_measures_of_one_thing_and_two_players_are_not_added() -> None:
    both = {"train_mse_loss": [2, 1], "train_mae_loss": [2, 1], "val_mse_loss": [2, 1], "val_mae_loss": [2, 1]}
    assert read(both).columns["train_loss"].tolist() == [2, 1]
    game = read({"loss_G": [2, 1], "loss_D": [1, 2]})
    assert game.columns["train_loss"].tolist() == [2, 1]


def test_columns_of_two_lengths_are_two_networks(tmp_path: Path) -> None:
    both = {f"{name}_{side}loss": values[:count] for name, count in (("reg", 4), ("cls", 3))
            for side, values in (("", [*TRAIN]), ("val_", [*VALID]))}  # fmt: skip
    found = read_all(written(tmp_path, json.dumps(both), "history.json.txt"))
    assert sorted(len(table.columns["epoch"]) for table in found) == [3, 4]


def test_decimal_commas_in_sentences(tmp_path: Path) -> None:
    text = lines(
        "Dataset used: Train, Epoch: {e}, Cross-Entropy: {t}\nDataset used: Validation, Epoch: {e}, Cross-Entropy: {v}"
    )
    curves = Curves.of(written(tmp_path, text.replace(".", ",")))
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])


def test_a_row_for_each_run_with_its_curves_in_cells(tmp_path: Path) -> None:
    text = "model,train_losses,val_losses\n" + "".join(f'{one},"{[*TRAIN]}","{[*VALID]}"\n' for one in "ab")
    found = read_all(written(tmp_path, text, "runs.csv"))
    assert [table.name[-3:] for table in found] == [": a", ": b"]
    assert found[1].columns["valid_loss"].tolist() == [*VALID]


def test_a_split_of_rows_is_a_side_and_no_run(tmp_path: Path) -> None:
    rows = (
        json.dumps({"epoch": e, "split": side, "loss": loss})
        for e, both in enumerate(PAIRS)
        for side, loss in zip(("train", "val"), both, strict=True)
    )
    curves = Curves.of(written(tmp_path, "\n".join(rows), "log.jsonl"))
    assert (curves.train_loss.tolist(), curves.valid_loss.tolist()) == ([*TRAIN], [*VALID])


def test_a_loss_that_is_always_zero_was_never_computed() -> None:
    table = read({"train_loss": [*TRAIN], "test_loss": [0.0] * 4})
    assert "valid_loss" not in table.columns
    assert "'test_loss' is 0 in every row" in " ".join(table.facts["reading"].notes)


def test_what_was_looked_at_once_is_no_side(tmp_path: Path) -> None:
    rows = "".join(f"Step {10 * i}: loss {2.0 / i:.3f}\n" for i in range(1, 9))
    before = written(tmp_path, f"Step 0: train loss 2.302, val loss 2.301\n{rows}", "before.log")
    after = written(tmp_path, f"{rows}Test loss: 0.31\n", "after.log")
    for path in (before, after):
        assert reading(path).taken == {"train_loss": "loss", "step": "step"}


@pytest.mark.parametrize("cells", [[29, 29, 29, 29, 29], [1.0, 0.0, 1.0, 1.0, 0.0], [96, 47, 29, 65, 109]])
def test_whole_numbers_under_a_side_alone_are_sizes_or_hits(cells: list[float]) -> None:
    assert "valid_loss" not in guess({"epoch": [1, 2, 3, 4, 5], "loss": [0.9, 0.7, 0.6, 0.5, 0.4], "val": cells}).taken
    assert guess({"epoch": [1, 2, 3, 4, 5], "train": cells, "test": cells}).taken == {"epoch": "epoch"}


def test_whole_numbers_that_fall_are_losses_where_nothing_else_is() -> None:
    table = read({"train": [20.0, 12.0, 9.0, 7.0, 6.0, 5.0], "val": [22.0, 14.0, 11.0, 10.0, 9.0, 9.0]})
    assert [*table.columns["train_loss"]] == [20, 12, 9, 7, 6, 5]


@pytest.mark.parametrize("blank", ["", "-", "."])
def test_a_blank_cell_under_a_side_alone_is_no_error(blank: str) -> None:
    guess({"epoch": ["1", "2", "3", "4"], "train": ["9", "7", "6", blank], "val": ["9", "8", "7", blank]})


def test_a_loss_that_prints_as_0_is_one_and_so_is_one_that_never_changes() -> None:
    table = read({"train_loss": [0.0] * 4, "val_loss": [0.5, 0.6, 0.8, 1.1]})
    assert {"train_loss", "valid_loss"} <= table.columns.keys()
    assert "train_loss" in read({"epoch": [1, 2, 3], "mse": [0.25] * 3}).columns


def test_rows_without_an_epoch_are_kept_where_later_ones_are_called_alike(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"loss: {v}\n" for v in (12, 9, 6, 4.5, 4.2)), "whole.log")
    assert [*read(path).columns["train_loss"]] == [12, 9, 6, 4.5, 4.2]
    path = written(
        tmp_path,
        "train: 4000 val: 1000\n" + "".join(f"train: {v} val: {v + 0.1}\n" for v in (4.36, 2.1, 1.2)),
        "sizes.log",
    )
    assert [*read(path).columns["train_loss"]] == [4.36, 2.1, 1.2]


def test_a_column_without_a_cell_is_no_metric_beside_one_with_many() -> None:
    columns = {"epoch": [1, 2, 3, 4], "train_loss": [4.0, 3.0, 2.0, 1.0], "val_f1": [0.1, 0.2, 0.3, 0.4]}
    assert guess({**columns, "test_acc": [None] * 4}).taken["valid_metric"] == "val_f1"


def test_one_value_is_no_curve_beside_many() -> None:
    rows = [{"step": i, "train/loss": 1 / (i + 1)} for i in range(40)]
    rows += [{"step": 10 * i, "eval/loss": 1.0} for i in range(4)] + [{"step": 40, "train/train_loss": 0.5}]
    assert reading(rows).taken["train_loss"] == "train/loss"


# Metrics


@pytest.mark.parametrize(
    ("name", "what", "higher"),
    [("val_f1", "f1", True), ("eval_precision", "precision", True), ("val recall", "recall", True),
     ("metrics/mAP50(B)", "map", True),
     ("val_mIoU", "iou", True), ("valid/dice", "dice", True), ("eval_wer", "wer", False), ("dev CER", "cer", False),
      ("eval_bleu", "bleu", True),
     ("eval_rougeL", "rouge", True), ("val_ndcg@10", "ndcg", True), ("valid_ppl", "ppl", False),
      ("val_r2", "r2", True), ("val_AUC", "auc", True),
     ("val_error_rate", "error", False), ("val_rmse", "rmse", False), ("val_top1", "accuracy", True),
      ("val_balanced_accuracy", "accuracy", True)],
)  # fmt: skip
def test_a_metric_has_its_direction(name: str, what: str, higher: bool) -> None:
    assert parse_name(name).what == what
    found = guess(["epoch", "train_loss", "val_loss", name])
    assert found.taken["valid_metric"] == name
    assert found.higher_is_better is higher
    assert (found.metric in LOWER_IS_BETTER) is not higher


def test_a_word_error_above_one_is_still_a_rate() -> None:
    curves = Curves.of({"loss": [2, 1, 1], "eval_loss": [2, 1, 1], "eval_wer": [130.0, 60.0, 32.0]})
    rate = error_rate(curves, "valid")
    assert rate is not None
    np.testing.assert_allclose(rate, [1.0, 0.6, 0.32])
    assert error_rate(Curves.of({"loss": [2, 1], "eval_loss": [2, 1], "eval_ppl": [9.0, 5.0]}), "valid") is None


def test_metrics_alone_are_read_as_errors_and_it_is_said() -> None:
    found = diagnose(
        {
            "epoch": [*range(6)],
            "train_acc": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
            "val_acc": [0.5, 0.6, 0.65, 0.66, 0.66, 0.66],
        }
    )
    assert found.curves.train_loss[0] == 0.5
    assert found.curves.facts["stands_in"] == "accuracy"
    assert "1 - accuracy stands in for it" in str(found)
    rates = read({"epoch": [0, 1, 2], "train_error": [0.5, 0.4, 0.3], "test_error": [0.5, 0.45, 0.4]})
    assert rates.columns["valid_loss"].tolist() == [0.5, 0.45, 0.4]
    with pytest.raises(DataError, match="no column of losses"):
        read({"colour": ["a", "b", "c"], "val_acc": [0.5, 0.6, 0.7]})


# Hostile tables


MANY = 4000
NAMES = {
    "means": ("mean_loss_{}", "loss_{}"),
    "different words": ("train_loss_a{}", "val_loss_b{}"),
    "different quantities": ("mse_a{}", "val_nll_b{}"),
    "still": ("loss_{}",),
    "sides alone": ("train/{}", "val/{}"),
    "of two sets": ("validation_0-m{}", "validation_1-m{}"),
    "scores": ("acc_{}", "val_acc_{}"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_not_compared_with_one_another(kind: str) -> None:
    """Four times the names are four times the work, and by pairs sixteen times; of each the least of three tries counts."""
    cells = [1.0] * 4 if kind == "still" else [4.0, 3.0, 2.0, 1.0]

    def work(many: int) -> float:
        names = [form.format(i) for form in NAMES[kind] for i in range(many // len(NAMES[kind]))]
        began = time.process_time()
        guess({"epoch": [1, 2, 3, 4], **dict.fromkeys(names, cells)})
        return time.process_time() - began

    few, many = (min(tries) for tries in zip(*((work(MANY // 4), work(MANY)) for _ in range(3)), strict=True))
    assert many < 9 * few


def test_a_table_of_too_many_columns_is_refused() -> None:
    rows = {"epoch": [1, 2, 3], **{f"loss_{i}": [3.0, 2.0, 1.0] for i in range(20_000)}}
    with pytest.raises(DataError, match=r"20,001 columns, and at most 20,000 are looked at"):
        read(rows)


def test_results_beside_a_log_keep_nobody_from_reading_it(tmp_path: Path) -> None:
    written(tmp_path, "epoch,loss,val_loss\n" + lines("{e},{t},{v}"), "a/log.csv")
    written(tmp_path, "model,epoch,loss,val_loss\nfoo,1,3,3\nbar,1,2,2\nbaz,1,1,1\n", "b/log.csv")
    found = read_each(tmp_path)
    assert [type(one) for one in found] == [Table, DataError]
    assert "one row for each run" in str(found[1])
    with pytest.raises(DataError, match="one row for each run"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    "curves",
    [
        {"epoch": [0, 1, 2, 3, 4], "val_loss": [2.5e-323, 2e-323, 1.5e-323, 1e-323, 5e-324]},
        {"train_loss": [2.5e-323, 2e-323, 1.5e-323, 1e-323, 5e-324], "val_loss": [2.0, 1.9, 1.8, 1.7, 1.6]},
        {"train_loss": [1e308, 1e307, 1e306, 1e305, 1e304], "val_loss": [5e-324] * 5},
        {"train_loss": [5e-324] * 5, "val_loss": [1e308, 1e307, 1e306, 1e305, 1e304]},
        {f"{side}/{part}_loss": cells for side in ("train", "val") for part, cells in
         {"box": [np.inf] * 5, "cls": [-np.inf, 1, 2, 3, 4]}.items()},
        {f"{side}/{part}_loss": [1e308] * 5 for side in ("train", "val") for part in ("box", "cls")},
    ],
)  # fmt: skip
def test_losses_at_the_ends_of_what_a_float_holds_are_judged_without_a_word(curves: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(0 <= finding.confidence <= 1 for finding in diagnose(curves))


def test_an_infinite_metric_is_no_rate() -> None:
    losses = {"train_loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 2.0, 1.0]}
    assert error_rate(Curves.of({**losses, "val_acc": [0.5, 0.6, 0.7]}), "valid") is not None
    assert error_rate(Curves.of({**losses, "val_err": [0.5, np.inf, 0.3]}), "valid") is None
