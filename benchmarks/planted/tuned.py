"""The half of the kinds that rules may be tuned on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from benchmarks.planted import codes, data, truth
from benchmarks.planted.case import Draws, Kinds, Plan
from benchmarks.planted.data import Split
from benchmarks.planted.models import Detached, Transformer, convnet, mlp
from benchmarks.planted.training import Training
from torch import Tensor, nn

KINDS = Kinds()

STALLED = ("slow", "undertrained", "rate_too_low", "not_learning", "underfits")
"""What a fault that hinders learning looks like in curves."""
UNSTABLE = ("diverged", "rate_too_high", "exploding_gradients", "oscillates", "noisy_evidence")
"""What steps that are too long for the landscape look like."""
BROKEN = ("not_learning", "dying_units", "dead_layers")
"""What steps that were too long leave behind."""


def perceptron(split: Split, **model: object) -> partial[nn.Sequential]:
    """A perceptron that fits the data, as a factory."""
    return partial(mlp, split.features, split.outputs, **model)


def cnn(split: Split, **model: object) -> partial[nn.Sequential]:
    """A small convolutional network that fits the images, as a factory."""
    return partial(convnet, split.shape[0], split.shape[1], split.outputs, **model)


# Faults of optimization


@KINDS.fault("diverged", allowed=(*UNSTABLE, *BROKEN, "unscaled_inputs"))
def regression_at_a_huge_rate(draw: Draws) -> Plan:
    """A regression on a table by SGD at a rate at which squared error runs away. Known: the loss leaves the numbers."""
    split = data.table(
        draw.one_of("table", ["california-housing", "power-plant"], ["diamonds", "california-housing"]),
        draw.whole("rows", (400, 800), (300, 1000)),
        300,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (16, 96))},
        "squared_error",
        "SGD",
        draw.number("lr", (0.8, 2.0), (0.6, 4.0)),
        {"momentum": 0.9},
        epochs=draw.whole("epochs", (15, 20), (12, 25)),
    )
    return Plan(run.watched, lambda: truth.leaves_the_numbers(run), run.problem, run.recipe)


@KINDS.fault("not_learning", allowed=("underfits",))
def parity_for_a_linear_model(draw: Draws) -> Plan:
    """Logistic regression on the parity of bits, of which no linear function knows anything. Known: the training loss stays
    within 2 % of the constant prediction's, where two hidden layers learn it."""
    split = data.parity(
        draw.whole("rows", (700, 1000), (600, 1200)), 400, draw.seed, bits=draw.whole("bits", (6, 8), (5, 9))
    )
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        lr=draw.number("lr", (3e-3, 1e-2), (2e-3, 2e-2)),
        epochs=draw.whole("epochs", (18, 25), (15, 30)),
    )
    better = run.but(net=perceptron(split, depth=2), lr=5e-3)
    return Plan(run.watched, lambda: truth.first(truth.learns_nothing(run), truth.worse(run, better)))


