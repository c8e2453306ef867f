"""Every recorded delivery of two real servers, through the daemon's own route into a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.web.webhook import routes

SAMPLES = Path(__file__).parents[1] / "samples"
DELIVERIES = sorted(
    path for folder in ("gitea", "gitea-1.22") for path in (SAMPLES / folder / "webhooks").glob("*.json")
)


class NoonClock:
    """A clock that stands at noon."""

    def now(self) -> datetime:
        """Return noon."""
        return datetime(2026, 11, 22, 12, tzinfo=UTC)


@contextmanager
def receiver(folder: Path, secret: str) -> Iterator[tuple[TestClient, SqlStore]]:
    """Serve the route with a secret over a new database."""
    (folder / "secret").write_text(secret)
    forge = {"url": "http://f", "token_file": folder / "t", "webhook_secret_file": folder / "secret"}
    given = parse({"data_dir": folder, "forge": forge, "fleet": {"agents": ["a"], "repositories": ["o/r"]}})
    store = SqlStore.open(f"sqlite:///{folder / 's.sqlite3'}")
    try:
        with TestClient(Starlette(routes=routes(given, store, NoonClock(), lambda: None))) as client:
            yield client, store
    finally:
        store.close()


def expected(case: dict[str, Any], body: bytes) -> int:
    """Return the answer that a recording must get: by its method, its signature and what it says."""
    told = {name.lower(): value for name, value in case["headers"]}
    if case["method"] != "POST":
        return 405
    if not told["x-gitea-signature"]:
        return 401
    merged = b'"merged": true' in body or b"%22merged%22%3A+true" in body
    closed = b'"action": "closed"' in body or b"%22action%22%3A+%22closed%22" in body
    return 202 if told["x-gitea-event"] == "pull_request" and closed and merged else 204


@pytest.mark.parametrize("path", DELIVERIES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_a_recorded_delivery_is_answered_as_it_must_be(path: Path, tmp_path: Path) -> None:
    """A merge is 202 and on file, other signed events 204, unsigned ones 401, a GET 405; again changes nothing."""
    case, body = json.loads(path.read_text()), path.with_suffix(".bin").read_bytes()
    wanted = expected(case, body)
    with receiver(tmp_path, case["secret"] or "some secret") as (client, store):
        codes = [client.request(case["method"], "/webhook", content=body, headers=case["headers"]).status_code]
        kept = store.open_deliveries()
        codes.append(client.request(case["method"], "/webhook", content=body, headers=case["headers"]).status_code)
        assert codes == [wanted, 204 if wanted == 202 else wanted]
        assert (len(kept), store.open_deliveries()) == (int(wanted == 202), kept)


@pytest.mark.parametrize("path", DELIVERIES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_a_flipped_byte_leaves_nothing(path: Path, tmp_path: Path) -> None:
    """With any one byte changed, or under another secret, nothing is taken and nothing is stored."""
    case, body = json.loads(path.read_text()), path.with_suffix(".bin").read_bytes()
    with receiver(tmp_path, case["secret"] or "some secret") as (client, store):
        for at in {0, len(body) // 3, len(body) - 1} if body else ():
            flipped = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            assert client.post("/webhook", content=flipped, headers=case["headers"]).status_code == 401
        assert store.open_deliveries() == []


def test_all_recordings_are_there() -> None:
    """27 deliveries of one server and 6 of the other, of which eleven are merges."""
    cases = [(json.loads(path.read_text()), path.with_suffix(".bin").read_bytes()) for path in DELIVERIES]
    assert len(cases) == 27 + 6
    assert sum(expected(*case) == 202 for case in cases) == 11
