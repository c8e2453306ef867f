"""The verbs over the window and the held-out set, for people and for programs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.cli import sides  # noqa: F401  the verbs register themselves
from fleetssd.records import Record
from tests.contract.stores import NOW, record
from tests.services.test_cli_reading import call, folder, read  # noqa: F401  a fixture and two readers


def settled(store: SqlStore, *records: Record) -> None:
    """File records and settle them."""
    for one in records:
        store.put_pulls([(one.key, "t", one)], NOW)
    store.settle(records, NOW)


@pytest.fixture
def lived(folder: Path) -> Path:  # noqa: F811
    """Return a folder whose window of two is full, with one held out and one that waits."""
    with (folder / "f.toml").open("a") as file:
        file.write("[buffer]\nsize = 2\nper_repository = 1\n")
    store = SqlStore.open(f"sqlite:///{folder / 'data' / 'fleetssd.sqlite3'}")
    other: dict[str, Any] = {"repository_id": 8, "repository": "fleet/lib"}
    settled(store, *(record(n, split_keys=(f"7#{n}",)) for n in (1, 2)), record(3, split_keys=("8#3",), **other))
    settled(store, record(4, state="held_out", split_keys=("7#4",), labels=("house",)))
    late = record(5, split_keys=("7#5",), prompt="Another wish", merged_at=NOW + timedelta(days=1))
    store.put_pulls([(late.key, "t", late)], NOW)
    store.close()
    return folder


def test_the_buffer_says_who_is_in_and_why_the_others_are_not(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every record that may teach is in, or out with a reason; what was not compared yet waits."""
    found = read(lived, capsys, "buffer")
    assert [(row["repository"], row["pull"]) for row in found["in"]] == [("fleet/lib", 3), ("fleet/app", 2)]
    why = {row["pull"]: row["why"] for row in found["out"]}
    assert why.keys() == {1, 5}
    assert "its share of the window" in why[1]
    assert "next poll" in why[5]
    assert call(lived, "buffer") == 0
    shown = capsys.readouterr().out
    assert "2 of at most 2" in shown
    assert "fleet/app#1" in shown


def test_an_empty_buffer_can_be_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Before the first poll nobody is in and nobody is out."""
    assert read(folder, capsys, "buffer") == {"in": [], "size": 500, "per_repository": 500, "out": []}
    assert call(folder, "buffer") == 0
    assert "0 of at most 500" in capsys.readouterr().out


def test_the_held_out_set_is_shown(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many examine, from where, and how often they were asked."""
    found = read(lived, capsys, "heldout", "show")
    assert (found["records"], found["consulted"], found["by_slice"]) == (1, 0, {"house": 1})
    assert found["frozen_at"] is None
    assert call(lived, "heldout", "show") == 0
    assert "1 records" in capsys.readouterr().out


def test_the_held_out_set_can_be_frozen_and_added_to(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A freeze counts what is inside; a name that is added leaves the window at once."""
    assert read(lived, capsys, "heldout", "freeze")["records"] == 1
    assert read(lived, capsys, "heldout", "show")["frozen_at"]
    assert call(lived, "heldout", "add", "fleet/lib#3") == 0
    assert capsys.readouterr().out.strip() == "fleet/lib#3 never teaches: 1 held out."
    assert [row["pull"] for row in read(lived, capsys, "buffer")["in"]] == [5]
    assert read(lived, capsys, "heldout", "add", "fleet/app#77") == []
    assert call(lived, "heldout", "freeze") == 0
    assert "1 records" in capsys.readouterr().out


def test_a_name_that_names_nothing_is_told(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is a sentence and an exit code."""
    assert call(lived, "heldout", "add", "nothing") == 1
    assert "owner/name#number" in capsys.readouterr().err


def test_held_out_issues_are_verified_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Verifying tells what each issue came to and does nothing twice; the set then says who judges and who does not."""
    store = SqlStore.open(f"sqlite:///{folder / 'data' / 'fleetssd.sqlite3'}")
    good, idle = (("test_x.py", "import x\nassert x.x == 1\n"),), (("test_y.py", "assert 1\n"),)
    held: dict[str, Any] = {"state": "held_out"}
    settled(
        store,
        record(1, split_keys=("7#1",), tests=good, **held),
        record(2, split_keys=("7#2",), tests=idle, **held),
        record(3, split_keys=("7#3",), tests=(), **held),
    )
    store.close()
    before = read(folder, capsys, "heldout", "show")
    assert (before["executed"], before["waiting"]) == (0, 3)
    found = {one["pull"]: (one["kind"], one["code"]) for one in read(folder, capsys, "heldout", "verify")}
    assert found == {
        "fleet/app#1": ("executed", "verified"),
        "fleet/app#2": ("refused", "passes_before"),
        "fleet/app#3": ("reference", "no_tests"),
    }
    assert call(folder, "heldout", "verify") == 0
    assert "Nothing to verify" in capsys.readouterr().out
    after = read(folder, capsys, "heldout", "show")
    assert (after["executed"], after["references"], after["waiting"]) == (1, 1, 0)
    assert [(one["name"], one["code"]) for one in after["refused"]] == [("fleet/app#2", "passes_before")]
    assert call(folder, "heldout", "show") == 0
    shown = capsys.readouterr().out
    assert "1 verified to judge by their tests" in shown
    assert "passes_before" in shown
    assert call(folder, "heldout", "verify", "--again") == 0
    assert "reference" in capsys.readouterr().out
