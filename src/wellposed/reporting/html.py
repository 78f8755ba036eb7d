"""The report: a study's record as one self-contained HTML page, its verdict first.

The page loads nothing, runs no script, and escapes every string of the record: column names, cell values, recipes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from wellposed.bayes.reliability_figure import calibration_sentence, draw_reliability
from wellposed.core import drawing, formats
from wellposed.core.checks import checked
from wellposed.core.errors import FormatError, InputError
from wellposed.core.files import check_schema, read_json, write_atomically
from wellposed.core.reading import read_bytes
from wellposed.core.records import (
    clean_json,
    finite_numbers,
    listing,
    mapping,
    number_or_nan,
    numbers_or_nan,
    part,
    rows,
    text,
    texts,
)
from wellposed.decomposition import waterfall
from wellposed.diagnosis.finding import evidence_rows
from wellposed.reporting import budget_panel, figures
from wellposed.reporting.pages import page
from wellposed.study import verdict
from wellposed.study.time_spent import TimeSpent

SCHEMA = 1
RECORD = "study.json"
PAGE = "report.html"
SIDES = {"baseline": "Tuned baseline", "best": "Best recipe"}
FIRST_RECIPES = 8  # shown at once; the rest unfolds
MOST_RECIPES = 1000  # and audit rows: a page has 2 MB
MOST_ROWS = 600
MOST_FINDINGS = 12
TOML_LENGTH = 20_000


@checked
def report(study_or_folder: Any, path: str | Path | None = None) -> Path:
    """Write the report of a study as one HTML file that works offline, and say where it lies.

    Args:
        study_or_folder: a `Study`, the folder of one (with its ``study.json``), or a record as a mapping.
        path: the file to write; ``report.html`` in the study's folder if left out. A folder gets a ``report.html``.
    Raises:
        FormatError: the folder has no readable ``study.json`` of this schema.
        InputError: it is none of these, or nothing says where to write.
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    record, folder = _record_and_folder(study_or_folder)
    if path is None and folder is None:
        raise InputError('This study has no folder to write the report to; say where: wp.report(study, "report.html").')
    target = Path(path if path is not None else str(folder))
    if path is None or target.is_dir():
        return write_atomically(target / PAGE, render(record), within=target)
    return write_atomically(target, render(record))


def same_page(folder: str | Path) -> bool:
    """Whether the ``report.html`` of a folder is the page that its ``study.json`` makes."""
    try:
        held = read_bytes(Path(folder) / PAGE, "page", FormatError).decode()
    except (FormatError, UnicodeDecodeError):
        return False
    return held == render(read_json(Path(folder) / RECORD, SCHEMA, "study"))


def _record_and_folder(given: Any) -> tuple[dict[str, Any], str | Path | None]:
    if isinstance(given, dict):
        return given, None
    if isinstance(given, (str, Path)):
        folder = Path(given).parent if Path(given).name == RECORD else Path(given)
        return read_json(folder / RECORD, SCHEMA, "study"), folder
    if callable(getattr(given, "record", None)):
        return given.record(), getattr(given, "folder", None)
    raise InputError(f"A report is made of a Study, its folder or its record; {type(given).__name__} is none of them.")


def render(record: dict[str, Any]) -> str:
    """The page of a record: what ``study.json`` holds. Equal records give equal pages; a missing part is left out."""
    check_schema(record.get("schema", SCHEMA), SCHEMA, RECORD, "study")
    tidy = clean_json(record)
    return page("report.html.j2", _view(tidy), verdict.setting)


def _sides(record: dict[str, Any]) -> dict[str, str]:
    """What each side of the study is called; the baseline alone where it stayed the best, so that nothing is shown twice."""
    return {side: SIDES[side] for side in verdict.sides(record)}


