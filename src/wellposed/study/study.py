"""`Study`: many runs on one problem, the best recipe, and the evidence that it is better than the baseline."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellposed._version import __version__
from wellposed.core import formats
from wellposed.core.files import write_atomically, write_json
from wellposed.core.records import part, rows, text
from wellposed.diagnosis.diagnose import Diagnosis
from wellposed.statistics.intervals import ALPHA, Interval, look_level
from wellposed.study import verdict
from wellposed.study.folder import MODEL
from wellposed.study.trials import SCHEMA, Trial
from wellposed.training.checkpoint import save_run
from wellposed.training.run import Run

STUDY = "study.json"


@dataclass(repr=False)
class Study:
    """The result of `improve`.

    Attributes:
        baseline, best: the confirmed runs of either recipe with the lowest validation loss; equal where nothing beat
            the baseline in validation.
        improvement: how much better the best recipe is on rows that the search never touched; None where the study
            ended before, interrupted or cut by its clock.
        runs: the confirmation runs, pair by pair.
        trials: every recipe that was tried.
        references: test scores of a constant, a linear model and histogram boosting.
        against: how much better the best recipe is than each reference on the same rows, judged together.
        ablation: what each ingredient of the best recipe is worth on validation rows, the most valuable first.
        late: whether its clock leaves no time to draw figures.
        interrupted: whether Ctrl-C ended it; its folder can be resumed.
        over_folds: what takes the place of this study's own numbers in its record, where every row was held out in turn.
        simplest: the recipe without those whose worth is within one standard error of nothing; None where there is none.
    """

    baseline: Run
    best: Run
    improvement: Interval | None
    runs: list[Run]
    trials: list[Trial]
    references: dict[str, float]
    diagnoses: dict[str, Diagnosis]
    facts: dict[str, Any]
    notes: list[str]
    ablation: list[dict[str, Any]]
    simplest: dict[str, Any] | None
    folder: Path | None = None
    late: bool = False
    interrupted: bool = False
    against: dict[str, Interval] = field(default_factory=dict)
    over_folds: dict[str, Any] | None = None

    @property
    def shown(self) -> bool:
        return self.improvement is not None and self.improvement.shown

    def side(self, name: str) -> dict[str, Any]:
        """The ``recipe``, ``valid``, ``test`` and ``findings`` of ``baseline`` or ``best``; scores are means over seeds."""
        scores = self.facts["scores"][name]
        run: Run = getattr(self, name)
        return {
            "recipe": run.recipe.describe(),
            "valid": float(np.mean(scores["valid"])),
            "test": float(np.mean(scores["test"])),
            "findings": [finding.name for finding in self.diagnoses[name]],
        }

    def record(self) -> dict[str, Any]:
        """Everything that ``study.json`` holds, as a dict."""
        interval = self.improvement
        improvement = {
            **{key: getattr(interval, key, None) for key in ("estimate", "low", "high", "level")},
            "pairs": interval.pairs if interval else 0,
            "looks": self.facts["looks"],
            "shown": self.shown,
            **{key: getattr(interval, key, None) for key in ("limited_by", "rows")},
            # More pairs on the same rows are another look at them.
            "needs": interval.needed(look_level(self.facts["looks"] + 1, 2.0 * ALPHA)).to_dict() if interval else None,
        }
        searched = [t for t in self.trials if t.kind in ("baseline", "search")]
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "wellposed": __version__,
            "torch": str(torch.__version__),
            **{key: self.facts[key] for key in ("device", "threads", "command", "seed", "task", "metric", "data")},
            "references": self.references,
            "constant": self.facts["constant"],
            "against_references": {
                name: {key: value for key, value in one.to_dict().items() if key != "needs"}
                for name, one in self.against.items()
            },
            "baseline": self.side("baseline"),
            "best": self.side("best"),
            "improvement": improvement,
            "recipes_tried": len(searched),
            **{key: self.facts[key] for key in ("seconds", "clock", "name", "budget", "looks")},
            "trials": [asdict(trial) for trial in self.trials],
            "histories": {n: getattr(self, n).history.to_dict() for n in ("baseline", "best")},
            "diagnoses": {
                name: one.to_dict() | {"findings": [finding.to_dict() | {"says": finding.says} for finding in one]}
                for name, one in self.diagnoses.items()
            },
            "audits": {n: getattr(self, n).audit().to_dict() for n in ("baseline", "best")},
            "recipes": {n: getattr(self, n).recipe.to_toml() for n in ("baseline", "best")},
            "differences": {k: list(v) for k, v in self.baseline.recipe.differences(self.best.recipe).items()},
            "confirmation": {
                "seeds": self.facts["confirmation_seeds"],
                "baseline": self.facts["scores"]["baseline"]["test"],
                "best": self.facts["scores"]["best"]["test"],
                "rows": self.facts["data"]["test"],
            },
            **{key: self.facts[key] for key in ("advice", "error_budget", "calibration")},
            "ablation": self.ablation,
            "simplest": self.simplest,
            **{key: self.facts[key] for key in ("cocktail", "small") if key in self.facts},
            **{key: self.facts[key] for key in ("engine", "space", "warnings")},
            "notes": self.notes,
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "platform": platform.system()},
        }
        return record | (self.over_folds or {})

    def save(self, folder: Path) -> None:
        """Write ``study.json``, ``recipe.toml``, ``history.csv``, ``history.json`` (with its facts), the
        same for TensorBoard, and ``model/``."""
        save_run(self.best, folder / MODEL, folder)
        write_atomically(folder / "recipe.toml", self.best.recipe.to_toml(), folder)
        write_atomically(folder / "history.csv", self.best.history.to_csv(), folder)
        self.best.history.save(folder / "history.json", folder)
        self.best.history.to_tensorboard(folder, folder)
        write_json(folder / STUDY, self.record(), folder)

    def __str__(self) -> str:
        return summary(self.record())

    __repr__ = __str__


def summary(record: dict[str, Any]) -> str:
    """What a study found, in a few lines, from what ``study.json`` holds; a missing or odd part is no number."""
    said = verdict.verdict(record)
    metric = verdict.metric_name(record)
    lines = [said.sentence, *filter(None, [said.limits, *said.references, verdict.emptied_note(record)])]
    for name in verdict.sides(record):
        score, recipe = formats.score(part(record, name, "test")), text(part(record, name, "recipe"))
        lines.append(f"{name + ':':<9} {metric} {score} on untouched rows{verdict.beside_constant(record)} ({recipe})")
    for one in verdict.against(record):
        lines.append(f"{one.key + ':':<9} {metric} {formats.score(one.score)} on the same rows: {one.says}")
    picked = next((point for point in rows(part(record, "small", "points")) if point.get("picked") is True), None)
    if picked is not None and picked.get("strength") == 0:
        lines.append("small:    no smaller network is within one standard error of the best validation score")
    elif picked is not None:
        test, left, before = part(record, "small", "test"), picked.get("parameters"), picked.get("before")
        lines.append(
            f"small:    {metric} {formats.score(test)} on the same rows, with {formats.count(left)} of {formats.count(before)} "
            "parameters"
        )
    return "\n".join(lines)
