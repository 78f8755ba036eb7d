"""The words of the page: numbers as people write them, and the verdict in plain sentences."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from wellposed.core.errors import listed
from wellposed.core.formats import (
    MISSING,
    count_noun,
    decimals_between,
    decimals_for,
    format_decimals,
    percent,
    score,
    with_sign,
)
from wellposed.core.records import finite_numbers, listing, mapping, number_or_nan, part, rows, text
from wellposed.losses.metrics import metrics
from wellposed.statistics.intervals import POWER, Needs

REFERENCES = {"constant": "a constant prediction", "linear": "a linear model", "boosting": "histogram boosting"}
ADVICE = {
    "constant": "The network learned nothing from the inputs that shows on these rows.",
    "linear": "For this table take the simpler model.",
    "boosting": "For this table take boosting, unless you need a network.",
}
LIMITS = {
    "rows": (
        "The number of untouched rows limits this: more seeds would not narrow the interval. "
        "Hold out more rows, or bring new ones with --test."
    ),
    "seeds": (
        "The number of paired seeds limits this: more untouched rows would not narrow the interval. "
        "Give a larger budget, so that more pairs are trained."
    ),
}
ONE_PAIR = (
    "One pair of seeds does not tell a better recipe from a lucky seed, however many the rows. "
    "Give a larger budget, so that at least five pairs are trained."
)
MORE_PAIRS, MORE_ROWS = "A larger budget trains more pairs.", "New rows come with --test."
IN_TURN, FEW_ROWS = "--folds 5 holds every row of the table out in turn.", 60
"""What to do where fewer untouched rows than these were judged on, a fifth of a few hundred."""


@dataclass(frozen=True)
class Verdict:
    """What a study proved, and what stands in the way of more.

    Args:
        kind: ``shown``, ``unproven``, ``worse`` or ``missing``.
        mark: the word that opens the sentence.
        claim: what was found.
        support: on how many rows, with which interval, over how many seeds.
        limits: what stands in the way of a proof and what to do; empty where the gain is shown.
        references: what to know first of the reference models, see `references_first`.
    """

    kind: str
    mark: str
    claim: str
    support: str
    limits: str = ""
    references: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return f"{self.mark} {self.claim} {self.support}"


def metric_name(record: dict[str, Any]) -> str:
    """The metric as people write it: ``balanced accuracy``, ``R²``."""
    kind, colon, number = text(part(record, "metric", "name"), 60).partition(":")
    title = getattr(metrics().get(kind), "title", "")
    return (title or kind.replace("_", " ") or "score") + (f" ({number})" if colon else "")


def higher_is_better(record: dict[str, Any]) -> bool:
    """The metric's direction; higher where the record does not say."""
    return part(record, "metric", "higher_is_better") is not False


def setting(value: Any) -> str:
    """A value of a recipe as text: a term is its penalty with what it sets, nothing is ``–``."""
    if value is None or value == [] or value == {}:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and all(isinstance(item, dict) and "penalty" in item for item in value):
        labels = {"strength": "", "bound": "bound ", "mix": "mix ", "by": "by ", "on": "on ", "how": "by "}
        told = [[f"{labels[key]}{setting(term[key])}" for key in labels if term.get(key) is not None] for term in value]
        names = [text(term["penalty"], 60) for term in value]
        return "; ".join(" ".join([name, *parts]) for name, parts in zip(names, told, strict=True))[:200]
    if isinstance(value, (list, dict)):
        return text(json.dumps(value, ensure_ascii=False), 200)
    return text(value, 200)


def estimate_and_ends(found: dict[str, Any]) -> tuple[float, float, float]:
    """``estimate``, ``low`` and ``high``; NaN for what is no number."""
    estimate, low, high = (number_or_nan(found.get(key)) for key in ("estimate", "low", "high"))
    return estimate, low, high


