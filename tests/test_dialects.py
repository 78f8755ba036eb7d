"""A table in any dialect is read to the same values, and new rows are read as training rows were."""

from __future__ import annotations

import calendar
import gzip
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wellposed.core.errors import DataError

pd = pytest.importorskip("pandas")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from wellposed.data.columns import column_reading, read_columns  # noqa: E402
from wellposed.data.readings import infer_reading  # noqa: E402
from wellposed.data.table_files import _titles_above, open_table, read_cells, read_table  # noqa: E402
from wellposed.data.tables import TableEncoder, prepare_table  # noqa: E402

NAMES = ("price", "count", "day", "paid", "code", "town")
ROWS: list[tuple[float | None, int, str, bool, str, str]] = [
    (1234.5, 849, "2023-12-31", True, "01067", "Zürich"),
    (0.77, 2436, "2024-02-01", False, "10115", "Köln"),
    (None, 12, "2024-03-05", True, "20095", "Zürich"),
    (-1250000.25, 7, "2024-11-13", False, "00501", "Orléans"),
    (99.9, 120, "2024-07-04", True, "80331", "Köln"),
]
Row = tuple[float | None, int, str, bool, str, str]


def grouped(value: float, thousands: str, decimal: str) -> str:
    return f"{value:,}".replace(",", "_").replace(".", decimal).replace("_", thousands)


def day(text: str, form: str) -> str:
    year, month, number = text.split("-")
    return form.format(
        y=year,
        m=month,
        d=number,
        yy=year[2:],
        name=calendar.month_abbr[int(month)],
    )


def plain(row: Row) -> list[str]:
    return ["" if row[0] is None else repr(row[0]), str(row[1]), row[2], str(row[3]), row[4], row[5]]


def changed(**how: Callable[[Any], str]) -> Callable[[Row], list[str]]:
    """A way to write a row: as the plain one, but for some columns."""

    def write(row: Row) -> list[str]:
        cells = plain(row)
        for name, form in how.items():
            place = NAMES.index(name)
            if row[place] is not None:
                cells[place] = form(row[place])
        return cells

    return write


GERMAN = changed(
    price=lambda x: grouped(x, ".", ","), count=lambda n: grouped(n, ".", ","), day=lambda d: day(d, "{d}.{m}.{y}"),
    paid=lambda p: "Ja" if p else "Nein",
)  # fmt: skip
WAYS: dict[str, tuple[str, Callable[[Row], list[str]], Callable[[str], bytes]]] = {
    "plain": (",", plain, str.encode),
    "tabs": ("\t", plain, str.encode),
    "bars": ("|", plain, str.encode),
    "German": (";", GERMAN, str.encode),
    "German, Windows-1252": (";", GERMAN, lambda text: text.encode("cp1252")),
    "UTF-16": ("\t", plain, lambda text: text.encode("utf-16")),
    "UTF-16 without its mark": ("\t", plain, lambda text: text.encode("utf-16-le")),
    "UTF-8 with its mark": (",", plain, lambda text: text.encode("utf-8-sig")),
    "sep=": (";", GERMAN, lambda text: f"sep=;\n{text}".encode()),
    "Windows' line ends twice": (",", plain, lambda text: text.replace("\n", "\r\r\n").encode()),
    "double spaced": (",", plain, lambda text: text.replace("\n", "\n\n").encode()),
    "separators at the ends": (";", lambda row: [*GERMAN(row), ""], lambda text: text.replace("town\n", "town;\n", 1).encode()),
    "separators at the ends of rows only": (";", lambda row: [*GERMAN(row), ""], str.encode),
    "a title": (",", plain, lambda text: f"Sales of a year,,,,,\n\n{text}".encode()),
    "French": (";", changed(
        price=lambda x: grouped(x, "\u202f", ",") + " €", count=lambda n: grouped(n, " ", ","), day=lambda d: day(d, "{d}/{m}/{y}"),
        paid=lambda p: "oui" if p else "non"), str.encode),
    "American": (",", changed(
        price=lambda x: f'"-${grouped(-x, ",", ".")}"' if x < 0 else f'"${grouped(x, ",", ".")}"', count=lambda n: f'"{n:,}"',
        day=lambda d: day(d, "{m}/{d}/{y}"), paid=lambda p: "Y" if p else "N"), str.encode),
    "accountants'": (",", changed(price=lambda x: f'"({grouped(-x, ",", ".")})"' if x < 0 else f'"{x:,}"'), str.encode),
    "Swiss": (",", changed(price=lambda x: "CHF " + grouped(x, "'", "."), day=lambda d: day(d, "{d}.{m}.{yy}")), str.encode),
    "Brazilian": (";", changed(
        price=lambda x: "R$ " + grouped(x, ".", ","), day=lambda d: day(d, "{d}/{m}/{y}"), paid=lambda p: "Sim" if p else "Não",
    ), lambda text: text.encode("cp1252")),
    "units": (",", changed(price=lambda x: f"{x} kg", count=lambda n: f"{n} ms"), str.encode),
    "per cent": (",", changed(price=lambda x: f"{x}%", count=lambda n: f"{n} %"), str.encode),
    "named months": (",", changed(day=lambda d: day(d, "{d} {name} {y}")), str.encode),
    "compact dates": (",", changed(day=lambda d: day(d, "{y}{m}{d}")), str.encode),
    "a typographer's minus": (",", changed(price=lambda x: repr(x).replace("-", "\u2212")), str.encode),
}  # fmt: skip


