"""The command line: what it prints, what it leaves behind, and that its parts agree with each other."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import wellposed as wp

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("jinja2")
threadpool_limits = pytest.importorskip("threadpoolctl").threadpool_limits

from wellposed.cli import main  # noqa: E402 - needs the extras
from wellposed.cli.improve import free_folder  # noqa: E402
from wellposed.cli.predict import csv_text, safe  # noqa: E402
from wellposed.recipe.presets import PRESETS  # noqa: E402
from wellposed.recipe.recipe import Recipe  # noqa: E402
from wellposed.search import improve as searching  # noqa: E402
from wellposed.search import timing  # noqa: E402
from wellposed.training.ready_problems import file_problem  # noqa: E402

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "problem.py"
ROWS = 60


class Result(NamedTuple):
    status: int
    out: str
    err: str


def call(*words: object) -> Result:
    """Run a command in this process, as a terminal would."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["wellposed", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main.run()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def table(rows: int = ROWS, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(2, rows))
    kind = np.where(a + 0.5 * b + 0.4 * draw.normal(size=rows) > 0, "yes", "no")
    size = 100 + 10 * a - 5 * b + draw.normal(size=rows)
    colour = draw.choice(["red", "green", "blue"], rows)
    return pd.DataFrame({"a": a, "b": b, "colour": colour, "kind": kind, "size": size})


