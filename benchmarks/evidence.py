"""Does the evidence keep its word? Coverage by seeds and variance mixture, false positives by looks, and "how many".

    python benchmarks/evidence.py [--draws 2000]

Coverage: 95 % intervals of a mean difference that is 0. A mixture `s : i` gives the seeds' part of the variance of the mean and
the row-by-seed effect's standard deviation, both against the rows'. `falls` are rows that are often a little better and rarely
much worse (one-sided exponential), `heavy` is Student's t with 3 degrees of freedom, `hits` are differences of 0 and 1.
False positives: the best of twenty recipes that do nothing is picked on validation rows and confirmed on untouched rows, and the
study is reopened until something is shown. How many: power at the number that the true variances give, and how far the numbers
that pilots of five seeds on three hundred rows estimate lie from it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from wellposed.statistics.intervals import Interval, crossed_interval, look_level

Array = npt.NDArray[np.float64]
Parts = tuple[float, float, float]
SEEDS = (2, 3, 5, 10, 20)
MIXTURES = ((0.0, 0.1), (0.0, 1.0), (0.3, 0.5), (1.0, 0.5), (1.0, 2.0), (10.0, 0.5))
LOOKS = 6
ALPHA = 0.05  # of all looks together, one-sided


def effects(law: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Mean 0, variance 1."""
    if law == "heavy":
        return rng.standard_t(3, shape) / math.sqrt(3)
    return 1 - rng.exponential(size=shape) if law == "falls" else rng.normal(size=shape)


def table(law: str, rng: np.random.Generator, rows: int, seeds: int, of_seeds: float, of_both: float) -> Array:
    """Differences ``(rows, seeds)`` whose mean over draws is 0."""
    seed = math.sqrt(of_seeds * seeds / rows)
    if law != "hits":
        rest = of_both * effects(law, rng, (rows, seeds))
        return effects(law, rng, (rows, 1)) + seed * rng.normal(size=(1, seeds)) + rest

    def side() -> Array:
        rest = of_both * rng.normal(size=(rows, seeds))
        return np.asarray(base + 0.5 * rng.normal(size=(rows, 1)) + seed * rng.normal(size=(1, seeds)) + rest > 0)

    base = 3.3 + 2.6 * rng.normal(size=(rows, 1))
    return side().astype(np.float64) - side()


def coverage(draws: int) -> None:
    """Coverage in percent, and of the errors those in which a gain was claimed."""
    error = 100 * math.sqrt(0.05 * 0.95 / draws)
    print(f"## Coverage of 95 % intervals, in percent (standard error {error:.1f}); in brackets the claims of a gain\n")
    heads = " | ".join(f"{s:g} : {i:g}" for s, i in MIXTURES)
    print(f"| law | rows | seeds | {heads} |\n|---|---|---|{'---|' * len(MIXTURES)}")
    for law in ("normal", "heavy", "hits", "falls"):
        for rows in (60, 400):
            for seeds in SEEDS:
                cells = []
                for mixture in MIXTURES:
                    rng = np.random.default_rng([rows, seeds])
                    found = [crossed_interval(table(law, rng, rows, seeds, *mixture)) for _ in range(draws)]
                    gains, losses = sum(i.low > 0 for i in found) / draws, sum(i.high < 0 for i in found) / draws
                    cells.append(f"{100 * (1 - gains - losses):.1f} ({100 * gains:.1f})")
                print(f"| {law} | {rows} | {seeds} | {' | '.join(cells)} |", flush=True)


def winner(rng: np.random.Generator, recipes: int, rows: int) -> tuple[Array, Array]:
    """Effects of the best recipe by validation: on validation rows and on untouched ones."""
    valid = rng.normal(size=(recipes, rows))
    best = int((valid.mean(axis=1) + 0.05 * rng.normal(size=recipes)).argmax())
    return valid[best], rng.normal(size=rows)


def confirmed(rng: np.random.Generator, on: Array, pairs: int) -> Array:
    """Differences of new pairs of seeds."""
    return on[:, None] + 0.05 * rng.normal(size=(1, pairs)) + 0.5 * rng.normal(size=(len(on), pairs))


def first_shown(rng: np.random.Generator, pairs: int, again: str, level_of: Callable[[int], float]) -> int:
    """The look at which a study of recipes that do nothing shows a gain; one more than there are if none does."""
    effects_of = winner(rng, 20, 200)[again != "validation rows"]
    differences = confirmed(rng, effects_of, pairs)
    for look in range(1, LOOKS + 1):
        if crossed_interval(differences, level_of(look)).shown:
            return look
        if again == "more pairs":
            differences = np.concatenate([differences, confirmed(rng, effects_of, 2)], axis=1)
        else:
            differences = confirmed(rng, winner(rng, 20, 200)[again != "validation rows"], pairs)
    return LOOKS + 1