def test_commas_within_cells_of_tabs_make_no_title_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    path.write_text("id\titem\tprice\n" + "".join(f"{i}\tsalad, rice, [beans, corn]\t${i}.50\n" for i in range(1, 9)))
    assert [*read_table(path).columns] == ["id", "item", "price"]
    assert len(read_table(path)) == 8


def text_of(separator: str, write: Callable[[Row], list[str]], rows: list[Row]) -> str:
    lines = [list(NAMES), *(write(row) for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines)


def same_as_plain(frame: Any, rows: list[Row]) -> None:
    np.testing.assert_array_equal(
        frame["price"].to_numpy(dtype=float), [np.nan if r[0] is None else r[0] for r in rows]
    )
    assert frame["count"].tolist() == [row[1] for row in rows]
    assert frame["day"].dt.strftime("%Y-%m-%d").tolist() == [row[2] for row in rows]
    assert column_reading(frame["paid"]).kind == "boolean"
    paid = TableEncoder.fit(frame[["paid"]]).transform(frame[["paid"]])[:, 0]
    assert paid.tolist() == [1.0 if row[3] else -1.0 for row in rows]
    assert frame["code"].tolist() == [row[4] for row in rows]
    assert frame["town"].tolist() == [row[5] for row in rows]


@pytest.mark.parametrize("way", WAYS)
def test_a_table_in_any_dialect_is_read_to_the_same_values(tmp_path: Path, way: str) -> None:
    separator, write, encode = WAYS[way]
    path = tmp_path / "t.csv"
    path.write_bytes(encode(text_of(separator, write, ROWS)))
    found = open_table(path)
    assert list(found.frame.columns) == list(NAMES)
    same_as_plain(found.frame, ROWS)
    # The same rows are read so again by the readings that were found, one row alone too.
    alone = tmp_path / "one.csv"
    alone.write_bytes(encode(text_of(separator, write, ROWS[1:2])))
    again = open_table(alone, found.readings).frame
    assert again["price"].tolist() == [0.77]
    assert again["count"].tolist() == [2436]
    assert again["code"].tolist() == ["10115"]
    encoder = TableEncoder.fit(found.frame, found.readings)
    saved = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    cells = read_cells(path, NAMES)[0]
    assert np.array_equal(saved.transform(cells), encoder.transform(found.frame))
    assert not saved.doubts(cells)


NUMBERS = st.lists(
    st.one_of(st.integers(-98, 10**7), st.decimals(-98, 99999, places=2).map(float)), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(
    NUMBERS.map(lambda values: [*map(float, values), 0.25]),
    st.sampled_from([(".", ","), (",", "."), (" ", ","), ("'", "."), ("", ","), ("", ".")]),
)
def test_any_numbers_survive_any_way_of_writing_them(values: list[float], signs: tuple[str, str]) -> None:
    thousands, decimal = signs
    cells = pd.DataFrame(
        {"x": [grouped(int(v) if v.is_integer() else v, thousands, decimal) for v in values]}, dtype=str
    )
    frame, _, _ = read_columns(cells)
    assert frame["x"].astype(float).tolist() == values


@pytest.mark.parametrize("place", [0, 60, 299])
def test_the_one_decimal_comma_decides_wherever_it_stands(tmp_path: Path, place: int) -> None:
    cells = ["2.436", "849"] * 150
    cells[place] = "0,77"
    path = tmp_path / "t.csv"
    path.write_text("x;y\n" + "".join(f"{cell};a\n" for cell in cells))
    values = read_table(path)["x"].tolist()
    assert values == [0.77 if cell == "0,77" else 2436.0 if cell == "2.436" else 849.0 for cell in cells]


def test_what_can_be_read_in_two_ways_is_read_as_the_others_and_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x;y\n1.234;0,5\n849;1,25\n")
    assert read_table(path)["x"].tolist() == [1234, 849]
    path.write_text("x;d\n1.234;01/02/2024\n849;03/04/2024\n")
    found = open_table(path)
    assert found.frame["x"].tolist() == [1.234, 849]
    assert any("if it means 1234, give the column the kind number:," in note for note in found.notes)
    assert found.frame["d"].dt.month.tolist() == [2, 4]
    asked = open_table(path, {"x": "number:,", "d": "date:month"})
    assert asked.frame["x"].tolist() == [1234, 849]
    assert asked.frame["d"].dt.month.tolist() == [1, 3]
    assert not asked.notes


KINDS = {
    "number": ("x", [1.0, 2.0, np.nan]), "category": ("x", ["1", "2", "n.d."]), "text": ("x", ["1", "2", "n.d."]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_given_wins(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,a\n2,b\nn.d.,a\n")
    name, values = KINDS[kind]
    np.testing.assert_array_equal(
        read_table(path, {name: kind})[name].to_numpy(), np.array(values, dtype=float if kind == "number" else object)
    )
    assert list(read_table(path, {"x": "ignore"}).columns) == ["y"]
    for wrong, says in ({"z": "number"}, "no column 'z'"), ({"x": "numbre"}, "Did you mean 'number'"):
        with pytest.raises(DataError, match=says):
            read_table(path, wrong)


@pytest.mark.parametrize(
    ("cells", "missing"),
    [
        (["1", "2", "n.d.", "k.A.", "#N/A", "4"], [2, 3, 4]),
        (["1.5", "-999", "3.5", "2", "-999", "0"], [1, 4]),
        (["-999", "12", "-31", "40"], [0]),
        (["-999", "-5000", "12", "70000"], []),
        (["-99", "-98", "-97"], []),
        (["2.6", "-200", "1.5", "2", "-200"], [1, 4]),
        (["2.6", "-200", "1.5", "2"], []),
        (["yes", "no", "n/a", "no"], [2]),
        (["NA", "DE", "none", "FR"], []),
        (["2024-01-01", "unbekannt", "2024-01-03"] * 4, [1, 4, 7, 10]),
    ],
)
def test_words_and_numbers_for_missing(cells: list[str], missing: list[int]) -> None:
    frame, readings, _ = read_columns(pd.DataFrame({"x": cells}, dtype=str))
    reading = readings["x"]
    absent = (
        frame["x"].isna()
        if reading.kind in ("number", "date")
        else np.isnan(reading.values(cells))
        if reading.kind == "boolean"
        else []
    )
    assert np.flatnonzero(absent).tolist() == missing


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n6.1,2.8,virginica\n", ["column_1", "column_2", "column_3"]),
        ("low,2,acc\nhigh,4,unacc\nlow,2,acc\nhigh,4,unacc\n", ["column_1", "column_2", "column_3"]),
        ("low,small\nhigh,big\nlow,small\nhigh,big\n", ["column_1", "column_2"]),
        ("land,2019,2020\nA,1.5,2\nB,3,4\n", ["land", "2019", "2020"]),
        (",0,1,2\n0,5,6,7\n1,8,9,10\n", ["unnamed_1", "0", "1", "2"]),
        ("name,town\nAnn,Rome\nBob,Oslo\nCid,Rome\n", ["name", "town"]),
        ("1,5;2,5\n3,5;4,5\n", ["column_1", "column_2"]),
    ],
)  # fmt: skip
def test_a_header_is_seen_to_be_there_or_not(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    frame = read_table(path)
    assert list(frame.columns) == names
    assert len(frame) == text.count("\n") - (names[0] != "column_1")
    # One row alone shows nothing: then the names that are expected decide.
    path.write_text(text.splitlines()[-1] + "\n")
    if names[0] == "column_1":
        assert len(read_cells(path, names)[0]) == 1


TITLES = ('the "big, old" house', "a; b", "C:\\data\\new", "plain", 'ends in "', "back\\", "two\nlines, both")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quotes", [True, False])
def test_backslashes_that_keep_signs_in_cells_are_no_part_of_them(tmp_path: Path, separator: str, quotes: bool) -> None:
    """As Spark and MySQL write texts; of a table that is whole without that, a backslash is a sign like another."""

    def cell(text: str) -> str:
        kept = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{kept}"' if quotes else kept.replace(separator, f"\\{separator}")

    titles = [title for title in TITLES if quotes or "\n" not in title] + [f"a{separator} b"]
    rows = [separator.join((str(place), cell(title), f"{place}.5")) for place, title in enumerate(titles)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([separator.join(("n", "title", "score")), *rows]) + "\n")
    found = open_table(path)
    assert list(found.frame["title"]) == titles
    assert list(found.frame["score"]) == [place + 0.5 for place in range(len(titles))]
    assert any("Backslashes" in note for note in found.notes)
    path.write_text('n,path\n1,"C:\\data\\"\n2,"D:\\x, y"\n3,E:\\\n')
    whole = open_table(path)
    assert list(whole.frame["path"]) == ["C:\\data\\", "D:\\x, y", "E:\\"]
    assert not whole.notes


def test_backslashes_that_make_no_table_of_it_are_left(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3,4\\,5\n6,7,8,9\n")
    with pytest.raises(DataError, match="3 cells on line 3"):
        open_table(path)


def test_an_index_without_a_name_is_no_feature_in_any_order(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"size": draw.normal(size=60), "kind": draw.choice(["a", "b"], 60)})
    for rows in (frame, frame.sample(frac=1, random_state=0), frame.sample(40, random_state=1)):
        rows.to_csv(tmp_path / "t.csv")
        data = prepare_table(read_table(tmp_path / "t.csv"), "kind")
        assert list(data.frame.columns) == ["size"]


def test_codes_dates_and_blank_rows_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("agent,when,x\n007,13/02/2024,1\n\n012,25/03/2024,\n,,\n100,01/04/2024,3\n\n")
    frame = read_table(path)
    assert len(frame) == 5
    assert frame["agent"].tolist()[0] == "007"
    assert frame["when"].dt.day.tolist()[0] == 13
    encoder = TableEncoder.fit(frame)
    assert {column.name: column.kind for column in encoder.columns} == {
        "agent": "category",
        "when": "date",
        "x": "number",
    }
    assert "2 of 5 rows are blank" in "\n".join(encoder.doubts(frame))


def test_another_alphabet_is_never_taken_for_latin_letters(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, encoding in (("팀명,도시\n키움,서울\n두산,부산\n", "euc-kr"), ("город,улица\nМосква,Арбат\n", "cp1251")):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="is not UTF-8 text"):
            read_table(path)


def test_a_number_for_missing_in_one_column_is_so_in_the_others() -> None:
    cells = {"gas": ["2.6", "-200", "1.5", "-200", "2"], "sensor": ["1360", "-200", "650", "-200", "2040"]}
    frame, _, said = read_columns(pd.DataFrame(cells, dtype=str))
    assert frame.isna().sum().tolist() == [2, 2]
    assert said == ["-200 is taken as missing in 'gas', 'sensor'."]


# --- prediction ----------------------------------------------------------------------------------------------------


def trained() -> TableEncoder:
    draw = np.random.default_rng(0)
    return TableEncoder.fit(pd.DataFrame({
        "size": draw.normal(100, 10, 80).round(3), "kind": draw.choice(["red", "blue"], 80),
        "paid": draw.choice(["ja", "nein"], 80),
        "day": pd.date_range("2023-01-01", periods=80).strftime("%d.%m.%Y"),
    }))  # fmt: skip


FINE = {
    "size": ["101.5", "99.1", "102.3"],
    "kind": ["red", "blue", "red"],
    "paid": ["ja", "nein", "ja"],
    "day": ["13.04.2023", "14.04.2023", "15.04.2023"],
}


@pytest.mark.parametrize(
    ("name", "cells", "says"),
    [
        (
            "size",
            ["101,5", "99,1", "102.3"],
            "'size' was read as numbers in training and now has 2 of 3 values that are no number, such as '101,5'",
        ),
        ("size", ["large", "small", "large"], "'size' was read as numbers"),
        ("paid", ["vielleicht", "x", "ja"], "'paid' was read as yes or no .* 2 of 3"),
        ("day", ["04/2023", "05/2023", "06/2023"], "'day' was read as dates, the day first"),
    ],
)
def test_a_column_that_is_no_longer_what_it_was_is_refused(name: str, cells: list[str], says: str) -> None:
    encoder = trained()
    assert not encoder.doubts(FINE)
    with pytest.raises(DataError, match=says):
        encoder.doubts({**FINE, name: cells})


@pytest.mark.parametrize(
    ("name", "cells", "says"),
    [
        ("size", ["101.5", "large", "99"], "1 of 3 values that are no number, such as 'large'"),
        ("size", ["101500", "99100", "99.5"], "2 of 3 values far from those of training .* another unit"),
        ("size", ["", "", "99.5"], "empty in 2 of 3 rows"),
        ("kind", ["rot", "blau", "red"], "2 of 3 values, such as 'rot'"),
        ("day", ["13.04.1923", "14.04.1923", "15.04.2023"], "2 of 3 dates far from"),
    ],
)
def test_what_is_unlike_training_is_said_with_column_and_count(name: str, cells: list[str], says: str) -> None:
    frame = pd.DataFrame({**FINE, name: cells}).replace("", None)
    said = trained().doubts(frame)
    assert len(said) == 1
    assert said[0].startswith(f"Column {name!r}")
    pd.testing.assert_frame_equal(frame, frame.copy())
    assert re.search(says, said[0])


# --- sheets --------------------------------------------------------------------------------------------------------


def test_a_sheet_is_read_as_its_csv(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="python-calamine is not installed: pip install 'wellposed[excel]'")
    pytest.importorskip("openpyxl", reason="openpyxl, which writes the sheet, is not installed")
    frame = pd.DataFrame(ROWS, columns=list(NAMES))
    frame["day"] = pd.to_datetime(frame["day"])
    frame.to_excel(tmp_path / "t.xlsx", index=False, startrow=2)
    same_as_plain(read_table(tmp_path / "t.xlsx"), ROWS)
    frame.astype(object).assign(price=["1.234,5 €", "0,77 €", None, "-1.250.000,25 €", 99.9]).to_excel(
        tmp_path / "m.xlsx", index=False
    )
    assert read_table(tmp_path / "m.xlsx")["price"].tolist()[:2] == [1234.5, 0.77]
    (tmp_path / "bad.xlsx").write_bytes(b"PK and nothing")
    with pytest.raises(DataError, match="cannot be read as a sheet"):
        read_table(tmp_path / "bad.xlsx")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "3", "5"] * 20 + ["U"] * 4, "category"),  # a class that has a letter for a name
        (["1", "2", "3", "5"] * 20 + ["?"] * 4, "number"),
        ([str(i) for i in range(80)] + ["U"] * 4, "number"),
        (["1.5", "2", "3"] * 20 + ["U"] * 4, "number"),
    ],
)
def test_a_text_beside_a_few_whole_numbers_is_a_level_as_they_are(cells: list[str], kind: str) -> None:
    names, counts = np.unique(cells, return_counts=True)
    assert infer_reading(list(map(str, names)), counts).kind == kind


