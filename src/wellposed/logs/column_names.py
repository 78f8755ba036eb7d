"""Which column is what, guessed from its name: the words in it, not their order or the signs between them.

A name has a side (training, validation, test), a quantity (loss, accuracy, ...) and words that say how it was taken.
``val_loss``, ``Loss/validation``, ``validationLoss`` and ``eval/loss`` say one thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from wellposed.core.errors import listed
from wellposed.logs.log import normalize_name

TRAIN, VALID, TEST, NOBODY = "train", "valid", "test", ""
SIDES = {
    **dict.fromkeys(("train", "training", "tr", "trn", "fit", "trainset"), TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "vl", "eval", "evaluation", "dev", "holdout", "heldout"), VALID),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
LOSS = ("loss", "losses")
LOSSLIKE = (
    "nll", "logloss", "log_loss", "mlogloss", "cross_entropy", "crossentropy", "xent", "ce", "bce", "deviance", "cost",
    "mse", "mean_squared_error", "rmse", "root_mean_squared_error", "mae", "mean_absolute_error",
    "perplexity", "ppl", "bpc", "bpb", "bpd", "bits_per_byte", "bits_per_char", "bits_per_dim",
)  # fmt: skip
HIGHER_IS_BETTER = (
    "accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy", "multiclass_accuracy",
    "accuracies", "balanced_accuracy", "accuracy_score", "top1", "top_1", "acc1", "acc_1", "top1_accuracy",
    "top_1_accuracy", "accuracy_top1", "accuracy_top_1", "f1", "f1_score", "auc", "roc_auc", "auroc", "r2",
)  # fmt: skip
LOWER_IS_BETTER = (
    "error", "error_rate", "err", "rmse", "mae", "mse", "root_mean_squared_error", "mean_absolute_error",
    "mean_squared_error",
)  # fmt: skip
OURS = (
    "train_loss_se", "valid_loss_se", "train_metric", "valid_metric", "cost", "penalty", "grad_norm", "weight_norm",
    "zeros", "valid_rise", "valid_rise_se",
)  # fmt: skip
OF_OURS = (*OURS, "seconds", "watch_seconds")
RATES = ("lr", "learning_rate", "lr_adam", "lr_adamw", "lr_sgd")
EPOCHS = ("epoch", "epochs", "ep", "epoch_number", "current_epoch", "trainer_epoch", "train_epoch", "epoch_idx")
STEPS = (
    "step", "global_step", "trainer_global_step", "train_global_step", "steps", "iteration", "iterations", "iter", "iters",
    "update", "num_updates", "batch",
)  # fmt: skip
AS_USUAL = {"epoch", "mean", "avg", "average", "total", "history", "metrics", "metric", "score", "end", "overall"}
OF_A_STEP = {"step", "batch", "iter", "iteration", "iterations", "steps", "vs"}
SMOOTHED = {"smooth", "smoothed", "smoothing", "ema", "running", "moving"}
NO_LEVEL = {
    "se", "sem", "std", "stderr", "var", "min", "max", "low", "high", "upper", "lower", "ci", "best", "delta",
    "hparam",  # TensorBoard's result of a run
}  # fmt: skip
GLUED = re.compile(r"(train|training|valid|validation|val|eval|dev|test)(loss|acc|accuracy|error)")
GLUED_BACK = re.compile(r"(loss|acc|accuracy|error)(train|training|valid|validation|val|eval|dev|test)")


@dataclass(frozen=True)
class Name:
    """A column's name, understood: whose, of what, and whether of single steps or smoothed."""

    text: str
    side: str
    what: str
    of_a_step: bool = False
    smoothed: bool = False
    level: bool = True

    @property
    def is_loss(self) -> bool:
        """Whether one of its words is ``loss``."""
        return self.level and any(word in LOSS for word in self.what.split("_"))

    @property
    def cost(self) -> tuple[int, int, int]:
        """How far it is from a plain loss of a whole epoch."""
        more = [word for word in self.what.split("_") if word and word not in LOSS]
        return int(self.smoothed), int(self.of_a_step), len(more)


@lru_cache(maxsize=4096)
def parse_name(text: str) -> Name:
    """The parts of a name."""
    words = [word for word in normalize_name(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)).split("_") if word]
    words = [part for word in words for part in _unglued(word)]
    sides = [SIDES[word] for word in words if word in SIDES]
    rest = [word for word in words if word not in SIDES]
    what = [word for word in rest if word not in AS_USUAL | OF_A_STEP | SMOOTHED]
    return Name(
        text, sides[0] if sides else NOBODY, "_".join(what), any(word in OF_A_STEP for word in rest),
        any(word in SMOOTHED for word in rest), not any(word in NO_LEVEL for word in rest),
    )  # fmt: skip


def _unglued(word: str) -> Sequence[str]:
    found = GLUED.fullmatch(word) or GLUED_BACK.fullmatch(word)
    return found.groups() if found else (word,)