def _view(record: dict[str, Any]) -> dict[str, Any]:
    """Everything the template shows; a section without content is None or empty."""
    return {
        "name": text(record.get("name"), 120),
        "verdict": verdict.verdict(record),
        "emptied": verdict.emptied_note(record),
        "metric": verdict.metric_name(record),
        "directed": part(record, "metric", "name") is not None,
        "higher": verdict.higher_is_better(record),
        "task": text(record.get("task"), 60),
        "target": text(record.get("target"), 120),
        "classes": texts(record.get("classes"), 60, 40),
        "sides": SIDES,
        "glance": _glance(record),
        "references": _references(record),
        "curves": _curves(record),
        "decomposition": _decomposition(record),
        "calibration": _calibration(record),
        "diagnoses": _diagnoses(record),
        "advice": [told for one in rows(record.get("advice"))[:MOST_FINDINGS] if (told := text(one.get("told"), 600))],
        "changes": _changes(record),
        "ablation": _ablation(record),
        "small": _small(record),
        "recipes": _recipes(record),
        "audits": _audits(record),
        "evidence": _evidence(record),
        "data": _data(record),
        "warnings": texts(record.get("warnings"), 600),
        "notes": texts(record.get("notes"), 600),
        "time": TimeSpent.of(record),
        "reproduce": _reproduce(record),
    }


def _glance(record: dict[str, Any]) -> list[dict[str, str]]:
    """The key numbers: a label, the number, and what it means."""
    metric = verdict.metric_name(record)
    cells = []
    chose = f"{metric}; the search chose on these"
    for key, label, note in (("test", "on untouched rows", metric), ("valid", "on validation rows", chose)):
        values = [part(record, side, key) for side in _sides(record)]
        if finite_numbers([number_or_nan(value) for value in values]):
            before = formats.score(values[0]) if len(values) == 2 else ""
            note += verdict.beside_constant(record, key)
            cells.append({"label": label, "before": before, "value": formats.score(values[-1]), "note": note})
    seconds, features = number_or_nan(record.get("seconds")), number_or_nan(part(record, "data", "features"))
    took = f"in {formats.duration(seconds)}" if math.isfinite(seconds) else ""
    wide = formats.count_noun(features, "feature") if math.isfinite(features) else ""
    tried, size = number_or_nan(record.get("recipes_tried")), number_or_nan(part(record, "data", "rows"))
    for label, number, note in (("recipes tried", tried, took), ("rows of data", size, wide)):
        if math.isfinite(number):
            cells.append({"label": label, "before": "", "value": formats.count(number), "note": note})
    return cells


def _references(record: dict[str, Any]) -> dict[str, Any] | None:
    """Every model's score on the same untouched rows, in order, and what is shown of the network against each reference; None where
    there is no reference."""
    scores = verdict.reference_scores(record)
    if not scores:
        return None
    labels = {"constant": "constant", "linear": "linear model", "boosting": "boosting"}
    marks = [figures.Mark(labels[key], value, drawing.REFERENCE) for key, value in scores.items()]
    colours = {"baseline": drawing.BASELINE, "best": drawing.BEST}
    for side, title in _sides(record).items():
        value = number_or_nan(part(record, side, "test"))
        if math.isfinite(value):
            marks.append(figures.Mark(title.lower(), value, colours[side]))
    marks.sort(key=lambda mark: mark.value, reverse=verdict.higher_is_better(record))
    listed = ", ".join(f"{mark.label} {formats.score(mark.value)}" for mark in marks)
    label = f"{verdict.metric_name(record)} on the same untouched rows, in order: {listed}"
    says = [(labels[one.key], one.says) for one in verdict.against(record)]
    return {"svg": figures.dots("references", label, marks), "says": says}


def _histories(record: dict[str, Any]) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The facts and rows of each side that has any."""
    told = {side: mapping(part(record, "histories", side)) for side in _sides(record)}
    return {
        side: (mapping(one.get("facts")), epochs) for side, one in told.items() if (epochs := rows(one.get("rows")))
    }


def _column(epochs: list[dict[str, Any]], name: str) -> list[float]:
    return [number_or_nan(row.get(name)) for row in epochs]


def _chosen(facts: dict[str, Any], epochs: list[dict[str, Any]]) -> int:
    """The index of the chosen epoch: as recorded, else the lowest validation loss; -1 where there is none."""
    recorded = number_or_nan(facts.get("chosen"))
    if math.isfinite(recorded) and 0 <= recorded < len(epochs):
        return int(recorded)
    losses = [(loss, index) for index, loss in enumerate(_column(epochs, "valid_loss")) if math.isfinite(loss)]
    return min(losses, default=(math.nan, -1))[1]


def _curves(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss, and the metric where it is recorded: a panel for each side in a common frame."""
    histories = _histories(record)
    panels = []
    for kind, title in (("loss", "loss"), ("metric", verdict.metric_name(record))):
        columns = (f"train_{kind}", f"valid_{kind}")
        groups = [[v for column in columns for v in _column(epochs, column)] for _, epochs in histories.values()]
        values = [value for group in groups for value in finite_numbers(group)]
        if not values:
            continue
        chosen = [_column(epochs, f"valid_{kind}")[_chosen(facts, epochs)] for facts, epochs in histories.values()]
        frame = figures.common_limits(groups, chosen)
        drawn = [
            {"side": SIDES[side], "svg": _curve(side, kind, title, *histories[side], frame)}
            for side, group in zip(histories, groups, strict=True) if finite_numbers(group)
        ]  # fmt: skip
        cut = any(not frame[0] <= value <= frame[1] for value in values)
        panels.append({"title": title, "panels": drawn, "cut": cut})
    return panels


