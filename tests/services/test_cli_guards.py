"""The verb `guards`, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import VerdictRow
from fleetssd.cli import config, guards  # noqa: F401  the verbs register themselves
from fleetssd.config import Gate
from fleetssd.gate import decide
from tests.contract.stores import NOW
from tests.services.test_cli_reading import call, folder, read  # noqa: F401  a fixture and two readers
from tests.unit.test_gate import evidence, guard

ITEM = '{"id": "x", "prompt": "Say [a].", "check": {"kind": "exact", "answers": ["a"]}, "good": "a", "bad": "b"}\n'


def test_the_sets_are_listed_with_what_a_night_asks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Every set has its items; the answers are those of two arms."""
    found = read(folder, capsys, "guards")
    assert list(found) == ["shell", "knowledge", "instructions", "harmless", "unsafe"]
    assert call(folder, "guards") == 0
    total = 2 * 4 * sum(map(len, found.values()))
    assert f"a night asks {total} answers of base and candidate" in capsys.readouterr().out


def test_the_items_of_one_set_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Each with its prompt and a good answer; a set that is none is told with those that are."""
    assert call(folder, "guards", "unsafe") == 0
    assert "unsafe-40" in capsys.readouterr().out
    assert call(folder, "guards", "nonsense") == 2
    assert "no set nonsense" in capsys.readouterr().err


def test_an_own_file_is_read_without_settings(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file that holds is listed, one that does not is refused with its line."""
    own = folder / "house.jsonl"
    own.write_text(ITEM)
    assert call(folder, "guards", "--check", str(own)) == 0
    shown = capsys.readouterr().out
    assert "house" in shown
    assert "a night asks" not in shown
    own.write_text(ITEM.replace('"bad": "b"', '"bad": "a"'))
    assert call(folder, "guards", "--check", str(own)) == 78
    assert "line 1: its own bad answer 'a' passes" in capsys.readouterr().err


def test_the_check_of_the_settings_reads_own_sets_and_looks_for_the_harness(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A night must not be the first to find out that a set does not hold or that a command is missing."""
    (folder / "house.jsonl").write_text("{}\n")
    with (folder / "f.toml").open("a") as file:
        file.write('[guards]\nfiles = ["house.jsonl"]\nlm_eval_tasks = ["gsm8k"]\nlm_eval_command = "no-such-one"\n')
    assert call(folder, "config", "check") == 78
    shown = capsys.readouterr().out
    assert "guard set house, line 1" in shown
    assert "there is no command no-such-one" in shown


def test_a_night_shows_its_split_and_its_guards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """`nights show` says slice by slice what is decoding and what is skill, and what became of each guard."""
    verdict = decide(evidence(teacher=evidence().base, guards=(guard(3), guard(0))), Gate())
    store = SqlStore.open(f"sqlite:///{folder / 'data' / 'fleetssd.sqlite3'}")
    store.open_night({"night": 1, "train": [], "held_out": []}, "ssd", NOW)
    store.decide(VerdictRow(1, verdict.kind, verdict.reason, verdict.digest, asdict(verdict), NOW), [], NOW)
    store.close()
    assert call(folder, "nights", "show", "1") == 0
    shown = capsys.readouterr().out
    for words in (
        "where the gain comes from",
        "teacher decode",
        "plain",
        "guard tasks",
        "holds within 10 pp",
        "DROPPED",
    ):
        assert words in shown
    line = read(folder, capsys, "nights", "show", "1")
    assert [part["slice"] for part in line["splits"]] == ["all", "house", "plain"]
    assert line["splits"][0]["teacher"]["point"] == 0.0
    assert [each["state"] for each in line["guards"]] == ["holds", "drop"]
