"""Payloads made to hurt: whatever comes, no 5xx, no exception, and nothing stored without a valid signature.

FLEETSSD_FUZZ_EXAMPLES sets how many examples are tried in all; 10,000 is the full run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.web.webhook import routes

EXAMPLES = int(os.environ.get("FLEETSSD_FUZZ_EXAMPLES", "300"))
SECRET = b"the hook's secret"
LIMIT = 20_000
profile = settings(
    max_examples=max(EXAMPLES // 4, 1), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass
class Target:
    """The route under attack and the database behind it; an exception in the route is one in the test."""

    client: TestClient
    store: SqlStore
    kept: int = 0

    def post(self, body: bytes, headers: list[tuple[bytes, bytes]]) -> int:
        """Send a request and return its status."""
        return self.client.post("/webhook", content=body, headers=headers).status_code

    def new(self) -> int:
        """Return how many deliveries were stored since the last call."""
        before, self.kept = self.kept, len(self.store.open_deliveries())
        return self.kept - before


class NoonClock:
    """A clock that stands at noon."""

    def now(self) -> datetime:
        """Return noon."""
        return datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Serve the route over a real database."""
    (tmp_path / "secret").write_bytes(SECRET)
    forge = {"url": "http://f", "token_file": tmp_path / "t", "webhook_secret_file": tmp_path / "secret"}
    fleet = {"agents": ["a"], "repositories": ["o/r"]}
    told = parse({"data_dir": tmp_path, "forge": forge, "fleet": fleet, "web": {"max_body_bytes": LIMIT}})
    store = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    with TestClient(Starlette(routes=routes(told, store, NoonClock(), lambda: None))) as client:
        yield Target(client, store)
    store.close()


def sign(message: bytes) -> bytes:
    """Return the signature of a message."""
    return hmac.new(SECRET, message, hashlib.sha256).hexdigest().encode()


NAMES = st.sampled_from(
    ["X-Gitea-Signature", "X-Forgejo-Signature", "X-Gogs-Signature", "X-Hub-Signature-256", "X-Hub-Signature",
     "X-Gitea-Event", "X-Gitea-Delivery", "Content-Type", "X-GitHub-Event", "Authorization", "X-HTTP-Method-Override"]
)  # fmt: skip
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/x-www-form-urlencoded",
        "APPLICATION/JSON; charset=utf-16",
        "multipart/form-data",
        "",
    ]
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=30)
    | st.sampled_from([2**63, -1, 10**400, "\ud800", "../../etc/passwd", "'; DROP TABLE deliveries; --", "\x00"])
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(["closed", "opened", ""]) | VALUES,
        "number": st.integers(1, 2**70) | VALUES,
        "pull_request": st.fixed_dictionaries({"merged": st.just(value=True) | VALUES}) | VALUES,
        "repository": st.fixed_dictionaries({"id": VALUES | st.integers(1, 9), "full_name": VALUES}) | VALUES,
    },
)
HEADERS = st.lists(st.tuples(NAMES, TEXT), max_size=6)


def raw(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as bytes."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


def written(payload: Any) -> bytes:
    """Return JSON text; half surrogates stay escapes."""
    return json.dumps(payload).encode()


@profile
@given(body=st.binary(max_size=400) | PAYLOADS.map(written), headers=HEADERS)
def test_unsigned_bytes_are_refused(target: Target, body: bytes, headers: list[tuple[str, str]]) -> None:
    """Any bytes under any headers without a true signature are 401, and leave nothing."""
    assert target.post(body, raw(headers)) == 401
    assert target.new() == 0


@profile
@given(payload=PAYLOADS, event=st.sampled_from(["pull_request", "push", ""]) | TEXT, kind=TYPES)
def test_signed_oddities_are_taken_or_refused(target: Target, payload: Any, event: str, kind: str) -> None:
    """A signed object of any shape is stored as a merge, ignored, or a bad request; reading it back holds."""
    message = written(payload)
    form = kind == "application/x-www-form-urlencoded"
    body = b"payload=" + quote_plus(message).encode() if form else message
    headers = [("Content-Type", kind), ("X-Gitea-Event", event)]
    code = target.post(body, [*raw(headers), (b"X-Gitea-Signature", sign(message))])
    assert code in (202, 204)
    assert target.new() == int(code == 202)


@profile
@given(body=st.binary(max_size=400) | st.integers(1, 3000).map(lambda depth: b"[" * depth), kind=TYPES)
def test_signed_bytes_are_never_an_error_of_ours(target: Target, body: bytes, kind: str) -> None:
    """Signed bytes that are no JSON object (broken, deep, another encoding) are 400, or 401 where a form hides them."""
    code = target.post(body, [(b"Content-Type", kind.encode()), (b"X-Gitea-Signature", sign(body))])
    assert code in (204, 400, 401)
    assert target.new() == 0


@profile
@given(payload=PAYLOADS, at=st.integers(0, 10**6), change=st.integers(1, 255), size=st.integers(0, 2 * LIMIT))
def test_tampered_and_oversized_ones_leave_nothing(
    target: Target, payload: Any, at: int, change: int, size: int
) -> None:
    """A byte changed after signing is 401; a body over the limit is 413 before anything is read of it."""
    message = written(payload | {"padding": "x" * size})
    at %= len(message)
    tampered = message[:at] + bytes([message[at] ^ change]) + message[at + 1 :]
    headers = [(b"X-Gitea-Event", b"pull_request"), (b"X-Gitea-Signature", sign(message))]
    assert target.post(tampered, headers) == (413 if len(message) > LIMIT else 401)
    assert target.new() == 0
