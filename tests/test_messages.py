"""Every sentence that the program can print stands in `messages.txt`, so that a person reads each once, and each change of one.

python tests/test_messages.py        writes the file anew
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "wellposed"
GOLDEN = Path(__file__).with_name("messages.txt")
FEWEST_WORDS = 4
"""Shorter texts are labels, keys and parts of sentences."""
RIDDLES = re.compile(r"^(what is listed|those of|the one\.|the other way\.|of its own kind)", re.IGNORECASE)
"""Sentences that say nothing of what they are about."""


def messages(tree: ast.Module) -> Iterator[str]:
    """Texts of the code that read like sentences, as templates: ``{name}`` stands for what is put in."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in docstrings or id(node) in inside:
            continue
        text = template(node)
        if text is not None and is_sentence(text):
            yield " ".join(text.split())


def template(node: ast.AST) -> str | None:
    """The text of a constant or of an f-string; None for any other node."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else f"{{{said(part)}}}" for part in node.values)


def said(part: ast.expr) -> str:
    """What is put into a text: the last name of its expression, which is enough to read the sentence."""
    names = re.findall(r"[A-Za-z_]+", ast.unparse(part.value if isinstance(part, ast.FormattedValue) else part))
    return names[-1] if names else "..."


def is_sentence(text: str) -> bool:
    """Whether people would read it: enough words, and no code, pattern or markup."""
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\{[^}]*\}|`[^`]*`|<[^>]*>", " ", text))
    return len(words) >= FEWEST_WORDS and not re.search(r"[\\^]|</|:root|=\"|import ", text)


def printed() -> list[str]:
    """The lines of the golden file."""
    lines: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        found = list(dict.fromkeys(messages(ast.parse(path.read_text(encoding="utf-8")))))
        if found:
            lines += [f"# {path.relative_to(SOURCE).as_posix()}", *found, ""]
    return lines


def test_every_message_was_read() -> None:
    known = GOLDEN.read_text(encoding="utf-8").splitlines()
    now = printed()
    new, gone = sorted(set(now) - set(known)), sorted(set(known) - set(now))
    assert now == known, f"read these, then run python tests/test_messages.py; new: {new}; gone: {gone}"


def test_no_message_is_a_riddle() -> None:
    assert [line for line in printed() if RIDDLES.search(line)] == []


def test_a_new_sentence_is_found() -> None:
    tree = ast.parse(
        "def f(x):\n    '''A docstring that is not printed at all.'''\n    raise ValueError(f'{x.name!r} needs two rows or more.')"
    )
    assert list(messages(tree)) == ["{name} needs two rows or more."]


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(printed()) + "\n", encoding="utf-8")