def nulls(draws: int) -> None:
    """The share of studies in which a gain was claimed by look k, in percent."""
    print(
        f"\n## Claims of a gain where there is none, by looks, in percent of {draws} studies (at most 5 are promised)\n"
    )
    heads = " | ".join(f"look {k}" for k in range(1, LOOKS + 1))
    print(f"| pairs | each look | judged at | {heads} |\n|---|---|---|{'---|' * LOOKS}")
    promised = " | ".join(f"{100 * ALPHA * (1 - 0.5**k):.2f}" for k in range(1, LOOKS + 1))
    print(f"| | | at most | {promised} |")

    def line(pairs: int, again: str, judged: str, level_of: Callable[[int], float]) -> None:
        rng = np.random.default_rng(pairs)
        looks = np.array([first_shown(rng, pairs, again, level_of) for _ in range(draws)])
        shares = " | ".join(f"{100 * float((looks <= k).mean()):.2f}" for k in range(1, LOOKS + 1))
        print(f"| {pairs} | {again} | {judged} | {shares} |", flush=True)

    for pairs in (1, 2, 5, 10):
        for again in ("another winner", "more pairs"):
            line(pairs, again, "level of its look", lambda look: look_level(look, 2 * ALPHA))
    line(10, "another winner", "95 % always (wrong)", lambda look: 0.95)
    line(10, "validation rows", "rows of the search (wrong)", lambda look: look_level(look, 2 * ALPHA))


def of(gain: float, parts: Parts, rows: int, pairs: int) -> Interval:
    """An interval with exactly these variances, of row, seed and row-by-seed effects, and this estimate; not shown."""
    row, seed, rest = parts
    squares = (pairs * row + rest, rows * seed + rest, rest)
    return Interval(gain, -1.0, 1.0, 0.95, pairs, rows, "rows", squares)


def drawn(rng: np.random.Generator, gain: float, parts: Parts, rows: int, pairs: int) -> Interval:
    """An interval of simulated rows and seeds."""
    row, seed, rest = (math.sqrt(part) for part in parts)
    d = gain + row * rng.normal(size=(rows, 1)) + seed * rng.normal(size=(1, pairs))
    return crossed_interval(d + rest * rng.normal(size=(rows, pairs)))


CASES: tuple[tuple[str, float, Parts], ...] = (
    ("rows limit", 0.10, (0.9, 0.0, 0.1)),
    ("rows limit, some seeds", 0.05, (0.3, 0.0003, 0.1)),
    ("both", 0.04, (0.06, 0.0004, 0.1)),
    ("seeds limit", 0.03, (0.01, 0.001, 0.1)),
    ("interaction", 0.015, (0.0, 0.0, 0.3)),
)


def how_many(draws: int) -> None:
    """Power at the number said, and quartiles of estimated over true numbers."""
    print(
        "\n## How many: true numbers with their simulated power (0.8 is aimed at), and estimated over true (quartiles)\n"
    )
    print(
        "Pilots of 5 seeds on 300 rows. `at the true gain`: variances estimated, gain known. `as said`: gain estimated too, "
        "pilots that show nothing and have an estimate above 0; a number that is none counts as infinite.\n"
    )
    print("| case | what | true | power | at the true gain | as said |\n|---|---|---|---|---|---|")
    for name, gain, parts in CASES:
        rng = np.random.default_rng(1)
        truth = of(gain, parts, 300, 5).needs
        pilots = [drawn(rng, gain, parts, 300, 5) for _ in range(draws // 5)]
        known = [Interval(gain, -1, 1, 0.95, 5, 300, i.limited_by, i.squares).needs for i in pilots]
        said = [i.needs for i in pilots if i.estimate > 0 and not i.shown]
        for what in ("pairs", "rows"):
            number = getattr(truth, what)
            if number is None:
                none = sum(getattr(needs, what) is None for needs in known) / len(known)
                print(f"| {name} | {what} | none | | none in {100 * none:.0f} % | |", flush=True)
                continue
            rows, pairs = (300, number) if what == "pairs" else (number, 5)
            power = sum(drawn(rng, gain, parts, rows, pairs).shown for _ in range(draws)) / draws
            cells = " | ".join(_quartiles([getattr(n, what) for n in group], number) for group in (known, said))
            print(f"| {name} | {what} | {number} | {power:.2f} | {cells} |", flush=True)
        smallest = sum(drawn(rng, truth.smallest, parts, 300, 5).shown for _ in range(draws)) / draws
        ratios = _quartiles([needs.smallest for needs in known], truth.smallest)
        print(f"| {name} | smallest gain | {truth.smallest:.4f} | {smallest:.2f} | {ratios} | |", flush=True)


def _quartiles(found: list[float | None], truth: float) -> str:
    values = sorted(math.inf if value is None else value / truth for value in found)
    if not values:
        return "no such pilot"
    return " ".join(f"{values[int(q * (len(values) - 1))]:.2f}" for q in (0.25, 0.5, 0.75))


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    coverage(draws)
    nulls(draws)
    how_many(draws)


if __name__ == "__main__":
    main()