@KINDS.fault("undertrained")
def table_stopped_early(draw: Draws) -> Plan:
    """A perceptron on a table, stopped while both losses fall. Known: they fell over the last third, and six times the
    epochs are clearly better."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"], ["isolet", "segment"]),
        draw.whole("rows", (600, 900), (500, 1000)),
        400,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (24, 96))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (1e-3, 2e-3), (8e-4, 3e-3)),
        epochs=draw.whole("epochs", (10, 14), (9, 16)),
    )
    longer = run.but(epochs=6 * run.epochs)
    return Plan(
        run.watched, lambda: truth.first(truth.still_falls(run), truth.worse(run, longer)), run.problem, run.recipe
    )


@KINDS.fault("underfits")
def too_narrow_for_its_teacher(draw: Draws) -> Plan:
    """A perceptron of one or two units for several classes of a wider teacher. Known: at rest without a gap, and 32
    units are clearly better."""
    split = data.classes(
        draw.whole("rows", (1200, 1500), (1000, 1800)),
        500,
        draw.seed,
        count=draw.whole("classes", (4, 5), (4, 6)),
        features=8,
    )
    run = Training(
        split,
        perceptron(split, activation="tanh", depth=1),
        draw.seed,
        {"width": draw.whole("width", (1, 2), (1, 2))},
        lr=draw.number("lr", (1e-2, 2e-2), (8e-3, 3e-2)),
        epochs=draw.whole("epochs", (25, 30), (22, 35)),
        schedule="cosine",
    )
    wider = run.but(model={"width": 32})
    checks = (truth.at_rest, truth.hardly_a_gap, truth.does_not_rise)
    return Plan(
        run.watched,
        lambda: truth.first(*(check(run) for check in checks), truth.worse(run, wider)),
        run.problem,
        run.recipe,
    )


@KINDS.fault("oscillates", allowed=("rate_too_high", "noisy_evidence", "exploding_gradients"))
def momentum_near_the_edge(draw: Draws) -> Plan:
    """SGD with much momentum, small batches and clipped gradients, at a constant rate at which a smooth regression
    swings. Known: the training loss swings, and the same rate with a cosine is clearly better."""
    split = data.curve(draw.whole("rows", (500, 700), (400, 800)), 400, draw.seed, noise=0.1, bends=0.5)
    run = Training(
        split,
        perceptron(split, activation="tanh"),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        "squared_error",
        "SGD",
        draw.number("lr", (0.15, 0.25), (0.13, 0.3)),
        {"momentum": draw.one_of("momentum", [0.9, 0.93], [0.9, 0.95])},
        epochs=draw.whole("epochs", (30, 36), (28, 40)),
        batch=16,
        clip=1.0,
    )
    settled = run.but(schedule="cosine")
    return Plan(
        run.watched, lambda: truth.first(truth.swings(run), truth.worse(run, settled, 0.05)), run.problem, run.recipe
    )


@KINDS.fault("slow", allowed=("undertrained", "rate_too_low", "underfits"))
def correlated_inputs(draw: Draws) -> Plan:
    """Linear regression on strongly correlated inputs by plain SGD at about the highest rate that is stable. Known: Adam is
    clearly better in as many epochs, and a rate eight times as high is not."""
    split = data.line(
        draw.whole("rows", (600, 900), (500, 1000)),
        400,
        draw.seed,
        features=draw.whole("features", (10, 16), (8, 20)),
        condition=draw.number("condition", (1000.0, 3000.0), (800.0, 5000.0)),
    )
    sharpness = float(2 * torch.linalg.eigvalsh(torch.cov(split.train[0].T)).max())
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        {},
        "squared_error",
        "SGD",
        draw.number("share", (0.25, 0.4), (0.2, 0.5)) / sharpness,
        epochs=draw.whole("epochs", (22, 28), (20, 30)),
    )
    other, higher = run.but(optimizer="Adam", lr=0.03), run.but(lr=8 * run.lr)

    def known() -> str:
        gained = run.trace.end() - higher.trace.end()
        unstable = truth.holds(gained < 0.1 * run.trace.constant, "a higher rate is clearly better")
        return truth.first(truth.worse(run, other), unstable)

    return Plan(run.watched, known, run.problem, run.recipe)


@KINDS.fault("rate_too_high", allowed=(*UNSTABLE, *BROKEN))
def images_at_a_high_rate(draw: Draws) -> Plan:
    """A convolutional network on digits by SGD with momentum, at a rate at which it jumps to a plateau. Known: all
    numbers, and a thirtieth of the rate is clearly better."""
    split = data.images("mnist", draw.whole("rows", (500, 700), (400, 800)), 400, draw.seed)
    run = Training(
        split,
        cnn(split),
        draw.seed,
        {"width": draw.whole("width", (6, 10), (4, 12))},
        optimizer="SGD",
        lr=draw.number("lr", (0.4, 0.9), (0.3, 1.2)),
        settings={"momentum": 0.9},
        epochs=draw.whole("epochs", (15, 18), (14, 20)),
    )
    lower = run.but(lr=run.lr / 30)
    return Plan(run.watched, lambda: truth.worse(run, lower), run.problem, run.recipe)


@KINDS.fault("rate_too_low", allowed=("undertrained", "slow", "not_learning"))
def table_at_a_tiny_rate(draw: Draws) -> Plan:
    """A perceptron on a table by Adam at a rate at which hardly anything happens. Known: less than 30 % of the constant
    prediction's loss is gone, and a hundred times the rate is clearly better."""
    split = data.table(
        draw.one_of("table", ["segment", "phoneme"], ["mfeat-factors", "vehicle"]),
        draw.whole("rows", (450, 500), (400, 500)),
        200,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (16, 64))},
        lr=draw.number("lr", (5e-6, 2e-5), (3e-6, 3e-5)),
        epochs=draw.whole("epochs", (18, 25), (15, 30)),
    )
    return Plan(run.watched, lambda: hardly_moved(run), run.problem, run.recipe)


def hardly_moved(run: Training) -> str:
    """Little was learned, and a hundred times the rate is clearly better."""
    gone = 1 - run.trace.end() / run.trace.constant
    little = truth.holds(gone < 0.3, f"{gone:.2f} of the constant prediction's loss is gone")
    return truth.first(little, truth.worse(run, run.but(lr=100 * run.lr)))


@KINDS.fault("vanishing_gradients", allowed=(*STALLED, "dead_layers"))
def deep_and_begun_too_small(draw: Draws) -> Plan:
    """A deep tanh network whose initial weights are too small. Known: the first layer's gradient is below a thousandth
    of the last one's, and the same network begun at the right size is clearly better."""
    split = data.classes(draw.whole("rows", (500, 700), (400, 800)), 400, draw.seed, count=3)
    depth, small = draw.whole("depth", (8, 10), (7, 12)), draw.number("factor", (0.2, 0.32), (0.15, 0.33))

    def shrunk(net: nn.Module, factor: float = small) -> None:
        for layer in (m for m in net.modules() if isinstance(m, nn.Linear)):
            nn.init.orthogonal_(layer.weight, factor)

    run = Training(
        split,
        perceptron(split, activation="tanh", depth=depth),
        draw.seed,
        {"width": draw.whole("width", (24, 40), (20, 48))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.01, 0.02), (0.008, 0.03)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        prepare=shrunk,
    )

    def known() -> str:
        norms = truth.gradients(run.built(), run)
        shrink = truth.holds(norms[0] < 1e-3 * norms[-1], f"gradients shrink to {norms[0] / norms[-1]:.1e} only")
        return truth.first(shrink, truth.worse(run, run.but(prepare=partial(shrunk, factor=1.0))))

    return Plan(run.watched, known)


