"""The half of the kinds that no rule was tuned on, and whose cases no author of a rule has looked at."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import torch
from benchmarks.planted import data, truth
from benchmarks.planted.case import Draws, Kinds, Plan
from benchmarks.planted.models import Bypassed, Recurrent, Transformer, mlp
from benchmarks.planted.training import Training
from benchmarks.planted.tuned import BROKEN, STALLED, UNSTABLE, cnn, hardly_moved, many_dead, modes_disagree, perceptron
from torch import nn

import wellposed as wp

KINDS = Kinds()
MEMORY = ("overfits", "overconfident")
"""What knowing training rows by heart looks like."""


# Faults of optimization


@KINDS.fault("diverged", allowed=(*UNSTABLE, "not_learning", "slow"))
def logs_of_a_loss_that_runs_away(draw: Draws) -> Plan:
    """Logs of a linear regression at a rate a few per cent above the highest stable one: the loss grows, and stays a
    number. Known: it ends above ten times the constant prediction's."""
    split = data.line(
        draw.whole("rows", (500, 700)), 300, draw.seed, features=draw.whole("features", (6, 12)), condition=10.0
    )
    sharpness = float(2 * torch.linalg.eigvalsh(torch.cov(split.train[0].T)).max())
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        {},
        "squared_error",
        "SGD",
        draw.number("times", (1.02, 1.1)) * 2 / sharpness,
        epochs=draw.whole("epochs", (14, 20)),
        batch=128,
    )
    return Plan(run.logged, lambda: truth.leaves_the_numbers(run), run.problem, run.recipe)


@KINDS.fault("not_learning", allowed=("dead_layers", "dying_units", "vanishing_gradients"))
def begun_at_zero(draw: Draws) -> Plan:
    """A ReLU network whose parameters all begin at 0: only the last bias ever moves. Known: the training loss stays
    within 2 % of the constant prediction's, and the same network begun at random learns."""
    split = data.images("mnist", draw.whole("rows", (400, 600)), 400, draw.seed)

    def zeroed(net: nn.Module) -> None:
        for parameter in net.parameters():
            parameter.zero_()

    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 64))},
        lr=draw.number("lr", (1e-3, 5e-3)),
        epochs=draw.whole("epochs", (15, 20)),
        prepare=zeroed,
    )
    return Plan(run.watched, lambda: truth.first(truth.learns_nothing(run), truth.worse(run, run.but(prepare=None))))


@KINDS.fault("undertrained")
def logs_of_images_stopped_early(draw: Draws) -> Plan:
    """Logs of a convolutional network on digits, stopped while both losses fall. Known: they fell over the last third,
    and five times the epochs are clearly better."""
    split = data.images("mnist", draw.whole("rows", (500, 700)), 400, draw.seed)
    run = Training(
        split,
        cnn(split),
        draw.seed,
        {"width": draw.whole("width", (6, 10))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (1.5e-3, 4e-3)),
        epochs=draw.whole("epochs", (9, 12)),
        batch=32,
    )
    longer = run.but(epochs=5 * run.epochs)
    return Plan(
        run.logged, lambda: truth.first(truth.still_falls(run), truth.worse(run, longer)), run.problem, run.recipe
    )


@KINDS.fault("underfits")
def a_linear_model_of_a_bent_border(draw: Draws) -> Plan:
    """Logistic regression on a table whose classes no plane parts. Known: at rest without a gap, and a hidden layer is
    clearly better."""
    split = data.table("phoneme", draw.whole("rows", (1200, 1600)), 500, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"depth": 0, "width": 64},
        lr=draw.number("lr", (8e-3, 2e-2)),
        epochs=draw.whole("epochs", (18, 25)),
        schedule="cosine",
    )
    hidden = run.but(model={"depth": 2}, lr=5e-3)
    checks = (truth.at_rest, truth.hardly_a_gap, truth.does_not_rise)
    return Plan(
        run.watched,
        lambda: truth.first(*(check(run) for check in checks), truth.worse(run, hidden)),
        run.problem,
        run.recipe,
    )


@KINDS.fault("oscillates", allowed=("rate_too_high", "noisy_evidence", "exploding_gradients"))
def a_recurrent_network_without_a_schedule(draw: Draws) -> Plan:
    """A GRU by Adam at a constant rate that is too long for the end. Known: the training loss swings, and the same rate
    with a cosine is clearly better."""
    split = data.waves(
        draw.whole("rows", (280, 360)), 400, draw.seed, length=12, noise=draw.number("noise", (0.7, 0.9))
    )
    run = Training(
        split,
        partial(Recurrent, split.outputs),
        draw.seed,
        {"width": draw.whole("width", (12, 20))},
        lr=draw.number("lr", (0.05, 0.1)),
        epochs=draw.whole("epochs", (24, 28)),
        batch=16,
    )
    settled = run.but(schedule="cosine")
    return Plan(
        run.watched, lambda: truth.first(truth.swings(run), truth.worse(run, settled, 0.05)), run.problem, run.recipe
    )


