"""The daemon's page, health and metrics over a real database."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from fleetssd.adapters.store import SqlStore
from fleetssd.canary import Canary
from fleetssd.checkpoints import Checkpoint, Swap, VerdictRow
from fleetssd.config import parse
from fleetssd.errors import Transient
from fleetssd.gitea import PullKey, PullRow
from fleetssd.operations.report import read_report
from fleetssd.records import refused_row
from fleetssd.web.app import build_app

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ONE = "b" * 64, "c" * 64
SETTINGS = parse(
    {
        "data_dir": "/unused",
        "forge": {"url": "http://forge:3000", "token_file": "/unused"},
        "fleet": {"agents": ["a"], "repositories": ["o/r"]},
    }
)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Open an empty database."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def client(store: SqlStore) -> Any:
    """Open the application over the database."""
    with TestClient(build_app(lambda: read_report(SETTINGS, store, NOW))) as made:
        yield made


def live(store: SqlStore, *, reason: str = "pass@1 moved") -> None:
    """Let one night be decided and flipped."""
    for digest, kind, night in ((BASE, "base", None), (ONE, "merged", 1)):
        kind_: Any = kind
        store.put_checkpoint(Checkpoint(digest, kind_, f"m:{kind}", "s", night, "none", 1.0, 1, NOW))
    store.open_night({"night": 1, "incumbent": BASE}, "ssd", NOW - timedelta(hours=4))
    score = {"point": 0.364, "low": 0.3, "high": 0.4}
    arms = [{"name": "candidate", "pass_1": score, "pass_k": score}]
    store.decide(VerdictRow(1, "promote", reason, ONE, {"arms": arms, "k": 8}, NOW), [], NOW)
    swap = store.begin_swap(Swap(0, "flip", "dawn", BASE, ONE, "m:merged", 1, "promoted"), NOW)
    store.finish_swap(swap.id, NOW, {})
    store.set_cursors(["http://forge:3000"], NOW)


def metrics(client: TestClient) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every metric by name and label values."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_page_of_an_empty_store(client: TestClient) -> None:
    """The page stands before anything has happened."""
    reply = client.get("/")
    assert reply.status_code == 200
    assert "No night yet." in reply.text
    assert "No swap yet." in reply.text


def test_page_shows_what_serves(client: TestClient, store: SqlStore) -> None:
    """The page names the served checkpoint, the verdict, the score and the swap."""
    live(store)
    text = client.get("/").text
    assert "cccccccccccc" in text
    assert "36.4" in text
    assert re.search(r"promote.*flip", text, re.DOTALL)


def test_page_tells_what_a_refusal_means(client: TestClient, store: SqlStore) -> None:
    """A code has its sentence beside it."""
    row = PullRow(PullKey("http://f", 1, 1), "o/r", "Work", "", "agent-1", True, (), NOW, "t")
    store.put_pulls([(row.key, "t", refused_row(row, ("near_duplicate",)))], NOW)
    text = client.get("/").text
    assert "near_duplicate" in text
    assert "An earlier record asks the same" in text


def test_page_shows_a_canary(store: SqlStore) -> None:
    """Who looks at the page sees that a share of the fleet meets another checkpoint, and until when."""
    live(store)
    tried = Canary(ONE, "m:<merged>", "split", 0.1, NOW, NOW + timedelta(hours=4))
    with TestClient(build_app(lambda: read_report(SETTINGS, store, NOW, tried))) as shown:
        text = shown.get("/").text
    assert "canary: m:&lt;merged&gt; (split, 10.0 % of tasks) until 2026-11-22 10:00" in text


def test_page_escapes_what_others_wrote(client: TestClient, store: SqlStore) -> None:
    """Text from outside cannot become markup."""
    live(store, reason="<script>alert(1)</script>")
    text = client.get("/").text
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    """The page loads its own style and nothing else, and says so to the browser."""
    reply = client.get("/")
    assert re.findall(r"(?:src|href)=\"([^\"]+)\"", reply.text) == ["style.css"]
    assert "http" not in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    style = client.get("/style.css")
    assert style.headers["content-type"].startswith("text/css")
    assert "prefers-color-scheme: dark" in style.text


def test_health_tells_what_serves(client: TestClient, store: SqlStore) -> None:
    """A healthy daemon answers 200 with the served digest and how far it has polled."""
    assert client.get("/healthz").json()["served"] is None
    live(store)
    reply = client.get("/healthz")
    assert reply.status_code == 200
    assert reply.json() == {"status": "ok", "now": NOW.isoformat(), "served": ONE, "cursor": NOW.isoformat()}


@pytest.mark.parametrize("path", ["/healthz", "/", "/metrics"])
def test_database_away_is_503(path: str) -> None:
    """Where the database cannot be read, every page says so with 503, and the daemon lives."""

    def away() -> Any:
        raise Transient("database: database is locked")

    with TestClient(build_app(away)) as client:
        reply = client.get(path)
    assert reply.status_code == 503
    assert reply.json() == {"status": "unavailable", "error": "database: database is locked"}


def test_metrics_count_what_the_store_holds(client: TestClient, store: SqlStore) -> None:
    """The metrics are those of the report, at every scrape."""
    before = metrics(client)
    assert before[("fleetssd_records", ("train",))] == 0
    assert ("fleetssd_poll_cursor_timestamp_seconds", ()) not in before
    live(store)
    after = metrics(client)
    assert after[("fleetssd_served", (ONE, "merged", "m:merged"))] == 1
    assert after[("fleetssd_nights", ("promote",))] == 1
    assert after[("fleetssd_swaps", ("flip",))] == 1
    assert after[("fleetssd_pass_1", ("candidate",))] == 0.364
    assert after[("fleetssd_poll_cursor_timestamp_seconds", ())] == NOW.timestamp()
    assert after[("fleetssd_pending_promotion", ())] == 0


def test_other_routes_are_mounted(store: SqlStore) -> None:
    """What the caller brings along stands beside the page."""

    def pong(_: Request) -> PlainTextResponse:
        return PlainTextResponse("pong")

    with TestClient(build_app(lambda: read_report(SETTINGS, store, NOW), [Route("/ping", pong)])) as client:
        assert client.get("/ping").text == "pong"
        assert client.get("/absent").status_code == 404
        assert client.post("/").status_code == 405
