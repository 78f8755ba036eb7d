"""One word, one idea: what is defined at two places has two meanings, and a reader who greps for it finds the wrong one.

Public classes, functions and type aliases of all files, file names, and the nouns of the glossary, by their source alone.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import wellposed as wp
from wellposed.core.errors import RENAMED, RecipeError, SelectorError
from wellposed.core.selectors import ROLES
from wellposed.recipe.recipe import chargeables

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "src" / "wellposed"
GLOSSARY = ROOT / "docs" / "glossary.md"
SAME_WORD = {
    "compress": "the command calls wp.compress",
    "diagnose": "the command calls wp.diagnose",
    "improve": "the command calls wp.improve",
    "report": "the command calls wp.report",
    "recipe": "the command shows wp.Recipe",
    "path": "the command shows wp.Path",
}
"""What may be defined twice, also as the name of a file, and why."""


def python_files() -> list[Path]:
    return sorted(path for path in HOUSE.rglob("*.py") if path.name != "__init__.py")


def defined(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Public classes and functions at the top of a file, and type aliases, which are in capitals and small letters: each with its
    meaning, which of an alias is what it stands for."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node.name, "defined"
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from ((n, ast.unparse(node.value)) for n in names if n[:1].isupper() and not n.isupper())


def twice(places: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: where for name, where in places.items() if len(where) > 1 and name not in SAME_WORD}


def nouns() -> list[str]:
    return re.findall(r"\*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"))


def test_a_public_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    meanings: dict[str, set[str]] = defaultdict(set)
    for path in python_files():
        for name, meaning in sorted(set(defined(ast.parse(path.read_text(encoding="utf-8"))))):
            places[name].append(str(path.relative_to(HOUSE)))
            meanings[name].add(meaning)
    assert len(places) > 900  # they are found at all
    same = [
        name for name, found in meanings.items() if found != {"defined"} and len(found) == 1
    ]  # an alias, made again
    # wp.select chooses inputs, as a selector chooses parameters; wp.load reads an estimator, as `checkpoint.load` its networks.
    contract = {"select", "load"}
    assert not {name: where for name, where in twice(places).items() if name not in {*same, *contract}}


def test_a_file_name_is_used_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in python_files():
        places[path.stem].append(str(path.relative_to(HOUSE)))
    assert not twice(places)


def test_what_may_be_defined_twice_is() -> None:
    for name in SAME_WORD:
        assert len(list(HOUSE.rglob(f"{name}.py"))) == (1 if name == "report" else 2)
        assert (HOUSE / "cli" / f"{name}.py").exists()


def test_the_glossary_has_each_noun_once() -> None:
    found = [noun.lower() for noun in nouns()]
    assert len(found) > 60
    assert not {noun for noun in found if found.count(noun) > 1}


def test_every_noun_of_the_glossary_is_used() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path != GLOSSARY]
    text = "\n".join(path.read_text(encoding="utf-8").lower() for path in [*HOUSE.rglob("*.py"), *pages])
    assert not [noun for noun in nouns() if not re.search(re.sub(r"[ -]", "[ _-]?", noun.lower()), text)]


@pytest.mark.parametrize("old", wp._RENAMED)
def test_a_public_name_that_was_given_up_names_the_new_one(old: str) -> None:
    new = wp._RENAMED[old]
    assert new in wp.__all__
    with pytest.raises(AttributeError, match=rf"^wellposed\.{old} is called wellposed\.{new} now\.$"):
        getattr(wp, old)


def test_names_in_recipes_that_were_given_up_name_the_new_ones() -> None:
    assert set(RENAMED.values()) <= set(ROLES) | set(chargeables())
    with pytest.raises(RecipeError, match="It is called 'logit_l2' now"):
        wp.Recipe.from_toml('[[terms]]\npenalty = "logit_norm"\nstrength = 0.1\n')
    with pytest.raises(RecipeError, match="It is called 'outputs' now"):
        wp.Recipe.from_toml('[[terms]]\npenalty = "l2"\nstrength = 0.1\non = "heads"\n')
    with pytest.raises(
        SelectorError, match=r"It is called 'outputs' now\. Write \"heads\.\*\" for modules of that name"
    ):
        wp.L2(0.1).on("heads")
    assert repr(wp.outputs) == "outputs"