@KINDS.fault("slow", allowed=("undertrained", "rate_too_low", "underfits"))
def powers_of_one_number(draw: Draws) -> Plan:
    """Linear regression on the powers of one number by plain SGD at about the highest stable rate. Known: on whitened
    powers it is clearly better in as many epochs, and a rate eight times as high is not."""
    split = data.polynomial(draw.whole("rows", (500, 800)), 400, draw.seed, degree=draw.whole("degree", (6, 9)))
    sharpness = float(2 * torch.linalg.eigvalsh(torch.cov(split.train[0].T)).max())
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        {},
        "squared_error",
        "SGD",
        draw.number("share", (0.25, 0.5)) / sharpness,
        epochs=draw.whole("epochs", (20, 28)),
    )
    higher, white = run.but(lr=8 * run.lr), run.but(data=data.whitened(split), lr=0.05)

    def known() -> str:
        gained = run.trace.end() - higher.trace.end()
        unstable = truth.holds(gained < 0.1 * run.trace.constant, "a higher rate is clearly better")
        return truth.first(truth.worse(run, white), unstable)

    return Plan(run.watched, known, run.problem, run.recipe)


@KINDS.fault("rate_too_high", allowed=(*UNSTABLE, *BROKEN))
def saturated_by_a_high_rate(draw: Draws) -> Plan:
    """A tanh network on a table by Adam at a rate that saturates it at once. Known: a hundredth of the rate is clearly
    better."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (500, 700)), 400, draw.seed
    )
    run = Training(
        split,
        perceptron(split, activation="tanh"),
        draw.seed,
        {"width": draw.whole("width", (24, 64))},
        lr=draw.number("lr", (0.4, 1.0)),
        epochs=draw.whole("epochs", (18, 24)),
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(lr=run.lr / 100)), run.problem, run.recipe)


@KINDS.fault("rate_too_low", allowed=("undertrained", "slow", "not_learning"))
def sequences_at_a_tiny_rate(draw: Draws) -> Plan:
    """A GRU on days of power demand by SGD with momentum at a rate at which hardly anything happens. Known: less than
    30 % of the constant prediction's loss is gone, and a hundred times the rate is clearly better."""
    split = data.power_demand(draw.whole("rows", (400, 500)), 300, draw.seed)
    run = Training(
        split,
        partial(Recurrent, split.outputs),
        draw.seed,
        {"width": draw.whole("width", (12, 24))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (1e-4, 5e-4)),
        epochs=draw.whole("epochs", (15, 20)),
    )
    return Plan(run.watched, lambda: hardly_moved(run), run.problem, run.recipe)


@KINDS.fault("vanishing_gradients", allowed=(*STALLED, "dead_layers"))
def deep_sigmoids(draw: Draws) -> Plan:
    """A deep network of sigmoids. Known: the first layer's gradient is below a thousandth of the last one's at the
    start, and two hidden layers of ReLU are clearly better."""
    split = data.table(draw.one_of("table", ["segment", "phoneme"]), draw.whole("rows", (450, 700)), 400, draw.seed)
    depth = draw.whole("depth", (6, 9))
    run = Training(
        split,
        perceptron(split, activation="sigmoid", depth=depth),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (5e-4, 2e-3)),
        epochs=draw.whole("epochs", (16, 22)),
    )

    def known() -> str:
        norms = truth.gradients(run.built(), run)
        shrink = truth.holds(norms[0] < 1e-3 * norms[-1], f"gradients shrink to {norms[0] / norms[-1]:.1e} only")
        return truth.first(shrink, truth.worse(run, run.but(net=perceptron(split))))

    return Plan(run.watched, known)