@KINDS.fault("exploding_gradients", allowed=(*UNSTABLE, *STALLED, "overfits", "overconfident"))
def deep_and_begun_too_large(draw: Draws) -> Plan:
    """A deep tanh network whose initial weights are so large that it is chaotic. Known: the first layer's gradient is
    thirty times the last one's and more, and the same network begun at the right size is clearly better."""
    split = data.classes(draw.whole("rows", (500, 700), (400, 800)), 400, draw.seed, count=3)
    depth, large = draw.whole("depth", (16, 18), (15, 20)), draw.number("factor", (4.5, 6.0), (4.2, 7.0))

    def grown(net: nn.Module, factor: float = large) -> None:
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][:-1]:
            nn.init.orthogonal_(layer.weight, factor)

    run = Training(
        split,
        perceptron(split, activation="tanh", depth=depth),
        draw.seed,
        {"width": draw.whole("width", (24, 40), (20, 48))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.01, 0.02), (0.008, 0.03)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        prepare=grown,
    )

    def known() -> str:
        norms = truth.gradients(run.built(), run)
        growth = truth.holds(norms[0] > 30 * norms[-1], f"gradients grow by {norms[0] / norms[-1]:.1f} only")
        return truth.first(growth, truth.worse(run, run.but(prepare=partial(grown, factor=1.0))))

    return Plan(run.watched, known)


@KINDS.fault("dying_units", allowed=(*UNSTABLE, *STALLED, *BROKEN))
def units_killed_at_the_start(draw: Draws) -> Plan:
    """A ReLU network whose first tenth of training has a rate that kills units; the rest has a sane one. Known: at
    least half of the units are 0 on every fresh row, and training without that start is clearly better."""
    split = data.table("segment", draw.whole("rows", (500, 700), (400, 800)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, depth=draw.whole("depth", (2, 3), (2, 4))),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (24, 96))},
        lr=draw.number("lr", (0.6, 1.2), (0.5, 1.6)),
        epochs=draw.whole("epochs", (20, 25), (18, 30)),
        schedule="spike",
    )
    sane = run.but(lr=run.lr / 100, schedule="constant")
    return Plan(run.watched, lambda: truth.first(many_dead(run), truth.worse(run, sane, 0.05)))


def many_dead(run: Training) -> str:
    """At least half of the units are 0 on every fresh row."""
    dead = truth.dead_share(run.done.net, run.data.fresh[0])
    return truth.holds(dead >= 0.5, f"{dead:.2f} of the units are dead")


@KINDS.fault("dead_layers", allowed=(*STALLED, "vanishing_gradients", "dying_units"))
def cut_by_a_detach(draw: Draws) -> Plan:
    """An encoder whose output is detached before the head: it is given to the optimizer and never gets a gradient.
    Known: by construction, and without the cut the fresh loss is clearly lower."""
    split = data.classes(draw.whole("rows", (900, 1200), (800, 1400)), 400, draw.seed, count=3, features=10)
    width, narrow = draw.whole("width", (32, 64), (24, 80)), draw.whole("narrow", (3, 5), (3, 6))

    def parts() -> tuple[nn.Module, nn.Module]:
        return mlp(split.features, narrow, width=width, depth=1), mlp(narrow, split.outputs, width=width, depth=1)

    run = Training(
        split,
        lambda: Detached(*parts()),
        draw.seed,
        lr=draw.number("lr", (3e-3, 6e-3), (2e-3, 8e-3)),
        epochs=draw.whole("epochs", (22, 28), (20, 30)),
        schedule="cosine",
    )
    whole = run.but(net=lambda: nn.Sequential(*parts()))
    return Plan(run.watched, lambda: truth.worse(run, whole))


# Faults of regularization


