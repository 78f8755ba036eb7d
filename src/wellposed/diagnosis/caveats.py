"""What curves cannot tell, and how a source was read: plain sentences that depend on who wrote the log."""

from __future__ import annotations

from wellposed.core.errors import listed
from wellposed.diagnosis.curves import Curves
from wellposed.logs import Reading
from wellposed.logs.log import FASTAI, KERAS, LIGHTNING, OURS, PLAIN, TEXT, TRANSFORMERS, WANDB

GAP = "the gap shown is not the generalization gap. watch() measures both sides alike."
TRAINING_LOSS = {
    KERAS: (
        "Keras, whose names these are, averages the training loss over a moving epoch, in training mode (dropout on, "
        f"augmented rows), so it lies too high while it falls; penalties of layers are inside loss and val_loss alike: {GAP}"
    ),
    LIGHTNING: (
        "Lightning logs what the training step hands it, in training mode: of single batches, or averaged over a moving "
        f"epoch; penalties are inside if the step adds them: {GAP}"
    ),
    FASTAI: (
        "fastai averages the training loss over batches, the last ones counting most, in training mode (dropout on, "
        f"augmented rows): {GAP}"
    ),
    TRANSFORMERS: (
        "transformers averages the training loss since the last log, in training mode, and leaves losses out that are no "
        "numbers unless told otherwise, so divergence may be hidden; label smoothing, if any, is inside loss and eval_loss "
        f"alike: {GAP}"
    ),
}
TRAINING_LOSS_OF_ANY = (
    "Training loss as logged is usually taken in training mode, during the epoch, perhaps with penalties "
    f"inside: {GAP}"
)  # fmt: skip


def reading_of(curves: Curves) -> Reading:
    """How the source was read; an empty reading for curves that were never read."""
    found = curves.facts.get("reading")
    return found if isinstance(found, Reading) else Reading(format=OURS)


def unassigned(curves: Curves) -> tuple[str, ...]:
    """Losses in the log whose side no word tells."""
    return reading_of(curves).unassigned


def limitations(curves: Curves) -> list[str]:
    """What these curves cannot tell, a sentence each; empty where they are like for like and complete."""
    said = []
    reading = reading_of(curves)
    if not curves.facts.get("like_for_like") and "train_loss" in curves.given:
        said.append(TRAINING_LOSS.get(reading.format, TRAINING_LOSS_OF_ANY))
    if unknown := unassigned(curves):
        said.append(
            f"Of which rows {listed(map(repr, unknown), 4)} is the loss: if of validation rows, call it val_loss and ask again; "
            "until then every verdict is half as sure."
        )
    if "valid_loss" not in curves.given:
        said.append("There is no validation loss, so nothing is known about generalization.")
    elif "valid_loss_se" not in curves.given:
        said.append("How far a validation set of this size can mislead: no standard errors are given.")
    if "train_loss" not in curves.given:
        said.append("There is no training loss, so it is not known whether fitting went on.")
    if curves.fact("constant_loss") is None:
        said.append("The loss of the best constant prediction: the start of the curves stands in for it.")
    if "valid_metric" not in curves.given:
        said.append("Whether the error rises together with the loss: no validation metric is given.")
    if reading.axis == "step":
        said.append("How many steps an epoch has, and so how often the rows had been seen.")
    if reading.format == WANDB:
        said.append("Whether the chart was smoothed before it was exported: wandb does not say.")
    said += curves.signals.missing if curves.signals is not None else ()
    return said


def reading_notes(curves: Curves) -> list[str]:
    """Which column was taken for what, what was left, and what had to be decided; nothing for a history of ours."""
    reading = reading_of(curves)
    if reading.format == OURS:
        return []
    taken = ", ".join(f"{_spoken(ours)} from '{theirs}'" for ours, theirs in reading.taken.items())
    who = {PLAIN: "a table", TEXT: "text"}.get(reading.format, f"a log of {reading.format}")
    said = [f"As {who}: {taken}."] if taken else []
    if reading.left:
        said.append(f"Not used: {listed(reading.left, 8)}.")
    return [*said, *reading.notes]


def _spoken(ours: str) -> str:
    for short, said in (("train_", "training "), ("valid_", "validation "), ("_", " "), ("lr", "learning rate")):
        ours = ours.replace(short, said)
    return ours
