"""Rows of calls on their way to a real database: in batches, past a lock, at shutdown, and under kill -9."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call, Gap
from fleetssd.errors import Corrupt, Transient
from fleetssd.ports import Traffic
from fleetssd.telemetry import Filter
from fleetssd.web.recorder import Recorder
from tests.services.test_traffic import NOW, SECOND, call

ROOT = Path(__file__).parents[2]
NEVER = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the file of an empty database."""
    SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}").close()
    return tmp_path / "s.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SqlStore]:
    """Open a database that waits for no lock."""
    made = SqlStore(f"sqlite:///{path}", busy_seconds=0.01)
    yield made
    made.close()


def recorder(store: Traffic, *, batch: int = 10, flush: float = NEVER, queue: int = 100) -> Recorder:
    """Start a recorder over a store."""
    return Recorder(lambda: store, batch=batch, flush_seconds=flush, queue=queue)


def until(true: Callable[[], Any]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def on_file(store: SqlStore) -> list[str]:
    """Return the ids of the calls on file, oldest first."""
    return [each.id for each in reversed(store.calls(Filter(), 10**6))]


def has(store: SqlStore, count: int) -> bool:
    """Say whether so many calls are on file."""
    return len(on_file(store)) == count


class Broken:
    """A database that fails until it is mended."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.kept: list[Call] = []
        self.gaps: list[Gap] = []
        self.tried = threading.Event()

    def add_calls(self, calls: list[Call], gap: Gap | None) -> None:
        """Keep a batch, or fail."""
        self.tried.set()
        if self.error is not None:
            raise self.error
        self.kept += calls
        self.gaps += [gap] if gap else []

    def canary(self) -> None:
        """There is none."""


def test_half_a_batch_is_written_at_once(store: SqlStore) -> None:
    """A commit is due at half a batch, however long the time between two flushes is."""
    sink = recorder(store)
    for n in range(5):
        sink.put(call(f"c{n}", n))
    until(lambda: len(on_file(store)) == 5)
    sink.close()


def test_a_single_row_is_written_in_time(store: SqlStore) -> None:
    """A row that nobody joins is written after the flush time, and the next one too."""
    sink = recorder(store, flush=0.01)
    for n in range(2):
        sink.put(call(f"c{n}", n))
        until(partial(has, store, n + 1))
    sink.close()


def test_closing_writes_what_waits(store: SqlStore) -> None:
    """A shutdown loses nothing: what waits is written first, more than one batch of it too."""
    sink = recorder(store, batch=1000, queue=1000)
    for n in range(25):
        sink.put(call(f"c{n:02}", n))
    assert sink.close() == 0
    assert on_file(store) == [f"c{n:02}" for n in range(25)]


def test_a_locked_database_holds_nobody_up(path: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the lock rows wait; one line says so, and when it is over all are on file."""
    monkeypatch.setattr("fleetssd.web.recorder.PAUSE", (0.01, 0.01))
    with capture_logs() as logs, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sink = recorder(store, flush=0.01)
        for n in range(30):
            sink.put(call(f"c{n:02}", n))
        until(lambda: sink.problem)
        assert sink.waiting == 30
        other.execute("ROLLBACK")
        until(lambda: len(on_file(store)) == 30)
        sink.close()
    assert [line["event"] for line in logs] == ["calls_not_written", "calls_written_again"]
    assert store.gaps() == []


def test_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue drops the newest; the gap says how many and when, and stands beside the rows that follow."""
    monkeypatch.setattr("fleetssd.web.recorder.PAUSE", (0.01, 0.01))
    broken = Broken(Transient("locked"))
    sink = recorder(broken, batch=4, queue=6)  # type: ignore[arg-type]
    for n in range(10):
        sink.put(call(f"c{n}", n))
    assert (sink.waiting, sink.lost) == (6, 4)
    broken.error = None
    until(lambda: not sink.waiting)
    assert [each.id for each in broken.kept] == [f"c{n}" for n in range(6)]
    assert broken.gaps == [Gap(4, NOW + 6 * SECOND, NOW + 9 * SECOND)]
    assert sink.close() == 0


def test_a_batch_that_is_refused_holds_up_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the database will never take become a gap, and the next ones are written."""
    monkeypatch.setattr("fleetssd.web.recorder.PAUSE", (0.01, 0.01))
    broken = Broken(Corrupt("no"))
    sink = recorder(broken, batch=2)  # type: ignore[arg-type]
    sink.put(call("bad"))
    until(lambda: sink.lost)
    broken.error = None
    sink.put(call("good", 1))
    until(lambda: broken.kept)
    assert [each.id for each in broken.kept] == ["good"]
    assert broken.gaps == [Gap(1, NOW, NOW)]
    sink.close()


def test_closing_does_not_wait_for_a_dead_database() -> None:
    """What cannot be written at the end is counted in the log, and the process leaves."""
    broken = Broken(ValueError("not one of ours"))
    sink = recorder(broken)  # type: ignore[arg-type]
    sink.put(call("c"))
    with capture_logs() as logs:
        assert sink.close() == 1
    assert [line["event"] for line in logs] == ["calls_not_written_by_a_fault", "calls_not_written", "calls_lost"]


def test_closing_writes_the_gap_alone() -> None:
    """What was dropped last is on file as a gap, though no row comes after it."""
    broken = Broken(Corrupt("no"))
    sink = recorder(broken, batch=2)  # type: ignore[arg-type]
    sink.put(call("bad"))
    until(lambda: sink.lost)
    broken.error = None
    assert sink.close() == 0
    assert (broken.kept, broken.gaps) == ([], [Gap(1, NOW, NOW)])


def test_kill_loses_no_more_than_a_batch(path: Path, store: SqlStore) -> None:
    """Of the calls that had ended before kill -9 no more than the configured batch are missing."""
    code = """
        import sys, time
        from fleetssd.adapters.store import SqlStore
        from fleetssd.web.recorder import Recorder
        from tests.services.test_traffic import call
        store = SqlStore(sys.argv[1])
        sink = Recorder(lambda: store, batch=20, flush_seconds=3600, queue=10**6)
        for n in range(10**6):
            sink.put(call(f"c{n:07}", n / 1000))
            print(n + 1, flush=True)
            time.sleep(0.002)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), f"sqlite:///{path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 133:
                child.kill()
        ended = max(int(rest) for rest in ["133", *child.stdout.read().split()])
    found = on_file(store)
    assert found == [f"c{n:07}" for n in range(len(found))]
    assert ended - len(found) <= 20
