"""What only a real database can promise: migrations, locks across processes, death at any instant, damage."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from fleetssd.adapters.store import SqlStore, schema
from fleetssd.adapters.store.engine import Database
from fleetssd.adapters.store.tables import Row
from fleetssd.checkpoints import Answer
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Transient
from fleetssd.gitea import Delivery

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def url(path: Path) -> str:
    """Return the address of a SQLite file."""
    return f"sqlite:///{path}"


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process over this code; it sees `sys.argv`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def facts(found: object) -> list[str]:
    """Return what an inspection found, without the order that it came in."""
    return sorted(map(repr, found)) if isinstance(found, list) else [repr(found)]


# --- migrations


def test_migrated_schema_is_the_one_of_the_tables(tmp_path: Path) -> None:
    """What the revisions build is what the tables say, types and indexes included."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
    store.close()


def test_foreign_keys_and_uniques_are_migrated(tmp_path: Path) -> None:
    """The comparison above is blind to some constraints, so those are compared one by one with freshly made tables."""
    migrated, made = SqlStore.open(url(tmp_path / "a.sqlite3")), Database(url(tmp_path / "b.sqlite3"))
    Row.metadata.create_all(made.engine)
    a, b = inspect(migrated.engine), inspect(made.engine)
    looks = ("get_pk_constraint", "get_foreign_keys", "get_unique_constraints", "get_indexes", "get_columns")
    for name in Row.metadata.tables:
        for look in looks:
            assert facts(getattr(a, look)(name)) == facts(getattr(b, look)(name)), (name, look)
    migrated.close()
    made.close()


def test_head_is_the_newest_revision() -> None:
    """The revision that skips Alembic is the last one there is."""
    scripts = Path(schema.__file__).parent / "migrations"
    assert ScriptDirectory(str(scripts)).get_heads() == [schema.HEAD]


def test_migrating_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Opening a new database says nothing to an operator."""
    with caplog.at_level(logging.WARNING):
        SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_second_open_loads_no_migrations(tmp_path: Path) -> None:
    """An up-to-date database costs no Alembic: the idle daemon stays small."""
    SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    process = start(
        """
        import sys
        from fleetssd.adapters.store import SqlStore
        SqlStore.open(sys.argv[1])
        print("alembic" in sys.modules)
        """,
        url(tmp_path / "s.sqlite3"),
    )
    assert process.communicate(timeout=60)[0].strip() == "False"


def test_first_opens_at_once_agree(tmp_path: Path) -> None:
    """Three processes that start on no database at all end with one schema and no error."""
    code = """
        import sys
        from fleetssd.adapters.store import SqlStore
        print("ready", flush=True)
        sys.stdin.readline()
        print(len(SqlStore.open(sys.argv[1]).nights()))
    """
    racers = [start(code, url(tmp_path / "new" / "s.sqlite3")) for _ in range(3)]
    assert [line(racer) for racer in racers] == ["ready"] * 3
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [racer.communicate(timeout=60)[0].strip() for racer in racers] == ["0"] * 3


def test_newer_database_is_left_alone(tmp_path: Path) -> None:
    """A database of a later version is refused, not changed."""
    SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    with sqlite3.connect(tmp_path / "s.sqlite3") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(Misconfigured, match=r"9999.*newer"):
        SqlStore.open(url(tmp_path / "s.sqlite3"))


# --- several processes


def test_connections_keep_their_promises(tmp_path: Path) -> None:
    """Readers do not block the writer, a commit survives a power cut, references hold."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    with store.engine.connect() as connection:
        read = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert read == ["wal", 2, 1]
    store.close()


