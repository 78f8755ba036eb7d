"""Tables: what is read, what is made of it, and what is said where it cannot be used."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from wellposed.core.errors import DataError, FormatError

pd = pytest.importorskip("pandas")

from wellposed.core.csv import csv_columns  # noqa: E402
from wellposed.data import encoding  # noqa: E402
from wellposed.data.columns import as_days, as_numbers, column_kind  # noqa: E402 - needs pandas
from wellposed.data.images import image_tensor, pixel_statistics, read_npz  # noqa: E402
from wellposed.data.table_files import as_frame, read_table  # noqa: E402
from wellposed.data.tables import (  # noqa: E402
    TableEncoder,
    TargetEncoder,
    infer_task,
    prepare_table,
)

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
REAL = {  # name: task, classes, rows, features
    "adult": ("classification", 2, 48842, 14),
    "anneal": ("classification", 5, 898, 38),
    "australian": ("classification", 2, 690, 14),
    "blood-transfusion": ("classification", 2, 748, 4),
    "california-housing": ("regression", None, 20640, 8),
    "car": ("classification", 4, 1728, 6),
    "colon": ("classification", 2, 62, 2000),
    "concrete": ("regression", None, 1030, 8),
    "connect-4": ("classification", 3, 67557, 42),
    "credit-g": ("classification", 2, 1000, 20),
    "diamonds": ("regression", None, 53940, 9),
    "energy": ("regression", None, 768, 8),
    "higgs-small": ("classification", 2, 7500, 28),
    "isolet": ("classification", 26, 1560, 617),
    "madelon": ("classification", 2, 2600, 500),
    "mfeat-factors": ("classification", 10, 2000, 216),
    "phoneme": ("classification", 2, 5404, 5),
    "power-plant": ("regression", None, 9568, 4),
    "segment": ("classification", 7, 2310, 19),
    "titanic": ("classification", 2, 891, 8),
    "vehicle": ("classification", 4, 846, 18),
    "yacht": ("regression", None, 308, 6),
}
USELESS = {"anneal": 7, "segment": 1}  # columns all missing or constant in the published tables


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(rows: int = 60) -> dict[str, list[object]]:
    draw = np.random.default_rng(0)
    return {
        "size": draw.normal(size=rows).tolist(),
        "kind": draw.choice(["red", "green", "blue"], rows).tolist(),
        "target": draw.choice(["no", "yes"], rows).tolist(),
    }


# --- reading -------------------------------------------------------------------------------------------------------


def test_csv_tsv_and_parquet_give_one_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": [1.5, None, 3.0],
            "i": [1, 2, 3],
            "t": ["a,b", "", "ü\n2"],
            "ok": [True, False, True],
            "x": ["NA", "b", "c"],
        }
    ).replace({"t": {"": None}})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.parquet"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            read = read_table(path)
            assert list(read.columns) == ["n", "i", "t", "ok", "x"]
            assert read["i"].tolist() == [1, 2, 3]
            assert read["ok"].tolist() == [True, False, True]
            assert read["n"].isna().tolist() == [False, True, False]
            assert read["t"].isna().tolist() == [False, True, False]
            assert read["t"][2] == "ü\n2"
            assert read["x"].tolist() == ["NA", "b", "c"]  # a text among texts, not a missing value


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen(tmp_path: Path, separator: str) -> None:
    text = f"\n\na{separator}b{separator}c\n1{separator}x y{separator}3\n2{separator}z{separator}4\n"
    frame = read_table(written(tmp_path / "t.csv", "﻿" + text))
    assert list(frame.columns) == ["a", "b", "c"]
    assert frame["c"].tolist() == [3, 4]


def test_decimal_commas_and_words_for_missing(tmp_path: Path) -> None:
    frame = read_table(written(tmp_path / "t.csv", "a;b\n1,5;NA\n2,25;3\n-1,0;?\n"))
    assert frame["a"].tolist() == [1.5, 2.25, -1.0]
    assert frame["b"].isna().tolist() == [True, False, True]


def test_decimal_commas_beside_a_word_for_missing(tmp_path: Path) -> None:
    """A column of both was text, since its words kept it from being read as numbers."""
    frame = read_table(written(tmp_path / "t.csv", "day;rate\n18/04;-0,368\n15/04;-\n13/04;2\n"))
    np.testing.assert_array_equal(frame["rate"], [-0.368, np.nan, 2.0])


def test_a_bar_in_texts_is_no_separator(tmp_path: Path) -> None:
    frame = read_table(written(tmp_path / "t.csv", "kind,genres\na,x|y\nb,y\n"))
    assert frame["genres"].tolist() == ["x|y", "y"]


def test_a_time_beyond_the_calendar_in_a_structure_is_one_sentence(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    late = arrow.array([{"at": 1_608_809_472_000_000}], arrow.struct([("at", arrow.timestamp("ms"))]))
    parquet.write_table(arrow.table({"seen": late}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"has a cell that cannot be taken \(year 52951 is out of range\)"):
        read_table(tmp_path / "t.parquet")


def test_one_column_quotes_utf16_and_short_rows(tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "one.csv", "a\n1\n2\n")).shape == (2, 1)
    assert list(read_table(written(tmp_path / "q.csv", '"a\nb","c,d",\n1,2,3\n')).columns) == [
        "a\nb",
        "c,d",
        "unnamed_3",
    ]
    assert read_table(written(tmp_path / "u.csv", "ä,b\n1,2\n".encode("utf-16")))["ä"].tolist() == [1]
    assert read_table(written(tmp_path / "s.csv", "a,b,c\n1,2\n1,2,3\n"))["c"].isna().tolist() == [True, False]


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty.csv": ("", "is empty"),
    "blank.csv": (" \n\n", "is empty"),
    "header.csv": ("a,b\n", "a header and no rows"),
    "twice.csv": ("a,b,a\n1,2,3\n", "more than one column named 'a'"),
    "cut.csv": ("a,b\nü,1\né,2\nß,3\n".encode()[:6] + b"\xff" + "ü,1\né,2\nß,3\n".encode(), "not UTF-8.*iconv"),
    "control.csv": (b"a,b\n\xe9\x02,1\n", "not UTF-8.*iconv"),
    "binary.csv": (b"a,b\0c\n1,2\n", "binary"),
    "wide.csv": ("a,b\n1,2\n1,2,3\n", "3 cells on line 3"),
    "firstwide.csv": ("a,b\n1,2,3\n4,5,6\n", "3 cells on line 2"),
    "mixedwide.csv": ("a;b\n1;2\n1;2;3\n", "3 cells on line 3"),
    "zipped.csv.gz": (b"a,b\n1,2\n", "not a whole gzip"),
    "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 99)[:-9], "not a whole gzip"),
    "damaged.csv.gz": (gzip.compress(b"a,b\n1,2\n")[:12] + b"xxxxxxxx", "not a whole gzip"),
    "damaged.parquet": (b"PAR1 nothing PAR1", "cannot be read as a Parquet file"),
    "empty.parquet": (b"", "is empty"),
    "table.doc": (b"PK", "Give one of"),
    "noextension": (b"a", "Give one of"),
    "quote.csv": ('a,b\n"1,2\n' + "3,4\n" * 40000, "Check its quotes"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    with pytest.raises(DataError, match=message) as caught:
        read_table(written(tmp_path / name, content))
    assert str(caught.value).startswith(f"'{tmp_path / name}'")
    assert "\n" not in str(caught.value)


def test_missing_file_suggests_and_folder_is_named(tmp_path: Path) -> None:
    written(tmp_path / "churn.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no file.*Did you mean 'churn.csv'"):
        read_table(tmp_path / "chrun.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path / "folder.csv")


def test_random_bytes_never_give_anything_but_a_table_or_a_sentence(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    alphabet = list('ab1.,;\t\n"\r -é')
    for i in range(300):
        path = tmp_path / f"f{i}.csv"
        path.write_text("".join(draw.choice(alphabet, draw.integers(1, 60))), encoding="utf-8", newline="")
        with contextlib.suppress(DataError):
            assert read_table(path).columns.is_unique


# --- frames --------------------------------------------------------------------------------------------------------


def test_as_frame_takes_every_table() -> None:
    torch = pytest.importorskip("torch")
    for x in (np.eye(2), torch.eye(2), [[1.0, 0.0], [0.0, 1.0]], np.eye(2).astype(object)):
        frame = as_frame(x)
        assert list(frame.columns) == ["x0", "x1"]
        assert frame["x0"].tolist() == [1.0, 0.0]
        assert column_kind(frame["x0"]) == "number"
    odd = as_frame(pd.DataFrame({1: [1], ("a", 2): [2]}, index=["k"]))
    assert list(odd.columns) == ["1", "('a', 2)"]
    assert odd.index.tolist() == [0]
    with pytest.raises(DataError, match="more than one column named '1'"):
        as_frame(pd.DataFrame([[1, 2]], columns=[1, "1"]))
    with pytest.raises(DataError, match="no table"):
        as_frame(np.zeros(3))
    with pytest.raises(DataError, match="unequal lengths"):
        as_frame({"a": [1, 2], "b": [1]})


def test_polars_frames() -> None:
    polars = pytest.importorskip("polars")
    source = table()
    data, same = prepare_table(polars.DataFrame(source), "target"), prepare_table(source, "target")
    assert data.sha256 == same.sha256
    assert np.array_equal(
        TableEncoder.fit(data.frame).transform(data.frame), TableEncoder.fit(same.frame).transform(same.frame)
    )


# --- preparing -----------------------------------------------------------------------------------------------------


def test_target_is_found_and_suggested() -> None:
    assert prepare_table(table(), None).target.name == "target"
    data = prepare_table({"size": table()["size"], "color": table()["kind"]}, None)
    assert data.target.name == "color"
    assert "No target was given" in data.warnings[0]
    with pytest.raises(DataError, match="Did you mean 'target'"):
        prepare_table(table(), "tagret")


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"] * 30, "classification"),
        ([True, False] * 30, "classification"),
        ([0, 1, 2] * 20, "classification"),
        ([0.0, 1.0] * 30, "classification"),
        (list(range(60)), "regression"),
        ([0.5, 1.5, 2.5] * 20, "regression"),
        ([1, 2, 3, 4, 5] * 2 + list(range(50)), "regression"),
        (pd.Series(["a", "b"] * 30, dtype="category"), "classification"),
        (pd.Series([1, 2, None] * 20, dtype="Int64"), "classification"),
    ],
)
def test_the_targets_type_decides_the_task(values: object, task: str) -> None:
    assert infer_task(values) == task
    assert prepare_table({"size": table()["size"], "target": values}, "target").task == task


def with_target(values: object) -> dict[str, object]:
    return {**table(), "target": values}


BAD_TABLES = [
    ({"target": "target", "drop": ["knid"]}, None, "to drop.*Did you mean 'kind'"),
    ({"target": "target", "group": "grp"}, None, "to group by"),
    ({"target": "target", "time": "when"}, None, "to order rows in time"),
    ({"target": "target", "time": "kind"}, None, "neither numbers nor dates"),
    ({"target": "target", "drop": ["target"]}, None, "is the target"),
    ({"target": "target", "drop": ["kind"], "group": "kind"}, None, "also needed for splits"),
    ({"target": "target", "drop": "kind"}, None, "list of column names"),
    ({"target": "target", "drop": ["size", "kind"]}, None, "no usable feature"),
    ({"target": "target", "task": "regression"}, None, "regression needs numbers"),
    ({"target": "target", "task": "regresion"}, None, "Did you mean 'regression'"),
    ({"target": "target"}, [None] * 60, "missing in all 60 rows"),
    ({"target": "target"}, ["a"] * 60, "one value only"),
    ({"target": "target"}, [1.5] * 60, "one value only"),
    ({"target": "target"}, [1.0, 2.5, float("inf")] * 20, "infinite in 20 rows"),
    ({"target": "target"}, ["a"] * 5 + ["b"] * 4 + [None] * 51, "Only 9 rows with a target"),
    ({"target": "target"}, [f"name {i}" for i in range(60)], "every class needs several rows"),
    ({"target": "target"}, [f"2024-01-{i % 28 + 1:02d}" for i in range(60)], "holds dates"),
]


@pytest.mark.parametrize(("options", "values", "message"), BAD_TABLES)
def test_a_bad_table_is_one_sentence(options: dict[str, object], values: object, message: str) -> None:
    source = table() if values is None else with_target(values)
    with pytest.raises(DataError, match=message) as caught:
        prepare_table(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_suspicious_columns_are_said() -> None:
    draw = np.random.default_rng(1)
    rows = 400
    y = draw.integers(0, 2, rows)
    frame = pd.DataFrame(
        {
            "fine": draw.normal(size=rows),
            "empty": [None] * rows,
            "constant": 3,
            "row": np.arange(1, rows + 1),
            "customer_id": draw.permutation(10**6)[:rows],
            "name": [f"person {i}" for i in range(rows)],
            "wild": np.where(np.arange(rows) < 3, np.inf, draw.normal(size=rows)),
            "mixed": ["bad" if i < 9 else str(i % 70) for i in range(rows)],
            "texts": [str(i % 3) if i % 3 else "many" for i in range(rows)],
            "leak_text": np.where(y == 1, "paid", "open"),
            "leak_date": [f"2024-03-{i % 28 + 1:02d}" if flag else None for i, flag in enumerate(y)],
            "leak_number": y * 10 + draw.random(rows),
            "target": y,
        }
    )
    before = frame.copy(deep=True)
    data = prepare_table(frame, "target")
    pd.testing.assert_frame_equal(frame, before)
    said = "\n".join(data.warnings)
    for name in ("empty", "constant", "row", "customer_id", "name"):
        assert name not in data.frame.columns
        assert f"'{name}'" in said
    assert "Infinite values are treated as missing: 'wild' (3 rows)" in said
    assert np.isnan(data.frame["wild"]).sum() == 3
    assert "'mixed' mixes numbers and texts (9 of 400 values, such as 'bad'" in said
    assert np.isnan(data.frame["mixed"]).sum() == 9
    assert "it is taken as categories" in said
    leak = next(w for w in data.warnings if "almost perfectly" in w)
    assert all(f"'{name}'" in leak for name in ("leak_text", "leak_date", "leak_number"))
    assert not any(f"'{name}'" in leak for name in ("fine", "wild", "mixed", "texts"))


def test_leaks_of_a_number() -> None:
    y = np.random.default_rng(0).normal(size=300)
    frame = {
        "unit": 3 * y + 1,
        "order": np.exp(y),
        "near": y + 0.1 * np.random.default_rng(1).normal(size=300),
        "target": y,
    }
    leak = next(w for w in prepare_table(frame, "target").warnings if "almost perfectly" in w)
    assert "'unit'" in leak
    assert "'order'" in leak
    assert "'near'" not in leak


def test_rows_groups_time_rare_classes_and_copies() -> None:
    source = table()
    source["target"] = ["a", "b", None] * 19 + ["c", "a", "a"]
    source["who"] = [None, *[f"p{i % 7}" for i in range(59)]]
    source["when"] = [f"2024-01-{i % 28 + 1:02d}" for i in range(59)] + [None]
    source["size"][4] = source["size"][1]
    source["kind"][4] = source["kind"][1]
    data = prepare_table(source, "target", group="who", time="when")
    assert list(data.frame.columns) == ["size", "kind"]
    assert len(data.frame) == len(data.target) == 40
    assert data.groups is not None
    assert data.time is not None
    assert len(data.groups) == len(data.time) == 40
    said = "\n".join(data.warnings)
    assert "missing in 19 of 60 rows" in said
    assert "The time 'when' is missing in 1 of 41 rows" in said
    assert "1 of 3 classes have fewer than 5 rows (c)" in said
    assert "1 of 40 rows are exact copies" in said


def test_a_total_below_the_rows_is_named() -> None:
    rows = [float(i) for i in range(1, 13)]
    source = {"a": [*rows, sum(rows)], "b": [*rows[::-1], sum(rows)], "y": [*rows, 7.0]}
    assert "The last row is the sum of all others in 2 columns" in "\n".join(prepare_table(source, "y").warnings)
    assert "sum of all" not in "\n".join(prepare_table({k: v[:-1] for k, v in source.items()}, "y").warnings)


def test_the_hash_is_of_contents() -> None:
    source = table()
    one, same = (
        prepare_table(source, "target"),
        prepare_table(pd.DataFrame(source)[["size", "kind", "target"]], "target"),
    )
    assert one.sha256 == same.sha256
    source["size"][0] = 99.0
    assert prepare_table(source, "target").sha256 != one.sha256


HOSTILE = ["<script>alert(1)</script>", "__class__", "", "ünï ✓", "=cmd()", "a,b", "x\x00", "{0}", "%s", "self", " "]


def test_hostile_names_and_cells_pass_through() -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({name: draw.choice(HOSTILE, 80) for name in HOSTILE})
    frame["target"] = draw.choice(HOSTILE[:3], 80)
    data = prepare_table(frame, "target")
    encoder = TableEncoder.fit(data.frame)
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert np.array_equal(again.transform(data.frame), encoder.transform(data.frame))
    assert [column.name for column in encoder.columns] == HOSTILE


@pytest.mark.parametrize("seed", range(40))
def test_preparing_anything_gives_a_table_or_a_sentence(seed: int) -> None:
    draw = np.random.default_rng(seed)
    frame = wild_frame(draw, int(draw.integers(1, 60)))
    names = list(frame.columns)
    group, time = (draw.choice(names) if draw.random() < 0.3 else None for _ in range(2))
    target = str(draw.choice(names))
    task = draw.choice(["classification", "regression", ""]) or None
    try:
        data = prepare_table(frame, target, task=task, group=group, time=time)
    except DataError:
        return
    goal = TargetEncoder.fit(data.target, data.task)
    assert np.isfinite(goal.transform(data.target)).all()
    assert np.isfinite(TableEncoder.fit(data.frame).transform(frame)).all()


# --- kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "number"),
        (["1", "2.5", " 3 "], "number"),
        (["1"] * 9 + ["x"], "number"),
        (["1"] * 8 + ["x"] * 2, "category"),
        ([str(i) for i in range(60)] + ["x"] * 40, "number"),
        ([True, None], "boolean"),
        (["True", "false"], "boolean"),
        (["yes", "no"], "boolean"),
        (["2024-01-31", "2024/02/01", "2024-02-01 10:30", "2024-02-01T10:30:00Z"], "date"),
        (["20240131", "20240201"], "number"),
        (pd.Series(["1", "2"], dtype="category"), "category"),
        (pd.Series(pd.to_datetime(["2024-01-31"])), "date"),
        (pd.Series(pd.to_datetime(["2024-01-31"], utc=True)), "date"),
        (pd.Series(pd.to_timedelta(["1 day"])), "number"),
        (pd.Series([1, None], dtype="Int64"), "number"),
        (pd.Series([True, None], dtype="boolean"), "boolean"),
        ([[1], [2]], "category"),
        ([None, None], "number"),
    ],
)
def test_kind(values: object, kind: str) -> None:
    assert column_kind(pd.Series(values)) == kind


def test_dates_and_numbers_are_read() -> None:
    days = as_days(pd.Series(["1970-01-02", "1970/1/3 12:00", "1970-01-01T02:00:00+02:00", "2024-13-45", "x", None]))
    assert np.allclose(days, [1, 2.5, 0, np.nan, np.nan, np.nan], equal_nan=True)
    assert as_days(pd.Series(pd.to_datetime(["1970-01-02", None]))).tolist()[0] == 1
    numbers = as_numbers(pd.Series(["1", " 2 ", "1e3", "x", "", None, "True"]))
    assert np.allclose(numbers, [1, 2, 1000, np.nan, np.nan, np.nan, 1], equal_nan=True)


# --- the encoder ---------------------------------------------------------------------------------------------------


def test_numbers_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    encoded = TableEncoder.fit({"x": x}).transform({"x": [2.0, 3.0, np.nan, 1e300, -np.inf, 1e308]})
    z = (3.0 - 2.0) / (2.0 / 1.349)
    assert np.allclose(encoded[:, 0], [0, z / np.sqrt(1 + (z / 3) ** 2), 0, 3, 0, 3])


def test_scales_where_half_or_all_is_equal() -> None:
    mostly_zero = np.r_[np.zeros(90), np.full(10, 5000.0), 9e9]
    encoded = TableEncoder.fit({"x": mostly_zero}).transform({"x": [0.0, 5000.0, 9e9]})[:, 0]
    assert np.allclose(encoded, [0, 1 / np.sqrt(1 + 1 / 9), 3])
    binary = TableEncoder.fit({"x": [0] * 99 + [1]}).transform({"x": [0, 1, None]})[:, 0]
    assert np.allclose(binary, np.array([-1, 1, 0]) / np.sqrt(1 + np.array([1, 1, 0]) / 9))
    assert TableEncoder.fit({"x": [7.0, 7.0]}).transform({"x": [7.0, 8.0]})[0, 0] == 0


def test_pieces_of_a_number_rise_one_after_the_other_between_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.r_[np.arange(101.0) ** 3, np.nan]
    encoder = TableEncoder.fit(pd.DataFrame({"x": x, "few": x % 3, "same": 7.0}), pieces=4)
    assert encoder.names == [
        "x",
        *(f"x (piece {k})" for k in (1, 2, 3, 4)),
        "x (missing)",
        "few",
        "few (missing)",
        "same",
    ]
    encoded = encoder.transform(pd.DataFrame({"x": x, "few": 0.0, "same": 7.0}))
    s, pieces = encoded[:-1, 0], encoded[:-1, 1:5]
    edges = s[[0, 25, 50, 75, 100]]
    assert np.allclose(pieces, np.clip((s[:, None] - edges[:-1]) / np.diff(edges), 0, 1), atol=1e-5)
    assert np.allclose(edges[0] + pieces @ np.diff(edges), s, atol=1e-5), "together they are the number"
    assert np.allclose(encoded[-1, :6], [0, 1, 1, 0, 0, 1], atol=1e-6), "a missing number is the median"
    beyond = encoder.transform(pd.DataFrame({"x": [-1e300, 1e300], "few": 0.0, "same": 7.0}))[:, 1:5]
    assert np.array_equal(beyond, [[0, 0, 0, 0], [1, 1, 1, 1]])
    wide = TableEncoder.fit(np.arange(2000.0).reshape(10, 200) % 97, pieces=16)
    assert len(wide.names) == 200, "a very wide table has none"
    assert len(TableEncoder.fit(np.random.default_rng(0).normal(size=(50, 100)), pieces=16).names) == 600
    monkeypatch.setattr(encoding, "MOST_PIECE_CELLS", 1000)
    many = [TableEncoder.fit({"x": np.arange(float(rows))}, pieces=16).names for rows in (50, 100, 200, 300)]
    assert list(map(len, many)) == [17, 11, 6, 1], "very many rows have fewer"
    saved = encoder.to_dict()
    for damaged in ([0.0], [0.0, 0.0], [1.0, 0.0], [0.0, None]):
        saved["columns"][0]["edges"] = damaged
        with pytest.raises(FormatError, match="edges"):
            TableEncoder.from_dict(json.loads(json.dumps(saved)))


def test_missing_has_its_own_feature_only_if_it_was_seen() -> None:
    frame = pd.DataFrame({"n": [1.0, None, 3.0], "c": ["a", "a", None], "whole": [1, 2, 3]})
    encoder = TableEncoder.fit(frame)
    assert encoder.names == ["n", "n (missing)", "c (other)", "c (missing)", "whole"]
    assert encoder.transform(frame)[:, 1].tolist() == [0, 1, 0]
    assert encoder.transform(frame)[:, 3].tolist() == [0, 0, 1]
    assert encoder.transform({"n": [1], "c": [None], "whole": [None]})[0, 4] == 0


def test_categories_rare_and_unseen() -> None:
    values = ["a"] * 10 + ["b"] * 5 + ["c"]
    with_other = TableEncoder.fit({"c": values})
    assert with_other.names == ["c = a", "c = b", "c (other)"]
    assert with_other.transform({"c": ["a", "c", "new", None]}).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    without = TableEncoder.fit({"c": values[:15]})
    assert without.transform({"c": ["b", "new"]}).tolist() == [[0, 1], [0, 0]]
    many = TableEncoder.fit({"c": [f"v{i % 100}" for i in range(1000)]})
    assert len(many.names) == 31
    wide = TableEncoder.fit({f"c{i}": ["a", "b", "c", "d", "e", "f"] * 10 for i in range(700)})
    assert len(wide.names) <= 2048


def test_booleans_and_dates() -> None:
    encoder = TableEncoder.fit({"b": [True, False, None], "d": ["2024-01-01", "2024-06-30", "2024-12-31"]})
    encoded = encoder.transform({"b": ["true", "no", "?"], "d": ["2024-01-01", "bad", None]})
    assert encoded[:, 0].tolist() == [1, -1, 0]
    assert encoded[:, 1].tolist() == [0, 0, 1]
    assert encoded[1, 2:].tolist() == [0, 0, 0, 0, 0]
    assert encoder.columns[1].kind == "date"
    clock = TableEncoder.fit({"d": pd.to_datetime(["2024-01-01 06:00", "2024-01-02 12:00"])})
    assert np.allclose(clock.transform({"d": ["1970-01-01 06:00"]})[0, -2:], [1, 0], atol=1e-6)


def test_kinds_can_be_given() -> None:
    frame = {"zip": [10115, 10115, 20095, 20095] * 4}
    assert TableEncoder.fit(frame, {"zip": "category"}).names == ["zip = 10115", "zip = 20095"]
    with pytest.raises(DataError, match="Did you mean 'zip'"):
        TableEncoder.fit(frame, {"zp": "category"})
    with pytest.raises(DataError, match="Did you mean 'category'"):
        TableEncoder.fit(frame, {"zip": "categry"})


def test_columns_in_any_order_more_and_missing() -> None:
    frame = as_frame(table())[["size", "kind"]]
    encoder = TableEncoder.fit(frame)
    assert np.array_equal(encoder.transform(frame.assign(more=1)[["more", "kind", "size"]]), encoder.transform(frame))
    with pytest.raises(DataError, match=r"'kind'.*Did you mean 'kinds'"):
        encoder.transform(frame.rename(columns={"kind": "kinds"}))
    with pytest.raises(DataError, match="at least one"):
        TableEncoder.fit(frame.iloc[:0])


def test_saved_encoders_are_checked() -> None:
    saved = TableEncoder.fit(table()).to_dict()
    with pytest.raises(FormatError, match="Update wellposed"):
        TableEncoder.from_dict({**saved, "schema": 2})
    with pytest.raises(FormatError, match="damaged"):
        TableEncoder.from_dict({**saved, "columns": [{"kind": "number"}]})
    with pytest.raises(FormatError, match="damaged"):
        TargetEncoder.from_dict({"schema": 1, "task": "regression"})


def wild_frame(draw: np.random.Generator, rows: int) -> pd.DataFrame:
    """Columns of every kind with anything in them."""
    pool = np.array(
        [None, "", "a", "b", "1", "2.5", "inf", "nan", "2024-01-01", "True", 7, 1e308, -1e308, True], dtype=object
    )
    columns: dict[str, object] = {f"any{i}": pool[draw.integers(0, len(pool), rows)] for i in range(6)}
    numbers = np.array([0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-320])
    columns |= {f"n{i}": numbers[draw.integers(0, draw.integers(1, 10), rows)] for i in range(6)}
    return pd.DataFrame(columns)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_comes_the_features_are_finite_and_saved_whole(seed: int) -> None:
    draw = np.random.default_rng(seed)
    encoder = TableEncoder.fit(wild_frame(draw, int(draw.integers(1, 80))), pieces=int(draw.choice([0, 4, 16])))
    rows = wild_frame(draw, 50)
    encoded = encoder.transform(rows)
    assert encoded.dtype == np.float32
    assert encoded.shape == (50, len(encoder.names))
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 3
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict(), allow_nan=False)))
    assert again == encoder
    assert np.array_equal(again.transform(rows), encoded)


# --- the target ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, 10], (9, 10)),
        ([True, False], (False, True)),
        ([1.0, 2.0], (1, 2)),
        ([0.5, 1.5], (0.5, 1.5)),
        (["2", 1], ("1", "2")),
        (pd.Series([3, 1], dtype="Int64"), (1, 3)),
    ],
)
def test_classes_keep_their_type(values: object, labels: tuple[object, ...]) -> None:
    encoder = TargetEncoder.fit(values, "classification")
    assert encoder.labels == labels
    assert [type(x) for x in encoder.labels or ()] == [type(x) for x in labels]
    again = TargetEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    codes = again.transform(values)
    assert codes.dtype == np.int64
    assert again.inverse(codes).tolist() == [labels[code] for code in codes]
    assert encoder.classes == [str(label) for label in labels]


def test_numbers_are_standardized() -> None:
    y = pd.Series([1.0, 2.0, 6.0])
    encoder = TargetEncoder.fit(y, "regression")
    scaled = encoder.transform(y)
    assert encoder.classes is None
    assert scaled.dtype == np.float32
    assert np.allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-6)
    assert np.allclose(encoder.inverse(scaled), y, atol=1e-5)
    with pytest.raises(DataError, match="no number"):
        encoder.transform(["x"])
    with pytest.raises(DataError, match="'c', which no training row had"):
        TargetEncoder.fit(["a", "b"], "classification").transform(["a", "c"])
    with pytest.raises(DataError, match="missing in 1 rows"):
        TargetEncoder.fit(["a", None], "classification")


# --- images --------------------------------------------------------------------------------------------------------


def saved(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def test_images_are_read_and_stay_compact(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    read = read_npz(
        saved(tmp_path / "i.npz", X_train=x, y_train=np.arange(12) % 3, X_test=x[:3], y_test=[[0], [1], [2]])
    )
    assert set(read) == {"X_train", "y_train", "X_test", "y_test"}
    assert read["y_test"].tolist() == [0, 1, 2]
    images = image_tensor(read["X_train"])
    assert str(images.dtype) == "torch.uint8"
    assert tuple(images.shape) == (12, 3, 5, 4)
    assert images[1, 2, 3, 0] == x[1, 3, 0, 2]
    mean, std = pixel_statistics(read["X_train"])
    assert np.allclose(mean, x.mean(axis=(0, 1, 2)))
    assert np.allclose(std, x.std(axis=(0, 1, 2)))
    grey_mean, grey_std = pixel_statistics(np.ones((3, 2, 2)))
    assert (grey_mean.tolist(), grey_std.tolist()) == ([1.0], [1.0])


IMAGES = np.zeros((4, 3, 3), dtype=np.uint8)
BAD_IMAGES = [
    ({"X_train": IMAGES}, "lacks y_train"),
    ({"x": IMAGES}, "none of the arrays"),
    ({"X_train": IMAGES, "y_train": [0, 1, 0, 1], "X_test": IMAGES}, "lacks y_test"),
    ({"X_train": IMAGES, "y_train": [0, 1]}, "4 images and y_train 2 labels"),
    ({"X_train": IMAGES, "y_train": [0, 0, 0, 0]}, "one class only"),
    ({"X_train": IMAGES, "y_train": [0, 1.5, 0, 1]}, "need to be integers"),
    ({"X_train": IMAGES, "y_train": ["a", "b", "a", "b"]}, "need to be integers"),
    ({"X_train": IMAGES, "y_train": np.eye(4)}, "one integer for each image"),
    ({"X_train": IMAGES.astype(object), "y_train": [0, 1, 0, 1]}, "Python objects"),
    ({"X_train": np.zeros((4, 9)), "y_train": [0, 1, 0, 1]}, "images need"),
    ({"X_train": np.full((4, 3, 3), np.nan), "y_train": [0, 1, 0, 1]}, "NaN or infinite"),
    ({"X_train": IMAGES.astype("int32"), "y_train": [0, 1, 0, 1]}, "has type int32"),
    ({"X_train": IMAGES, "y_train": [0, 1, 0, 1], "X_test": IMAGES[:, :2], "y_test": [0, 1, 0, 1]}, "the same shape"),
    ({"X_train": IMAGES, "y_train": [0, 1, 0, 1], "X_test": IMAGES, "y_test": [0, 1, 0, 7]}, "never has"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_IMAGES)
def test_a_bad_image_set_is_one_sentence(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(saved(tmp_path / "bad.npz", **arrays))


def test_a_damaged_image_set_is_one_sentence(tmp_path: Path) -> None:
    good = saved(tmp_path / "i.npz", X_train=IMAGES, y_train=[0, 1, 0, 1]).read_bytes()
    for content in (b"", b"nothing", good[: len(good) // 2], good[:90] + b"\xff" * 40 + good[130:]):
        with pytest.raises(DataError, match=r"whole \.npz|damaged|lacks"):
            read_npz(written(tmp_path / "bad.npz", content))
    with pytest.raises(DataError, match="no file"):
        read_npz(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="is a folder"):
        read_npz(tmp_path)


# --- real tables ---------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_table(name: str) -> None:
    path = DATA / "tables" / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip("needs ../shared/data")
    task, classes, rows, features = REAL[name]
    data = prepare_table(read_table(path), None, name=name)
    assert data.task == task
    assert data.frame.shape == (rows, features - USELESS.get(name, 0))
    assert not any("almost perfectly" in warning or "ids" in warning for warning in data.warnings)
    goal = TargetEncoder.fit(data.target, data.task)
    assert (None if goal.classes is None else len(goal.classes)) == classes

    train = np.random.default_rng(0).permutation(rows)[: rows // 2]
    encoder = TableEncoder.fit(data.frame.iloc[train])
    encoded = encoder.transform(data.frame)
    assert np.isfinite(encoded).all()
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict(), allow_nan=False)))
    assert np.array_equal(again.transform(data.frame), encoded)


@pytest.mark.data
def test_the_encoder_sees_training_rows_only() -> None:
    path = DATA / "tables" / "titanic.csv.gz"
    if not path.exists():
        pytest.skip("needs ../shared/data")
    frame = prepare_table(read_table(path), None).frame
    train, held = np.arange(0, 600), np.arange(600, len(frame))
    changed = frame.copy()
    for column in frame.columns:
        text = column_kind(frame[column]) == "category"
        changed.loc[held, column] = "never seen" if text else 12345
    before, after = (TableEncoder.fit(f.iloc[train]) for f in (frame, changed))
    assert before == after
    assert TableEncoder.fit(changed) != before  # the change would have been noticed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "loss,phase\n1.5,a\n2.5,b\n",
        "loss;phase\n1.5;a\n2.5;b\n",
        "loss\tphase\n1.5\ta\n2.5\tb\n",
        "loss|phase\n1.5|a\n2.5|b\n",
        'sep=;\nloss;phase\n1.5;"a"\n2.5;b\n',
        '"loss","phase"\r\n1.5,"a"\r\n2.5,"b"\r\n',
    ],
)
def test_tables_and_logs_are_read_by_the_same_rules(tmp_path: Path, text: str, encoding: str) -> None:
    path = written(tmp_path / "t.csv", text.encode(encoding))
    frame, columns = read_table(path), csv_columns(path)
    assert frame["loss"].tolist() == [float(cell) for cell in columns["loss"]] == [1.5, 2.5]
    assert frame["phase"].tolist() == columns["phase"] == ["a", "b"]


def test_blanks_are_separators_between_numbers_only(tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "n.csv", "a  b\n1 2\n3  4\n")).shape == (2, 2)
    assert list(read_table(written(tmp_path / "t.csv", "city name\nNew York\nSan Jose\n")).columns) == ["city name"]
    assert list(read_table(written(tmp_path / "a.csv", "the address\n12 Main\n3 Side\n")).columns) == ["the address"]
    assert list(csv_columns(written(tmp_path / "q.csv", '"a,b";c\n1;2\n'))) == ["a,b", "c"]


def test_a_programs_word_for_missing_is_no_class_of_a_target(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,sex\n" + "".join(f"{place % 7}.5,{('F', 'M', 'NA')[place % 3]}\n" for place in range(60)))
    prepared = prepare_table(read_table(path), "sex")
    assert sorted(set(prepared.target)) == ["F", "M"]
    assert any("missing in 20 of 60" in said and "--kind sex=category" in said for said in prepared.warnings)
    kept = prepare_table(read_table(path, {"sex": "category"}), "sex")
    assert sorted(set(kept.target)) == ["F", "M", "NA"]
    path.write_text(path.read_text().replace("NA", "Na"))  # sodium
    assert len(set(prepare_table(read_table(path), "sex").target)) == 3
    path.write_text(path.read_text().replace("Na", "none"))  # a word of people may be a class
    assert len(set(prepare_table(read_table(path), "sex").target)) == 3
