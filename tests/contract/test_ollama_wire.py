"""What goes over the wire to an Ollama server, and what its failures become, against scripted replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import ollama
import pytest
import stamina

from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.ollama_engine.wire import Wire, fault
from fleetssd.artefact import MANIFEST
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.ports import Prompt
from fleetssd.recipe import Sampling

Answer = Callable[[httpx.Request], httpx.Response]
DECODE = Sampling(0.7, 20, 0.8, 0.05, 64)
CHAT = {
    "model": "m",
    "message": {"role": "assistant", "content": "hi"},
    "done": True,
    "done_reason": "stop",
    "eval_count": 2,
}
BLOB = "a" * 64
SHOW = {
    "modelfile": f"FROM /b/sha256-{BLOB}\n",
    "model_info": {"general.architecture": "qwen3"},
    "tensors": [{"name": "blk.0.attn_q.weight", "type": "F32", "shape": [8, 8]}],
}


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Retry as often as in production, without the pauses."""
    with stamina.set_testing(testing=True, attempts=4, cap=True):
        yield


def engine(answer: Answer, *, num_ctx: int | None = None, concurrency: int = 1) -> OllamaEngine:
    """Return an engine whose server is a function."""
    serve = partial(serve_manifest, "127.0.0.1")
    transport = httpx.MockTransport(answer)
    return OllamaEngine("http://engine", "base", serve, concurrency=concurrency, num_ctx=num_ctx, transport=transport)


def ask(made: OllamaEngine, count: int = 1) -> list[str]:
    """Return how each of some completions ended."""
    prompts = [Prompt("U", seed) for seed in range(count)]
    return [answer.finish for answer in made.complete("m", prompts, DECODE, lambda *_: None)]


def test_callers_share_the_slots() -> None:
    """Two callers at once have no more in flight than one, and what one leaves free the other takes."""
    flying, most, both = 0, 0, threading.Barrier(2, timeout=30)
    lock = threading.Lock()

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        both.wait()  # six answers in three pairs: a caller of three alone could never end
        with lock:
            flying -= 1
        return httpx.Response(200, json=CHAT)

    made = engine(answer, concurrency=2)
    with ThreadPoolExecutor(2) as callers:
        assert list(callers.map(lambda _: ask(made, 3), range(2))) == [["stop"] * 3] * 2
    assert most == 2


@pytest.mark.parametrize("num_ctx", [None, 4096])
def test_every_sampling_parameter_is_sent_and_no_load_option(num_ctx: int | None) -> None:
    """Nothing is left to defaults, `min_p` survives the client, a context is sent only where it is pinned."""
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=CHAT)

    assert ask(engine(answer, num_ctx=num_ctx)) == ["stop"]
    assert sent[0]["options"] == {
        "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "typical_p": 1.0, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "num_predict": 64,
        **({"num_ctx": num_ctx} if num_ctx else {}),
    }  # fmt: skip
    assert sent[0]["stream"] is False
    assert sent[0]["messages"] == [{"role": "user", "content": "U"}]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "server busy, please try again.  maximum pending requests exceeded"),
        (500, "EOF"),
        (499, "request canceled"),
    ],
)
def test_busy_servers_are_asked_again(status: int, text: str) -> None:
    """A queue that is full, a name in the copy window, a load that was aborted: the next try goes through."""
    replies = iter([httpx.Response(status, json={"error": text}), httpx.Response(200, json=CHAT)])
    assert ask(engine(lambda _: next(replies))) == ["stop"]


def test_a_refusal_is_not_repeated() -> None:
    """A model that does not load is an error at once: asking again would load it again."""
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(500, json={"error": "llama-server process has terminated: exit status 1"})

    assert ask(engine(answer)) == ["error"]
    assert calls == ["/api/chat"]


def test_a_reply_that_is_not_done_is_an_error() -> None:
    """A server that gave up half-way and said nothing has not answered."""
    assert ask(engine(lambda _: httpx.Response(200, json=CHAT | {"done": False}))) == ["error"]


def test_an_answer_cut_by_its_limit_says_so() -> None:
    """`length` stays `length`."""
    assert ask(engine(lambda _: httpx.Response(200, json=CHAT | {"done_reason": "length"}))) == ["length"]


def test_one_lost_connection_is_one_error_and_the_rest_goes_on() -> None:
    """A request that found nobody four times is an error; the others are asked."""
    replies: Iterator[bool] = iter([False] * 4 + [True] * 2)

    def answer(request: httpx.Request) -> httpx.Response:
        if not next(replies):
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json=CHAT)

    assert ask(engine(answer), 3) == ["error", "stop", "stop"]