@KINDS.fault("exploding_gradients", allowed=(*UNSTABLE, *STALLED, *MEMORY))
def a_chaotic_recurrence(draw: Draws) -> Plan:
    """A plain recurrent network whose recurrent weights begin so large that it is chaotic, without clipping. Known: the
    gradient at the start is thirty times that of the same network begun orthogonal, which is clearly better."""
    split = data.waves(
        draw.whole("rows", (350, 450)), 400, draw.seed, length=draw.whole("length", (20, 28)), noise=0.2, phases=0.3
    )
    large = draw.number("factor", (3.0, 4.0))

    def grown(net: nn.Module, factor: float = large) -> None:
        nn.init.orthogonal_(net.body.weight_hh_l0, factor)

    run = Training(
        split,
        partial(Recurrent, split.outputs, cell="rnn"),
        draw.seed,
        {"width": draw.whole("width", (24, 40))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.015, 0.025)),
        epochs=draw.whole("epochs", (18, 24)),
        prepare=grown,
    )
    sane = run.but(prepare=partial(grown, factor=1.0))

    def known() -> str:
        ratio = max(truth.gradients(run.built(), run)) / max(truth.gradients(sane.built(), sane))
        return truth.first(
            truth.holds(ratio > 30, f"the gradient is {ratio:.1f} times as large only"), truth.worse(run, sane)
        )

    return Plan(run.watched, known)


@KINDS.fault("dying_units", allowed=(*STALLED, *BROKEN, *UNSTABLE))
def biases_far_below_zero(draw: Draws) -> Plan:
    """A ReLU network whose hidden biases begin far below 0. Known: at the end at least half of the units are 0 on every
    fresh row, and biases of 0 are clearly better."""
    split = data.classes(
        draw.whole("rows", (600, 900)), 400, draw.seed, count=draw.whole("classes", (3, 5)), features=12
    )
    low = draw.number("low", (1.8, 2.6))

    def lowered(net: nn.Module) -> None:
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][:-1]:
            layer.bias.fill_(-low)

    run = Training(
        split,
        perceptron(split, depth=draw.whole("depth", (1, 2))),
        draw.seed,
        {"width": draw.whole("width", (32, 64))},
        lr=draw.number("lr", (2e-3, 5e-3)),
        epochs=draw.whole("epochs", (18, 24)),
        prepare=lowered,
    )
    return Plan(run.watched, lambda: truth.first(many_dead(run), truth.worse(run, run.but(prepare=None), 0.05)))


@KINDS.fault("dead_layers", allowed=(*STALLED, "vanishing_gradients"))
def layers_that_the_optimizer_was_not_given(draw: Draws) -> Plan:
    """An optimizer that was given the last layer only; the others are trainable and stay as they began. Known: by
    construction, and with all of them the loss is clearly lower."""
    split = data.classes(draw.whole("rows", (900, 1200)), 400, draw.seed, count=3, features=12)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (8, 16))},
        lr=draw.number("lr", (5e-3, 1e-2)),
        epochs=draw.whole("epochs", (18, 24)),
        parameters=lambda net: list(net.parameters())[-2:],
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(parameters=None)))


@KINDS.fault("dead_layers")
def a_layer_that_is_never_called(draw: Draws) -> Plan:
    """A network that builds an adapter and does not call it. Known: by construction; the rest is healthy."""
    split = data.table("segment", draw.whole("rows", (1000, 1200)), 400, draw.seed)
    width = draw.whole("width", (24, 40))
    run = Training(
        split,
        lambda: Bypassed(mlp(split.features, split.outputs, width=width), width),
        draw.seed,
        lr=draw.number("lr", (6e-3, 1e-2)),
        epochs=draw.whole("epochs", (26, 30)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.healthy(run))


# Faults of regularization


@KINDS.fault("over_regularized", allowed=("underfits", "undertrained", "slow"))
def too_strong_a_decay(draw: Draws) -> Plan:
    """`wp.fit` with an L2 strength that leaves next to nothing of the weights. Known: in plain torch, without decay
    training and fresh loss are clearly lower, there is hardly a gap, and something is learned."""
    split = data.images("mnist", draw.whole("rows", (500, 700)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (3e-3, 6e-3)),
        decay=draw.number("decay", (1.5, 5.0)),
        epochs=draw.whole("epochs", (18, 24)),
        schedule="cosine",
    )
    bare = run.but(decay=0.0)
    return Plan(
        lambda: run.fitted,
        lambda: truth.first(some(run), truth.hardly_a_gap(run), truth.worse(run, bare)),
        run.problem,
        run.recipe,
    )


def some(run: Training) -> str:
    """At least a tenth of the constant prediction's training loss is gone."""
    gone = 1 - run.trace.end("train") / run.trace.constant
    return truth.holds(gone >= 0.1, f"{gone:.2f} of the constant prediction's loss is gone")


@KINDS.fault("overfits", allowed=("overconfident", "label_noise"))
def wide_on_overlapping_classes(draw: Draws) -> Plan:
    """A wide perceptron on few rows of a table whose classes overlap. Known: fresh loss and fresh error rise clearly.
    Overlapping classes may be called noisy labels."""
    split = data.table(
        draw.one_of("table", ["higgs-small", "adult", "credit-g"]), draw.whole("rows", (180, 350)), 400, draw.seed
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (64, 160)), "dropout": 0.0},
        lr=draw.number("lr", (1e-3, 3e-3)),
        epochs=draw.whole("epochs", (35, 50)),
        batch=draw.one_of("batch", [16, 32]),
        probe=draw.whole("probe", (150, 180)),
    )
    return Plan(run.watched, lambda: truth.first(truth.rises(run), truth.error_rises(run)), run.problem, run.recipe)


