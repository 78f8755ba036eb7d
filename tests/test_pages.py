"""Pages that advise say nothing that does not run: every line of code on them is run, and quoted output is what is printed."""

from __future__ import annotations

import copy
import inspect
import re
import runpy
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.core.errors import WellposedError
from wellposed.noise.noise import Placed
from wellposed.optim.regularize import Regularized
from wellposed.penalties.base import Chargeable, Constraint, Term

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")
LONGEST = 30.0
"""Seconds of processor time that the example may take; alone on a core it takes about ten."""


def read(page: str) -> str:
    return (DOCS / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", read(page), re.DOTALL)


def lines(page: str) -> list[str]:
    """The code in running text and in the cells of tables that is ours or torch's, each once."""
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    found = re.findall(r"`((?:wp|nn|torch|watch|optimizer|net|\(net)[.\[(][^`]*)`", text)
    return list(dict.fromkeys(found))


class WithSkip(nn.Module):
    """A network beside a linear part."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        self.skip = nn.Linear(20, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.skip(x)


class Several(nn.Module):
    """Blocks, convolutions, embeddings and attention: what a line may select."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.embedding = nn.Embedding(5, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = self.convolution(x[:, :16].reshape(-1, 1, 4, 4)).mean((2, 3)).repeat(1, 2)
        tokens = self.embedding((x > 0).long())
        h = self.attention(tokens, tokens, tokens)[0].mean(1) + image
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def setting() -> dict[str, Any]:
    """What the lines of both pages speak of."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 20), torch.randint(3, (12,))
    loss, loader = nn.CrossEntropyLoss(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 4)
    optimizer = wp.regularize(torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0), net, [])
    watch = wp.watch(net, loss, train=(x, y), valid=(x, y), optimizer=optimizer)
    return {
        "wp": wp, "torch": torch, "nn": nn, "net": net, "x": x, "y": y, "inputs": x, "outputs": net(x), "loss": loss,
        "loader": loader, "optimizer": optimizer, "watch": watch, "source": torch.Generator().manual_seed(0),
        "images": torch.randn(4, 3, 8, 8), "teacher": copy.deepcopy(net), "s": 0.1, "r": 2.0,
    }  # fmt: skip


def used(value: object, net: nn.Module) -> None:
    """Use what a line gave, as the page says: a term is enforced for two steps, noise is drawn."""
    if isinstance(value, Chargeable):
        value = value.on()
    candidates = [copy.deepcopy(net), WithSkip(), Several()]
    if isinstance(value, Term):
        bound(value, candidates)
    elif isinstance(value, Placed):
        noisy(value, candidates)


def bound(term: Term, candidates: list[nn.Module]) -> None:
    """Enforce a term on the first model that has what it selects."""
    refusals = []
    for model in candidates:
        try:
            optimizer = wp.regularize(torch.optim.SGD(model.parameters(), lr=1e-2), model, [term])
        except WellposedError as refusal:
            refusals.append(str(refusal))
            continue
        for _ in range(2):
            stepped(model, optimizer)
        for one in optimizer.binding.charged:
            for b in one.bounds:
                if isinstance(b.charge, Constraint):
                    w = one.leaf.tensor.detach()
                    assert torch.equal(b.charge.project(w), w), term
        return
    raise AssertionError(f"{term} fits no model: {refusals}")


def stepped(model: nn.Module, optimizer: Regularized) -> None:
    x = torch.randn(6, 20).requires_grad_()
    optimizer.zero_grad()
    outputs = model(x)
    cost = outputs.square().mean() + optimizer.penalty(outputs, inputs=x, reference=model(x.detach()) + 0.1)
    cost.backward()
    optimizer.step()
    assert torch.isfinite(cost)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def noisy(placed: Placed, candidates: list[nn.Module]) -> None:
    """Draw noise on the first model that has what it selects."""
    refusals = []
    for model in candidates:
        try:
            noise = wp.perturb(model, [placed], seed=0)
        except WellposedError as refusal:
            refusals.append(str(refusal))
            continue
        x = torch.randn(6, 20)
        clean = model.eval()(x)
        assert not torch.equal(model.train()(x), clean)
        noise.remove()
        return
    raise AssertionError(f"{placed} fits no model: {refusals}")


@pytest.mark.parametrize("page", ["which.md", "constrained.md"])
def test_the_code_blocks_of_a_page_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(block, names)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("page", "line"), [(p, line) for p in ("which.md", "constrained.md") for line in lines(p)])
def test_a_line_of_a_page_runs(page: str, line: str) -> None:
    names = setting()
    used(eval(line, names), names["net"])


@pytest.mark.parametrize(
    "line",
    ["wp.L3(0.1)", 'wp.L1(1e-4).on("encodr.*")', "wp.L2(strenght=1)", "wp.Dropout(0.1).on('missing')", "wp.L1(-1)"],
)
def test_a_wrong_line_would_be_found(line: str) -> None:
    names = setting()
    with pytest.raises((AttributeError, TypeError, AssertionError, WellposedError)):
        used(eval(line, names), names["net"])


def test_the_page_names_what_there_is_to_choose_from() -> None:
    """A penalty or a constraint that no line mentions would never be chosen."""
    page = read("which.md")
    public = [
        name
        for name in wp.__all__
        if isinstance(value := getattr(wp, name), type)
        and issubclass(value, Chargeable)
        and not inspect.isabstract(value)
    ]
    missing = [name for name in public if f"wp.{name}" not in page]
    assert not missing, f"docs/which.md says nothing of {missing}: give each a line, or a word under Relatives"


def test_strengths_are_translated_as_the_page_says() -> None:
    rows = re.findall(r"`(wp\.[^`]+)`, strength ([\d.e-]+)", read("which.md"))
    assert len(rows) == 4
    for line, strength in rows:
        assert eval(line, {"wp": wp}).strength == pytest.approx(float(strength))
    assert wp.L2.decoupled(0.01) == wp.L2(0.01)


def test_the_axis_of_max_norm_is_a_units() -> None:
    w = torch.ones(2, 4)  # (out, in): each of two units has four weights
    assert torch.allclose(wp.MaxNorm(1.0).project(w).norm(dim=1), torch.ones(2))


def test_a_term_on_what_the_optimizer_decays_already_is_refused() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(WellposedError, match="weight_decay"):
        wp.regularize(torch.optim.AdamW(net.parameters()), net, [wp.L2(0.1).on(wp.weights)])


def settled(term: Term, optimizer: type[torch.optim.Optimizer], lr: float, last: float, steps: int = 300) -> Tensor:
    """The first matrix after training under a term; the last of eight inputs is ``last`` times as large as the others."""
    torch.manual_seed(0)
    x = torch.randn(200, 8)
    x[:, 7] *= last
    y = 2 * x[:, :1] - x[:, 1:2]
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    regularized = wp.regularize(optimizer(net.parameters(), lr=lr), net, [term])
    for _ in range(steps):
        regularized.zero_grad()
        (net(x) - y).square().mean().backward()
        regularized.step()
    return net[0].weight.detach()


def test_groups_and_ranks_under_adam_are_as_the_page_says() -> None:
    units, rank = wp.GroupL2(2e-2, by="unit").on("0"), wp.Nuclear(1e-3).on("0")
    for last in (0.0, 1.0):
        assert (settled(units, torch.optim.Adam, 1e-2, last) == 0).all(1).any()
    assert settled(rank, torch.optim.Adam, 1e-2, last=1e-6).any()


def test_the_index_lists_every_page() -> None:
    index = read("README.md")
    for path in [*DOCS.glob("*.md"), *(p for p in DOCS.iterdir() if p.is_dir())]:
        if path.name not in ("README.md", "figures", "images"):
            assert path.name in index, f"docs/README.md does not list {path.name}"


@pytest.mark.slow
def test_the_example_prints_what_the_page_quotes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr("sys.argv", ["constrained.py"])
    began = time.process_time()
    runpy.run_path(str(ROOT / "examples" / "constrained.py"), run_name="__main__")
    assert time.process_time() - began < LONGEST
    printed, quoted = (
        capsys.readouterr().out.strip().splitlines(),
        blocks("constrained.md", "text")[0].strip().splitlines(),
    )
    assert len(printed) == len(quoted)
    for ours, page in zip(printed, quoted, strict=True):
        assert NUMBER.sub("#", ours).split() == NUMBER.sub("#", page).split()
        for mine, theirs in zip(NUMBER.findall(ours), NUMBER.findall(page), strict=True):
            digits = len(theirs.partition(".")[2]) if "e" not in theirs else 20
            assert float(mine) == pytest.approx(float(theirs), abs=1.01 * 10.0**-digits if digits else 0.0), page


@pytest.mark.slow
def test_the_same_solutions_are_found_by_strength_and_by_bound() -> None:
    """What the page claims, to more digits than it prints, and against the closed form."""
    pytest.importorskip("sklearn")
    found = runpy.run_path(str(ROOT / "examples" / "constrained.py"), run_name="example")
    x, y = found["table"]()
    strength = 0.2
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    exact = torch.linalg.solve(2 * x.T @ x / len(x) + strength * eye, 2 * x.T @ y / len(x))[:, 0]
    norm = float(exact.norm())
    ball, bound_ = found["fitted"](wp.L2Ball(norm).on()), found["fitted"](wp.NormBound(norm).on())
    for one in (found["fitted"](wp.L2(strength).on(how="prox")), ball, bound_):
        assert torch.allclose(one.w[0], exact, atol=1e-9)
    assert bound_.multiplier == pytest.approx(strength, abs=1e-8)
    assert float(ball.grad.norm() / ball.w.norm()) == pytest.approx(strength, abs=1e-8)
    lasso = found["fitted"](wp.L1(strength).on())
    inside = found["fitted"](wp.L1Ball(float(lasso.w.abs().sum())).on())
    assert torch.allclose(lasso.w, inside.w, atol=1e-9)
    assert torch.equal(lasso.w == 0, inside.w == 0)
    assert float(inside.grad.abs().max()) == pytest.approx(strength, abs=1e-8)


def test_the_figure_is_small_and_readable_on_any_ground() -> None:
    figure = (DOCS / "figures" / "constrained.svg").read_text()
    assert len(figure) < 60_000
    assert "slope -2" in figure
    assert "#000000" not in figure
    assert "#ffffff" not in figure
