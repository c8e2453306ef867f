"""The webhook endpoint, over a real database."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fleetssd.adapters.store import SqlStore
from fleetssd.config import Settings, parse
from fleetssd.errors import Misconfigured, Transient
from fleetssd.gitea import Delivery
from fleetssd.web.webhook import read_secret, routes

SECRET = "the hook's secret"
MERGE = {
    "action": "closed",
    "number": 7,
    "pull_request": {"merged": True},
    "repository": {"id": 2, "full_name": "fleet/conveyor"},
}
BODY = json.dumps(MERGE).encode()


class NoonClock:
    """A clock that stands at noon."""

    def now(self) -> datetime:
        """Return noon."""
        return datetime(2026, 11, 22, 12, tzinfo=UTC)


class FullDisk(SqlStore):
    """A database that cannot take a delivery."""

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Fail."""
        raise Transient("the disk is full")


class Broken(SqlStore):
    """A database that breaks once, in a way that nobody planned for."""

    failures = 1

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Fail the first time."""
        if self.failures:
            self.failures -= 1
            raise RuntimeError("unforeseen")
        return super().add_deliveries(deliveries, now)


def settings(folder: Path, *, secret: str | None = SECRET) -> Settings:
    """Make settings with a small body limit and, unless None, a secret."""
    path = folder / "secret"
    if secret is not None:
        path.write_text(secret + "\n")
    forge = {"url": "http://forge", "token_file": folder / "token"}
    return parse(
        {
            "data_dir": folder,
            "forge": forge if secret is None else {**forge, "webhook_secret_file": path},
            "fleet": {"agents": ["a"], "repositories": ["o/r"]},
            "web": {"max_body_bytes": 2000},
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty database."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def hints() -> list[None]:
    """Collect the hints."""
    return []


@pytest.fixture
def client(tmp_path: Path, store: SqlStore, hints: list[None]) -> Iterator[TestClient]:
    """Serve the route."""
    app = Starlette(routes=routes(settings(tmp_path), store, NoonClock(), lambda: hints.append(None)))
    with TestClient(app, raise_server_exceptions=True) as made:
        yield made


def headers(body: bytes = BODY, **more: str) -> dict[str, str]:
    """Return the headers of a signed delivery."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    fixed = {"Content-Type": "application/json", "X-Gitea-Event": "pull_request", "X-Gitea-Delivery": "uuid-1"}
    return {**fixed, "X-Gitea-Signature": signature, **more}


def test_a_merge_is_kept_and_polled_for(client: TestClient, store: SqlStore, hints: list[None]) -> None:
    """A signed merge is 202, lies in the database before the answer, and asks for a poll."""
    assert client.post("/webhook", content=BODY, headers=headers()).status_code == 202
    assert [(d.id, d.repository, d.pull) for d in store.open_deliveries()] == [("uuid-1", "fleet/conveyor", 7)]
    assert len(hints) == 1


def test_a_repetition_is_kept_once(client: TestClient, store: SqlStore, hints: list[None]) -> None:
    """The same bytes under a new id are 204 and ask for nothing."""
    client.post("/webhook", content=BODY, headers=headers())
    again = client.post("/webhook", content=BODY, headers=headers() | {"X-Gitea-Delivery": "uuid-2"})
    assert (again.status_code, len(store.open_deliveries()), len(hints)) == (204, 1, 1)


def test_another_event_is_taken_and_forgotten(client: TestClient, store: SqlStore, hints: list[None]) -> None:
    """A signed event that names no merge is 204 and leaves nothing."""
    answer = client.post("/webhook", content=BODY, headers=headers() | {"X-Gitea-Event": "push"})
    assert (answer.status_code, store.open_deliveries(), hints) == (204, [], [])


@pytest.mark.parametrize("signature", ["", "0" * 64, None])
def test_an_unsigned_delivery_is_refused(client: TestClient, store: SqlStore, signature: str | None) -> None:
    """A missing, empty or wrong signature is 401 and leaves nothing."""
    sent = headers()
    del sent["X-Gitea-Signature"]
    answer = client.post(
        "/webhook", content=BODY, headers=sent if signature is None else sent | {"X-Gitea-Signature": signature}
    )
    assert (answer.status_code, store.open_deliveries()) == (401, [])


