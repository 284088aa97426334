"""No module imports itself by way of others, whether at its top, in a function, or for type checking only."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.runs import ROOT


def cycle(root: Path, files: Iterable[str]) -> list[str]:
    """One cycle of imports among the files, each module followed by one that it imports; empty when there is none."""
    known = {_name(file): root / file for file in files}
    graph = {name: set(_imports(name, path, known)) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(name: str, path: Path, known: Iterable[str]) -> Iterator[str]:
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for each in node.names:  # a module of the package, or what a module holds
                found = f"{source}.{each.name}" if f"{source}.{each.name}" in known else source
                if found in known:
                    yield found


def test_no_module_of_this_repository_is_in_a_cycle_of_imports() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert cycle(ROOT, listed.stdout.split()) == []


@pytest.mark.parametrize(
    "back",
    [
        "import own.first",
        "from own import first",
        "from own.first import name",
        "from . import first",
        "from .first import name",
        "def later():\n    from own.first import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from own.first import name",
    ],
)
def test_a_cycle_is_found_in_whatever_form_its_imports_are(tmp_path: Path, back: str) -> None:
    (tmp_path / "own").mkdir()
    texts = {"__init__": "", "first": "from own.second import name", "second": "import own.third", "third": back}
    for name, text in texts.items():
        (tmp_path / "own" / f"{name}.py").write_text(text, encoding="utf-8")
    found = cycle(tmp_path, [f"own/{name}.py" for name in texts])
    assert found[0] == found[-1]
    assert set(found) == {"own.first", "own.second", "own.third"}
    assert found[found.index("own.second", 0, 3) + 1] == "own.third"
