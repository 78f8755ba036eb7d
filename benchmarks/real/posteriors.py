"""Public Bayesian networks and autoencoders, with what is ours in place of what they use; `posteriors.md` tells the results.

    python benchmarks/real/posteriors.py CHECKOUTS [--only vae] [--images mnist.npz]

CHECKOUTS holds the repositories of `posteriors.md`, each under its own name. Their classes and functions are read where they
lie, one by one, without what their files import. What is right was written into each case before it was run.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp

CASES: dict[str, Callable[..., tuple[str, str]]] = {}


def case(function: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
    """What is right, and what was found."""
    CASES[function.__name__] = function
    return function


def pieces(path: Path, *names: str, **given: Any) -> SimpleNamespace:
    """Classes and functions of a file, without its imports."""
    tree = ast.parse(path.read_text())
    kept = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in names]
    for node in ast.walk(ast.Module(kept, [])):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, node.args.vararg, node.args.kwarg):
                if argument is not None:
                    argument.annotation = None
    known = {
        "torch": torch, "nn": nn, "F": F, "np": np, "math": math, "Module": nn.Module, "Parameter": nn.Parameter,
        "Variable": lambda x: x, "init": nn.init, "BaseVAE": nn.Module, "List": list, "rnn_utils": nn.utils.rnn, **given,
    }  # fmt: skip
    exec(compile(ast.Module(kept, []), str(path), "exec"), known)
    return SimpleNamespace(**{name: known[name] for name in names})


def charged(net: nn.Module, charge: wp.KLToStandardNormal, place: Any, call: Callable[[], Any]) -> tuple[float, Any]:
    """What a term charges after a pass, and what the pass gave."""
    optimizer = wp.regularize(torch.optim.Adam(net.parameters()), net, [charge.on(place)])
    out = call()
    return float(optimizer.penalty().detach()), out


def agrees(ours: float, theirs: float, within: float = 1e-5) -> str:
    return f"{'equal' if abs(ours - theirs) <= within * abs(theirs) else 'DIFFERENT'}: {ours:.6g} and {theirs:.6g}"


def trained(
    net: nn.Module, loss: Any, x: Tensor, term: wp.Term, epochs: int, forward: Any, lr: float = 1e-3
) -> wp.Diagnosis:
    """A loop as theirs, with the divergence as a term, watched."""
    torch.manual_seed(0)
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr), net, [term])
    rows = len(x) * 3 // 4
    watch = wp.watch(
        net, loss, (x[:rows], x[:rows]), (x[rows:], x[rows:]), optimizer=optimizer,
        forward=lambda model, batch: forward(model, batch[0]), target=lambda batch: batch[1],
    )  # fmt: skip
    for _ in range(epochs):
        net.train()
        for batch in torch.randperm(rows).split(25):
            optimizer.zero_grad()
            (loss(forward(net, x[batch]), x[batch]).mean() + optimizer.penalty()).backward()
            optimizer.step()
        watch.epoch()
    return wp.diagnose(watch)


def collapsed(found: wp.Diagnosis) -> str:
    (code,) = found.curves.signals.codes
    says = "collapsed" if any(one.name == "posterior_collapse" for one in found.findings) else "not collapsed"
    return f"{says}, {float(code.told.sum()):.2g} nats, +{100 * code.rise / abs(code.loss):.2g} %"


def pictures(given: SimpleNamespace, rows: int) -> Tensor:
    return torch.from_numpy(np.load(given.images)["X_train"][:rows]).float() / 255


@case
def vae_examples(given: SimpleNamespace) -> tuple[str, str]:
    """Mean and log-variance by two layers; their divergence is a sum over the batch."""
    of = pieces(given.folder / "examples/vae/main.py", "VAE", "loss_function")
    torch.manual_seed(0)
    net, x = of.VAE(), pictures(given, 400).flatten(1)
    charge, place = wp.KLToStandardNormal(1.0, apart=True), ["fc21", "fc22"]
    ours, (recon, mu, logvar) = charged(net, charge, place, lambda: net(x[:50]))
    theirs = of.loss_function(recon, x[:50], mu, logvar) - F.binary_cross_entropy(recon, x[:50], reduction="sum")
    said = [agrees(ours, float(theirs.detach()) / 50, 1e-3)]
    lost = lambda out, x: F.binary_cross_entropy(out, x, reduction="none").sum(1)  # noqa: E731
    for beta in (1.0, 1000.0):
        torch.manual_seed(0)
        term = wp.KLToStandardNormal(beta, apart=True).on(place)
        said.append(collapsed(trained(of.VAE(), lost, x, term, 12, lambda net, x: net(x)[0])))
    return "equal; not collapsed; at beta 1000 collapsed", "; ".join(said)


@case
def vae_beta(given: SimpleNamespace) -> tuple[str, str]:
    """Side by side, in the last layer of the encoder; the total divergence of its solver."""
    of = pieces(given.folder / "Beta-VAE/model.py", "BetaVAE_H", "BetaVAE_B", "View", "reparametrize", "kaiming_init")
    total = pieces(given.folder / "Beta-VAE/solver.py", "kl_divergence")
    torch.manual_seed(0)
    net, x = of.BetaVAE_B(z_dim=10, nc=1), F.pad(pictures(given, 8)[:, None], (18, 18, 18, 18))
    last = [name for name, _ in net.encoder.named_children()][-1]
    ours, (_, mu, logvar) = charged(net, wp.KLToStandardNormal(), f"encoder.{last}", lambda: net(x))
    return "equal", agrees(ours, float(total.kl_divergence(mu, logvar)[0].detach()))


@case
def vae_vanilla(given: SimpleNamespace) -> tuple[str, str]:
    """Two layers again, behind convolutions with batch norm."""
    of = pieces(given.folder / "PyTorch-VAE/models/vanilla_vae.py", "VanillaVAE")
    torch.manual_seed(0)
    net, x = of.VanillaVAE(3, 16), torch.rand(8, 3, 64, 64)
    ours, out = charged(net, wp.KLToStandardNormal(apart=True), ["fc_mu", "fc_var"], lambda: net(x))
    told = net.loss_function(*out, M_N=1.0)
    return "equal", agrees(ours, abs(float(told["KLD"].detach())))


def letters(rows: int, length: int = 16) -> Tensor:
    """Steps of one, two or three from a random letter on: two numbers tell a whole sequence."""
    draw = torch.Generator().manual_seed(0)
    start, step = (torch.randint(*ends, (rows, 1), generator=draw) for ends in ((0, 20), (1, 4)))
    return 4 + (start + step * torch.arange(length)) % 20


@case
def vae_sentences(given: SimpleNamespace) -> tuple[str, str]:
    """A GRU whose decoder is told each letter before the next: without a warm-up it needs no code (Bowman et al., 2016)."""
    of = pieces(given.folder / "Sentence-VAE/model.py", "SentenceVAE", to_var=lambda x: x)
    x, said = letters(400), []
    forward = lambda net, x: net(F.pad(x, (1, 0), value=2)[:, :-1], torch.full((len(x),), x.shape[1]))[0]  # noqa: E731
    lost = lambda out, x: F.nll_loss(out.transpose(1, 2), x, reduction="none").sum(1)  # noqa: E731
    for beta in (1.0, 0.01):
        torch.manual_seed(0)
        net = of.SentenceVAE(24, 16, "gru", 32, 0.0, 0.0, 8, 2, 3, 0, 1, 16)
        net.embedding_dropout, net.word_dropout_rate = nn.Identity(), 1e-9
        term = wp.KLToStandardNormal(beta, apart=True).on(["hidden2mean", "hidden2logv"])
        said.append(collapsed(trained(net, lost, x, term, 16, forward, lr=1e-2)))
    return "collapsed; at beta 0.01 not collapsed", "; ".join(said)


@case
def vae_lagging(given: SimpleNamespace) -> tuple[str, str]:
    """The last state of an LSTM, ``(layers, batch, features)``: examples lie along the second axis."""
    base = pieces(given.folder / "vae-lagging-encoder/modules/encoders/encoder.py", "GaussianEncoderBase")
    of = pieces(
        given.folder / "vae-lagging-encoder/modules/encoders/enc_lstm.py", "LSTMEncoder",
        GaussianEncoderBase=base.GaussianEncoderBase,
    )  # fmt: skip
    torch.manual_seed(0)
    start = lambda p: nn.init.uniform_(p, -0.3, 0.3)  # noqa: E731
    net, x = of.LSTMEncoder(SimpleNamespace(ni=8, enc_nh=16, nz=4), 24, start, start), letters(30)
    ours, (_, theirs) = charged(net, wp.KLToStandardNormal(axis=-1, batch=1), "linear", lambda: net.encode(x, 1))
    return "equal", agrees(ours, float(theirs.detach().mean()))


def means_of(net: nn.Module, means: list[Tensor], spreads: list[Tensor]) -> None:
    """Give a Bayesian perceptron the means and standard deviations of another one."""
    own = dict(net.named_parameters())
    names = [name for name in own if "posterior" not in name]
    for name, mean, spread in zip(names, means, spreads, strict=True):
        prefix, _, last = name.rpartition(".")
        own[name].data.copy_(mean)
        own[f"{prefix}.posterior.{last}".lstrip(".")].data.copy_(spread.log())


@case
def kl_torchbnn(given: SimpleNamespace) -> tuple[str, str]:
    """Iris: the network of the demonstration, trained by it for 400 steps; the sum of its divergences, and its accuracy."""
    from sklearn.datasets import load_iris

    folder = given.folder / "bayesian-neural-network-pytorch/torchbnn"
    of = pieces(folder / "modules/linear.py", "BayesLinear")
    kl = pieces(
        folder / "functional.py",
        "_kl_loss",
        "bayesian_kl_loss",
        BayesLinear=of.BayesLinear,
        BayesConv2d=(),
        BayesBatchNorm2d=(),
    )
    x, y = (torch.from_numpy(a) for a in load_iris(return_X_y=True))
    x, accuracy = x.float(), []
    torch.manual_seed(0)
    theirs = nn.Sequential(of.BayesLinear(0, 0.1, 4, 100), nn.ReLU(), of.BayesLinear(0, 0.1, 100, 3))
    prior, both = wp.GaussianPrior(0.1), wp.weights | wp.biases
    ours = wp.bayesian(
        nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 3)), prior=prior, on=both, spread=0.1
    ).train()
    weights = sum(p.numel() for p in theirs.parameters()) // 2
    for net, divergence in ((theirs, lambda: kl.bayesian_kl_loss(theirs, "sum")), (ours, lambda: wp.kl(ours))):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(400):
            optimizer.zero_grad()
            (F.cross_entropy(net(x), y) + 0.1 * divergence() / weights).sum().backward()
            optimizer.step()
        accuracy.append(float((net(x).argmax(1) == y).double().mean()))
    first, last = theirs[0], theirs[2]
    parts = [(one.weight_mu, one.weight_log_sigma, one.bias_mu, one.bias_log_sigma) for one in (first, last)]
    means_of(ours, [p.detach() for a in parts for p in a[::2]], [p.detach().exp() for a in parts for p in a[1::2]])
    found = agrees(float(wp.kl(ours).detach()), float(kl.bayesian_kl_loss(theirs, "sum").detach()))
    return "equal; both above 0.9", f"{found}; {accuracy[1]:.2f} and {accuracy[0]:.2f}"


@case
def kl_local(given: SimpleNamespace) -> tuple[str, str]:
    """Local reparametrization: divergence, and the spread of outputs in 2,000 passes."""
    path = given.folder / "Bayesian-Neural-Networks/src/Bayes_By_Backprop_Local_Reparametrization/model.py"
    of = pieces(path, "KLD_cost", "BayesLinear_local_reparam")
    torch.manual_seed(0)
    theirs = of.BayesLinear_local_reparam(6, 3, 0.1).train()
    ours = wp.bayesian(nn.Linear(6, 3), prior=wp.GaussianPrior(0.1), on=wp.weights | wp.biases).train()
    spreads = [1e-6 + F.softplus(p.detach()) for p in (theirs.W_p.T, theirs.b_p)]
    means_of(ours, [theirs.W_mu.detach().T, theirs.b_mu.detach()], spreads)
    x = torch.randn(1, 6)
    said = [agrees(float(wp.kl(ours).detach()), float(theirs(x)[1].detach()))]
    with torch.no_grad():
        out = [torch.stack([call(x)[0] for _ in range(2000)]) for call in (ours, lambda x: theirs(x)[0])]
    ratio = float((out[0].std(0) / out[1].std(0)).mean())
    return (
        "equal; spreads within 5 %",
        f"{said[0]}; {'within' if abs(ratio - 1) < 0.05 else 'NOT within'} 5 % ({ratio:.3f})",
    )


@case
def kl_sampled(given: SimpleNamespace) -> tuple[str, str]:
    """``log q - log p`` of drawn weights: its mean over 300 draws is the closed form, within 1 %."""
    folder = given.folder / "blitz-bayesian-deep-learning/blitz/modules"
    both = pieces(folder / "weight_sampler.py", "TrainableRandomDistribution", "PriorWeightDistribution")
    of = pieces(folder / "linear_bayesian_layer.py", "BayesianLinear", BayesianModule=nn.Module, **vars(both))
    torch.manual_seed(0)
    theirs = of.BayesianLinear(13, 32)
    ours = wp.bayesian(nn.Linear(13, 32), prior=wp.GaussianPrior(0.1), on=wp.weights | wp.biases)
    means = [theirs.weight_mu.detach(), theirs.bias_mu.detach()]
    means_of(ours, means, [F.softplus(p.detach()) for p in (theirs.weight_rho, theirs.bias_rho)])
    costs = []
    with torch.no_grad():
        for _ in range(300):
            theirs(torch.ones(1, 13))
            costs.append(float(theirs.log_variational_posterior - theirs.log_prior))
    return "equal within 1 %", agrees(float(wp.kl(ours).detach()), float(np.mean(costs)), 0.01)


@case
def dropout_by_function(given: SimpleNamespace) -> tuple[str, str]:
    """Drops by ``F.dropout``, which is no layer: refused with a sentence; with layers, the same mean and spread in 1,000 draws."""
    of = pieces(given.folder / "Bayesian-Neural-Networks/src/MC_dropout/model.py", "Linear_2L", "MC_dropout")
    torch.manual_seed(0)
    theirs, x = of.Linear_2L(8, 1, 32), torch.randn(20, 8)
    try:
        wp.mc_dropout(theirs)
        said = "taken"
    except wp.InputError as error:
        said = f"refused: {error}"
    layers = [theirs.fc1, nn.Dropout(0.5), nn.ReLU(), theirs.fc2, nn.Dropout(0.5), nn.ReLU(), theirs.fc3]
    found = wp.predictive(wp.mc_dropout(nn.Sequential(*layers)), x, samples=1000, noise_std=1e-3)
    with torch.no_grad():
        draws = theirs.sample_predict(x, 1000)[..., 0].double()
    ratio = float((found.std / draws.std(0)).mean())
    near = float(((found.mean - draws.mean(0)) / draws.std(0)).abs().max()) < 0.2 and abs(ratio - 1) < 0.05
    return "refused; the same spread", f"{said}; {'the same' if near else 'ANOTHER'} spread ({ratio:.3f})"


@case
def temperature(given: SimpleNamespace) -> tuple[str, str]:
    """Of a network that knows its digits by heart; their temperature is the least of 200 steps of L-BFGS."""
    of = pieces(given.folder / "temperature_scaling/temperature_scaling.py", "ModelWithTemperature", "_ECELoss")
    torch.manual_seed(0)
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x = (x / 16).float() + 0.5 * torch.randn(x.shape)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:500]), y[:500]).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = net(x[500:])
    theirs = of.ModelWithTemperature(nn.Identity())
    for module in (theirs, *theirs.modules()):
        module.cuda = lambda: None
    steps = torch.optim.LBFGS([theirs.temperature], lr=0.01, max_iter=200)

    def closure() -> Tensor:
        steps.zero_grad()
        cost = F.cross_entropy(theirs.temperature_scale(outputs), y[500:])
        cost.backward()
        return cost

    steps.step(closure)
    found = wp.calibrate(outputs, y[500:])
    at = {"ours": found.temperature, "theirs": float(theirs.temperature.detach())}
    nll = {name: float(F.cross_entropy(outputs / t, y[500:])) for name, t in at.items()}
    ece = [float(of._ECELoss()(o, y[500:])) for o in (outputs, *(outputs / t for t in at.values()))]
    said = agrees(*at.values(), within=0.01)
    said = f"{said}, NLL {nll['ours']:.4f} and {nll['theirs']:.4f}; ECE {ece[0]:.3f} to {ece[1]:.3f} and {ece[2]:.3f}"
    return "equal within 1 %; ECE falls", said


def main() -> None:
    """Print each case with what is right and what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/images/mnist.npz"))
    given = parser.parse_args()
    for name, function in CASES.items():
        if name.startswith(given.only):
            right, found = function(given)
            print(f"| {name} | {right} | {found} |", flush=True)


if __name__ == "__main__":
    main()