def test_a_server_that_is_gone_puts_the_whole_off() -> None:
    """After eight requests that found nobody the rest is not tried, and the night is put off, not spoilt."""
    calls: list[str] = []

    def gone(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(Transient) as caught:
        ask(engine(gone), 100)
    assert "ollama serve" in caught.value.hint
    assert len(calls) == 8 * 4


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (503, "server busy", Transient),
        (500, "unexpected EOF", Transient),
        (-1, "EOF", Transient),
        (-1, "unsupported architecture", Rejected),
        (500, "write /blobs/x: no space left on device", Misconfigured),
        (400, 'digest mismatch, expected "a", got "b"', Corrupt),
        (403, "", Misconfigured),
        (404, "model 'x' not found", Rejected),
        (400, "LoRA adapters are no longer supported", Rejected),
        (500, "failed to initialize model: loras are not yet implemented", Rejected),
    ],
)
def test_failures_are_named_by_what_to_do_next(status: int, text: str, kind: type[FleetError]) -> None:
    """Each of the server's ways to fail is one of four errors, with its words and a hint."""
    error = fault(status, text)
    assert type(error) is kind
    assert text[:20] in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ConnectionError("refused"), Transient),
        (httpx.ConnectError("refused"), Transient),
        (httpx.ReadTimeout("slow"), Transient),
        (httpx.RemoteProtocolError("cut"), Transient),
        (ollama.ResponseError("EOF", -1), Transient),
        (ollama.ResponseError("no", 400), Rejected),
    ],
)
def test_what_the_client_raises_is_translated(raised: Exception, kind: type[FleetError]) -> None:
    """The client's, httpx's and Python's own exceptions leave the adapter as ours."""
    with pytest.raises(FleetError) as caught, Wire("http://engine", 1.0).told():
        raise raised
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize("text", ["<html>", "[1]"])
def test_something_else_than_ollama_is_corrupt(text: str) -> None:
    """A proxy's page in front of the server is told as such."""
    with pytest.raises(Corrupt, match="no JSON object"):
        engine(lambda _: httpx.Response(200, text=text)).digest_of("m")


def test_stacked_adapters_are_corrupt() -> None:
    """Two ADAPTER lines mean that both are added: such a name is never served."""
    lines = "".join(f"ADAPTER /b/sha256-{digit * 64}\n" for digit in "bc")
    show = {"modelfile": f"FROM /b/sha256-{BLOB}\n{lines}"}
    with pytest.raises(Corrupt, match="2 adapters"):
        engine(lambda _: httpx.Response(200, json=show)).adapter_of("m")


def test_a_broken_alias_is_copied_again() -> None:
    """While show says EOF the copy is repeated, its digest is proven at the end, and how long that took is told."""
    shows = iter([httpx.Response(500, json={"error": "EOF"}), httpx.Response(200, json=SHOW)])
    copies: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/copy":
            copies.append(json.loads(request.content)["destination"])
            return httpx.Response(200)
        if request.url.path == "/api/show":
            return next(shows)
        return httpx.Response(200, json={"models": [{"name": n, "digest": "d"} for n in ("alias:latest", "model:v1")]})

    pointed = engine(answer).point("alias", "model:v1")
    assert copies == ["alias", "alias"]
    assert (pointed.copies, pointed.seconds > 0) == (2, True)


def test_an_alias_that_stays_broken_is_corrupt() -> None:
    """Copies that never show end, with a hint, after a few tries."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/show":
            return httpx.Response(500, json={"error": "EOF"})
        return httpx.Response(200, json={"models": [{"name": "model:v1", "digest": "d"}]})

    with pytest.raises(Corrupt, match="does not serve"):
        engine(answer).point("alias", "model:v1")


@pytest.mark.parametrize(("loads", "creates"), [(True, True), (False, True), (False, False)])
def test_an_engine_that_cannot_load_adapters_is_found_out(loads: bool, creates: bool) -> None:
    """Taking an adapter is not loading it: the probe tries both, and removes its name whatever happens."""
    tags = {"base:latest": "d"}
    no_lora = httpx.Response(500, json={"error": "failed to initialize model: loras are not yet implemented"})
    text = "open /b: no such file or directory" if creates else "LoRA adapters are no longer supported"
    fixed = {
        "version": httpx.Response(200, json={"version": "0.12.0"}),
        "show": httpx.Response(200, json=SHOW),
        "create": httpx.Response(400, json={"error": text}),
        "chat": httpx.Response(200, json=CHAT) if loads else no_lora,
        "generate": httpx.Response(200, json={"response": "", "done": True}),
    }

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content.startswith(b"{") else {}
        verb = request.url.path.removeprefix("/api/")
        if verb == "pull":
            tags[body["model"].removeprefix("http://")] = "pulled"
        elif verb == "copy":
            tags[body["destination"]] = tags[body["source"]]
        elif verb == "delete":
            tags.pop(body["model"], None)
        models = [{"name": name, "digest": digest, "size": 9} for name, digest in tags.items()]
        return fixed.get(verb) or httpx.Response(200, json={"models": models if verb == "tags" else None})

    probe = engine(answer).probe()
    assert (probe.version, probe.loads_adapters, probe.creates_adapters) == ("0.12.0", loads, creates)
    assert probe.pulls_from_loopback
    assert tags == {"base:latest": "d"}


def test_the_registry_serves_one_path_and_then_nothing() -> None:
    """The manifest comes byte for byte with its type; all else is 404, nothing can be written, and it closes."""
    path = "/v2/a/b/manifests/v1"
    with (
        serve_manifest("127.0.0.1", path, b"{}", MANIFEST) as netloc,
        httpx.Client(base_url=f"http://{netloc}") as client,
    ):
        found = client.get(path)
        assert (found.status_code, found.content, found.headers["content-type"]) == (200, b"{}", MANIFEST)
        assert client.head(path).content == b""
        assert [client.get(other).status_code for other in ("/", "/v2/a/b/blobs/sha256:x")] == [404, 404]
        assert client.post(path, content=b"x").status_code == 501
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{netloc}{path}")


def test_a_registry_on_a_foreign_address_names_the_setting() -> None:
    """An address that is not of this machine is a setting to mend."""
    with pytest.raises(Misconfigured) as caught, serve_manifest("192.0.2.1", "/", b"", MANIFEST):
        pass
    assert "registry_host" in caught.value.hint
