"""Error rates of the verdicts on curves: published labels, learning rates far from the best, noise with a known truth, speed.

    python benchmarks/histories.py [--data ../shared/data] [--part labels,rates,noise,speed] [--figure rates.svg]

labels: 419 published histories of 12 data sets, labelled as overfitting or not. Beside `overfits` stands the rule with one
threshold on (mean of the last 20 validation losses - minimum). Two constants of ours were ever looked at on such data, the rises
that matter (`RISE_OF_BEST`, `RISE_OF_PROGRESS`); `ours, left out` fits them anew without the family that is judged, as the
threshold is. Intervals draw whole families, or runs, anew; those of the difference draw both rules' answers together.

rates: 1,080 runs of 3 optimizers on 8 problems at 36 learning rates. Distance is in decades from the rate with the best last test
accuracy (or loss) of that problem and optimizer. `high` is `rate_too_high` or `diverged`, with `not_learning` or `oscillates`
counted apart; `low` is `rate_too_low`, `undertrained` or `slow`. The second table is of runs that ended clearly worse, with a
test error (or loss) a fifth above that at the best rate: far from the best rate some do as well.

noise: validation that comes to rest, or turns and ends above its lowest level by a known share of it, under white, correlated
(0.8 from epoch to epoch) and heavy-tailed noise (Student's t, 3 degrees of freedom). Beliefs are compared on rises drawn evenly
from 0 to 15 %, of which those of 5 % and more, without the noise, matter.

speed: seconds of processor time.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import Diagnosis, diagnose, diagnose_many
from wellposed.diagnosis.rules.generalization import Overfits

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
PARTS = ("labels", "rates", "noise", "speed")
HIGH, LOW = {"rate_too_high", "diverged"}, {"rate_too_low", "undertrained", "slow"}
GRID = [(best, progress) for best in (0.02, 0.03, 0.04, 0.05, 0.07, 0.1) for progress in (0.01, 0.02, 0.03, 0.05)]
LAWS = ("white", "correlated", "heavy")
EFFECTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
MATTERS = 0.05
EPOCHS = (20, 60, 200, 1000)
NOISES = (0.005, 0.02, 0.05)


def lines(path: Path) -> list[dict[str, Any]]:
    """The histories of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# Labels


def macro_f1(said: Bools, label: Bools) -> float:
    """The mean of both classes' F1; a class that is neither there nor said counts as met."""
    scores = []
    for side in (True, False):
        both, either = ((said == side) & (label == side)).sum(), (said == side).sum() + (label == side).sum()
        scores.append(2 * both / either if either else 1.0)
    return float(np.mean(scores))


def groups(names: list[str]) -> list[Array]:
    """The positions of each family."""
    return [np.flatnonzero([name == one for name in names]) for one in dict.fromkeys(names)]


def resampled(units: list[Array], draws: int = 2000) -> Iterator[Array]:
    """Positions of whole units drawn anew."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        yield np.concatenate([units[i] for i in rng.integers(len(units), size=len(units))])


def interval(values: list[float]) -> str:
    """A 95 % interval in words."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:.3f} to {high:.3f}"


def by_threshold(statistic: Array, label: Bools, family: list[str]) -> Bools:
    """The one-threshold rule, its threshold chosen without the family that is judged: midway between the best two values."""
    said = np.zeros(len(label), dtype=bool)
    for members in groups(family):
        others = np.setdiff1d(np.arange(len(label)), members)
        values = np.unique(statistic[others])
        cuts = (values[1:] + values[:-1]) / 2
        scores = [macro_f1(statistic[others] > cut, label[others]) for cut in cuts]
        said[members] = statistic[members] > cuts[int(np.argmax(scores))]
    return said


