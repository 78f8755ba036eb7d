"""How the texts of a column are taken: as numbers, dates, truths or categories. Decided once, from all cells, and kept.

`infer_reading` looks at every distinct text of a column, never at a sample, since the one decimal comma that tells ``2.436``
from 2436 may stand in the last row. A `Notation` is plain data: it is saved with a model, so that new rows are read as the
training rows were. What it cannot read is missing, and whoever asks is told how many cells that were.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from wellposed.core.errors import require

ColumnKind = Literal["number", "category", "boolean", "date"]
KINDS: tuple[ColumnKind, ...] = get_args(ColumnKind)
Decimal = Literal[".", ","]
DateOrder = Literal["year", "day", "month"]
Floats: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Integers: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Truths: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

MOSTLY = 0.9  # a column of texts with at least this share of numbers (or of dates) is one of numbers (dates)
MOST_LEVELS = 30  # a column with more distinct values than this is poorly said by categories

MOST_NAMED_LEVELS = 12  # so many distinct whole numbers beside a text are levels that have numbers for names

# A word for "missing", in lower case. It means missing only beside numbers, dates, or a yes and a no: among other texts,
# "NA" may be Namibia and "none" a kind of fence.
MISSING_WORDS = frozenset({
    "na", "n/a", "n.a.", "nan", "null", "(null)", "none", "nil", "?", "-", "--", "–", "—", ".", "..", "...", "*",
    "#n/a", "#na", "#nv", "#value!", "#wert!", "#div/0!", "#ref!", "<na>", "\\n", "missing", "unknown", "not available", "no data",
    "undefined",
    "n.d.", "n.d", "nd", "n/d", "s/d", "k.a.", "k. a.", "k.a", "keine angabe", "unbekannt", "inconnu", "sin datos", "sin dato",
})  # fmt: skip
TRUE_WORDS = frozenset(
    {"true", "yes", "y", "t", "ja", "j", "oui", "si", "sí", "sì", "sim", "да", "tak", "vrai", "wahr", "1"}
)
FALSE_WORDS = frozenset(
    {"false", "no", "n", "f", "nein", "non", "não", "nao", "нет", "nie", "nej", "nee", "faux", "falsch", "0"}
)
PLAIN_TRUTHS = frozenset({"true", "false"})
SENTINELS = (-99.0, -999.0, -9999.0, -99999.0, -999.9, -999.99)
"""Numbers that stand for a missing one where they come twice and no other is below 0."""


@dataclass(frozen=True)
class Usual:
    """What the other columns of a table show, for columns that could be read in two ways.

    ``decimal`` is the sign that was seen beyond doubt, None if there was none; ``order`` likewise of dates;
    ``separator`` is the sign between cells, since a semicolon leaves the comma to decimals.
    """

    decimal: Decimal | None = None
    order: DateOrder | None = None
    separator: str = ","


@dataclass(frozen=True)
class Notation:
    """How the texts of one column are read as values.

    ``decimal`` is the sign before decimals, and the other of point and comma (or a blank, or an apostrophe) stands between
    thousands if ``grouped``; ``unit`` stands beside the numbers (``kg``, ``€``, ``%``); ``order`` is the first part of dates
    whose year stands last; ``missing`` are numbers that mean "missing"; ``doubt`` says what else it could be.
    """

    kind: ColumnKind
    decimal: Decimal = "."
    grouped: bool = False
    unit: str = ""
    order: DateOrder = "year"
    missing: tuple[float, ...] = ()
    doubt: str = field(default="", compare=False)

    @property
    def plain(self) -> bool:
        """Whether numbers are written as programs write them: ``-1234.5``."""
        return self.kind == "number" and (self.decimal, self.grouped, self.unit) == (".", False, "")

    def values(self, texts: Sequence[str]) -> Floats:
        """Texts as numbers, days since 1970, or 1 and 0; NaN for what is none."""
        if self.kind == "date":
            return days_in(texts, self.order)
        if self.kind == "boolean":
            words = [text.strip().lower() for text in texts]
            return np.array([1.0 if w in TRUE_WORDS else 0.0 if w in FALSE_WORDS else np.nan for w in words])
        return self.without_sentinels(np.array([self._number(text) for text in texts], dtype=np.float64))

    def without_sentinels(self, x: Floats) -> Floats:
        """The numbers, NaN where one means "missing"."""
        return np.where(np.isin(x, self.missing), np.nan, x) if self.missing else x

    def _number(self, text: str) -> float:
        found = _written(text)
        if found is None or found.unit not in ("", self.unit):
            return _plain_word(text)
        return found.value(self.decimal, self.grouped)

    def said(self) -> str:
        """The reading in a few words, for a person: ``numbers as 1234,5 in kg``."""
        if self.kind == "date":
            return {"year": "dates", "day": "dates, the day first", "month": "dates, the month first"}[self.order]
        if self.kind != "number":
            return {"boolean": "yes or no", "category": "categories"}[self.kind]
        written = {(",", False): " as 1234,5", (",", True): " as 1.234,5", (".", True): " as 1,234.5"}
        said = "numbers" + written.get((self.decimal, self.grouped), "") + (f" in {self.unit}" if self.unit else "")
        gone = " and ".join(f"{number:g}" for number in self.missing)
        return f"{said}, {gone} as missing" if gone else said


def infer_reading(
    texts: Sequence[str], counts: Integers, usual: Usual | None = None, kind: ColumnKind | None = None
) -> Notation:
    """How a column is read, from its distinct texts and how often each stands there.

    Args:
        texts: distinct, without white space around them, none empty.
        counts: one for each text, >= 1.
        usual: what the other columns show.
        kind: given by a person; then only how it is written is found.
    """
    usual = usual or Usual()
    there = np.array([text.lower() not in MISSING_WORDS for text in texts], dtype=bool)
    total = int(counts[there].sum())
    if kind == "category" or (kind is None and not total):
        return Notation("category" if len(texts) else "number")
    if kind in (None, "boolean") and _are_truths(texts, there):
        return Notation("boolean")
    numbers = _infer_numbers(texts, counts, usual)
    if kind in (None, "number"):
        values = numbers.values(texts)
        readable = int(counts[there & ~np.isnan(values)].sum())
        enough = readable >= MOSTLY * total or (2 * readable >= total and len(texts) > MOST_LEVELS)
        again = bool((counts[there & np.isnan(values)] > 1).any())  # which a slip of the pen is not
        known = values[~np.isnan(values)]
        # A few whole numbers beside a text such as "U" are the names of levels.
        levels = again and len(known) <= MOST_NAMED_LEVELS and bool((known == np.round(known)).all())
        enough = enough and not levels
        if kind == "number" or (enough and not numbers.doubt.startswith("codes")):
            dates = Notation("date") if kind is None and _are_compact_dates(texts, there) else None
            return dates or numbers
    dates = _infer_dates(texts, counts, usual)
    if kind is None and _are_numbered(texts):
        return Notation("category", doubt=numbers.doubt)
    if kind == "date" or int(counts[there & ~np.isnan(dates.values(texts))].sum()) >= MOSTLY * max(total, 1):
        return dates if kind != "boolean" else Notation("boolean")
    if kind == "boolean":
        return Notation("boolean")
    return Notation("category", doubt=numbers.doubt)


def quantity(text: str) -> str | None:
    """What a text alone says that it is: a date (``date``), a number (its unit, or nothing), or neither (None)."""
    if _iso(text, "day") is not None:
        return "date"
    found = _written(text)
    return None if found is None else found.unit


def _are_truths(texts: Sequence[str], there: Truths) -> bool:
    words = {text.lower() for text in texts}
    if words <= PLAIN_TRUTHS:
        return bool(words)
    found = {text.lower() for text, is_there in zip(texts, there, strict=True) if is_there}
    both = bool(found & TRUE_WORDS) and bool(found & FALSE_WORDS)
    return both and found <= (TRUE_WORDS | FALSE_WORDS) - {"0", "1"}


# --- numbers -------------------------------------------------------------------------------------------------------

_ODD_SIGNS = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2212": "-", "\u2019": "'", "\u00b4": "'"})
_WRITTEN = re.compile(
    r"(?P<open>\()?\s*(?P<sign>[-+])?\s*(?P<before>[^\d\s.,'()+\-]{1,4}\.?)?\s*(?P<inner>[-+])?\s*"
    r"(?P<body>\d[\d.,' ]*|[.,]\d+)(?P<power>[eE][-+]?\d+)?\s*"
    r"(?P<after>\+|[^\d\s.,'()+\-:][^\s,()]*(?: [^\d\s,()]+)?)?\s*(?P<last>-)?\s*(?P<close>\))?"
)
_DAMAGED = re.compile(r"\d{2,3}([.,])\d{3}(?:\1\d{3}){3,}(?<!000)")
"""All the digits that a computer gives a decimal, with a sign at each third: beside decimals with that sign, a sheet has lost where
the decimal sign was."""
_CURRENCIES = frozenset({
    "USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR", "BRL", "RUB", "PLN", "CZK", "SEK", "NOK", "DKK", "HUF", "AUD", "CAD", "MXN",
    "TRY", "ZAR", "KRW", "R$", "US$", "A$", "C$", "Rs", "Rs.", "kr", "kr.", "Kč", "zł", "Ft",
})  # fmt: skip
_FACTORS = {"k": 1e3, "K": 1e3, "M": 1e6, "Mio": 1e6, "Mio.": 1e6, "B": 1e9, "bn": 1e9, "Mrd": 1e9, "Mrd.": 1e9}


@dataclass(frozen=True)
class _Written:
    """A number as it is written: its digits and signs, what stands beside it, and what both are multiplied by."""

    body: str
    unit: str
    beside: str  # the unit or the factor, as it stands there
    factor: float
    power: str

    def decimal(self) -> str:
        """The decimal sign: ``.`` or ``,`` if it must be, ``?.`` or ``?,`` if that sign may be one, empty if there is none."""
        signs = [sign for sign in self.body if sign in ".,"]
        if not signs:
            return ""
        last = signs[-1]
        if len(signs) > 1:  # of both kinds, or one kind several times, which then stands between thousands
            decimal = last if len(set(signs)) == 2 else _other(last)
            return decimal if _pattern(decimal, True).fullmatch(self.body) else ""
        whole, _, rest = self.body.partition(last)
        return f"?{last}" if re.fullmatch(r"[1-9]\d{0,2}", whole) and re.fullmatch(r"\d{3}", rest) else last

    def value(self, decimal: str, grouped: bool) -> float:
        """The number under a reading; NaN if it cannot be written so."""
        if not _pattern(decimal, grouped).fullmatch(self.body):
            return np.nan
        digits = re.sub(r"[ ']|" + re.escape(_other(decimal)), "", self.body).replace(decimal, ".")
        return float(digits + self.power) * self.factor


@cache
def _pattern(decimal: str, grouped: bool) -> re.Pattern[str]:
    other = re.escape(_other(decimal))
    whole = r"\d+"
    if grouped:
        whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:[{other}' ]\d{{3}})+|[1-9]\d?(?:,\d\d)+,\d{{3}})"
    return re.compile(rf"{whole}(?:{re.escape(decimal)}\d*)?|{re.escape(decimal)}\d+")


def _other(decimal: str) -> Decimal:
    return "," if decimal == "." else "."


def _written(text: str) -> _Written | None:
    found = _WRITTEN.fullmatch(text.translate(_ODD_SIGNS).strip())
    if found is None or bool(found["open"]) != bool(found["close"]):
        return None
    body, before, after = found["body"].strip(), found["before"] or "", found["after"] or ""
    if before and not _is_currency(before):
        return None
    sign = after.removeprefix("/")[:1]  # also 5/kg
    if after and after != "+" and not (sign.isalpha() or sign in tuple("%‰°″") or _is_currency(sign)):
        return None
    factor = _FACTORS.get(after, 1.0)
    signs = [sign for sign in (found["sign"], found["inner"], found["last"]) if sign]
    if len(signs) + bool(found["open"]) > 1 or (found["last"] and after == "+"):
        return None
    negative = bool(found["open"]) or signs == ["-"]
    unit = " ".join(part for part in (before, "" if after in _FACTORS else _singular(after)) if part)
    return _Written(body, unit, before + after, -factor if negative else factor, found["power"] or "")


def _is_currency(sign: str) -> bool:
    return sign in _CURRENCIES or (len(sign) <= 2 and any(unicodedata.category(one) == "Sc" for one in sign))


def _singular(unit: str) -> str:
    """``year`` of ``years``: one of them and several are one unit. ``ms`` stays, since it is not ``m``."""
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") and unit.isalpha() else unit


def _plain_word(text: str) -> float:
    """``true``, ``inf`` and the like beside numbers."""
    word = text.strip().lower()
    if word in PLAIN_TRUTHS:
        return float(word == "true")
    return float(word) if re.fullmatch(r"[-+]?inf(inity)?", word) else np.nan


def _infer_numbers(texts: Sequence[str], counts: Integers, usual: Usual) -> Notation:
    written = [(found, int(count)) for text, count in zip(texts, counts, strict=True) if (found := _written(text))]
    if doubt := _codes(written):
        return Notation("number", doubt=doubt)
    beside: Counter[str] = Counter()
    for found, count in written:
        if found.unit:
            beside[found.unit] += count
    unit = max(sorted(beside), key=beside.__getitem__, default="")
    if beside[unit] < MOSTLY * beside.total():
        most = ", ".join(f"{name} ({count})" for name, count in beside.most_common(3))
        often = sum(count for _, count in written) >= MOSTLY * counts.sum()
        return Notation("number", doubt=f"numbers in several units: {most}" if often else "")
    if beside[unit] < (1 - MOSTLY) * sum(count for _, count in written) and not _is_currency(unit.rstrip("+")):
        unit = ""  # of a few cells only: the others are in another one
    signs = {found.decimal() for found, _ in written}
    written = [
        (found, count) for found, count in written
        if found.unit in ("", unit) and not ((lost := _DAMAGED.fullmatch(found.body)) and lost[1] in signs)
    ]  # fmt: skip
    decimal, doubt = _decimal(written, usual)
    other = _other(decimal)
    grouped = any(sign in found.body for found, _ in written for sign in (other, " ", "'"))
    reading = Notation("number", decimal, grouped, unit, doubt=doubt)
    return replace(reading, missing=sentinels(reading.values(texts), counts))


def _codes(written: Sequence[tuple[_Written, int]]) -> str:
    """Why digits are codes: nearly all are bare, and some begin with 0, as ``007``, twice or all equally long; or letters of
    the alphabet stand beside some, ``2A`` and ``2B``, of which B is no billion then. Empty if they are none."""
    bare = [(found.body, count) for found, count in written if found.body.isdigit() and not found.beside]
    if sum(count for _, count in bare) < MOSTLY * sum(count for _, count in written):
        return ""
    zeros = sum(count for body, count in bare if len(body) > 1 and body[0] == "0")
    if zeros > 1 or (zeros == 1 and len(bare) == len(written) and len({len(body) for body, _ in bare}) == 1):
        return "codes, since some begin with 0"
    letters = {found.beside for found, _ in written if re.fullmatch("[A-Z]", found.beside)}
    several = len(letters) > 1 and not letters <= _FACTORS.keys()
    return "codes, since letters stand beside some" if several or letters == {"B"} else ""


def _decimal(written: Sequence[tuple[_Written, int]], usual: Usual) -> tuple[Decimal, str]:
    """The decimal sign, and what else it may be. Cells that allow one sign only decide; then the other columns."""
    votes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for found, count in written:
        sign = found.decimal()
        votes[sign] += count
        examples.setdefault(sign, found.body)
    if votes["."] or votes[","]:
        return "," if votes[","] > votes["."] else ".", ""
    unsure: Decimal = "." if votes["?."] >= votes["?,"] else ","
    if not votes[f"?{unsure}"]:
        return (usual.decimal or "."), ""
    if any(found.body.isdigit() and len(found.body) > 3 for found, _ in written):
        return unsure, ""  # thousands are written without a sign
    example = examples[f"?{unsure}"]
    joined = re.sub(r"\D", "", example)
    decimal: Decimal = usual.decimal or ("," if unsure == "," and usual.separator == ";" else ".")
    point = example.replace(",", ".")
    taken, other = (point, joined) if decimal == unsure else (joined, point)
    doubt = f"{example} is read as {taken}; if it means {other}, give the column the kind number:{_other(decimal)}"
    return decimal, "" if usual.decimal else doubt


def sentinels(x: Floats, counts: Integers, known: Iterable[float] = ()) -> tuple[float, ...]:
    """Numbers such as -999 that stand for "missing": the least of a column, from -99 down, and one of two kinds.

    It lies further below all others than these are wide, and is one of `SENTINELS` or comes twice; or no other number is
    below 0, it comes twice, and it is one of `SENTINELS` or `known`: what other columns of the table have.

    Args:
        x: distinct numbers of a column, NaN among them.
        counts: how often each stands there.
    """
    finite = np.isfinite(x)
    x, counts = x[finite], counts[finite]
    if x.size < 3 or x.min() > -99:
        return ()
    number, often = float(x.min()), int(counts[x.argmin()])
    rest = x[x > number]
    apart = rest.min() - number > rest.max() - rest.min()
    if apart and (number in SENTINELS or often > 1):
        return (number,)
    return (number,) if often > 1 and rest.min() >= 0 and number in {*SENTINELS, *known} else ()


# --- dates ---------------------------------------------------------------------------------------------------------

_MONTHS = {name: month for month, names in enumerate((
    "jan gen ene", "feb fév fev", "mar mär mrz", "apr avr abr", "may mai mag", "jun juin giu", "jul juil lug",
    "aug aoû ago aou", "sep set", "oct okt out ott", "nov", "dec dez déc dic",
), start=1) for name in names.split()}  # fmt: skip
_MONTH_NAMES = (
    " january february march april may june july august september october november december "  # each begins with its abbreviations
    "januar februar märz mrz mai juni juli oktober dezember januari augustus janvier février mars avril juin juillet août "
    "septembre octobre novembre décembre enero febrero marzo abril mayo junio julio agosto septiembre setiembre octubre noviembre "
    "diciembre gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre janeiro fevereiro março maio junho julho "
    "setembro outubro novembro dezembro"
)
_TIME = r"(?:(?:\s*[T,]\s*|\s+)(?P<time>\d{1,2}[:.]\d{2}.*))?"
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})" + _TIME)
_MONTH_ONLY = re.compile(r"(?P<year>(?:1[5-9]|20)\d\d)[-/M](?P<month>0[1-9]|1[0-2])")
_MONTH_NAMED = re.compile(r"(?P<name>[^\W\d]{3,10})\.?(?:[-/ ]+(?P<year>(?:1[5-9]|20)\d\d)|-(?P<short>\d\d))")
_WEEK = re.compile(r"(?P<year>(?:1[5-9]|20)\d\d)-?W(?P<week>\d\d)")
_QUARTER = re.compile(
    r"(?P<year>(?:1[5-9]|20)\d\d)[- ]?Q(?P<quarter>[1-4])|Q(?P<first>[1-4])[-/ ](?P<last>(?:1[5-9]|20)\d\d)"
)
_YEAR_LAST = re.compile(r"(?P<first>\d{1,2})([-/.])(?P<second>\d{1,2})\2(?P<year>\d{4}|\d{2})" + _TIME)
_NAMED = re.compile(
    r"(?:[^\W\d]+\.?,? )?(?:(?P<day>\d{1,2})(?:st|nd|rd|th)?[-/ .]+(?:de )?(?P<name>[^\W\d]{3,10})|"
    r"(?P<name_first>[^\W\d]{3,10})\.? (?P<day_last>\d{1,2})(?:st|nd|rd|th)?),?\.?[-/ ]+(?:de )?(?P<year>\d{4}|\d{2})"
    + _TIME
)
_COMPACT = re.compile(r"(?P<year>(?:19|20)\d\d)(?P<month>0[1-9]|1[0-2])(?P<day>[0-3]\d)(?:T(?P<clock>\d{6})Z?)?")
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?\s*(?P<half>[ap])\.?m\.?", re.IGNORECASE
)


def days_in(texts: Iterable[str], order: DateOrder) -> Floats:
    """Days since 1970-01-01 UTC with their fraction; NaN for what is no date.

    Args:
        order: what ``03/04/2024`` begins with; ``2024-04-03`` and ``3 April 2024`` need none.
    """
    pandas = require("pandas", "tables")
    written = [_iso(text, order) for text in texts]
    return days_of(pandas.DatetimeIndex(pandas.to_datetime(written, errors="coerce", utc=True, format="ISO8601")))


def days_of(moments: Any) -> Floats:
    """A pandas index of moments as days since 1970-01-01 UTC; NaN where missing."""
    if moments.tz is not None:
        moments = moments.tz_convert(None)
    return np.asarray((moments.to_numpy() - np.datetime64(0, "D")) / np.timedelta64(1, "D"), dtype=np.float64)


def _iso(text: str, order: DateOrder) -> str | None:
    text = text.strip()
    if found := _YEAR_FIRST.fullmatch(text) or _COMPACT.fullmatch(text):
        parts = found.groupdict()
        clock = parts.get("clock")
        time = parts.get("time") or (clock and f"{clock[:2]}:{clock[2:4]}:{clock[4:]}")
        return _joined(parts["year"], parts["month"], parts["day"], time)
    if found := _MONTH_ONLY.fullmatch(text):
        return _joined(found["year"], found["month"], "1", None)
    if found := _QUARTER.fullmatch(text):
        month = str(3 * int(found["quarter"] or found["first"]) - 2)
        return _joined(found["year"] or found["last"], month, "1", None)
    if found := _WEEK.fullmatch(text):
        first = datetime.date.fromisocalendar(int(found["year"]), 1, 1)
        week = int(found["week"])
        return (first + datetime.timedelta(weeks=week - 1)).isoformat() if 0 < week < 54 else None
    if (found := _MONTH_NAMED.fullmatch(text)) and f" {found['name'].lower()}" in _MONTH_NAMES:
        number = _month(found["name"])
        return _joined(found["year"] or found["short"], str(number), "1", None)
    if found := _YEAR_LAST.fullmatch(text):
        month, day = (found["first"], found["second"]) if order == "month" else (found["second"], found["first"])
        return _joined(found["year"], month, day, found["time"])
    if (found := _NAMED.fullmatch(text)) and (number := _month(found["name"] or found["name_first"])):
        return _joined(found["year"], str(number), found["day"] or found["day_last"], found["time"])
    return None


def _month(name: str) -> int | None:
    return _MONTHS.get(name.lower()[:4]) or _MONTHS.get(name.lower()[:3])


def _joined(year: str, month: str, day: str, time: str | None) -> str:
    if len(year) == 2:
        year = ("19" if int(year) > 68 else "20") + year  # as POSIX has it
    if time and (clock := _CLOCK.fullmatch(time.strip())):
        hour = int(clock["hour"]) % 12 + 12 * (clock["half"].lower() == "p")
        time = f"{hour:02}:{clock['minute']}:{clock['second'] or '00'}"
    elif time and re.fullmatch(r"\d{1,2}\.\d{2}(\.\d{2})?", time):
        time = time.replace(".", ":")
    return f"{year}-{month:0>2}-{day:0>2}" + (f"T{time.strip():0>5}" if time else "")


def _are_compact_dates(texts: Sequence[str], there: Truths) -> bool:
    """``20240531``: eight digits that are a day of the last or this century, in every cell, and not all one day."""
    found = [text for text, is_there in zip(texts, there, strict=True) if is_there]
    written = len(found) > 2 and all(map(_COMPACT.fullmatch, found))
    return written and not bool(np.isnan(days_in(found, "year")).any())


def _are_numbered(texts: Sequence[str]) -> bool:
    """Whether what may be months are numbers: one word throughout, as in ``SET-01`` and ``SET-02``; ``1601-05`` beside
    ``1601-17`` and ``3001-02``; seasons, ``2009-10`` and ``2010-11``."""
    found = filter(None, map(_MONTH_NAMED.fullmatch, texts))
    words = {one["name"].lower() if one["short"] else "" for one in found}
    parts = [text for text in texts if re.fullmatch(r"\d{4}-\d\d", text) and text[-2:] != "00"]
    seasons = all(int(text[-2:]) == (int(text[:4]) + 1) % 100 for text in parts)
    numbered = len(parts) > 1 and (seasons or sum(_MONTH_ONLY.fullmatch(text) is None for text in parts) > 1)
    return numbered or (len(texts) > 1 and len(words) == 1 and "" not in words)


def _infer_dates(texts: Sequence[str], counts: Integers, usual: Usual) -> Notation:
    parts = [found for text in texts if (found := _YEAR_LAST.fullmatch(text))]
    if not parts:
        return Notation("date")
    first, second = (np.array([int(found[name]) for found in parts]) for name in ("first", "second"))
    late = int((first > 12).sum()) - int((second > 12).sum())
    same = int((first == first[0]).all()) - int((second == second[0]).all())  # each month's first day
    if late or same:
        return Notation("date", order="day" if (late or same) > 0 else "month")
    if parts[0][2] == ".":
        return Notation("date", order="day")
    doubt = f"{parts[0].group()} is read with the day first; if that is the month, give it the kind date:month"
    return Notation("date", order=usual.order or "day", doubt="" if usual.order else doubt)
