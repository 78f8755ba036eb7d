"""A second half of frozen kinds, from practice, written by somebody who had not seen the rules, and judged once.

Each kind says what must be found, what may be named first in its place (``first``), and what may be said besides (``allowed``).
Every other name must not be said of it; of a fault, ``healthy`` above all. All of this was written before any case was judged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import torch
from benchmarks.planted import data, truth
from benchmarks.planted.case import Draws, Kinds, Plan
from benchmarks.planted.models import Recurrent, Transformer, mlp
from benchmarks.planted.training import Training
from benchmarks.planted.tuned import BROKEN, STALLED, UNSTABLE, cnn, hardly_moved, modes_disagree, perceptron
from torch import Tensor, nn

import wellposed as wp

KINDS = Kinds()
MEMORY = ("overfits", "overconfident")


class Letters(nn.Module):
    """Letters embedded, and a perceptron on all of them."""

    def __init__(self, outputs: int, length: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(outputs, 8)
        self.read = mlp(8 * length, outputs, width=width, depth=1, activation="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, length)`` whole numbers to ``(rows, outputs)``."""
        read: Tensor = self.read(self.embed(x))
        return read


class Gated(nn.Module):
    """A linear path and a branch of hidden units behind a gate; closed, the branch has no gradient."""

    def __init__(self, features: int, outputs: int, width: int = 32, gate: float = 0.0) -> None:
        super().__init__()
        self.straight = nn.Linear(features, outputs)
        self.branch = mlp(features, outputs, width=width, depth=2)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Both, summed."""
        read: Tensor = self.straight(x) + self.gate * self.branch(x)
        return read


class PostNorm(nn.Module):
    """A stack of encoder layers with the norm after each sum, as first published."""

    def __init__(self, outputs: int, length: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.place = nn.Parameter(0.5 * torch.randn(1, length, width))
        layers = [nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True) for _ in range(depth)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, steps, 1)`` to ``(rows, outputs)``."""
        read: Tensor = self.head(self.body(self.embed(x) + self.place).mean(1))
        return read


class Echo(nn.Module):
    """A recurrent network of rectified units."""

    def __init__(self, outputs: int, width: int = 24) -> None:
        super().__init__()
        self.body = nn.RNN(1, width, batch_first=True, nonlinearity="relu")
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, steps, 1)`` to ``(rows, outputs)``."""
        read: Tensor = self.head(self.body(x)[0][:, -1])
        return read


def autoencoder(features: int, *, code: int, width: int = 48) -> nn.Sequential:
    """Down to a code of few numbers and back."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, width), nn.Tanh(), nn.Linear(width, code),
        nn.Linear(code, width), nn.Tanh(), nn.Linear(width, features),
    )  # fmt: skip


def shifted(x: Tensor) -> Tensor:
    """Each batch moved by up to two pixels, made brighter or darker, and with a square of it blanked."""
    down, right = (int(n) for n in torch.randint(-2, 3, (2,)))
    moved = torch.roll(x, (down, right), (2, 3)) * (0.6 + 0.8 * torch.rand(len(x), 1, 1, 1))
    top, left = (int(n) for n in torch.randint(0, x.shape[2] - 4, (2,)))
    moved = moved.clone()
    moved[:, :, top : top + 4, left : left + 4] = 0
    return moved


# Faults of the loop


@KINDS.fault(
    "oscillates", first=("rate_too_high", "diverged", "exploding_gradients"), allowed=("noisy_evidence", *BROKEN)
)
def gradients_that_pile_up(draw: Draws) -> Plan:
    """A loop that forgets to set gradients to zero, by SGD: each step holds all gradients so far. Known: with zeroed
    gradients it is clearly better."""
    split = data.table(draw.one_of("table", ["segment", "vehicle"]), draw.whole("rows", (350, 450)), 200, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (24, 48))}, optimizer="SGD",
        lr=draw.number("lr", (0.02, 0.06)), epochs=draw.whole("epochs", (14, 20)), forgets=True,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(forgets=False)))


@KINDS.fault("overfits", first=("label_noise", "overconfident"))
def answers_in_another_order(draw: Draws) -> Plan:
    """Inputs that were shuffled without their targets, on both sides, and a wide network that learns them by heart. Known: by
    construction; fresh rows are mixed too, and their loss rises."""
    split = data.images("mnist", draw.whole("rows", (250, 350)), 300, draw.seed)
    g = data.random(draw.seed)
    mixed = split.each(lambda x, y: (x, y[torch.randperm(len(y), generator=g)]))
    run = Training(
        mixed, perceptron(mixed), draw.seed, {"width": draw.whole("width", (96, 160))},
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (22, 30)), probe=300,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.rises(run))


