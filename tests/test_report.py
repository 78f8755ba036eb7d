"""The report: what it says, that nothing can be injected, and that a missing part is no traceback."""

from __future__ import annotations

import ast
import contextlib
import copy
import itertools
import json
import math
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wellposed.core import drawing, formats
from wellposed.core.errors import FormatError, InputError
from wellposed.core.records import clean_json
from wellposed.core.signs import HIDDEN
from wellposed.reporting import figures, pages
from wellposed.reporting import html as page
from wellposed.study import verdict
from wellposed.study.study import summary

pytest.importorskip("jinja2")
matplotlib = pytest.importorskip("matplotlib")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ \"' & 漢字 \u202e\x07\x1b[31m\r\x00\u200b"
TWO_MEGABYTES = 2 * 1024 * 1024
VOID = {"meta", "br", "img", "link", "input", "hr"}


def history(epochs: int, rise: float, constant: float = 0.69) -> dict[str, Any]:
    rows = [
        {
            "epoch": e,
            "train_loss": 0.1 + 0.5 * math.exp(-e / 5),
            "valid_loss": 0.3 + 0.4 * math.exp(-e / 5) + rise * max(0, e - 10),
            "train_loss_se": 0.01,
            "valid_loss_se": 0.012,
            "train_metric": 0.95 - 0.3 * math.exp(-e / 5),
            "valid_metric": 0.88 - 0.3 * math.exp(-e / 5),
        }
        for e in range(epochs)
    ]
    return {"schema": 1, "facts": {"chosen": min(12, epochs - 1), "constant_loss": constant}, "rows": rows}


def trial(index: int, kind: str = "search") -> dict[str, Any]:
    return {
        "index": index,
        "kind": kind,
        "describe": f"adamw lr {0.001 * (index + 1):g}, dropout 0.2",
        "valid": 0.85 + 0.001 * index,
        "valid_loss": 0.3,
        "train_loss": 0.2,
        "epochs": 40,
        "best_epoch": 20,
        "seconds": 3.2,
        "stopped": "patience",
        "train_rows": 4800,
    }


def audit(rows: int = 2) -> dict[str, Any]:
    row = {
        "parameter": "layers.0.weight",
        "shape": [128, 54],
        "role": "weight",
        "term": "L2(0.01)",
        "how": "decay",
        "effective_strength": None,
        "objective": "no fixed objective",
    }
    return {"convention": "mean loss over examples", "notes": ["note: a ramp"], "rows": [row] * rows}


def finding(name: str) -> dict[str, Any]:
    evidence = {"estimate": 0.13, "low": 0.09, "high": None}
    return {"name": name, "confidence": 0.93, "evidence": evidence, "lever": "add dropout", "says": "It rises."}


@pytest.fixture
def record() -> dict[str, Any]:
    """A study in which the gain is shown and no reference is ahead."""
    return {
        "schema": 1,
        "wellposed": "0.1.0",
        "torch": "2.13.0",
        "device": "cpu",
        "threads": 2,
        "command": "wellposed improve adult.csv --target income",
        "seed": 7,
        "name": "adult",
        "task": "classification",
        "metric": {"name": "accuracy", "higher_is_better": True},
        "data": {
            "rows": 8000,
            "features": 54,
            "train": 4800,
            "valid": 2000,
            "test": 1200,
            "sha256": "9f86d081884c7d65",
        },
        "references": {"constant": 0.5, "linear": 0.84, "boosting": 0.87},
        "baseline": {"recipe": "adamw lr 0.003", "valid": 0.866, "test": 0.864, "findings": ["overfits"]},
        "best": {"recipe": "adamw lr 0.002, dropout 0.2", "valid": 0.884, "test": 0.876, "findings": ["healthy"]},
        "improvement": {
            "estimate": 0.012,
            "low": 0.004,
            "high": 0.02,
            "level": 0.95,
            "pairs": 5,
            "looks": 1,
            "shown": True,
            "limited_by": "rows",
        },
        "recipes_tried": 12,
        "seconds": 298.4,
        "trials": [trial(i, "baseline" if i < 3 else "search") for i in range(12)] + [trial(12, "confirmation")],
        "histories": {"baseline": history(30, 0.01), "best": history(40, 0.0)},
        "diagnoses": {
            "baseline": {"best_epoch": 12, "findings": [finding("overfits")]},
            "best": {"best_epoch": 12, "findings": [finding("over_regularized")]},
        },
        "audits": {"baseline": audit(), "best": audit()},
        "recipes": {"baseline": 'epochs = 100\n[optimizer]\nname = "adamw"\n', "best": "[noise]\ndropout = 0.2\n"},
        "differences": {
            "noise.dropout": [None, 0.2],
            "terms": [[], [{"penalty": "l2", "strength": 0.01, "on": "weights"}]],
        },
        "confirmation": {"seeds": [0, 1], "baseline": [0.864, 0.861], "best": [0.877, 0.874], "rows": 1200},
        "warnings": ["Column 'id' looks like an id."],
        "notes": ["trained on 4,800 of 40,000 rows during the search"],
        "versions": {"python": "3.11.9", "numpy": "2.1.0"},
        "looks": 1,
        "target": "income",
        "classes": ["<=50K", ">50K"],
    }


