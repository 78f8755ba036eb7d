"""Autoencoders for testing alone, written before any was judged: other models, other data, other ways to lose a code."""

from __future__ import annotations

from functools import partial

from benchmarks.planted import codes, data
from benchmarks.planted.case import Draws, Kinds, Plan
from benchmarks.planted.tuned import MATTERS_OF_TASTE
from torch import Tensor

KINDS = Kinds()
ALLOWED = (*MATTERS_OF_TASTE, "over_regularized")


def pixels(draw: Draws) -> Tensor:
    """Digits of 14 x 14 pixels from 0 to 1."""
    return data.images("mnist", draw.whole("rows", (600, 900)), 10, draw.seed, scaled=False).train[0].flatten(1)


@KINDS.fault("posterior_collapse", allowed=ALLOWED)
def letters_that_are_told_one_by_one(draw: Draws) -> Plan:
    """A recurrent decoder is told each letter before it writes the next, and beta is 2 or more from the first step on. Known: no
    linear function of the code explains fresh letters."""
    rows = codes.counted(draw.seed, 600, draw.whole("length", (12, 16)))
    run = codes.Coding(
        partial(codes.Speller, 20, draw.whole("code", (4, 12))),
        codes.spelled,
        rows,
        draw.seed,
        draw.number("beta", (2, 6)),
        epochs=24,
    )
    return Plan(run.watched, run.says_nothing)


@KINDS.fault("posterior_collapse", allowed=ALLOWED)
def digits_whose_code_is_too_dear(draw: Draws) -> Plan:
    """Digits, with a layer for means and one for log-variances, and a divergence that costs forty times what the bound says or
    more. Known: no linear function of the code explains fresh pixels."""
    net = partial(codes.Coder, 196, draw.whole("code", (4, 12)), 64, apart=True)
    run = codes.Coding(
        net, codes.bernoulli, pixels(draw), draw.seed, draw.number("beta", (40, 150)), epochs=20, place=["code", "wide"]
    )
    return Plan(run.watched, run.says_nothing)


@KINDS.fault("posterior_collapse", allowed=(*ALLOWED, "dead_layers"))
def a_decoder_that_lost_its_code(draw: Draws) -> Plan:
    """A decoder that multiplies its code by 0, under the bound itself. Known: by construction."""
    rows = codes.hidden(draw.seed, 600, draw.whole("features", (6, 20)), 2)
    run = codes.Coding(
        partial(codes.Coder, rows.shape[1], draw.whole("code", (2, 8)), deaf=True), codes.gaussian, rows, draw.seed,
        draw.number("beta", (0.5, 2)), epochs=25,
    )  # fmt: skip
    return Plan(run.watched, lambda: "")


@KINDS.near_miss(allowed=ALLOWED)
def letters_from_the_code_alone(draw: Draws) -> Plan:
    """The same letters, of which the decoder is told none, and less beta. Known: a linear function of the code explains a tenth of
    fresh letters or more."""
    rows = codes.counted(draw.seed, 600, draw.whole("length", (12, 16)), letters=6)
    run = codes.Coding(
        partial(codes.Speller, 6, draw.whole("code", (4, 8)), told=False), codes.spelled, rows, draw.seed,
        draw.number("beta", (0.01, 0.1)), epochs=30, lr=1e-2,
    )  # fmt: skip
    return Plan(run.watched, run.says_something)


@KINDS.near_miss(allowed=ALLOWED)
def digits_at_the_bound(draw: Draws) -> Plan:
    """The same digits with the divergence as the bound has it, after a short warm-up. Known: a linear function of the code explains
    a tenth of fresh pixels or more."""
    net = partial(codes.Coder, 196, draw.whole("code", (4, 12)), 64, apart=True)
    run = codes.Coding(
        net,
        codes.bernoulli,
        pixels(draw),
        draw.seed,
        draw.number("beta", (0.5, 1.5)),
        warmup=60,
        epochs=30,
        place=["code", "wide"],
    )
    return Plan(run.watched, run.says_something)