def said_with(curves: list[Curves], constants: tuple[float, float]) -> Bools:
    """Whether the rule `overfits` holds, with these rises that matter."""
    kept = measure.RISE_OF_BEST, measure.RISE_OF_PROGRESS
    measure.RISE_OF_BEST, measure.RISE_OF_PROGRESS = constants
    try:
        return np.array([Overfits().judge(one) is not None for one in curves])
    finally:
        measure.RISE_OF_BEST, measure.RISE_OF_PROGRESS = kept


def left_out(curves: list[Curves], label: Bools, family: list[str]) -> tuple[Bools, Counter[tuple[float, float]]]:
    """Ours with its two constants chosen without the family that is judged, and which were chosen how often.

    Of equally good ones that nearest to the shipped is taken.
    """
    answers = {constants: said_with(curves, constants) for constants in GRID}
    shipped = np.log([measure.RISE_OF_BEST, measure.RISE_OF_PROGRESS])
    said, chosen = np.zeros(len(label), dtype=bool), Counter[tuple[float, float]]()
    for members in groups(family):
        others = np.setdiff1d(np.arange(len(label)), members)

        def rank(constants: tuple[float, float], others: Array = others) -> tuple[float, float]:
            return macro_f1(answers[constants][others], label[others]), -float(
                np.abs(np.log(constants) - shipped).sum()
            )

        best = max(GRID, key=rank)
        chosen[best] += 1
        said[members] = answers[best][members]
    return said, chosen


def labels(folder: Path) -> None:
    """Print how labels are met, and where not."""
    rows = lines(folder / "overfitting-labelled-train.jsonl.gz")
    family, label = [row["family"] for row in rows], np.array([row["overfit"] for row in rows])
    curves = [Curves.of({"train_loss": row["train_loss"], "valid_loss": row["valid_loss"]}) for row in rows]
    found = [diagnose(one) for one in curves]
    statistic = np.array([np.mean(row["valid_loss"][-20:]) - min(row["valid_loss"]) for row in rows])
    ours, (fitted, chosen) = np.array(["overfits" in one.names for one in found]), left_out(curves, label, family)
    rule = by_threshold(statistic, label, family)
    print("\n## Published labels\n\n| rule | macro-F1 | 95 %, families | 95 %, runs | missed | false alarms |")
    print("|---|---|---|---|---|---|")
    units = {"families": groups(family), "runs": [np.array([i]) for i in range(len(rows))]}
    for name, said in (("one threshold, left out", rule), ("ours, as shipped", ours), ("ours, left out", fitted)):
        ranges = [interval([macro_f1(said[at], label[at]) for at in resampled(unit)]) for unit in units.values()]
        missed, false = int((label & ~said).sum()), int((said & ~label).sum())
        print(
            f"| {name} | {macro_f1(said, label):.3f} | {ranges[0]} | {ranges[1]} | {missed} of {label.sum()} | {false} |"
        )
    drawn = [macro_f1(ours[at], label[at]) - macro_f1(rule[at], label[at]) for at in resampled(units["runs"])]
    gain = macro_f1(ours, label) - macro_f1(rule, label)
    print(f"\nOurs as shipped minus one threshold: {gain:+.3f}, 95 % {interval(drawn)} (runs).")
    print(f"Constants chosen when left out: {', '.join(f'{one} {count} times' for one, count in chosen.items())}.")
    print("\n| differs | label | ours | one threshold | best epoch | rise | of the best | of the progress |")
    print("|---|---|---|---|---|---|---|---|")
    for i in np.flatnonzero((ours != label) | (rule != label)):
        valid = np.array(rows[i]["valid_loss"])
        rise = measure.valid_rise(curves[i])
        words = ["overfits" if said else "not" for said in (label[i], ours[i], rule[i])]
        print(
            f"| {rows[i]['run']} | {' | '.join(words)} | {valid.argmin()} of {len(valid)} | {rise.estimate:.4f} | "
            f"{rise.estimate / valid.min():.1%} | {rise.estimate / max(valid[0] - valid.min(), 1e-12):.1%} |"
        )
    print(f"\nAll findings: {dict(Counter(name for one in found for name in one.names).most_common())}")