def verdict(record: dict[str, Any]) -> Verdict:
    """What the record proves, in plain words. Nothing is called better or worse while its interval holds 0."""
    references = tuple(references_first(record))
    found = mapping(record.get("improvement"))
    estimate, low, high = estimate_and_ends(found)
    who = "the search of each fold" if folds_of(record) else "the best recipe"
    if kept_baseline(record) and not estimate:
        claim = "no recipe of the search beat the tuned baseline on the validation rows."
        return Verdict("unproven", "Not shown:", claim, _tried(record), _could_have_seen(record, found), references)
    if not math.isfinite(estimate):
        claim = "the best recipe and the tuned baseline were not compared on untouched rows."
        support = "Nothing is proven about new data."
        return Verdict("missing", "Not shown:", claim, support, references=references)
    decimals = decimals_between(low, high)
    size = f"{format_decimals(abs(estimate), decimals)} {metric_name(record)}"
    rows, interval = _rows(record), _interval(record, found)
    one_pair = number_or_nan(found.get("pairs")) == 1 and not folds_of(record)
    if found.get("shown") is True and estimate > 0 and low > 0 and not one_pair:
        claim = f"{who} is better than the tuned baseline by {size}"
        return Verdict("shown", "Shown:", claim, f"on {rows} ({interval}).", references=references)
    if high < 0 and not one_pair:
        claim = f"{who if folds_of(record) else 'the recipe that the search chose'} is worse than the tuned baseline by {size}"
        against = f"on {rows} ({_interval(record, _turned_round(found))}). Keep the baseline."
        return Verdict("worse", "Worse:", claim, against, references=references)
    claim = f"a difference between {who} and the tuned baseline."
    support = (
        f"The gain is {with_sign(estimate, decimals)} {metric_name(record)} on {rows}, which may be "
        f"{'a lucky seed' if one_pair else 'chance'} ({interval})."
    )
    return Verdict("unproven", "Not shown:", claim, support, _limits(record, found), references)


def _limits(record: dict[str, Any], found: dict[str, Any]) -> str:
    """How many more seeds or rows it takes, and how to get them; where the record does not say, what limits."""
    needs, pairs, amount = stated_needs(found), number_or_nan(found.get("pairs")), untouched_rows(record)
    if pairs == 1:
        return ONE_PAIR
    if needs is None or not (pairs >= 1 and amount >= 1):
        return LIMITS.get(text(found.get("limited_by")), "")
    smallest = _smallest(needs, record)
    advice = [MORE_PAIRS] if needs.pairs or needs.both else []
    advice += [MORE_ROWS] if needs.rows or needs.both else []
    return " ".join([needs.sentence(int(pairs), int(amount), smallest), *advice, *_in_turn(record)])


def _smallest(needs: Needs, record: dict[str, Any]) -> str:
    return f"{format_decimals(needs.smallest, decimals_for(needs.smallest))} {metric_name(record)}"


def _in_turn(record: dict[str, Any]) -> list[str]:
    """The advice to hold every row out, for a small table that the command line studied without folds."""
    small = untouched_rows(record) < FEW_ROWS and not folds_of(record)
    return [IN_TURN] if small and text(record.get("command")).startswith("wellposed improve") else []


def stated_needs(found: dict[str, Any]) -> Needs | None:
    """The ``needs`` of an ``improvement``; None where the record has none, or odd ones."""
    needs = mapping(found.get("needs"))
    gain, smallest, power = (number_or_nan(needs.get(key)) for key in ("gain", "smallest", "power"))
    if not (math.isfinite(gain) and math.isfinite(smallest)):
        return None
    both = [_whole(value) for value in listing(needs.get("both"))]
    pair = (both[0], both[1]) if len(both) == 2 and both[0] and both[1] else None
    power = power if 0 < power < 1 else POWER
    return Needs(gain, smallest, _whole(needs.get("pairs")), _whole(needs.get("rows")), pair, power)


def _whole(value: Any) -> int | None:
    found = number_or_nan(value)
    return int(found) if 1 <= found < 1e9 else None


def _tried(record: dict[str, Any]) -> str:
    """``40 recipes were tried. The best 3 of them and the baseline were trained again with new seeds ... The baseline is kept.``"""
    tried = number_or_nan(record.get("recipes_tried"))
    again = {text(one.get("describe"), 400) for one in rows(record.get("trials")) if one.get("kind") == "finalist"}
    rivals = len(again - {text(part(record, "baseline", "recipe"), 400)})
    best = (
        f" The best {'one' if rivals == 1 else rivals} of them and the baseline were trained again with new seeds, "
        "since the best of many scores is partly luck."
    )
    said = f"{count_noun(tried, 'recipe')} were tried.{best if rivals else ''} The baseline is kept."
    return said if tried > 1 else "It is kept."