@KINDS.fault("over_regularized", allowed=("underfits", "undertrained", "slow"))
def too_much_dropout(draw: Draws) -> Plan:
    """Dropout of .8 and more in a network of modest width. Known: without it training and fresh loss are clearly lower,
    and there is hardly a gap."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"], ["isolet", "segment"]),
        draw.whole("rows", (600, 900), (500, 1000)),
        400,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 40), (20, 48)), "dropout": draw.number("dropout", (0.8, 0.88), (0.78, 0.9))},
        lr=draw.number("lr", (3e-3, 5e-3), (2e-3, 6e-3)),
        epochs=draw.whole("epochs", (25, 30), (22, 35)),
        schedule="cosine",
    )
    bare = run.but(model={"dropout": 0.0})
    return Plan(
        run.watched, lambda: truth.first(truth.hardly_a_gap(run), truth.worse(run, bare)), run.problem, run.recipe
    )


@KINDS.fault("overfits", allowed=("label_noise",))
def few_rows_of_a_noisy_curve(draw: Draws) -> Plan:
    """`wp.fit` without early stopping of a wide perceptron on few rows of a noisy smooth function. Known: in a twin of the
    training in plain torch the fresh loss rises clearly. Noisy targets may be called so."""
    split = data.curve(
        draw.whole("rows", (90, 140), (80, 160)),
        400,
        draw.seed,
        noise=draw.number("noise", (0.5, 0.8), (0.4, 0.9)),
        bends=0.4,
        features=8,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (96, 160), (64, 192))},
        "squared_error",
        lr=draw.number("lr", (2e-3, 4e-3), (1.5e-3, 5e-3)),
        epochs=draw.whole("epochs", (55, 65), (50, 80)),
    )
    return Plan(lambda: run.fitted, lambda: truth.rises(run), run.problem, run.recipe)


@KINDS.fault("overconfident")
def digits_learned_by_heart(draw: Draws) -> Plan:
    """A perceptron on few digits, trained long after it knows them all. Known: the fresh loss rises clearly, the fresh
    error does not."""
    split = data.images("mnist", draw.whole("rows", (400, 600), (350, 700)), 600, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (64, 128), (48, 160))},
        lr=draw.number("lr", (3e-3, 5e-3), (2e-3, 6e-3)),
        epochs=draw.whole("epochs", (40, 50), (40, 60)),
        probe=None,
    )
    run = run.but(probe=350)
    return Plan(
        run.watched, lambda: truth.first(truth.rises(run), truth.error_does_not_rise(run)), run.problem, run.recipe
    )


@KINDS.fault("label_noise", allowed=("overfits", "overconfident", "underfits"))
def wrong_labels_on_both_sides(draw: Draws) -> Plan:
    """Classes of which a share is replaced by another one, in validation too. Known: by construction. The network may
    learn the noise by heart or stop above it."""
    source = draw.one_of("data", ["mnist", "mfeat-factors"], ["mnist", "segment"])
    rows, share = draw.whole("rows", (700, 900), (600, 1000)), draw.number("share", (0.25, 0.4), (0.2, 0.45))
    read = data.images if source == "mnist" else data.table
    clean = read(source, rows, 400, draw.seed)
    split = clean.each(lambda x, y: (x, data.flipped(y, share, clean.outputs, draw.seed + len(y))))
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64)), "dropout": 0.2},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (1e-3, 2e-3), (8e-4, 3e-3)),
        decay=0.1,
        epochs=draw.whole("epochs", (20, 25), (18, 28)),
    )
    return Plan(run.watched, lambda: "")


@KINDS.fault("decayed_norms")
def decay_on_everything(draw: Draws) -> Plan:
    """AdamW with one weight decay for every parameter of a network with batch norm, and nothing else wrong. Known: by
    construction, and the curves are those of a healthy run."""
    split = data.table("segment", draw.whole("rows", (1000, 1200), (900, 1300)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (24, 40), (20, 48))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (7e-3, 1e-2), (6e-3, 1.2e-2)),
        decay=draw.number("decay", (0.02, 0.1), (0.01, 0.2)),
        decay_all=True,
        epochs=draw.whole("epochs", (26, 30), (25, 32)),
        schedule="cosine",
        batch=64,
    )
    return Plan(run.watched, lambda: truth.healthy(run))


# Faults of the loop and of the data


@KINDS.fault("wrong_output", allowed=(*STALLED, "vanishing_gradients", "over_regularized"))
def softmax_before_cross_entropy(draw: Draws) -> Plan:
    """A softmax at the end of a network whose loss takes logits. Known: by construction, and without it the loss is
    clearly lower."""
    split = data.images("mnist", draw.whole("rows", (700, 900), (600, 1000)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, head=nn.Softmax(1)),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (24, 80))},
        lr=draw.number("lr", (1e-3, 3e-3), (8e-4, 4e-3)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(net=perceptron(split))))


@KINDS.fault(
    "wrong_loss",
    allowed=(*UNSTABLE, *STALLED, "overfits", "overconfident", "label_noise", "wrong_output", "noisy_evidence"),
)
def squared_error_of_a_tables_classes(draw: Draws) -> Plan:
    """Squared error between one output and the number of a table's class, for classes without an order. Known: by
    construction; cross-entropy has fewer wrong classes on fresh rows by a tenth of them at least."""
    name, rows = draw.one_of("table", ["segment"]), draw.whole("rows", (450, 600), (400, 700))
    plain = data.table(name, rows, 300, draw.seed)
    split = replace(plain.each(lambda x, y: (x, y[:, None].float())), outputs=1, classifies=False)
    settings = {
        "lr": draw.number("lr", (1e-3, 3e-3), (8e-4, 4e-3)),
        "epochs": draw.whole("epochs", (18, 25), (16, 28)),
        "schedule": "cosine",
    }
    width = {"width": draw.whole("width", (32, 64), (24, 80))}
    run = Training(split, perceptron(split), draw.seed, width, "squared_error", **settings)
    fitting = Training(plain, perceptron(plain), draw.seed, width, **settings)

    def known() -> str:
        x, y = split.fresh
        with torch.no_grad():
            error = float((run.done.net.eval()(x).round() != y).float().mean())
        fewer = error - fitting.trace.end("error")
        return truth.holds(fewer > 0.1, f"cross-entropy has {fewer:.2f} fewer wrong classes only")

    return Plan(run.watched, known)


@KINDS.fault("unscaled_inputs", allowed=(*UNSTABLE, *STALLED, *BROKEN, "vanishing_gradients"))
def images_up_to_255(draw: Draws) -> Plan:
    """Images whose pixels go from 0 to 255, by SGD. Known: with pixels of mean 0 and variance 1 the loss is clearly
    lower."""
    name = draw.one_of("images", ["mnist"], ["mnist", "cifar10-sub"])
    rows = draw.whole("rows", (500, 700), (400, 800))
    raw, scaled = (data.images(name, rows, 400, draw.seed, scaled=s) for s in (False, True))
    split = raw.inputs(lambda x: 255 * x)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (24, 80))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (5e-3, 2e-2), (4e-3, 3e-2)),
        epochs=draw.whole("epochs", (16, 20), (15, 22)),
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(data=scaled)))


@KINDS.fault("unshuffled", allowed=(*UNSTABLE, *STALLED, "overfits"))
def rows_sorted_by_target(draw: Draws) -> Plan:
    """A regression whose training rows are sorted by their target and never shuffled. Known: by construction, and with
    shuffling the loss is clearly lower."""
    split = data.table(
        draw.one_of("table", ["california-housing", "concrete"], ["power-plant", "energy"]),
        draw.whole("rows", (400, 500), (350, 500)),
        150,
        draw.seed,
    ).but_train(lambda x, y: (x[y[:, 0].argsort()], y[y[:, 0].argsort()]))
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        "squared_error",
        "SGD",
        draw.number("lr", (2e-2, 3e-2), (1.5e-2, 4e-2)),
        {"momentum": 0.9},
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        shuffle=False,
        probe=150,
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(shuffle=True)))


@KINDS.fault("leakage")
def a_feature_that_tells_the_class(draw: Draws) -> Plan:
    """One more feature of a table is the class itself with a little noise. Known: by construction; the nearest class
    value gives nearly every fresh label."""
    plain = data.table(
        draw.one_of("table", ["phoneme", "credit-g"], ["adult", "higgs-small"]),
        draw.whole("rows", (500, 600), (450, 600)),
        200,
        draw.seed,
    )
    noise = draw.number("noise", (0.02, 0.1), (0.01, 0.15))

    def told(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        hint = (2.0 * y - 1) + noise * torch.randn(len(y), generator=data.random(draw.seed + len(y)))
        return torch.cat([x, hint[:, None]], 1), y

    split = plain.each(told)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        lr=draw.number("lr", (1e-3, 3e-3), (8e-4, 4e-3)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        schedule="cosine",
    )
    x, y = split.fresh
    told_by_one = float(((x[:, -1] > 0) == (y > 0)).float().mean())
    return Plan(
        run.watched, lambda: truth.holds(told_by_one > 0.99, f"the feature tells {told_by_one:.2f} of the labels")
    )


@KINDS.fault("forgotten_mode", allowed=(*STALLED, *UNSTABLE, "overfits", "overconfident"))
def batch_norm_never_in_training_mode(draw: Draws) -> Plan:
    """A convolutional network with batch norm that is set to evaluation mode before the first epoch and stays there.
    Known: by construction; its statistics are those of initialization at the end. What else that does to curves counts
    neither way."""
    split = data.images("mnist", draw.whole("rows", (500, 600), (450, 700)), 400, draw.seed)
    run = Training(
        split,
        cnn(split, norm=True),
        draw.seed,
        {"width": draw.whole("width", (6, 8), (4, 10))},
        lr=draw.number("lr", (1e-3, 3e-3), (8e-4, 4e-3)),
        epochs=draw.whole("epochs", (15, 18), (14, 20)),
        schedule="cosine",
        mode=lambda net, epoch: net.eval(),
    )

    def untouched() -> bool:
        norms = [m for m in run.done.net.modules() if isinstance(m, nn.BatchNorm2d)]
        return all(bool((m.running_mean == 0).all()) for m in norms if m.running_mean is not None)

    return Plan(run.watched, lambda: truth.holds(untouched, "the statistics changed"))


@KINDS.fault(
    "batch_too_small",
    allowed=(*UNSTABLE, "over_regularized", "underfits", "undertrained", "slow", "overfits", "overconfident"),
)
def images_two_at_a_time(draw: Draws) -> Plan:
    """A convolutional network with a batch-normed hidden layer, trained on batches of two or three images. Known: the
    training rows' loss in training mode is clearly different from that in evaluation mode, or batches of 16 are clearly
    better."""
    split = data.images("mnist", draw.whole("rows", (160, 200), (150, 220)), 300, draw.seed)
    run = Training(
        split,
        cnn(split, dense=32),
        draw.seed,
        {"width": draw.whole("width", (6, 8), (4, 8))},
        lr=draw.number("lr", (2e-3, 4e-3), (1e-3, 6e-3)),
        epochs=draw.whole("epochs", (12, 15), (12, 16)),
        batch=draw.whole("batch", (2, 3), (2, 3)),
        probe=150,
    )
    run = run.but(data=split.but_train(lambda x, y: (x[: len(x) // 6 * 6], y[: len(y) // 6 * 6])))
    return Plan(run.watched, lambda: modes_disagree(run))


def modes_disagree(run: Training) -> str:
    """Training and evaluation mode disagree about the same rows by a tenth of what can be gained, or larger batches are
    better."""
    training, evaluating = run.logged()["loss"][-1], run.trace.end("train")
    disagree = abs(training - evaluating) >= 0.1 * run.trace.constant
    if disagree:
        return ""
    larger = run.but(batch=16, epochs=2 * run.epochs)
    return truth.worse(run, larger)


# Evidence


@KINDS.near_miss("noisy_evidence", allowed=("not_enough_evidence",))
def a_dozen_validation_rows(draw: Draws) -> Plan:
    """A sane training with ten to sixteen validation rows. Known: fresh rows say that nothing got worse, and the
    standard error of the validation loss is above a tenth of the constant prediction's loss."""
    split = data.table(
        "phoneme", draw.whole("rows", (900, 1200), (800, 1400)), draw.whole("valid", (10, 16), (8, 18)), draw.seed
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (16, 24), (12, 32))},
        optimizer="Adam",
        lr=draw.number("lr", (2e-3, 4e-3), (1.5e-3, 5e-3)),
        epochs=draw.whole("epochs", (22, 26), (20, 30)),
        schedule="cosine",
        probe=None,
    )

    def known() -> str:
        trace, rows = run.trace, len(split.valid[0])
        error = float(trace.rows[-1].std()) / rows**0.5
        noisy = truth.holds(error > 0.1 * trace.constant, f"the standard error is {error:.3g} only")
        return truth.first(noisy, truth.does_not_rise(run), truth.hardly_a_gap(run))

    return Plan(run.watched, known)


