"""Text for people: what could steer a terminal is made visible, and what an output cannot take gets a form in ASCII.

Names of others (a path, a column, a label, a recipe) are shown by every command and page. A control character in one of them
moves the cursor, renames the window or reverses the line; a minus sign stops a program whose output is ASCII.
"""

from __future__ import annotations

import codecs
import html
import unicodedata
from collections.abc import Callable

JOINERS = "\u200c\u200d"
"""Parts of words in Persian and Hindi, and of emoji. All other signs of format are hidden: they reorder or vanish."""
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of Unicode: control, format, half a pair, and separators of lines that are no newline."""
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

READABLE, LOSSLESS = "wellposed.readable", "wellposed.lossless"
"""Error handlers of encodings: for sentences and for data."""
PLAIN = {
    "□": "[]", "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "·": "|", "•": "*", "…": "...", "±": "+/-", "×": "x", "÷": "/",
    "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->", "←": "<-", "∞": "inf", "√": "sqrt", "∈": "in", "∑": "sum",
    "°": " deg", "⁄": "/", "‘": "'", "’": "'", "“": '"', "”": '"', "«": '"', "»": '"', "ß": "ss", "æ": "ae",
    "œ": "oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "µ": "u", "€": "EUR", "●": "*", "▲": "^", "█": "#", "░": ".",
    "─": "-", "━": "-", "╸": "-", "╺": "-", "│": "|", "└": "+", "├": "+",
}  # fmt: skip
GREEK = "GREEK SMALL LETTER ", "GREEK CAPITAL LETTER "


def visible(text: str, keep: str = "") -> str:
    r"""The text with every sign that could steer a terminal, or that nobody sees, written out as ``\x1b`` or ``\u202e``.

    Args:
        keep: signs that stay as they are; ``"\n"`` for what has several lines of ours.

    Example:
        >>> visible("a\x1b[31mred\u202e\r\n")
        'a\\x1b[31mred\\u202e\\r\\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep else _shown(sign) for sign in text)


def escape_html(text: str) -> str:
    """The text for a page: visible, and no part of the page's own language."""
    return html.escape(visible(text))


def fitting(text: str, encoding: str, lossless: bool = False) -> str:
    r"""The text in signs that the encoding has.

    Args:
        lossless: what is missing becomes ``\u2212``, so that no two labels become one; else ``-``, for people.

    Example:
        >>> fitting("−0.5 ± 0.1", "ascii"), fitting("é", "ascii", lossless=True)
        ('-0.5 +/- 0.1', '\\u00e9')
    """
    return text.encode(encoding, LOSSLESS if lossless else READABLE).decode(encoding)


def sign_name(sign: str) -> str:
    """A sign in ASCII: as people write it where they do, else its number."""
    if sign.isascii():
        return sign
    if sign in PLAIN:
        return PLAIN[sign]
    for case, name in zip((str.lower, str.title), GREEK, strict=True):
        if (letter := unicodedata.name(sign, "")).startswith(name):
            return case(letter.removeprefix(name).split()[0].replace("LAMDA", "LAMBDA"))
    parts = [part for part in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(part)]
    if not parts or parts == [sign]:
        return sign_code(sign)
    raised = "^" if unicodedata.decomposition(sign).startswith("<super>") else ""
    return raised + "".join(map(sign_name, parts))


def sign_code(sign: str) -> str:
    r"""``\u2212``: as Python, JSON and TOML write it (``\U0001f600`` beyond 16 bits)."""
    return f"\\u{ord(sign):04x}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08x}"


def _shown(sign: str) -> str:
    if unicodedata.category(sign) not in HIDDEN or sign in JOINERS:
        return sign
    return NAMED.get(sign) or (f"\\x{ord(sign):02x}" if ord(sign) < 256 else sign_code(sign))


def _replacing(told: Callable[[str], str]) -> Callable[[UnicodeError], tuple[str, int]]:
    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(map(told, error.object[error.start : error.end])), error.end

    return handle


codecs.register_error(READABLE, _replacing(sign_name))
codecs.register_error(LOSSLESS, _replacing(sign_code))