def test_a_word_for_missing_among_texts_is_no_number_beside_them() -> None:
    frame = pd.DataFrame({"debtors": ["none"] * 18 + ["guarantor"] * 6, "x": range(24), "y": ["a", "b"] * 12})
    assert not any("mixes" in said for said in prepare_table(frame, "y").warnings)


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("# Weights, heights (of 2020), ages\n# From: a page; read in May\na,b\n1,x\n2,y\n3,x\n", ["a", "b"], 3),
        ("# town 2019\n#\nname,score\nAnn,1\nBob,2\n", ["name", "score"], 2),
        ("# made by a program\n# a,b\n1,2\n3,4\n", ["a", "b"], 2),
        ("# a b\n1 2\n3 4\n", ["a", "b"], 2),
        ("#,name\n1,Ann\n2,Bob\n", ["#", "name"], 2),
        ("a,b\n#1,x\n#2,y\n", ["a", "b"], 2),
    ],
)
def test_lines_that_begin_with_a_hash_stand_above_the_header(
    tmp_path: Path, text: str, names: list[str], rows: int
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    table = open_table(path)
    assert list(table.frame.columns) == names
    assert len(table.frame) == rows
    remarks = sum(line.startswith("#") for line in text.splitlines()) - (
        text.startswith(("# a b", "#,")) or "\n# a," in text
    )
    assert any(f"above the header; left out: {remarks}." in note for note in table.notes) == text.startswith(
        ("# W", "# t", "# m")
    )


@pytest.mark.parametrize("ending", [".data", ".dat", ".data.gz"])
def test_tables_with_other_endings_are_read(tmp_path: Path, ending: str) -> None:
    content = b" 0.00632  18.00   2.310\n 0.02731   0.00   7.070\n 0.02729   0.00   7.070\n"
    path = tmp_path / f"t{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    assert read_table(path)["column_2"].tolist() == [18.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (["1749-01", "1850-12"], ["1749-01-01", "1850-12-01"]),
        (["January-2005", "März 2006", "dic-2007"], ["2005-01-01", "2006-03-01", "2007-12-01"]),
        (["Jan-87", "Feb-03"], ["1987-01-01", "2003-02-01"]),
        (["2005Q1", "2006-Q4", "Q2 2007"], ["2005-01-01", "2006-10-01", "2007-04-01"]),
        (["2020-W05", "2021W52"], ["2020-01-27", "2021-12-27"]),
        (["2020M01", "2021M11"], ["2020-01-01", "2021-11-01"]),
    ],
)
def test_a_date_without_a_day_is_the_first_one(cells: list[str], days: list[str]) -> None:
    reading = column_reading(pd.Series(cells * 3))
    assert reading.kind == "date"
    assert reading.values(cells).tolist() == [
        float(pd.Timestamp(one).to_datetime64().astype("M8[D]").astype(int)) for one in days
    ]


