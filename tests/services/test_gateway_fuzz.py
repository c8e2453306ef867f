"""Whatever callers and engines send: the gateway says no 5xx but those that it declares, and gives every place back.

FLEETSSD_FUZZ_EXAMPLES sets how many examples are tried in all.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.gateway import ASKS
from tests.services.gateway_world import ALIAS, INCUMBENT, LIMIT, World, gateway_world, said

EXAMPLES = int(os.environ.get("FLEETSSD_FUZZ_EXAMPLES", "150"))
FUZZ = settings(max_examples=max(EXAMPLES // 3, 1), deadline=None, suppress_health_check=list(HealthCheck))
NO_TLS = ssl.create_default_context()
"""Made once: each call would read all certificates of the machine for a connection that has none."""
DECLARED = {400, 401, 404, 405, 408, 413, 429, 502, 503}
"""What the gateway itself may answer; everything else is the engine's word."""
PATHS = st.sampled_from([*ASKS, "/", "/api/tags", "/api/show", "/v1/models", "/healthz", "/metrics", "/nowhere"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.one_of(
    st.binary(max_size=300),
    st.fixed_dictionaries(
        {"model": st.sampled_from([ALIAS, "Fleet-Coder:latest", INCUMBENT, "é", "\n"]) | VALUES},
        optional=dict.fromkeys(
            ("messages", "prompt", "options", "metadata", "user", "stream", "temperature", "input"), VALUES
        ),
    ).map(lambda table: json.dumps(table).encode()),
    st.integers(LIMIT - 30, LIMIT + 30).map(lambda size: json.dumps({"model": ALIAS}).encode().ljust(size)),
    st.just(b'{"model":"%s","messages":' % ALIAS.encode() + b"[" * 3000),
)
NAMES = st.sampled_from([
    "x-fleetssd-task", "x-fleetssd-agent", "authorization", "x-api-key", "content-type", "accept-encoding", "expect",
    "connection", "te", "trailer", "upgrade", "cookie", "host", "content-encoding", "x-odd",
])  # fmt: skip
HEADERS = st.dictionaries(NAMES, st.binary(max_size=30), max_size=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Yield a gateway with a candidate in half of the tasks."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    with gateway_world(folder, hold_seconds=0.01, decode={"manage": "gateway", "clamp": True}) as made:
        made.canary("split", 0.5)
        yield made


@pytest.fixture(autouse=True)
def _places(world: World, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test nothing is under way or held, an honest call is answered, and no fault of ours was logged."""
    yield
    assert not [record for record in caplog.get_records("call") if "Exception in ASGI" in record.getMessage()]

    async def well(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        out.write(said(body))

    world.answer = well
    assert world.post().status_code == 200
    deadline = time.monotonic() + 20
    while world.metric("calls_in_flight") + world.metric("calls_held"):
        assert time.monotonic() < deadline, "a place was not given back"
        time.sleep(0.01)


@FUZZ
@given(
    method=st.sampled_from(["POST", "GET", "PUT", "DELETE", "HEAD", "PATCH"]),
    path=PATHS,
    query=st.text("ab=&%/?#é", max_size=10),
    headers=HEADERS,
    body=BODIES,
    cuts=st.lists(st.integers(0, 400), max_size=3),
)
def test_no_request_breaks_the_gateway(
    world: World, method: str, path: str, query: str, headers: dict[str, bytes], body: bytes, cuts: list[int]
) -> None:
    """Any method, path, header and body, whole or in pieces: the engine answers it, or the gateway says why not."""
    marks = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
    pieces = [body[begin:end] for begin, end in pairwise(marks)]
    content: Any = iter(pieces) if cuts else body
    kept = [(name.encode(), value) for name, value in headers.items() if b"\n" not in value and b"\r" not in value]
    with suppress(httpx.LocalProtocolError):  # what this client does not send, the raw test does
        try:
            reply = httpx.request(
                method, world.url + path, params=query, content=content, headers=kept, timeout=30,
                verify=NO_TLS,
            )  # fmt: skip
        except httpx.TimeoutException:
            pytest.fail(f"no answer came\n{world.standing()}")
        status = reply.status_code
        assert status in DECLARED or status == 200
        if len(body) > LIMIT and path.startswith(("/api", "/v1")):
            assert status in (400, 413)


RAW = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda line, heads, body: line + b"\r\n" + b"\r\n".join([b"Host: x", *heads]) + b"\r\n\r\n" + body,
        st.sampled_from([
            b"POST /api/chat HTTP/1.1", b"POST /api/../debug/pprof HTTP/1.1", b"POST /api/%2e%2e/x HTTP/1.1",
            b"GET /api/\xff\xfe HTTP/1.1", b"GET //api/tags HTTP/1.1", b"POST /v1/chat/completions HTTP/1.0",
            b"GET http://elsewhere/api/tags HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET /api/ws HTTP/1.1",
        ]),
        st.lists(
            st.sampled_from([
                b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
                b"Content-Length: 1_0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
                b"Connection: upgrade", b"Upgrade: websocket", b"X-Fleetssd-Task: \xff\x00", b"X: " + b"y" * 70_000,
                b" folded: z", b"Expect: 100-continue", b"X-Api-Key: \xc3\x28",
            ]),
            max_size=3,
        ),
        st.sampled_from([
            b"", b'{"model":"fleet-coder"}', b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"ffffffffffffffff\r\n",
        ]),
    ),
)  # fmt: skip


@FUZZ
@given(text=RAW)
def test_no_bytes_break_the_gateway(world: World, text: bytes) -> None:
    """What is no HTTP, or HTTP that lies about itself: an answer below 500, a declared one, or a closed connection."""
    parts = urlsplit(world.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as caller:
        heard = b""
        with suppress(OSError):
            caller.sendall(text)
            select.select([caller], [], [], 0.02)  # who hangs up at once is not answered
            caller.shutdown(socket.SHUT_WR)
            while piece := caller.recv(65536):
                heard += piece
    if heard:
        assert int(heard.split(b" ", 2)[1]) in DECLARED | {100, 200}
    assert not any("pprof" in path or ".." in path for path, _, _ in world.asked)


def test_a_path_that_climbs_is_refused(world: World) -> None:
    """What the engine has beside /api and /v1 is not for callers."""
    for path in (b"/api/../debug/pprof", b"/api/%2e%2e/debug", b"/v1/./models"):
        parts = urlsplit(world.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as caller:
            caller.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert caller.recv(65536).startswith(b"HTTP/1.1 400")


SAYS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda status, kind, heads, body: b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + heads + body,
        st.sampled_from([b"200 OK", b"204 No Content", b"503 Busy", b"500 Oh", b"404 No", b"999 Odd", b"99 Less"]),
        st.sampled_from([b"application/json", b"application/x-ndjson", b"text/event-stream", b"\xff"]),
        st.sampled_from([
            b"\r\nContent-Length: 40\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", b"\r\n\r\n", b"\r\n",
            b"\r\nConnection: close\r\nX: \xff\r\n\r\n",
        ]),
        st.sampled_from([b"", b"{", b'5\r\n{"a":\r\n0\r\n\r\n', b'{"model":"fleet-coder:v1-aaaa"}\n' * 9, b"zz\r\n"]),
    ),
)  # fmt: skip


@FUZZ
@given(words=SAYS, stream=st.booleans())
def test_no_engine_breaks_the_gateway(world: World, words: bytes, stream: bool) -> None:
    """An engine that says nonsense and hangs up: the caller gets its status, a 502, or a connection that is cut."""

    async def answer(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
        out.write(words)
        await out.drain()
        out.close()

    world.answer = answer
    with suppress(httpx.RemoteProtocolError):
        reply = world.post(stream=stream)
        assert reply.status_code in (200, 204, 404, 500, 502, 503)
