"""Lines of text, as a loop prints them: sentences, tables and dicts, in any mixture.

Numbers are cut out of a line; what is left, its template, is understood once for all lines that have it: which number is an epoch,
a step or a batch, and which is the value of what. A name is the words before its number. A word that stands apart, as in ``train:
loss 1.0 acc .5 | valid: loss 1.1 acc .4``, holds for the numbers after it; one on a line of its own for the lines after it.
Below a line of names, lines of as many cells are rows of a table. What stands between braces is read as JSON or as a printed dict.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wellposed.core.errors import DataError
from wellposed.logs.cells import MISSING, PLACED, TENSOR, plain_numbers
from wellposed.logs.column_names import (
    EPOCHS,
    NOBODY,
    PARTS,
    SIDES,
    STEPS,
    TEST,
    TIMES,
    TRAIN,
    WHOLE,
    guess,
    name_words,
    named_side,
    parse_name,
)
from wellposed.logs.documents import flattened, of_value
from wellposed.logs.encodings import ABROAD
from wellposed.logs.log import TEXT, TRANSFORMERS, Log, columns_of, normalize_name
from wellposed.logs.shapes import ONE_EACH, RESULTS, RUN_WORDS, TRIALS

HERE = "\0"  # stands for a number in a template; no text has it
MOST_LOSS = 100  # a whole number above it, before any epoch, counts examples
NUMBER = re.compile(
    r"((?<![\w.@])(?<!\w-)[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!,?\w)|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?![\w.]*\w)|(?<![\w.])[-+]?(?:nan|inf|infinity)(?!\w))",
    re.IGNORECASE,
)
TOKEN = re.compile(rf"{HERE}|[^\W\d_](?:[\w'’]|[./@-](?=\w))*|\s*-+>\s*|\s+[-–—]+\s+|\t+|\s{{3,}}|\S")
BAR = re.compile(r"[=━█#>·.]{4,}|%\s*\||\bETA\b|/step\b|\bit/s|s/it|[▏▎▍▌▋▊▉█]")
WORD = re.compile(
    r"[{|]|\ball\s|loss|tr[iln]|te[sl]|epo[cq]|acc|err|epoch|step|iter|score|train|val|test|learn|auc|f1|nll|mse|mae|ppl|perplexity|cost|p[eé]rd|perte|verlust|fold|round|ro[dn]a|runde|lr|rate|top1|\bep|[wc]er\b|bleu|rouge"
    r"|iou|dice|map|xent|tel:|^[ \t]*\[?\d[\d-]*\]?[:|\t ]", re.IGNORECASE | re.MULTILINE,
)  # fmt: skip
"""In every line that can say something, and in others: where none of it stands, nothing is searched."""
DECIMAL = re.compile(r"(?<=[A-Za-z])(\s*[:=]\s*[-+]?\d+)([.,])(?=\d+(?:e[-+]?\d+)?(?![\d.,]*\d))", re.IGNORECASE)
OPEN = re.compile(r"\{\s*['\"][^\[{}]{1,40}\[\s*[-+.\d][^{}]{1,200000}\}")
CHANGED = re.compile(r"\b(?:improv|decreas|increas|did not|didn't|from|better|early|saving|best)", re.IGNORECASE)
"""Of a name about a value that another line has said."""
TRIED = re.compile(r"\btrial\s*#?(\d{1,9})\b[^{}]{0,20}?\b(?:finished|completed?|pruned|failed)\b", re.IGNORECASE)
"""What Optuna and Keras Tuner say at the end of a trial."""
BEST = re.compile(r"best (?:iteration|score|epoch)[^:]{0,20}:\s*$", re.IGNORECASE)  # the next line repeats one
RESTORED = re.compile(
    r"^\W*(?:saved best|(?:load(?:ed|ing)?|restor(?:ed?|ing)|revert(?:ed|ing)?)\b[^:=]{0,60}?"
    r"\b(?:best|models?|weights|checkpoint|state|to)\b)",
    re.IGNORECASE,
)  # what such a line says was said before
LISTED = re.compile(
    r"^\W*([A-Za-z][\w .()/-]{0,60}?(?:\s*[:=]|(?<=[a-z]) (?=\[[^\[\]]*,)))\s*\[([-+.\deE,\s]+|[^\[\]]*\bnan\b[^\[\]]*)\]\W*$"
)  # losses = [1.0, 0.5]
PAIRED = re.compile(
    r"([A-Za-z]\w{0,60})\W{1,4}\[((?:\(\d+, [-+.\deE]+\)(?:, )?)+)\]"
)  # Flower: losses_centralized [(0, 2.3), (1, 1.9)]
SHOWN = re.compile(r"^\s*\(([^\n=]*)\) = \(([^\n=]*)\)$", re.MULTILINE)  # Julia: (epoch, loss(x, y)) = (1, 0.5)
LONGEST_LINE = 5000  # signs; a progress bar that rewrites itself is one line, and only its end counts
LONGEST_DICT = 200_000
BEHIND = re.compile(rf"{HERE}\s*\(([A-Za-z][A-Za-z ]{{1,24}})\)")
BREAKS = (",", ";", "|")
OF_TEXT = (
    (r"\x1b\[[\d;?]*[A-Za-z]|\[\d{1,2}(?:;\d{1,3})*m", ""),  # colours; some who copy a terminal lose the escape
    (r"^[ \t]*(?:#?>[ \t]?|(?:##|%)[ \t]+|\w+ ?= ?(?:'''|\"\"\"))+", ""),  # quoted, of knitr, in MATLAB, in a string of Python
    (r"(?<=\d)(?=(?:epoch|step|iter\w*)\b[^\w\n]{1,3}\d)", "\n"),  # acc: 0.38epoch: 2, no line's end
    (r"第\s*(\d+)\s*(?:个|個)?(?:轮|輪|回|周期|エポック)", r" epoch \1 "),
    (r"(?<=\d)(\.\d+)f(?=-?\d{1,2}\b)", r"\1e"),  # Julia: 0.5f0
    (r"(?<=\w)\[\d+\](?=[\w.,]*\))", ""),  # loss(x[1])
)  # fmt: skip
"""How some write a text -> how others do; the pattern and what it becomes."""
OF_LINES = (
    ("|", r"^(\d+)\|(\d+)\|(?=[A-Za-z])", r"epoch \1 step \2 | "),  # torchtune: 1|20|Loss: 0.5
    ("Saving", r"\bSaving dict for\b", "evaluation at"),  # what tf.estimator says of an evaluation
    ("ensor(", TENSOR.pattern, r"\1"), ("dtype=", TENSOR.pattern, r"\1"),
    ("%|", r"(?<![\d.])\d{1,3}%(?=\|)", ""),  # how far a bar is
    (":", r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? +)?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? +\d{1,2},?"
     r" +(?:\d{4},? +)?\d{1,2}:\d\d(?::\d\d)?(?: +[AP]M\b)?(?: +[A-Z]{3,4}\b)?(?: +\d{4}\b)?", " "),  # Wed Oct 30 10:43:06 2024
    ("", r"\b\d\d(?:\d\d)?[-/]\d\d?[-/](?:\d{4}|\d\d)(?:[T ]|\b)|\b(?:\d+:)?\d?\d:\d\d(?:[.,]\d+)?(?:s\b|Z\b)?"
     r"|@\[?[\d.]+(?::[\d.]+)?\]?", " "),  # dates, times, and the thresholds of mAP@0.50:0.95
    ("(epoch)", r"\s*\(epoch\)(?=\s*[:=])", ""),  # loss (epoch) = 0.5, which counts no epochs
    ("-", r"\b\d+-(?:gram|fold|way|shot|bit|dim|day|head|layer|stage)s?\b", " "),
    ("of the", r"\bof the (?:network|model) on (?:the )?(?:\d[\d,]* )?(\w+) (?:images|samples|examples|pictures)", r"on \1"),
    ("ore at", r"\bscore at iteration\b", "loss at iteration"),  # as Deeplearning4j calls its loss
    ("", r"\b(epochs?|ep|steps?|iter(?:ation)?s?|batch|fold|round)[_#]?(?:(\d+)(?=[a-z]{2,20}\b)|(?=\d))", r"\1 \2 "),
)  # fmt: skip
"""How some write a line -> how others do: signs that stand in such a line, the pattern, and what it becomes."""
ROW_BAR = re.compile(r":? {1,9}\d{1,3}%\|.*$")  # behind a row of numbers
MARKED = re.compile(r"^[~≈]\s*|\s*[^\w\s.%)\]:=]+$")  # 0.61 *
REMARK = re.compile(r"\s*\([A-Za-z ]+\)$")  # 0.61 (best), but not Loss (train)
TWO_CELLS = re.compile(rf"^\s*\|([^|]*[A-Za-z][^|]*)\|\s*((?:{NUMBER.pattern})?)\s*\|\s*$", re.IGNORECASE)
STARTED = ("start", "starting", "begin", "begins", "beginning")
ARTICLES = ("the", "this", "each", "per", "every", "whole")  # before an epoch that is not numbered
CELLS = re.compile(r"\S+(?: \S+)*")
TERM = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
SUMMED = re.compile(rf"\[(?:{TERM}(?:, *{TERM})*)?\]", re.IGNORECASE)
SPACY = "valid SCORE"
SETTINGS = 4  # numbers on a line without a value; more are the arguments of the script
# What is no number: three of them are arguments, whatever they are called, and no tensors on a device.
ARGUED = re.compile(r"(?<!device)=(?:True|False|None|['\"])")
MOST_FAILED = 2_000_000  # signs between braces that were no dict, after which none is looked for
MOST_RESULTS = 50  # lines of a list of the best; longer ones that jump to and fro are of several processes
PROSE = 16  # words of a line without a value; more are a text that the network wrote
PROCESSES = 16  # that may print one line each, side by side
FEWEST_ROWS = 2  # one sentence with a loss in it is no log
KINDS = {
    "epoch": {*EPOCHS},
    "batch": {"batch", "minibatch"},
    "step": {*STEPS} - {"batch", "minibatch"},
    "run": {*RUN_WORDS} - {"split"},
}
PLACES = (*KINDS,)
FREE = ("none", "index", "batch")  # kinds of numbers that words behind them may still name
BEFORE_VALUES = (HERE, "[", "(", ":", "=")
NUMBERED = ("id", "idx", "index", "no", "num", "number")  # batch_id, epoch no.
COUNTS = {
    "batches": "batch", "batchs": "batch", "iterations": "step", "steps": "step", "iters": "step", "updates": "step",
    "epochs": "epoch",
}  # fmt: skip


@dataclass(frozen=True)
class Hole:
    """What one number of a template is: a place, the total of the one before, a running average, or the value of a name."""

    name: str
    kind: str


@dataclass(frozen=True)
class Wording:
    """A line without its numbers, understood."""

    slots: tuple[Hole, ...]
    heard: str
    section: str
    what: str
    bar: bool
    running: bool
    prose: bool


def parse_text(path: Path, text: str) -> list[Log]:
    """The runs in lines of text; none where fewer than `FEWEST_ROWS` say something.

    Raises:
        DataError: two different values of one name stand on one line, and no word tells them apart.
    """
    text = unmarked(text)
    found = _Found()
    for line in speaking(text):
        found.line(re.split("[\r\b]+", line.rstrip("\r\n\b "))[-1])
    if not (logs := found.logs(path)) and "\r" in text.strip():  # one bar, which said something each time
        return parse_text(path, re.sub("[\r\n]+", "\n", text))
    return logs


def unmarked(text: str) -> str:
    """Text without colours, marks of Markdown and quotes, with foreign words in English, and a dict of many lines on one."""
    text = text.replace("\x1b[A", "\n").replace("#011", "\t").replace("\\_", "_").replace("**", "")
    for pattern, ours in OF_TEXT:
        text = re.sub(pattern, ours, text, flags=re.IGNORECASE | re.MULTILINE)
    if "," in {*(signs := [found[2] for found in DECIMAL.finditer(text)])} and signs.count(",") > len(signs) / 2:
        text = DECIMAL.sub(r"\1.", text)
    if not text.isascii():
        text = text.replace("│", "|").replace("┃", "|")
        for word, ours in ABROAD.items():
            text = text.replace(word, ours)
    text = SHOWN.sub(_paired, text)
    return OPEN.sub(lambda found: " ".join(found[0].split()), text)


def _paired(both: re.Match[str]) -> str:
    return ", ".join(
        f"{name} = {value}" for name, value in zip(*(side.split(", ") for side in both.groups()), strict=False)
    )


def speaking(text: str) -> Iterator[str]:
    """The lines that could say something, found without looking at each: a table that is no log has millions."""
    start = 0
    while found := WORD.search(text, start):
        begin = text.rfind("\n", start, found.start() + 1) + 1 or start
        end = text.find("\n", found.end())
        end = len(text) if end < 0 else end
        yield text[begin:end]
        start = end + 1


@dataclass
class _Found:
    """What was found so far, and where the reader is."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    place: dict[str, float] = field(default_factory=dict)
    side: str = NOBODY
    whole: list[Log] = field(default_factory=list)
    tables: _Tables = field(default_factory=lambda: _Tables())
    told: str = ""
    twice: dict[str, tuple[float, float]] = field(default_factory=dict)
    lists: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    block: dict[str, str] = field(default_factory=dict)
    count: float = 0.0
    alone: int = 0
    failed: int = 0
    repeated: bool = False
    trials: int = 0
    begun: int = 0
    full: tuple[Any, ...] = ()  # of the last bar: how many batches it had if it was full, its place, and what it said

    def line(self, line: str) -> None:
        """Take one line."""
        if tried := TRIED.search(line):
            self._end_of_trial(int(tried[1]))
            self.repeated = "{" not in line and "value" not in line  # Keras Tuner repeats the best value below
            return
        if line.rstrip().endswith(":") and BEST.search(line):
            self.repeated = True
            return
        if RESTORED.match(line) or "train_runtime" in line:  # of Trainer's end
            return
        if len(ARGUED.findall(line)) > 2:
            return
        if "[(" in line and (pairs := PAIRED.findall(line)):
            for name, cells in pairs:
                self._list(name, ",".join(re.findall(r", ([-+.\deE]+)\)", cells)))
            return
        if "{" in line and self.failed < MOST_FAILED and self._dict(line):
            return
        if "[" in line and (named := LISTED.match(line)) and parse_name(name := named[1].rstrip(" :=")).what:
            self._list(name, named[2])
            return
        line = line[-LONGEST_LINE:]
        if (two := TWO_CELLS.match(line)) and not NUMBER.search(two[1]):
            self._cell_of_block(two[1].strip(), two[2])
            return
        self._end_of_block()
        if (row := self.tables.row(line)) is None:
            self._said(*cut(plain_line(line)))
        elif row:
            self._placed(row)
            epochs = [cell for name, cell in row.items() if normalize_name(name) in EPOCHS and cell]
            if epochs and (found := plain_numbers(epochs[-1:])) and found[0] is not None:
                self.place["epoch"] = found[0]

    def _cell_of_block(self, name: str, cell: str) -> None:
        """Take one line of a block, a name and a number between bars; where a name comes again another block begins."""
        if name in self.block:
            self._end_of_block()
        if cell:
            self.block[name] = cell

    def _end_of_block(self) -> None:
        row, self.block = self.block, {}
        if row:
            self._placed(row)

    def _end_of_trial(self, number: int | None) -> None:
        """What was said since the last one ended is of this trial."""
        for row in self.rows[self.begun :]:
            row["run"] = number if number is not None else "unfinished"
        self.trials, self.begun, self.place = self.trials + 1, len(self.rows), {}

    def _dict(self, line: str) -> bool:
        value = braces(line)
        if value is None:
            self.failed += len(line)
            return False
        row = {name: cell for name, cell in flattened(value).items() if not isinstance(cell, (list, dict))}
        if len(row) < len(value) and (logs := of_value(value, "")):
            self.whole += logs
            return True
        before = plain_line(line[: line.index("{")])
        self._said(*cut(before))
        heard = cut(before)[0].heard
        if heard and not any(parse_name(name).side for name in row):
            row = {
                name if normalize_name(name) in (*EPOCHS, *STEPS) else f"{heard} {name}": cell
                for name, cell in row.items()
            }
        self._placed(row)
        return True

    def _list(self, name: str, cells: str) -> None:
        """Take the values of a name, printed as a list. One that comes again is of another run."""
        if parse_name(name).meant in [parse_name(one).meant for one in self.lists[-1]]:
            self.lists.append({})
        values = re.split(r"[,\s]+", cells.strip(", "))
        self.lists[-1][name] = [float(cell) if NUMBER.fullmatch(cell) else None for cell in values]

    def _said(self, template: Wording, numbers: Sequence[float]) -> None:
        row: dict[str, float] = {}
        place: dict[str, float] = {}
        of_batch = False
        count = None  # of the batches that one epoch, or one evaluation, has
        if all(slot.kind != "told" for slot in template.slots):
            self.told = "" if numbers else template.what
        for i, (slot, number) in enumerate(zip(template.slots, numbers, strict=False)):
            total = numbers[i + 1] if i + 1 < len(numbers) and template.slots[i + 1].kind == "total" else None
            if slot.kind == "value":
                share = total and number.is_integer() and total.is_integer() and parse_name(slot.name).what != "loss"
                value = number / total if total and share else number  # 95/100, but not MAE/RMSE: 4.71/6.51
                again = row.setdefault(slot.name, value) != value and not math.isnan(value)
                if again and not template.bar:  # behind a bar stands what a longer one left
                    self.twice.setdefault(slot.name, (row[slot.name], value))
            elif slot.kind == "running":
                row[slot.name] = number
            elif slot.kind == "told" and self.told:
                row[self.told] = number
            elif slot.kind == "second" and numbers[i - 1].is_integer():  # Train loss 300 0.51
                place["step"], row[slot.name] = numbers[i - 1], number
            elif slot.kind == "epoch" and total == 1 and (number < 1 or not template.bar):  # one epoch at a time
                self.alone += 1
                place["epoch"] = self.alone
            elif slot.kind in PLACES or slot.kind == "index":
                self.alone *= not (slot.kind == "epoch" and total)
                place.setdefault(slot.kind, number)
                within = slot.kind in ("batch", "index") or "epoch" in self.place.keys() | place.keys()
                of_batch = of_batch or slot.kind == "batch"
                if total is not None and within and slot.kind in ("batch", "step", "index"):
                    count = total
                    of_batch = template.running or not (template.bar and number >= total)
        if not row and (len(numbers) > SETTINGS or template.prose):
            return
        if any(self.place.get(kind) != place[kind] for kind in place.keys() & {"epoch", "run"}):
            self.place = {kind: number for kind, number in self.place.items() if kind in ("epoch", "run")}
        own = self.side != TRAIN and count is not None and self.count not in (0.0, count)  # an evaluation's batches
        if any(
            self.place.get(kind) != place[kind] for kind in place.keys() & {"epoch", "run", *(() if own else ("step",))}
        ):
            self.side = NOBODY
        self.count = self.count if self.side or count is None else count
        if not of_batch and template.bar:
            self.place.pop("batch", None)
            place = {kind: number for kind, number in place.items() if kind not in ("batch", "index")}
        if "batch" in place:  # the step of a line before was that of a checkpoint
            self.place.pop("step", None)
        self.place |= place
        if not row:
            self.side = template.section or (NOBODY if "epoch" in place else self.side)
        elif self.repeated or (template.bar and not of_batch and self._evaluated(row)):
            self.repeated = False
        else:
            heard = f" ({self.side})" if self.side and not any(parse_name(name).side for name in row) else ""
            mark = " batch" if of_batch else ""
            said = {**self.place, **{f"{name}{heard}{mark}": value for name, value in row.items()}}
            full = (count, {**self.place}) if count and template.bar and not of_batch else ()
            if full and self.rows and self.full == (*full, self.rows[-1]) and self.rows[-1].keys() <= said.keys():
                del self.rows[-1]  # the bar as it was before the epoch was over
            self._add(said)
            self.full = (*full, said)

    def _evaluated(self, row: dict[str, float]) -> bool:
        """Whether a bar repeats some of the names of the epoch that is over, without its side: an evaluation of the end."""
        last = self.rows[-1] if self.rows else {}
        same = "epoch" in last and last["epoch"] == self.place.get("epoch")
        sided = [any(parse_name(name).side for name in names) for names in (row, last)]
        return same and row.keys() < last.keys() and sided == [False, True]

    def _placed(self, row: dict[str, Any]) -> None:
        """Keep a row at its own place, or where the reader is if it has none."""
        self._add(row if {*map(normalize_name, row)} & {*EPOCHS, *STEPS} else {**self.place, **row})

    def _add(self, row: dict[str, Any]) -> None:
        """Keep a row, unless one of several processes has said just the same at this place."""
        for said in self.rows[: -PROCESSES - 1 : -1] if self.place.keys() | {*EPOCHS} & row.keys() else ():
            if said == row:
                return
            if any(said.get(place) != row.get(place) for place in (*PLACES, *EPOCHS)):
                break
        self.rows.append(row)

    def _of_classes(self, listed: Sequence[Mapping[str, Sequence[Any]]], losses: set[str]) -> bool:
        """Whether lists stand beside lines that say both losses, and are no histories: of one side, or one at each line. What a
        line says of a history is its end."""
        said = columns_of(self.rows)
        taken = guess(said).taken
        looks = sum(cell is not None for cell in said.get(taken.get("valid_loss", ""), ()))
        if not losses <= taken.keys() or looks < FEWEST_ROWS:
            return False
        longest = max(len(cells) for one in listed for cells in one.values())
        if len(listed) >= looks:
            ends = {str(cells[-1]) for one in listed for cells in one.values() if len(cells)}
            return not {str(cell) for cell in said[taken["valid_loss"]] if cell is not None} <= ends
        return longest <= looks and not any(losses <= guess(one).taken.keys() for one in listed)

    def _begins(self) -> int:
        """Where the curves begin: after rows of whole numbers, before any epoch or fraction, that are sizes or a script's defaults:
        0, above most losses, or under names that no later row has."""
        placed = {*PLACES, *EPOCHS, *STEPS}
        told = (placed & row.keys() or not all(map(WHOLE.fullmatch, map(str, row.values()))) for row in self.rows)
        later = next((at for at, said in enumerate(told) if said), 0)
        names = {name for row in self.rows[later:] for name in row}
        curve = (
            row.keys() <= names and not any(float(cell) == 0 or float(cell) > MOST_LOSS for cell in row.values())
            for row in self.rows[:later]
        )  # fmt: skip
        return next((at for at, is_one in enumerate(curve) if is_one), later)

    def logs(self, path: Path) -> list[Log]:
        """What was found, as logs."""
        self._end_of_block()
        if self.trials:
            self._end_of_trial(None)  # one that broke off
            if len(self.rows) < 2 * (self.trials - 1):
                raise DataError(RESULTS.format(path))
        losses, used = {"train_loss", "valid_loss"}, {"train_loss", "valid_loss", "valid_metric"}
        asked = losses if self.rows else used  # scores that a dict or a list repeats are none beside losses
        if self.whole and (asked is used or any(guess(log.columns).taken.keys() & asked for log in self.whole)):
            return [replace(log, name=": ".join(filter(None, (str(path), log.name)))) for log in self.whole]
        listed = [columns for columns in self.lists if guess(columns).taken.keys() & asked]
        if listed and self._of_classes(listed, losses):
            listed = []
        if max((len(cells) for one in listed for cells in one.values()), default=0) > 1:
            return [
                Log(one, f"{path}: run {i}" if len(listed) > 1 else str(path), TEXT) for i, one in enumerate(listed, 1)
            ]
        each = [columns_of(rows) for _, rows in self.tables.found if len(rows) >= FEWEST_ROWS]
        sides = [guess(columns).taken.keys() & losses for columns in each]
        each = [columns for columns, found in zip(each, sides, strict=True) if found]
        if len(set[str]().union(*sides)) < sum(map(len, sides)):  # a side that comes again is of another run
            return [Log(columns, f"{path}: table {i}", TEXT) for i, columns in enumerate(each, 1)]
        rows = self.rows[self._begins() :]
        if any("epoch" in row or "step" in row for row in rows):
            rows = [{name: cell for name, cell in row.items() if name != "index"} for row in rows]
        columns = columns_of(rows)
        unplaced = not any({*PLACES, *EPOCHS, *STEPS, "index"} & row.keys() for row in rows)
        if not {*columns} & {*EPOCHS, *STEPS, "index"}:
            _count(columns, rows)
        columns = {
            "step" if name == "index" else name: columns[name] for name in sorted(columns, key=lambda name: "(" in name)
        }
        taken = guess(columns).taken
        used &= taken.keys()
        if not used or sum(any(row.get(taken[one]) is not None for one in used) for row in rows) < FEWEST_ROWS:
            return []
        if _are_results(columns, [taken[one] for one in used], unplaced):
            return []
        kept = [taken[one].removesuffix(" batch") for one in losses & used]
        for name, (a, b) in self.twice.items():
            if any(theirs.endswith(name) for theirs in kept):
                raise DataError(
                    f"'{path}' has two values called '{name}' on one line ({a:g} and {b:g}), and no word tells whose they are. "
                    "Name them, as train_loss and val_loss."
                )
        writer = TRANSFORMERS if "eval_loss" in columns and "epoch" in columns else TEXT
        return [Log(columns, str(path), writer, {}, ("Read from lines of text: numbers that follow a name.",))]