@pytest.mark.parametrize(
    "cells", [["1-01", "2-12"], ["9999-01", "1234-05"], ["2020-W00", "2020-W99"], ["Town-2005", "Lot 1999"]]
)
def test_codes_that_look_like_months_are_no_dates(cells: list[str]) -> None:
    assert column_reading(pd.Series(cells * 3)).kind == "category"


@pytest.mark.parametrize(
    ("above", "titles"),
    [
        ([["Sales of 2020", None, None]], 1),
        ([["notes", None, None], ["more", "of", None], [None, None, None]], 3),
        ([], 0),
    ],
)
@pytest.mark.parametrize("header", [["", "a", "b"], ["town", "a", "b"]])
def test_titles_above_the_header_of_a_sheet_are_no_rows(
    above: list[list[str | None]], titles: int, header: list[str]
) -> None:
    rows = [[cell or None for cell in header], *([f"town {place}", place, 2.5] for place in range(4))]
    assert _titles_above(pd.DataFrame([*above, *rows], dtype=object)) == titles


def write_sheet(path: Path, rows: list[list[str | float | None]]) -> None:
    """The least of an Excel file that can be opened, with texts within the cells."""
    space, links = "http://schemas.openxmlformats.org/", "application/vnd.openxmlformats-officedocument.spreadsheetml."
    lines = ""
    for row in rows:
        cells = (
            "<c/>" if cell is None else f"<c><v>{cell}</v></c>" if not isinstance(cell, str)
            else f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
            for cell in row
        )  # fmt: skip
        lines += f"<row>{''.join(cells)}</row>"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{space}package/2006/content-types"><Default Extension="rels" ContentType='
            f'"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType='
            f'"{links}sheet.main+xml"/><Override PartName="/xl/s.xml" ContentType="{links}worksheet+xml"/></Types>',
        )
        relation = f"{space}officeDocument/2006/relationships"
        for name, kind, target in (
            ("_rels/.rels", "officeDocument", "xl/workbook.xml"),
            ("xl/_rels/workbook.xml.rels", "worksheet", "s.xml"),
        ):
            file.writestr(
                name,
                f'<Relationships xmlns="{space}package/2006/relationships"><Relationship Id="r1" '
                f'Type="{relation}/{kind}" Target="{target}"/></Relationships>',
            )
        main = f'xmlns="{space}spreadsheetml/2006/main"'
        file.writestr(
            "xl/workbook.xml",
            f'<workbook {main} xmlns:r="{relation}"><sheets><sheet name="one" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        file.writestr("xl/s.xml", f"<worksheet {main}><sheetData>{lines}</sheetData></worksheet>")


def test_a_sheet_with_titles_and_a_blank_column_is_read_from_its_header(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="python-calamine is not installed: pip install 'wellposed[excel]'")
    path = tmp_path / "t.xlsx"
    rows: list[list[str | float | None]] = [
        ["Refreshed in 2020", None, None, None],
        ["town", None, "people", "all"],
        ["Rome", 1.5, 12, 3],
        ["Oslo", 2.5, None, 4],
        ["Bern", 3.5, 14, 5],
    ]
    for titles in (1, 0):
        write_sheet(path, rows[1 - titles :])
        table = open_table(path)
        assert list(table.frame.columns) == ["town", "unnamed_2", "people", "all"]
        assert len(table.frame) == 3
        assert any("rows left out: 1." in note for note in table.notes) == bool(titles)
    write_sheet(path, [["a", None, None], [1, None, 2], [3, None, 4]])  # a column that is blank throughout
    assert list(open_table(path).frame.columns) == ["a", "unnamed_3"]


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("# Source: a page, 2020\nname,value\nAnn,1.5\nBob,2.5\n", ["name", "value"], 2),
        ("# Source: a page, in May\nname,town\nAnn,Rome\nBob,Oslo\n", ["name", "town"], 2),
        ("# made by me\na b c\n1 2 3\n4 5 6\n", ["a", "b", "c"], 2),
        ("# made\tby me\na\tb\n1\t2\n3\t4\n", ["a", "b"], 2),
        ("# a,b\na,b\n1,2\n3,4\n", ["a", "b"], 2),
        ("# one\n\n# two\na,b\n1,x\n2,y\n", ["a", "b"], 2),
        ("# x,y\n0,1\n1,3\n2,4\n", ["x", "y"], 3),
        ("# x,y\nNA,1\n2,3\n4,5\n", ["x", "y"], 3),
        ("# ,name\n1,Ann\n2,Bob\n", ["#", "name"], 2),
        ('#,name\n1,"Doe, Ann"\n2,"Roe, Bob"\n', ["#", "name"], 2),
        ("##format=4\n#CHROM\tPOS\nchr1\t100\nchr1\t200\n", ["#CHROM", "POS"], 2),
    ],
)
def test_a_remark_with_as_many_cells_as_the_header_is_none(
    tmp_path: Path, text: str, names: list[str], rows: int
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    frame = read_table(path)
    assert (list(frame.columns), len(frame)) == (names, rows)


def test_a_first_row_whose_texts_come_back_below_holds_no_names(tmp_path: Path) -> None:
    path = tmp_path / "t.data"
    path.write_text("1,2,cat\n3,4,dog\n5,6,cat\n")
    assert len(read_table(path)) == 3
    path.write_text("1,2,kind\n3,4,dog\n5,6,cat\n")  # numbers that count the columns, and a name
    assert list(read_table(path).columns) == ["1", "2", "kind"]


def test_the_last_week_of_a_long_year_is_a_date() -> None:
    cells = ["2020-W52", "2020-W53", "2021-W01"]
    days = column_reading(pd.Series(cells * 3)).values(cells).tolist()
    assert days == [days[0], days[0] + 7, days[0] + 14]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["SET-01", "SET-02", "SET-12"], "category"),
        (["Mark-05", "Maria-12", "Janet-07"], "category"),
        (["Marina 2020", "Decor 2021", "Junior 2019"], "category"),
        (["Sept 2011", "Sept 2012"], "date"),
        (["janv. 2011", "févr. 2012", "août 2013"], "date"),
        (["Dez-11", "Mrz-12"], "date"),
    ],
)
def test_words_that_begin_as_months_do_are_no_months(cells: list[str], kind: str) -> None:
    assert column_reading(pd.Series(cells * 3)).kind == kind


