"""Validation score against wall-clock: `wp.improve` beside Optuna (TPE, median pruner) over a plain PyTorch loop.

    python benchmarks/time_to_quality.py FOLDER_OF_TABLES --out lines.jsonl [--tables car,phoneme] [--seeds 3]
                                         [--seconds-ours 30] [--seconds-peer 300] [--threads 2]
    python benchmarks/time_to_quality.py --show lines.jsonl [--figure docs/figures/time_to_quality.svg]

The first command trains, and adds a line of JSON for each table, seed and side as soon as it is there; started again, it goes
on with what is missing. The second prints the table and draws the figure.

Both sides have the same training, validation and test rows, encoded alike, the same perceptron, and the metric of the table
(accuracy or R2). The peer's space is learning rate, decay, dropout, label smoothing, batch size, width, depth and schedule, in
the ranges of wellposed's own. Its loop is a fast one: fused AdamW, batches by index from whole tensors without a DataLoader,
and one thread where that is faster than all of them.
As in wellposed, a run keeps the weights of the epoch with the lowest validation loss, stops when that is a fifth of the epochs
ago, and has as many epochs as let 25 recipes fit into the clock; the pruner makes room for more. A score counts from the moment
its run has ended or was pruned. Our clock contains everything that `improve` does, references and confirmation too.
The best of many validation scores is too good, and the more so the longer the search; wellposed may also take it on fewer
validation rows while its clock is short. So the table has what either side hands back, too: its score on all validation rows
(for the peer that is the best itself, for wellposed that of a new run), and on test rows, which no search has seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peers import EVALUATED_AT_ONCE, Batches, Rows, problem_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import wellposed as wp
from wellposed.core.files import jsonable, write_atomically
from wellposed.core.progress import reporting_to
from wellposed.noise.activations import set_dropout
from wellposed.optim.schedules import SHAPES, rate_at
from wellposed.training.problem import Problem

TABLES = "adult,california-housing,car,concrete,credit-g,higgs-small,phoneme,segment"
OURS, PEER = "ours", "peer"
SCHEMA = 1

FEWEST_EPOCHS, MOST_EPOCHS, RECIPES = 12, 300, 25
"""Epochs of a run of the peer: as many as let so many recipes fit into the clock, within these bounds."""
TIMED_STEPS = 20
SCHEDULES = ("constant", "cosine", "one_cycle")
RATES, DECAYS, DROPOUT, SMOOTHING = (1e-4, 3e-2), (1e-3, 1.0), 0.5, 0.2


@dataclass(frozen=True)
class Line:
    """One side on one table with one seed.

    Attributes:
        curve: seconds, and the best validation score that there was by then.
        valid, test: scores, on all rows, of the model that is handed back at the end.
        recipes: that were tried, pruned ones too.
        took: seconds until it was handed back.
    """

    table: str
    seed: int
    side: str
    seconds: float
    metric: str
    rows: tuple[int, int, int]
    threads: int
    curve: list[tuple[float, float]]
    valid: float
    test: float
    recipes: int
    took: float
    torch: str = torch.__version__
    schema: int = SCHEMA

    @property
    def key(self) -> tuple[str, int, str, float]:
        """Which comparison it belongs to."""
        return self.table, self.seed, self.side, self.seconds

    def at(self, seconds: float) -> float:
        """The best validation score by then; NaN before there is one."""
        return max((score for when, score in self.curve if when <= seconds), default=math.nan)

    def reached(self, score: float) -> float:
        """The seconds after which the best validation score was at least this; infinite if it never was."""
        return min((when for when, found in self.curve if found >= score), default=math.inf)


# --- our side


def ours(problem: Problem, seed: int, seconds: float) -> Line:
    """`wp.improve`, watched through its reports."""
    curve: list[tuple[float, float]] = []
    recipes = 0
    began = time.monotonic()

    def sink(event: str, fields: dict[str, Any]) -> None:
        nonlocal recipes
        if event == "trial":
            recipes += fields["trial"].kind in ("baseline", "search")
            if math.isfinite(fields["best"]):
                curve.append((time.monotonic() - began, fields["best"]))

    with reporting_to(sink):
        study = wp.improve(problem, f"{seconds:f}s", seed, device="cpu")
    took = time.monotonic() - began
    if not study.facts["looks"]:
        raise SystemExit("Interrupted; the lines so far are kept, and the same command goes on from here.")
    best = study.best
    return line(problem, seed, OURS, seconds, curve, best.score("valid"), best.score("test"), recipes, took)


# --- the peer


@dataclass(frozen=True)
class Setting:
    """What a trial of the peer varies."""

    lr: float
    weight_decay: float
    dropout: float
    label_smoothing: float
    batch_size: int
    width: int
    depth: int
    schedule: str


class OutOfTime(Exception):
    """The clock has run out within a trial."""


@dataclass
class Peer:
    """Optuna's study over a plain loop, and the best weights so far."""

    problem: Problem
    seconds: float
    began: float
    epochs: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, float] = (-math.inf, -math.inf)
    net: nn.Module | None = None
    trials: int = 0

    def __post_init__(self) -> None:
        data = self.problem.prepared
        self.train, self.valid = Rows.of(data.train), Rows.of(data.valid)
        self.classifying = data.task == "classification"

    @property
    def left(self) -> float:
        """Seconds of the clock."""
        return self.seconds - (time.monotonic() - self.began)

    def run(self, seed: int) -> None:
        """Trials until the clock has run out."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        torch.manual_seed(seed)
        self.plan()
        sampler, pruner = optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner()
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)

        def objective(trial: optuna.Trial) -> float:
            kept = Kept(self)
            try:
                for epoch in self.trained(self.setting(trial), kept):
                    if math.isfinite(kept.rank[0]):
                        trial.report(kept.rank[0], epoch)
                    if trial.should_prune():
                        raise optuna.TrialPruned
            except OutOfTime:
                study.stop()
            finally:
                self.ended(kept)
            if not math.isfinite(kept.rank[0]):
                raise optuna.TrialPruned
            return kept.rank[0]

        study.optimize(objective, timeout=max(0.0, self.left))

    def setting(self, trial: Any) -> Setting:
        """A point of the space."""
        space = self.problem.space
        return Setting(
            lr=trial.suggest_float("lr", *RATES, log=True),
            weight_decay=trial.suggest_float("weight_decay", *DECAYS, log=True),
            dropout=trial.suggest_float("dropout", 0.0, DROPOUT),
            label_smoothing=trial.suggest_float("label_smoothing", 0.0, SMOOTHING) if self.classifying else 0.0,
            batch_size=trial.suggest_categorical("batch_size", batch_sizes(len(self.train))),
            width=trial.suggest_categorical("width", space["width"]),
            depth=trial.suggest_categorical("depth", space["depth"]),
            schedule=trial.suggest_categorical("schedule", SCHEDULES),
        )

    def plan(self) -> None:
        """Settle threads and epochs of a run, by a middling network with one thread and with all of them."""
        sizes = batch_sizes(len(self.train))
        setting = Setting(1e-3, 1e-2, 0.1, 0.0, sizes[1], width=128, depth=2, schedule="constant")
        times = {}
        for threads in sorted({1, torch.get_num_threads()}):
            torch.set_num_threads(threads)
            times[threads] = self.epoch_seconds(setting)
        best = min(times, key=lambda threads: times[threads])
        torch.set_num_threads(best)
        self.epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, int(self.seconds / RECIPES / times[best])))

    def epoch_seconds(self, setting: Setting) -> float:
        """What an epoch takes, evaluation included: by some steps, after as many that set up."""
        net, optimizer = self.begun(setting)
        batches = itertools.cycle(Batches(self.train, setting.batch_size, shuffled=True))
        for _ in range(2):
            began = time.monotonic()
            for x, y in itertools.islice(batches, TIMED_STEPS):
                self.step(net, optimizer, x, y, setting)
            steps = (time.monotonic() - began) / TIMED_STEPS
            began = time.monotonic()
            self.measured(net, self.valid)
            evaluation = time.monotonic() - began
        return math.ceil(len(self.train) / setting.batch_size) * steps + evaluation

    def begun(self, setting: Setting) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A new network and its optimizer."""
        net = self.problem.model(self.problem.prepared, width=setting.width, depth=setting.depth)
        set_dropout(net, setting.dropout)
        decay = setting.weight_decay
        return net, torch.optim.AdamW(net.parameters(), lr=setting.lr, weight_decay=decay, fused=True)

    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, setting: Setting) -> None:
        """One step of training."""
        optimizer.zero_grad()
        self.loss(net(x), y, setting.label_smoothing).backward()
        optimizer.step()

    def trained(self, setting: Setting, kept: Kept) -> Iterable[int]:
        """Train epoch by epoch; each one's number comes when it has been evaluated.

        Raises:
            OutOfTime: in the middle.
        """
        net, optimizer = self.begun(setting)
        batches = Batches(self.train, setting.batch_size, shuffled=True)
        done, total = 0, math.ceil(len(self.train) / setting.batch_size) * self.epochs
        for epoch in range(self.epochs):
            net.train()
            for x, y in batches:
                optimizer.param_groups[0]["lr"] = rate_at(SHAPES[setting.schedule], setting.lr, done, total)
                self.step(net, optimizer, x, y, setting)
                done += 1
                if self.left < 0:
                    kept.look(net)
                    raise OutOfTime
            kept.look(net)
            yield epoch
            if kept.waited >= max(10, self.epochs // 5) or not math.isfinite(kept.last):
                break

    def loss(self, outputs: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """What is minimized: a mean over rows."""
        if self.classifying:
            return cross_entropy(outputs, target, label_smoothing=smoothing)
        return mse_loss(outputs[:, 0], target)

    @torch.no_grad()
    def measured(self, net: nn.Module, rows: Rows) -> tuple[float, float]:
        """Score and loss in evaluation mode."""
        net.eval()
        outputs = torch.cat([net(x) for x, _ in Batches(rows, EVALUATED_AT_ONCE)])
        loss = float(self.loss(outputs, rows.y))
        if self.classifying:
            return float((outputs.argmax(1) == rows.y).double().mean()), loss
        return 1.0 - loss / float(rows.y.double().var(correction=0)), loss

    def ended(self, kept: Kept) -> None:
        """A run has ended: its weights are the study's if they are the best."""
        self.trials += 1
        if kept.rank > self.best:
            self.best, self.net = kept.rank, kept.restored()
        if math.isfinite(self.best[0]):
            self.curve.append((time.monotonic() - self.began, self.best[0]))


@dataclass
class Kept:
    """Of one run, the weights of the epoch with the lowest validation loss.

    Attributes:
        rank: their score, and minus their loss.
        last: the last epoch's loss.
        waited: epochs since the lowest.
    """

    peer: Peer
    rank: tuple[float, float] = (-math.inf, -math.inf)
    last: float = math.inf
    waited: int = 0
    net: nn.Module | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, net: nn.Module) -> None:
        """Evaluate; keep the weights if they are the best."""
        score, self.last = self.peer.measured(net, self.peer.valid)
        self.waited += 1
        if -self.last > self.rank[1]:
            self.rank, self.waited, self.net = (score, -self.last), 0, net
            self.weights = {name: value.clone() for name, value in net.state_dict().items()}

    def restored(self) -> nn.Module | None:
        """The network with the weights that were kept."""
        if self.net is not None:
            self.net.load_state_dict(self.weights)
        return self.net


def batch_sizes(rows: int) -> list[int]:
    """Half, as many and twice as many rows as wellposed's baseline would take for a table of this size."""
    middle = 32 if rows < 1000 else 128 if rows < 20000 else 256
    return [middle // 2, middle, middle * 2]


def peer(problem: Problem, seed: int, seconds: float) -> Line:
    """Optuna's search."""
    import optuna  # noqa: F401  before the clock starts

    threads = torch.get_num_threads()
    searching = Peer(problem, seconds, time.monotonic())
    searching.run(seed)
    took = time.monotonic() - searching.began
    torch.set_num_threads(threads)
    if searching.net is None:
        raise SystemExit(f"{problem.name}: no trial of the peer has ended with a finite loss; give it more seconds.")
    test = searching.measured(searching.net, Rows.of(problem.prepared.test))[0]
    return line(problem, seed, PEER, seconds, searching.curve, searching.best[0], test, searching.trials, took)


def line(
    problem: Problem,
    seed: int,
    side: str,
    seconds: float,
    curve: list[tuple[float, float]],
    valid: float,
    test: float,
    recipes: int,
    took: float,
) -> Line:
    """A line, with the circumstances."""
    data = problem.prepared
    rows = len(data.train), len(data.valid), len(data.test)
    return Line(
        problem.name, seed, side, seconds, problem.metric.name, rows, torch.get_num_threads(), curve, valid, test,
        recipes, took,
    )  # fmt: skip


# --- lines of JSON


def read_lines(path: Path) -> list[Line]:
    """The lines so far; none where there is no file."""
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        value = json.loads(text)
        if value.get("schema") != SCHEMA:
            raise SystemExit(f"{path}, line {number}: schema {value.get('schema')}; this script reads {SCHEMA}.")
        value["curve"] = [tuple(point) for point in value["curve"]]
        found.append(Line(**value))
    return found


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """All lines at once: whoever ends the script between two of them finds a whole file."""
    write_atomically(path, "".join(json.dumps(jsonable(dataclasses.asdict(one))) + "\n" for one in lines))


def first_step() -> None:
    """The first step of all makes torch import and set up for a second or more: before any clock starts."""
    net = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    net(torch.ones(1, 1)).sum().backward()
    optimizer.step()


def train(arguments: argparse.Namespace) -> None:
    """Everything that is not in the file yet."""
    torch.set_num_threads(arguments.threads)
    first_step()
    lines = read_lines(arguments.out)
    have = {one.key for one in lines}
    clocks = {OURS: arguments.seconds_ours, PEER: arguments.seconds_peer}
    for name in arguments.tables.split(","):
        problem = problem_of(arguments.folder / f"{name}.csv.gz")
        for seed in range(arguments.seeds):
            for side, search in ((OURS, ours), (PEER, peer)):
                if (problem.name, seed, side, clocks[side]) in have:
                    continue
                found = search(problem, seed, clocks[side])
                lines.append(found)
                write_lines(arguments.out, lines)
                print(
                    f"{name}, seed {seed}, {side}: {found.metric} {found.valid:.4f} in validation, {found.test:.4f} in test, "
                    f"{found.recipes} recipes, {found.took:.1f} s",
                    flush=True,
                )


# --- what they show


@dataclass(frozen=True)
class Compared:
    """One table: pairs of lines with equal seeds, ours first."""

    table: str
    pairs: list[tuple[Line, Line]]

    @property
    def times(self) -> list[float]:
        """The seconds in which we reach the peer's last best score, seed by seed; infinite where we do not."""
        return [mine.reached(other.at(math.inf)) for mine, other in self.pairs]

    @property
    def peer_times(self) -> list[float]:
        """The seconds in which the peer reaches it."""
        return [other.reached(other.at(math.inf)) for _, other in self.pairs]

    def row(self) -> str:
        """As Markdown."""
        mine, other = zip(*self.pairs, strict=True)
        clock = mine[0].seconds
        reached = sum(map(math.isfinite, self.times))
        cells = [
            self.table,
            mine[0].metric,
            mean(one.at(math.inf) for one in other),
            mean(one.at(clock) for one in other),
            mean(one.at(math.inf) for one in mine),
            mean(one.valid for one in mine),
            f"{reached} of {len(self.pairs)}",
            middle(self.times),
            middle(self.peer_times),
            mean(one.test for one in other),
            mean(one.test for one in mine),
            " and ".join(f"{statistics.fmean(one.recipes for one in side):.0f}" for side in (other, mine)),
        ]
        return "| " + " | ".join(cells) + " |"


def mean(values: Iterable[float]) -> str:
    """Of several seeds."""
    return f"{statistics.fmean(values):.4f}"


def middle(times: Sequence[float]) -> str:
    """The median of several seeds (of two in the middle, the later), which may be that it was not reached."""
    found = statistics.median_high(times)
    return f"{found:.1f}" if math.isfinite(found) else "not reached"


def compared(lines: Sequence[Line]) -> list[Compared]:
    """Pairs, table by table; of several clocks of one side the longest counts."""
    latest: dict[tuple[str, int, str], Line] = {}
    for one in sorted(lines, key=lambda one: one.seconds):
        latest[one.table, one.seed, one.side] = one
    tables: dict[str, list[tuple[Line, Line]]] = defaultdict(list)
    for (table, seed, side), one in sorted(latest.items()):
        if side == OURS and (table, seed, PEER) in latest:
            tables[table].append((one, latest[table, seed, PEER]))
    return [Compared(table, pairs) for table, pairs in tables.items()]


def show(lines: Sequence[Line], figure: Path | None) -> None:
    """Print the table, and draw the figure."""
    tables = compared(lines)
    if not tables:
        raise SystemExit("There is no table that both sides were trained on; train more before you show them.")
    pairs = [pair for one in tables for pair in one.pairs]
    ours_clock, peer_clock = (max(pair[side].seconds for pair in pairs) for side in (0, 1))
    times = [when for one in tables for when in one.times]
    print(
        f"wellposed has {ours_clock:g} s, the peer {peer_clock:g} s; {pairs[0][0].threads} threads, torch {pairs[0][0].torch}; "
        "validation scores are the best of the search, test scores those of what is handed back; means over seeds, medians of "
        "times. The peer planned for its own clock: for equal clocks, give --seconds-peer the same"
    )
    titles = [
        "table", "metric", f"peer, {peer_clock:g} s", f"the same after {ours_clock:g} s",
        f"wellposed, {ours_clock:g} s", "handed back",
        "peer's best reached", "s, wellposed", "s, peer", "test, peer", "test, wellposed",
        "recipes, peer and wellposed",
    ]  # fmt: skip
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    print("\n".join(one.row() for one in tables))
    print(f"peer's best reached within {ours_clock:g} s: {sum(map(math.isfinite, times))} of {len(times)} searches")
    if figure is not None:
        draw(tables, figure)


COLOURS = {OURS: "#0072b2", PEER: "#d55e00"}
INK = "#767676"
"""Legible on white and on black."""
SECONDS = (0.3, 1, 3, 10, 30, 100, 300)
SHOWN_BELOW, SHOWN_ABOVE = 0.03, 0.003
"""Of the scores, what is shown below the worst and above the best that a search ends with."""


def began(found: Line) -> float:
    """When the first score was there."""
    return found.curve[0][0]


def ended(found: Line) -> float:
    """When the last score was there."""
    return found.curve[-1][0]


def draw(tables: Sequence[Compared], path: Path) -> None:
    """A panel for each table: the best validation score so far, a line for each seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "wellposed", "font.size": 9, "axes.edgecolor": INK, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip
    columns = min(4, len(tables))
    rows = math.ceil(len(tables) / columns)
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            rows, columns, figsize=(2.8 * columns, 2.2 * rows + 0.3), squeeze=False, layout="constrained"
        )
        for panel, one in zip(panels.flat, tables, strict=False):
            for pair in one.pairs:
                for found in pair:
                    when, scores = zip(*found.curve, strict=True)
                    end = max(found.seconds, when[-1])
                    panel.step((*when, end), (*scores, scores[-1]), where="post", color=COLOURS[found.side], lw=1.2)
            panel.set_xscale("log")
            panel.set_xticks(SECONDS, [f"{seconds:g}" for seconds in SECONDS])
            panel.minorticks_off()
            panel.set_xlim(SECONDS[0], max(found.seconds for pair in one.pairs for found in pair))
            panel.set_title(f"{one.table}, {one.pairs[0][0].metric}", fontsize=9)
            first, last = ([found.at(when(found)) for pair in one.pairs for found in pair] for when in (began, ended))
            panel.set_ylim(max(min(first), min(last) - SHOWN_BELOW), max(last) + SHOWN_ABOVE)
        for panel in panels.flat[len(tables) :]:
            panel.set_visible(False)
        for panel in panels[-1]:
            panel.set_xlabel("seconds")
        for side, label in ((OURS, "wellposed"), (PEER, "Optuna (TPE, median pruner), plain loop")):
            panels.flat[0].plot([], [], color=COLOURS[side], label=label)
        figure.legend(frameon=False, loc="outside upper center", ncols=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def main() -> None:
    """Train, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, help="lines of JSON; is made or continued")
    parser.add_argument("--tables", default=TABLES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds-ours", type=float, default=30.0)
    parser.add_argument("--seconds-peer", type=float, default=300.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--show", type=Path, help="lines of JSON")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    if arguments.show is not None:
        show(read_lines(arguments.show), arguments.figure)
    elif arguments.folder is not None and arguments.out is not None:
        train(arguments)
    else:
        parser.error("give a folder of tables and --out, or --show")


if __name__ == "__main__":
    main()
