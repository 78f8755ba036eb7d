"""How often are gains claimed of a few validation rows with shuffled labels, where there are none?

    python benchmarks/few_rows.py [--tables 300] [--seed 0]

Labels are drawn apart from the inputs, so that no training and no number of rows lowers the expected loss. Losses are made, not
trained: rows differ (as squares of normal numbers do), and each training moves every row a little. Counted are a learning
curve that says "more data would help", a difference of two such recipes at one size, and a clear gain of w* or of going on
in an error budget, each with 3 trainings on 4 to 20 rows. At most one in twenty of each may be claimed.
"""

from __future__ import annotations

import argparse

import numpy as np

import wellposed as wp
from wellposed.decomposition.budget_terms import Levels
from wellposed.decomposition.learning_curve import HELP, LearningCurve, RecipeCurve, curve_of, level_of
from wellposed.decomposition.measured_budget import ErrorBudget
from wellposed.decomposition.rivals import Objective

SIZES, DRAWS = (10, 20, 40, 70, 100), 3


def losses(draw: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """``(draws, rows)`` squared errors of predictions that know nothing of the labels."""
    return (labels - 0.3 * draw.normal(size=(DRAWS, len(labels)))) ** 2


def curve(draw: np.random.Generator, name: str, labels: np.ndarray) -> RecipeCurve:
    """A recipe at every size."""
    levels = [level_of(n, losses(draw, labels), np.ones(len(labels)), [1.0] * DRAWS) for n in SIZES]
    return curve_of(name, wp.Recipe(), levels)


def budget(draw: np.random.Generator, labels: np.ndarray) -> ErrorBudget:
    """An error budget whose weights are alike."""
    fixed = dict.fromkeys(("floor", "same", "best", "end", "chosen", "cost_end", "cost_best"), 1.0)
    valid, best, end = (losses(draw, labels) for _ in range(3))
    levels = [Levels(**fixed, valid=v, valid_best=b, valid_end=e) for v, b, e in zip(valid, best, end, strict=True)]
    recipe = wp.Recipe()
    return ErrorBudget(tuple(levels), tuple(range(DRAWS)), recipe, Objective(recipe, recipe, regularized=False), None)


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = np.random.default_rng(given.seed)
    print("rows  more data helps  difference  gain of w*  going on")
    for rows in (4, 6, 8, 12, 20):
        claims = np.zeros(4)
        for _ in range(given.tables):
            labels = draw.normal(size=rows)
            one, other = curve(draw, "one", labels), curve(draw, "other", labels)
            pair = LearningCurve((one, other), "squared_error", "valid", rows, DRAWS, 0.05).differences("one", "other")
            made = budget(draw, labels)
            found = (one.verdict == HELP, not pair[SIZES[-1]].holds_zero, made.valid_gain.clear, made.going_on.clear)
            claims += found
        print(f"{rows:4d}  " + "  ".join(f"{share:.3f}" for share in claims / given.tables))


if __name__ == "__main__":
    main()