def test_a_quote_in_a_remark_does_not_swallow_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('# "one\n' + ",".join(f"c{place}" for place in range(3000)) + 60 * ("\n" + ",".join(3000 * ["1"])))
    assert read_table(path).shape == (60, 3000)


@pytest.mark.parametrize("above", [1, 2])
def test_a_header_of_a_sheet_with_a_blank_name_stands_below_its_title(above: int) -> None:
    rows = [["Sales", None, None, None]] * above + [["town", None, "a", "b"]] + [["Rome", 1.5, 2, 3]] * 9
    assert _titles_above(pd.DataFrame(rows, dtype=object)) == above


def written(tmp_path: Path, text: str, ending: str = "csv") -> Path:
    path = tmp_path / f"t.{ending}"
    path.write_text(text)
    return path


def test_names_above_numbers_of_which_some_are_missing_are_a_header(tmp_path: Path) -> None:
    rows = "".join(f"{day};{day / 4};{'NA' if day % 5 == 0 else day}\n" for day in range(20230601, 20230631))
    table = read_table(written(tmp_path, f";T9;wind2\n{rows}"))
    assert list(table.columns) == ["unnamed_1", "T9", "wind2"]
    assert len(table) == 30
    assert table["wind2"].isna().sum() == 6


@pytest.mark.parametrize("ending", ["txt", "data"])
def test_blanks_and_tabs_between_cells_are_read_with_quotes_around_names(tmp_path: Path, ending: str) -> None:
    rows = "".join(f'{12 + k}.5   {k}      {100 + k}.\t"grey cat {k}"\n' for k in range(12))
    table = read_table(written(tmp_path, rows, ending))
    assert table.shape == (12, 4)
    assert table.iloc[3].tolist() == [15.5, 3, 103.0, "grey cat 3"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"depth" "kind of rock"\n"a 1" 2.5 7\n"a 2" 3.5 8\n"b 1" 4.5 9\n', ["unnamed_1", "depth", "kind of rock"]),
        ('"depth","rock"\n"1",2.5,"clay"\n"2",3.5,"sand"\n"3",4.5,"clay"\n', ["unnamed_1", "depth", "rock"]),
        ("depth;rock\nAlba;2.5;clay\nBrno;3.5;sand\nCork;4.5;clay\n", ["unnamed_1", "depth", "rock"]),
    ],
)
def test_names_of_rows_need_no_name_of_their_own(tmp_path: Path, text: str, names: list[str]) -> None:
    table = read_table(written(tmp_path, text))
    assert list(table.columns) == names
    assert table[names[1]].tolist() == [2.5, 3.5, 4.5]