@KINDS.fault("dead_layers", first=("underfits",), allowed=(*STALLED, "vanishing_gradients"))
def a_branch_behind_a_closed_gate(draw: Draws) -> Plan:
    """A branch of hidden units, multiplied by a gate that is 0 and is no parameter: it has no gradient, and a linear model is
    left. Known: by construction, and with the gate open it is clearly better."""
    split = data.parity(draw.whole("rows", (600, 800)), 400, draw.seed, bits=draw.whole("bits", (5, 7)), of=2)
    run = Training(
        split, partial(Gated, split.features, split.outputs), draw.seed, {"width": draw.whole("width", (24, 48))},
        lr=draw.number("lr", (3e-3, 6e-3)), epochs=draw.whole("epochs", (14, 18)),
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(model={"gate": 1.0})))


@KINDS.fault("forgotten_mode", allowed=MEMORY)
def evaluated_once_and_left_so(draw: Draws) -> Plan:
    """A loop that sets training mode before the first epoch and evaluation mode after it, and never training mode again: dropout
    is off and batch norm stands still from then on. Known: by construction."""
    split = data.images("mnist", draw.whole("rows", (350, 450)), 300, draw.seed)
    run = Training(
        split, cnn(split, norm=True), draw.seed, {"width": 6, "dropout": draw.number("dropout", (0.3, 0.5))},
        lr=draw.number("lr", (3e-3, 5e-3)), epochs=draw.whole("epochs", (12, 15)),
        mode=lambda net, epoch: net.train(epoch == 0), evaluated=True, schedule="cosine",
    )  # fmt: skip
    return Plan(run.watched, lambda: "")


@KINDS.fault("unshuffled", first=("oscillates", "noisy_evidence"), allowed=(*UNSTABLE, *STALLED, *MEMORY))
def one_frequency_after_the_other(draw: Draws) -> Plan:
    """A GRU on waves that come sorted by class, in the same order every epoch. Known: by construction, also where it does little
    harm."""
    split = data.waves(draw.whole("rows", (400, 500)), 300, draw.seed, length=12, noise=0.3)
    order = split.train[1].argsort(stable=True)
    run = Training(
        split.but_train(lambda x, y: (x[order], y[order])), partial(Recurrent, split.outputs), draw.seed, {"width": 16},
        lr=draw.number("lr", (8e-3, 1.5e-2)), epochs=draw.whole("epochs", (10, 13)), batch=8, shuffle=False,
    )  # fmt: skip
    return Plan(run.watched, lambda: "")


# Faults of steps and schedules


@KINDS.fault("rate_too_low", first=("undertrained", "slow", "underfits"), allowed=("not_learning",))
def a_schedule_that_dies(draw: Draws) -> Plan:
    """A GRU by RMSprop whose rate falls by ten every eighth of the training: after a quarter nothing moves. Known: at a constant
    rate it is clearly better."""
    split = data.waves(draw.whole("rows", (300, 400)), 300, draw.seed, length=14, noise=0.3)
    run = Training(
        split, partial(Recurrent, split.outputs), draw.seed, {"width": 16}, optimizer="RMSprop",
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (18, 22)), schedule="dying",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(schedule="constant")))


@KINDS.fault(
    "rate_too_high", first=("not_learning", "oscillates", "diverged", "exploding_gradients"),
    allowed=(*UNSTABLE, *BROKEN, "vanishing_gradients"),
)  # fmt: skip
def no_warm_up(draw: Draws) -> Plan:
    """A stack of encoder layers with the norm after each sum, by Adam at a rate that needs a warm-up and has none. Known: at a
    thirtieth of the rate it is clearly better."""
    split = data.waves(draw.whole("rows", (250, 320)), 300, draw.seed, length=12, noise=0.3, phases=0.3)
    run = Training(
        split, partial(PostNorm, split.outputs, 12), draw.seed, {"depth": draw.whole("depth", (3, 4))},
        lr=draw.number("lr", (0.05, 0.15)), epochs=draw.whole("epochs", (10, 12)),
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(lr=run.lr / 30)))


