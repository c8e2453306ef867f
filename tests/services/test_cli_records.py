"""The verb `records`, over a real database: what every pull request became, and why some did not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import VerdictRow
from fleetssd.cli import main
from fleetssd.config import load
from fleetssd.gitea import PullKey, PullRow
from fleetssd.origins import Origin
from fleetssd.reasons import explained
from fleetssd.records import Record, refused_row

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def record(number: int, *reasons: str) -> Record:
    """Make a record that is refused for some reasons."""
    key = PullKey("http://f", 1, number)
    row = PullRow(key, "fleet/[a]", "Work", "", "agent-1", True, (), NOW, "t")
    return replace(refused_row(row, reasons), id=f"r{number}")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Write settings and file one record that teaches and three that are refused."""
    path = tmp_path / "f.toml"
    (tmp_path / "token").write_text("t" * 40)
    path.write_text(
        'data_dir = "."\n[forge]\nurl = "http://f"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["fleet/*"]\n'
    )
    store = SqlStore.open(load(path).database)
    taught = replace(record(1), state="train", issues=("fleet/a#8", "fleet/a#9"), confidences=("closed", "declared"))
    for made in (taught, record(2, "binary"), record(3, "binary", "licence"), record(4, "binary")):
        store.put_pulls([(made.key, "t", made)], NOW)
    store.close()
    return path


def test_refusals_are_grouped_by_reason(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each reason once, the most frequent first, with its count, its sentence and its pull requests."""
    main(["--config", str(settings), "records", "--refused"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.index("binary 3") < text.index("licence 1")
    assert explained("licence") in text
    assert "fleet/[a]#3" in text
    main(["--config", str(settings), "records", "--refused", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert sorted((row["pull"], row["reasons"]) for row in told) == [
        (2, ["binary"]), (3, ["binary", "licence"]), (4, ["binary"]),
    ]  # fmt: skip


def test_how_sure_a_link_is_can_be_seen(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An issue that was not closed with the merge says so, to a person and to a program."""
    main(["--config", str(settings), "records"])
    text = "".join(capsys.readouterr().out.split())
    assert "fleet/a#8" in text
    assert "fleet/a#9(declared)" in text
    main(["--config", str(settings), "records", "--json"])
    taught = next(row for row in json.loads(capsys.readouterr().out) if row["state"] == "train")
    assert taught["confidences"] == ["closed", "declared"]


def test_the_first_night_of_a_record_can_be_read(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program reads which night a record taught first, and null where it taught none."""
    store = SqlStore.open(load(settings).database)
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(VerdictRow(1, "keep", "no gain", "", {}, NOW), ["r1"], NOW)
    store.close()
    main(["--config", str(settings), "records", "--json"])
    assert {row["pull"]: row["first_night"] for row in json.loads(capsys.readouterr().out)} == {
        1: 1, 2: None, 3: None, 4: None,
    }  # fmt: skip


def test_whose_work_a_record_holds_can_be_seen(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The round stands beside each record; a question mark where nobody knows, a dash before anyone looked."""
    store = SqlStore.open(load(settings).database)
    store.put_origins([Origin("r1", 1, "task", ("c" * 64,), 3), Origin("r2", None, "none")])
    store.close()
    main(["--config", str(settings), "records", "--json"])
    told = {row["pull"]: (row["round"], row["round_by"]) for row in json.loads(capsys.readouterr().out)}
    assert told == {1: (1, "task"), 2: (None, "none"), 3: (None, ""), 4: (None, "")}
    main(["--config", str(settings), "records"])
    assert " ? " in capsys.readouterr().out