def test_decimal_commas_between_commas_are_no_names_of_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than its header's 2"):
        read_table(written(tmp_path, "price,count\n1,5,3\n4,5,7\n9,5,2\n"))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["01", "02", *map(str, range(10, 60)), "7A", "7B"], "category"),  # B is no billion here
        ([*map(str, range(10, 60)), "12B", "14A"], "category"),
        ([*map(str, range(10, 60)), "12B"], "category"),
        (["007", "012", "840", "978", *map(str, range(200, 240)), "590,840"], "category"),
        (["1.5M", "20K", "3B", "900"], "number"),
        (["2", "3", "5.5", "-7"], "number"),
    ],
)
def test_digits_with_letters_or_zeros_before_them_are_codes(cells: list[str], kind: str) -> None:
    assert column_reading(pd.Series(cells * 2)).kind == kind


def test_a_unit_of_a_few_cells_is_not_that_of_the_column() -> None:
    column = pd.Series([*map(str, range(1, 40)), "4 month"])
    reading = column_reading(column)
    assert (reading.kind, reading.unit) == ("number", "")
    assert np.isnan(reading.values(["4 month"])[0])  # and is said to be no number
    assert read_columns(column.to_frame("years"))[2][0].startswith("Column 'years' mixes numbers and texts (1 of 40")
    prices = column_reading(pd.Series([*map(str, range(1, 40)), "$2.50"]))
    assert prices.values(["$2.50"]).tolist() == [2.5]  # a currency changes no scale


