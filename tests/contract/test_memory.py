"""Telling a memory server of what was merged: the real adapter, outbox and verb against the stand-in over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd import facts
from fleetssd.adapters.retaindb import RetainDb, read_key
from fleetssd.adapters.store import SqlStore
from fleetssd.config import Mirror
from fleetssd.embedded.retaindb import Faults, Memories, running
from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.gitea import PullKey
from fleetssd.operations.remember import MirrorSummary, remember
from fleetssd.records import Record

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
FORGE = "https://gitea.example"


@dataclass
class World:
    """A database, a stand-in and the adapter between them."""

    store: SqlStore
    memories: Memories
    memory: RetainDb

    def merged(self, *numbers: int, state: str = "train") -> None:
        """File a record for each number."""
        for number in numbers:
            self.store.put_pulls([(PullKey(FORGE, 7, number), "t", record(number, state=state))], NOW)

    def round(self, at: datetime = NOW) -> MirrorSummary:
        """Run one round."""
        return remember(self.store, self.memory, "fleetssd", at)

    def texts(self) -> list[str]:
        """Return what the server holds."""
        return sorted(row["content"] for row in self.memories.active())


def record(number: int, **changes: object) -> Record:
    """Return a record of pull request `number`."""
    made = Record(
        id=f"r{number}", instance=FORGE, repository_id=7, repository="fleet/app", pull=number, state="train",
        reasons=(), author="agent-1", merger="alice", base_commit="b" * 40, head_commit="h" * 40,
        merge_commit=f"{number:040x}", issues=(f"fleet/app#{number + 1}",), title="SECRET TITLE",
        prompt="SECRET PROMPT", solution="SECRET CODE", solution_path="x.py", tests=(), labels=(),
        diff_sha256="d" * 64, changed_paths=("x.py",), merged_at=NOW + timedelta(minutes=number),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Start a server and open an empty database."""
    memories = Memories()
    store = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    with running(memories) as url:
        memory = RetainDb(Mirror(enabled=True, url=url, timeout_seconds=1.0))
        yield World(store, memories, memory)
        memory.close()
    store.close()


def test_a_merge_is_told_once_and_read_back(world: World) -> None:
    """Each record is one fact under its own key; a second round sends nothing at all."""
    world.merged(1, 2, 13)
    world.merged(4, state="held_out")
    world.merged(5, state="refused")
    assert world.round() == MirrorSummary(written=4)
    assert world.texts() == sorted(facts.sentence(record(number)) for number in (1, 2, 4, 13))
    assert (world.round(), world.memories.writes) == (MirrorSummary(), 4)


def test_a_fact_holds_no_text_and_no_code(world: World) -> None:
    """Names, numbers and the commit leave; titles, prompts, solutions and the side of the split stay."""
    world.merged(1)
    world.merged(2, state="held_out")
    world.round()
    assert "SECRET" not in repr(world.memories.rows)
    assert "held" not in repr(world.memories.rows)


def test_a_server_that_is_down_loses_nothing(world: World) -> None:
    """While it fails everything stays in the outbox and waits longer each time; then all of it is told, once."""
    world.merged(*range(1, 11))
    world.memories.faults = Faults(status=503, times=4)
    assert world.round() == MirrorSummary(late=3)
    assert world.memories.writes == 3
    assert world.round(NOW + HOUR).written == 9
    assert world.round(NOW + 2 * HOUR).written == 1
    assert len(world.texts()) == 10