def _curve(
    side: str, kind: str, title: str, facts: dict[str, Any], epochs: list[dict[str, Any]], frame: tuple[float, float]
) -> str:
    index = [number_or_nan(row.get("epoch", place)) for place, row in enumerate(epochs)]
    train, valid = (
        figures.Curve(index, _column(epochs, f"{name}_{kind}"), _column(epochs, f"{name}_{kind}_se"))
        for name in ("train", "valid")
    )
    chosen = _chosen(facts, epochs)
    label = f"{SIDES[side]}: {title} against {formats.count_noun(len(epochs), 'epoch')}"
    if chosen >= 0:
        label += (
            f"; at the chosen epoch {formats.count(index[chosen])} training is {formats.score(train.values[chosen])} "
            f"and validation {formats.score(valid.values[chosen])}"
        )
    return figures.curves(f"{side}-{kind}", label, train, valid, chosen, frame)


def _decomposition(record: dict[str, Any]) -> dict[str, Any] | None:
    """The error budget of each side that has one, else training loss plus gap at its chosen epoch."""
    found: dict[str, tuple[float, float]] = {}
    constants = []
    for side, (facts, epochs) in _histories(record).items():
        row = epochs[_chosen(facts, epochs)]
        pair = number_or_nan(row.get("train_loss")), number_or_nan(row.get("valid_loss"))
        if all(math.isfinite(value) for value in pair):
            found[side] = pair
            constants.append(number_or_nan(facts.get("constant_loss")))
    sides = _sides(record)
    budgets = {side: one for side in sides if waterfall.budget_bars(one := part(record, "error_budget", side))}
    if not found and not budgets:
        return None
    constant = verdict.first_number(*constants)
    bars = {side: _loss_bars(*pair) for side, pair in found.items() if side not in budgets}
    near = 0 < constant < 1.6 * max((bar.end for steps in bars.values() for bar in steps), default=0.0)
    frame = waterfall.waterfall_limits([*bars.values(), *([_loss_bars(constant, constant)] if near else [])])
    wide = waterfall.waterfall_limits([waterfall.budget_bars(one) for one in budgets.values()])
    panels = []
    for side, title in sides.items():
        if side in budgets:
            panels.append(budget_panel.panel(side, title, budgets[side], wide))
        elif side in bars:
            names = waterfall.NAMES | {"training": "training cost"}
            label = f"{title}: {waterfall.bars_in_words(bars[side], names)}"
            svg = waterfall.draw_waterfall(f"{side}-gap", label, bars[side], frame, names=names, constant=constant)
            panels.append({"side": title, "svg": svg, "budget": False})
    said = ""
    if len(found) == 2:
        said = verdict.source_of_change(found["baseline"], found["best"], verdict.verdict(record).kind == "shown")
    shown = bool(bars) and frame[0] < constant < frame[1]
    return {"panels": panels, "said": said, "constant": constant if shown else None, "budgets": bool(budgets)}


def _loss_bars(train: float, valid: float) -> list[waterfall.WaterfallBar]:
    """Training loss, plus the gap with its sign, is the validation loss."""
    bars = ("training", 0.0, train), ("gap", train, valid - train), ("valid", 0.0, valid)
    return [waterfall.WaterfallBar(*bar, math.nan, math.nan) for bar in bars]


def _calibration(record: dict[str, Any]) -> list[dict[str, str]]:
    """The reliability diagram of each side that has one, with its numbers in a sentence."""
    found = []
    for side, title in _sides(record).items():
        one = mapping(part(record, "calibration", side))
        found.append(
            {"side": title, "svg": draw_reliability(f"{side}-reliability", one), "says": calibration_sentence(one)}
        )
    return [one for one in found if one["svg"] and one["says"]]


