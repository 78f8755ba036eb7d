"""The README's code is run, and what it says of itself is true."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_example_finds_what_the_readme_prints(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, names)
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    said, heading, audit = shown.partition("parameter  shape")
    printed = capsys.readouterr().out
    assert printed.endswith(heading + audit)
    # The numbers of a diagnosis depend on the machine a little; its words do not.
    for mine, theirs in zip(said.splitlines()[:4], printed.splitlines()[:4], strict=True):
        assert re.sub(r"[\d.]+", "#", mine) == re.sub(r"[\d.]+", "#", theirs)


def test_the_page_of_populations_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "population.md").read_text(), re.DOTALL):
        exec(code, {})
    assert re.fullmatch(
        r"6 (compiled|torch) population of 6(: there is no compiled kernel .*)?\n", capsys.readouterr().out
    )


def test_the_page_of_posteriors_shows_which_claims_fail(capsys: pytest.CaptureFixture[str]) -> None:
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "bayes.md").read_text(), re.DOTALL):
        exec(code, {})
    answer, narrow, independent, copied = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"(8[0-9]|9[0-9])% covered; NLL -?[\d.]+ nats", answer)
    assert narrow == "each weight's spread is 29% of what it should be"
    assert independent.endswith("off by 1.1 times the spread that the posterior gives them")
    assert copied.endswith("off by 2.2 times the spread that the posterior gives them")


@pytest.mark.usefixtures("own_clock")
def test_the_page_of_proofs_does_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("sklearn", "matplotlib"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "proof.md").read_text(), re.DOTALL):
        exec(code, names)
    printed = capsys.readouterr().out
    assert "\nlr 3e-05 -> 0.003\n" in printed
    assert "just go on: lowers the validation loss" in printed
    assert (tmp_path / "fork.svg").exists()


EXTENDING = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", EXTENDING, re.DOTALL))


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_of_extending_runs_and_is_short(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(EXAMPLES[name].splitlines()) < 30
    (tmp_path / f"{name}.py").write_text(EXAMPLES[name])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(f"{name}.py", run_name="__main__")


def test_the_recipe_of_extending_finds_its_penalty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wellposed import Recipe

    (tmp_path / "tolls.py").write_text(EXAMPLES["tolls"])
    monkeypatch.chdir(tmp_path)
    text = re.search(r"```toml\n(.*?)```", EXTENDING, re.DOTALL)
    assert text is not None
    assert Recipe.from_toml(text[1]).describe().endswith("toll 0.01")
    monkeypatch.delitem(sys.modules, "tolls")


TRAINERS = [
    (re.search(r"^(?:import|from) (lightning|transformers|skorch|keras|accelerate)\b", code, re.MULTILINE)[1], code)  # type: ignore[index]
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.DOTALL)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "code"), TRAINERS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(TRAINERS)])
def test_each_example_of_trainers_runs(
    library: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "trainers"})
    assert library == "transformers" or "epochs, best epoch" in capsys.readouterr().out


def test_links_and_images_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
            if not target.startswith("http"):
                linked = page.parent / target if target else page
                assert linked.exists(), f"{page.name} links to {target}"
                headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
                names = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert not anchor or anchor in names, f"{page.name} links to {target}#{anchor}"


def test_the_readme_names_the_commands_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    import wellposed

    for name in wellposed.__all__:
        value = getattr(wellposed, name)
        assert value is not None
        if callable(value):
            assert value.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    import wellposed

    with pytest.raises(AttributeError, match="no attribute 'wathc'"):
        wellposed.wathc  # noqa: B018 - asked for on purpose


def test_the_page_of_estimators_does_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "estimators.md").read_text(), re.DOTALL):
        exec(code, names)
    accuracy, inside, first, *_, equal = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"accuracy (0\.9\d|1\.00)", accuracy)
    assert re.fullmatch(r"(8[2-9]|9\d)% of new targets are inside", inside)
    assert re.fullmatch(r"(bmi|s5|bp): 0\.\d+ \(.* to .*\)", first)
    assert equal == "True"