def _count(columns: dict[str, list[Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Number rows that nobody numbered: as epochs where each has both sides or both have as many rows, else as steps."""
    sides = {name: parse_name(name).side for name in columns if parse_name(name).what}
    if "loss" not in {parse_name(name).what for name in columns}:
        return
    if any(len({sides.get(name) for name, cell in row.items() if cell is not None} - {None}) > 1 for row in rows):
        return
    counts = {sum(cell is not None for cell in columns[name]) for name in sides}
    if len({*sides.values()}) > 1 and len(counts) == 1:
        done = dict.fromkeys(columns, 0)
        columns["epoch"] = []
        for row in rows:
            done.update({name: done[name] + 1 for name in row})
            columns["epoch"].append(max(done[name] for name in row))
        return
    columns["step"] = [*range(1, len(rows) + 1)]


def _are_results(columns: dict[str, list[Any]], used: Sequence[str], unplaced: bool) -> bool:
    """Whether values are the ends of runs: one each, tests that nothing numbers, or epochs in the order of their scores."""
    if max(sum(cell is not None for cell in columns[name]) for name in used) < FEWEST_ROWS and unplaced:
        return True
    sides = {parse_name(name).side for name in used}
    if unplaced and TEST in sides and not sides & {TRAIN, NOBODY}:
        return True
    places = columns.get("epoch") or columns.get("step") or []
    said = [k for i, k in enumerate(places) if any(columns[name][i] is not None for name in used)]
    at = [float(k.replace(",", "")) for k in map(str, said) if NUMBER.fullmatch(k)]
    downs = [b for a, b in itertools.pairwise(at) if b < a]
    counts = len({*columns.get("step", ())} - {None}) > 1
    if len(at) > 1 and len({*at}) == 1 and not counts and not sides & {TRAIN, NOBODY}:
        return True  # evaluations of one end
    return 2 <= len(at) < MOST_RESULTS and 3 * len(downs) >= len(at) and len({*downs}) > 1


# Sentences


def plain_line(line: str) -> str:
    """A line without clocks, and with its counted words apart from their numbers."""
    line = line.replace("|", " | ") if line.lstrip().startswith("|") else line
    for sign, pattern, ours in OF_LINES:
        if sign in line:
            line = re.sub(pattern, ours, line, flags=0 if ours == " " else re.IGNORECASE)
    return line


def cut(line: str) -> tuple[Wording, list[float]]:
    """A line's template, understood, and its numbers."""
    parts = NUMBER.split(line)
    return understood(HERE.join(parts[::2])), [float(number.replace(",", "")) for number in parts[1::2]]


@lru_cache(maxsize=4096)
def understood(template: str) -> Wording:
    """What the numbers of a line are."""
    line = _Line()
    tokens = TOKEN.findall(BEHIND.sub(_before, template))
    for token, after in zip(tokens, [*tokens[1:], ""], strict=False):
        line.take(token, after)
    words = [word for token in tokens if token[:1].isalpha() for word in name_words(token) if word not in STARTED]
    section = named_side(" ".join(word for word in words if word not in EPOCHS)) if len(words) < 8 else NOBODY
    _settle(line.slots, line.bare)
    if line.slots and line.slots[-1].kind == "told" and tokens[-1] != HERE:
        line.slots[-1] = Hole("", "none")
    return Wording(
        tuple(line.slots),
        _side(line.words) or line.side,
        section,
        (_what(line.words) or line.what) if template.rstrip().endswith(":") and len(words) < 5 else "",
        BAR.search(template) is not None,
        "ETA:" in template,
        len(words) > PROSE,
    )


def _before(behind: re.Match[str]) -> str:
    """``1.2 (train loss)`` with the name before its number, as others write it."""
    return f"{behind[1]} {HERE}" if parse_name(behind[1]).side and not parse_name(behind[1]).parts else behind[0]


def _settle(slots: list[Hole], bare: Sequence[int]) -> None:
    """Mend what could not be known before the line was over.

    A side that was only heard is taken back where the line has a name that says it: ``val_loss: 1 - loss: 2``. Sides alone
    beside a loss of nobody are scores: ``Loss: 1.2, Train: 0.7, Val: 0.6``. One name may have values of two sides:
    ``loss (train/val): 1.2/1.3``. A quantity that nobody knows is one where both sides have it: ``tr_ssl=0.3 va_ssl=0.4``.
    """
    names = [parse_name(slot.name) for slot in slots]
    whole = {(name.side, name.parts) for name, slot in zip(names, slots, strict=True) if slot.kind == "own"}
    for place, name in enumerate(names):
        if slots[place].kind == "own":
            shared = any((side, name.parts) in whole for side in {*SIDES.values()} - {name.side})
            slots[place] = replace(slots[place], kind="value" if shared else "none")
    said = {(name.side, name.quantity) for name in names if "(" not in name.text}
    whose = {names[i].side for i in bare}
    scores = TRAIN in whose and len(whose) > 1 and any(
        name.is_loss and i not in bare and (not name.side or "(" in name.text) for i, name in enumerate(names)
    )  # fmt: skip
    for place, (slot, name) in enumerate(zip(slots, names, strict=True)):
        heard = slot.name.endswith(f" ({name.side})")
        if place in bare and scores:
            slots[place] = Hole(f"{name.side} score", slot.kind)
        elif heard and ((name.side, name.quantity) in said or (scores and name.is_loss)):
            slots[place] = Hole(slot.name.rpartition(" (")[0], slot.kind)
        sides = [*dict.fromkeys(SIDES[word] for word in name_words(slot.name) if word in SIDES)]
        if "/" in slot.name and len(sides) == 2 and name.what and place + 1 < len(slots):
            slots[place : place + 2] = [Hole(f"{side} {name.what}", "value") for side in sides]


@dataclass
class _Line:
    """A line that is read token by token: the words since the last number, and the side and the quantity that were heard."""

    slots: list[Hole] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    side: str = NOBODY
    what: str = NOBODY
    before: str = ""
    closed: bool = False
    direct: bool = False

    def take(self, token: str, after: str) -> None:
        """Take one token."""
        sign = token.strip()
        if token == HERE:
            self.slots.append(self._slot())
            self.direct = False
            self._hear()
        elif sign[:1].isalpha():
            if self.closed and self.words:
                self._hear()
            if self.before == HERE and not self.words and self.slots and (kind := COUNTS.get(sign.lower())):
                place = -2 if self.slots[-1].kind == "total" and len(self.slots) > 1 else -1
                if self.slots[place].kind in FREE:
                    self.slots[place] = Hole("", kind)
                    return
            self.direct = self.direct or (self.before == HERE and not self.words and bool(self.slots))
            self.words.append(token)
        elif sign in BREAKS or (not sign and after not in BEFORE_VALUES) or re.fullmatch(r"-+>|[-–—]+", sign):
            self._hear()
        self.closed = sign in (":", "]", ")") or (self.closed and sign in "'\"")
        self.before = sign or self.before

    def _hear(self) -> None:
        if self.direct and self.slots[-1].kind in FREE and (_what(self.words) or self.words == ["avg"]):
            self.slots[-1] = Hole(" ".join([*self.words, "loss"][:2]).lower(), "value")  # 0.53 avg loss,
            self.words = []
        self.direct = False
        self.side, self.what = _side(self.words) or self.side, _what(self.words) or self.what
        self.words = []

    def _slot(self) -> Hole:
        """What a number is."""
        words = self.words
        if self.waiting and not [word for word in words if word.lower() not in ("is", "was", "of")]:
            words, self.waiting = self.waiting, []
        if not words:
            return self._nameless()
        name = " ".join(words[-5:]).lower()
        plain = normalize_name(name)
        kinds = {slot.kind for slot in self.slots}
        if plain == "cost" or (plain in ("total", "value") and kinds & {"epoch", "step"}):
            name = f"{plain} loss"
        if TIMES.search(plain) and not parse_name(words[-1]).what:
            return Hole("", "none")
        kind = _place(words)
        if plain in ("e", "s") or kind:
            before = [word for word in words[:-1] if word.lower() not in ("at", "after", "in", "for")]
            self.waiting = before if _what(before) else self.waiting  # Loss at epoch 0 and iteration 500 is 0.2
            return Hole("", {"e": "epoch", "s": "step"}.get(plain, kind))
        self.waiting = []
        parsed = parse_name(name)
        if CHANGED.search(" ".join(words)):
            return Hole("", "none")
        if self.before == "[" and kinds <= {"none"} and not _what(words):
            return Hole("", "index")  # INFO [15] train-logloss
        if not parsed.what:
            if parsed.side and parsed.parts and parsed.level:
                return Hole(name, "own")
            if parsed.players:
                return Hole(name, "value")
            vague = {"is", "all"} & {*plain.split("_")} and not self.what
            if parsed.parts or not parsed.side or not parsed.level or vague:
                return Hole("", "none")
            self.bare.append(len(self.slots))
            return Hole(f"{name} {self.what}".strip(), "value")
        return Hole(f"{name} ({self.side})" if self.side and not parsed.side else name, "value")

    def _nameless(self) -> Hole:
        last = self.slots[-1] if self.slots else Hole("", "index")
        if self.before == "/" and self.slots:
            if last.kind == "none":
                self.slots[-1] = Hole("", "batch")
            return Hole("", "total")
        if last.kind == "value" and self.before in (HERE, ":"):
            return Hole(last.name, "second")
        if self.before == "(" and last.kind == "value":
            return Hole(f"{last.name} avg", "running")
        if self.before == "[" and self.bare == [len(self.slots) - 1]:  # Train: 3 [ 50/1251]
            self.slots[-1], self.bare = Hole("", "epoch"), []
            return Hole("", "batch")
        if self.before == "[" and last.kind in ("epoch", "total"):
            return Hole("", "batch")
        if self.before == "," and last.kind == "index" and len(self.slots) == 1:
            return Hole("", "batch")
        if self.before == ":" and last.kind in PLACES and len(self.slots) == 1:  # round 1: 2.3
            return Hole("", "told")
        return Hole("", "none" if self.slots else "index")


def _place(words: Sequence[str]) -> str:
    """The kind of place that words end in, a side set aside: ``Epoch(train)``."""
    if len(words) > 1 and words[-2].lower() in ARTICLES and _what(words):  # loss of the epoch
        return ""
    last = next(
        (word for word in reversed(normalize_name(" ".join(words[-5:])).split("_")) if word not in {*SIDES, *NUMBERED}),
        "",
    )
    return next((kind for kind, known in KINDS.items() if last in known), "")


def _side(words: Sequence[str]) -> str:
    """The side that words speak of: the last one, where no word is part of a path or a name of something else."""
    found = NOBODY
    for word in words[-6:]:
        parts = name_words(word)
        if "." in word[:-1] or "/" in word:
            continue
        found = next((SIDES[part] for part in parts if part in SIDES), found)
    return found


def _what(words: Sequence[str]) -> str:
    return parse_name(" ".join(words[-4:]).lower()).what if words else ""


# Tables


@dataclass
class _Tables:
    """Rows below a line of names: the names, where they stand, and the tables that count, each apart."""

    header: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    found: list[tuple[list[str], list[dict[str, Any]]]] = field(default_factory=list)
    named: bool = False
    last: float = 0.0

    def row(self, line: str) -> dict[str, Any] | None:
        """The row that a line is; empty for names and rules, None for what is of no table."""
        line = ROW_BAR.sub("", line)
        cells, above = [MARKED.sub("", cell) or cell for cell in split_cells(line)], self.above
        self.above = []
        if len(cells) < 2:
            return None
        if re.fullmatch(r"[\s|:+=\-─━┼┃│]+", line):
            return {}
        if "|" in line and not any(map(NUMBER.search, cells)):
            self.above = cells
            if len(above) == len(cells):  # a head of two lines: MATLAB
                cells = [re.sub(r"\(.*?\)", "", f"{a} {b}").strip() for a, b in zip(above, cells, strict=True)]
        if cells[0] == "Epoch" and len(PARTS.intersection(cells)) > 1:  # of YOLOv5
            cells = [f"{cell} loss" if cell in PARTS or cell == "total" else cell for cell in cells]
        elif cells[0] == "Class":  # of Ultralytics' validation
            cells = [f"valid {cell.replace('@.5:.95', '').replace('@.5', '_50')}" for cell in line.split()]
        if _is_header(cells):
            self.spans = [] if "|" in line else [cell.span() for cell in CELLS.finditer(line)]
            self.header = (
                _heads(line) if cells[:2] == ["E", "#"] else [c or f"column_{i}" for i, c in enumerate(cells, 1)]
            )
            self.header = ["epoch" if normalize_name(name) in EPOCHS else name for name in self.header]
            self.named = True
            return {}
        if not self.header:
            return None
        cells = [REMARK.sub("", cell) or cell for cell in cells]
        if len(cells) != len(self.header):
            longer = len(cells) > len(self.header) and not _is_cell(cells[-1])
            cells = cells[: len(self.header)] if longer else self._below(line) or line.split()
        cells[0] = PLACED.sub(r"\1", cells[0]) if self.header[0] == "epoch" else cells[0]
        written = [cell for cell in cells if cell]
        numbers = [cell for cell in written if _is_cell(cell)]
        placed = self.header[0] == "epoch" and not _is_cell(cells[0])  # a row of another table
        if len(cells) != len(self.header) or 2 * len(numbers) < len(written) or placed:
            return None
        row: dict[str, Any] = {name: _cell(name, cell) for name, cell in zip(self.header, cells, strict=True)}
        if row.get("step") == "0" and SPACY in self.header:  # of one batch, where later ones are sums
            row = {name: cell for name, cell in row.items() if not name.startswith("LOSS")}
        places = {name: cell for name, cell in row.items() if normalize_name(name) in (*EPOCHS, *STEPS)}
        first = normalize_name(self.header[0])
        if first in TRIALS[1:] or (first in ONE_EACH and not places):
            return {}  # one row for each model: what it ended at
        if places:
            self._keep(row, (plain_numbers([*places.values()][:1]) or [None])[0] or 0.0)
        return row

    def _keep(self, row: dict[str, Any], place: float) -> None:
        """Keep a row of a table that counts; another begins below other names, and where the names come again and count anew."""
        if not self.found or self.found[-1][0] != self.header or (self.named and place < self.last):
            self.found.append((self.header, []))
        self.found[-1][1].append(row)
        self.named, self.last = False, place

    def _below(self, line: str) -> list[str]:
        """The cells of a line that lacks some, each below the name that begins or ends nearest; none where two are below one."""
        cells = [*CELLS.finditer(line)] if self.spans else []
        far = [[min(abs(a - b) for a, b in zip(one, cell.span(), strict=True)) for one in self.spans] for cell in cells]
        found = {away.index(min(away)): cell[0] for away, cell in zip(far, cells, strict=True)}
        whole = len(self.spans) == len(self.header) > len(found) == len(cells)
        return [found.get(i, "") for i in range(len(self.header))] if whole else []


def split_cells(line: str) -> list[str]:
    """The cells of a line: between bars, tabs, or blanks of two and more."""
    text = line.strip()
    if text.count("|") > 1 or (text.startswith("|") and text.endswith("|")):
        return [cell.strip() for cell in text.strip("|").split("|")]
    cells = re.split(r"\t+| {2,}", text)
    return cells if len(cells) > 1 else text.split()


def _is_header(cells: Sequence[str]) -> bool:
    """Whether cells are names: none has a number of its own, at least two are known, one of which is a quantity."""
    if any(NUMBER.search(cell) or ":" in cell or "=" in cell for cell in cells) or len(cells) > 100:
        return False
    quantities = [cell for cell in cells if parse_name(cell).what]
    known = [
        cell
        for cell in cells
        if parse_name(cell).what or parse_name(cell).side or normalize_name(cell) in (*EPOCHS, *STEPS, "e")
    ]
    sides = {named_side(cell) for cell in cells} - {NOBODY}  # Iter | Train | Val
    spoken = quantities or (len(sides) > 1 and normalize_name(cells[0]) in (*EPOCHS, *STEPS))
    return bool(spoken) and len(known) > 1 and 4 * len(known) >= len(cells) and max(map(len, cells)) < 40


def _heads(line: str) -> list[str]:
    """The names in spaCy's header, whose scores are of validation."""
    cells = re.findall(r"LOSS\s+\S+|\S+", line)
    known = {"E": "epoch", "#": "step", "SCORE": SPACY}
    return [known.get(cell, cell if cell.startswith("LOSS") else f"valid {cell}") for cell in cells]


def _is_cell(cell: str) -> bool:
    plain = re.sub(r"/\d+$|\s*%$", "", cell)
    return cell.lower() in MISSING or NUMBER.fullmatch(plain) is not None or SUMMED.fullmatch(cell) is not None


def _cell(name: str, cell: str) -> str | float | None:
    """What stands in a cell: a number as it is written, the sum of the terms of a loss, or None."""
    if cell.lower() in MISSING or not _is_cell(cell):
        return None
    if cell.startswith("["):  # DeepXDE; several metrics are not one
        summed = cell != "[]" and parse_name(name).what == "loss"
        return sum(map(float, cell.strip("[]").split(","))) if summed else None
    return cell.partition("/")[0]


# Dicts


def braces(line: str) -> dict[str, Any] | None:
    """The dict in a line, as JSON or as Python prints it; None where there is none with a name and a number."""
    begin, end = line.find("{"), line.rfind("}")
    if begin < 0 or end <= begin or end - begin > LONGEST_DICT or not re.match(r"\{\s*['\"\w]", line[begin:]):
        return None
    inside = line[begin : end + 1]
    try:
        value = json.loads(inside if '"' in inside else inside.replace("'", '"'))
    except (ValueError, RecursionError):
        plain = re.sub(r"(?<![\w'\".])(-?)(nan|inf)(?![\w'\"])", r"'\1\2'", TENSOR.sub(r"\1", inside))
        try:
            value = ast.literal_eval(plain)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    if not isinstance(value, dict):
        return None
    value = {str(name): cell for name, cell in value.items()}
    return value if any(parse_name(name).what for name in flattened(value)) else None