@KINDS.fault("rate_too_low", first=("slow", "undertrained", "not_learning"), allowed=("underfits",))
def clipped_to_nothing(draw: Draws) -> Plan:
    """SGD whose gradients are clipped to a norm at which weights hardly move. Known: little was learned, and without clipping it
    is clearly better."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (400, 500)), 300, draw.seed
    )
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (24, 48))}, optimizer="SGD",
        lr=draw.number("lr", (0.05, 0.1)), epochs=draw.whole("epochs", (16, 20)),
        clip=draw.number("clip", (1e-3, 4e-3)),
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(clip=0.0)))


@KINDS.fault("oscillates", first=("rate_too_high", "noisy_evidence"), allowed=(*UNSTABLE, *BROKEN))
def momentum_that_overshoots(draw: Draws) -> Plan:
    """A convolutional network by SGD with a momentum of .99 and a usual rate: the loss swings. Known: it swings, and with a
    momentum of .9 it is better."""
    split = data.images("mnist", draw.whole("rows", (350, 450)), 300, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": 6}, optimizer="SGD", settings={"momentum": 0.99},
        lr=draw.number("lr", (0.03, 0.06)), epochs=draw.whole("epochs", (13, 16)),
    )  # fmt: skip
    calm = run.but(settings={"momentum": 0.9})
    return Plan(run.watched, lambda: truth.first(truth.swings(run), truth.worse(run, calm, 0.03)))


@KINDS.fault(
    "exploding_gradients", first=("diverged", "rate_too_high", "oscillates", "not_learning"),
    allowed=(*UNSTABLE, *BROKEN),
)  # fmt: skip
def rectified_echoes(draw: Draws) -> Plan:
    """A recurrent network of rectified units whose recurrent weights begin above the identity, on sequences of forty steps,
    without clipping. Known: the gradient at the start is thirty times that of half the weights, which is clearly better."""
    split = data.waves(draw.whole("rows", (250, 350)), 300, draw.seed, length=40, noise=0.2, phases=0.3)
    large = draw.number("factor", (1.2, 1.35))

    def grown(net: nn.Module, factor: float = large) -> None:
        net.body.weight_hh_l0.copy_(factor * torch.eye(24))

    run = Training(
        split, partial(Echo, split.outputs), draw.seed, optimizer="SGD", lr=draw.number("lr", (3e-3, 1e-2)),
        epochs=draw.whole("epochs", (10, 13)), prepare=grown,
    )  # fmt: skip
    sane = run.but(prepare=partial(grown, factor=0.5 * large), lr=0.05)

    def known() -> str:
        ratio = max(truth.gradients(run.built(), run)) / max(truth.gradients(sane.built(), sane))
        return truth.first(
            truth.holds(not ratio <= 30, f"the gradient is {ratio:.1f} times as large only"), truth.worse(run, sane)
        )

    return Plan(run.watched, known)


@KINDS.fault("undertrained", first=("slow",), allowed=("rate_too_low",))
def a_transformer_stopped_early(draw: Draws) -> Plan:
    """A transformer on sequences, stopped while both losses fall. Known: they fell over the last third, and four times the epochs
    are clearly better."""
    split = data.waves(draw.whole("rows", (350, 450)), 300, draw.seed, length=16, noise=0.4, phases=0.3)
    run = Training(
        split, partial(Transformer, split.outputs, 16), draw.seed, {"width": 16},
        lr=draw.number("lr", (1e-3, 2e-3)), epochs=draw.whole("epochs", (7, 9)),
    )  # fmt: skip
    longer = run.but(epochs=4 * run.epochs)
    return Plan(run.watched, lambda: truth.first(truth.still_falls(run), truth.worse(run, longer)))


@KINDS.fault("rate_too_low", first=("undertrained", "slow", "not_learning"), allowed=("underfits",))
def an_autoencoder_that_hardly_moves(draw: Draws) -> Plan:
    """An autoencoder of digits by SGD at a tiny rate. Known: little was learned, and a hundred times the rate is clearly better."""
    split = data.copied_out(data.images("mnist", draw.whole("rows", (350, 450)), 300, draw.seed))
    run = Training(
        split, partial(autoencoder, split.features), draw.seed, {"code": 12}, "squared_error", "SGD",
        draw.number("lr", (2e-3, 6e-3)), {"momentum": 0.9}, epochs=draw.whole("epochs", (14, 18)),
    )  # fmt: skip
    return Plan(run.watched, lambda: hardly_moved(run))


# Faults of the network


@KINDS.fault("underfits", allowed=("slow",))
def a_code_of_one_number(draw: Draws) -> Plan:
    """An autoencoder of digits whose code is a single number. Known: at rest without a gap, and a code of twelve is clearly
    better."""
    split = data.copied_out(data.images("mnist", draw.whole("rows", (600, 800)), 300, draw.seed))
    run = Training(
        split, partial(autoencoder, split.features), draw.seed, {"code": 1}, "squared_error",
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (16, 20)), schedule="cosine",
    )  # fmt: skip
    wide = run.but(model={"code": 12})
    return Plan(run.watched, lambda: truth.first(truth.at_rest(run), truth.hardly_a_gap(run), truth.worse(run, wide)))


@KINDS.fault(
    "vanishing_gradients", first=("not_learning", "rate_too_low", "slow", "undertrained", "underfits"),
    allowed=("dead_layers", *STALLED, *MEMORY),
)  # fmt: skip
def sigmoids_begun_saturated(draw: Draws) -> Plan:
    """Two hidden layers of sigmoids whose weights begin so large that every unit is at 0 or 1: hardly a gradient passes. Known:
    the first layer's gradient is below a fiftieth of the last one's, and weights of the usual size are clearly better."""
    split = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (400, 500)), 300, draw.seed
    )
    large = draw.number("factor", (25.0, 40.0))

    def grown(net: nn.Module) -> None:
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][:-1]:
            layer.weight.mul_(large)

    run = Training(
        split, perceptron(split, activation="sigmoid"), draw.seed, {"width": 32}, optimizer="SGD",
        lr=draw.number("lr", (0.02, 0.05)), epochs=draw.whole("epochs", (14, 18)), prepare=grown,
    )  # fmt: skip

    def known() -> str:
        norms = truth.gradients(run.built(), run)
        small = truth.holds(norms[0] < 0.02 * norms[-1], f"gradients shrink to {norms[0] / norms[-1]:.1e} only")
        return truth.first(small, truth.worse(run, run.but(prepare=None, net=perceptron(split), lr=0.05)))

    return Plan(run.watched, known)


@KINDS.fault("wrong_output", first=("underfits",), allowed=(*STALLED, "vanishing_gradients"))
def a_tanh_before_wide_targets(draw: Draws) -> Plan:
    """A tanh at the end of a regression whose targets go far beyond 1. Known: by construction, and without it the loss is clearly
    lower."""
    plain = data.table(
        draw.one_of("table", ["power-plant", "concrete"]), draw.whole("rows", (500, 600)), 300, draw.seed
    )
    wide = draw.number("spread", (3.0, 6.0))
    split = plain.each(lambda x, y: (x, wide * y))
    run = Training(
        split, perceptron(split, head=nn.Tanh()), draw.seed, {"width": 32}, "squared_error",
        lr=draw.number("lr", (3e-3, 6e-3)), epochs=draw.whole("epochs", (16, 20)), schedule="cosine",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(net=perceptron(split))))


@KINDS.fault("wrong_loss", first=("diverged",), allowed=(*UNSTABLE, *MEMORY, "undertrained", "slow", "not_learning"))
def the_sign_of_the_loss(draw: Draws) -> Plan:
    """A cross-entropy with its sign turned, so that it is maximized: the cost falls without end. Known: by construction, and the
    fresh cross-entropy ends above twice the constant prediction's."""
    split = data.table(draw.one_of("table", ["phoneme", "australian"]), draw.whole("rows", (350, 400)), 150, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": 24}, "negated_cross_entropy",
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (14, 18)), probe=300,
    )  # fmt: skip
    return Plan(
        run.watched, lambda: truth.holds(lambda: run.trace.end() > 2 * run.trace.constant, "it is not maximized")
    )


