"""Training against the solvers of scikit-learn and skglm on real tables, with a certificate for each.

    python benchmarks/certificates.py [--fast]

Every model is trained on all rows through ``wp.regularize`` until its violation is below 1e-6; where an optimizer has not
got there after 10,000 steps, ``settle`` ends it ("+ settle"). The oracle's solution is judged by the same certificate. The
problems, the conventions and the training loop are those of tests/test_oracles.py. ``--fast`` leaves skglm out, which
compiles when it is first used.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import wellposed as wp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import test_oracles as problems
from wellposed.optimality.settle import settle

torch.set_num_threads(1)

Make = Callable[[], problems.Case]
STEPS = 10_000


def listed(skglm: bool) -> Iterator[tuple[str, Make]]:
    """Every problem by its name."""
    yield from problems.ALWAYS.items()
    yield from problems.ILL_CONDITIONED.items()
    yield from problems.WHERE_THERE.items()
    yield from problems.ILL_CONDITIONED_WHERE_THERE.items()
    if skglm:
        yield "mcp-diabetes", lambda: problems.mcp("diabetes-serum", 0.3, 3.0)
        yield "group_lasso-diabetes", lambda: problems.group_lasso("diabetes", 0.3)


def row(case: problems.Case, net: torch.nn.Linear, found: Any) -> str:
    """Cells that compare a trained model with the oracle's."""
    oracle = case.oracle()
    theirs = case.certify(oracle)
    gap = "-" if found.gap is None else f"{found.gap:.1e}"
    if case.loss == "cross_entropy":
        apart = f"{problems.scores_apart(case, net, oracle):.1e} (scores)"
    else:
        apart = f"{float((net.weight - oracle.weight).detach().abs().max()):.1e}"
    zeros = (
        "-" if not (oracle.weight == 0).any() else "yes" if torch.equal(net.weight == 0, oracle.weight == 0) else "no"
    )
    return f"{found.violation:.1e} | {gap} | {abs(found.objective - theirs.objective):.1e} | {apart} | {zeros}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    warnings.simplefilter("ignore")
    print(
        "| table | rows x columns | model | penalty | optimizer | steps | violation | gap | objective | weights | zeros |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, make in listed(not parser.parse_args().fast):
        try:
            case = make()
        except BaseException as error:  # pytest's skip of a table that is not there is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            print(f"| {name}: {error} |")
            continue
        model = {"squared_error": "linear", "binary_cross_entropy": "logistic", "cross_entropy": "multinomial"}[
            case.loss
        ]
        size = " x ".join(map(str, case.table.x.shape))
        head = f"| {case.table.name} | {size} | {model} | {case.penalty}"
        for optimizer in problems.OPTIMIZERS:
            net, found, steps = problems.train(case, optimizer, steps=STEPS)
            print(f"{head} | {optimizer} | {steps:,} | {row(case, net, found)} |", flush=True)
            if not found.optimal:
                term = case.penalty.on(wp.weights, how="prox")
                found = settle(net, case.loss, case.data, [term], tolerance=1e-9)
                print(f"{head} | {optimizer} + settle | | {row(case, net, found)} |", flush=True)


if __name__ == "__main__":
    main()