@pytest.fixture(scope="module", autouse=True)
def _short_runs() -> Any:
    """Three epochs a run and one thread: what is tested here is not what is learned, and other processes run too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(timing, "PLAIN_EPOCHS", 3)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    table().to_csv(folder / "t.csv", index=False)
    table(7, seed=1).drop(columns=["kind"]).to_csv(folder / "new.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def study(place: Path) -> tuple[Path, Result]:
    """A small study, printed as JSON."""
    folder = place / "run"
    found = call("improve", place / "t.csv", "--target", "kind", "--drop", "size", "--budget", "4 recipes",
                 "--out", folder, "--json")  # fmt: skip
    assert found.status == 0, found.err
    return folder, found


# --- what a study leaves -------------------------------------------------------------------------------------------

SIDE = {"recipe": str, "valid": float, "test": float, "findings": list}
CONTRACT: dict[str, Any] = {
    "schema": int, "wellposed": str, "torch": str, "device": str, "threads": int, "command": str, "seed": int,
    "task": str, "metric": {"name": str, "higher_is_better": bool},
    "data": {"rows": int, "features": int, "train": int, "valid": int, "test": int, "sha256": str},
    "references": {"constant": float, "linear": float, "boosting": float},
    "baseline": SIDE, "best": SIDE,
    "improvement": {"estimate": float, "low": float, "high": float, "level": float, "pairs": int, "looks": int,
                    "shown": bool},
    "recipes_tried": int, "seconds": float,
}  # fmt: skip


def assert_typed(value: Any, expected: Any, where: str = "study.json") -> None:
    if isinstance(expected, dict):
        for key, inner in expected.items():
            assert key in value, f"{where} has no {key}"
            assert_typed(value[key], inner, f"{where}.{key}")
    else:
        assert type(value) is expected, f"{where} is {value!r}"


def test_study_json_has_every_key_of_the_contract_with_its_type(study: tuple[Path, Result]) -> None:
    record = json.loads((study[0] / "study.json").read_text())
    assert_typed(record, CONTRACT)
    assert (record["schema"], record["device"], record["seed"], record["recipes_tried"]) == (1, "cpu", 0, 4)
    assert record["task"] == "classification"
    assert record["metric"] == {"name": "accuracy", "higher_is_better": True}
    sizes = record["data"]
    assert sizes["rows"] == ROWS == sizes["train"] + sizes["valid"] + sizes["test"]
    assert re.fullmatch("[0-9a-f]{64}", sizes["sha256"])
    assert all(isinstance(name, str) for side in ("baseline", "best") for name in record[side]["findings"])
    assert record["improvement"]["low"] <= record["improvement"]["estimate"] <= record["improvement"]["high"]
    assert record["improvement"]["level"] == pytest.approx(0.95)
    assert record["seconds"] > 0
    assert "improve" in record["command"]
    assert "--budget '4 recipes'" in record["command"]


def test_json_prints_the_record_and_nothing_else(study: tuple[Path, Result]) -> None:
    folder, found = study
    assert json.loads(found.out) == json.loads((folder / "study.json").read_text())
    assert found.out.count("\n") == 1
    assert "NaN" not in found.out


def test_the_folder_has_what_the_contract_names_and_nothing_pickled(study: tuple[Path, Result]) -> None:
    folder, _ = study
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "report.html", "study.json", "recipe.toml", "history.csv", "history.json", "state.json", "optuna.journal",
        "events.out.tfevents.0.wellposed", "model/model.json", "model/model.safetensors",
    }  # fmt: skip
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not content.startswith((b"\x80", b"PK")), f"{path} looks pickled"
            assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads((folder / "model" / "model.json").read_text())["schema"] == 1
    assert (folder / "report.html").stat().st_size < 2 * 2**20


def test_recipe_toml_is_the_best_recipe(study: tuple[Path, Result]) -> None:
    record = json.loads((study[0] / "study.json").read_text())
    recipe = Recipe.from_toml(study[0] / "recipe.toml")
    assert recipe.describe() == record["best"]["recipe"]
    assert recipe == Recipe.from_toml(record["recipes"]["best"])
    assert recipe.to_dict() in [trial["recipe"] for trial in record["trials"] if trial["kind"] == "confirmation"]
    checked = call("recipe", "check", study[0] / "recipe.toml")
    assert (checked.status, checked.err) == (0, "")
    assert recipe.describe() in checked.out


def test_history_csv_is_the_best_runs_history(study: tuple[Path, Result]) -> None:
    folder, _ = study
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    record = json.loads((folder / "study.json").read_text())
    recorded = record["histories"]["best"]["rows"]
    assert len(rows) == len(recorded) == 3
    for row, other in zip(rows, recorded, strict=True):
        for name in ("epoch", "train_loss", "valid_loss", "train_loss_se", "valid_loss_se", "grad_norm", "lr"):
            assert float(row[name]) == pytest.approx(other[name]), name


def test_scores_are_those_of_the_saved_model(study: tuple[Path, Result], place: Path) -> None:
    """The mean test score over pairs has a model of the folder among its seeds."""
    record = json.loads((study[0] / "study.json").read_text())
    for side in ("baseline", "best"):
        assert record[side]["test"] == pytest.approx(np.mean(record["confirmation"][side]))
    differences = np.subtract(record["confirmation"]["best"], record["confirmation"]["baseline"])
    assert record["improvement"]["estimate"] == pytest.approx(differences.mean(), abs=1e-12)
    assert record["improvement"]["pairs"] == len(differences) == 5


@pytest.mark.parametrize(
    ("metric", "target", "drop", "higher"),
    [("log_loss", "kind", "size", False), ("rmse", "size", "kind", False), ("r2", "size", "kind", True)],
)
def test_a_positive_estimate_is_better_whatever_the_metric(
    place: Path, tmp_path: Path, metric: str, target: str, drop: str, higher: bool
) -> None:
    found = call("improve", place / "t.csv", "--target", target, "--drop", drop, "--metric", metric, "--budget", "0",
                 "--out", tmp_path / "run", "--json")  # fmt: skip
    assert found.status == 0, found.err
    record = json.loads(found.out)
    assert record["metric"] == {"name": metric, "higher_is_better": higher}
    gain = record["best"]["test"] - record["baseline"]["test"]
    estimate = record["improvement"]["estimate"]
    assert abs(gain) > 1e-6
    assert math.copysign(1, estimate) == math.copysign(1, gain if higher else -gain)
    if metric == "log_loss":  # a mean over rows; a root of a mean is only so to first order
        assert estimate == pytest.approx(-gain, rel=1e-4)


def test_without_json_the_verdict_comes_first_and_the_report_last(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = call("improve", place / "t.csv", "--target", "kind", "--budget", "0", "--out", out, "--quiet", "--details")
    verdict, time_spent = found.out.split("\n\n", 1)
    lines = verdict.splitlines()
    assert time_spent.startswith("Of ")
    assert {"imports", "confirmation", "training"} <= {line.split("  ")[0] for line in time_spent.splitlines()}
    assert found.status == 0
    assert lines[0].startswith(("Shown", "Not shown"))
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert found.err == ""


def test_a_table_needs_no_target_and_the_guess_is_said(place: Path, tmp_path: Path) -> None:
    found = call("improve", place / "t.csv", "--budget", "0", "--out", tmp_path / "run", "--json")
    assert found.status == 0
    assert "'size'" in found.err
    assert json.loads(found.out)["task"] == "regression"
    assert any("'size'" in warning for warning in json.loads(found.out)["warnings"])


def test_without_out_the_folder_is_named_after_the_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for expected in ("runs/t", "runs/t-2"):
        found = call("improve", "t.csv", "--target", "kind", "--budget", "0")
        assert f"report: {Path(expected) / 'report.html'}" in found.out


def test_a_free_folder_is_numbered(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "x") == tmp_path / "x"
    (tmp_path / "x").mkdir()
    (tmp_path / "x-2").mkdir()
    assert free_folder(tmp_path / "x") == tmp_path / "x-3"


def test_the_data_that_ships_needs_no_argument(tmp_path: Path) -> None:
    found = call("improve", "--budget", "0", "--out", tmp_path / "run", "--json")
    record = json.loads(found.out)
    assert record["data"].items() >= {"rows": 1797, "train": 300, "valid": 300, "test": 1197}.items()
    assert record["name"] == "noisy-digits"
    assert "No data were given" in found.err


def test_a_recipe_of_ones_own_is_tried_first(place: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('batch_size = 17\n[optimizer]\nname = "sgd"\nlr = 0.05\n')
    for budget in (("--recipes", "4"), ("--budget", "0")):
        out = tmp_path / budget[1]
        found = call("improve", place / "t.csv", "--target", "kind", "--recipe", own, *budget, "--out", out, "--json")
        record = json.loads(found.out)
        assert record["recipes_tried"] == int(budget[1])
        trials = record["trials"]
        tried = [t for t in trials if t["kind"] in ("search", "confirmation") and t["recipe"]["batch_size"] == 17]
        assert tried, budget
        assert tried[0]["recipe"]["optimizer"] == {"name": "sgd", "lr": 0.05}


# --- predict -------------------------------------------------------------------------------------------------------


def read_csv(text: str) -> Any:
    return pd.read_csv(io.StringIO(text))


def test_predict_gives_the_models_own_predictions_for_every_kind_of_table(
    study: tuple[Path, Result], place: Path, tmp_path: Path
) -> None:
    from wellposed.data.tables import read_table
    from wellposed.training.checkpoint import load

    folder, _ = study
    rows = read_table(place / "new.csv")
    rows.to_parquet(tmp_path / "new.parquet")
    rows.to_csv(tmp_path / "new.tsv.gz", index=False, sep="\t")
    expected = load(folder / "model").predict(rows)
    for source in (place / "new.csv", tmp_path / "new.parquet", tmp_path / "new.tsv.gz"):
        found = call("predict", folder, source)
        assert (found.status, found.err) == (0, "")
        predicted = read_csv(found.out)
        assert list(predicted.columns) == ["prediction", "p_no", "p_yes"]
        assert predicted["prediction"].tolist() == expected["prediction"].tolist()
        np.testing.assert_allclose(predicted["p_yes"], expected["p_yes"], rtol=1e-12)
        np.testing.assert_allclose(predicted["p_yes"] + predicted["p_no"], 1, rtol=1e-6)


def test_predict_reproduces_the_score_of_the_study(place: Path, tmp_path: Path) -> None:
    """With confirmation rows of one's own, the saved model's predictions on them score as the record says."""
    rows = table(40, seed=5)
    rows.to_csv(tmp_path / "test.csv", index=False)
    found = call("improve", place / "t.csv", "--target", "kind", "--budget", "0", "--test", tmp_path / "test.csv",
                 "--out", tmp_path / "run", "--json")  # fmt: skip
    record = json.loads(found.out)
    assert record["data"]["test"] == 40
    predicted = read_csv(call("predict", tmp_path / "run", tmp_path / "test.csv").out)["prediction"]
    accuracy = float((predicted == rows["kind"]).mean())
    assert any(accuracy == pytest.approx(score) for score in record["confirmation"]["best"])


def test_predict_of_a_regression_is_in_the_targets_unit(place: Path, tmp_path: Path) -> None:
    words = ("--target", "size", "--drop", "kind", "--budget", "0", "--out", tmp_path / "run")
    assert call("improve", place / "t.csv", *words).status == 0
    predicted = read_csv(call("predict", tmp_path / "run", place / "new.csv").out)
    assert list(predicted.columns) == ["prediction"]
    assert 50 < predicted["prediction"].mean() < 150


def test_predict_writes_a_file(study: tuple[Path, Result], place: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "p.csv"
    found = call("predict", study[0], place / "new.csv", "--out", target)
    assert found == (0, "", "")
    assert target.read_text() == call("predict", study[0], place / "new.csv").out


def test_predict_of_images_says_the_labels_that_they_came_with(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice([3, 7], 60)
    images = np.where(labels[:, None, None] == 7, 200, 30) + draw.integers(0, 20, (60, 6, 6))
    np.savez(tmp_path / "i.npz", X_train=images.astype(np.uint8), y_train=labels)
    found = call("improve", tmp_path / "i.npz", "--budget", "0", "--out", tmp_path / "run", "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["best"]["test"] > 0.6
    for name in ("X_test", "X", "X_train"):
        np.savez(tmp_path / "new.npz", **{name: images[:20].astype(np.uint8)})
        predicted = read_csv(call("predict", tmp_path / "run", tmp_path / "new.npz").out)
        assert list(predicted.columns) == ["prediction", "p_3", "p_7"]
        assert (predicted["prediction"] == labels[:20]).mean() > 0.6


def test_a_problem_file_is_improved_and_its_confirmation_rows_predicted(tmp_path: Path) -> None:
    reference = f"{EXAMPLE}:problem"
    found = call("improve", reference, "--budget", "2 epochs", "--out", tmp_path / "run", "--json")
    assert found.status == 0, found.err
    record = json.loads(found.out)
    assert (record["name"], record["data"]["rows"], record["data"]["features"]) == ("digits", 1797, 64)
    again = call("predict", tmp_path / "run", reference)
    predicted = read_csv(again.out)
    assert len(predicted) == record["data"]["test"]

    test = searching.with_test(file_problem(reference)).prepared.test
    assert test is not None
    _, labels = test.batch(torch.arange(len(test)))
    accuracy = float((predicted["prediction"].to_numpy() == labels.numpy()).mean())
    assert any(accuracy == pytest.approx(score) for score in record["confirmation"]["best"])


def test_what_a_problem_file_prints_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "loud.py"
    file.write_text(f"print('hello')\n{EXAMPLE.read_text()}".replace("from __future__ import annotations", ""))
    found = call("improve", f"{file}:problem", "--budget", "2 epochs", "--out", tmp_path / "run", "--json")
    assert "hello" in found.err
    assert json.loads(found.out)["schema"] == 1
    predicted = call("predict", tmp_path / "run", f"{file}:problem")
    assert predicted.out.startswith("prediction,")


def test_no_cell_of_a_prediction_is_a_formula() -> None:
    labels = np.array(["=cmd()", "@SUM(A1)", "+1+cmd|' /C calc'!A0", "\tx", "-", "+", "-5", "<=50K", "a,b\n"], object)
    rows = list(csv.reader(io.StringIO(csv_text({"prediction": labels, "p_=1": np.arange(9.0)}))))
    assert [row[0] for row in rows[1:]] == [
        "'=cmd()", "'@SUM(A1)", "'+1+cmd|' /C calc'!A0", "'\tx", "-", "+", "-5", "<=50K", "a,b\n",
    ]  # fmt: skip
    assert safe(-5.0) == -5.0


def test_several_numbers_a_row_are_several_columns() -> None:
    assert (
        csv_text({"prediction": np.array([[1.0, 2.0], [3.0, 4.0]])}) == "prediction_0,prediction_1\n1.0,2.0\n3.0,4.0\n"
    )


# --- the other commands --------------------------------------------------------------------------------------------


def test_report_writes_the_page_again(study: tuple[Path, Result], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study[0], folder)
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    found = call("report", folder)
    assert found == (0, f"report: {folder / 'report.html'}\n", "")
    assert (folder / "report.html").read_bytes() == before


def test_diagnose_reads_a_run_and_a_table_of_curves(study: tuple[Path, Result], tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    falling = [1.0, 0.7, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08, 0.05]
    turning = [1.0, 0.8, 0.7, 0.65, 0.63, 0.66, 0.72, 0.80, 0.90, 1.0]
    lines = [f"{e},{t},{v}" for e, (t, v) in enumerate(zip(falling, turning, strict=True))]
    curves.write_text("\n".join(["epoch,train_loss,val_loss", *lines]))
    found = call("diagnose", study[0], curves, "--json")
    first, second = json.loads(found.out)
    assert found.err == ""
    assert (first["source"], second["source"], second["best_epoch"]) == (str(study[0]), str(curves), 4)
    assert second["findings"][0]["name"] == "overfits"
    for finding in [*first["findings"], *second["findings"]]:
        assert set(finding) == {"name", "confidence", "evidence", "lever", "axis", "pulls", "changes"}
        assert 0 <= finding["confidence"] <= 1
    record = json.loads((study[0] / "study.json").read_text())
    assert [finding["name"] for finding in first["findings"]] == record["best"]["findings"]
    assert "overfits" in call("diagnose", curves).out


def test_recipe_commands_agree_with_the_presets(tmp_path: Path) -> None:
    listed = call("recipe", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == list(PRESETS)
    for name, preset in PRESETS.items():
        shown = call("recipe", "show", name)
        assert Recipe.from_toml(shown.out) == preset.recipe
        (tmp_path / "r.toml").write_text(shown.out)
        assert call("recipe", "check", tmp_path / "r.toml").status == 0
    assert call("recipe", "show", tmp_path / "r.toml").out == shown.out


def test_version() -> None:
    import wellposed

    assert call("--version") == (0, f"wellposed {wellposed.__version__}\n", "")


COMMANDS = ["improve", "predict", "check", "diagnose", "report", "recipe"]


def test_help_names_every_command_and_every_option_of_the_contract() -> None:
    for command in COMMANDS:
        assert command in call("--help").out
        found = call(command, "--help")
        assert (found.status, found.err) == (0, "")
        assert "Usage: wellposed" in found.out
    text = call("improve", "--help").out
    for option in ("target", "task", "metric", "kind", "drop", "group", "time", "test", "budget", "recipes", "recipe", "out",
                   "seed", "device", "engine", "resume", "json", "quiet"):  # fmt: skip
        assert f"--{option}" in text
    for command in ("list", "show", "check"):
        assert command in call("recipe", "--help").out


HEAVY = "{m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'pandas', 'sklearn', 'matplotlib', 'rich'}"


def test_nothing_heavy_is_imported_for_help_or_by_the_package() -> None:
    assert python(f"import sys, wellposed; print({HEAVY})").stdout == "set()\n"
    for command in ([], ["improve"], ["recipe"]):
        code = (
            "import sys, io\nfrom contextlib import suppress, redirect_stdout\nfrom wellposed.cli import main\n"
            f"sys.argv = ['wellposed', *{command!r}, '--help']\n"
            f"with suppress(SystemExit), redirect_stdout(io.StringIO()):\n    main.run()\nprint({HEAVY})"
        )
        assert python(code).stdout == "set()\n"


NOISY = {"epochs": 2, "noise": {"places": [{"kind": "weight_noise", "std": 0.1, "on": "*.weight"}]}}
"""A recipe whose gradients are taken through its noise."""


@pytest.mark.parametrize("of_file", [False, True])
def test_a_search_imports_no_compiler_of_torch_and_no_algebra(of_file: bool, place: Path, tmp_path: Path) -> None:
    """Seconds of work on a slow machine, for nothing."""
    file = tmp_path / "example.py"
    file.write_text(EXAMPLE.read_text())
    recipe = tmp_path / "noisy.toml"
    recipe.write_text(Recipe(**NOISY).to_toml())
    given = [f"{file}:problem"] if of_file else [str(place / "t.csv"), "--target", "kind"]
    words = ["wellposed", "improve", *given, "--budget", "4 epochs", "--recipe", str(recipe), "--out", str(tmp_path / "run"),
             "--json"]  # fmt: skip
    code = (
        "import sys, io\nfrom contextlib import suppress, redirect_stdout\nfrom wellposed.cli import main\n"
        f"sys.argv = {words!r}\nwith suppress(SystemExit), redirect_stdout(io.StringIO()):\n    main.run()\n"
        "print({'torch._dynamo', 'sympy'} & set(sys.modules))\n"
        "import torch\nprint(hasattr(torch.optim.Optimizer.zero_grad.__wrapped__, '__dynamo_disable'))\n"
        "print(hasattr(torch.optim.AdamW.step, 'spared'))"
    )
    assert python(code).stdout == "set()\nFalse\nFalse\n"
    assert (tmp_path / "run" / "study.json").exists()


def test_the_command_runs_as_a_module_with_warnings_as_errors(place: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-m", "wellposed.cli.main", "improve", place / "t.csv", "--target", "kind",
             "--budget", "4 epochs", "--out", tmp_path / "run", "--json"]  # fmt: skip
    found = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, check=False,
                           env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == json.loads((tmp_path / "run" / "study.json").read_text())
    assert "Traceback" not in found.stderr


# --- progress ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_pipe_gets_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def err_of(stream: io.StringIO, *words: str) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "argv", ["wellposed", "improve", str(place / "t.csv"), "--target", "kind", *words])
        with pytest.raises(SystemExit) as ended:
            main.run()
        assert ended.value.code == 0
        return stream.getvalue()

    budget = ("--budget", "3 recipes", "--out")
    assert "best " in err_of(Terminal(), *budget, str(tmp_path / "1"))
    assert err_of(io.StringIO(), *budget, str(tmp_path / "2")) == ""
    assert err_of(Terminal(), *budget, str(tmp_path / "3"), "--quiet") == ""


@pytest.mark.parametrize("of", ["improve", "estimator"])
def test_python_gets_the_bar_too_unless_somebody_listens_already(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wellposed.core.progress import reporting_to

    x = torch.linspace(-1, 1, 40)[:, None]
    y = (x[:, 0] > 0).long()

    def err_of(stream: io.StringIO, **options: Any) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        if of == "improve":
            problem = wp.Problem(lambda: torch.nn.Linear(1, 2), "cross_entropy", wp.Data(train=(x, y), valid=(x, y)))
            wp.improve(problem, "2 recipes", **options)
        else:
            wp.Classifier(budget="2 recipes", random_state=0, **options).fit(x.numpy(), y.numpy())
        return stream.getvalue()

    assert "best " in err_of(Terminal())
    assert err_of(io.StringIO()) == ""
    assert err_of(Terminal(), verbose=False) == ""
    events: list[str] = []
    with reporting_to(lambda event, fields: events.append(event)):
        assert err_of(Terminal()) == ""
    assert "trial" in events


def test_the_bar_says_recipes_best_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from wellposed.search.progress_bar import Progress
    from wellposed.study.budget import Budget

    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    drawn: list[tuple[str, float, str]] = []
    bar = Progress(Budget.parse("2m"), lambda *state: drawn.append(state))
    for kind, best in (("baseline", 0.5), ("search", 0.91234), ("confirmation", 0.91234)):
        bar("trial", {"trial": SimpleNamespace(kind=kind), "best": best, "spent": 0.5})
    now[0] += 55
    bar("phase", {"text": "confirmation"})
    assert drawn[-1] == ("confirmation", 0.5, "2 recipes · best 0.9123 · 1:05 left")


# --- tables as they are --------------------------------------------------------------------------------------------


def test_a_foreign_table_is_shown_trained_on_and_predicted_as_it_was_read(tmp_path: Path) -> None:
    """Decimal commas, units and days first: what check shows, improve learns from, and predict reads again."""
    rows = table(40, seed=1)
    sizes, days = [str(size).replace(".", ",") for size in rows["size"]], [*range(1, 21)] * 2
    lines = [f"{s} kg;{k};{d:02d}.01.2024" for s, k, d in zip(sizes, rows["kind"], days, strict=True)]
    data = tmp_path / "t.csv"
    data.write_text("size;kind;day\n" + "\n".join(lines) + "\n", encoding="cp1252")
    shown = call("check", data, "--target", "kind")
    assert (shown.status, shown.err) == (0, "")
    assert "numbers as 1234,5 in kg" in shown.out
    assert "dates, the day first" in shown.out
    assert "dates" not in call("check", data, "--kind", "day=category").out
    assert "Did you mean 'size'" in call("check", data, "--kind", "sise=number").err
    assert "COLUMN=KIND" in call("check", data, "--kind", "size").err
    assert call("improve", data, "--target", "kind", "--budget", "0", "--out", tmp_path / "run").status == 0
    new = tmp_path / "new.csv"
    new.write_text("day;size\n03.01.2024;101,5 kg\n\n04.01.2024;99 kg\n")
    predicted = call("predict", tmp_path / "run", new)
    assert predicted.status == 0
    assert len(read_csv(predicted.out)) == 3
    assert "warning: 1 of 3 rows are blank" in predicted.err
    new.write_text("day;size\n03.01.2024;large\n04.01.2024;small\n")
    refused = call("predict", tmp_path / "run", new)
    assert (refused.status, refused.out) == (1, "")
    assert (
        "'size' was read as numbers as 1234,5 in kg in training and now has 2 of 2 values that are no number"
        in refused.err
    )