@KINDS.fault(
    "rate_too_high", first=("wrong_loss", "diverged", "exploding_gradients", "oscillates", "not_learning"),
    allowed=(*UNSTABLE, *BROKEN),
)  # fmt: skip
def a_loss_summed_over_the_batch(draw: Draws) -> Plan:
    """SGD on the loss summed over a batch of 64 at a rate chosen for its mean. Known: on the mean it is clearly better."""
    split = data.table(draw.one_of("table", ["segment", "vehicle"]), draw.whole("rows", (380, 450)), 200, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": 48}, "summed_cross_entropy", "SGD",
        draw.number("lr", (0.05, 0.1)), {"momentum": 0.9}, epochs=draw.whole("epochs", (16, 20)), batch=64,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(loss="cross_entropy")))


# Faults of the data


@KINDS.fault("diverged", allowed=(*UNSTABLE, *BROKEN))
def one_cell_is_not_a_number(draw: Draws) -> Plan:
    """A table with one missing cell that nobody filled: after its batch every weight is NaN. Known: the loss is no number."""
    plain = data.table(draw.one_of("table", ["segment", "phoneme"]), draw.whole("rows", (400, 500)), 300, draw.seed)
    x = plain.train[0].clone()
    x[draw.whole("row", (0, 300)), 1] = float("nan")
    split = plain.but_train(lambda _, y: (x, y))
    run = Training(
        split, perceptron(split), draw.seed, {"width": 32}, lr=draw.number("lr", (1e-3, 3e-3)),
        epochs=draw.whole("epochs", (8, 12)), batch=32,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.leaves_the_numbers(run))