def test_nobody_listening_is_a_late_fact(tmp_path: Path) -> None:
    """A refused connection is no error of the daemon: the fact waits."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    store, memory = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}"), RetainDb(Mirror(url=url))
    store.put_pulls([(PullKey(FORGE, 7, 1), "t", record(1))], NOW)
    assert remember(store, memory, "p", NOW) == MirrorSummary(late=1)
    (entry,) = store.facts("pending")
    assert (entry.attempts, entry.due_at > NOW) == (1, True)
    memory.close()
    store.close()


def test_a_slow_server_is_given_up_and_tried_again(world: World) -> None:
    """An answer that takes longer than the limit is a late fact; its write, if it happened, happens once."""
    world.merged(1)
    slow = RetainDb(Mirror(url=world.memory.root, timeout_seconds=0.1))
    world.memories.faults = Faults(seconds=0.5)
    assert remember(world.store, slow, "fleetssd", NOW) == MirrorSummary(late=1)
    slow.close()
    world.memories.faults = Faults()
    assert world.round(NOW + HOUR) == MirrorSummary(written=1)
    assert len(world.texts()) == 1


def test_an_answer_that_drips_is_cut_off() -> None:
    """A body that never ends is as slow as none: the time limit is for the whole answer."""
    import threading  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                stop = threading.Event()
                try:
                    while not stop.wait(0.05):
                        connection.sendall(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        memory = RetainDb(Mirror(url=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=0.3))
        with pytest.raises(Transient):
            memory.read("x")
        memory.close()
        thread.join(10)


def test_a_lost_answer_is_not_a_second_memory(world: World) -> None:
    """The server wrote and then failed: the same write under the same key is replayed."""
    world.merged(1)
    world.memories.faults = Faults(status=504, times=1, lose=True)
    assert world.round() == MirrorSummary(late=1)
    assert world.round(NOW + HOUR) == MirrorSummary(written=1)
    assert (len(world.texts()), world.memories.writes) == (1, 2)


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_poison_row_holds_up_nobody(world: World, status: int) -> None:
    """What the server will never take is marked so, the others are told, and it is not sent again."""
    world.merged(*range(1, 6))
    world.memories.faults = Faults(poison=facts.sentence(record(3)), poison_status=status)
    assert world.round() == MirrorSummary(written=4, refused=1)
    (entry,) = world.store.facts("refused")
    assert (entry.record, str(status) in entry.error) == ("r3", True)
    assert (world.round(NOW + HOUR), world.memories.writes) == (MirrorSummary(), 5)
    world.memories.faults = Faults()
    assert world.store.retry_facts(NOW) == 1
    assert world.round() == MirrorSummary(written=1)


def test_a_row_that_always_fails_waits_behind_the_others(world: World) -> None:
    """A fact that the server trips over with a 500 each time delays no other."""
    world.merged(*range(1, 6))
    world.memories.faults = Faults(poison=facts.sentence(record(1)), poison_status=500)
    assert world.round() == MirrorSummary(written=4, late=1)
    assert world.store.fact_counts() == {"pending": 1, "written": 4}


def test_a_fact_merged_into_another_is_written_apart(world: World) -> None:
    """A server that finds two facts alike keeps the old text; ours is then written in a scope of its own."""
    world.merged(1)
    other = f"{facts.sentence(record(1))[:-1]} indeed."
    body = facts.body(record(1), "fleetssd", "PROJECT") | {"content": other}
    assert world.memory.write(body, "someone else's").outcome == "created"
    assert world.round() == MirrorSummary(written=1)
    assert world.texts() == sorted([other, facts.sentence(record(1))])
    (entry,) = world.store.facts("written")
    assert entry.scope == "TASK"


def test_what_does_not_read_back_is_not_taken_for_written(world: World) -> None:
    """A 201 whose memory cannot be read is tried again until it can."""
    world.merged(1)
    world.memories.faults = Faults(blind=True)
    assert world.round() == MirrorSummary(late=1)
    world.memories.faults = Faults()
    assert world.round(NOW + HOUR) == MirrorSummary(written=1)
    assert len(world.texts()) == 1


def test_a_record_refused_later_is_taken_back(world: World) -> None:
    """A merge that was reverted is deleted from the memory; one that was never told is never told."""
    world.merged(1)
    world.round()
    world.merged(2)
    world.store.note_facts(NOW)
    for number in (1, 2):
        world.store.replace_record(record(number, state="refused", reasons=("reverted_later",)), NOW)
    assert world.round() == MirrorSummary(withdrawn=1)
    assert (world.texts(), world.memories.writes) == ([], 1)
    assert world.store.fact_counts() == {"withdrawn": 2}


def test_a_wrong_key_stops_the_round_and_marks_nothing(world: World) -> None:
    """401 is a person's to mend: the facts stay as they were."""
    world.merged(1)
    world.memories.key = "the key"
    with pytest.raises(Misconfigured) as refused:
        world.round()
    assert "mirror.key_file" in refused.value.hint
    assert [entry.attempts for entry in world.store.facts("pending")] == [0]


def test_the_key_is_shown_to_the_server_alone(world: World, tmp_path: Path) -> None:
    """The key comes from its file; an empty or odd one is a misconfiguration."""
    world.merged(1)
    world.memories.key = "the-key"
    (tmp_path / "key").write_text("the-key\n")
    memory = RetainDb(Mirror(url=world.memory.root, key_file=tmp_path / "key"))
    assert remember(world.store, memory, "fleetssd", NOW) == MirrorSummary(written=1)
    memory.close()
    (tmp_path / "key").write_text(" ")
    for name in ("key", "missing"):
        with pytest.raises(Misconfigured):
            read_key(tmp_path / name)


def test_a_round_ends_when_the_daemon_leaves(world: World) -> None:
    """Nothing is begun after the daemon was told to stop."""
    world.merged(1, 2)
    assert remember(world.store, world.memory, "p", NOW, lambda: False) == MirrorSummary()
    assert world.memories.writes == 0


def test_missing_memories_are_none(world: World) -> None:
    """Reading what is not there is None; deleting it is no error; nonsense is Rejected."""
    assert world.memory.read("nothing") is None
    world.memory.forget("nothing")
    with pytest.raises(Rejected):
        world.memory.write({"content": ""}, "k")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["down", "lost", "well", "slow", "new"]), max_size=12))
def test_any_order_of_failures_ends_with_each_fact_once(world: World, weather: list[str]) -> None:
    """Whatever the server's weather, once it is well every merge is there exactly once."""
    at = NOW + HOUR * 10 * world.memories.writes
    number = 1_000 + 10 * len(world.memories.rows) + world.memories.writes
    for day, sky in enumerate(weather):
        if sky == "new":
            number += 1
            world.merged(number)
        failing = {"down": Faults(503, 2), "lost": Faults(503, 1, lose=True), "slow": Faults(seconds=0.01)}
        world.memories.faults = failing.get(sky, Faults())
        world.round(at + day * HOUR)
    world.memories.faults = Faults()
    for day in range(3):
        world.round(at + (20 + day) * HOUR)
    told = [entry.record for entry in world.store.facts("written")]
    assert sorted(told) == sorted(each.id for each in world.store.records())
    assert len(world.texts()) == len(set(world.texts())) == len(told)


def test_only_this_machine_is_not_warned_of() -> None:
    """Loopback is this machine; every name and every other address leaves it, unencrypted ones more so."""
    stays = ("http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000", "http://db.localhost")
    leaves = ("https://api.retaindb.com", "http://192.168.1.2", "http://localhost.evil.test", "http://[fe80::1]")
    assert [facts.leaves_machine(url) for url in (*stays, *leaves)] == [False] * 4 + [True] * 4
    assert "not encrypted" in facts.warning("http://h")
    assert "not encrypted" not in facts.warning("https://h")
