"""The findings about one source: when validation turned, what cannot be known, and how it all reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding


@dataclass(frozen=True)
class Diagnosis(Sequence[Finding]):
    """The findings about one source, the surest first. Prints for people; `to_dict` is for programs."""

    findings: tuple[Finding, ...]
    curves: Curves

    @property
    def source(self) -> str:
        """Where the curves came from: a path, or the kind of object."""
        return self.curves.source

    @property
    def best_epoch(self) -> int | None:
        """The epoch, as the source numbers it, with the lowest validation loss (training loss where there is none)."""
        index = measure.best_index(self.curves)
        return None if index is None else int(self.curves.epoch[index])

    @property
    def names(self) -> list[str]:
        """Names of the findings, the surest first."""
        return [finding.name for finding in self.findings]

    @property
    def limits(self) -> list[str]:
        """What cannot be known from these curves, a sentence each."""
        return limits(self.curves)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """``{"source", "best_epoch", "findings": [...]}``, ready for JSON."""
        return {
            "source": self.source,
            "best_epoch": self.best_epoch,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        best = "no epoch has a finite loss" if self.best_epoch is None else f"best epoch {self.best_epoch}"
        lines = [f"{self.source}: {', '.join(self.names)} ({len(self.curves)} epochs, {best})"]
        for finding in self.findings:
            lines += ["", f"{finding.name}, confidence {finding.confidence:.2f}", f"  {finding.says}"]
            lines += [f"  {line}" for line in _numbers(finding)]
            lines += [f"  Next: {finding.lever}."]
        if self.limits:
            lines += ["", "Not known from these curves:", *(f"  - {sentence}" for sentence in self.limits)]
        return "\n".join(lines)


def _numbers(finding: Finding) -> list[str]:
    """The evidence on one line: the main number with its half interval first."""
    evidence = dict(finding.evidence)
    parts = []
    estimate, low, high = (evidence.pop(name, None) for name in ("estimate", "low", "high"))
    if isinstance(estimate, float) and isinstance(low, float) and isinstance(high, float):
        parts.append(f"{estimate:.4g} ± {(high - low) / 2:.2g}")
    for name, value in evidence.items():
        parts.append(f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return [", ".join(parts)] if parts else []


def limits(curves: Curves) -> list[str]:
    """What these curves cannot tell, a sentence each; empty where they are like for like and complete."""
    said = []
    if not curves.facts.get("like_for_like") and "train_loss" in curves.given:
        said.append(
            "Training loss as logged is usually taken in training mode, during the epoch, perhaps with penalties "
            "inside: the gap shown is not the generalization gap. watch() measures both sides alike."
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
    return said