@KINDS.fault(
    "unscaled_inputs", first=("rate_too_high", "diverged", "not_learning", "exploding_gradients"),
    allowed=(*UNSTABLE, *STALLED, *BROKEN),
)  # fmt: skip
def pixels_up_to_255_by_sgd(draw: Draws) -> Plan:
    """A convolutional network by SGD on color images with pixels from 0 to 255. Known: by construction, and on scaled images it
    is clearly better."""
    raw = data.images("cifar10-sub", draw.whole("rows", (300, 350)), 200, draw.seed, scaled=False)
    split = raw.inputs(lambda x: 255 * x)
    run = Training(
        split, cnn(split), draw.seed, {"width": 6}, optimizer="SGD", settings={"momentum": 0.9},
        lr=draw.number("lr", (0.01, 0.03)), epochs=draw.whole("epochs", (10, 12)),
    )  # fmt: skip
    mended = run.but(data=raw.inputs(lambda x: (x - 0.47) / 0.25))
    return Plan(run.watched, lambda: truth.worse(run, mended, 0.05))


@KINDS.fault("not_learning", first=("underfits",), allowed=("noisy_evidence", "label_noise"))
def the_frequent_class_always(draw: Draws) -> Plan:
    """Two classes, one of them with one row in twenty, and features that tell nothing about them: the accuracy is .95, and it is
    the constant prediction's. Known: the training loss stays within 2 % of the constant prediction's."""
    g = data.random(draw.seed)
    rows = draw.whole("rows", (1200, 1500))
    total = rows + 500 + data.FRESH
    x = torch.randn(total, 4, generator=g)
    y = (torch.rand(total, generator=g) < draw.number("share", (0.04, 0.07))).long()
    split = data.parted(x, y, rows, 500, draw.seed, 2, True)
    run = Training(
        split, perceptron(split), draw.seed, {"depth": 1, "width": 4}, optimizer="SGD",
        lr=draw.number("lr", (0.03, 0.08)), epochs=draw.whole("epochs", (12, 15)), batch=64,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.learns_nothing(run))


@KINDS.fault("overfits", first=("overconfident",))
def validation_from_another_camera(draw: Draws) -> Plan:
    """Validation images that are darker, blurred and turned, and training images that are not: training learns, validation hardly.
    Known: by construction, and the validation loss ends above twice that of fresh rows like the training rows."""
    plain = data.images("mnist", draw.whole("rows", (600, 700)), 300, draw.seed)
    blur = nn.AvgPool2d(3, 1, 1)
    split = plain.but_valid(lambda x, y: (0.7 * blur(torch.rot90(x, 1, (2, 3))), y))
    run = Training(
        split, cnn(split), draw.seed, {"width": 6}, lr=draw.number("lr", (3e-3, 5e-3)),
        epochs=draw.whole("epochs", (13, 16)), schedule="cosine",
    )  # fmt: skip
    return Plan(
        run.watched,
        lambda: truth.holds(
            lambda: run.logged()["val_loss"][-1] > 2 * run.trace.end(), "validation is not that much worse"
        ),
    )


@KINDS.fault("leakage", allowed=MEMORY)
def oversampled_before_the_split(draw: Draws) -> Plan:
    """Rows drawn with replacement before they were split, so that validation holds copies of training rows. Known: by
    construction; at least a third of the validation rows are trained on."""
    plain = data.table(draw.one_of("table", ["phoneme", "vehicle"]), draw.whole("rows", (300, 350)), 150, draw.seed)
    g = data.random(draw.seed)
    x, y = (torch.cat([plain.train[i], plain.valid[i]]) for i in (0, 1))
    drawn = torch.randint(len(x), (2 * len(x),), generator=g)
    cut = int(0.75 * len(drawn))
    split = replace(plain, train=(x[drawn[:cut]], y[drawn[:cut]]), valid=(x[drawn[cut:]], y[drawn[cut:]]))
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (48, 96))},
        lr=draw.number("lr", (2e-3, 5e-3)), epochs=draw.whole("epochs", (16, 20)),
    )  # fmt: skip
    seen = float(torch.isin(drawn[cut:], drawn[:cut]).float().mean())
    return Plan(run.watched, lambda: truth.holds(seen > 1 / 3, f"{seen:.2f} of the validation rows were trained on"))


@KINDS.fault("overfits", first=("overconfident",), allowed=("noisy_evidence",))
def sixty_rows_for_thousands_of_weights(draw: Draws) -> Plan:
    """A wide network on a regression table of some sixty rows. Known: the fresh loss rises clearly, or it ends above three times
    the training loss with a gap of a fifth of the constant prediction's."""
    split = data.table(
        draw.one_of("table", ["concrete", "california-housing"]), draw.whole("rows", (50, 70)), 200, draw.seed
    )
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (128, 200))}, "squared_error",
        lr=draw.number("lr", (1e-3, 2e-3)), epochs=draw.whole("epochs", (80, 100)), batch=16, probe=60,
    )  # fmt: skip

    def known() -> str:
        wide = run.trace.end() > 3 * run.trace.end("train") and truth.gap(run) > 0.2
        return "" if wide else truth.rises(run)

    return Plan(run.watched, known)