@pytest.mark.parametrize("body", [b"", b"[]", b"not json"])
def test_signed_nonsense_is_a_bad_request(client: TestClient, store: SqlStore, body: bytes) -> None:
    """What is signed but no JSON object is 400 and leaves nothing."""
    assert client.post("/webhook", content=body, headers=headers(body)).status_code == 400
    assert store.open_deliveries() == []


def test_a_large_body_is_refused(client: TestClient) -> None:
    """A body over the limit is 413, whether its length is declared or found out."""
    body = b"x" * 2001

    def parts() -> Iterator[bytes]:
        yield body[:1500]
        yield body[1500:]

    assert client.post("/webhook", content=body, headers=headers(body)).status_code == 413
    assert client.post("/webhook", content=parts(), headers=headers(body)).status_code == 413


def test_only_post_is_served(client: TestClient) -> None:
    """A GET that followed a redirect is 405, so that the forge does not book it as delivered."""
    assert client.get("/webhook").status_code == 405


def test_deliveries_are_counted(client: TestClient) -> None:
    """Whoever installs a hook can ask how many signed deliveries came, and how many were refused."""
    client.post("/webhook", content=BODY, headers=headers())
    client.post("/webhook", content=BODY, headers=headers() | {"X-Gitea-Event": "push"})
    client.post("/webhook", content=BODY, headers=headers() | {"X-Gitea-Signature": ""})
    assert client.get("/webhook/seen").json() == {"signed": 2, "refused": 1}


def test_a_store_that_breaks_unforeseen_leaves_nobody_waiting(tmp_path: Path) -> None:
    """An error that nobody planned for is a 500 for each delivery of the batch, and the next ones are served."""
    store = Broken.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    try:
        app = Starlette(routes=routes(settings(tmp_path), store, NoonClock(), lambda: None))
        with TestClient(app, raise_server_exceptions=False) as client:
            codes = [client.post("/webhook", content=BODY, headers=headers()).status_code for _ in range(2)]
        assert codes == [500, 202]
    finally:
        store.close()


@pytest.mark.parametrize("length", ["9" * 30, "\u00b2"])
def test_an_odd_length_is_no_crash(client: TestClient, length: str) -> None:
    """A declared length of thirty digits is too large, and one that is no number is not believed."""
    sent = {**headers(), "Content-Length": length}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
    assert client.post("/webhook", content=BODY, headers=raw).status_code in (202, 413)


def test_half_a_surrogate_pair_names_no_repository(client: TestClient, store: SqlStore) -> None:
    """A signed name that cannot be sent on is kept as none: no later request trips over it."""
    body = json.dumps({**MERGE, "repository": {"id": 2, "full_name": "fleet/\ud800"}}).encode()
    assert client.post("/webhook", content=body, headers=headers(body)).status_code == 202
    assert [kept.repository for kept in store.open_deliveries()] == [""]


def test_without_a_secret_nothing_is_believed(tmp_path: Path, store: SqlStore) -> None:
    """With no secret configured every delivery is 503 and leaves nothing."""
    app = Starlette(routes=routes(settings(tmp_path, secret=None), store, NoonClock(), lambda: None))
    with TestClient(app) as client:
        answer = client.post("/webhook", content=BODY, headers=headers())
    assert (answer.status_code, "webhook_secret_file" in answer.text, store.open_deliveries()) == (503, True, [])


def test_what_cannot_be_kept_is_not_acknowledged(tmp_path: Path) -> None:
    """Where the database fails the answer is 503: a 2xx is a promise."""
    store = FullDisk.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    try:
        app = Starlette(routes=routes(settings(tmp_path), store, NoonClock(), lambda: None))
        with TestClient(app) as client:
            assert client.post("/webhook", content=BODY, headers=headers()).status_code == 503
    finally:
        store.close()


def test_a_secret_must_be_there(tmp_path: Path) -> None:
    """A missing or empty secret file is a misconfiguration that names the setting."""
    (tmp_path / "empty").write_text(" \n")
    for name in ("missing", "empty"):
        with pytest.raises(Misconfigured) as refused:
            read_secret(tmp_path / name)
        assert "webhook_secret_file" in refused.value.hint
    assert read_secret(None) is None
