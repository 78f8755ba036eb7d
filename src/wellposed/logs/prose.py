"""Lines of text, as a loop prints them: ``Epoch 3: train loss 0.41, val loss 0.52 acc 91 %``.

A line gives a row if it says a loss and its number. Epoch and step are those of the line, or of the last line that said one; a loss
without a side is of the side that its line speaks of.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wellposed.logs.column_names import NOBODY, SIDES, guess, parse_name
from wellposed.logs.log import TEXT, Log, columns_of

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|nan|inf|-inf"
QUANTITY = "loss|accuracy|acc|error|err|learning rate|lr|top1"
SAID = re.compile(rf"({QUANTITY})\s*(?:[:=]\s*)?\(?({NUMBER})(?:\s*/\s*(\d+))?(?![\w.])", re.IGNORECASE)
BEFORE = re.compile(
    r"(?:[a-z]+(?:\. |[ _/.\-])){0,3}$", re.IGNORECASE
)  # words of a name that end right before the quantity
LONGEST_BEFORE = 40  # signs; names are short, and a search in them must not take long
PLACE = {
    "epoch": re.compile(r"\bep(?:och)?s?\b\s*(?:[:=#\[(]+\s*)?(\d+)", re.IGNORECASE),
    "step": re.compile(r"\b(?:step|iter|iteration)s?\b\s*(?:[:=#\[(]+\s*)?(\d+)", re.IGNORECASE),
}
WORD = re.compile(r"[aeilrstAEILRST](?i:cc|rr|oss|r|ate|op1|p|tep|ter)")
"""In every quantity and place, and in other words: searched for from its first letter on, as fast as anything is found."""
FEWEST_ROWS = 2  # one sentence with a loss in it is no log
LONGEST_LINE = 5000  # signs; a progress bar that rewrites itself is one line, and only its end counts


def read_prose(path: Path, text: str) -> list[Log]:
    """The run in lines of text; none where fewer than `FEWEST_ROWS` say a loss."""
    rows: list[dict[str, Any]] = []
    place: dict[str, int] = {}
    for line in speaking(text):
        end = line.rstrip("\r").rsplit("\r", 1)[-1][-LONGEST_LINE:]
        for name, where in PLACE.items():
            if found := where.search(end):
                place[name] = int(found[1])
        if values := _values(end):
            rows.append({**place, **values})
    rows = rows if len([row for row in rows if any(parse_name(name).is_loss for name in row)]) >= FEWEST_ROWS else []
    columns = columns_of(rows)
    if not {"train_loss", "valid_loss"} & set(guess(columns).taken):
        return []
    return [Log(_without_bars(columns), str(path), TEXT, {}, ("Read from lines of text: numbers that follow a name.",))]


def speaking(text: str) -> Iterator[str]:
    """The lines that could say a quantity or a place, found without looking at each: a table that is no log has millions."""
    start = 0
    while found := WORD.search(text, start):
        begin = text.rfind("\n", start, found.start()) + 1 or start
        end = text.find("\n", found.end())
        end = len(text) if end < 0 else end
        yield text[begin:end]
        start = end + 1


def _values(line: str) -> Mapping[str, float]:
    """What a line says: each name with its number, ``9/10`` being 0.9."""
    found: dict[str, float] = {}
    for said in SAID.finditer(line):
        before = BEFORE.search(line[max(0, said.start() - LONGEST_BEFORE) : said.start()])
        name = f"{before[0] if before else ''}{said[1]}".strip().lower()
        value = float(said[2])
        found[name] = value / int(said[3]) if said[3] and int(said[3]) else value
    if any(parse_name(name).side for name in found):
        return found
    side = next((SIDES[word] for word in re.findall("[a-z]+", line.lower()) if word in SIDES), NOBODY)
    return {f"{side} {name}".strip(): value for name, value in found.items()}


def _without_bars(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Steps only where the text has no epochs: a step that starts again with each epoch orders nothing."""
    if "epoch" in columns and "step" in columns and len(set(columns["epoch"])) > 1:
        steps = [step for step in columns["step"] if step is not None]
        if any(b < a for a, b in itertools.pairwise(steps)):
            return {name: cells for name, cells in columns.items() if name != "step"}
    return columns