def _could_have_seen(record: dict[str, Any], found: dict[str, Any]) -> str:
    """How large a gain the confirmation would have shown, by the noise between its runs of the baseline; empty where unknown."""
    needs, pairs = stated_needs(found), number_or_nan(found.get("pairs"))
    if needs is None or not (needs.smallest > 0 and pairs > 1):
        return ""
    runs = finite_numbers(listing(part(record, "confirmation", "baseline")))
    equal = max(map(runs.count, runs), default=0)
    if 2 * equal > len(runs) > 1:  # such as that of a constant prediction
        return (
            f"How large a gain could have been seen is not known: {equal} of {len(runs)} runs of the baseline have one score, "
            f"{score(max(runs, key=runs.count))}, so that they do not say how far runs differ."
        )
    smallest = _smallest(needs, record)
    seen = (
        f"What could have been seen: {count_noun(pairs, 'pair')} of runs on {_rows(record)} show a gain of {smallest} with "
        f"probability {needs.power:.4g}, assuming that two recipes differ on single rows no more than two runs of one recipe do. "
        "A smaller gain may exist."
    )
    return " ".join([seen, *_in_turn(record)])


def sides(record: dict[str, Any]) -> tuple[str, ...]:
    """What there is to show of a study: ``baseline`` and ``best``, or the baseline alone where it stayed the best."""
    return ("baseline",) if kept_baseline(record) else ("baseline", "best")


