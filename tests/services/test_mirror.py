"""The memory mirror as an operator meets it: the daemon's job, the verb, and what is said of another machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.cli import main
from fleetssd.config import load
from fleetssd.embedded.retaindb import Faults, Memories, running
from fleetssd.gitea import PullKey
from services.daemon import Daemon
from tests.contract.test_memory import record

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def settings(folder: Path, url: str, *, enabled: bool = True) -> Path:
    """Write settings with a mirror and one record on file."""
    (folder / "token").write_text("t" * 40)
    path = folder / "config.toml"
    path.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:9"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["fleet/*"]\n[schedule]\nenabled = false\n'
        f'[mirror]\nenabled = {str(enabled).lower()}\nurl = "{url}"\n'
    )
    store = SqlStore.open(load(path).database)
    for number in (1, 2):
        key = PullKey("https://gitea.example", 7, number)
        store.put_pulls([(key, "t", record(number))], NOW)
    store.close()
    return path


def run(path: Path, *words: str) -> int:
    """Run a verb and return its exit code."""
    try:
        main(["--config", str(path), *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_daemon_tells_what_was_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's job writes what is due; the verb shows what the server refused, and tells it again when asked."""
    memories = Memories(faults=Faults(poison="number 2 of"))
    with running(memories) as url:
        path = settings(tmp_path, url)
        daemon = Daemon(load(path), path)
        try:
            daemon._remember()
            capsys.readouterr()
            assert run(path, "mirror", "--json") == 0
            told = json.loads(capsys.readouterr().out)
            assert (told["states"], list(told["refused"])) == ({"refused": 1, "written": 1}, ["r2"])
            memories.faults = Faults()
            assert run(path, "mirror", "--retry") == 0
            assert "1 pending, 1 written" in capsys.readouterr().out
            daemon._remember()
            assert len(memories.active()) == 2
        finally:
            daemon.parts.close()


def test_a_mirror_that_is_off_is_not_there(tmp_path: Path) -> None:
    """By default no client of it is made."""
    path = settings(tmp_path, "http://memory.example", enabled=False)
    daemon = Daemon(load(path), path)
    try:
        assert daemon.parts.memory is None
    finally:
        daemon.parts.close()


def test_another_machine_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check of the settings and the verb say what leaves this machine; for one on loopback they are silent."""
    path = settings(tmp_path, "http://memory.example")
    for words in (("config", "check"), ("mirror",)):
        run(path, *words)
        said = capsys.readouterr().err
        assert "leave this machine" in said
        assert "not encrypted" in said
    settings(tmp_path, "http://127.0.0.1:3000")
    run(path, "mirror")
    assert "leave" not in capsys.readouterr().err