@KINDS.fault("overconfident")
def a_teacher_learned_by_heart(draw: Draws) -> Plan:
    """A wide network on few rows of a teacher of several classes, trained long after it knows them. Known: the fresh
    loss rises clearly, the fresh error does not."""
    split = data.classes(
        draw.whole("rows", (350, 550)),
        600,
        draw.seed,
        count=draw.whole("classes", (3, 5)),
        features=draw.whole("features", (20, 32)),
        hidden=6,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (96, 160)), "dropout": 0.0},
        lr=draw.number("lr", (3e-3, 6e-3)),
        epochs=draw.whole("epochs", (40, 50)),
        probe=350,
    )
    return Plan(
        run.watched, lambda: truth.first(truth.rises(run), truth.error_does_not_rise(run)), run.problem, run.recipe
    )


@KINDS.fault("label_noise", allowed=(*MEMORY, "underfits"))
def wrong_labels_in_training_only(draw: Draws) -> Plan:
    """Training labels of which a share is replaced by another class; validation is clean. Known: by construction. The
    network may learn the noise by heart or stop above it."""
    clean = data.images("mnist", draw.whole("rows", (600, 1000)), 400, draw.seed)
    share = draw.number("share", (0.22, 0.4))
    split = clean.but_train(lambda x, y: (x, data.flipped(y, share, clean.outputs, draw.seed)))
    run = Training(
        split,
        cnn(split),
        draw.seed,
        {"width": draw.whole("width", (6, 8)), "dropout": 0.2},
        lr=draw.number("lr", (1e-3, 3e-3)),
        epochs=draw.whole("epochs", (15, 20)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: "")


@KINDS.fault("decayed_norms")
def decay_on_layer_norms(draw: Draws) -> Plan:
    """AdamW with one weight decay for every parameter of a transformer with layer norm, and nothing else wrong. Known:
    by construction, and the curves are those of a healthy run."""
    split = data.waves(
        draw.whole("rows", (450, 600)), 400, draw.seed, length=16, noise=0.3, phases=draw.number("phases", (0.15, 0.3))
    )
    run = Training(
        split,
        partial(Transformer, split.outputs, 16),
        draw.seed,
        {"width": 16},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (5e-3, 1e-2)),
        decay=draw.number("decay", (0.01, 0.1)),
        decay_all=True,
        epochs=draw.whole("epochs", (15, 18)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.healthy(run))


# Faults of the loop and of the data


@KINDS.fault("wrong_output", allowed=(*STALLED, "dying_units", "dead_layers"))
def an_output_that_cannot_be_negative(draw: Draws) -> Plan:
    """A ReLU at the end of a regression whose targets have mean 0. Known: by construction, and without it the loss is
    clearly lower."""
    split = data.table(
        draw.one_of("table", ["california-housing", "concrete", "power-plant"]),
        draw.whole("rows", (400, 600)),
        300,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split, head=nn.ReLU()),
        draw.seed,
        {"width": draw.whole("width", (24, 64))},
        "squared_error",
        lr=draw.number("lr", (2e-3, 5e-3)),
        epochs=draw.whole("epochs", (18, 24)),
        schedule="cosine",
        probe=300,
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(net=perceptron(split))))


@KINDS.fault("wrong_output", allowed=(*STALLED, "vanishing_gradients", "over_regularized"))
def a_sigmoid_before_a_loss_on_logits(draw: Draws) -> Plan:
    """A sigmoid at the end of a network whose binary loss takes logits. Known: by construction, and without it the loss
    is clearly lower."""
    plain = data.classes(draw.whole("rows", (700, 1000)), 400, draw.seed, features=8)
    split = replace(plain.each(lambda x, y: (x, y[:, None].float())), outputs=1)
    run = Training(
        split,
        perceptron(split, head=nn.Sigmoid()),
        draw.seed,
        {"width": draw.whole("width", (24, 64))},
        "binary_cross_entropy",
        lr=draw.number("lr", (2e-3, 5e-3)),
        epochs=draw.whole("epochs", (18, 24)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(net=perceptron(split))))


