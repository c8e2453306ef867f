"""The reason codes."""

from __future__ import annotations

import ast
from pathlib import Path

import fleetssd
from fleetssd import split
from fleetssd.operations import polling
from fleetssd.reasons import REASONS, explained

ROOT = Path(fleetssd.__file__).parent
GIVEN = (
    "records.py",
    "diffs.py",
    "rendering.py",
    "split.py",
    "operations/polling.py",
    "adapters/git_mirror/__init__.py",
)


def test_every_explained_code_is_given() -> None:
    """Every explained code is given somewhere: a code that nobody gives any more would mislead."""
    found: set[str] = set()
    for name in GIVEN:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in REASONS:
                found.add(node.value)
    assert found == set(REASONS)


def test_every_code_that_has_a_name_is_explained() -> None:
    """A code that a module names as a constant of its own has its sentence too."""
    named = {split.TWIN, split.HELD, polling.UNREADABLE, polling.REVERTED}
    assert named <= set(REASONS)
    assert all(explained(code) for code in named)


def test_a_code_of_a_newer_version_is_no_error() -> None:
    """An unknown code has no sentence."""
    assert explained("some_day") == ""
    assert explained("secret").endswith(".")
