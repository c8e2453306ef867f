"""How a server can fail on a real connection, and what its client then raises: all of it named, none of it endless."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import ollama
import pytest
import stamina

from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.ollama_engine.posts import Posts
from fleetssd.adapters.ollama_engine.wire import Wire
from fleetssd.errors import Corrupt, FleetError, Rejected, Transient
from fleetssd.in_flight import Away
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling

TURN = [{"role": "user", "content": "U"}]
PIECE = {"model": "m", "created_at": "2026-11-22T00:00:00Z", "message": {"role": "assistant", "content": "a"}}
TAGS = {"models": [{"name": "base:latest", "digest": "d", "size": 1}]}
BLOB = "a" * 64


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Retry as often as in production, without the pauses."""
    with stamina.set_testing(testing=True, attempts=2, cap=True):
        yield


@contextmanager
def server(*replies: bytes) -> Iterator[str]:
    """Answer each connection with the next reply, byte for byte, and hang up; after the last one stay silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            for at in range(100):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                _read(connection)
                if at < len(replies):
                    connection.sendall(replies[at])
                    connection.close()
                else:
                    held.append(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def _read(connection: socket.socket) -> None:
    """Read a whole request: to hang up on what is unread resets the connection, and a reply may be lost with it."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += (more := connection.recv(65_536))
        if not more:
            return
    head, _, body = got.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0)
    while len(body) < length:
        body += connection.recv(65_536)


def reply(body: bytes, *, status: str = "200 OK", kind: str = "application/json", length: int | None = None) -> bytes:
    """Write a reply; `length` may promise more than comes."""
    promised = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {promised}\r\n\r\n".encode() + body


def stream(*lines: dict[str, Any]) -> bytes:
    """Write a streamed reply that ends with its last line, whatever that is."""
    return reply(b"".join(json.dumps(line).encode() + b"\n" for line in lines), kind="application/x-ndjson")


def refused() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


Call = Callable[[ollama.Client], object]


def plain(client: ollama.Client) -> object:
    """Ask for an answer in one piece."""
    return client.chat("m", TURN)


def streamed(client: ollama.Client) -> object:
    """Ask for an answer in pieces, and read them all."""
    return list(client.chat("m", TURN, stream=True))


def raised(url: str, call: Call, timeout: float = 5.0) -> tuple[Exception, FleetError]:
    """Return what the official client raises, and what the adapter makes of it."""
    wire = Wire(url, timeout)
    try:
        with pytest.raises(Exception) as theirs:  # noqa: PT011  which one it is is the question
            call(wire.client)
        with pytest.raises(FleetError) as ours, wire.told():
            call(wire.client)
    finally:
        wire.close()
    return theirs.value, ours.value


def test_nobody_there_is_one_error_and_not_two() -> None:
    """The client raises Python's ConnectionError for a plain call and httpx's for a streamed one; both are Away."""
    theirs, ours = zip(*(raised(refused(), call) for call in (plain, streamed)), strict=True)
    assert [type(error) for error in theirs] == [ConnectionError, httpx.ConnectError]
    assert [type(error) for error in ours] == [Away, Away]
    assert all("ollama serve" in error.hint for error in ours)


@pytest.mark.parametrize(("said", "kind"), [("EOF", Transient), ("unsupported architecture", Rejected)])
def test_an_error_within_a_stream_has_no_status(said: str, kind: type[FleetError]) -> None:
    """HTTP 200, then a line with an error: the client's status is -1, ours is named by the text."""
    cut = stream(PIECE, {"error": said})
    with server(cut, cut) as url:
        theirs, ours = raised(url, streamed)
    assert isinstance(theirs, ollama.ResponseError)
    assert theirs.status_code == -1
    assert type(ours) is kind
    assert "in its stream" in ours.message


@pytest.mark.parametrize("call", [plain, streamed])
def test_a_silent_server_is_left_in_finite_time(call: Call) -> None:
    """Nothing comes: the read times out, as a Transient."""
    with server() as url:
        theirs, ours = raised(url, call, timeout=0.2)
    assert isinstance(theirs, httpx.ReadTimeout)
    assert type(ours) is Transient
    assert "too slow" in ours.message