@KINDS.fault("label_noise", first=MEMORY, allowed=("underfits", "noisy_evidence"))
def careless_labels(draw: Draws) -> Plan:
    """A table whose classes were written down by somebody careless: a third of the labels of both sides are another class. Known:
    by construction."""
    clean = data.table(
        draw.one_of("table", ["segment", "mfeat-factors"]), draw.whole("rows", (700, 900)), 300, draw.seed
    )
    share = draw.number("share", (0.25, 0.4))
    split = clean.each(lambda x, y: (x, data.flipped(y, share, clean.outputs, draw.seed + len(y))))
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (32, 64))},
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (16, 22)),
    )  # fmt: skip
    return Plan(run.watched, lambda: "")


# Faults of regularization


@KINDS.fault("over_regularized", first=("underfits",), allowed=("slow", "undertrained"))
def decay_in_a_convolutional_network(draw: Draws) -> Plan:
    """A convolutional network by SGD with a weight decay far above the usual. Known: without it training and fresh loss are clearly
    lower, and there is hardly a gap."""
    split = data.images("mnist", draw.whole("rows", (400, 500)), 300, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": 6}, optimizer="SGD", settings={"momentum": 0.9},
        lr=draw.number("lr", (0.02, 0.04)), decay=draw.number("decay", (0.3, 0.6)),
        epochs=draw.whole("epochs", (13, 16)), schedule="cosine",
    )  # fmt: skip
    bare = run.but(decay=0.0)

    def known() -> str:
        lower = truth.holds(
            lambda: bare.trace.end("train") < run.trace.end("train") - 0.1 * run.trace.constant, "training is no lower"
        )
        return truth.first(truth.hardly_a_gap(run), lower, truth.worse(run, bare))

    return Plan(run.watched, known, run.problem, run.recipe)


@KINDS.fault("over_regularized", first=("underfits",), allowed=("slow", "undertrained", "noisy_evidence"))
def nine_units_of_ten_dropped(draw: Draws) -> Plan:
    """Dropout of some nine tenths in a narrow perceptron. Known: without it the fresh loss is clearly lower."""
    split = data.images("mnist", draw.whole("rows", (700, 900)), 300, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": 32, "dropout": draw.number("dropout", (0.85, 0.92))},
        lr=draw.number("lr", (2e-3, 4e-3)), epochs=draw.whole("epochs", (16, 20)), schedule="cosine",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.worse(run, run.but(model={"dropout": 0.0})), run.problem, run.recipe)


@KINDS.fault("overconfident", first=("overfits",))
def sure_of_everything(draw: Draws) -> Plan:
    """Logs of a convolutional network on color images of which it knows every training row, and is trained on: validation loss
    rises, the accuracy stays. Known: the fresh loss rises clearly, the fresh error does not."""
    split = data.images("mnist", draw.whole("rows", (200, 250)), 600, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": draw.whole("width", (12, 16))}, lr=draw.number("lr", (8e-3, 1.2e-2)),
        epochs=draw.whole("epochs", (45, 60)),
    )  # fmt: skip
    return Plan(run.logged, lambda: truth.first(truth.rises(run), truth.error_does_not_rise(run)))


@KINDS.fault("batch_too_small", allowed=(*UNSTABLE, *MEMORY, "over_regularized", *STALLED))
def a_batch_norm_of_two_images(draw: Draws) -> Plan:
    """A convolutional network with batch norm after its dense layer too, on batches of two images. Known: training rows cost
    clearly more in training mode than in evaluation mode, or larger batches are clearly better."""
    split = data.images("mnist", 2 * draw.whole("pairs", (90, 110)), 300, draw.seed)
    run = Training(
        split, cnn(split, norm=True, dense=24), draw.seed, {"width": 4}, lr=draw.number("lr", (2e-3, 4e-3)),
        epochs=8, batch=2, probe=150,
    )  # fmt: skip
    return Plan(run.watched, lambda: modes_disagree(run))


# Healthy runs, and what only looks like a fault