def test_one_of_many_processes_gets_a_lease(tmp_path: Path) -> None:
    """Of three processes that claim one lease at the same moment, one gets it."""
    SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    code = """
        import sys
        from datetime import UTC, datetime, timedelta
        from fleetssd.adapters.store import SqlStore
        store = SqlStore.open(sys.argv[1])
        now = datetime(2026, 11, 22, tzinfo=UTC)
        print("ready", flush=True)
        for name in sys.stdin:
            print(store.claim(name.strip(), sys.argv[2], now + timedelta(hours=1), now), flush=True)
    """
    racers = [start(code, url(tmp_path / "s.sqlite3"), number) for number in range(3)]
    assert [line(racer) for racer in racers] == ["ready"] * 3
    for number in range(10):
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(f"lease {number}\n")
            racer.stdin.flush()
        assert sorted(line(racer) for racer in racers) == ["False", "False", "True"]
    for racer in racers:
        racer.communicate(timeout=60)


def test_kill_leaves_whole_transactions(tmp_path: Path) -> None:
    """A process killed while it writes leaves a row of chunks, each whole, in order, and the next process goes on."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    store.open_night({"night": 1}, "ssd", NOW)
    writer = start(
        """
        import sys
        from itertools import count
        from fleetssd.adapters.store import SqlStore
        from fleetssd.checkpoints import Answer
        store = SqlStore.open(sys.argv[1])
        for chunk in count():
            rows = [Answer(1, "base", f"{chunk:06}", i, 1, "x" * 2000, "stop", True, False, "") for i in range(50)]
            store.add_answers(rows)
            print(chunk, flush=True)
        """,
        url(tmp_path / "s.sqlite3"),
    )
    seen = [line(writer) for _ in range(5)]
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.communicate(timeout=60)[0].split()
    reported = len(seen) + len(rest)
    rows = store.answers(1)
    chunks = sorted({row.problem for row in rows})
    assert chunks == [f"{number:06}" for number in range(len(chunks))]
    assert len(rows) == 50 * len(chunks)
    assert reported <= len(chunks) <= reported + 1
    store.add_answers([Answer(1, "candidate", "p", 0, 1, "", "stop", True, False, "")])
    assert len(store.answers(1, "candidate")) == 1
    store.close()


def test_kill_inside_a_transaction_leaves_nothing(tmp_path: Path) -> None:
    """A verdict whose process dies before the commit never was, and its lock dies with it."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    store.open_night({"night": 1}, "ssd", NOW)
    writer = start(
        """
        import sys
        from datetime import UTC, datetime
        from fleetssd.adapters.store import SqlStore, nights
        from fleetssd.checkpoints import VerdictRow
        now = datetime(2026, 11, 22, tzinfo=UTC)
        def hang(session, row):
            print("verdict written", flush=True)
            sys.stdin.readline()
        nights._close_stage = hang
        SqlStore.open(sys.argv[1]).decide(VerdictRow(1, "promote", "", "a", {}, now), [], now)
        """,
        url(tmp_path / "s.sqlite3"),
    )
    assert line(writer) == "verdict written"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=60)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.verdict) == ("running", None)
    assert store.claim("night", "next", NOW + timedelta(hours=1), NOW)
    store.close()


# --- damage