@pytest.mark.parametrize("sign", [".", ","])
def test_decimals_whose_sign_a_sheet_has_lost_are_no_huge_numbers(sign: str) -> None:
    damaged = sign.join(["41", "027", "533", "896", "412"])
    column = pd.Series(["12", f"23{sign}5", "40", "7"] * 9 + [damaged])
    reading = column_reading(column)
    assert reading.values([f"23{sign}5"]).tolist() == [23.5]
    assert np.isnan(reading.values([damaged])[0])
    large = column_reading(pd.Series([damaged, sign.join(["9", "345", "678", "901", "234"]), "12"] * 4))
    assert large.values([damaged]).tolist() == [41_027_533_896_412]  # thousands, where no decimals have that sign
    assert column_reading(pd.Series(["15.833.943.000.000", "1.200.500.000.000"])).values(["15.833.943.000.000"]) == [
        15_833_943_000_000
    ]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1601-05", "1601-11", "1702-17", "1702-35", "3001-02"], "category"),  # numbers of parts
        (["2008-09", "2009-10", "2010-11"], "category"),  # seasons
        (["2009-10", "2009-11", "2010-01"], "date"),
        (["2009-10", "2009-11", "0000-00"] * 9 + ["2010-02"], "date"),
    ],
)
def test_pairs_of_digits_are_months_only_where_all_can_be(cells: list[str], kind: str) -> None:
    assert column_reading(pd.Series([cell for cell in cells if cell != "0000-00"] * 4 + cells)).kind == kind