@KINDS.healthy
def a_convolutional_network_in_one_cycle(draw: Draws) -> Plan:
    """A convolutional network on digits by SGD in one cycle. Known: see `truth.healthy`."""
    split = data.images("mnist", draw.whole("rows", (2600, 3000)), 400, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": 6}, optimizer="SGD", settings={"momentum": 0.9},
        lr=draw.number("lr", (0.04, 0.06)), epochs=draw.whole("epochs", (8, 9)), batch=64, schedule="one_cycle",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def few_rows_that_are_enough(draw: Draws) -> Plan:
    """Logistic regression of three features on some two hundred rows. Known: see `truth.healthy`."""
    split = data.linear_classes(
        draw.whole("rows", (180, 240)), 300, draw.seed, features=3, scale=draw.number("scale", (3, 5))
    )
    run = Training(
        split, perceptron(split, depth=0), draw.seed, lr=draw.number("lr", (0.04, 0.08)),
        epochs=draw.whole("epochs", (22, 28)), schedule="cosine", probe=150,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run, learned=0.4))


@KINDS.near_miss(allowed=("noisy_evidence",))
def noise_that_nobody_can_learn(draw: Draws) -> Plan:
    """Linear regression whose target is half noise: the loss rests high, and no model gets below. Known: see `truth.healthy`, and a
    hidden layer is no better."""
    split = data.line(
        draw.whole("rows", (900, 1200)), 500, draw.seed, features=6, noise=draw.number("noise", (0.7, 1.0))
    )
    run = Training(
        split, perceptron(split), draw.seed, {"depth": 0}, "squared_error", lr=draw.number("lr", (0.02, 0.04)),
        epochs=draw.whole("epochs", (16, 20)), schedule="cosine", batch=64,
    )  # fmt: skip
    deep = run.but(model={"depth": 1, "width": 16}, lr=5e-3)
    return Plan(run.watched, lambda: truth.healthy(run, deep, learned=0.35))


@KINDS.near_miss()
def images_that_are_moved_and_blanked(draw: Draws) -> Plan:
    """A convolutional network under strong augmentation, so that the logged training loss is far above validation. Known: see
    `truth.healthy`, and the logged training loss is the higher one."""
    split = data.images("mnist", draw.whole("rows", (1200, 1500)), 400, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": 8}, lr=draw.number("lr", (6e-3, 9e-3)),
        epochs=draw.whole("epochs", (14, 17)), batch=64, schedule="cosine", augment=shifted,
    )  # fmt: skip

    def known() -> str:
        logs = run.logged()
        higher = truth.holds(logs["loss"][-1] > 1.2 * logs["val_loss"][-1], "the logged training loss is not higher")
        return truth.first(higher, truth.does_not_rise(run), truth.hardly_a_gap(run), truth.at_rest(run))

    return Plan(run.watched, known)


@KINDS.near_miss()
def logs_of_moved_images(draw: Draws) -> Plan:
    """Logs of the same kind of training: training loss above validation from the first epoch to the last. Known: the fresh loss is
    at rest, does not rise, with hardly a gap."""
    split = data.images("mnist", draw.whole("rows", (1200, 1500)), 400, draw.seed)
    run = Training(
        split, cnn(split), draw.seed, {"width": 8}, optimizer="AdamW", lr=draw.number("lr", (6e-3, 9e-3)),
        epochs=draw.whole("epochs", (14, 17)), batch=64, schedule="one_cycle", augment=shifted,
    )  # fmt: skip
    return Plan(run.logged, lambda: truth.first(truth.does_not_rise(run), truth.hardly_a_gap(run), truth.at_rest(run)))


@KINDS.healthy
def all_rows_in_a_batch(draw: Draws) -> Plan:
    """A table in two batches an epoch, by Adam at a rate for it: few steps, smooth curves. Known: see `truth.healthy`."""
    split = data.table("segment", draw.whole("rows", (1024, 1200)), 400, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": draw.whole("width", (32, 48))}, lr=draw.number("lr", (0.015, 0.025)),
        epochs=draw.whole("epochs", (60, 75)), batch=512, schedule="one_cycle",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def the_next_letter(draw: Draws) -> Plan:
    """The next letter of a text from the four before it, whose inputs are numbers of letters and whose loss rests high, as language
    does. Known: see `truth.healthy`, with an eighth of the constant prediction's loss gone."""
    split = data.text(draw.whole("rows", (6000, 7000)), 600, draw.seed, length=4)
    run = Training(
        split, partial(Letters, split.outputs, 4), draw.seed, {"width": 16}, "cross_entropy", "AdamW",
        draw.number("lr", (6e-3, 9e-3)), epochs=draw.whole("epochs", (11, 13)), batch=128, schedule="one_cycle",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run, learned=0.125))