@KINDS.fault("wrong_loss", allowed=(*STALLED, *MEMORY, "wrong_output", "noisy_evidence"))
def squared_error_of_class_numbers(draw: Draws) -> Plan:
    """Squared error between one output and the number of the class, for classes without an order. Known: by
    construction; cross-entropy has fewer wrong classes on fresh rows by a tenth of them at least."""
    plain = data.images("mnist", draw.whole("rows", (600, 800)), 400, draw.seed)
    split = replace(plain.each(lambda x, y: (x, y[:, None].float())), outputs=1, classifies=False)
    settings = {"lr": draw.number("lr", (1e-3, 3e-3)), "epochs": draw.whole("epochs", (18, 22)), "schedule": "cosine"}
    width = {"width": draw.whole("width", (32, 64))}
    run = Training(split, perceptron(split), draw.seed, width, "squared_error", **settings)
    fitting = Training(plain, perceptron(plain), draw.seed, width, **settings)

    def known() -> str:
        x, y = split.fresh
        with torch.no_grad():
            error = float((run.done.net.eval()(x).round() != y).float().mean())
        fewer = error - fitting.trace.end("error")
        return truth.holds(fewer > 0.1, f"cross-entropy has {fewer:.2f} fewer wrong classes only")

    return Plan(run.watched, known)


@KINDS.fault("unscaled_inputs", allowed=(*UNSTABLE, *STALLED, *BROKEN, *MEMORY, "vanishing_gradients"))
def a_table_as_it_is(draw: Draws) -> Plan:
    """A table's columns in the units that they came in. Known: scaled by their training rows, the loss is clearly lower."""
    name, rows = (
        draw.one_of("table", ["california-housing", "adult", "segment", "vehicle"]),
        draw.whole("rows", (400, 500)),
    )
    raw, scaled = (data.table(name, rows, 200, draw.seed, scaled=s) for s in (False, True))
    run = Training(
        raw,
        perceptron(raw),
        draw.seed,
        {"width": draw.whole("width", (24, 64))},
        "cross_entropy" if raw.classifies else "squared_error",
        lr=draw.number("lr", (1e-3, 4e-3)),
        epochs=draw.whole("epochs", (18, 24)),
        probe=200,
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(data=scaled)))


@KINDS.fault("unshuffled", allowed=(*UNSTABLE, *STALLED, *MEMORY))
def rows_sorted_by_class(draw: Draws) -> Plan:
    """A classification whose training rows are sorted by class and never shuffled. Known: by construction, and with
    shuffling the loss is clearly lower."""
    split = data.images("mnist", draw.whole("rows", (500, 700)), 400, draw.seed).but_train(
        lambda x, y: (x[y.argsort()], y[y.argsort()])
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.025, 0.06)),
        epochs=draw.whole("epochs", (16, 20)),
        shuffle=False,
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(shuffle=True)))


def copied(split: data.Split, share: float) -> data.Split:
    """The same with a share of the validation rows replaced by training rows."""
    many = int(share * len(split.valid[0]))
    x, y = split.train
    return split.but_valid(lambda a, b: (torch.cat([x[:many], a[many:]]), torch.cat([y[:many], b[many:]])))


@KINDS.fault("leakage", allowed=MEMORY)
def validation_rows_that_were_trained_on(draw: Draws) -> Plan:
    """A good part of the validation rows are training rows too. Known: by construction."""
    plain = data.table(
        draw.one_of("table", ["segment", "mfeat-factors", "phoneme"]), draw.whole("rows", (700, 1000)), 400, draw.seed
    )
    split = copied(plain, draw.number("share", (0.35, 0.7)))
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (2e-3, 4e-3)),
        epochs=draw.whole("epochs", (20, 26)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: "")


