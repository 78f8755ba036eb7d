"""Each finding is planted and found, each near miss is left alone, and deliberately wrong rules are caught."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed.core.errors import DataError
from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import reading_of
from wellposed.diagnosis.curves import Curves, falling_pairs
from wellposed.diagnosis.diagnose import apply_rules, causes_first, diagnose, diagnose_many, rules
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules import (
    comparability,
    convergence,
    generalization,
    learning_rates,
    noise_level,
    underfitting,
)
from wellposed.diagnosis.rules.rule import Inside, Rule, falls

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "curves"
SEEDS = range(6)
NAMES = {
    "diverged", "not_learning", "undertrained", "underfits", "overfits", "overconfident", "over_regularized",
    "noisy_evidence", "not_enough_evidence", "oscillates", "slow", "rate_too_high", "rate_too_low", "healthy",
    "moving_target", "different_scales",
}  # fmt: skip


@dataclass
class FakeHistory:
    rows: list[dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)


def fall(floor: float, top: float = 1.0, epochs: int = 60, tau: float = 6.0) -> np.ndarray:
    """An exponential approach from ``top`` to ``floor``."""
    return floor + (top - floor) * np.exp(-np.arange(epochs) / tau)


def turn(y: np.ndarray, at: int, slope: float) -> np.ndarray:
    """The curve, rising by ``slope`` an epoch from ``at`` on."""
    return y + slope * np.maximum(np.arange(len(y)) - at, 0)


def history(seed: int, train: np.ndarray, valid: np.ndarray, noise: float = 0.004, se: float = 0.01,
            facts: dict[str, Any] | None = None, **more: np.ndarray) -> FakeHistory:  # fmt: skip
    """Noisy like-for-like rows, with standard errors and whatever else is given."""
    rng = np.random.default_rng(seed)
    columns = {
        "train_loss": train + noise * rng.normal(size=len(train)) * np.abs(train),
        "valid_loss": valid + noise * rng.normal(size=len(valid)) * np.abs(valid),
        "train_loss_se": np.full(len(train), se), "valid_loss_se": np.full(len(train), se), **more,
    }  # fmt: skip
    rows = [{"epoch": float(i), **{k: float(v[i]) for k, v in columns.items()}} for i in range(len(train))]
    return FakeHistory(rows, {"like_for_like": True, "constant_loss": 1.0, "task": "regression", **(facts or {})})


CLASSES = {"task": "classification", "metric": "accuracy", "higher_is_better": True, "chance_metric": 0.1,
           "constant_loss": 2.3, "valid_rows": 2000.0, "train_rows": 2000.0}  # fmt: skip


def classified(seed: int, train_error: np.ndarray, valid_error: np.ndarray, train: np.ndarray, valid: np.ndarray,
               **facts: Any) -> FakeHistory:  # fmt: skip
    rng = np.random.default_rng(seed + 100)
    wobble = 0.002 * rng.normal(size=(2, len(train)))
    return history(seed, train, valid, facts={**CLASSES, **facts},
                   train_metric=1 - np.clip(train_error + wobble[0], 0, 1),
                   valid_metric=1 - np.clip(valid_error + wobble[1], 0, 1))  # fmt: skip


def blown(seed: int) -> FakeHistory:
    train = fall(0.2)
    train[40:] = np.nan
    return history(seed, train, train * 1.1)


T60 = np.arange(60)
EVERY_OTHER = (-1.0) ** T60
WAVES, SHIFTED = np.sin(2 * np.pi * T60 / 7), np.cos(2 * np.pi * T60 / 7)


def power(floor: float, by: float, epochs: int = 60) -> np.ndarray:
    """A power law of the epoch, as badly scaled problems fall: from 1 towards ``floor``."""
    return floor + (1 - floor) * (1 + np.arange(epochs)) ** -by


def jumped(seed: int) -> FakeHistory:
    """The loss leaps at the first step and comes back to the constant prediction, no further."""
    train = np.concatenate([[1.0], 1.0 + fall(0.0, 6.0, 59)])
    return history(seed, train, train)


PLANTED: dict[str, list[Callable[[int], FakeHistory]]] = {
    "diverged": [
        blown,
        lambda s: history(s, fall(0.5) + 0.2 * np.maximum(np.arange(60) - 20, 0), fall(0.5)),
        lambda s: history(s, fall(0.3), fall(0.3), facts={"stopped": "diverged"}),
    ],
    "not_learning": [
        lambda s: {"loss": fall(0.25, 0.27), "val_loss": fall(0.28, 0.3), "val_accuracy": [*[0.6, 0.6, 0.6, 0.58] * 15]},
        lambda s: history(s, np.full(60, 1.0), np.full(60, 1.01)),
        lambda s: history(s, fall(1.0, 3.0), fall(1.0, 3.0)),
        lambda s: history(s, np.full(60, 0.7), np.full(60, 0.7), facts={"constant_loss": None}),
        lambda s: history(s, fall(0.9, 1.2), fall(1.02, 1.3), train_metric=np.full(60, 0.9), valid_metric=np.full(60, 0.9),
                          facts={**CLASSES, "constant_loss": 1.0, "chance_metric": 0.9}),  # the most frequent class always
    ],
    "undertrained": [
        lambda s: history(s, fall(0.1, tau=40), fall(0.12, tau=40)),
        lambda s: history(s, fall(0.1, epochs=12, tau=8), fall(0.12, epochs=12, tau=8)),
    ],
    "underfits": [
        lambda s: history(s, fall(0.6), fall(0.62)),
        lambda s: classified(s, fall(0.5, 0.9), fall(0.51, 0.9), fall(1.4, 2.3), fall(1.42, 2.3)),
    ],
    "overfits": [
        lambda s: history(s, fall(0.02, tau=12), turn(fall(0.3), 20, 0.01)),
        lambda s: history(s, fall(0.0, tau=12, epochs=20), turn(fall(0.3, epochs=20, tau=2), 6, 0.02)),
        lambda s: classified(s, fall(0.0, 0.9), turn(fall(0.2, 0.9), 20, 0.002), fall(0.01, 2.3, tau=12),
                             turn(fall(0.7, 2.3), 20, 0.02)),
        lambda s: classified(s, fall(0.0, 0.9), fall(0.3, 0.9), fall(0.01, 2.3), fall(1.1, 2.3)),
        lambda s: history(s, fall(0.05), fall(0.4)),
        lambda s: classified(s, fall(0.2, 0.9), fall(0.35, 0.9), fall(0.2, 2.3, tau=30), turn(fall(1.0, 2.3), 30, 0.0005)),
    ],
    "overconfident": [
        lambda s: classified(s, fall(0.0, 0.9), fall(0.06, 0.9, tau=5), fall(0.01, 2.3, tau=12),
                             turn(fall(0.25, 2.3), 20, 0.02)),
    ],
    "over_regularized": [
        lambda s: history(s, fall(0.6), fall(0.6), facts={"regularized": {"terms": 1}}, cost=fall(0.9, 1.5)),
        lambda s: history(s, fall(1.0, 1.2), fall(1.0, 1.2), facts={"regularized": True}, cost=fall(1.3, 1.9)),
        lambda s: history(s, fall(0.97, 1.2), fall(0.97, 1.2), facts={"regularized": {"dropout": 0.9}}),
    ],
    "noisy_evidence": [
        lambda s: history(s, fall(0.2), fall(0.3) + 0.15 * np.random.default_rng(s).normal(size=60)),
        lambda s: history(s, fall(0.2), fall(0.28), se=0.15),
    ],
    "not_enough_evidence": [
        lambda s: history(s, fall(0.2, epochs=2), fall(0.3, epochs=2)),
        lambda s: history(s, fall(0.2, epochs=4, tau=1), fall(0.25, epochs=4, tau=1)),  # nothing seen in four
        lambda s: history(s, fall(0.2), np.full(60, np.nan)),
        lambda s: history(s, fall(0.1, tau=40), np.full(60, np.nan)),  # falls on, and nothing says whether it should
        lambda s: {"loss": fall(0.28, 0.303), "val_loss": np.full(60, 0.3)},  # nothing happened, and 0.3 may be good
    ],
    "moving_target": [
        lambda s: {"loss": fall(0.3), "policy_loss": fall(0.1), "value_loss": fall(0.2), "ep_rew_mean": T60},
        lambda s: {"loss": fall(0.3), "val_loss": fall(0.5), "G_loss": turn(fall(1.0), 9, 0.1), "D_loss": fall(0.5)},
        lambda s: {"loss": np.where(T60 > 40, np.nan, 1.0), "actor_loss": fall(0.1), "critic_loss": fall(0.2)},
    ],
    "different_scales": [
        lambda s: {"loss": fall(0.08, 0.1), "val_loss": fall(20.0, 21.4)},
        lambda s: {"loss": 64 * fall(0.3), "val_loss": fall(0.35)},
    ],
    "oscillates": [
        lambda s: history(s, fall(0.3) * (1 + 0.2 * EVERY_OTHER), fall(0.32) * (1 + 0.2 * EVERY_OTHER)),
        lambda s: history(s, fall(0.3) * (1 + 0.3 * WAVES), fall(0.35) * (1 + 0.3 * WAVES)),
        lambda s: history(s, fall(0.3), fall(0.31), noise=0.2),
        lambda s: history(s, fall(0.3) * (1 + 0.06 * WAVES), fall(0.31) * (1 + 0.06 * WAVES)),  # little, but together
    ],
    "slow": [
        lambda s: history(s, power(0.0, 0.15), power(0.02, 0.15), noise=0.0005),
        lambda s: history(s, power(0.0, 0.35), power(0.01, 0.35), noise=0.0005),
    ],
    "rate_too_high": [
        jumped,
        lambda s: history(s, fall(1.03, 3.0) * (1 + 0.03 * WAVES), fall(1.03, 3.0)),  # swings above the constant prediction
        lambda s: history(s, np.full(60, 0.995), 9.0 - fall(0.0, 8.0, tau=2)),  # validation leaps, nothing is learned
        lambda s: history(s, 1.0 + 0.3 * (T60 > 0), 1.0 + 0.3 * (T60 > 0)),  # ended above its start
        lambda s: history(s, turn(fall(0.3), 15, 0.01), turn(fall(0.3), 15, 0.01)),
        lambda s: history(s, fall(0.7) * (1 + 0.2 * EVERY_OTHER), fall(0.7) * (1 + 0.2 * EVERY_OTHER)),
    ],
    "rate_too_low": [
        lambda s: history(s, 1.2 - 0.09 * T60 / 60, 1.21 - 0.09 * T60 / 60, noise=0.0005),
        lambda s: classified(s, fall(0.7, 0.9, tau=80), fall(0.7, 0.9, tau=80), 2.35 - 0.2 * T60 / 60,
                             2.36 - 0.2 * T60 / 60),
        lambda s: history(s, np.full(60, 1.0), np.full(60, 1.01), lr=np.exp(-T60 / 2)),  # the rate was spent at once
        lambda s: history(s, 1.8 - 0.4 * T60 / 60, 1.8 - 0.4 * T60 / 60, noise=0.0005),  # far above a constant prediction still
    ],
    "healthy": [
        lambda s: history(s, fall(0.1), fall(0.13)),
        lambda s: classified(s, fall(0.01, 0.9), fall(0.03, 0.9), fall(0.03, 2.3), fall(0.1, 2.3)),
    ],
}  # fmt: skip


def spiked(seed: int) -> FakeHistory:
    """One wild epoch in the middle and one at the end, both recovered from or alone."""
    train = fall(0.1)
    train[30] = train[-1] = 9.0
    return history(seed, train, fall(0.12))


NEAR_MISSES: dict[str, list[Callable[[int], FakeHistory]]] = {
    "diverged": [
        spiked,
        lambda s: history(s, fall(0.1), turn(fall(0.3), 10, 0.2)),  # overfitting alone multiplies validation loss
    ],
    "not_learning": [
        lambda s: history(s, fall(0.9), fall(0.92)),  # a weak signal that is there
        lambda s: history(s, fall(0.1, 0.12), fall(0.15, 0.16)),  # began trained
    ],
    "undertrained": [
        lambda s: history(s, fall(0.1, tau=8), fall(0.12, tau=8)),  # came to rest
        lambda s: history(s, fall(0.02, tau=40), fall(0.3)),  # training falls on, validation does not
        lambda s: history(s, fall(0.1, tau=40), fall(0.12, tau=40), facts={"stopped": "patience"}),
        lambda s: history(s, fall(0.1, tau=25), fall(0.12, tau=25), lr=1.001 - T60 / 59),  # the schedule came to its end
    ],
    "underfits": [
        lambda s: history(s, fall(0.15), fall(0.17)),  # low enough
        lambda s: history(s, fall(0.4, tau=50), fall(0.42, tau=50)),  # still falling
        lambda s: history(s, fall(0.4), fall(0.7)),  # the gap is the larger part
        lambda s: history(s, fall(0.5), fall(0.66)),  # a gap of a third of what is left
    ],
    "moving_target": [
        lambda s: {"loss": fall(0.3), "val_loss": fall(0.31), "cross_entropy": fall(0.3), "values": T60, "adv_acc": fall(0.5)},
        lambda s: {"loss": fall(0.3), "val_loss": fall(0.31), "reward": T60},  # one word may mean anything
    ],
    "different_scales": [
        lambda s: {"loss": fall(0.01, 1.0), "val_loss": turn(fall(0.3, 1.0), 10, 0.1)},  # a gap that grew
        lambda s: {"loss": fall(0.1, 1.0), "val_loss": fall(0.6, 1.6)},  # another one
        lambda s: {"loss": np.linspace(0.005, 0.002, 60), "val_loss": np.linspace(0.5, 0.7, 60)},  # it turned, on any scale
        lambda s: {"loss": fall(0.5), "val_loss": fall(0.3)},  # dropout
    ],
    "overfits": [
        lambda s: history(s, fall(0.24), turn(fall(0.3), 40, 0.0003)),  # rises by 2 %
        lambda s: history(s, turn(fall(0.3), 20, 0.01), turn(fall(0.3), 20, 0.01)),  # training rises as well
        lambda s: classified(s, fall(0.0, 0.9), fall(0.05, 0.9), fall(0.001, 2.3), fall(0.2, 2.3)),  # a harmless gap
        lambda s: history(s, fall(0.1), fall(0.12, tau=30)),
        PLANTED["overconfident"][0],  # the loss rises, the error does not
    ],
    "overconfident": [
        lambda s: classified(s, fall(0.0, 0.9), turn(fall(0.1, 0.9), 20, 0.002), fall(0.01, 2.3, tau=12),
                             turn(fall(0.4, 2.3), 20, 0.02)),  # the error rises too
        lambda s: classified(s, fall(0.01, 0.9), fall(0.03, 0.9), fall(0.03, 2.3), fall(0.1, 2.3)),
        lambda s: classified(s, fall(0.1, 0.9, 10, 4), fall(0.2, 0.9, 10, 4), fall(0.3, 2.3, 10, 4),
                             fall(0.4, 2.3, 10, 4) + 0.2 * (np.arange(10) == 9)),  # the last value alone is higher
    ],
    "over_regularized": [
        lambda s: history(s, fall(0.6), fall(0.62)),  # nothing regularizes
        lambda s: history(s, fall(0.05), fall(0.08), facts={"regularized": True}, cost=fall(0.3, 1.3)),  # fits well
        lambda s: history(s, fall(0.4), fall(0.7), facts={"regularized": True}, cost=fall(0.9, 1.3)),  # a gap is left
        # Three epochs, and it still falls.
        lambda s: history(s, np.array([0.65, 0.4, 0.31]), np.array([0.66, 0.42, 0.36]), noise=1e-3,
                          cost=np.array([0.75, 0.48, 0.37]), facts={"regularized": True, "constant_loss": None}),
    ],
    "noisy_evidence": [
        lambda s: history(s, fall(0.2), fall(0.28), se=0.01),
        lambda s: history(s, fall(0.02), fall(0.03), se=0.01),  # a wide interval beside the loss, not beside its progress
        lambda s: history(s, fall(0.02, tau=12), turn(fall(0.3), 20, 0.02), noise=0.03),  # the rise is larger
    ],
    "not_enough_evidence": [
        lambda s: history(s, fall(0.1), fall(0.13)),
        lambda s: history(s, fall(0.02, tau=12), turn(fall(0.3), 20, 0.02), noise=0.03),
    ],
    "oscillates": [
        lambda s: history(s, fall(0.3), fall(0.32) * (1 + 0.2 * EVERY_OTHER)),  # validation's own noise
        lambda s: history(s, fall(0.3) * (1 + np.exp(-T60 / 10) * WAVES), fall(0.3) * (1 + np.exp(-T60 / 10) * WAVES)),
        lambda s: history(s, fall(0.6) * (1 + 0.03 * WAVES), fall(0.62) * (1 + 0.06 * SHIFTED)),  # small, and not together
        lambda s: history(s, fall(0.01) + 0.01 * WAVES, fall(0.02) + 0.01 * WAVES),  # a hundredth of all progress
        spiked,
    ],
    "slow": [
        lambda s: history(s, fall(0.1), fall(0.13)),
        lambda s: history(s, fall(0.1, tau=35), fall(0.12, tau=35)),  # quick, and not at its end
        lambda s: history(s, power(0.0, 0.35), fall(0.3), noise=0.0005),  # validation is at rest
    ],
    "rate_too_high": [
        lambda s: history(s, fall(1.001, 3.0), fall(1.001, 3.0)),  # at the constant prediction
        lambda s: history(s, fall(1.3, 3.0), fall(1.3, 3.0)),  # above it, and still
        spiked,
        lambda s: history(s, fall(0.05, tau=12), turn(fall(0.3), 10, 0.02)),  # overfits
        lambda s: history(s, fall(0.2) * (1 + 0.2 * EVERY_OTHER), fall(0.2) * (1 + 0.2 * EVERY_OTHER)),  # oscillates, low
        lambda s: history(s, fall(0.6), fall(0.62)),  # high and still
        lambda s: history(s, turn(fall(0.3), 50, 0.003), turn(fall(0.32), 50, 0.003)),  # a rise of a tenth of its level
    ],
    "rate_too_low": [
        lambda s: history(s, fall(0.9), fall(0.92)),  # little, but at rest
        lambda s: history(s, fall(0.1, tau=40), fall(0.12, tau=40)),  # much, and not at rest
        lambda s: history(s, 1.2 - 0.2 * T60 / 60, 1.21 - 0.2 * T60 / 60, noise=0.0005),  # a sixth
        lambda s: history(s, np.full(60, 1.0), np.full(60, 1.01)),  # nothing at all
        lambda s: history(s, power(0.9, 0.15), power(0.9, 0.15), noise=0.0001),  # slackened
    ],
    "healthy": [
        lambda s: history(s, fall(0.02, tau=12), turn(fall(0.3), 20, 0.01)),
        lambda s: history(s, fall(0.6), fall(0.62)),
    ],
}  # fmt: skip


def mistakes(name: str, by: list[Rule]) -> int:
    """How many planted cases of ``name`` are missed, and near misses called, by these rules."""
    wrong = 0
    for seed in SEEDS:
        wrong += sum(name not in names(case(seed), by) for case in PLANTED[name])
        wrong += sum(name in names(case(seed), by) for case in NEAR_MISSES[name])
    return wrong


def names(source: Any, by: list[Rule]) -> list[str]:
    return [finding.name for finding in apply_rules(Curves.of(source), by)]


def test_equal_losses_of_both_sides_are_a_leak_and_equal_ends_are_none() -> None:
    assert names({"loss": fall(0.1), "val_loss": fall(0.1)}, rules())[0] == "leakage"
    assert "leakage" not in names({"loss": fall(0.1).round(2), "val_loss": fall(0.1).round(2)}, rules())


def test_the_rules_of_curves_found_are_those_that_are_tested() -> None:
    of_curves = {rule.name for rule in rules() if not isinstance(rule, Inside)}
    assert of_curves == NAMES == PLANTED.keys() == NEAR_MISSES.keys()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_planted_causes_are_found(name: str) -> None:
    for number, case in enumerate(PLANTED[name]):
        for seed in SEEDS:
            diagnosis = diagnose(case(seed))
            assert name in diagnosis.names, (number, seed, str(diagnosis))
            assert all(0 <= finding.confidence <= 1 and finding.lever and finding.says for finding in diagnosis)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_near_misses_are_left_alone(name: str) -> None:
    for number, case in enumerate(NEAR_MISSES[name]):
        for seed in SEEDS:
            diagnosis = diagnose(case(seed))
            assert name not in diagnosis.names, (number, seed, str(diagnosis))
            assert len(diagnosis) >= 1


# Deliberately wrong rules: the cases above must catch every one.


class AnyRise(generalization.Overfits):
    def _turned(self, curves: Curves) -> Finding | None:
        rise = measure.valid_rise(curves)
        return self.finding(0.9, {}, "", "") if rise.estimate > 0 else None


class IgnoresError(generalization.Overfits):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if generalization.loss_turned(curves, 0.5) else None


class FallingIsOverfitting(generalization.Overfits):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if measure.valid_rise(curves).estimate < 0 else None


class AnyGap(generalization.Overfits):
    GAP, GAP_SHARE = 0.0, 0.0


class NoGap(generalization.Overfits):
    GAP = 2.0


class GrowingIsAnotherScale(comparability.DifferentScales):
    def judge(self, curves: Curves) -> Finding | None:
        apart = measure.end(curves.valid_loss) > 3 * measure.end(curves.train_loss)
        return self.finding(0.9, {}, "", "") if apart else None


class OneWordIsAGame(comparability.MovingTarget):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if "reward" in reading_of(curves).left else None


class SpikeIsDivergence(convergence.Diverged):
    def _runaway(self, curves: Curves) -> Finding | None:
        return self.finding(1, {}, "", "") if np.nanmax(curves.train_loss) > 2 * curves.train_loss[0] else None


class OnlyNaNDiverges(convergence.Diverged):
    RUNAWAY = 1e9


class PatienceForgotten(convergence.Undertrained):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if falls(curves.valid_loss) else None


class TrainingAloneFalls(convergence.Undertrained):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if falls(curves.train_loss) else None


class GapForgotten(underfitting.Underfits):
    SMALL_GAP = 9.0


class LowIsHigh(underfitting.Underfits):
    HIGH = 0.1


class AlwaysRegularized(underfitting.OverRegularized):
    def judge(self, curves: Curves) -> Finding | None:
        share = measure.remaining(curves)
        high = share is not None and underfitting.Underfits.high_and_at_rest(curves, share)
        return self.finding(0.9, {}, "", "") if high else None


class SlowIsStuck(convergence.NotLearning):
    def judge(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if measure.end(curves.train_loss) > 0.85 else None


class NoiseForgotten(noise_level.NoisyEvidence):
    def _rise(self, curves: Curves) -> Finding | None:
        return None

    def _gap(self, curves: Curves) -> Finding | None:
        return None


class ShortIsEnough(noise_level.NotEnoughEvidence):
    def judge(self, curves: Curves) -> Finding | None:
        return None if len(measure.finite_values(curves.valid_loss)) < 3 else super().judge(curves)


class LastSwingsOnly(learning_rates.Oscillates):
    VALID_SWING = 0.0  # validation's own noise is not told apart


class SettledSwings(learning_rates.Oscillates):
    SWING = 1e-3


class PaceForgotten(learning_rates.Slow):
    SMALL = 1.0


class RestIsSlow(learning_rates.Slow):
    @staticmethod
    def _creeps(y: np.ndarray) -> bool:
        return bool(measure.trend(y).gain > -1)


class TogetherForgotten(learning_rates.Oscillates):
    @classmethod
    def _together(cls, curves: Curves, level: float) -> bool:
        return False


class ChanceIsTogether(learning_rates.Oscillates):
    TOGETHER, GAP = -1.0, 9.0


class ConstantForgotten(learning_rates.RateTooHigh):
    HARM = 1e9


class LeapForgotten(learning_rates.RateTooHigh):
    def _leapt(self, curves: Curves) -> bool:
        return False


class JumpForgotten(learning_rates.RateTooHigh):
    JUMP = LEAP = 1e9


class AnyTrainingRise(learning_rates.RateTooHigh):
    UNDONE = BELIEF = -1.0

    def _undone(self, curves: Curves) -> Finding | None:
        return self.finding(0.9, {}, "", "") if measure.rise(curves.train_loss).estimate > 0 else None


class AllSwingsAreHigh(learning_rates.RateTooHigh):
    MUCH = 0.0


class SlackeningForgotten(learning_rates.RateTooLow):
    STEADY = 0.0


class AllIsHardly(learning_rates.RateTooLow):
    HARDLY = 1.0


MUTANTS = [
    GrowingIsAnotherScale, OneWordIsAGame,
    ShortIsEnough, LastSwingsOnly, SettledSwings, PaceForgotten, RestIsSlow, TogetherForgotten,
    ChanceIsTogether, ConstantForgotten, LeapForgotten, JumpForgotten, AnyTrainingRise,
    AllSwingsAreHigh, SlackeningForgotten, AllIsHardly,
    AnyRise, IgnoresError, FallingIsOverfitting, AnyGap, NoGap, SpikeIsDivergence, OnlyNaNDiverges,
    PatienceForgotten, TrainingAloneFalls, GapForgotten, LowIsHigh, AlwaysRegularized, SlowIsStuck, NoiseForgotten,
]  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_wrong_rules_are_caught(mutant: type[Rule]) -> None:
    by = [mutant() if rule.name == mutant.name else rule for rule in rules()]
    assert mistakes(mutant.name, by) > 0


@pytest.mark.parametrize("unit", [1e-4, 1e5])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_unit_of_a_regression_loss_changes_no_verdict(name: str, unit: float) -> None:
    for case in (*PLANTED[name], *NEAR_MISSES[name]):
        source = case(0)
        if not isinstance(source, FakeHistory) or source.facts["task"] != "regression":
            continue
        rows = [{k: v if k == "epoch" else v * unit for k, v in row.items()} for row in source.rows]
        constant = source.facts["constant_loss"]
        scaled = FakeHistory(rows, {**source.facts, "constant_loss": constant and constant * unit})
        before, after = diagnose(source), diagnose(scaled)
        assert before.names == after.names
        assert [f.confidence for f in before] == pytest.approx([f.confidence for f in after], abs=1e-6)


def test_paired_rows_that_could_mislead_withhold_the_verdict() -> None:
    train, valid = fall(0.02, tau=12), turn(fall(0.3), 20, 0.004)
    rises = np.maximum(valid - np.minimum.accumulate(valid), 0)
    sure = history(0, train, valid, valid_rise=rises, valid_rise_se=np.full(60, 0.02))
    unsure = history(0, train, valid, valid_rise=rises, valid_rise_se=np.full(60, 0.2))
    assert "overfits" in names(sure, [generalization.Overfits()])
    assert generalization.Overfits()._turned(Curves.of(unsure)) is None
    assert "noisy_evidence" not in diagnose(unsure).names  # the gap shows what the rise does not
    close = history(0, fall(0.4), valid, valid_rise=rises, valid_rise_se=np.full(60, 0.2))
    assert "noisy_evidence" in diagnose(close).names


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_noise_alone_is_seldom_called_overfitting(memory: float) -> None:
    calls, draws = 0, 100
    for seed in range(draws):
        noise = np.random.default_rng(seed).normal(size=150)
        for i in range(1, 150):  # autocorrelated, of variance one
            noise[i] = memory * noise[i - 1] + math.sqrt(1 - memory**2) * noise[i]
        valid = 0.5 + 0.02 * noise[50:]
        calls += "overfits" in diagnose({"train_loss": fall(0.4, epochs=100, tau=60), "val_loss": valid}).names
    assert calls <= (0.05 if memory < 0.9 else 0.1) * draws  # wandering so slowly is nearly a rise


# Robustness


@pytest.mark.parametrize(
    "source",
    [
        {"loss": [1.0], "val_loss": [1.0]},
        {"loss": [1.0, 0.5], "val_loss": [1.0, 0.6]},
        {"loss": [1.0, 0.5, 0.4]},
        {"val_loss": [1.0, 0.5, 0.4, 0.4]},
        {"loss": [math.nan] * 5, "val_loss": [math.nan] * 5},
        {"loss": [0.3] * 30, "val_loss": [0.3] * 30},
        {"loss": [0.0] * 30, "val_loss": [0.0] * 30},
        {"loss": [1.0, math.inf, 0.5, 0.4], "val_loss": [1.0, math.inf, 0.6, 0.5]},
        {"loss": [-1.0, -2.0, -3.0, -3.5], "val_loss": [-1.0, -1.5, -1.2, 0.1]},
        {"loss": [1e300, 1e299, 1e298, 1e297], "val_loss": [1e300] * 4},
        {"loss": list(np.linspace(1, 0, 20000)), "val_loss": list(np.linspace(1, 0.1, 20000))},
        {"train_loss": [1, 0.5, 0.4, 0.3], "valid_loss": [1, 0.5, None, 0.3], "valid_rise": [None, 0, 0.1, math.nan]},
        [],
    ],
)
def test_any_curves_get_a_verdict(source: Any) -> None:
    diagnosis = diagnose(source)
    assert len(diagnosis) >= 1
    assert str(diagnosis)
    json.dumps(diagnosis.to_dict(), allow_nan=False)


def test_what_is_said_of_the_shortest_and_the_broken() -> None:
    assert diagnose({"loss": [1.0], "val_loss": [1.0]}).names == ["not_enough_evidence"]
    assert diagnose({"loss": [math.nan] * 5, "val_loss": [math.nan] * 5}).names == ["diverged"]
    assert diagnose({"loss": [1, 0.5, math.inf], "val_loss": [1, 0.5, 0.5]}).names == ["diverged"]
    blank = {"loss": [1, 0.5, 0.4, None, None, None], "val_loss": [1, 0.5, 0.4, None, None, None]}
    assert diagnose(blank).names == ["diverged"]
    assert diagnose([]).best_epoch is None


def test_random_rubbish_never_raises() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        count = int(rng.integers(0, 40))
        pick = [rng.normal(size=count) * 10.0 ** rng.integers(-20, 20) for _ in range(4)]
        for column in pick:
            column[rng.random(count) < 0.2] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
        columns = dict(zip(("train_loss", "valid_loss", "train_metric", "valid_metric"), pick, strict=True))
        assert len(diagnose(columns)) >= 1


# Sources


def csv_file(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


OVERFITTED = [(1.0, 1.0), (0.7, 0.8), (0.5, 0.7), (0.4, 0.65), (0.3, 0.63), (0.22, 0.66), (0.16, 0.72), (0.11, 0.8),
              (0.08, 0.9), (0.05, 1.0)]  # fmt: skip


@pytest.mark.parametrize("header", ["epoch,loss,val_loss", "epoch,train_loss,val_loss", "Epoch;Train Loss;Valid Loss"])
def test_csv_files(tmp_path: Path, header: str) -> None:
    mark = ";" if ";" in header else ","
    rows = [mark.join(map(str, (i + 1, *pair))) for i, pair in enumerate(OVERFITTED)]
    diagnosis = diagnose(csv_file(tmp_path, "\n".join([header, *rows])))
    assert diagnosis[0].name == "overfits"
    assert diagnosis.best_epoch == 5
    assert diagnosis.to_dict()["source"].endswith("log.csv")
    assert any("training mode" in sentence for sentence in diagnosis.limits)


def test_a_lightning_file_is_merged_by_epoch(tmp_path: Path) -> None:
    lines = ["epoch,step,train_loss_step,train_loss_epoch,val_loss,val_acc,test_loss"]
    for i, (train, valid) in enumerate(OVERFITTED):
        step = f"{i},{10 * i + 9}"
        lines += [f"{i},{10 * i},{train + 0.3},,,,", f"{step},,,{valid},0.8,", f"{step},,{train},,,"]
    lines.append("10,100,,,,,0.9")
    curves = Curves.of(csv_file(tmp_path, "\n".join(lines), "metrics.csv"))
    np.testing.assert_allclose(curves.train_loss, [train for train, _ in OVERFITTED])
    np.testing.assert_allclose(curves.valid_loss, [valid for _, valid in OVERFITTED])
    assert curves.facts["metric"] == "accuracy"


def test_lists_dicts_frames_runs_and_folders_agree(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"epoch": i, "loss": a, "val_loss": b} for i, (a, b) in enumerate(OVERFITTED)]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    csv_file(tmp_path, "epoch,loss,val_loss\n" + "\n".join(f"{i},{a},{b}" for i, (a, b) in enumerate(OVERFITTED)),
             "history.csv")  # fmt: skip

    class Run:
        history = FakeHistory([dict(row, train_loss=row["loss"], valid_loss=row["val_loss"]) for row in rows])

    class Keras:
        history = columns

    sources = [rows, columns, pandas.DataFrame(rows), Run(), Run.history, Keras(), tmp_path, str(tmp_path)]
    found = diagnose_many(sources)
    assert len({tuple(d.names) for d in found}) == 1
    assert {d.best_epoch for d in found} == {4}
    assert [d[0].confidence for d in found] == pytest.approx([found[0][0].confidence] * len(found))


def test_keras_metrics_and_percentages() -> None:
    accuracy = [50, 60, 70, 80, 85, 88, 90, 91, 91, 92]
    curves = Curves.of({"loss": [a for a, _ in OVERFITTED], "val_loss": [b for _, b in OVERFITTED],
                        "accuracy": accuracy, "val_accuracy": accuracy})  # fmt: skip
    rate = measure.error_rate(curves, "valid")
    assert rate is not None
    assert rate[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("errors", "named"),
    [
        ([0.0] * 8, "overconfident"),  # no error before and after: the answers are as good
        ([0.02, 0.05, 0.01, 0.04, 0.02, 0.03, 0.05, 0.01], "overconfident"),  # wide for its size, and small
        ([0.5, 0.4, 0.32, 0.31, 0.3, 0.31, 0.3, 0.3], "overconfident"),
        ([0.5, 0.4, 0.45, 0.3, 0.36, 0.25, 0.31, 0.22], "overconfident"),  # it jumps, and fell by more
        ([0.5, 0.9, 0.6, 0.95, 0.2, 0.9, 0.1, 0.3], "overfits"),  # jumps of 70 points: the answers may be far worse
        ([1.0, 0.6, 1.0, 1.0, 0.3, 1.0, 0.2, 0.7], "overfits"),
    ],
)
def test_an_error_that_is_all_noise_does_not_excuse_a_loss_that_rose(errors: list[float], named: str) -> None:
    train = [2.0, 1.0, 0.6, 0.4, 0.3, 0.2, 0.1, 0.05]
    valid = [2.1, 1.2, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    rows = {"loss": train, "val_loss": valid, "val_acc": [1 - e for e in errors]}
    assert diagnose(rows)[0].name == named


def test_a_saved_history_keeps_its_facts(tmp_path: Path) -> None:
    source = PLANTED["overconfident"][0](0)
    (tmp_path / "history.json").write_text(json.dumps({"schema": 1, "facts": source.facts, "rows": source.rows}))
    assert diagnose(tmp_path).names == diagnose(source).names
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(DataError, match="not readable JSON"):
        diagnose(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("epoch,loss,val_loss\n", "no rows"),
        ("a,b\n1,2\n", "no column of losses. Found: a, b. Needed"),
        ("epoch,loss\n1,tensor([0.5, 1])\n", "cells on line 2, more than"),
        ("epoch,loss\n1,half\n", "'loss' has 'half' in row 1"),
        ("loss,loss\n1,2\n", "more than one column named"),
        ("epoch,loss\n1,2,3\n", "cells on line 2, more than"),
    ],
)
def test_bad_files_get_one_clear_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        diagnose(csv_file(tmp_path, text))


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        diagnose(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"without history\.csv"):
        diagnose(tmp_path)
    with pytest.raises(DataError, match="cannot read a int"):
        diagnose(3)
    with pytest.raises(DataError, match="different lengths"):
        diagnose({"loss": [5, 4, 3, 2, 1], "val_loss": [3, 2, 1]})
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(DataError, match="UTF-8"):
        diagnose(tmp_path / "binary.csv")


def test_a_diagnosis_reads_as_a_verdict() -> None:
    text = str(diagnose(PLANTED["overfits"][0](0)))
    assert text.splitlines()[0].startswith("fakehistory: overfits")
    assert "±" in text
    assert "Next: regularize" in text
    assert "training mode" not in text  # these curves are like for like


# Published histories


def published() -> list[dict[str, Any]]:
    path = DATA / "overfitting-labelled-train.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.data
def test_published_labels_of_overfitting_are_met() -> None:
    runs = published()
    said = np.array(["overfits" in diagnose({k: run[k] for k in ("train_loss", "valid_loss")}).names for run in runs])
    label = np.array([run["overfit"] for run in runs])

    def f1(said: np.ndarray, label: np.ndarray) -> float:
        return float(2 * (said & label).sum() / (said.sum() + label.sum()))

    assert (f1(said, label) + f1(~said, ~label)) / 2 >= 0.95


def test_plain_tables_read_at_once_and_cell_by_cell_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wellposed.logs import cells, points, read

    rng = np.random.default_rng(0)
    loss, other = rng.normal(size=(2, 30)), rng.normal(size=30)
    lists: list[dict[str, Any]] = [
        {"loss": list(loss[0]), "val_loss": list(loss[1])},
        {"loss": loss[0].tolist(), "val_loss": loss[1].astype(np.float32)},
        {"epoch": list(range(1, 31)), "loss": list(loss[0]), "val_loss": [*loss[1][:-1].tolist(), math.nan]},
        {"epoch": [*range(20), *range(15, 25)], "loss": list(loss[0]), "val_loss": list(loss[1])},  # resumed
        {"epoch": list(range(30)), "loss": list(loss[0]), "val_loss": [*loss[1][:9].tolist(), *[None] * 21]},
        {"step": list(range(0, 300, 10)), "loss": list(loss[0]), "val_loss": list(loss[1])},
        {"loss": [f"{v:.4f}" for v in loss[0]], "val_loss": ["nan" if v < 0 else f"{100 * v:.2f}%" for v in other]},
    ]
    texts = [
        "epoch,loss,val_loss\n" + "\n".join(f"{e}, {a!r},{b:.3e}" for e, (a, b) in enumerate(loss.T.tolist())),
        "epoch;loss;val_loss\n"
        + "\n".join(f"{e};{a:.3f};{b:.3f}".replace(".", ",") for e, (a, b) in enumerate(loss.T)),
        "epoch,loss,val_loss\n0,1.0,\n1,inf,0.7\n2,0.5,NaN\n\n3,0.4,0.6\n",
        "epoch,loss,val_loss\n0,1.0\n1,0.9,0.7\n2,0.5,0.6\n",
    ]
    sources = [*lists, *(csv_file(tmp_path, text, f"{i}.csv") for i, text in enumerate(texts))]
    quick = [read(source) for source in sources]
    monkeypatch.setattr(cells, "plain_numbers", lambda given: None)
    monkeypatch.setattr(points, "_as_they_are", lambda raw, losses: None)
    for i, (one, other_way) in enumerate(zip(quick, map(read, sources), strict=True)):
        assert (one.columns.keys(), one.facts) == (other_way.columns.keys(), other_way.facts), i
        for name, values in one.columns.items():
            np.testing.assert_array_equal(values, other_way.columns[name], err_msg=f"{i} {name}")


def test_a_loss_that_swings_below_the_constant_prediction_has_learned() -> None:
    swings = np.where(np.arange(40) % 2, 0.5, 1.3) * np.exp(0.3 * np.random.default_rng(0).normal(size=40))
    assert "not_learning" not in diagnose(history(0, swings, swings + 0.02)).names
    still = 1 + 0.03 * np.random.default_rng(0).normal(size=40)  # the constant prediction's loss is 1
    assert "not_learning" in diagnose(history(0, still, still + 0.02)).names


def test_three_epochs_do_not_show_that_training_ended_too_early() -> None:
    assert "undertrained" not in diagnose(history(0, fall(0.2, epochs=3), fall(0.25, epochs=3))).names
    assert "undertrained" in diagnose(history(0, fall(0.2, epochs=8, tau=9), fall(0.25, epochs=8, tau=9))).names


def test_what_a_rule_explains_are_findings_and_come_after_it() -> None:
    known = {rule.name for rule in rules()}
    for rule in rules():
        assert set(rule.explains) <= known - {rule.name}, rule.name
    found = [
        Finding("undertrained", 0.9),
        Finding("slow", 0.85),
        Finding("rate_too_low", 0.6),
        Finding("overfits", 0.5),
    ]
    explains = {rule.name: rule.explains for rule in rules()}
    ordered = [finding.name for finding in causes_first(found, explains)]
    assert ordered == ["rate_too_low", "undertrained", "slow", "overfits"]
    assert [finding.name for finding in causes_first(found, {})] == [finding.name for finding in found]


def test_a_drop_of_the_learning_rate_is_neither_noise_nor_too_short_a_training() -> None:
    """The loss falls at once, most of all where the rate is cut in the last quarter, and is at rest again."""
    epochs = np.arange(150)
    for drop in (80, 100, 110, 120, 130, 140):
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            fell = 0.2 * (epochs >= drop) * (1 - np.exp(-np.maximum(epochs - drop, 0) / 2))
            level = 0.6 + 1.2 * np.exp(-epochs / 5) - fell
            curves = {
                "train_loss": level + 0.02 * rng.normal(size=150),
                "val_loss": level + 0.1 + 0.03 * rng.normal(size=150),
            }
            assert diagnose(curves).names == ["healthy"], (drop, seed)


def test_slow_noise_is_not_taken_for_a_sudden_fall() -> None:
    """A mutant of `last_step` that finds a step in everything would take most of the noise away."""
    steps = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = np.zeros(150)
        for t in range(1, 150):
            y[t] = 0.7 * y[t - 1] + rng.normal()
        steps += measure.last_step(y) is not None
        assert measure.last_step(fall(0.2, epochs=150, tau=30)) is None
    assert steps <= 6


def test_a_loss_on_its_way_down_from_far_above_is_not_called_unlearned() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(400, size, generator=draw) for size in (4, 1))
    net = torch.nn.Linear(4, 1)
    torch.nn.init.constant_(net.bias, 10.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, weight_decay=1e-4)
    watch = wp.watch(net, "squared_error", (x[:200], y[:200]), (x[200:], y[200:]), optimizer=optimizer)
    seen = []
    for epoch in range(150):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x[:200]), y[:200]).backward()
        optimizer.step()
        watch.epoch()
        if epoch in (11, 149):
            seen.append(wp.diagnose(watch).names)
    assert "undertrained" in seen[0]
    assert not {"not_learning", "over_regularized"} & set(seen[0])
    assert "not_learning" in seen[1]  # there was nothing to learn, and it rests


def test_pairs_that_fall_are_counted_without_a_table_of_all() -> None:
    draw = np.random.default_rng(0)
    for digits in (0, 1, 9):
        for count in (1, 2, 3, 8, 31, 64):
            values = np.round(draw.normal(size=count), digits)
            every = np.sign(np.triu(values[:, None] - values[None, :], 1)).sum()
            assert falling_pairs(values) == every
    assert falling_pairs(np.arange(3e5)[::-1]) == 300_000 * 299_999 // 2  # a table of all would take 671 GiB