def test_locked_database_is_worth_another_try(tmp_path: Path) -> None:
    """A writer that waits for too long is told to come again; a reader does not wait at all."""
    SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    store = SqlStore(url(tmp_path / "s.sqlite3"), busy_seconds=0.05)
    holder = sqlite3.connect(tmp_path / "s.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match="locked") as caught:
        store.set_cursors(["forge"], NOW)
    assert caught.value.exit_code == 75
    assert store.cursor("forge") is None
    holder.close()
    store.set_cursors(["forge"], NOW)
    store.close()


def hint_of(error: type[FleetError], path: Path) -> str:
    """Return the hint that opening this file ends with."""
    with pytest.raises(error) as caught:
        SqlStore.open(url(path))
    return caught.value.hint


def test_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    """Bytes of something else are named as such."""
    (tmp_path / "s.sqlite3").write_bytes(b"not a database" * 100)
    assert "backup" in hint_of(Corrupt, tmp_path / "s.sqlite3")


def test_damaged_page_is_corrupt(tmp_path: Path) -> None:
    """A database whose pages were overwritten is not read on."""
    path = tmp_path / "s.sqlite3"
    store = SqlStore.open(url(path))
    for number in range(50):
        store.add_deliveries([Delivery(str(number), "e" * 500, "r", 1, None, str(number))], NOW)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    damaged = SqlStore(url(path))
    with pytest.raises(Corrupt, match="malformed"):
        damaged.open_deliveries()
    damaged.close()


def test_place_that_is_not_ours_is_misconfigured(tmp_path: Path) -> None:
    """A folder that cannot be made, or a folder in the file's place, says what must be writable."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.sqlite3").mkdir()
    assert "data_dir" in hint_of(Misconfigured, tmp_path / "file" / "s.sqlite3")
    assert "writable" in hint_of(Misconfigured, tmp_path / "folder.sqlite3")


def test_read_only_database_is_misconfigured(tmp_path: Path) -> None:
    """A database that may only be read is found at the first write."""
    SqlStore.open(url(tmp_path / "s.sqlite3")).close()
    store = SqlStore(f"sqlite:///file:{tmp_path / 's.sqlite3'}?mode=ro&uri=true")
    with pytest.raises(Misconfigured, match="readonly"):
        store.set_cursors(["forge"], NOW)
    store.close()
    assert not Path("file:").exists()


def test_full_disk_is_misconfigured(tmp_path: Path) -> None:
    """A database that cannot grow says so, and what was there stays readable."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    store.open_night({"night": 1}, "ssd", NOW)
    store.close()
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    big = (Answer(1, "base", f"p{i}", 0, 1, "x" * 10_000, "stop", True, False, "") for i in range(100))
    with pytest.raises(Misconfigured, match="full") as caught:
        store.add_answers(big)
    assert "Free space" in caught.value.hint
    assert store.answers(1) == []
    store.close()


def test_database_without_a_schema_says_what_to_start(tmp_path: Path) -> None:
    """A store that was not migrated is not a crash."""
    store = SqlStore(url(tmp_path / "s.sqlite3"))
    with pytest.raises(Misconfigured, match="no such table"):
        store.nights()
    store.close()


@pytest.mark.parametrize("address", ["mysql://h/d", "nonsense", "oracle+what://h"])
def test_address_that_is_not_supported_is_misconfigured(address: str) -> None:
    """A database that we cannot use is refused by its name."""
    with pytest.raises(Misconfigured, match="database_url"):
        SqlStore(address)


def test_error_shows_no_values(tmp_path: Path) -> None:
    """A failing statement repeats no prompt and no completion."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    with pytest.raises(Corrupt) as caught:
        store.add_answers([Answer(9, "base", "p", 0, 1, "the secret", "stop", True, False, "")])
    assert caught.value.__cause__ is not None
    assert "the secret" not in f"{caught.value} {caught.value.__cause__}"
    store.close()


def test_naive_time_is_a_bug(tmp_path: Path) -> None:
    """A moment without a zone does not reach the database."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    with pytest.raises(Exception, match="without a zone"):
        store.set_cursors(["forge"], NOW.replace(tzinfo=None))
    store.close()


def test_edited_payload_is_corrupt(tmp_path: Path) -> None:
    """A row that was changed by hand into something else is named, field by field."""
    store = SqlStore.open(url(tmp_path / "s.sqlite3"))
    store.add_deliveries([Delivery("one", "e", "r", 1, None, "sha")], NOW)
    with sqlite3.connect(tmp_path / "s.sqlite3") as raw:
        raw.execute("UPDATE deliveries SET payload = json_remove(payload, '$.event')")
    raw.close()
    with pytest.raises(Corrupt, match=r"delivery one .*event"):
        store.open_deliveries()
    store.close()