class Reader(HTMLParser):
    """Reads a page as a browser would: its words, its tags, and what would be run or fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(source: str) -> Reader:
    reader = Reader()
    reader.feed(source)
    reader.close()
    return reader


FREE_KEYS = ("differences", "versions", "evidence")  # mappings whose keys are anybody's


def spoiled(value: Any, key: str = "") -> Any:
    """The record with every string made hostile."""
    if isinstance(value, dict):
        return {(k + EVIL if key in FREE_KEYS else k): spoiled(item, k) for k, item in value.items()}
    if isinstance(value, list):
        return [spoiled(item, key) for item in value]
    return EVIL + value + "W" * 300 if isinstance(value, str) and key not in ("kind", "limited_by") else value


def dangers(source: str) -> list[str]:
    """What a page would run or fetch."""
    reader = read(source)
    found = [tag for tag in ("script", "img", "iframe", "object", "embed", "link", "base", "form") if reader.tags[tag]]
    found += [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    found += [value for name, value in reader.attributes if name.endswith("href") and not value.startswith("#")]
    found += [value for name, value in reader.attributes if name == "style" and re.search(r"url\((?!#)", value)]
    return found


# the verdict


def test_a_shown_gain_is_said_first_and_in_one_sentence(record: dict[str, Any]) -> None:
    sentence = verdict.verdict(record).sentence
    assert sentence == (
        "Shown: the best recipe is better than the tuned baseline by 0.012 accuracy "
        "on 1,200 untouched rows (95 % interval 0.004 to 0.020, 5 paired seeds)."
    )
    text = read(page.render(record)).text
    assert re.sub(r"\s+", " ", sentence) in text
    assert text.index("better than the tuned baseline") < text.index("untouched rows 0.864")


def test_a_gain_that_is_not_shown_says_what_limits_and_what_to_do(record: dict[str, Any]) -> None:
    record["improvement"].update(estimate=0.004, low=-0.003, high=0.011, shown=False)
    found = verdict.verdict(record)
    assert found.kind == "unproven"
    assert found.sentence.startswith(
        "Not shown: a difference between the best recipe and the tuned baseline. The gain is +0.004"
    )
    assert "may be chance (95 % interval −0.003 to 0.011" in found.sentence
    assert "more seeds would not narrow" in found.limits
    assert "--test" in found.limits
    record["improvement"]["limited_by"] = "seeds"
    assert "larger budget" in verdict.verdict(record).limits
    assert "larger budget" in read(page.render(record)).text


def test_a_gain_that_is_not_shown_says_how_many_seeds_or_rows_would_show_it(record: dict[str, Any]) -> None:
    needs = {"gain": 0.004, "smallest": 0.0101, "pairs": None, "rows": 4012, "both": None, "power": 0.8}
    record["improvement"].update(estimate=0.004, low=-0.003, high=0.011, shown=False, needs=needs)
    found = verdict.verdict(record)
    assert found.limits == (
        "No number of seeds up to 1,000 would show a gain of this size on these 1,200 rows; about 4,100 rows with "
        "these 5 pairs of seeds would, with probability 0.8; the smallest gain that 5 pairs of seeds on 1,200 rows "
        "would have shown is 0.010 accuracy. New rows come with --test."
    )
    assert "about 4,100 rows" in read(page.render(record)).text
    needs.update(pairs=9, rows=None)
    assert verdict.verdict(record).limits.endswith("A larger budget trains more pairs.")
    needs.update(pairs=None, both=[20, 9000])
    assert "about 20 pairs of seeds on 9,000 rows" in verdict.verdict(record).limits
    record["improvement"].update(estimate=-0.001, needs={**needs, "gain": -0.001})
    assert verdict.verdict(record).limits.startswith("There is no gain to show")
    for odd in (
        {"gain": "x"},
        {"smallest": None},
        {**needs, "both": [1, {}], "pairs": "9", "rows": math.nan, "power": 7},
    ):
        record["improvement"]["needs"] = odd
        verdict.verdict(record)


def test_one_pair_of_seeds_shows_nothing(record: dict[str, Any]) -> None:
    record["improvement"].update(pairs=1)
    found = verdict.verdict(record)
    assert found.kind == "unproven"
    assert "which may be a lucky seed (95 % interval 0.004 to 0.020, 1 paired seed)" in found.sentence
    assert "at least five pairs" in found.limits


def test_a_loss_against_the_baseline_is_said(record: dict[str, Any]) -> None:
    record["improvement"].update(estimate=-0.01, low=-0.016, high=-0.004, shown=False)
    found = verdict.verdict(record)
    assert found.kind == "worse"
    assert "worse than the tuned baseline by 0.010 accuracy" in found.sentence
    assert "Keep the baseline." in found.sentence
    record["improvement"].update(high=0.002)
    assert verdict.verdict(record).sentence.startswith(
        "Not shown: a difference between the best recipe and the tuned baseline"
    )


@pytest.mark.parametrize("change", [{"low": -0.001}, {"estimate": -0.01}, {"shown": "yes"}, {"shown": None}])
def test_shown_is_never_said_against_the_numbers(record: dict[str, Any], change: dict[str, Any]) -> None:
    record["improvement"].update(change)
    assert verdict.verdict(record).kind != "shown"


def test_an_interval_has_the_sign_of_what_is_said(record: dict[str, Any]) -> None:
    """A gain that is not shown keeps its ends, also below 0; what another is better by has them turned round."""
    found = {"estimate": -0.01, "low": -0.03, "high": 0.01, "level": 0.95, "pairs": 5}
    record["references"], record["against_references"] = {"linear": 0.9}, {"linear": found}
    (said,) = verdict.against(record)
    assert "gain is −0.010 accuracy (95 % interval −0.030 to 0.010" in said.says
    found["high"] = -0.004
    (said,) = verdict.against(record)
    assert "better than the network by 0.010 accuracy (95 % interval 0.004 to 0.030" in said.says


def test_where_the_baseline_stays_the_best_it_is_said(record: dict[str, Any]) -> None:
    record["recipes"]["best"] = record["recipes"]["baseline"]
    record["differences"] = {}
    record["improvement"].update(estimate=0.0, low=0.0, high=0.0, shown=False)
    assert "no recipe of the search beat the tuned baseline" in verdict.verdict(record).sentence
    shown = read(page.render(record)).text
    assert "tuned baseline" in shown
    for twice in ("best recipe", "Best recipe", "What changed in the recipe", '<th scope="col" class="n">gain'):
        assert twice not in shown, twice


def test_where_the_baseline_stays_the_best_it_is_shown_once_with_what_could_have_been_seen(
    record: dict[str, Any],
) -> None:
    record["recipes"]["best"] = record["recipes"]["baseline"]
    record["improvement"] |= {"estimate": 0.0, "low": 0.0, "high": 0.0, "shown": False, "pairs": 5}
    record["improvement"]["needs"] = {"gain": 0.0, "smallest": 0.0123, "power": 0.8}
    record["trials"] += [trial(90, "finalist") | {"describe": describe} for describe in ("x", "y", "x")]
    said = verdict.verdict(record)
    assert "The best 2 of them and the baseline were trained again" in said.support
    assert "a gain of 0.012 accuracy with probability 0.8" in said.limits
    record["confirmation"]["baseline"] = [0.5, 0.5, 0.5, 0.5, 0.48]
    said = verdict.verdict(record)
    assert "not known: 4 of 5 runs of the baseline have one score, 0.5" in said.limits
    assert summary(record).count("on untouched rows; ") == 1
    record["improvement"]["needs"]["smallest"] = 0.0  # one pair, or written before this was measured
    assert verdict.verdict(record).limits == ""


def test_a_metric_where_lower_is_better(record: dict[str, Any]) -> None:
    record["metric"] = {"name": "rmse", "higher_is_better": False}
    record["references"] = {"constant": 115_000.0, "linear": 68_000.0, "boosting": 47_000.0}
    record["baseline"]["test"], record["best"]["test"] = 54_000.0, 51_000.0
    record["improvement"].update(estimate=2869.5, low=812.0, high=4927.0)
    record["confirmation"].update(baseline=[54_100.0, 53_900.0], best=[51_200.0, 54_000.0])
    record["against_references"] = against(constant=(64_000, 1000), linear=(17_000, 900), boosting=(-4000, 800))
    found = verdict.verdict(record)
    assert "better than the tuned baseline by 2,870 RMSE" in found.sentence
    assert found.references[0] == (
        "Histogram boosting is better than the network by 4,000 RMSE (98.33 % interval 3,200 to 4,800, 5 paired seeds). "
        "It scores 47,000 against 51,000."
    )
    assert len(found.references) == 2  # and what to do: nothing of the linear model, which is behind
    text = read(page.render(record)).text
    assert "lower is better" in text
    assert "+2,900" in text  # per seed, positive is better
    assert "−100" in text


def against(pairs: int = 5, **found: tuple[float, float]) -> dict[str, Any]:
    """The network against references: the gain and half its interval."""
    return {
        key: {"estimate": gain, "low": gain - half, "high": gain + half, "level": 1 - 0.05 / 3, "pairs": pairs}
        for key, (gain, half) in found.items()
    }


def test_references_that_are_shown_to_be_better_are_in_the_first_lines(record: dict[str, Any]) -> None:
    record["references"] = {"constant": 0.5, "linear": 0.88, "boosting": 0.91}
    record["against_references"] = against(constant=(0.376, 0.02), linear=(-0.004, 0.001), boosting=(-0.034, 0.01))
    found = verdict.verdict(record).references
    assert found[0].startswith("Histogram boosting is better than the network by 0.034 accuracy (98.33 % interval")
    assert found[1].startswith("A linear model is better than the network by 0.0040 accuracy")
    assert found[2] == verdict.ADVICE["boosting"]
    text = read(page.render(record)).text
    assert text.index("Histogram boosting is better") < text.index("recipes tried")
    assert "the network is better by 0.376 accuracy" in text
    assert "constant: accuracy 0.5000 on the same rows: the network is better by 0.376 accuracy" in summary(record)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"linear": (-0.004, 0.01)},
            ["Not shown: that the network is better than a linear model."],
        ),
        ({"linear": (0.004, 0.01)}, []),
        (
            {"constant": (0.004, 0.01)},
            ["Not shown: that the network is better than a constant", "The network learned"],
        ),
        ({}, []),
        ({"linear": (-0.004, 0.001), "pairs": 1}, []),
        ({"linear": (-0.004, math.nan)}, []),
    ],
)
def test_no_reference_is_called_better_that_is_not_shown_to_be(
    record: dict[str, Any], given: dict[str, Any], said: list[str]
) -> None:
    record["references"] = {"constant": 0.87, "linear": 0.88}
    record["against_references"] = against(**given)
    found = verdict.verdict(record).references
    assert len(found) == len(said)
    assert all(sentence.startswith(begin) for sentence, begin in zip(found, said, strict=True))
    assert "better than the network" not in page.render(record) + summary(record)


def test_where_the_gain_came_from() -> None:
    assert "through regularization" in verdict.source_of_change((0.1, 0.4), (0.15, 0.3), True)
    assert "through optimization" in verdict.source_of_change((0.4, 0.5), (0.2, 0.35), True)
    assert "did not fall" in verdict.source_of_change((0.1, 0.3), (0.1, 0.4), True)
    assert "may be chance" in verdict.source_of_change((0.1, 0.4), (0.1, 0.3), False)
    assert verdict.source_of_change((math.nan, 0.4), (0.1, 0.3), True) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [(0.8831, "0.8831"), (14.256, "14.26"), (-1234.6, "−1,235"), (1.2e-5, "1.2e−05"), (None, "–"), (0, "0.0000")],
)
def test_scores_are_written_for_people(given: float | None, said: str) -> None:
    assert formats.score(given) == said


def test_no_minus_zero() -> None:
    assert formats.format_decimals(-0.0004, 3) == "0.000"
    assert formats.with_sign(0.0004, 3) == "0.000"


def test_durations() -> None:
    assert [formats.duration(s) for s in (3.24, 48, 298.4, 3599.7, 7500, -1)] == [
        "3.2 s",
        "48 s",
        "4 min 58 s",
        "1 h",
        "2 h 5 min",
        "–",
    ]


def test_ticks_are_written_alike() -> None:
    assert drawing.tick_labels([60_000.0, 80_000.0, 100_000.0]) == ["60k", "80k", "100k"]
    assert drawing.tick_labels([-0.25, 0.0, 0.25], sign=True) == ["−0.25", "0", "+0.25"]
    assert len(set(drawing.tick_labels([0.8642, 0.8644, 0.8646]))) == 3


# the page


def test_the_page_is_whole_small_and_loads_nothing(record: dict[str, Any]) -> None:
    source = page.render(record)
    reader = read(source)
    assert reader.unbalanced == []
    assert reader.open == []
    assert dangers(source) == []
    assert len(source.encode()) < TWO_MEGABYTES
    assert "<script" not in source.lower()
    assert set(re.findall(r"https?://[^\s\"'<]+", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in source
    assert ("lang", "en") in reader.attributes


def test_every_figure_is_well_formed_described_and_has_ids_of_its_own(record: dict[str, Any]) -> None:
    source = page.render(record)
    drawn = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(drawn) == 9  # improvement, references, four curves, two waterfalls, trials
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label")
        assert root.find("{http://www.w3.org/2000/svg}desc") is not None
        assert "font-family" not in svg
        assert "#0000a" not in svg  # every colour is the theme's
        assert "var(--" in svg
    ids = [value for name, value in read(source).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    assert used <= set(ids)


def test_headings_go_down_in_order(record: dict[str, Any]) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", page.render(record))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_both_themes_define_every_colour(record: dict[str, Any]) -> None:
    source = page.render(record)
    used = set(re.findall(r"var\(--(\w+)\)", source)) - {"tone"}
    light, dark, printed = (
        set(re.findall(r"--(\w+): #", block)) for block in re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    )
    assert used <= light
    assert light == dark == printed


def test_everything_needed_to_reproduce_is_there(record: dict[str, Any]) -> None:
    text = read(page.render(record)).text
    for needed in (
        "2.13.0", "3.11.9", "cpu", "wellposed improve adult.csv --target income", "9f86d081884c7d65", "study.json",
        "dropout = 0.2", "0, 1", "Column 'id' looks like an id.", "trained on 4,800 of 40,000", "layers.0.weight",
        "l2 0.01 on weights", "over regularized", "add dropout", "mean loss over examples",
    ):  # fmt: skip
        assert needed in text, needed


def test_equal_records_give_equal_pages_and_leave_matplotlib_alone(record: dict[str, Any]) -> None:
    before = dict(matplotlib.rcParams)
    untouched = copy.deepcopy(record)
    first = page.render(record)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True}):
        assert page.render(record) == first
    assert dict(matplotlib.rcParams) == before
    assert record == untouched


def test_hostile_strings_stay_text(record: dict[str, Any]) -> None:
    source = page.render(spoiled(record))
    assert dangers(source) == []
    assert "<script" not in source.lower()
    assert not [sign for sign in source if unicodedata.category(sign) in HIDDEN and sign not in "\n\t"]
    reader = read(source)
    assert reader.unbalanced == []
    assert "<script>alert(1)</script>" in reader.text  # shown, not run
    for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_hostile_test_would_see_a_page_without_escapes(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(*filters: Any) -> Any:
        made = made_safe(*filters)
        made.autoescape = False
        return made

    made_safe = pages.environment
    monkeypatch.setattr(pages, "environment", careless)
    assert "script" in dangers(page.render(spoiled(record)))


def test_signs_that_no_file_can_hold_are_spelled_out() -> None:
    assert clean_json({"a\ud800": ["x\x00y\n"]}) == {"a\\ud800": ["x\\x00y\n"]}


def test_numbers_that_are_missing_are_dashes(record: dict[str, Any]) -> None:
    record["baseline"]["test"] = None
    record["improvement"].update(low=None, high=math.nan)
    record["references"] = {"constant": None, "linear": None, "boosting": None}
    for row in record["histories"]["best"]["rows"]:
        row["valid_loss"] = None
    record["trials"][4]["valid"] = math.nan
    record["confirmation"]["best"][0] = None
    text = read(page.render(record)).text
    assert "interval unknown" in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_a_diverged_history_is_drawn(record: dict[str, Any]) -> None:
    for place, row in enumerate(record["histories"]["best"]["rows"]):
        row["train_loss"] = row["valid_loss"] = None if place > 5 else 10.0**place * 1e30
    assert "<svg" in page.render(record)


def test_each_part_may_be_missing(record: dict[str, Any]) -> None:
    for key in list(record):
        less = {name: value for name, value in record.items() if name != key}
        drawn = key in ("histories", "confirmation", "trials")
        with contextlib.nullcontext() if drawn else drawing.left_out():
            assert read(page.render(less)).unbalanced == [], key
    assert "not compared on untouched rows" in page.render({})


@pytest.mark.parametrize("odd", [None, "x", [], {}, -1, 1e300, 10**400, [None], {"a": {"b": 1}}])
def test_a_part_of_another_kind_is_no_traceback(record: dict[str, Any], odd: Any) -> None:
    parts = (
        "metric",
        "data",
        "improvement",
        "histories",
        "diagnoses",
        "audits",
        "trials",
        "confirmation",
        "differences",
    )
    page.render({**record, **dict.fromkeys(parts, odd)})
    record["histories"]["best"]["rows"][0] = odd
    record["histories"]["baseline"]["facts"]["chosen"] = odd
    record["trials"][0] = odd
    record["improvement"]["estimate"] = odd
    record["diagnoses"]["best"]["findings"] = odd
    record["references"]["boosting"] = odd
    page.render(record)


def test_long_studies_stay_below_two_megabytes(record: dict[str, Any]) -> None:
    record["histories"]["best"] = history(20_000, 0.0)
    record["trials"] = [trial(i) for i in range(3000)]
    record["audits"]["best"] = audit(5000)
    record["recipes"]["best"] = "# comment\n" * 100_000
    record["warnings"] = ["w" * 10_000] * 1000
    record["classes"] = [str(i) for i in range(10_000)]
    assert len(page.render(record).encode()) < TWO_MEGABYTES


def test_recipes_are_ranked_by_their_score_in_its_direction(record: dict[str, Any]) -> None:
    def first(source: str) -> str:
        return re.findall(r'<td class="wide">(.*?)</td>', source, re.DOTALL)[0]

    assert "adamw lr 0.012" in first(page.render(record))
    record["metric"]["higher_is_better"] = False
    assert "adamw lr 0.001" in first(page.render(record))


# where it is written


def test_a_folder_gets_its_report(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(record))
    written = page.report(tmp_path)
    assert written == tmp_path / "report.html"
    assert written.read_text(encoding="utf-8") == page.render(record)
    assert page.report(str(tmp_path), tmp_path / "deep" / "other.html") == tmp_path / "deep" / "other.html"


def test_a_study_and_a_record_are_accepted(record: dict[str, Any], tmp_path: Path) -> None:
    class Study:
        folder = tmp_path

        def record(self) -> dict[str, Any]:
            return record

    assert page.report(Study()) == tmp_path / "report.html"
    assert page.report(record, tmp_path / "page.html").exists()
    with pytest.raises(InputError, match="say where"):
        page.report(record)
    with pytest.raises(InputError, match="int is none of them"):
        page.report(3, tmp_path / "page.html")


@pytest.mark.parametrize(("schema", "said"), [(0, "reads schema 1 only"), (2, "Update wellposed")])
def test_another_schema_is_refused(record: dict[str, Any], tmp_path: Path, schema: int, said: str) -> None:
    record["schema"] = schema
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(FormatError, match=said):
        page.report(tmp_path)
    with pytest.raises(FormatError, match=said):
        page.render(record)


def test_a_folder_without_a_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="There is no study at"):
        page.report(tmp_path)


@pytest.mark.parametrize("names", [["layers.0.weight"], ["encoder.weight = decoder.weight", "<b>&.weight"]])
def test_a_layer_of_the_best_model_that_is_gone_is_named_in_one_sentence(
    record: dict[str, Any], names: list[str]
) -> None:
    """Two terms on one parameter are one layer; a layer that the baseline has lost is not the best model's."""
    gone = [{**audit()["rows"][0], "parameter": name, "gone": True} for name in names for _ in range(2)]
    record["audits"]["baseline"]["rows"] = [{**audit()["rows"][0], "parameter": "baseline.weight", "gone": True}]
    record["audits"]["best"]["rows"] += gone
    whose = "all its weights" if len(names) == 1 else "all their weights"
    sentence = f"Nothing is left of {', '.join(names)} in the best model: {whose} are exactly 0."
    assert verdict.emptied_note(record) == sentence
    source = page.render(record)
    assert read(source).text.count(sentence) == 1
    assert read(source).text.index(sentence) < read(source).text.index("Learning curves")
    assert dangers(source) == []