# Learning rates


def numbers(values: list[float | None]) -> list[float]:
    """NaN where a writer left a blank for it."""
    return [math.nan if value is None else value for value in values]


def judged_rate(row: dict[str, Any]) -> Diagnosis:
    """The verdict on one run of an optimizer."""
    columns = {"train_loss": numbers(row["train_losses"]), "valid_loss": numbers(row["test_losses"])}
    if row.get("test_accuracies"):
        columns |= {
            "train_accuracy": numbers(row["train_accuracies"]),
            "valid_accuracy": numbers(row["test_accuracies"]),
        }
    return diagnose(columns)


def quality(row: dict[str, Any]) -> float:
    """The last test accuracy, or minus the last test loss where there is none."""
    value = row["test_accuracies"][-1] if row.get("test_accuracies") else row["test_losses"][-1]
    if value is None or not math.isfinite(value):
        return -1e300
    return value if row.get("test_accuracies") else -value


def decades(rows: list[dict[str, Any]]) -> list[float]:
    """Of each run, how far its rate is from the best of its problem and optimizer: the mean over seeds decides."""
    reached: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        reached[row["testproblem"], row["optimizer"]][row["learning_rate"]].append(quality(row))
    best = {key: max(rates, key=lambda rate, of=rates: float(np.mean(of[rate]))) for key, rates in reached.items()}
    return [math.log10(row["learning_rate"] / best[row["testproblem"], row["optimizer"]]) for row in rows]


def worse(rows: list[dict[str, Any]]) -> list[bool]:
    """Whether a run's last test error (or loss) is a fifth above that at its problem's and optimizer's best rate."""

    def badness(row: dict[str, Any]) -> float:
        value = quality(row)
        return 1 - value if row.get("test_accuracies") else -value

    ends: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        ends[row["testproblem"], row["optimizer"]][row["learning_rate"]].append(badness(row))
    least = {key: min(float(np.mean(of)) for of in by_rate.values()) for key, by_rate in ends.items()}
    return [badness(row) > 1.2 * least[row["testproblem"], row["optimizer"]] for row in rows]


KINDS = {
    "high": HIGH, "not_learning or oscillates alone": {"not_learning", "oscillates"}, "low": LOW,
    "rate_too_high": {"rate_too_high"}, "diverged": {"diverged"}, "rate_too_low": {"rate_too_low"},
    "undertrained": {"undertrained"}, "slow": {"slow"}, "underfits": {"underfits"},
    "overfits or overconfident": {"overfits", "overconfident"}, "healthy": {"healthy"},
}  # fmt: skip


def alarms(away: list[float], names: list[set[str]]) -> tuple[list[float], dict[str, list[float]]]:
    """Print and return the share of runs with each kind of finding, by distance."""
    bins: dict[float, list[set[str]]] = defaultdict(list)
    for distance, found in zip(away, names, strict=True):
        bins[float(np.clip(round(2 * distance) / 2, -4, 4))].append(found)
    print(f"| decades from the best | runs | {' | '.join(KINDS)} |\n|{'---|' * (len(KINDS) + 2)}")
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for centre in sorted(bins):
        for kind, wanted in KINDS.items():
            hits = [
                bool(found & wanted) and not (kind.endswith("alone") and found & (HIGH | LOW)) for found in bins[centre]
            ]
            shares[kind].append(float(np.mean(hits)))
        cells = " | ".join(f"{100 * shares[kind][-1]:.0f} %" for kind in KINDS)
        edge = " and beyond" if abs(centre) == 4 else ""
        print(f"| {centre:+.1f}{edge} | {len(bins[centre])} | {cells} |")
    return sorted(bins), shares