@KINDS.fault("forgotten_mode", allowed=(*STALLED, *MEMORY))
def evaluation_mode_after_the_first_epoch(draw: Draws) -> Plan:
    """A network with dropout and batch norm that the loop sets to evaluation mode after the first epoch and never back.
    Known: by construction. What that does to curves counts neither way."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (700, 1000)), 400, draw.seed
    )
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (32, 64)), "dropout": draw.number("dropout", (0.2, 0.5))},
        lr=draw.number("lr", (2e-3, 4e-3)),
        epochs=draw.whole("epochs", (20, 26)),
        schedule="cosine",
        mode=lambda net, epoch: net.train(epoch == 0),
        evaluated=True,
    )
    return Plan(run.watched, lambda: "")


@KINDS.fault("batch_too_small", allowed=(*UNSTABLE, *MEMORY, "over_regularized", "underfits", "undertrained", "slow"))
def a_table_two_rows_at_a_time(draw: Draws) -> Plan:
    """A perceptron with batch norm on batches of two rows. Known: training rows cost clearly more in training mode than
    in evaluation mode, or batches of 16 are clearly better."""
    rows = 6 * draw.whole("sixths", (28, 36))
    split = data.table(draw.one_of("table", ["segment", "vehicle"]), rows, 300, draw.seed)
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (2e-3, 5e-3)),
        epochs=draw.whole("epochs", (12, 14)),
        batch=2,
        probe=150,
    )
    return Plan(run.watched, lambda: modes_disagree(run))


# Evidence


@KINDS.near_miss("noisy_evidence", allowed=("not_enough_evidence",))
def logs_with_a_dozen_validation_rows(draw: Draws) -> Plan:
    """Logs of a sane training with eight to twelve validation rows, whose loss jumps about. Known: it jumps by 3 % of
    the constant prediction's from epoch to epoch, and twice as far as that of many fresh rows, which say that nothing
    got worse."""
    split = data.table("phoneme", draw.whole("rows", (900, 1200)), draw.whole("valid", (8, 12)), draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (16, 24))},
        lr=draw.number("lr", (3e-3, 6e-3)),
        epochs=draw.whole("epochs", (24, 32)),
        batch=16,
        probe=None,
    )

    def known() -> str:
        jumps, calm = ([abs(b - a) for a, b in pairwise(v[5:])] for v in (run.logged()["val_loss"], run.trace.fresh))
        times, far = sum(jumps) / sum(calm), sum(jumps) / len(jumps) / run.trace.constant
        return truth.first(
            truth.holds(times > 2, f"it jumps {times:.1f} times as far only"),
            truth.holds(far > 0.03, f"it jumps by {far:.2f} only"),
            truth.does_not_rise(run),
        )

    return Plan(run.logged, known)


@KINDS.fault("not_enough_evidence", allowed=("undertrained", "noisy_evidence", "slow"))
def logs_without_validation(draw: Draws) -> Plan:
    """Logs that have the training loss alone. Known: by construction; whether the network generalizes cannot be told."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (500, 800)), 400, draw.seed
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (2e-3, 5e-3)),
        epochs=draw.whole("epochs", (20, 28)),
        schedule="cosine",
    )
    return Plan(lambda: {name: run.logged()[name] for name in ("epoch", "loss")}, lambda: truth.at_rest(run))


# Healthy runs


