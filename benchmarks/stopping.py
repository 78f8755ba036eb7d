"""Finding the best epoch against the delay: the rule that stops when it is sure, beside patience and Prechelt's criteria.

    python benchmarks/stopping.py [--data ../shared/data] [--figure stopping.svg]

On published histories: 419 labelled ones of 12 data sets (44 of them overfit), and the test losses of optimizers on 8 problems at
36 learning rates (those with at least 20 finite epochs). The best epoch is the one with the lowest validation loss of the whole
history; it is found if a rule stops there or later, so that the kept weights are the best. The delay is counted in epochs from
the best one to the stop, over the histories in which it was found; ``lost`` is the share of histories whose kept loss is more
than a hundredth above the best.

`sure` is ours as it is shipped. In `left out` its two constants are fitted anew without the family of the history that is judged
(a data set, or a problem), from the histories of all other families of that collection. Prechelt's GL, PQ and UP are as
published (1998): GL compares with the best loss, PQ divides that by the progress of training over strips of 5 epochs, UP counts
strips in a row that ended higher.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wellposed.diagnosis.stopping import EVEN, POWER, stopping_evidence

Array = npt.NDArray[np.float64]
RISKS = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
FEWEST = 20  # epochs: shorter histories end before any rule could act


@dataclass(frozen=True)
class Story:
    """One history: its losses, and the evidence of a turn at each epoch."""

    family: str
    overfit: bool
    train: Array
    valid: Array
    evidence: Array

    @property
    def best(self) -> int:
        """The epoch with the lowest validation loss."""
        return int(np.argmin(self.valid))

    @property
    def needed(self) -> float:
        """The largest evidence that came before the best epoch: a rule that demands more finds it."""
        return float(self.evidence[: self.best].max(initial=0.0))


def story(family: str, overfit: bool, train: list[float | None], valid: list[float | None]) -> Story | None:
    """A history up to its first loss that is no number; None if too short."""
    losses = np.array([[math.nan if v is None else v for v in side] for side in (train, valid)], dtype=np.float64)
    sound = np.isfinite(losses).all(axis=0)
    losses = losses if sound.all() else losses[:, : int(np.argmin(sound))]
    if losses.shape[1] < FEWEST:
        return None
    found = np.array([stopping_evidence(losses[1, : end + 1]) for end in range(losses.shape[1])])
    return Story(family, overfit, losses[0], losses[1], found)


def lines(path: Path) -> list[dict]:
    """The histories of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def labelled(folder: Path) -> list[Story]:
    """The labelled histories."""
    rows = lines(folder / "overfitting-labelled-train.jsonl.gz")
    stories = [story(row["family"], row["overfit"], row["train_loss"], row["valid_loss"]) for row in rows]
    return [one for one in stories if one is not None]


def of_optimizers(folder: Path) -> list[Story]:
    """The runs of optimizers on problems."""
    rows = [row for row in lines(folder / "optimizer-baselines-epoch-curves.jsonl.gz") if row.get("optimizer")]
    stories = [story(row["testproblem"], False, row["train_losses"], row["test_losses"]) for row in rows]
    return [one for one in stories if one is not None]


# Rules: each gives the epochs at which it would stop, as booleans.


def wait(valid: Array) -> Array:
    """Epochs since the best so far."""
    best = np.minimum.accumulate(valid)
    last = np.maximum.accumulate(np.where(np.r_[True, valid[1:] < best[:-1]], np.arange(len(valid)), 0))
    return np.arange(len(valid)) - last


def patience(epochs: float) -> Callable[[Story], Array]:
    """Stop after so many epochs without a better one."""
    return lambda one: wait(one.valid) >= epochs


def generalization_loss(alpha: float) -> Callable[[Story], Array]:
    """GL: the loss is ``alpha`` percent above its best."""

    def rule(one: Story) -> Array:
        best = np.minimum.accumulate(one.valid)
        return 100 * (one.valid - best) > alpha * np.abs(best)

    return rule