@KINDS.fault("not_enough_evidence", allowed=("undertrained", "noisy_evidence", "rate_too_low", "slow"))
def two_epochs(draw: Draws) -> Plan:
    """A sane training that was looked at after two or three epochs. Known: by construction; no rule about curves can be
    held then."""
    split = data.table(
        draw.one_of("table", ["segment", "phoneme"], ["mfeat-factors", "adult"]),
        draw.whole("rows", (600, 800), (500, 1000)),
        400,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        lr=draw.number("lr", (1e-3, 2e-3), (8e-4, 3e-3)),
        epochs=draw.whole("epochs", (2, 3), (2, 3)),
    )
    return Plan(run.watched, lambda: "")


# Healthy runs


@KINDS.healthy
def digits_with_shifts(draw: Draws) -> Plan:
    """A convolutional network on digits that are shifted by a pixel at random. Known: see `truth.healthy`."""
    split = data.images("mnist", draw.whole("rows", (2000, 2300), (1900, 2400)), 600, draw.seed)
    g = data.random(draw.seed)

    def shifted(x: Tensor) -> Tensor:
        down, right = (int(torch.randint(-1, 2, (1,), generator=g)) for _ in range(2))
        return torch.roll(x, (down, right), (2, 3))

    run = Training(
        split,
        cnn(split),
        draw.seed,
        {"width": draw.whole("width", (8, 10), (7, 10)), "dropout": 0.2},
        lr=draw.number("lr", (8e-3, 1.2e-2), (7e-3, 1.5e-2)),
        epochs=draw.whole("epochs", (17, 18), (16, 19)),
        schedule="cosine",
        augment=shifted,
        batch=64,
    )
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def one_cycle_and_batch_norm(draw: Draws) -> Plan:
    """`wp.fit` of a perceptron with batch norm and a one-cycle schedule on a table. Known: a twin in plain torch is
    healthy."""
    split = data.table("segment", draw.whole("rows", (1100, 1300), (1000, 1400)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, norm="batch"),
        draw.seed,
        {"width": draw.whole("width", (24, 32), (20, 40))},
        lr=draw.number("lr", (5e-3, 1e-2), (4e-3, 1.2e-2)),
        epochs=draw.whole("epochs", (20, 24), (18, 26)),
        schedule="one_cycle",
        batch=64,
    )
    return Plan(lambda: run.fitted, lambda: truth.healthy(run))