def test_no_timeout_of_the_server_is_infinite() -> None:
    """Connecting, writing and reading end by themselves, for quick requests and for those that load gigabytes."""
    wire = Wire("http://127.0.0.1:9", 30.0)
    found = [wire._raw.timeout, wire._slow, wire.client._client.timeout, wire.patient._client.timeout]
    wire.close()
    for timeout in found:
        assert 0 < timeout.connect <= 5
        assert 30 <= timeout.read <= 900
        assert 30 <= timeout.write <= 900


@pytest.mark.parametrize("call", [plain, streamed])
def test_a_connection_that_is_cut_is_tried_again(call: Call) -> None:
    """A reply that is shorter than it promised, or none at all, is Transient."""
    half = reply(json.dumps(PIECE).encode(), length=10_000)
    with server(half, half) as url:
        theirs, ours = raised(url, call)
    assert isinstance(theirs, httpx.RemoteProtocolError)
    assert type(ours) is Transient
    with server(b"", b"") as url:
        assert type(raised(url, call)[1]) is Transient


def test_a_page_of_something_else_is_corrupt() -> None:
    """A proxy's HTML with status 200 is no Ollama; nor is JSON of another shape."""
    page = reply(b"<html>hello</html>", kind="text/html")
    odd = reply(b'{"message": 1, "done": true}')
    for body in (page, odd):
        with server(body, body) as url:
            _, ours = raised(url, plain)
        assert type(ours) is Corrupt
        assert "[engine] url" in ours.hint


def test_a_page_where_a_model_should_load_is_corrupt() -> None:
    """Loading goes by the patient client, whose replies are read by the same rules."""
    page = reply(b"<html>hello</html>", kind="text/html")
    with server(page) as url, closing(made(url)) as engine, pytest.raises(Corrupt):
        engine.preload("m")


HALF = reply(json.dumps(PIECE).encode(), length=10_000)
MISSING = reply(b'{"error": "m not found"}', status="404 Not Found")


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ((), Transient),
        ((b"",), Transient),
        ((b"nonsense",), Transient),
        ((HALF,), Transient),
        ((MISSING,), Rejected),
        ((reply(b"<html>hello</html>"),), Corrupt),
    ],
    ids=["silent", "cut", "no HTTP", "half", "missing", "a page"],
)
def test_the_quick_way_fails_by_the_same_names(replies: tuple[bytes, ...], kind: type[FleetError]) -> None:
    """What is asked thousands of times goes past httpx, and its errors are named as any other request's."""
    for way in (lambda wire: wire.ask("/api/chat", {}), lambda wire: wire.json("POST", "/api/chat", {})):
        with server(*replies) as url, closing(Wire(url, 0.3)) as wire, pytest.raises(FleetError) as found:
            way(wire)
        assert type(found.value) is kind


def test_the_quick_way_knows_that_nobody_is_there() -> None:
    """A refused connection is Away there too."""
    with closing(Wire(refused(), 5.0)) as wire, pytest.raises(Away):
        wire.ask("/api/chat", {})


def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    """A server that hangs up after each answer is asked again on a new connection, and no request is lost."""
    whole = reply(json.dumps(PIECE).encode())
    with server(whole, whole, whole) as url, closing(Wire(url, 5.0)) as wire:
        for _ in range(3):
            assert wire.ask("/api/chat", {}) == PIECE
            kept = wire._posts._idle[-1]  # type: ignore[union-attr]
            assert select.select([kept.sock], [], [], 5)[0]


def test_what_needs_more_than_a_connection_goes_by_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encryption, a name in the address and a proxy are httpx's business; a path before the routes is kept."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert Posts.to("https://engine", 5.0) is None
    assert Posts.to("http://me:hush@engine", 5.0) is None
    assert Posts.to("http://engine/below/", 5.0) is not None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert Posts.to("http://engine", 5.0) is None