def progress_quotient(alpha: float, strip: int = 5) -> Callable[[Story], Array]:
    """PQ: GL over the progress of the training loss within the strip, at ends of strips."""

    def rule(one: Story) -> Array:
        best = np.minimum.accumulate(one.valid)
        loss = 100 * (one.valid - best) / np.maximum(np.abs(best), 1e-12)
        stops = np.zeros(len(best), dtype=bool)
        for end in range(strip - 1, len(best), strip):
            part = one.train[end - strip + 1 : end + 1]
            progress = 1000 * (part.mean() / max(float(part.min()), 1e-12) - 1)
            stops[end] = loss[end] > alpha * max(progress, 1e-12)
        return stops

    return rule


def rises(count: float, strip: int = 5) -> Callable[[Story], Array]:
    """UP: so many strips in a row ended higher than the one before."""

    def rule(one: Story) -> Array:
        stops, run = np.zeros(len(one.valid), dtype=bool), 0
        for end in range(2 * strip - 1, len(one.valid), strip):
            run = run + 1 if one.valid[end] > one.valid[end - strip] else 0
            stops[end] = run >= count
        return stops

    return rule


def threshold(risk: float, even: float = EVEN, power: float = POWER) -> float:
    """The evidence that leaves this risk."""
    return even * risk ** (-1 / power)


def sure(risk: float) -> Callable[[Story], Array]:
    """Ours, as shipped."""
    return lambda one: one.evidence >= threshold(risk)


def fitted(stories: list[Story]) -> tuple[float, float]:
    """The two constants from histories: a line through the logarithms of shares and of the evidence they pass."""
    needed = np.array([one.needed for one in stories])
    shares = np.geomspace(0.3, 0.02, 12)
    x = np.log(np.maximum(np.quantile(needed, 1 - shares), 1e-9))
    slope, level = np.polyfit(x, np.log(shares), 1)
    power = max(-slope, 0.05)
    return math.exp(level / power), power


def left_out(risk: float, stories: list[Story]) -> Callable[[Story], Array]:
    """Ours, with constants from the other families."""
    limits = {
        family: threshold(risk, *fitted([one for one in stories if one.family != family]))
        for family in {one.family for one in stories}
    }
    return lambda one: one.evidence >= limits[one.family]


@dataclass(frozen=True)
class Score:
    """How a rule did on some histories."""

    found: Array
    delay: float
    middle: float
    spent: float
    lost: float


def score(stories: list[Story], rule: Callable[[Story], Array]) -> Score:
    """Stop each history by the rule."""
    ends = []
    for one in stories:
        stops = rule(one)
        ends.append(int(np.argmax(stops)) if stops.any() else len(one.valid) - 1)
    best = np.array([one.best for one in stories])
    delay = np.array(ends) - best
    found = delay >= 0
    kept = np.array([one.valid[: end + 1].min() for one, end in zip(stories, ends, strict=True)])
    least = np.array([one.valid.min() for one in stories])
    spent = np.mean([(end + 1) / len(one.valid) for one, end in zip(stories, ends, strict=True)])
    lost = np.mean(kept - least > 0.01 * np.abs(least))
    return Score(
        found.astype(float), float(delay[found].mean()), float(np.median(delay[found])), float(spent), float(lost)
    )


def interval(found: Array, families: list[str], draws: int = 1000) -> tuple[float, float]:
    """A 95 % interval of the share found, drawing whole families anew."""
    rng = np.random.default_rng(0)
    groups = {family: found[[one == family for one in families]] for family in dict.fromkeys(families)}
    sums = np.array([[group.sum(), len(group)] for group in groups.values()])
    picks = rng.integers(len(sums), size=(draws, len(sums)))
    drawn = sums[picks].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def contenders(stories: list[Story]) -> dict[str, list[tuple[str, Callable[[Story], Array]]]]:
    """Each family of rules from eager to slow."""
    return {
        "patience": [(f"{p}", patience(p)) for p in (5, 10, 20, 30, 50, 75, 100)],
        "GL": [(f"{a}", generalization_loss(a)) for a in (1, 2, 5, 10, 15)],
        "PQ": [(f"{a}", progress_quotient(a)) for a in (0.5, 0.75, 1, 2, 3)],
        "UP": [(f"{s}", rises(s)) for s in (2, 3, 4, 6, 8)],
        "sure": [(f"{r}", sure(r)) for r in RISKS],
        "left out": [(f"{r}", left_out(r, stories)) for r in RISKS],
    }