@KINDS.healthy
def transformer_on_waves(draw: Draws) -> Plan:
    """A small transformer that tells frequencies apart. Known: see `truth.healthy`."""
    split = data.waves(
        draw.whole("rows", (500, 700), (450, 800)),
        400,
        draw.seed,
        length=16,
        noise=0.3,
        phases=draw.number("phases", (0.2, 0.35), (0.15, 0.4)),
    )
    run = Training(
        split,
        partial(Transformer, split.outputs, 16),
        draw.seed,
        {"width": draw.one_of("width", [12, 16], [12, 16, 20])},
        lr=draw.number("lr", (5e-3, 1e-2), (4e-3, 1.2e-2)),
        epochs=draw.whole("epochs", (18, 20), (16, 22)),
        schedule="cosine",
    )
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def logistic_regression(draw: Draws) -> Plan:
    """A linear model of labels that a linear model drew, which is all that can be known. Known: see `truth.healthy`; a wide
    hidden layer is no better."""
    split = data.linear_classes(
        draw.whole("rows", (1300, 1600), (1200, 1800)),
        600,
        draw.seed,
        features=5,
        scale=draw.number("scale", (5.0, 7.0), (4.5, 8.0)),
    )
    run = Training(
        split,
        perceptron(split, depth=0),
        draw.seed,
        {},
        lr=draw.number("lr", (3e-2, 6e-2), (2e-2, 8e-2)),
        epochs=draw.whole("epochs", (20, 25), (18, 30)),
        schedule="cosine",
    )
    hidden = run.but(net=perceptron(split, depth=1, width=64), lr=3e-3)
    return Plan(run.watched, lambda: truth.healthy(run, hidden))


# Near misses