def rates(folder: Path, path: str | None) -> None:
    """Print alarm rates by distance from the best rate."""
    rows = [row for row in lines(folder / "optimizer-baselines-epoch-curves.jsonl.gz") if row.get("optimizer")]
    away, names = decades(rows), [set(judged_rate(row).names) for row in rows]
    print("\n## Learning rates\n")
    centres, shares = alarms(away, names)
    print("\nOf the runs that ended clearly worse than at the best rate:\n")
    bad = np.flatnonzero(worse(rows))
    alarms([away[i] for i in bad], [names[i] for i in bad])
    wrong = [(bool(found & HIGH), bool(found & LOW), d) for found, d in zip(names, away, strict=True)]
    below, above = [one for one in wrong if one[2] <= -1], [one for one in wrong if one[2] >= 1]
    near = [one for one in wrong if abs(one[2]) < 0.5]
    print(f"\nA decade or more below: low {sum(o[1] for o in below)}, high {sum(o[0] for o in below)} of {len(below)}.")
    print(f"A decade or more above: high {sum(o[0] for o in above)}, low {sum(o[1] for o in above)} of {len(above)}.")
    print(f"Within half a decade: high {sum(o[0] for o in near)}, low {sum(o[1] for o in near)} of {len(near)}.")
    if path:
        figure(path, centres, shares)


def figure(path: str, centres: list[float], shares: dict[str, list[float]]) -> None:
    """Alarm rates against decades from the best rate."""
    import matplotlib

    matplotlib.use("svg" if path.endswith("svg") else "agg")
    from matplotlib import pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "wellposed"
    fig, axis = plt.subplots(figsize=(7, 3.4))
    looks = {
        "high": ("too high or diverged", "-", "#c1121f"), "not_learning or oscillates alone": (None, "--", "#e9a23b"),
        "low": ("too low, undertrained or slow", "-", "#2a6f97"), "healthy": (None, "-", "#4f772d"),
        "overfits or overconfident": (None, ":", "#7a5195"),
    }  # fmt: skip
    for kind, (label, style, colour) in looks.items():
        axis.plot(centres, shares[kind], style, color=colour, label=label or kind, marker="o", markersize=3)
    axis.axvline(0, color="#bbbbbb", linewidth=0.8)
    axis.set_xlabel("decades from the best learning rate")
    axis.set_ylabel("share of runs")
    axis.set_ylim(0, 1.02)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


# Noise


def noise(law: str, rng: np.random.Generator, count: int) -> Array:
    """Noise of variance 1."""
    if law == "heavy":
        return rng.standard_t(3, count) / math.sqrt(3)
    values = rng.normal(size=count + 50)
    if law == "correlated":
        for i in range(1, len(values)):
            values[i] = 0.8 * values[i - 1] + 0.6 * values[i]
    return values[50:]


def drawn(
    law: str, rng: np.random.Generator, epochs: int, size: float, effect: float
) -> tuple[dict[str, Array], float]:
    """A history whose validation ends above its lowest level by ``effect`` of it, rising from a third to two thirds on; and by
    how much the level at its end lies above the lowest without the noise."""
    t = np.arange(epochs) / epochs
    fall = np.exp(-t * rng.uniform(8, 20))
    at = rng.uniform(1 / 3, 2 / 3)
    clean = 0.5 + 0.8 * fall + 0.5 * effect * np.clip((t - at) / (1 - at), 0, None)
    train = 0.2 + 1.1 * np.exp(-t * rng.uniform(2, 6))
    end = float(clean[-measure.window(epochs) :].mean())
    noisy = clean * (1 + size * noise(law, rng, epochs))
    history = {"train_loss": train * (1 + size / 4 * noise(law, rng, epochs)), "valid_loss": noisy}
    return history, end / float(clean.min()) - 1