@KINDS.healthy
def dropout_and_decay(draw: Draws) -> Plan:
    """A perceptron on a table with a little dropout and decay of its weights alone. Known: see `truth.healthy`."""
    split = data.table("segment", draw.whole("rows", (1000, 1300)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (48, 80)), "dropout": draw.number("dropout", (0.05, 0.15))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (4e-3, 8e-3)),
        decay=draw.number("decay", (0.01, 0.05)),
        epochs=draw.whole("epochs", (24, 30)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def a_regression_by_fit(draw: Draws) -> Plan:
    """`wp.fit` of a small perceptron on a regression table. Known: a twin in plain torch is healthy."""
    split = data.table(
        draw.one_of("table", ["power-plant", "diamonds"]), draw.whole("rows", (1200, 1500)), 500, draw.seed
    )
    run = Training(
        split,
        perceptron(split, activation="tanh"),
        draw.seed,
        {"width": draw.whole("width", (12, 24))},
        "squared_error",
        lr=draw.number("lr", (4e-3, 8e-3)),
        epochs=draw.whole("epochs", (22, 28)),
        schedule="cosine",
    )
    return Plan(lambda: run.fitted, lambda: truth.healthy(run))


@KINDS.healthy
def a_recurrent_network_on_waves(draw: Draws) -> Plan:
    """A GRU that tells frequencies apart, with clipped gradients. Known: see `truth.healthy`."""
    split = data.waves(
        draw.whole("rows", (400, 600)), 400, draw.seed, length=20, noise=draw.number("noise", (0.2, 0.4))
    )
    run = Training(
        split,
        partial(Recurrent, split.outputs),
        draw.seed,
        {"width": draw.whole("width", (16, 24))},
        lr=draw.number("lr", (6e-3, 1.2e-2)),
        epochs=draw.whole("epochs", (16, 20)),
        schedule="cosine",
        clip=1.0,
    )
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def stopped_by_patience(draw: Draws) -> Plan:
    """`wp.fit` with early stopping on a smooth function with little noise. Known: patience ended it, and a twin of as
    many epochs in plain torch is healthy."""
    split = data.curve(
        draw.whole("rows", (700, 900)), 400, draw.seed, features=4, noise=draw.number("noise", (0.15, 0.25)), bends=0.5
    )
    run = Training(
        split,
        perceptron(split, activation="tanh"),
        draw.seed,
        {"width": draw.whole("width", (16, 24))},
        "squared_error",
        lr=draw.number("lr", (5e-3, 8e-3)),
        epochs=80,
        batch=64,
    )
    patient = run.recipe.replace(stopping={"patience": draw.whole("patience", (6, 9))})

    @cache
    def make() -> wp.Run:
        return wp.fit(run.problem, patient, seed=run.seed)

    def known() -> str:
        fitted = make()
        twin = run.but(epochs=len(fitted.history))
        return truth.first(truth.holds(fitted.stopped == "patience", "patience did not end it"), truth.healthy(twin))

    return Plan(make, known)


# Near misses


@KINDS.near_miss()
def a_gap_that_does_no_harm(draw: Draws) -> Plan:
    """A wide network that knows its training rows by heart, on a table where that does no harm. Known: the fresh loss
    is at least five times the training loss, does not rise, and neither dropout nor decay is better."""
    split = data.table(
        draw.one_of("table", ["mfeat-factors", "isolet"]), draw.whole("rows", (700, 900)), 400, draw.seed
    )
    run = Training(
        split,
        perceptron(split, depth=1),
        draw.seed,
        {"width": draw.whole("width", (96, 160)), "dropout": 0.0},
        lr=draw.number("lr", (1.5e-3, 3e-3)),
        epochs=draw.whole("epochs", (20, 26)),
        schedule="cosine",
    )
    others = [run.but(model={"dropout": 0.3}), run.but(optimizer="AdamW", decay=0.3)]

    def known() -> str:
        large = truth.holds(run.trace.end() > 5 * run.trace.end("train"), "the gap is not large")
        better = (truth.no_better(run, other) for other in others)
        return truth.first(large, truth.does_not_rise(run), truth.at_rest(run), *better)

    return Plan(run.watched, known)


@KINDS.near_miss()
def a_kink_where_the_rate_drops(draw: Draws) -> Plan:
    """SGD whose rate drops to a tenth half way, which makes a step in both curves. Known: the fresh loss fell by a
    tenth at the drop, and the end is healthy."""
    split = data.table("segment", draw.whole("rows", (1000, 1300)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.04, 0.08)),
        epochs=draw.whole("epochs", (26, 32)),
        schedule="step",
    )

    def known() -> str:
        half, fresh = run.epochs // 2, run.trace.fresh
        before, after = sum(fresh[half - 4 : half]) / 4, sum(fresh[half + 1 : half + 5]) / 4
        return truth.first(truth.holds(after < 0.9 * before, "there is no step"), truth.healthy(run))

    return Plan(run.watched, known)


@KINDS.near_miss()
def a_few_dead_units(draw: Draws) -> Plan:
    """A ReLU network of which a few units are dead from the start. Known: at most an eighth of the units are 0 on every
    fresh row, one at least, and the network is healthy."""
    split = data.table("segment", draw.whole("rows", (1000, 1300)), 400, draw.seed)
    width, few = draw.whole("width", (40, 64)), draw.whole("few", (2, 4))

    def killed(net: nn.Module) -> None:
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][:-1]:
            layer.bias[:few] = -20.0

    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": width},
        lr=draw.number("lr", (4e-3, 7e-3)),
        epochs=draw.whole("epochs", (24, 30)),
        schedule="cosine",
        prepare=killed,
    )

    def known() -> str:
        dead = truth.dead_share(run.done.net, split.fresh[0])
        return truth.first(truth.holds(0 < dead <= 0.125, f"{dead:.2f} of the units are dead"), truth.healthy(run))

    return Plan(run.watched, known)


@KINDS.near_miss()
def one_class_is_rare(draw: Draws) -> Plan:
    """Two classes, one of them with five to ten of a hundred rows, that a linear model tells apart. Known: see
    `truth.healthy`, against the constant prediction of the frequent class."""
    split = data.rare(
        draw.whole("rows", (1300, 1600)),
        600,
        draw.seed,
        share=draw.number("share", (0.06, 0.12)),
        sharpness=draw.number("sharpness", (9.0, 14.0)),
    )
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        {},
        lr=draw.number("lr", (0.1, 0.2)),
        epochs=draw.whole("epochs", (22, 28)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.near_miss()
def evaluation_mode_between_epochs(draw: Draws) -> Plan:
    """An honest loop that evaluates by itself and calls `watch.epoch()` in evaluation mode; each epoch begins with
    ``net.train()``. Known: healthy."""
    split = data.table("segment", draw.whole("rows", (1000, 1300)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (24, 40)), "dropout": draw.number("dropout", (0.05, 0.1))},
        lr=draw.number("lr", (5e-3, 1e-2)),
        epochs=draw.whole("epochs", (24, 28)),
        schedule="cosine",
        batch=64,
        evaluated=True,
    )
    return Plan(run.watched, lambda: truth.healthy(run))