@KINDS.near_miss()
def training_loss_with_dropout_in_it(draw: Draws) -> Plan:
    """Logs of a loop whose training loss is the running mean in training mode: with dropout it lies above the
    validation loss. Known: healthy, without dropout no better, and the logged training loss is the higher one at the
    end."""
    split = data.table("segment", draw.whole("rows", (1100, 1300), (1000, 1400)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {
            "width": draw.whole("width", (112, 144), (96, 160)),
            "dropout": draw.number("dropout", (0.45, 0.52), (0.42, 0.55)),
        },
        lr=draw.number("lr", (4e-3, 6e-3), (3e-3, 7e-3)),
        epochs=draw.whole("epochs", (26, 30), (24, 34)),
        schedule="cosine",
    )

    def known() -> str:
        logs = run.logged()
        above = truth.holds(logs["loss"][-1] > logs["val_loss"][-1], "the logged training loss is not above")
        return truth.first(above, truth.healthy(run, run.but(model={"dropout": 0.0})))

    return Plan(run.logged, known)


@KINDS.near_miss()
def a_bump_at_the_peak_rate(draw: Draws) -> Plan:
    """SGD with a one-cycle schedule whose peak makes the loss swing in the middle, before it settles lower than ever.
    Known: the fresh loss rises by a twentieth on its way, and the end is healthy."""
    split = data.table("segment", draw.whole("rows", (1100, 1300), (1000, 1400)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (32, 48), (24, 64))},
        optimizer="SGD",
        settings={"momentum": 0.9},
        lr=draw.number("lr", (0.06, 0.1), (0.05, 0.12)),
        epochs=draw.whole("epochs", (26, 30), (24, 34)),
        schedule="one_cycle",
    )

    def known() -> str:
        fresh = run.trace.fresh
        bump = max(fresh[i] - min(fresh[:i]) for i in range(1, len(fresh)))
        return truth.first(truth.holds(bump > 0.05 * run.trace.end(), "there is no bump"), truth.healthy(run))

    return Plan(run.watched, known)


@KINDS.near_miss()
def heavy_tails(draw: Draws) -> Plan:
    """Inputs of equal scales with heavy tails: a few values lie ten deviations out. Known: the network is healthy."""
    power = draw.number("power", (1.2, 1.5), (1.1, 1.7))
    plain = data.linear_classes(draw.whole("rows", (1300, 1600), (1200, 1800)), 600, draw.seed, scale=10.0)
    raw = plain.inputs(lambda x: torch.sinh(power * x))
    spread = raw.train[0].std(0)
    split = raw.inputs(lambda x: x / spread)
    run = Training(
        split,
        perceptron(split, depth=1, activation="tanh"),
        draw.seed,
        {"width": draw.whole("width", (12, 16), (10, 20))},
        "cross_entropy",
        "AdamW",
        draw.number("lr", (8e-3, 1.2e-2), (6e-3, 1.5e-2)),
        decay=0.02,
        epochs=draw.whole("epochs", (22, 26), (20, 30)),
        schedule="cosine",
    )

    def known() -> str:
        far = float((split.train[0].abs().max(0).values / split.train[0].std(0)).max())
        return truth.first(truth.holds(far > 6, f"the farthest value is {far:.1f} deviations out"), truth.healthy(run))

    return Plan(run.watched, known)


@KINDS.near_miss()
def a_loss_that_starts_high(draw: Draws) -> Plan:
    """A last layer that begins far too large, so that the first losses are many times the constant prediction's. Known:
    that is over soon, and the end is healthy."""
    split = data.table("segment", draw.whole("rows", (1100, 1300), (1000, 1400)), 400, draw.seed)
    times = draw.number("times", (30.0, 50.0), (25.0, 60.0))

    def louder(net: nn.Module) -> None:
        [m for m in net.modules() if isinstance(m, nn.Linear)][-1].weight.mul_(times)

    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 32), (20, 40))},
        lr=draw.number("lr", (4e-3, 6e-3), (3e-3, 8e-3)),
        epochs=draw.whole("epochs", (26, 30), (24, 34)),
        schedule="cosine",
        prepare=louder,
    )

    def known() -> str:
        with torch.no_grad():
            begun = float(nn.functional.cross_entropy(run.built()(split.fresh[0]), split.fresh[1]))
        return truth.first(
            truth.holds(begun > 1.5 * run.trace.constant, "the first loss is not high"), truth.healthy(run)
        )

    return Plan(run.watched, known)


@KINDS.near_miss()
def a_fixed_order_that_is_random(draw: Draws) -> Plan:
    """A loader that does not shuffle, over rows whose order has nothing to do with their labels. Known: healthy, and
    shuffling is no better."""
    split = data.table("segment", draw.whole("rows", (1100, 1300), (1000, 1400)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 32), (20, 40))},
        lr=draw.number("lr", (3e-3, 5e-3), (2e-3, 6e-3)),
        epochs=draw.whole("epochs", (24, 28), (22, 30)),
        schedule="cosine",
        shuffle=False,
    )
    return Plan(run.watched, lambda: truth.healthy(run, run.but(shuffle=True)))


# Several causes at once