@KINDS.healthy
def an_autoencoder_at_rest(draw: Draws) -> Plan:
    """An autoencoder of digits with a code of twelve numbers, trained to rest. Known: see `truth.healthy`."""
    split = data.copied_out(data.images("mnist", draw.whole("rows", (1000, 1200)), 300, draw.seed))
    run = Training(
        split, partial(autoencoder, split.features), draw.seed, {"code": draw.whole("code", (10, 14))}, "squared_error",
        lr=draw.number("lr", (1e-2, 1.4e-2)), epochs=draw.whole("epochs", (40, 46)), batch=64, schedule="cosine",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run, learned=0.4))


@KINDS.healthy
def clipped_at_every_step(draw: Draws) -> Plan:
    """A GRU on waves by RMSprop, whose gradients are clipped at every step and which learns none the worse. Known: see
    `truth.healthy`."""
    split = data.waves(draw.whole("rows", (500, 600)), 300, draw.seed, length=16, noise=0.25)
    run = Training(
        split, partial(Recurrent, split.outputs), draw.seed, {"width": 16}, optimizer="RMSprop",
        lr=draw.number("lr", (5e-3, 8e-3)), epochs=draw.whole("epochs", (18, 22)), schedule="cosine", clip=0.1,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def a_warm_up_and_a_cosine(draw: Draws) -> Plan:
    """A transformer by AdamW, whose rate climbs first and falls then. Known: see `truth.healthy`."""
    split = data.waves(draw.whole("rows", (400, 500)), 300, draw.seed, length=12, noise=0.25, phases=0.3)
    run = Training(
        split, partial(Transformer, split.outputs, 12), draw.seed, {"width": 16}, "cross_entropy", "AdamW",
        draw.number("lr", (6e-3, 9e-3)), epochs=draw.whole("epochs", (14, 17)), schedule="one_cycle",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.healthy
def layer_norms_and_a_step(draw: Draws) -> Plan:
    """A regression table by SGD with layer norms and a rate that drops half way. Known: see `truth.healthy`."""
    split = data.table("power-plant", draw.whole("rows", (1300, 1600)), 400, draw.seed)
    run = Training(
        split, perceptron(split, norm="layer", depth=1), draw.seed, {"width": draw.whole("width", (16, 24))}, "squared_error",
        "SGD", draw.number("lr", (0.01, 0.02)), {"momentum": 0.9}, epochs=draw.whole("epochs", (18, 22)),
        schedule="step", batch=64,
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.near_miss(allowed=("not_enough_evidence",))
def the_last_epochs_of_a_finished_run(draw: Draws) -> Plan:
    """The last ten lines of the log of a healthy run, numbered as they were: nothing moves, and nothing is wrong. Known: the whole
    run is healthy."""
    split = data.table("segment", draw.whole("rows", (1000, 1200)), 400, draw.seed)
    run = Training(
        split, perceptron(split), draw.seed, {"width": 40}, lr=draw.number("lr", (5e-3, 8e-3)),
        epochs=draw.whole("epochs", (26, 30)), schedule="cosine",
    )  # fmt: skip
    return Plan(lambda: {name: values[-10:] for name, values in run.logged().items()}, lambda: truth.healthy(run))


@KINDS.healthy
def four_classes_of_unequal_size(draw: Draws) -> Plan:
    """A table of cars whose four classes have 70, 22, 4 and 4 rows in a hundred, and which a perceptron tells apart. Known: see
    `truth.healthy`."""
    split = data.table("car", 1000, 400, draw.seed)
    run = Training(
        split, perceptron(split, depth=1), draw.seed, {"width": draw.whole("width", (24, 32))}, lr=draw.number("lr", (0.02, 0.03)),
        epochs=draw.whole("epochs", (36, 40)), schedule="cosine",
    )  # fmt: skip
    return Plan(run.watched, lambda: truth.healthy(run))


@KINDS.near_miss()
def stopped_a_little_after_its_best(draw: Draws) -> Plan:
    """A run of a smooth regression that patience ended six epochs after the best one, at a constant rate. Known: patience ended it,
    and a twin of as many epochs does not rise, with hardly a gap."""
    split = data.curve(draw.whole("rows", (700, 800)), 300, draw.seed, features=3, noise=0.3, bends=0.4)
    run = Training(
        split, perceptron(split, activation="tanh", depth=1), draw.seed, {"width": 16}, "squared_error",
        lr=draw.number("lr", (8e-3, 1.2e-2)), epochs=70, batch=64,
    )  # fmt: skip
    patient = run.recipe.replace(stopping={"patience": 6})

    @cache
    def make() -> wp.Run:
        return wp.fit(run.problem, patient, seed=run.seed)

    def known() -> str:
        fitted = make()
        twin = run.but(epochs=len(fitted.history))
        ended = truth.holds(fitted.stopped == "patience", "patience did not end it")
        return truth.first(ended, truth.does_not_rise(twin), truth.hardly_a_gap(twin))

    return Plan(make, known)
