"""The rule that stops when it is sure: what its evidence is, the risk it keeps, and how it is called."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.core.errors import InputError
from wellposed.diagnosis import stopping
from wellposed.diagnosis.stopping import StopWhenSure, recent_noise, stop_when_sure, stopping_evidence
from wellposed.training.history import History

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "curves"
Evidence = Callable[[np.ndarray], float]


def turning(at: int = 30, slope: float = 0.01, epochs: int = 100, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """Falls, turns, and rises by ``slope`` an epoch; noisy."""
    t = np.arange(epochs)
    wave = noise * np.random.default_rng(seed).normal(size=epochs)
    return 0.5 + 0.5 * np.exp(-t / 8) + slope * np.maximum(t - at, 0) + wave


def stopped(losses: np.ndarray, rule: StopWhenSure) -> int | None:
    """The first epoch at which the rule stops."""
    return next((end for end in range(len(losses)) if rule(losses[: end + 1])), None)


def by_hand(values: np.ndarray) -> float:
    """The evidence, spelt out."""
    best = min(range(len(values)), key=lambda i: values[i])
    wait = len(values) - 1 - best
    if wait < 5:
        return 0.0
    late = [values[i] for i in range(len(values) - max(3, wait // 4), len(values))]
    second = sorted(
        abs(values[i] - 2 * values[i - 1] + values[i - 2]) for i in range(max(2, len(values) - 50), len(values))
    )
    middle = (second[len(second) // 2] + second[(len(second) - 1) // 2]) / 2
    return wait * (sum(late) / len(late) - values[best]) / (1.4826 * middle / math.sqrt(6))


def law_by_hand(found: Evidence) -> bool:
    cases = [turning(seed=seed)[:end] for seed in range(5) for end in (12, 40, 61, 100)]
    return all(math.isclose(found(case), by_hand(case), rel_tol=1e-9, abs_tol=1e-9) for case in cases)


def law_of_units(found: Evidence) -> bool:
    return math.isclose(found(turning()), found(1000 * turning()), rel_tol=1e-6)


def law_of_noise(found: Evidence) -> bool:
    """The same rise is less evidence in more noise."""
    return found(turning(noise=0.001)) > 3 * found(turning(noise=0.02))


def law_of_falling(found: Evidence) -> bool:
    return found(np.exp(-np.arange(200) / 30)) == 0


def law_of_waiting(found: Evidence) -> bool:
    """Twice as long at the same level above the best is about twice the evidence."""
    wave = 0.01 * np.random.default_rng(1).normal(size=160)
    losses = np.concatenate([[2.0, 1.5, 1.0], 1.5 + wave])
    return 1.6 < found(losses) / found(losses[:83]) < 2.5


LAWS = (law_by_hand, law_of_units, law_of_noise, law_of_falling, law_of_waiting)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_evidence(law: Callable[[Evidence], bool]) -> None:
    assert law(stopping_evidence)


def without_noise(values: np.ndarray) -> float:
    return stopping_evidence(values) * recent_noise(values)


def without_wait(values: np.ndarray) -> float:
    return stopping_evidence(values) / max(len(values) - 1 - int(np.argmin(values)), 1)


def last_loss_alone(values: np.ndarray) -> float:
    return (len(values) - 1 - int(np.argmin(values))) * float(values[-1] - values.min()) / recent_noise(values)


def from_the_start(values: np.ndarray) -> float:
    return stopping_evidence(values) + abs(values[0] - values[-1]) / recent_noise(values)


@pytest.mark.parametrize(
    "mutant", [without_noise, without_wait, last_loss_alone, from_the_start], ids=lambda m: m.__name__
)
def test_wrong_evidence_is_caught(mutant: Evidence) -> None:
    assert not all(law(mutant) for law in LAWS)


def test_it_stops_after_a_turn_and_not_before() -> None:
    for seed in range(20):
        losses = turning(seed=seed)
        end = stopped(losses, stop_when_sure(0.05))
        assert end is not None
        assert int(np.argmin(losses)) <= end < 80
        assert stopped(losses[:25], stop_when_sure(0.05)) is None


def test_less_risk_waits_longer() -> None:
    ends = [stopped(turning(epochs=300), stop_when_sure(risk)) for risk in (0.3, 0.1, 0.05, 0.01)]
    assert all(end is not None for end in ends)
    assert ends == sorted(set(ends))  # type: ignore[type-var]


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_the_risk_is_kept_where_better_epochs_are_still_to_come(memory: float) -> None:
    """Slow falls in noise: to stop in the first two thirds is to miss better epochs."""
    early, draws, rule = 0, 60, stop_when_sure(0.05)
    for seed in range(draws):
        noise = np.random.default_rng(seed).normal(size=250)
        for i in range(1, 250):
            noise[i] = memory * noise[i - 1] + math.sqrt(1 - memory**2) * noise[i]
        losses = 1 - 0.004 * np.arange(200) + 0.05 * noise[50:]
        early += stopped(losses[:130], rule) is not None
    assert early <= 0.05 * draws + 2 * math.sqrt(0.05 * draws)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_no_numbers(bad: float) -> None:
    losses = turning()
    gaps = losses.copy()
    gaps[[3, 50, 51]] = bad
    assert stopping_evidence(gaps) == pytest.approx(stopping_evidence(losses), rel=0.3)
    assert stopping_evidence(np.concatenate([losses[:30], np.full(20, bad)])) == math.inf  # it blew up after its best
    assert stopping_evidence(np.full(60, bad)) == math.inf
    assert stopping_evidence(np.full(9, bad)) == 0  # the first validation may come at the tenth epoch
    assert stopping_evidence(np.array([])) == 0
    assert stopping_evidence(np.full(4, bad)) == 0


def test_epochs_without_validation_count_for_nothing() -> None:
    losses, sparse = turning(epochs=100), np.full(1000, math.nan)
    sparse[9::10] = losses
    rule = stop_when_sure()
    end = stopped(losses, rule)
    assert end is not None
    assert stopped(sparse, rule) == 10 * end + 9
    assert stopping_evidence(sparse[: 10 * end + 9]) == stopping_evidence(losses[:end])
    rows = [{"epoch": float(i)} | ({} if math.isnan(y) else {"valid_loss": float(y)}) for i, y in enumerate(sparse)]
    assert rule.doubt(History(rows=rows)) == rule.doubt(losses)


def test_constant_and_rounded_losses() -> None:
    assert stopping_evidence(np.full(100, 0.3)) == 0
    assert stopped(np.round(turning(noise=0.001), 2), stop_when_sure(0.05)) is not None


def test_lists_histories_and_watches_agree() -> None:
    losses = turning(epochs=100)
    history = History(rows=[{"epoch": float(i), "valid_loss": float(loss)} for i, loss in enumerate(losses)])

    class Watch:
        pass

    watch = Watch()
    watch.history = history  # type: ignore[attr-defined]
    rule = stop_when_sure()
    doubts = {rule.doubt(source) for source in (losses, list(losses), torch.tensor(losses), history, watch)}
    assert len(doubts) == 1
    assert rule(watch) == "turned"
    assert rule.doubt(History()) == 1
    with pytest.raises(InputError, match="'valid_metric'"):
        stop_when_sure(column="valid_metric")(history)


@pytest.mark.parametrize("risk", [0, 1, -0.1, 2, math.nan, "0.05", True])
def test_risks_that_are_none(risk: object) -> None:
    with pytest.raises(InputError, match=r"risk= to be a number in \(0, 1\)"):
        stop_when_sure(risk)  # type: ignore[arg-type]


def test_fit_stops_and_keeps_the_best_epoch() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(80, 20, generator=random)
    y = x[:, :1] + 2.0 * torch.randn(80, 1, generator=random)
    problem = wp.Problem(
        lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)), "squared_error",
        wp.Data(train=(x[:40], y[:40]), valid=(x[40:], y[40:])),
    )  # fmt: skip
    recipe = wp.Recipe(epochs=200, stopping={"patience": 0}, terms=[], schedule={"name": "constant"})
    run = wp.fit(problem, recipe, stop=wp.stop_when_sure(0.1))
    losses = run.history["valid_loss"]
    assert run.stopped == "turned"
    assert len(losses) < 200
    assert run.history.facts["chosen"] == int(np.argmin(losses))
    assert stopped(np.array(losses), wp.stop_when_sure(0.1)) == len(losses) - 1
    assert stopping.stopping_evidence(losses) > 0
    assert "undertrained" not in wp.diagnose(run).names


def test_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "stopping.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out == page.split("```text\n")[1].split("```")[0]


@pytest.mark.data
def test_the_risk_is_kept_on_published_histories() -> None:
    path = DATA / "overfitting-labelled-train.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    with gzip.open(path, "rt") as file:
        stories = [np.array(json.loads(line)["valid_loss"]) for line in file][::6]
    early, rule = 0, stop_when_sure(0.1)
    for losses in stories:
        early += any(rule(losses[: end + 1]) for end in range(int(np.argmin(losses))))
    assert early <= 0.1 * len(stories) + 2 * math.sqrt(0.1 * len(stories))