@KINDS.fault(
    "unscaled_inputs",
    "unshuffled",
    allowed=(*UNSTABLE, *STALLED, *BROKEN, "overfits", "overconfident", "vanishing_gradients"),
)
def raw_and_sorted(draw: Draws) -> Plan:
    """Features of scales from 1 to thousands, rows sorted by class, no shuffling. Known: by construction; with both
    mended the loss is clearly lower."""
    clean = data.classes(
        draw.whole("rows", (500, 700), (450, 800)), 400, draw.seed, count=draw.whole("classes", (3, 4), (2, 5))
    )
    scales = torch.logspace(0, draw.number("digits", (3.0, 3.7), (2.7, 4.0)), clean.features)
    split = clean.inputs(lambda x: 20 + scales * x).but_train(lambda x, y: (x[y.argsort()], y[y.argsort()]))
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        lr=draw.number("lr", (2e-3, 4e-3), (1e-3, 5e-3)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
        shuffle=False,
    )
    return Plan(run.watched, lambda: truth.worse(run, run.but(data=clean, shuffle=True)))


@KINDS.fault("forgotten_mode", "overfits", allowed=("overconfident", "label_noise"))
def dropout_left_off(draw: Draws) -> Plan:
    """A network with dropout that stays in evaluation mode, on few rows of a noisy table. Known: by construction, and
    the fresh loss and error rise clearly. Classes that overlap may be called noisy."""
    split = data.table(
        draw.one_of("table", ["higgs-small", "credit-g"], ["higgs-small", "adult"]),
        draw.whole("rows", (200, 300), (180, 320)),
        400,
        draw.seed,
    )
    run = Training(
        split,
        perceptron(split),
        draw.seed,
        {"width": draw.whole("width", (64, 128), (48, 160)), "dropout": draw.number("dropout", (0.3, 0.5), (0.2, 0.6))},
        lr=draw.number("lr", (2e-3, 4e-3), (1.5e-3, 5e-3)),
        epochs=draw.whole("epochs", (30, 40), (28, 45)),
        mode=lambda net, epoch: net.eval(),
        probe=200,
    )
    return Plan(run.watched, lambda: truth.first(truth.rises(run), truth.error_rises(run)))


@KINDS.fault("dying_units", "rate_too_high", allowed=(*UNSTABLE, *STALLED, *BROKEN))
def rate_that_kills_units(draw: Draws) -> Plan:
    """A ReLU network by Adam at a constant rate far too high. Known: at least half of the units are 0 on every fresh
    row, and a hundredth of the rate is clearly better."""
    split = data.images("mnist", draw.whole("rows", (450, 550), (400, 600)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, depth=draw.whole("depth", (2, 3), (2, 4))),
        draw.seed,
        {"width": draw.whole("width", (32, 64), (24, 64))},
        lr=draw.number("lr", (0.15, 0.4), (0.1, 0.6)),
        epochs=draw.whole("epochs", (16, 20), (15, 22)),
    )
    lower = run.but(lr=run.lr / 100)
    return Plan(run.watched, lambda: truth.first(many_dead(run), truth.worse(run, lower)), run.problem, run.recipe)


@KINDS.fault("wrong_output", "rate_too_low", allowed=(*STALLED, "vanishing_gradients", "over_regularized"))
def softmax_at_a_tiny_rate(draw: Draws) -> Plan:
    """A softmax before cross-entropy and a rate at which hardly anything happens. Known: either mended alone is clearly
    worse than both."""
    split = data.table("segment", draw.whole("rows", (500, 600), (450, 700)), 400, draw.seed)
    run = Training(
        split,
        perceptron(split, head=nn.Softmax(1)),
        draw.seed,
        {"width": draw.whole("width", (24, 48), (16, 64))},
        lr=draw.number("lr", (1e-5, 2e-5), (5e-6, 3e-5)),
        epochs=draw.whole("epochs", (18, 22), (16, 25)),
    )
    both = run.but(net=perceptron(split), lr=200 * run.lr)
    half = [run.but(net=both.net), run.but(lr=both.lr)]
    return Plan(run.watched, lambda: truth.first(*(truth.worse(one, both) for one in half)))


# Autoencoders

MATTERS_OF_TASTE = (*STALLED, "overfits", "noisy_evidence", "not_enough_evidence", "dying_units", "rate_too_low")
"""What an autoencoder may also be called, with its code or without."""


@KINDS.fault("posterior_collapse", allowed=(*MATTERS_OF_TASTE, "over_regularized"))
def a_code_that_costs_too_much(draw: Draws) -> Plan:
    """Numbers of three hidden causes, with a divergence that costs more than the code is worth. Known: no linear function of the
    code explains fresh rows."""
    features = draw.whole("features", (10, 14), (8, 20))
    rows = codes.hidden(draw.seed, 600, features, 3)
    code = draw.whole("code", (3, 8), (2, 16))
    run = codes.Coding(
        partial(codes.Coder, features, code),
        codes.gaussian,
        rows,
        draw.seed,
        draw.number("beta", (250, 500), (200, 1000)),
        epochs=30,
    )
    return Plan(run.watched, run.says_nothing)


@KINDS.near_miss(allowed=(*MATTERS_OF_TASTE, "over_regularized"))
def a_wide_code_mostly_empty(draw: Draws) -> Plan:
    """Three causes and a code of many more numbers, most of which stay empty. Known: a linear function of the code explains a tenth
    of fresh rows' variance or more."""
    rows = codes.hidden(draw.seed, 600, 12, 3)
    run = codes.Coding(
        partial(codes.Coder, 12, draw.whole("code", (12, 20), (10, 30))), codes.gaussian, rows, draw.seed,
        draw.number("beta", (2, 20), (1, 30)), epochs=30,
    )  # fmt: skip
    return Plan(run.watched, run.says_something)