def _diagnoses(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The findings of each side: full ones where they are recorded, else their names."""
    sides = []
    for side, title in _sides(record).items():
        full = rows(part(record, "diagnoses", side, "findings"))
        findings = full or [{"name": name} for name in texts(part(record, side, "findings"), 80)]
        if findings:
            sides.append({"side": title, "findings": [_finding(finding) for finding in findings[:MOST_FINDINGS]]})
    return sides


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    confidence = number_or_nan(finding.get("confidence"))
    numbers = list(mapping(finding.get("evidence")).items())[:24]
    evidence = {text(key, 60): value for key, value in numbers if not isinstance(value, (dict, list))}
    return {
        "name": text(finding.get("name"), 80).replace("_", " ") or "unnamed",
        "confidence": min(max(confidence, 0.0), 1.0) if math.isfinite(confidence) else None,
        "says": text(finding.get("says"), 600),
        "lever": text(finding.get("lever"), 600),
        "evidence": evidence_rows(evidence),
    }


def _changes(record: dict[str, Any]) -> dict[str, Any] | None:
    """What differs between the two recipes; None where there is one, or the record does not say."""
    if len(_sides(record)) == 1:
        return None
    before, after = (text(part(record, side, "recipe"), 600) for side in SIDES)
    pairs = [
        (text(key, 120), verdict.setting(change[0]), verdict.setting(change[1]))
        for key, change in list(mapping(record.get("differences")).items())[:200]
        if isinstance(change, list) and len(change) == 2
    ]
    if not (pairs or before or after):
        return None
    return {"pairs": pairs, "before": before, "after": after}


def _ablation(record: dict[str, Any]) -> dict[str, Any] | None:
    """What each ingredient of the best recipe is worth, and the simplest recipe within one standard error; None where it was not
    measured."""
    worths = []
    for one in rows(record.get("ablation"))[: MOST_FINDINGS * 2]:
        estimate, low, high = verdict.estimate_and_ends(one)
        name = text(one.get("ingredient"), 60).replace("_", " ")
        if not (name and math.isfinite(estimate)):
            continue
        sure = "new" if low > 0 else "old" if high < 0 else ""
        worth, interval = _signed(estimate, low, high)
        interval += f" ({formats.percent(one['level'])})" if math.isfinite(number_or_nan(one.get("level"))) else ""
        worths.append({"name": name, "worth": worth, "interval": interval, "sure": sure})
    if not worths:
        return None
    found = mapping(record.get("simplest"))
    difference, interval = _signed(*(number_or_nan(found.get(key)) for key in ("difference", "low", "high")))
    pairs = finite_numbers([number_or_nan(one.get("pairs")) for one in rows(record.get("ablation"))])
    together = mapping(record.get("cocktail"))
    more, more_interval = _signed(*verdict.estimate_and_ends(together))
    return {
        "alone": text(together.get("alone"), 60).replace("_", " "), "more": more, "more_interval": more_interval,
        "others": ", ".join(name.replace("_", " ") for name in texts(together.get("others"), 60, 20)),
        "more_level": formats.percent(together.get("level")),
        "worths": worths, "pairs": max(pairs, default=math.nan), "simplest": text(found.get("describe"), 600),
        "without": ", ".join(name.replace("_", " ") for name in texts(found.get("without"), 60, 20)),
        "difference": difference, "interval": interval, "level": formats.percent(found.get("level")),
        "toml": text(found.get("recipe"), TOML_LENGTH),
    }  # fmt: skip


def _signed(estimate: float, low: float, high: float) -> tuple[str, str]:
    """An estimate and its interval with signs, with as many decimals as the interval bears."""
    decimals = formats.decimals_between(low, high)
    interval = f"{formats.with_sign(low, decimals)} to {formats.with_sign(high, decimals)}"
    return formats.with_sign(estimate, decimals), interval


def _small(record: dict[str, Any]) -> dict[str, Any] | None:
    """Score against size, the largest model first, or why it was not measured; None where nobody asked."""
    needed = ("strength", "valid", "valid_se", "parameters")
    told = rows(part(record, "small", "points"))[:MOST_FINDINGS]
    points = [one for one in told if all(math.isfinite(number_or_nan(one.get(key))) for key in needed)]
    said = text(part(record, "small", "said"), 600)
    if not points:
        return {"said": said} if said else None
    metric = verdict.metric_name(record)
    sizes = (f"{formats.score(point['valid'])} of {formats.count(point['parameters'])}" for point in points)
    label = f"validation {metric} against parameters: {', '.join(sizes)}"
    front = [point for point in points if point.get("front") is True]
    places = [[(float(one["parameters"]), float(one["valid"])) for one in some] for some in (points, front)]
    return {
        "said": "",
        "svg": figures.score_against_size("small", label, *places),
        "points": points,
        "picked": next((point for point in points if point.get("picked") is True), None),
        "test": number_or_nan(part(record, "small", "test")),
        "toml": text(part(record, "small", "recipe"), TOML_LENGTH),
    }


def _recipes(record: dict[str, Any]) -> dict[str, Any] | None:
    """The recipes that were tried: a figure in their order and a table by their score."""
    higher = verdict.higher_is_better(record)
    everything = [trial for trial in rows(record.get("trials")) if trial.get("kind") not in ("ablation", "small")]
    table = [_trial(trial, place) for place, trial in enumerate(everything[:MOST_RECIPES])]
    if not table:
        return None
    searched = [row for row in table if not row["again"]]
    ranked = sorted(searched, key=lambda row: (math.isnan(row["valid"]), -row["valid"] if higher else row["valid"]))
    sizes = {row["train_rows"] for row in ranked if math.isfinite(row["train_rows"])}
    scores = [row["valid"] for row in searched]
    return {
        "svg": _trials_figure(scores, [row["kind"] == "baseline" for row in searched], record, higher),
        "outside": figures.outside(scores, higher),
        "first": ranked[:FIRST_RECIPES],
        "rest": ranked[FIRST_RECIPES:],
        "again": [row for row in table if row["again"]],
        "facts": _recipe_facts(ranked, higher),
        "sized": len(sizes) > 1,
    }


def _recipe_facts(ranked: list[dict[str, Any]], higher: bool) -> list[tuple[str, str]]:
    """The search in numbers, beside its figure."""
    facts = []
    for kind in ("baseline", "search"):
        mine = [row["valid"] for row in ranked if row["kind"] == kind]
        if mine:
            best = (max if higher else min)(finite_numbers(mine), default=math.nan)
            facts += [(f"{kind} recipes", str(len(mine))), (f"{kind}, best", formats.score(best))]
    seconds = finite_numbers([row["seconds"] for row in ranked])
    if seconds:
        facts.append(("median time", formats.duration(sorted(seconds)[len(seconds) // 2])))
    failed = sum(math.isnan(row["valid"]) for row in ranked)
    return [*facts, ("without a score", str(failed))] if failed else facts


def _trials_figure(scores: list[float], ours: list[bool], record: dict[str, Any], higher: bool) -> str:
    if not finite_numbers(scores):
        return ""
    order = [float(place) for place in range(1, len(scores) + 1)]
    best = max(finite_numbers(scores)) if higher else min(finite_numbers(scores))
    label = (
        f"validation {verdict.metric_name(record)} of {formats.count_noun(len(scores), 'recipe')} in the order of trying; "
        f"the best has {formats.score(best)}"
    )
    return figures.draw_trials("trials", label, order, scores, ours, higher)


def _trial(trial: dict[str, Any], place: int) -> dict[str, Any]:
    columns = ("valid", "valid_loss", "train_loss", "epochs", "best_epoch", "seconds", "train_rows")
    index = number_or_nan(trial.get("index"))
    return {
        **{column: number_or_nan(trial.get(column)) for column in columns},
        "index": index if math.isfinite(index) else float(place),
        "kind": text(trial.get("kind"), 30) or "search",
        "again": trial.get("kind") == "confirmation",
        "describe": text(trial.get("describe"), 400),
        "stopped": text(trial.get("stopped"), 60),
    }


def _audits(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Who is charged what: the best recipe's audit first."""
    audits = {side: mapping(part(record, "audits", side)) for side in reversed(_sides(record))}
    return [
        {
            "side": SIDES[side], "rows": [_audit_row(line) for line in lines[:MOST_ROWS]],
            "left_out": max(len(lines) - MOST_ROWS, 0), "convention": text(audit.get("convention"), 600),
            "notes": texts(audit.get("notes"), 600, 20),
        }
        for side, audit in audits.items() if (lines := rows(audit.get("rows")))
    ]  # fmt: skip


def _audit_row(line: dict[str, Any]) -> dict[str, Any]:
    shape = [formats.count(size) for size in listing(line.get("shape"))[:8]]
    strength = number_or_nan(line.get("effective_strength"))
    return {
        **{key: text(line.get(key), 200) for key in ("parameter", "role", "term", "how", "objective")},
        "shape": " × ".join(shape) or "scalar",
        "strength": f"{strength:.4g}" if math.isfinite(strength) else "",
        "charged": text(line.get("term"), 9) not in ("", "-"),
    }


def _evidence(record: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison on the untouched rows: its interval and each seed's scores."""
    alone = len(_sides(record)) == 1
    found = mapping(record.get("improvement"))
    estimate, low, high = verdict.estimate_and_ends(found)
    decimals = formats.decimals_between(low, high)
    pairs, differences = _pairs(record, decimals)
    if not math.isfinite(estimate) and not pairs:
        return None
    looks = number_or_nan(found.get("looks", record.get("looks")))
    drawable = not alone and all(math.isfinite(value) for value in (estimate, low, high))
    size = formats.with_sign(estimate, decimals)
    span = f"{formats.format_decimals(low, decimals)} to {formats.format_decimals(high, decimals)}"
    label = f"Improvement {size}, interval {span}"
    return {
        "alone": alone,
        "compared": math.isfinite(estimate),
        "svg": figures.interval("improvement", label, estimate, low, high, differences) if drawable else "",
        "pairs": pairs,
        "estimate": size,
        "interval": span if drawable else "unknown",
        "level": formats.percent(found.get("level")),
        "seeds": formats.count(found.get("pairs")),
        "rows": formats.count(verdict.untouched_rows(record)),
        "looks": int(looks) if math.isfinite(looks) else None,
        "limited_by": {"rows": "untouched rows", "seeds": "paired seeds"}.get(text(found.get("limited_by")), ""),
    }


def _pairs(record: dict[str, Any], decimals: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Each seed with both scores; and all differences, positive where the best recipe is better."""
    confirmation = mapping(record.get("confirmation"))
    before, after = numbers_or_nan(confirmation.get("baseline")), numbers_or_nan(confirmation.get("best"))
    seeds = [text(seed, 24) for seed in listing(confirmation.get("seeds"))]
    pairs = list(zip(before, after, strict=False))[:100]
    gains = [(b - a) if verdict.higher_is_better(record) else (a - b) for a, b in pairs]
    names = [*seeds, *map(str, range(len(seeds) + 1, len(pairs) + 1))]
    told = [
        {"seed": seed, "baseline": a, "best": b, "signed": formats.with_sign(gain, decimals)}
        for seed, (a, b), gain in zip(names, pairs, gains, strict=False)
    ]
    return told, finite_numbers(gains)


def _data(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How the rows were split."""
    labels = {"rows": "rows", "features": "features", "train": "training", "valid": "validation", "test": "untouched"}
    sizes = {label: number_or_nan(part(record, "data", key)) for key, label in labels.items()}
    return [(label, formats.count(size)) for label, size in sizes.items() if math.isfinite(size)]


def _reproduce(record: dict[str, Any]) -> dict[str, Any]:
    """What it takes to do it again."""
    versions = {"wellposed": record.get("wellposed"), "torch": record.get("torch"), **mapping(record.get("versions"))}
    facts = [(text(name, 40), text(value, 80)) for name, value in list(versions.items())[:30] if text(value)]
    facts += [(name, text(record.get(name), 80)) for name in ("device", "threads", "seed") if text(record.get(name))]
    seeds = ", ".join(text(seed, 24) for seed in listing(part(record, "confirmation", "seeds"))[:100])
    if seeds:
        facts.append(("seeds of the pairs", seeds))
    if digest := text(part(record, "data", "sha256"), 128):
        facts.append(("data, SHA-256", digest))
    tomls = {
        title: text(part(record, "recipes", side), TOML_LENGTH) for side, title in reversed(_sides(record).items())
    }
    recipes = {title: toml for title, toml in tomls.items() if toml}
    return {"facts": facts, "command": text(record.get("command"), 2000), "recipes": recipes, "record": RECORD}