def simulated(draws: int) -> None:
    """Print how often `overfits` is said, by what is true, and whether its confidence is one."""
    rng, said = np.random.default_rng(0), defaultdict[tuple[Any, ...], list[bool]](list)
    withheld = defaultdict[float, list[bool]](list)
    beliefs: list[tuple[float, bool]] = []
    for law, epochs, size in itertools.product(LAWS, EPOCHS, NOISES):
        for effect in EFFECTS:
            for _ in range(draws):
                found = diagnose(drawn(law, rng, epochs, size, effect)[0])
                for key in ((law, effect), (epochs, effect), (size, effect)):
                    said[key].append("overfits" in found.names)
                withheld[effect].append("noisy_evidence" in found.names)
        for _ in range(2 * draws):
            history, rise = drawn(law, rng, epochs, size, rng.uniform(0, 3 * MATTERS))
            by_name = {finding.name: finding.confidence for finding in diagnose(history)}
            if "overfits" in by_name:
                beliefs.append((by_name["overfits"], rise >= MATTERS))
            elif "healthy" in by_name:
                beliefs.append((1 - by_name["healthy"], rise >= MATTERS))
    print(
        f"\n## Noise: how often `overfits` is said, by the true rise\n\n| | {' | '.join(f'{e:.0%}' for e in EFFECTS)} |"
    )
    print(f"|---|{'---|' * len(EFFECTS)}")
    names = {
        **{law: law for law in LAWS},
        **{e: f"{e} epochs" for e in EPOCHS},
        **{s: f"noise {s:.1%}" for s in NOISES},
    }
    for key, name in names.items():
        print(f"| {name} | {' | '.join(f'{np.mean(said[key, effect]):.2f}' for effect in EFFECTS)} |")
    print(f"| noisy_evidence is said | {' | '.join(f'{np.mean(withheld[effect]):.2f}' for effect in EFFECTS)} |")
    print("\nA rise that matters, as believed (`overfits`: confidence; `healthy`: one minus it) and as it was:\n")
    print("| believed | cases | mean belief | share with a rise of 5 % or more |\n|---|---|---|---|")
    believed, true = np.array([one for one, _ in beliefs]), np.array([one for _, one in beliefs])
    edges = (0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.01)
    for low, high in itertools.pairwise(edges):
        at = (believed >= low) & (believed < high)
        if at.any():
            print(
                f"| {low:.1f} to {min(high, 1):.1f} | {at.sum()} | {believed[at].mean():.2f} | {true[at].mean():.2f} |"
            )


# Speed


def speed(count: int = 1000, epochs: int = 1000) -> None:
    """Print the seconds for many long histories with losses and accuracies."""
    rng = np.random.default_rng(0)
    sources = []
    for _ in range(count):
        t = np.arange(epochs)
        fall = np.exp(-t / rng.uniform(20, 400))
        wave = 0.01 * rng.normal(size=(2, epochs))
        turned = rng.choice([0, 1e-4, 3e-4]) * np.maximum(t - 300, 0)
        sources.append({
            "loss": list(0.1 + fall + wave[0]), "val_loss": list(0.2 + fall + turned + wave[1]),
            "accuracy": list(0.95 - 0.4 * fall), "val_accuracy": list(0.9 - 0.4 * fall),
        })  # fmt: skip
    began = time.process_time()
    found = diagnose_many(sources)
    whole = time.process_time() - began
    began = time.process_time()
    diagnose_many([one.curves for one in found])
    print(f"\n## Speed\n\n{count} histories of {epochs} epochs, four columns, as lists: {whole:.1f} s; ", end="")
    print(f"{time.process_time() - began:.1f} s of these to judge.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--figure", help="of the alarm rates, an SVG or PNG")
    parser.add_argument("--draws", type=int, default=40, help="of each case of noise")
    given = parser.parse_args()
    parts, folder = given.part.split(","), given.data / "curves"
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--part knows {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    if not folder.is_dir() and {"labels", "rates"} & set(parts):
        print(f"There is no folder '{folder}' of published histories; give --data. Labels and rates are left out.")
        parts = [part for part in parts if part not in ("labels", "rates")]
    if "labels" in parts:
        labels(folder)
    if "rates" in parts:
        rates(folder, given.figure)
    if "noise" in parts:
        simulated(given.draws)
    if "speed" in parts:
        speed()


if __name__ == "__main__":
    main()