@pytest.mark.parametrize("gone", [False, None, "yes", 1, []])
def test_nothing_is_said_to_be_gone_that_is_there(record: dict[str, Any], gone: Any) -> None:
    """Records that were written before a row said so, and odd ones, say nothing."""
    assert verdict.emptied_note(record) == ""
    for row in record["audits"]["best"]["rows"]:
        row["gone"] = gone
    record["audits"]["best"]["rows"] += ["no row", {"gone": True}, {"parameter": [1], "gone": True}]
    assert verdict.emptied_note(record) == ""
    assert "Nothing is left of" not in page.render(record)
    assert verdict.emptied_note({"audits": {"best": 3}}) == ""


def test_penalties_of_outputs_are_on_nothing() -> None:
    from wellposed.recipe.recipe import Recipe

    terms = [{"penalty": "confidence", "strength": 0.1}, {"penalty": "l1", "strength": 0.1}]
    found = Recipe(terms=terms).differences(Recipe())["terms"]
    assert verdict.setting(found[0]) == "confidence 0.1; l1 0.1 on weights"


# Labels in any script


SCRIPTS = "漢字 🎉 العربية हिन्दी $x^{2}$ <b>"


def test_labels_of_any_script_are_drawn_without_a_warning_and_are_text_in_an_svg() -> None:
    drawn = figures.dots(
        "a", SCRIPTS, [figures.Mark(SCRIPTS, 0.5, drawing.BEST), figures.Mark("plain", 0.4, drawing.BASELINE)]
    )
    for said in ("漢字", "🎉", "हिन्दी", "&lt;b&gt;"):
        assert said in drawn, said
    assert not set(drawn) & set(drawing.STAND_INS)


def test_more_signs_than_stand_ins_become_boxes() -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    drawn = figures.dots("a", "b", [figures.Mark(many, 0.5, drawing.BEST)])
    assert many[:255] in drawn
    assert drawn.count(drawing.BOX) == 45


def test_every_place_that_draws_a_figure_looks_at_its_letters() -> None:
    """A new place that calls ``savefig`` without `drawing.lettered` would put matplotlib's warnings on a terminal."""
    folder = Path(page.__file__).parents[1]
    places = [
        node
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "savefig" in ast.dump(node)
    ]
    assert len(places) == 2
    assert all("replace_missing_signs" in ast.dump(node) for node in places)
