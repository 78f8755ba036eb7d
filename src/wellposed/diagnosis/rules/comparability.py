"""Curves that cannot be read as a fall towards a minimum: players that chase each other, and losses on two scales."""

from __future__ import annotations

import re

from wellposed.diagnosis import curves as measure
from wellposed.diagnosis.caveats import reading_of
from wellposed.diagnosis.curves import Curves
from wellposed.diagnosis.finding import Finding
from wellposed.diagnosis.rules.generalization import loss_turned
from wellposed.diagnosis.rules.rule import FIT, Rule, end_of, measured

REINFORCED = re.compile(
    r"\b(policy|actor|critic|value (function )?loss|vf loss|pi loss|q loss|qf\d?"
    r"|ep rew|rew(ard)?s?|returns?|approx kl|clip frac(tion)?"
    r"|entropy (loss|bonus)|success rate|mean q|episodes?)\b"
)
ADVERSARIAL = (
    re.compile(
        r"\b(?:net ?)?(g|gen|generator|adv|adversarial)( \w+)? ?(loss|err|cost|gan\b|l1\b)"
        r"|(loss|err|cost)( adv| \w)? ?(g|gen|generator)\b|^g [ab]$"
    ),
    re.compile(
        r"\b(?:net ?)?(d|dis|disc|discriminator|critic)( \w+)? ?(loss|err|cost|real\b|fake\b)"
        r"|(loss|err|cost)( adv| \w)? ?(d|dis|disc|discriminator|critic)\b|^(d|disc|discriminator)$|^d [ab]$"
    ),
)
PLAYERS = re.compile(r"(net_?)?G|gen(erator)?"), re.compile(r"(net_?)?D|disc(riminator)?|critic")
"""How code names the two networks of a GAN."""


class MovingTarget(Rule):
    """The losses are those of players, each of which moves what the others aim at: reinforcement learning, or a GAN.

    Their level and their slope say nothing of learning: the loss of a better policy on harder states is higher, and a generator's
    is relative to its discriminator. Recognized by the names of the columns: two words of reinforcement learning (policy, value,
    reward, return, approx_kl ...), or a generator and a discriminator; in a watch by targets that change on the same rows, and by
    such names of the network's parts and in the code that reads a batch.
    """

    name, severity = "moving_target", 0
    axis, pulls = "evidence", "data"
    overrules = (FIT, "diverged", "rate_too_high", "different_scales", "not_enough_evidence", "healthy")
    code = "returns = [evaluate(policy, seed=seed) for seed in range(10)]  # of a GAN: FID of 10,000 samples"

    def judge(self, curves: Curves) -> Finding | None:
        if curves.facts.get("moving_target"):
            return self.finding(
                1.0, {"targets": "changed on the same rows"}, "judge by returns, or by targets that stay as they are",
                "The targets of the same rows changed between epochs, as those of a network that learns do: level and slope of "
                "the loss show neither learning nor overfitting. Look at returns, or at targets that stay as they are.",
            )  # fmt: skip
        reading = reading_of(curves)
        seen = curves.signals.names if curves.signals is not None else frozenset[str]()
        axes = [name for ours, name in reading.taken.items() if ours in ("epoch", "step")]
        quantities = [name for name in reading.taken.values() if name not in axes]
        names = [re.sub(r"[^a-z\d]+", " ", name.lower()) for name in (*quantities, *reading.left, *seen)]
        played = {re.sub(r"(?<!s)s$", "", found.group()) for name in names if (found := REINFORCED.search(name))}
        if any(re.match("rew|return", one) for one in played):  # without, episodes are also those of few-shot learning
            played |= {"episode" for name in axes if "episode" in name.lower()}
        against = all(any(side.search(name) for name in names) for side in ADVERSARIAL)
        against = against or all(any(map(side.fullmatch, seen)) for side in PLAYERS)
        if len(played) < 2 and not against:
            return None
        who = "a generator and a discriminator" if against else "a policy that changes the data it learns from"
        look = "samples and their FID" if against else "returns and success rates over several seeds"
        return self.finding(
            1.0, {"names": ", ".join(sorted(played)) or "generator, discriminator"}, f"judge by {look}",
            f"These are losses of {who}: each moves what the other aims at, so that their level and slope show neither learning "
            f"nor overfitting. Look at {look}.",
        )  # fmt: skip


class DifferentScales(Rule):
    """Training and validation loss cannot be on one scale: sums against means, another unit, or terms that only one side has.

    Before anything is learned a network is as good on both sides. Holds if validation is more than ten times training, or less
    than .4 of it, at the first epoch and at the last, by a factor that stays within three: then the gap is one of units (of
    augmentation and dropout, where training is above), and nothing about generalization can be read from it. A validation loss
    that turned says so on any scale.
    """

    name, severity = "different_scales", 6
    axis, pulls = "evidence", "data"
    of_fit = True
    overrules = ("underfits", "over_regularized", "noisy_evidence")
    code = "watch = wp.watch(model, loss, train=train, valid=valid)  # both sides alike; and watch.epoch() after each epoch"

    def judge(self, curves: Curves) -> Finding | None:
        last = measure.scales_apart(curves)
        if last is None or loss_turned(curves, 0.5):
            return None
        return self.finding(
            0.8, {**measured("validation over training loss", last), **end_of(curves)},
            "take both losses as means over examples, of the same terms, in evaluation mode, and judge again",
            f"From the first epoch on validation loss is {last:.3g} times training loss: they cannot be on one scale (sums against "
            "means, augmentation, or terms that one side has), and their gap says nothing.",
        )  # fmt: skip
