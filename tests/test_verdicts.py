"""Laws of the verdicts on curves: what can never be printed, what can never be said together, and what practitioners say."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wellposed as wp
from wellposed.diagnosis.caveats import limitations
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.diagnose import apply_rules, rules
from wellposed.diagnosis.finding import Finding, evidence_rows, moved
from wellposed.logs import Reading

NEVER = re.compile(
    r"\bnan\b|\binf\b|(rose|fell|fall|rise|risen|fallen|by|below) (by )?-|± 0\b|\b1 epochs|\+-|--", re.IGNORECASE
)
"""What no sentence may hold: no number, an infinite one, or a sign that contradicts its verb."""

LEVEL = st.floats(-3, 3) | st.sampled_from([0.0, 0.6931, float("nan")])


@st.composite
def random_curves(draw: st.DrawFn) -> dict[str, Any]:
    """Curves of any shape: levels, progress, turns, noise and gaps in both sides, with and without metrics."""
    count = draw(st.integers(2, 40))
    rng, epochs = np.random.default_rng(draw(st.integers(0, 2**16))), np.arange(count)
    found: dict[str, Any] = {}
    for side in draw(st.sampled_from([("loss",), ("val_loss",), ("loss", "val_loss"), ("loss", "val_loss")])):
        start, level = draw(LEVEL), draw(LEVEL)
        y = level + (start - level) * np.exp(-epochs / draw(st.sampled_from([0.3, 3.0, 30.0])))
        y = y + draw(st.sampled_from([0.0, 0.0, 0.01, 0.1])) * np.maximum(epochs - count // 2, 0)
        found[side] = y + draw(st.sampled_from([0.0, 0.003, 0.1, 1.0])) * rng.normal(size=count)
        if draw(st.booleans()):
            found[side][rng.integers(count)] = np.nan
        if draw(st.booleans()):
            found[side.replace("loss", "accuracy")] = np.clip(
                draw(st.floats(0, 1)) + 0.05 * rng.normal(size=count), 0, 1
            )
    if not any(np.isfinite(y).any() for name, y in found.items() if "loss" in name):
        found["loss"] = np.zeros(count)
    if draw(st.booleans()):
        found["lr"] = 0.1 * (1.0001 - epochs / count)
    return found


@given(random_curves())
@settings(max_examples=150, deadline=None)
def test_no_sentence_holds_what_is_no_number_or_a_sign_against_its_verb(curves: dict[str, Any]) -> None:
    found = wp.diagnose(curves)
    for finding in found:
        said = "\n".join(finding.lines)
        assert not NEVER.search(said), said
        assert finding.says[0].isupper() or finding.says[0].isdigit(), said
        assert finding.says.endswith((".", ")")), said
    assert "nan" not in str(found.turn and found.turn.says())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_what_to_do_first_is_code(rule: Any) -> None:
    """It can be parsed, and what it takes of wellposed is there; only where nothing needs mending there is none."""
    assert bool(rule.code) == (rule.name != "healthy")
    for node in ast.walk(ast.parse(rule.code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wp":
            assert hasattr(wp, node.attr), node.attr


def test_the_evidence_is_an_aligned_table_without_what_is_not_known() -> None:
    evidence = {"measured": "rise", "estimate": 0.5, "low": 0.25, "high": 0.75, "gap": float("nan"), "epochs": 12,
                "error_rise": -0.125, "error_low": float("-inf"), "error_high": float("inf")}  # fmt: skip
    assert evidence_rows(evidence) == [
        ("rise", "0.5", "0.25 to 0.75"), ("over how many epochs", "12", ""), ("change of the validation error", "−0.125", ""),
    ]  # fmt: skip
    lines = Finding("one", 0.9, evidence, "go on", "It is so.").lines
    assert (
        len({line.index(value) + len(value) for line, value in zip(lines[1:4], ("0.5", "12", "−0.125"), strict=True)})
        == 1
    )
    assert [moved(0.3), moved(-0.02), moved(0.0)] == ["rose by 0.3", "fell by 0.02", "stayed the same"]


CONTRADICTIONS = [
    ("not_learning", {"undertrained", "slow", "underfits", "overfits", "overconfident", "healthy", "noisy_evidence"}),
    ("overfits", {"undertrained", "slow", "underfits", "overconfident", "over_regularized", "rate_too_low", "healthy"}),
    ("overconfident", {"undertrained", "slow", "underfits", "over_regularized", "rate_too_low", "healthy"}),
    ("undertrained", {"slow", "underfits", "healthy"}),
    ("rate_too_high", {"rate_too_low", "underfits", "healthy"}),
    ("over_regularized", {"underfits", "healthy"}),
    ("different_scales", {"underfits", "over_regularized", "noisy_evidence", "healthy"}),
    ("noisy_evidence", {"not_enough_evidence", "healthy"}),
    ("not_enough_evidence", {"healthy", "overfits", "underfits", "undertrained", "slow"}),
    ("diverged", {rule.name for rule in rules() if rule.of_fit} | {"healthy"}),
]
"""Findings that would contradict the first; beside `moving_target` nothing is said of curves at all."""


@given(random_curves())
@settings(max_examples=150, deadline=None)
def test_no_two_findings_contradict_each_other(curves: dict[str, Any]) -> None:
    names = set(wp.diagnose(curves).names)
    for one, others in CONTRADICTIONS:
        assert one not in names or not names & (others - {one}), names


E = np.arange(20)
RNG = np.random.default_rng(0)
FALLS = 0.12 + 0.57 * np.exp(-E / 5)
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("loss", "val_loss"),
    [
        (FALLS, np.full(20, LN2)),
        (FALLS, LN2 + 0.004 * RNG.normal(size=20)),
        (FALLS[:6], np.full(6, LN2)),
        (2.3 * np.exp(-E / 6), 2.303 + 0.01 * RNG.normal(size=20)),  # labels drawn at random
        (0.05 + np.exp(-E / 4), 0.4 + 0.6 * np.exp(-E / 2) + 0.004 * RNG.normal(size=20)),  # a wide gap, flat
    ],
)
def test_a_validation_that_learned_nothing_beside_a_training_that_did_overfits(loss: Any, val_loss: Any) -> None:
    found = wp.diagnose({"loss": loss, "val_loss": val_loss})
    assert found[0].name == "overfits", str(found)
    assert not {"healthy", "underfits", "not_learning"} & set(found.names)


def test_what_never_learned_is_said_in_words() -> None:
    assert "never got better than a constant" in wp.diagnose({"loss": FALLS, "val_loss": np.full(20, LN2)})[0].says


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"loss": [0.81, *[LN2] * 9], "val_loss": [LN2] * 10}, "ln 2"),
        ({"loss": 2.3026 + 0.002 * RNG.normal(size=12), "val_loss": np.full(12, 2.303)}, "ln 10"),
        ({"loss": 0.5 + 0.02 * np.exp(-E), "val_loss": np.full(20, 0.5), "val_accuracy": np.full(20, 0.8)}, "most frequent class"),
        ({"loss": [46.05170378351126] * 6}, "first epoch"),  # to the last digit, and validation was never a number
    ],
)  # fmt: skip
def test_a_dead_run_has_not_learned_and_is_told_why(columns: Any, words: str) -> None:
    found = wp.diagnose(columns)
    assert found.names == ["not_learning"]
    assert words in found[0].says


@pytest.mark.parametrize("columns", [
    {"loss": [1.21, 1.02, 0.93]}, {"loss": [0.61, 0.6, 0.6]}, {"loss": [1.2, 1.1, 1.05, 1.04, 1.04, 1.03, 1.03, 1.03]},
    {"loss": [0.9, 0.7, 0.6], "val_loss": [0.8, 0.7, 0.66]}, {"loss": 0.9 + 0.01 * RNG.normal(size=14)},
])  # fmt: skip
def test_a_few_points_or_no_evaluation_are_not_judged(columns: Any) -> None:
    found = wp.diagnose(columns)
    assert found.names == ["not_enough_evidence"]
    assert "validation is hardly worse" not in str(found)


def test_the_tail_of_a_log_is_no_beginning() -> None:
    tail = {"epoch": np.arange(80, 100), "loss": 0.31 - 0.0002 * E, "val_loss": 0.34 + 0.002 * RNG.normal(size=20)}
    assert not {"not_learning", "undertrained", "slow", "rate_too_low", "underfits"} & set(wp.diagnose(tail).names)


@pytest.mark.parametrize("train", [None, [2.5, 1.7, 1.3, 1.0, 0.8, 0.6, 0.5]])
def test_a_steep_start_is_no_noise(train: Any) -> None:
    valid = [2.34, 1.84, 1.54, 1.44, 1.54, 1.74, 1.94]
    assert wp.diagnose({"val_loss": valid} | ({"loss": train} if train else {}))[0].name == "overfits"


@pytest.mark.parametrize("seed", range(4))
def test_a_rise_after_a_drop_of_the_learning_rate_is_seen(seed: int) -> None:
    epochs, rng = np.arange(100), np.random.default_rng(seed)
    drop = np.where(epochs < 60, 0.0, 0.4)
    train = 0.9 + 1.3 * np.exp(-epochs / 8) - drop - 0.006 * np.maximum(epochs - 60, 0)
    valid = 1.0 + 1.3 * np.exp(-epochs / 8) - drop + 0.0016 * np.maximum(epochs - 62, 0)
    noise = 0.005 * rng.normal(size=(2, 100))
    assert wp.diagnose({"loss": train + noise[0], "val_loss": valid + noise[1]})[0].name == "overfits"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_rate", [False, True])
def test_a_schedule_is_told_by_the_shape_of_the_curves(seed: int, with_rate: bool) -> None:
    """With and without a column of rates, a finished one-cycle run is no short one, and a short one is none the less."""
    epochs, rng = np.linspace(0, 1, 60), np.random.default_rng(seed)
    rate = 0.5 * (1 + np.cos(np.pi * epochs))
    noise = 0.002 * rng.normal(size=(2, 60))
    lr = {"lr": rate} if with_rate else {}
    done = 0.3 + 0.7 * np.exp(-epochs * 12) + 0.3 * rate
    assert not {"undertrained", "slow"} & set(
        wp.diagnose({"loss": done + noise[0], "val_loss": done + 0.03 + noise[1], **lr}).names
    )
    cut = 0.1 + 0.9 * np.exp(-epochs * 1.5)
    assert "undertrained" in wp.diagnose({"loss": cut + noise[0], "val_loss": cut + 0.01 + noise[1], **lr}).names


@pytest.mark.parametrize(("metric", "values"), [
    ("wer", 70 - 30 * (1 - np.exp(-E / 4))), ("wer", 130 - 80 * (1 - np.exp(-E / 4))), ("f1", 0.5 + 0.3 * (1 - np.exp(-E / 4))),
    ("accuracy", 0.5 + 0.3 * (1 - np.exp(-E / 4))),
])  # fmt: skip
def test_a_loss_that_rises_while_the_metric_gets_better_is_overconfident(metric: str, values: Any) -> None:
    facts = {"metric": metric, "higher_is_better": metric != "wer"}
    valid = 0.5 + 0.5 * np.exp(-E / 2) + 0.02 * np.maximum(E - 6, 0)
    curves = Curves.of({"loss": np.exp(-E / 4), "val_loss": valid, "valid_metric": values})
    found = wp.diagnose(dataclasses.replace(curves, facts={**curves.facts, **facts}))
    assert found.names == ["overconfident"]


def test_a_loss_that_nobody_placed_halves_the_confidence_and_is_asked_about() -> None:
    known = Curves.of({"loss": FALLS, "val_loss": FALLS + 0.02})
    asked = dataclasses.replace(known, facts={"reading": Reading(unassigned=("cv_loss",))})
    before, after = apply_rules(known, rules()), apply_rules(asked, rules())
    assert [f.confidence for f in after] == pytest.approx([f.confidence / 2 for f in before])
    assert any("cv_loss" in sentence for sentence in limitations(asked))


# --- kinds that a second set of public logs showed -------------------------------------------------------------------


def steep_then_slow(count: int) -> list[float]:
    """One epoch that falls by most of all, then a slow and steady fall."""
    return [11.0, 3.6, *(3.4 - 0.5 * i / count - 0.001 * (-1) ** i for i in range(count - 2))]


@pytest.mark.parametrize("count", [9, 30, 70])
def test_what_follows_a_steep_first_epoch_is_measured_by_itself(count: int) -> None:
    found = wp.diagnose({"loss": steep_then_slow(count), "val_loss": [y + 0.02 for y in steep_then_slow(count)]})
    assert found[0].name in ("undertrained", "slow")


@pytest.mark.parametrize("values", [[209, 169, 66.6, 33.5, 23.9, 19.7], [2.0, 1.2, 0.7, 0.45, 0.3, 0.22, 0.17]])
def test_a_curve_that_only_falls_hides_no_turn(values: list[float]) -> None:
    assert wp.diagnose({"loss": [1.3 * y for y in values], "val_loss": values})[0].name == "undertrained"


def test_validation_at_chance_is_not_healthy() -> None:
    chance = math.log(3)
    train = [1.15, 1.103, 1.096, 1.09, 1.089, 1.086, 1.085]
    valid = [chance + d for d in (0.002, 0.001, 0.003, 0.004, 0.003, 0.003, 0.002)]
    found = wp.diagnose({"loss": train, "val_loss": valid, "accuracy": [0.45] * 7, "val_accuracy": [0.47] * 7})
    assert found[0].name == "not_learning"


@pytest.mark.parametrize("wobble", [0.0, 0.0004])
def test_a_training_loss_that_never_moves_is_dead_without_validation_too(wobble: float) -> None:
    assert wp.diagnose({"loss": [1.911 + wobble * (i % 3) for i in range(10)]})[0].name == "not_learning"
    assert wp.diagnose({"loss": [1.911 - 0.05 * i for i in range(10)]})[0].name != "not_learning"


def test_a_side_that_was_evaluated_and_is_never_a_number_diverged() -> None:
    run = {"loss": [0.5, 0.4, 0.35, 0.3], "val_loss": [math.nan] * 4, "val_accuracy": [0.06] * 4}
    assert wp.diagnose(run)[0].name == "diverged"
    assert wp.diagnose({"loss": [0.5, 0.4, 0.35, 0.3], "val_loss": [None] * 4})[0].name != "diverged"


def test_training_is_not_at_rest_while_it_falls_and_validation_improves() -> None:
    train = [7.1 - 2.2 * (1 - math.exp(-i / 400)) for i in range(600)]
    valid = [7.1 - 1.4 * (1 - math.exp(-i / 250)) for i in range(600)]
    assert "underfits" not in wp.diagnose({"loss": train, "val_loss": valid}).names


def test_a_network_of_zeros_is_called_one() -> None:
    import torch
    from torch import nn

    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    net = nn.Linear(4, 2)
    optimizer = wp.regularize(torch.optim.SGD(net.parameters(), 0.1), net, [wp.L1(9.0).on(wp.weights)])
    watch = wp.watch(net, "cross_entropy", train=(x[:100], y[:100]), valid=(x[100:], y[100:]), optimizer=optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        watch.epoch()
    found = wp.diagnose(watch)
    assert found[0].name == "over_regularized"
    assert "exactly 0" in found[0].says


def test_losses_below_zero_and_losses_that_a_few_rows_make_large_show_a_gap() -> None:
    """Minus a log-density has no zero to measure from, and a mean that is uncertain by its own size is not 0."""
    train = [0.2 - 0.03 * k for k in range(30)]
    apart = {"train_loss": train, "valid_loss": [max(0.0, 0.2 - 0.05 * k) + 0.001 * (k % 2) for k in range(30)]}
    few = {
        "train_loss": [0.16 * 0.7**k for k in range(30)],
        "valid_loss": [0.16, 0.17, *[6.0 + 0.1 * (k % 2) for k in range(28)]],
    }
    for curves, spread in ((apart, 0.01), (few, 6.0)):
        history = wp.History({"like_for_like": True})
        for k, (a, b) in enumerate(zip(*curves.values(), strict=True)):
            history.append(
                {"epoch": k, "train_loss": a, "valid_loss": b, "train_loss_se": 0.01 * abs(a), "valid_loss_se": spread}
            )
        assert wp.diagnose(history)[0].name == "overfits"


def test_single_batches_that_swing_have_not_diverged() -> None:
    """A first batch that happens to cost little is no start that was lost; a loss that grows steadily is."""
    steps = np.arange(3404, 3450)
    swings = [np.random.default_rng(seed).lognormal(-5.3, 1.0, len(steps)) for seed in range(30)]
    lost = ["diverged" in wp.diagnose({"step": steps, "train_loss": values}).names for values in swings]
    assert sum(lost) <= 2
    assert wp.diagnose({"step": steps, "train_loss": 0.7 * 1.05 ** np.arange(46)}).names[0] == "diverged"


def test_a_tail_that_rests_has_learned_before() -> None:
    rests = 0.5 + 0.001 * np.random.default_rng(0).normal(size=40)
    assert "not_learning" not in wp.diagnose({"epoch": np.arange(100, 140), "train_loss": rests}).names
    assert "not_learning" in wp.diagnose({"epoch": np.arange(1, 41), "train_loss": rests, "val_loss": rests}).names