def test_an_answer_that_ends_silently_is_an_error() -> None:
    """The client takes a stream without its last line for whole; a completion without `done` is none."""
    ended = stream(PIECE)
    with server(ended) as url, closing(Wire(url, 5.0)) as wire:
        assert [part.done for part in wire.client.chat("m", TURN, stream=True)] == [None]
    whole = reply(json.dumps(PIECE).encode())
    with server(whole, whole) as url, closing(made(url)) as engine:
        found = engine.complete("m", [Prompt("U", 1)], Sampling(0.0, 1, 1.0, 0.0, 8), lambda *_: None)
    assert [(answer.text, answer.finish) for answer in found] == [("", "error")]


def made(url: str, transport: httpx.BaseTransport | None = None) -> OllamaEngine:
    """Return an engine at an address."""
    return OllamaEngine(url, "base", partial(serve_manifest, "127.0.0.1"), timeout=5.0, transport=transport)


FOREIGN = ("llama3", "registry.ollama.ai/library/llama3:latest", "hf.co/someone/model:Q4_0", "http://evil.test/a/b:c")
CLOUD = ("gpt-oss:120b-cloud", "qwen3-coder:cloud")
DECODE = Sampling(0.0, 1, 1.0, 0.0, 8)
VERBS: dict[str, Callable[[OllamaEngine, str], object]] = {
    "pull": lambda engine, name: engine.pull("mine:v1", name, None, BLOB),
    "create": lambda engine, name: engine.create("mine:v1", name, None, BLOB),
    "point": lambda engine, name: engine.point("alias", name),
    "preload": lambda engine, name: engine.preload(name),
    "rendered": lambda engine, name: engine.rendered(name, "U"),
    "complete": lambda engine, name: engine.complete(name, [Prompt("U", 1)], DECODE, lambda *_: None),
    "likelihoods": lambda engine, name: engine.likelihoods(name, [Prompt("U", 1)], DECODE),
    "first_tokens": lambda engine, name: engine.first_tokens(name, ["U"]),
}
FETCHES = {"/api/create", "/api/pull", "/api/push"}
"""The routes on which Ollama goes to a registry by itself; any other one answers 404 for a name that is not there."""


def asked(verb: str, name: str) -> list[httpx.Request]:
    """Return the requests that a verb with this name makes to a server which has the base alone."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        if request.url.path == "/api/tags":
            return httpx.Response(200, json=TAGS)
        return httpx.Response(404, json={"error": f"model '{name}' not found"})

    with closing(made("http://engine", httpx.MockTransport(answer))) as engine, suppress(Rejected):
        VERBS[verb](engine, name)
    return sent


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", FOREIGN)
def test_a_name_that_is_not_here_reaches_no_route_that_fetches(verb: str, name: str) -> None:
    """Names are looked up in the server's own list before create and pull are told of them."""
    assert not FETCHES & {request.url.path for request in asked(verb, name)}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CLOUD)
def test_a_cloud_name_is_never_sent_where_it_would_run(verb: str, name: str) -> None:
    """A prompt for such a name would leave the house: nothing but the list of local names is asked."""
    assert {request.url.path for request in asked(verb, name)} <= {"/api/tags"}


def test_the_one_pull_goes_to_ourselves() -> None:
    """Installing by registry names our own loopback address, insecurely, for the length of the pull."""
    pulled: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/api/pull":
            pulled.append(json.loads(request.content))
            return httpx.Response(500, json={"error": "no"})
        if path == "/api/tags":
            return httpx.Response(200, json=TAGS)
        if path == "/api/show":
            return httpx.Response(200, json={"modelfile": f"FROM /b/sha256-{BLOB}\n", "model_info": {}})
        return httpx.Response(200, json={})

    with closing(made("http://engine", httpx.MockTransport(answer))) as engine, pytest.raises(Rejected):
        engine.pull("mine:v1", "base", None, None)
    assert [httpx.URL(body["model"]).host for body in pulled] == ["127.0.0.1"]
    assert [body["insecure"] for body in pulled] == [True]