def folds_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What was found in each fold, where every row was held out in turn."""
    return rows(record.get("folds"))


def kept_baseline(record: dict[str, Any]) -> bool:
    """Whether the study kept the baseline as its best recipe, in every fold."""
    if any(number_or_nan(fold.get("gain")) for fold in folds_of(record)):
        return False
    before, after = part(record, "recipes", "baseline"), part(record, "recipes", "best")
    if before is not None and after is not None:
        return bool(before == after)
    same = part(record, "baseline", "recipe") == part(record, "best", "recipe")
    return same and record.get("differences") == {}


def untouched_rows(record: dict[str, Any]) -> float:
    """How many rows the comparison stands on; NaN where the record does not say."""
    return first_number(part(record, "confirmation", "rows"), part(record, "data", "test"))


def first_number(*values: Any) -> float:
    """The first of the values that is a finite number; NaN where none is."""
    return next(iter(finite_numbers(list(map(number_or_nan, values)))), math.nan)


def _rows(record: dict[str, Any]) -> str:
    amount = untouched_rows(record)
    return count_noun(amount, "untouched row") if math.isfinite(amount) else "the untouched rows"


def _interval(record: dict[str, Any], found: dict[str, Any]) -> str:
    """``95 % interval 0.004 to 0.020, 5 paired seeds``; what is missing is said to be missing."""
    low, high, level, pairs = (number_or_nan(found.get(key)) for key in ("low", "high", "level", "pairs"))
    folds = len(folds_of(record))
    parts = ["interval unknown"]
    if math.isfinite(low) and math.isfinite(high):
        decimals = decimals_between(low, high)
        name = f"{percent(level)} interval" if math.isfinite(level) else "interval"
        parts = [f"{name} {format_decimals(low, decimals)} to {format_decimals(high, decimals)}"]
    if math.isfinite(pairs):
        each = f" in each of {folds} folds, which share training rows" if folds else ""
        parts.append(count_noun(pairs, "paired seed") + each)
    return ", ".join(parts)


def _turned_round(found: dict[str, Any]) -> dict[str, Any]:
    """The interval of a loss, from that of a gain: what is said to be so much worse has an interval above 0."""
    return found | {"low": -number_or_nan(found.get("high")), "high": -number_or_nan(found.get("low"))}


def reference_scores(record: dict[str, Any]) -> dict[str, float]:
    """The references that have a score, by their key."""
    found = {key: number_or_nan(part(record, "references", key)) for key in REFERENCES}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def beside_constant(record: dict[str, Any], side: str = "test") -> str:
    """``; a constant prediction has 0.500``: what stands beside a score; empty where it is not known."""
    reference = part(record, "references", "constant") if side == "test" else None
    value = first_number(reference, part(record, "constant", side))
    return f"; {REFERENCES['constant']} has {score(value)}" if math.isfinite(value) else ""


@dataclass(frozen=True)
class Against:
    """The network against one reference on the same rows.

    Args:
        key, score: of the reference, see `REFERENCES`.
        kind: ``better`` or ``worse``: the reference is shown to be so; ``open``: the interval of the difference holds 0;
            ``unknown``: there is none, or of a single seed.
        gain: of the network over the reference, positive where the network is better; NaN where it is not known.
        says: the difference with its interval.
    """

    key: str
    score: float
    kind: str
    gain: float
    says: str


def against(record: dict[str, Any]) -> list[Against]:
    """The network against each reference that has a score, by paired differences that were judged together."""
    told = []
    for key, value in reference_scores(record).items():
        found = mapping(part(record, "against_references", key))
        gain, low, high = estimate_and_ends(found)
        decimals, interval = decimals_between(low, high), _interval(record, _turned_round(found) if high < 0 else found)
        size = f"{format_decimals(abs(gain), decimals)} {metric_name(record)} ({interval})"
        signed = f"{with_sign(gain, decimals)} {metric_name(record)}"
        kind, says = "open", f"no difference is shown; the network's gain is {signed} ({interval})."
        if not all(map(math.isfinite, (gain, low, high))) or number_or_nan(found.get("pairs")) < 2:
            kind, gain, says = "unknown", math.nan, "not compared row by row over several seeds."
        elif low > 0:
            kind, says = "worse", f"the network is better by {size}."
        elif high < 0:
            kind, says = "better", f"better than the network by {size}."
        elif low == high:
            says = "no difference is shown; every row has the same score."
        told.append(Against(key, value, kind, gain, says))
    return told


def references_first(record: dict[str, Any]) -> list[str]:
    """A sentence for each reference that is shown to be better, the best one first; one for those that the network is not shown to
    be better than though they score no less, or are constant; then what to do."""
    found = sorted((one for one in against(record) if one.kind in ("better", "open")), key=lambda one: one.gain)
    ahead = [one for one in found if one.kind == "better"]
    level = [one for one in found if one.kind == "open" and (one.gain <= 0 or one.key == "constant")]
    ours = score(first_number(part(record, "best", "test"), part(record, "baseline", "test")))
    said = [
        f"{REFERENCES[one.key].capitalize()} is {one.says} It scores {score(one.score)} against {ours}."
        for one in ahead
    ]
    if level:
        said.append(f"Not shown: that the network is better than {listed(REFERENCES[one.key] for one in level)}.")
    known = [one.key for one in [*ahead, *(one for one in level if one.key == "constant")]]
    return [*said, ADVICE[known[0]]] if known else said


def emptied_note(record: dict[str, Any]) -> str:
    """A sentence that names each charged parameter of the best model whose weights are all exactly zero; else empty.

    Example:
        >>> emptied_note({"audits": {"best": {"rows": [{"parameter": "0.weight", "gone": True}]}}})
        'Nothing is left of 0.weight in the best model: all its weights are exactly 0.'
    """
    lines = [line for line in rows(part(record, "audits", "best", "rows")) if line.get("gone") is True]
    names = list(dict.fromkeys(filter(None, (text(line.get("parameter"), 120) for line in lines))))
    whose = "all its weights" if len(names) == 1 else "all their weights"
    return f"Nothing is left of {listed(names)} in the best model: {whose} are exactly 0." if names else ""


def source_of_change(before: tuple[float, float], after: tuple[float, float], shown: bool) -> str:
    """Which summand of the validation loss moved: ``(train, valid)`` of the baseline and of the best recipe.

    ``shown``: whether the gain on untouched rows is; without it nothing is said of where it came from.
    """
    if not all(math.isfinite(value) for value in (*before, *after)):
        return ""
    cost = after[0] - before[0]
    gap = (after[1] - after[0]) - (before[1] - before[0])
    decimals = decimals_for(max(abs(cost), abs(gap)))
    training, apart, valid = (with_sign(change, decimals) for change in (cost, gap, cost + gap))
    if cost + gap >= 0:
        why = "The validation loss did not fall."
    elif not shown:
        why = "No gain is shown on untouched rows, so this may be chance."
    elif gap < 0 <= cost:
        why = "The gain came through regularization: a smaller gap outweighs a higher training cost."
    elif cost < 0 <= gap:
        why = "The gain came through optimization: a lower training cost outweighs a larger gap."
    else:
        why = "Both summands fell, " + ("the gap more." if gap < cost else "the training cost more.")
    moved = f"training cost {training}, gap {apart}, validation loss {valid}"
    return f"From the baseline to the best recipe: {moved}. {why}"
