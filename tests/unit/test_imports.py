"""The import contracts name every module that there is, and the training stack is imported where it may be."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
STACK = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "xllamacpp", "unsloth"}
TRAINERS = ("fleetssd/adapters/backends", "fleetssd/toy/model", "fleetssd/toy/export", "fleetssd/toy/tokenizer")
"""Loaded by the trainer's process alone."""
ROOMS = {
    "cli",
    "demo",
    "wiring",
    "adapters",
    "web",
    "operations",
    "embedded",
    "toy",
    "config",
    "errors",
    "cores",
    "files",
    "in_flight",
    "ports",
}


def contract(words: str) -> dict[str, Any]:
    """Return the one contract whose name has these words."""
    found = [each for each in CONTRACTS if words in each["name"]]
    assert len(found) == 1, words
    return found[0]


def modules(folder: str) -> set[str]:
    """Return the modules and packages right below a folder, dotted."""
    dotted = folder.replace("/", ".")
    files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    return {f"{dotted}.{name}" for name in files | packages}


def test_every_domain_module_stands_in_its_layer() -> None:
    """No module of the domain is forgotten by the contract of one direction."""
    named = {
        name.strip() for layer in contract("one direction")["layers"] for name in layer.replace("|", ":").split(":")
    }
    assert modules("fleetssd") <= named


def test_every_domain_module_is_forbidden_io() -> None:
    """What is neither room nor settings does no I/O, by contract."""
    domain = {name for name in modules("fleetssd") if name.removeprefix("fleetssd.") not in ROOMS}
    assert domain <= set(contract("no I/O")["source_modules"])


@pytest.mark.parametrize(("folder", "words"), [("services", "services never"), ("fleetssd/adapters", "adapters never")])
def test_every_neighbour_is_kept_apart(folder: str, words: str) -> None:
    """Services and adapters never import each other, and no new one escapes that rule."""
    apart = set(contract(words)["modules"])
    assert {name for name in modules(folder) if not name.endswith(".migrations")} - _programs() <= apart


def test_the_architecture_names_what_there_is() -> None:
    """Every module, folder and function that the two walks name stands where they say."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/*]+(?:\.py|/))(?:: ([\w, ]+))?`", text)
    assert len(named) > 50
    for path, functions in named:
        found = [place for root in (ROOT, ROOT / "fleetssd") for place in root.glob(path)]
        assert found, path
        for name in functions.split(", ") if functions else ():
            assert re.search(rf"^\s*(?:def|class) {name}\b", found[0].read_text(), re.MULTILINE), f"{path}: {name}"


def test_the_training_stack_is_imported_only_by_the_trainer() -> None:
    """Elsewhere such an import stands in a function, of a process that needs it; nobody else pays for it."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("fleetssd", "services")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(TRAINERS)
        for name in _imported_at_once(ast.parse(path.read_text()))
        if name.partition(".")[0] in STACK
    }
    assert found == set()


def _programs() -> set[str]:
    """Return the programs of child processes: they are run, not imported."""
    return {
        *(f"fleetssd.adapters.samplers.{name}_child" for name in ("llamacpp", "transformers")),
    }


def _imported_at_once(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports when it is imported: functions are not entered."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imported_at_once(node)


def test_what_lies_beside_the_code_is_packaged() -> None:
    """A template, a style or a guard set that no pattern of the package data names would be missing in a wheel."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    beside = [
        path for room in ("fleetssd", "services") for path in (ROOT / room).rglob("*.*")
        if path.suffix not in (".py", ".pyc") and path.is_file()
    ]  # fmt: skip
    assert {path.suffix for path in beside} >= {".html", ".css", ".mako", ".jsonl"}
    assert [path for path in beside if not any(path.match(pattern) for pattern in data)] == []