def compared(name: str, judged: list[Story], stories: list[Story]) -> dict[str, list[tuple[float, float]]]:
    """Print a table; the points (delay, share found) of each family of rules."""
    print(f"\n## {name}: {len(judged)} histories\n")
    print("| rule | | best epoch found | 95 % (families) | mean delay | median | epochs spent | lost |")
    print("|---|---|---|---|---|---|---|---|")
    families, points = [one.family for one in judged], {}
    for rule, members in contenders(stories).items():
        points[rule] = []
        for setting, stops in members:
            one = score(judged, stops)
            low, high = interval(one.found, families)
            points[rule].append((one.delay, float(one.found.mean())))
            print(
                f"| {rule} | {setting} | {one.found.mean():.3f} | {low:.3f} to {high:.3f} | {one.delay:.1f} | {one.middle:.0f} | "
                f"{one.spent:.3f} | {one.lost:.3f} |"
            )
    return points


def calibration(name: str, stories: list[Story]) -> None:
    """Print the risk that was set beside the share that was stopped too early."""
    print(f"\n## Risk kept: {name}\n")
    print("| risk set | stopped before the best epoch | left out | worst family (left out) |\n|---|---|---|---|")
    families = [one.family for one in stories]
    for risk in RISKS:
        shipped, out = (1 - score(stories, rule).found for rule in (sure(risk), left_out(risk, stories)))
        worst = max((float(out[[one == family for one in families]].mean()), family) for family in set(families))
        print(f"| {risk} | {shipped.mean():.3f} | {out.mean():.3f} | {worst[0]:.3f} ({worst[1]}) |")


def rounded(stories: list[Story], digits: int) -> list[Story]:
    """The same histories as a log prints them."""
    made = [
        story(one.family, one.overfit, list(np.round(one.train, digits)), list(np.round(one.valid, digits)))
        for one in stories
    ]
    return [one for one in made if one is not None]


def figure(path: str, panels: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Share found against mean delay, a panel for each set of histories."""
    import matplotlib

    matplotlib.use("svg" if path.endswith("svg") else "agg")
    from matplotlib import pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "wellposed"
    fig, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6))
    looks = {"patience": ("o-", "#888888"), "GL": ("s-", "#e9a23b"), "PQ": ("v-", "#b5651d"), "UP": ("^-", "#7a5195"),
             "left out": ("D-", "#2a6f97")}  # fmt: skip
    for axis, (title, points) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for rule, (style, colour) in looks.items():
            x, y = zip(*points[rule], strict=True)
            axis.plot(x, y, style, color=colour, label="sure (left out)" if rule == "left out" else rule, markersize=4)
        axis.set_xscale("symlog", linthresh=5)
        axis.set_ylim(max(0.3, min(y for _, y in points["left out"]) - 0.2), 1.01)
        axis.set_xlabel("mean delay, epochs")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("best epoch found")
    np.atleast_1d(axes)[-1].legend(frameon=False, fontsize=8, loc="lower right")
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--figure")
    given = parser.parse_args()
    folder = given.data / "curves"
    if not folder.is_dir():
        parser.exit(1, f"There is no folder '{folder}' of published histories; give --data.\n")
    first, second = labelled(folder), of_optimizers(folder)
    even, power = fitted(first)
    print(f"Constants fitted on all labelled histories: even {even:.2f}, power {power:.2f}; shipped: {EVEN}, {POWER}")
    panels = {
        "overfitting": compared("Labelled, overfitting", [one for one in first if one.overfit], first),
        "all labelled": compared("Labelled, all", first, first),
        "optimizers": compared("Optimizers", second, second),
    }
    calibration("labelled", first)
    calibration("optimizers", second)
    calibration("labelled, printed with 3 digits after the point", rounded(first, 3))
    if given.figure:
        figure(given.figure, panels)


if __name__ == "__main__":
    main()
