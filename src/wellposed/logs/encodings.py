"""The text of a log in whatever encoding: UTF-8, else the one in which most words are words of a log."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from wellposed.core.csv import decoded
from wellposed.core.errors import DataError
from wellposed.core.reading import read_bytes

REPLACED = "\N{REPLACEMENT CHARACTER}"
LEGACY = ("gb18030", "cp932", "cp949", "big5", "cp1251", "cp1252", "latin-1")
"""Encodings that are tried, in this order where none has more words than another; the last decodes every file."""
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # of texts in which every second byte is zero
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # no log has these; the escape of colours may stand
ABROAD = {
    "训练": " train ", "訓練": " train ", "学習": " train ", "обучени": " train ", "тренировк": " train ",
    "학습": " train ",
    "验证": " valid ", "驗證": " valid ", "検証": " valid ", "валидаци": " valid ", "검증": " valid ", "测试": " test ",
    "測試": " test ",
    "テスト": " test ", "损失": " loss ", "損失": " loss ", "потер": " loss ",
    "손실": " loss ",
    "entraînement": "train", "entrenamiento": "train", "treinamento": "train", "validación": "valid", "validação": "valid",
    "pérdida": "loss", "Pérdida": "loss", "准确率": " accuracy ", "精度": " accuracy ", "точност": " accuracy ",
    "정확도": " accuracy ",
    "最佳": " best ", "最好": " best ", "保存": " saving ", "轮次": " epoch ", "эпох": " epoch ",
    "에폭": " epoch ", "에포크": " epoch ", "eğitim": "train", "Eğitim": "train", "doğrulama": "valid", "Doğrulama": "valid",
    "kayıp": "loss", "Kayıp": "loss", "kaybı": "loss", "Kaybı": "loss", "エポック": " epoch ",
}  # fmt: skip
"""What those who do not write English call the sides and quantities of a log."""


def log_text(path: Path) -> tuple[str, str]:
    """The text of a log, unpacked if its name ends in ``.gz``, and a sentence where it had to be guessed how it is encoded.

    Zeros that a terminal or a full disk left in a text are taken out. Text that is UTF-8 but for a few bytes, as where a bar was
    cut through, is UTF-8. Otherwise names and numbers stand in ASCII in every encoding that is tried, and it matters only whether
    a word of another language is one that names a side or a loss.

    Raises:
        DataError: it cannot be read, is no text, or is larger than memory allows.
    """
    content = read_bytes(path, "log", DataError, packed=path.suffix == ".gz")
    if b"\0" in content and not CONTROL.search((cleaned := content.replace(b"\0", b"")).decode("latin-1")):
        content = cleaned if 2 * len(cleaned) > len(content) + 2 and content[:2] not in MARKS else content
    try:
        return decoded(content, path), ""
    except DataError:
        if CONTROL.search(content.decode("latin-1")):
            raise
    text = content.decode("utf-8", "replace")
    damaged = text.count(REPLACED)
    if sum(not sign.isascii() for sign in text) - damaged > damaged:
        return text, f"{damaged} of the signs of the file are not UTF-8."
    runs = re.findall(rb"[\x80-\xff]+", content)
    western = 2 * sum(len(run) == 1 for run in runs) > len(runs)  # letters with accents stand alone among others
    tried = ("cp1252", *LEGACY) if western else LEGACY
    found = {encoding: known for encoding in tried if (known := _strictly(content, encoding)) is not None}
    best = max(found, key=lambda encoding: sum(map(found[encoding].count, ABROAD)))
    return found[best], f"The file is not UTF-8; it was read as {best}."


def _strictly(content: bytes, encoding: str) -> str | None:
    """The text; None where the bytes are none of the encoding."""
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None