# Several causes at once


@KINDS.fault("label_noise", "overfits", allowed=("overconfident",))
def noise_learned_by_heart(draw: Draws) -> Plan:
    """Training labels of which a share is wrong, and a wide network that is trained until it knows them. Known: by
    construction, and fresh loss and fresh error rise clearly."""
    clean = data.images("mnist", draw.whole("rows", (500, 700)), 400, draw.seed)
    share = draw.number("share", (0.25, 0.4))
    split = clean.but_train(lambda x, y: (x, data.flipped(y, share, clean.outputs, draw.seed)))
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (96, 160)), "dropout": 0.0},
        lr=draw.number("lr", (1e-3, 3e-3)),
        epochs=draw.whole("epochs", (30, 40)),
    )
    return Plan(run.watched, lambda: truth.first(truth.rises(run), truth.error_rises(run)), run.problem, run.recipe)


@KINDS.fault(
    "batch_too_small",
    "decayed_norms",
    allowed=(*UNSTABLE, *MEMORY, "over_regularized", "underfits", "undertrained", "slow"),
)
def two_rows_and_decay_on_everything(draw: Draws) -> Plan:
    """Batch norm on batches of two rows, with one decay for every parameter. Known: by construction, and training rows
    cost clearly more in training mode than in evaluation mode, or batches of 16 are clearly better."""
    rows = 6 * draw.whole("sixths", (28, 36))
    split = data.images("mnist", rows, 300, draw.seed)
    run = Training(
        split,
        perceptron(split, norm="batch", depth=1),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (2e-3, 5e-3)),
        decay=draw.number("decay", (0.01, 0.1)),
        decay_all=True,
        epochs=draw.whole("epochs", (12, 14)),
        batch=2,
        probe=150,
    )
    return Plan(run.watched, lambda: modes_disagree(run))


@KINDS.fault("leakage", "decayed_norms", allowed=MEMORY)
def copies_and_decay_on_everything(draw: Draws) -> Plan:
    """Validation rows that were trained on, and one decay for every parameter of a network with batch norm. Known: by
    construction."""
    split = copied(
        data.table("segment", draw.whole("rows", (800, 1100)), 400, draw.seed), draw.number("share", (0.35, 0.7))
    )
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (24, 40))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (4e-3, 8e-3)),
        decay=draw.number("decay", (0.01, 0.1)),
        decay_all=True,
        epochs=draw.whole("epochs", (22, 28)),
        schedule="cosine",
        batch=64,
    )
    return Plan(run.watched, lambda: "")


@KINDS.fault("exploding_gradients", "unscaled_inputs", allowed=(*UNSTABLE, *STALLED, *BROKEN, *MEMORY))
def raw_inputs_and_large_weights(draw: Draws) -> Plan:
    """A deep network begun with weights several times too large, on features of scales from 1 to a thousand. Known: the
    gradient at the start is a hundred times that of the network begun at the right size, also on scaled features, and
    with both mended the loss is clearly lower."""
    clean = data.classes(draw.whole("rows", (450, 700)), 400, draw.seed, count=3)
    scales = torch.logspace(0, draw.number("digits", (2.5, 3.3)), clean.features)
    split = clean.inputs(lambda x: scales * x)
    depth, large = draw.whole("depth", (5, 7)), draw.number("factor", (4.0, 6.0))

    def grown(net: nn.Module) -> None:
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][:-1]:
            nn.init.orthogonal_(layer.weight, large)

    run = Training(
        split,
        perceptron(split, activation="leaky", depth=depth),
        draw.seed,
        {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (1e-3, 3e-3)),
        epochs=draw.whole("epochs", (18, 22)),
        prepare=grown,
    )
    scaled, both = run.but(data=clean), run.but(data=clean, prepare=None)

    def known() -> str:
        ratio = max(truth.gradients(scaled.built(), scaled)) / max(truth.gradients(both.built(), both))
        return truth.first(
            truth.holds(ratio > 100, f"the gradient is {ratio:.1f} times as large only"), truth.worse(run, both)
        )

    return Plan(run.watched, known)