@dataclass(frozen=True)
class Guess:
    """Our name of each column -> its name in the log, what the metric's name tells, and what was doubtful."""

    taken: dict[str, str]
    metric: str = ""
    higher_is_better: bool = True
    notes: tuple[str, ...] = ()


def guess(found: Iterable[str], metrics_of: str = NOBODY) -> Guess:
    """What each of the columns ``found`` is taken for; metrics without a side are of ``metrics_of``."""
    first: dict[str, str] = {}
    for name in found:
        first.setdefault(normalize_name(name), name)
    names = [parse_name(name) for name in first.values()]
    taken, notes = _losses([name for name in names if normalize_name(name.text) not in OURS])
    for ours, aliases in (("epoch", EPOCHS), ("step", STEPS), ("lr", RATES)):
        if (alias := next((alias for alias in aliases if alias in first), None)) is not None:
            taken[ours] = first[alias]
    if "lr" not in taken and (rate := next((name for name in first if _is_rate(name)), None)) is not None:
        taken["lr"] = first[rate]
    taken |= {ours: first[ours] for ours in OURS if ours in first}
    if "grad_norm" not in taken and "train_grad_norm" in first:
        taken["grad_norm"] = first["train_grad_norm"]
    metric, higher = "", True
    if "train_metric" not in taken and "valid_metric" not in taken:
        columns, metric, higher = _metrics([name for name in names if name.text not in taken.values()], metrics_of)
        taken |= columns
    return Guess(taken, metric, higher, tuple(notes))


def _is_rate(name: str) -> bool:
    words = name.split("_")
    return "lr" in words or ("learning" in words and "rate" in words)


def _losses(names: Sequence[Name]) -> tuple[dict[str, str], list[str]]:
    losses = [name for name in names if name.is_loss]
    notes: list[str] = []
    if not losses:
        losses = [name for name in names if name.what in LOSSLIKE and name.side and name.level]
        losses = [name for name in losses if name.what == losses[0].what]
        if losses:
            notes.append(f"No column is called a loss; {losses[0].what.replace('_', ' ')} was taken for it.")
    train = [name for name in losses if name.side == TRAIN] or [name for name in losses if name.side == NOBODY]
    valid = [name for name in losses if name.side == VALID]
    if not valid and (valid := [name for name in losses if name.side == TEST]):
        notes.append("There is no validation loss; the test loss stands in for it, and is no test any more.")
    pair = _pair(train, valid)
    for side, chosen, rivals in (("training", pair[0], train), ("validation", pair[1], valid)):
        near = [
            rival.text for rival in rivals if chosen is not None and rival is not chosen and rival.cost == chosen.cost
        ]
        if chosen is not None and near:
            notes.append(f"Several {side} losses: '{chosen.text}' was taken, not {listed(near, 4)}.")
    if pair[0] is not None and pair[1] is not None and _quantity(pair[0]) != _quantity(pair[1]):
        notes.append(f"'{pair[0].text}' and '{pair[1].text}' may not be the same loss.")
    for name in pair:
        if name is not None and name.smoothed:
            notes.append(f"'{name.text}' is smoothed: its turning point lies too late, its noise looks too small.")
    return {ours: name.text for ours, name in zip(("train_loss", "valid_loss"), pair, strict=True) if name}, notes


def _pair(train: Sequence[Name], valid: Sequence[Name]) -> tuple[Name | None, Name | None]:
    """One of each, of the same quantity if there are such, and as plain as can be; the first of equals."""
    ours, theirs = _plainest(train), _plainest(valid)
    shared = [(a, theirs[quantity]) for quantity, a in ours.items() if quantity in theirs]
    if shared:
        (*_, a), (*_, b) = min(shared, key=lambda pair: (pair[0][0], pair[1][0], pair[0][1]))
        return a, b
    return (min(ours.values())[2] if ours else None), (min(theirs.values())[2] if theirs else None)


def _plainest(names: Sequence[Name]) -> dict[str, tuple[tuple[int, int, int], int, Name]]:
    """Of each quantity the plainest name, the first of equals: its cost, its place, and itself."""
    found: dict[str, tuple[tuple[int, int, int], int, Name]] = {}
    for place, name in enumerate(names):
        quantity = _quantity(name)
        if quantity not in found or name.cost < found[quantity][0]:
            found[quantity] = name.cost, place, name
    return found


def _quantity(name: Name) -> str:
    return name.what.replace("losses", "loss")


def _metrics(names: Sequence[Name], unsided: str) -> tuple[dict[str, str], str, bool]:
    """The first metric of our lists that validation has, and the same of training."""
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        mine = [name for name in names if name.what == metric and name.level]
        mine.sort(key=lambda name: (name.smoothed, name.of_a_step))
        for sides in ((VALID,), (TEST,)):
            valid = next((name for name in mine if (name.side or unsided) in sides), None)
            if valid is not None:
                rest = [name for name in mine if not name.side and name is not valid]
                train = next((name for name in mine if name.side == TRAIN), next(iter(rest), None))
                taken = {"valid_metric": valid.text} | ({"train_metric": train.text} if train else {})
                return taken, metric, metric in HIGHER_IS_BETTER
    return {}, "", True
