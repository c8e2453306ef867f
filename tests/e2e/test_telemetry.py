"""What real gateways leave in a real database: a row a call, under SIGTERM, a lock and kill -9; and a canary's end."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from fleetssd import wiring
from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call
from fleetssd.checkpoints import Checkpoint
from fleetssd.config import load
from fleetssd.operations import canary
from fleetssd.telemetry import Filter
from tests.contract.servers import embedded_ollama
from tests.e2e.test_gateway import ALIAS, BASE, GREEDY, NIGHT, NOW, TURN, gateway, install, settings

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Engine:
    """An engine with a base and a candidate, by digest."""

    url: str
    base: str
    night: str

    @contextmanager
    def fleet(self, folder: Path, more: str) -> Iterator[tuple[SqlStore, Path]]:
        """Yield a database of its own, with both checkpoints on file, and the settings."""
        config = settings(folder, self.url, more=f"[telemetry]\n{more}\n")
        with closing(SqlStore.open(load(config).database)) as store:
            for model, digest in ((BASE, self.base), (NIGHT, self.night)):
                kind = "base" if model == BASE else "merged"
                store.put_checkpoint(Checkpoint(digest, kind, model, self.tag(model), None, "none", 1.0, 1, NOW))  # type: ignore[arg-type]
            yield store, config

    def tag(self, model: str) -> str:
        """Return the server's own digest of a name."""
        models = httpx.get(f"{self.url}/api/tags").json()["models"]
        return next(str(each["digest"]) for each in models if each["name"] == model)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine that has both models; the alias is the base's."""
    folder = tmp_path_factory.mktemp("ollama")
    with embedded_ollama(folder, "0.34.1") as url:
        digests = [install(url, model, file) for model, file in ((BASE, "base.gguf"), (NIGHT, "m1.gguf"))]
        httpx.post(f"{url}/api/copy", json={"source": BASE, "destination": ALIAS})
        yield Engine(url, *digests)


def ask(url: str, task: str, *, stream: bool = False) -> httpx.Response:
    """Ask one question of a task."""
    body = {"model": ALIAS, "messages": TURN, "options": GREEDY, "stream": stream}
    headers = {"x-fleetssd-task": task, "x-fleetssd-agent": "bot-1"}
    return httpx.post(f"{url}/api/chat", json=body, headers=headers, timeout=30)


def on_file(store: SqlStore) -> list[Call]:
    """Return the calls on file, oldest first."""
    return store.calls(Filter(), 10_000)[::-1]


def test_a_row_a_call_is_written_by_sigterm_at_the_latest(engine: Engine, tmp_path: Path) -> None:
    """Each answer's row names who asked, what answered and what it cost; nothing of what was said is on file."""
    with engine.fleet(tmp_path, "flush_ms = 3600000.0") as (store, config):
        with gateway(config) as (url, _):
            replies = [ask(url, "fleet/app#1"), ask(url, "fleet/app#1", stream=True)]
            assert on_file(store) == []
        found = on_file(store)
        assert [call.id for call in found] == [reply.headers["x-fleetssd-request"] for reply in replies]
        for call, reply in zip(found, replies, strict=True):
            last = json.loads(reply.text.splitlines()[-1])
            assert (call.agent, call.task, call.task_source) == ("bot-1", "fleet/app#1", "header")
            assert (call.checkpoint, call.model, call.status, call.fault) == (engine.base, BASE, 200, "")
            assert (call.answer_tokens, call.finish) == (last["eval_count"], last["done_reason"])
            assert call.first_ns is not None
            assert 0 < call.first_ns <= call.total_ns
            assert (call.request, call.reply) == (None, None)


def test_texts_are_kept_where_they_are_switched_on(engine: Engine, tmp_path: Path) -> None:
    """A setting keeps both bodies."""
    with engine.fleet(tmp_path, "texts = true") as (store, config):
        with gateway(config) as (url, _):
            ask(url, "t")
        (call,) = on_file(store)
        assert json.loads(call.request or b"")["messages"] == TURN
        assert json.loads(call.reply or b"")["done"] is True


def test_requests_flow_while_the_database_is_locked(engine: Engine, tmp_path: Path) -> None:
    """Another process may hold the lock: answers come all the same, and their rows when it is over."""
    with (
        engine.fleet(tmp_path, "batch = 2\nflush_ms = 1.0") as (store, config),
        gateway(config) as (url, _),
        closing(sqlite3.connect(tmp_path / "fleetssd.sqlite3", isolation_level=None)) as other,
    ):
        assert ask(url, "t").status_code == 200
        other.execute("BEGIN IMMEDIATE")
        assert [ask(url, "t").status_code for _ in range(5)] == [200] * 5
        other.execute("ROLLBACK")
        deadline = time.monotonic() + 40
        while len(on_file(store)) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_kill_loses_a_batch_at_most(engine: Engine, tmp_path: Path) -> None:
    """After kill -9 no more rows of answers that callers have are missing than one batch."""
    with engine.fleet(tmp_path, "batch = 6\nflush_ms = 3600000.0") as (store, config):
        with gateway(config) as (url, process):
            had = [ask(url, "t").headers["x-fleetssd-request"] for _ in range(20)]
            process.kill()
            process.wait(timeout=20)
        kept = [call.id for call in on_file(store)]
        assert kept == had[: len(kept)]
        assert len(had) - len(kept) <= 6


def test_a_canary_gets_its_tasks_and_loses_them_at_once(engine: Engine, tmp_path: Path) -> None:
    """A task stays with the side that it met; after an abort every task is the incumbent's, and how soon is known."""
    with engine.fleet(tmp_path, "flush_ms = 1.0") as (store, config), gateway(config) as (url, _):
        told = load(config)
        candidate = store.checkpoint(engine.night)
        assert candidate is not None
        with closing(wiring.open_engine(told)) as hand:
            canary.start(store, hand, told, candidate, datetime.now(UTC), share=0.5)
        tasks = [f"fleet/app#{number}" for number in range(12)]
        deadline = time.monotonic() + 20
        while {served(url, task) for task in tasks} != {engine.base, engine.night}:
            assert time.monotonic() < deadline
        met = {task: served(url, task) for task in tasks}
        assert {task: served(url, task) for task in tasks} == met
        with closing(wiring.open_engine(told)) as hand:
            ended = canary.abort(store, hand, told, datetime.now(UTC), "enough")
        mine = next(task for task in tasks if met[task] == engine.night)
        while served(url, mine) == engine.night:
            assert time.monotonic() < deadline
        assert {served(url, task) for task in tasks} == {engine.base}
        time.sleep(0.1)  # the rows of the last calls
        standing = canary.look(store, told, datetime.now(UTC), ended)
        assert standing.candidate.calls > 0
        assert standing.incumbent.calls > 0
        assert standing.lag is not None
        print(f"last call of the candidate {standing.lag:.2f} s after the abort")  # noqa: T201  shown with -s


def served(url: str, task: str) -> str:
    """Return the checkpoint that answers a task."""
    return ask(url, task).headers["x-fleetssd-checkpoint"]
