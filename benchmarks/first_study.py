"""Which problem `wellposed improve` shows to somebody who has given it no data yet.

    python benchmarks/first_study.py [--problems "400 digits;breast_cancer"] [--seeds 1,2,3] [--budget "24 recipes"]
                                     --out lines.jsonl
    python benchmarks/first_study.py --show lines.jsonl

Candidates are made of data sets that come with scikit-learn. The first command runs a study for each problem and seed, and adds
a line of JSON for each as soon as it is there; the second prints them as a table. The seed that `make improve` shows is 0, so the
choice is made on others: a demonstration that was chosen for its result would prove nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.datasets as ready

import wellposed as wp
from wellposed.data.tables import prepare_table
from wellposed.training.problem import Problem
from wellposed.training.ready_problems import labelled_rows, table_problem


def whole(name: str) -> Problem:
    """All rows of a data set; a fifth is split off as untouched."""
    frame = getattr(ready, f"load_{name}")(as_frame=True).frame
    frame["target"] = [f"class {label}" for label in frame["target"]]
    return table_problem(prepare_table(frame, "target", name=name))


def few_digits(known: int, valid: float = 0.2, wrong: float = 0.0, noise: int = 0) -> Problem:
    """So many digits to learn from, all others untouched; some labels wrong, or columns of noise added."""
    frame = ready.load_digits(as_frame=True).frame.sample(frac=1, random_state=0, ignore_index=True)
    draw = np.random.default_rng(0)
    labels = frame.pop("target").to_numpy()
    columns = draw.integers(0, 17, (noise, len(frame))).astype(float)
    frame = pd.concat([frame, *(pd.Series(c, name=f"noise_{k}") for k, c in enumerate(columns))], axis=1)
    flipped = draw.random(len(frame)) < wrong
    flipped[known:] = False
    labels = np.where(flipped, (labels + draw.integers(1, 10, len(frame))) % 10, labels)
    frame = frame.assign(target=[f"digit {label}" for label in labels])
    table = prepare_table(frame[:known], "target", name="digits")
    problem = table_problem(table, test=labelled_rows(frame[known:], table))
    problem.data = dataclasses.replace(problem.data, valid=valid)
    return problem


PROBLEMS = {
    "400 digits": lambda: few_digits(400),
    "400 digits, a fifth of the labels wrong": lambda: few_digits(400, wrong=0.2),
    "600 digits, half to validate": lambda: few_digits(600, valid=0.5),
    "600 digits, half to validate, a fifth of the labels wrong": lambda: few_digits(600, valid=0.5, wrong=0.2),
    "600 digits, half to validate, 64 columns of noise": lambda: few_digits(600, valid=0.5, noise=64),
    "breast_cancer": lambda: whole("breast_cancer"),
}


def study(name: str, seed: int, budget: str) -> dict[str, Any]:
    """What one study found, and how busy the machine was."""
    began = time.monotonic()
    record = wp.improve(PROBLEMS[name](), budget, seed=seed).record()
    return {
        "problem": name, "seed": seed, "budget": budget, "data": record["data"], "metric": record["metric"]["name"],
        "baseline": record["baseline"], "best": record["best"], "references": record["references"],
        "improvement": record["improvement"], "advice": [advice["told"] for advice in record["advice"]],
        "recipes": record["recipes_tried"], "seconds": time.monotonic() - began, "load": os.getloadavg()[0],
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as a table in Markdown."""
    head = [
        "problem",
        "seed",
        "baseline's findings",
        "advice helped",
        "baseline",
        "best",
        "gain",
        "interval",
        "boosting",
    ]
    out = [head, ["---"] * len(head)]
    for line in lines:
        found, advice = line["improvement"], line["advice"]
        before, after, other = (part.get(key, float("nan")) for part, key in (
            (line["baseline"], "test"), (line["best"], "test"), (line["references"], "boosting")))  # fmt: skip
        same = line["baseline"]["recipe"] == line["best"]["recipe"]
        out.append([
            line["problem"], str(line["seed"]), ", ".join(line["baseline"]["findings"]),
            f"{sum('it helped' in told for told in advice)} of {len(advice)}", f"{before:.4f}", f"{after:.4f}",
            "the baseline is best" if same else f"{found['estimate']:+.4f}{' (shown)' if found['shown'] else ''}",
            "" if same else f"{found['low']:+.4f} to {found['high']:+.4f}", f"{other:.4f}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in out)


def main() -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default=";".join(PROBLEMS), help="names, separated by a semicolon")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--budget", default="24 recipes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path)
    asked = parser.parse_args()
    if asked.show:
        print(table([json.loads(line) for line in asked.show.read_text().splitlines()]))
        return
    for name in asked.problems.split(";"):
        for seed in map(int, asked.seeds.split(",")):
            line = study(name, seed, asked.budget)
            print(table([line]).splitlines()[-1], flush=True)
            if asked.out:
                with asked.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