def test_na_among_codes_of_two_letters_is_a_class() -> None:
    frame = pd.DataFrame({"size": [k % 7 for k in range(60)], "continent": ["AF", "AS", "EU", "NA", "OC", "SA"] * 10})
    data = prepare_table(frame, "continent")
    assert "NA" in set(data.target)
    assert len(data.target) == 60
    frame["continent"] = ["yes", "no", "NA"] * 20
    assert len(prepare_table(frame, "continent").target) == 40


def test_new_rows_with_the_other_decimal_sign_are_read_alike_and_it_is_said() -> None:
    frame = pd.DataFrame({"mass": [f"{k}.25" for k in range(40)], "load": ["1,250.75", "310.436"] * 20})
    encoder = TableEncoder.fit(frame)
    swapped = frame.map(lambda text: text.replace(",", "_").replace(".", ",").replace("_", "."))
    np.testing.assert_array_equal(encoder.transform(swapped), encoder.transform(frame))
    assert encoder.doubts(swapped) == ["The decimal sign is not that of training, and read so: 'mass', 'load'."]
    large = pd.DataFrame({"mass": ["3,25"], "load": ["2.436"]})
    np.testing.assert_array_equal(
        encoder.transform(large), encoder.transform(pd.DataFrame({"mass": ["3.25"], "load": ["2436"]}))
    )
    some = pd.DataFrame({"mass": ["3,25"], "load": ["310,436"]})  # the second alone could be read in two ways
    np.testing.assert_array_equal(encoder.transform(some), encoder.transform(frame.iloc[[3]]))


def test_decimals_that_may_be_thousands_of_another_dialect_are_said() -> None:
    frame = pd.DataFrame({"rent": [*(f"R${k},{k}" for k in range(100, 139)), "R$1,250.5"]})
    encoder = TableEncoder.fit(frame)
    new = pd.DataFrame({"rent": ["R$101.500", "R$120.300", "R$130"]})
    assert any("has thousands in training, and here nothing but 'R$101.500'" in one for one in encoder.doubts(new))
    assert encoder.doubts(frame) == []
