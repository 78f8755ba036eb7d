"""Tools that give verdicts on logs, beside ours, on the same curves.

    python -m benchmarks.planted --part frozen_two --seeds 3 --json cases.json --curves curves
    python -m benchmarks.planted.beside --cases cases.json --curves curves --tools FOLDER
    python -m benchmarks.planted.beside --answers answers.jsonl --logs FOLDER --tools FOLDER

``--tools`` is the folder that holds the commands ``trainspotter``, ``trainproof`` and ``losslint``, as pip installs them. All,
ours too, see nothing but a file. What they say is translated by `SAID`, in their favour: a verdict is right where any of
their findings may mean the right answer; where nothing is wrong, only a warning or an error that may not is a false alarm.
Of ours, the first finding counts: once by its own name, and once with the names that the others cannot tell apart from it.
``--answers`` has a line of JSON for each log: its path, the verdicts that are right (``verdict``) and those that are wrong
(``not``). A log that a tool does not read counts as wrong, and is counted apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.planted.score import rate, share

import wellposed as wp

MEMORY = ("overfits", "overconfident")
STUCK = ("not_learning", "underfits", "slow", "rate_too_low", "over_regularized", "rate_too_high")
JUMPS = ("oscillates", "rate_too_high", "noisy_evidence", "exploding_gradients")
AWAY = ("diverged", "rate_too_high", "exploding_gradients")
SAID = {
    "divergence": AWAY, "overfitting": MEMORY, "plateau": STUCK, "loss_floor": ("leakage", "wrong_loss"), "spikes": JUMPS,
    "eval_noise": ("noisy_evidence",), "grad_norm": ("exploding_gradients",), "nan_inf": AWAY, "loss_spike": JUMPS,
    "overfit_onset": MEMORY, "stagnation": STUCK, "TP-NAN": AWAY, "TP-DIVERGE": AWAY, "TP-NEG-IMPROVE": AWAY,
    "TP-OVERFIT": MEMORY, "TP-FLAT": STUCK, "TP-DEAD-RUN": STUCK, "TP-ZERO-LOSS": ("leakage", "wrong_loss"),
}  # fmt: skip
"""What a finding of another tool may mean."""
FAULTLESS = {"healthy", "noisy_evidence", "not_enough_evidence"}


@dataclass(frozen=True)
class Said:
    """What a tool says of a file: names that it may mean, whether it warns, and whether it read the file at all."""

    names: frozenset[str]
    alarm: bool
    read: bool = True


NOTHING = Said(frozenset(), False, read=False)


def ours(path: Path) -> Said:
    """The first finding; an alarm where any surer than not is a fault."""
    try:
        found = [f.name for f in wp.diagnose(path) if f.confidence >= 0.5]
    except wp.WellposedError:
        return NOTHING
    return Said(frozenset(found[:1]), bool(set(found) - FAULTLESS))


def grouped(said: Said) -> Said:
    """The same with every name that another tool could not tell from it, as they are judged."""
    alike = {other for group in (MEMORY, STUCK, JUMPS, AWAY) if said.names & set(group) for other in group}
    return Said(said.names | alike, said.alarm, said.read)


def asked(command: list[str | Path]) -> Any:
    """What a command prints, as JSON; None where it prints none."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def theirs(tool: str, folder: Path, path: Path) -> Said:
    """The findings of another tool; without any, it says that nothing is wrong."""
    commands: list[list[str | Path]] = {
        "trainspotter": [
            ["analyze", path, "--output", "json", *kind] for kind in ([], ["--format", "csv"], ["--format", "jsonl"])
        ],
        "trainproof": [["doctor", path, "--json"]],
        "losslint": [["check", path, "--format", "json"]],
    }[tool]
    answer = next(filter(None, (asked([folder / tool, *command]) for command in commands)), None)
    if not answer:
        return NOTHING
    if tool == "trainproof":
        found = [(f["id"], f["level"] in ("WARN", "FAIL")) for report in answer["reports"] for f in report["findings"]]
    else:
        key = "detector" if tool == "trainspotter" else "check"
        found = [(f[key], f["severity"] in ("warning", "error")) for f in answer["findings"]]
    names = [name for name, _ in found]
    empty = not found and not answer.get("runs", answer.get("run"))
    if empty or {"parse", "TP-NO-RECORDS", "TP-NO-LOSS"} & set(names):
        return NOTHING
    means = {meaning for name in names for meaning in SAID.get(name, ())}
    return Said(frozenset(means or {"healthy"}), any(loud and name in SAID for name, loud in found))


@dataclass(frozen=True)
class Asked:
    """A file, the names that are right, and whether nothing is wrong with it."""

    path: Path
    right: frozenset[str]
    faultless: bool


def of_cases(cases: Path, curves: Path) -> Iterator[Asked]:
    """The cases that were kept."""
    for row in json.loads(cases.read_text(encoding="utf-8"))["cases"]:
        if not row["dropped"]:
            right = frozenset(row["first"])
            yield Asked(curves / f"{row['kind']}.{row['seed']}.csv", right, row["group"] in ("healthy", "near_miss"))


def of_answers(answers: list[Path], logs: Path) -> Iterator[Asked]:
    """The logs that hold curves."""
    for row in (json.loads(line) for file in answers for line in file.read_text(encoding="utf-8").splitlines()):
        path = logs / Path(row["path"]).name
        if path.exists() and not row["reading"]["refused"]:
            yield Asked(path, frozenset(row["verdict"]), "healthy" in row["verdict"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--curves", type=Path)
    parser.add_argument("--answers", type=Path, nargs="*", default=[])
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--tools", type=Path, required=True)
    given = parser.parse_args()
    files = list(of_cases(given.cases, given.curves) if given.cases else of_answers(given.answers, given.logs))
    print(
        "| tool | read | verdict right | of those read | false alarms where nothing is wrong |\n|---|---|---|---|---|"
    )
    mine = [ours(file.path) for file in files]
    for tool in ("wellposed", "wellposed, its names grouped", "trainspotter", "trainproof", "losslint"):
        if tool.startswith("wellposed"):
            said = [grouped(one) for one in mine] if "grouped" in tool else mine
        else:
            said = [theirs(tool, given.tools, file.path) for file in files]
        right = sum(bool(one.names & file.right) for one, file in zip(said, files, strict=True))
        calm = [
            one.alarm and not one.names & file.right for one, file in zip(said, files, strict=True) if file.faultless
        ]
        read = sum(one.read for one in said)
        alarms = rate(sum(calm), len(calm))
        print(
            f"| {tool} | {read} of {len(files)} | {share(rate(right, len(files)))} | {share(rate(right, read))} | {share(alarms)} |"
        )


if __name__ == "__main__":
    main()
