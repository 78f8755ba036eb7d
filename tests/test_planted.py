"""Planted cases build, their ground truths hold and refuse what is not so, and the score is right on results made by hand."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks" / "planted").is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.planted import beside, data, published, truth  # noqa: E402
from benchmarks.planted.case import CAUSES, GROUPS, Draws, Kind  # noqa: E402
from benchmarks.planted.parts import PARTS, kinds_of  # noqa: E402
from benchmarks.planted.score import Judged, markdown, score, wilson  # noqa: E402
from benchmarks.planted.training import Training  # noqa: E402
from benchmarks.planted.tuned import perceptron  # noqa: E402

from wellposed.diagnosis.diagnose import rules  # noqa: E402

HALVES = {"tuned": ("tuned",), "frozen": ("frozen", "frozen_codes")}
KINDS = [kind for file in ("tuned", "frozen", "frozen_codes", "frozen_two") for kind in kinds_of(file).values()]


def test_every_cause_is_planted_in_both_halves():
    for files in HALVES.values():
        planted = {cause for file in files for kind in kinds_of(file).values() for cause in kind.causes}
        assert planted == set(CAUSES)


def test_the_halves_share_no_kind_and_each_has_every_group():
    assert not set(kinds_of("tuned")) & set(kinds_of("frozen"))
    assert len(KINDS) >= 60
    for half in HALVES:
        groups = [kind.group for kind in kinds_of(half).values()]
        assert all(groups.count(group) >= 4 for group in GROUPS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_says_what_is_planted_and_how_it_is_known(kind: Kind):
    assert "Known:" in kind.doc
    assert not kind.causes & kind.allowed
    assert kind.causes


def test_the_frozen_part_has_test_parameters_alone():
    assert {side for _, side in PARTS["frozen"]} == {"test"}
    assert PARTS["tuned"] == (("tuned", "tuned"),)


def test_draws_repeat_and_the_two_sides_differ():
    def drawn(side: str, seed: int) -> tuple[float, int, str]:
        draw = Draws("kind", side, seed)
        return draw.number("a", (1.0, 2.0), (10.0, 20.0)), draw.whole("b", (1, 9)), draw.one_of("c", "xy", "z")

    assert drawn("tuned", 3) == drawn("tuned", 3)
    assert all(1 <= drawn("tuned", seed)[0] <= 2 for seed in range(20))
    assert all(10 <= drawn("test", seed)[0] <= 20 and drawn("test", seed)[2] == "z" for seed in range(20))
    assert [drawn("tuned", seed)[1] for seed in range(20)] != [drawn("test", seed)[1] for seed in range(20)]


QUICK = (
    ("tuned", "parity_for_a_linear_model"),
    ("tuned", "correlated_inputs"),
    ("tuned", "few_rows_of_a_noisy_curve"),
    ("tuned", "raw_and_sorted"),
    ("frozen", "logs_of_a_loss_that_runs_away"),
    ("frozen", "powers_of_one_number"),
)
"""Kinds of synthetic data that train in a second."""


@pytest.mark.parametrize(("half", "name"), QUICK)
def test_a_case_builds_and_its_ground_truth_holds(half: str, name: str):
    torch.set_num_threads(1)
    case = kinds_of(half)[name].case(1, "test")
    assert case.make() is case.source
    assert case.truth() == ""


def test_equal_seeds_train_equal_cases():
    first, second = (kinds_of("tuned")["correlated_inputs"].case(0) for _ in range(2))
    assert first.drawn == second.drawn
    assert first.make().history["valid_loss"] == second.make().history["valid_loss"]


def test_the_trace_and_the_watch_measure_the_same(sane: Training):
    watched, fresh = sane.watched().history["valid_loss"][-1], sane.trace.end()
    assert watched == pytest.approx(fresh, abs=5 * float(sane.trace.rows[-1].std()) / 400**0.5)


@pytest.fixture(scope="module")
def sane() -> Training:
    split = data.linear_classes(800, 400, 0, features=5, scale=6.0)
    return Training(split, perceptron(split, depth=0), 0, lr=0.04, epochs=16, batch=64, schedule="cosine")


@pytest.fixture(scope="module")
def greedy() -> Training:
    split = data.curve(100, 300, 1, noise=0.7, bends=0.4, features=8)
    return Training(split, perceptron(split), 0, {"width": 128}, "squared_error", epochs=50)


def test_ground_truths_tell_a_sane_training_from_a_greedy_one(sane: Training, greedy: Training):
    assert truth.healthy(sane) == ""
    assert truth.healthy(greedy)
    assert truth.rises(greedy) == ""
    assert truth.rises(sane)
    assert truth.does_not_rise(greedy)
    assert truth.hardly_a_gap(greedy)
    assert truth.swings(sane)
    assert truth.leaves_the_numbers(sane)
    assert truth.learns_nothing(sane)


def test_a_fault_that_is_none_is_dropped(sane: Training):
    assert truth.worse(sane, sane)
    slow = sane.but(lr=1e-5)
    assert truth.worse(slow, sane) == ""
    assert truth.worse(sane, slow), "mended training that learns nothing proves nothing"


def test_dead_units_are_counted_over_all_rows():
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.no_grad():
        net[0].bias[:2] = -100.0
        net[0].bias[2:] = 100.0
    assert truth.dead_share(net, torch.randn(50, 3)) == 0.25


def test_no_row_of_a_split_is_in_another_one():
    split = data.parity(600, 200, 0, bits=5)
    rows = torch.cat([split.train[0], split.valid[0], split.fresh[0]])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_a_folder_without_data_is_named():
    with pytest.raises(FileNotFoundError, match="--data"):
        data.use("nowhere")


Judge = Callable[[Kind], dict[str, float]]


def by(judge: Judge) -> dict:
    """The score of a judge who knows the kind."""
    rows = [Judged(kind.name, "all", kind.group, 0, kind.causes, kind.allowed, judge(kind)) for kind in KINDS]
    return score(rows)


def test_who_finds_exactly_the_causes_is_perfect():
    scored = by(lambda kind: dict.fromkeys(kind.causes, 1.0))
    assert scored["macro_f1"] == 1
    assert scored["exact"]["share"] == 1
    assert scored["alarms"]["both"]["hits"] == 0


def test_who_finds_nothing_misses_everything():
    scored = by(lambda kind: {})
    assert scored["macro_f1"] == 0
    assert all(row["missed"] == row["planted"] for row in scored["causes"].values())
    assert scored["alarms"]["both"]["hits"] == 0


def test_who_finds_everything_misses_nothing_and_alarms_everywhere():
    scored = by(lambda kind: dict.fromkeys(CAUSES, 1.0))
    assert all(row["recall"] == 1 for row in scored["causes"].values())
    assert scored["macro_f1"] < 0.2
    assert scored["alarms"]["healthy"]["share"] == 1
    assert scored["alarms"]["near_miss"]["share"] == 1


def test_who_always_finds_health_finds_no_fault():
    scored = by(lambda kind: {"healthy": 1.0})
    assert scored["causes"]["healthy"]["recall"] == 1
    assert scored["causes"]["healthy"]["precision"] < 0.5
    assert sum(row["detected"] for name, row in scored["causes"].items() if name != "healthy") == 0
    assert scored["macro_f1"] < 0.05
    assert scored["alarms"]["both"]["hits"] == 0


def row(
    causes: set[str], found: set[str], group: str = "fault", allowed: tuple[str, ...] = (), dropped: str = ""
) -> Judged:
    return Judged("kind", "all", group, 0, frozenset(causes), frozenset(allowed), dict.fromkeys(found, 1.0), dropped)


def test_counts_of_a_few_cases():
    scored = score(
        [
            row({"overfits"}, {"overfits", "slow"}, allowed=("slow",)),
            row({"overfits"}, {"underfits"}),
            row({"slow", "overfits"}, {"slow"}),
            row({"healthy"}, {"overfits"}, "healthy"),
            row({"healthy"}, {"healthy"}, "near_miss"),
            row({"slow"}, {"underfits"}, dropped="no effect"),
        ]
    )
    overfits = scored["causes"]["overfits"]
    assert (overfits["planted"], overfits["detected"], overfits["missed"], overfits["false_alarms"]) == (3, 1, 2, 1)
    assert overfits["confused_with"] == {"underfits": 1}
    assert (overfits["precision"], overfits["recall"]) == (1 / 2, 1 / 3)
    assert overfits["f1"] == 2 / 5
    assert scored["causes"]["slow"]["f1"] == 1, "what is allowed counts neither way"
    assert scored["causes"]["underfits"]["planted"] == 0
    assert scored["macro_f1"] == pytest.approx((2 / 5 + 1 + 2 / 3) / 3)
    assert (scored["cases"], scored["dropped"]) == (5, 1)
    assert scored["alarms"]["healthy"]["share"] == 1
    assert scored["alarms"]["near_miss"]["share"] == 0


def test_the_first_finding_may_be_named_in_place_of_the_cause():
    rows = [
        Judged(
            "kind", "all", "fault", 0, frozenset({"slow"}), frozenset({"undertrained"}), found, first=frozenset(first)
        )
        for found, first in (
            ({"undertrained": 0.9, "healthy": 0.6}, {"undertrained"}),
            ({"undertrained": 0.9, "slow": 0.6}, ()),
            ({}, {"undertrained"}),
        )
    ]
    assert [row.named for row in rows] == ["slow", "undertrained", "nothing"]
    assert score(rows)["first"]["right"]["hits"] == 1
    assert score(rows)["first"]["macro_f1"] == pytest.approx(2 * 1 / (3 + 1))


def test_published_faults_have_names_and_programs_build_what_was_published():
    assert {name for names in published.NAMES.values() for name in names} <= {rule.name for rule in rules()}
    assert all(work.right for work in published.PROGRAMS.values())
    setup = published.PROGRAMS["31556268"].build(0)
    assert published.LOSSES[setup.loss](setup.net(setup.train[0]), setup.train[1]).isfinite()


def test_losses_of_probabilities_against_torch():
    outputs, y = torch.rand(20, 3), torch.eye(3)[torch.arange(20) % 3]
    scaled = outputs / outputs.sum(1, keepdim=True)
    assert published.binary(outputs, y) == pytest.approx(float(torch.nn.functional.binary_cross_entropy(outputs, y)))
    assert published.categorical(outputs, y) == pytest.approx(float(-(y * scaled.log()).sum(1).mean()))


SPOTTED = '{"run": {"metrics": {}}, "findings": [{"detector": "%s", "severity": "%s"}]}'


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (SPOTTED % ("overfitting", "warning"), beside.Said(frozenset(beside.MEMORY), alarm=True)),
        (SPOTTED % ("overfitting", "info"), beside.Said(frozenset(beside.MEMORY), alarm=False)),
        (SPOTTED % ("throughput", "error"), beside.Said(frozenset({"healthy"}), alarm=False)),
        ('{"run": {"metrics": {}}, "findings": []}', beside.Said(frozenset({"healthy"}), alarm=False)),
        ("no JSON", beside.NOTHING),
    ],
)
def test_what_another_tool_prints_is_translated_in_its_favour(printed: str, expected: beside.Said, tmp_path: Path):
    tool = tmp_path / "trainspotter"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\n")
    tool.chmod(0o755)
    assert beside.theirs("trainspotter", tmp_path, tmp_path / "log.csv") == expected


def test_wilson_against_known_values():
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_tables_name_every_cause_and_kind():
    text = markdown(by(lambda kind: {"healthy": 0.9}), "always healthy")
    assert all(f"| {cause} |" in text for cause in CAUSES)
    assert all(f"| {kind.name} |" in text for kind in KINDS)
