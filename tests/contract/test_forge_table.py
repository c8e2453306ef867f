"""The table of what a client must survive, held against the tests that it names."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from fleetssd.embedded.forge.quirks import Quirks

HERE = Path(__file__).parent
TABLE = (HERE.parents[1] / "docs" / "embedded_forge.md").read_text()
ROWS = [
    (cells[0], re.findall("`([a-z_]+)`", cells[1]), re.findall("`(test_[a-z0-9_]+)`", cells[2]))
    for line in TABLE.splitlines()
    if line.startswith("|") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3
][2:]
TESTS = {
    node.name: ast.get_source_segment(text, node) or ""
    for path in HERE.glob("test_forge*.py")
    for text in [path.read_text()]
    for node in ast.parse(text).body
    if isinstance(node, ast.FunctionDef)
}
SWITCHED = r"(?:quirk|switched)\([^)]*\b{}="


def test_the_table_has_all_its_rows() -> None:
    """Thirty-seven things, each said once."""
    assert len(ROWS) == len({words for words, _, _ in ROWS}) == 37


@pytest.mark.parametrize(("words", "quirks", "tests"), ROWS)
def test_a_row_names_tests_that_are_there(words: str, quirks: list[str], tests: list[str]) -> None:
    """Every test of a row exists and has facts to tell; every quirk is one, and one of the tests switches it on."""
    assert tests, words
    assert set(tests) <= TESTS.keys()
    assert set(quirks) <= {item.name for item in dataclasses.fields(Quirks)}
    bodies = "\n".join(TESTS[name] for name in tests)
    ways = {"faults": r"\bfault\(", "clock_offset": r"\.later\("}
    for quirk in quirks:
        assert re.search(ways.get(quirk, SWITCHED.format(quirk)), bodies), quirk


@pytest.mark.parametrize("quirk", [item.name for item in dataclasses.fields(Quirks)])
def test_every_quirk_is_switched_on_in_a_test_of_its_own(quirk: str) -> None:
    """Some test switches this quirk on and no other."""
    calls = [re.findall(r"(?:quirk|switched)\(([^)]*)", body) for body in TESTS.values()]
    alone = [names for found in calls for call in found if (names := re.findall(r"\b([a-z_]+)=", call))]
    assert [quirk] in alone
