"""The gateway as a process in front of a real engine: what callers see, and what they do not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.config import load
from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, NIGHT, ALIAS = "fleet-base:latest", "fleet-coder:v20261122-m1", "fleet-coder"
GREEDY = {"temperature": 0.0, "seed": 1, "num_predict": 8}
TURN = [{"role": "user", "content": "def f1(x"}]
LIMIT = 100_000
HOLD = 1.0

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class World:
    """An engine, a database, and a gateway between them."""

    engine: str
    gateway: str
    store: SqlStore
    digests: dict[str, str]

    def flip(self, origin: str, target: str) -> None:
        """Write a proven flip into the swap log and wait until the gateway sends there."""
        line = Swap(0, "flip", "dawn", self.digests[origin], self.digests[target], target, 1, "test")
        self.store.finish_swap(self.store.begin_swap(line, NOW).id, NOW, {})
        deadline = time.monotonic() + 20
        while httpx.get(f"{self.gateway}/healthz").json()["model"] != target:
            assert time.monotonic() < deadline, "the gateway did not follow the swap log"
            time.sleep(0.1)


@contextmanager
def gateway(config: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the gateway; yields its URL and process."""
    command = [sys.executable, "-m", "services.gateway", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"], process
        finally:
            process.terminate()
            process.wait(timeout=45)


def settings(folder: Path, engine: str, manage: str = "none", more: str = "") -> Path:
    """Write a settings file and return its path."""
    config = folder / f"{manage}.toml"
    config.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:1"\ntoken_file = "token"\n'
        f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n'
        f'[engine]\nurl = "{engine}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
        f'[decode]\nmanage = "{manage}"\ntemperature = 0.3\ntop_p = 0.5\ntop_k = 7\n'
        f"[gateway]\nport = 0\nmax_body_bytes = {LIMIT}\nhold_seconds = {HOLD}\n{more}"
    )
    return config


def install(engine: str, model: str, file: str) -> str:
    """Create a model from a sample file and return the file's sha256."""
    data = (FILES / file).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    with httpx.Client(base_url=engine, timeout=60) as http:
        assert http.post(f"/api/blobs/sha256:{digest}", content=data).status_code in (200, 201)
        body = {
            "model": model,
            "files": {"m.gguf": f"sha256:{digest}"},
            "parameters": {"num_ctx": 256},
            "stream": False,
        }
        assert http.post("/api/create", json=body).status_code == 200
    return digest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Yield a fleet that serves its base, whose alias stays on the base for ever: only the gateway knows better."""
    folder = tmp_path_factory.mktemp("fleet")
    with embedded_ollama(folder / "ollama", "0.34.1") as engine:
        digests = {BASE: install(engine, BASE, "base.gguf"), NIGHT: install(engine, NIGHT, "m1.gguf")}
        httpx.post(f"{engine}/api/copy", json={"source": BASE, "destination": ALIAS})
        config = settings(folder, engine, "gateway")
        with closing(SqlStore.open(load(config).database)) as store:
            for model, digest in digests.items():
                kind = "base" if model == BASE else "merged"
                store.put_checkpoint(Checkpoint(digest, kind, model, "m", None, "none", 1.0, 1, NOW))  # type: ignore[arg-type]
            with gateway(config) as (url, _):
                yield World(engine, url, store, digests)


def bare(reply: httpx.Response) -> bytes:
    """Return the body without what differs between any two calls: times, ids, and the model's name."""
    body = re.sub(rb'"(created_at|[a-z_]*duration|created|id)":("[^"]*"|\d+)', rb'"\1":0', reply.content)
    return re.sub(rb'"model":"[^"]*"', b'"model":0', body)


def models(reply: httpx.Response) -> set[bytes]:
    """Return every name that a reply gives its model."""
    return set(re.findall(rb'"model":"([^"]*)"', reply.content))


# --- what callers see ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": TURN, "options": GREEDY}),
        ("/api/generate", {"prompt": "def f1(x", "options": GREEDY}),
        ("/v1/chat/completions", {"messages": TURN, "temperature": 0, "top_p": 1, "seed": 1, "max_tokens": 8}),
        ("/v1/completions", {"prompt": "def f1(x", "temperature": 0, "top_p": 1, "seed": 1, "max_tokens": 8}),
    ],
)
def test_a_reply_is_the_engines_byte_for_byte(world: World, path: str, body: dict[str, Any], stream: bool) -> None:
    """NDJSON, SSE and whole: but for times and ids only the model's name differs, and it is the caller's."""
    direct = httpx.post(world.engine + path, json={"model": BASE, "stream": stream, **body}, timeout=60)
    through = httpx.post(world.gateway + path, json={"model": "Fleet-Coder", "stream": stream, **body}, timeout=60)
    assert (bare(through), through.status_code) == (bare(direct), 200)
    assert models(through) == {b"Fleet-Coder"}
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert through.headers["x-fleetssd-checkpoint"] == world.digests[BASE]
    assert re.fullmatch("[0-9a-f]{32}", through.headers["x-fleetssd-request"])


def test_the_plain_client_works_through_the_gateway(world: World) -> None:
    """Chat and generate, streamed and whole, answer as they do without the gateway; so do show, list and ps."""
    told: list[tuple[Any, ...]] = []
    for url, model in ((world.engine, BASE), (world.gateway, ALIAS)):
        client = ollama.Client(url)
        chat = client.chat(model, TURN, options=GREEDY)
        parts = list(client.chat(model, TURN, options=GREEDY, stream=True))
        said = client.generate(model, "def f1(x", options=GREEDY)
        pieces = list(client.generate(model, "def f1(x", options=GREEDY, stream=True))
        assert {chat.model, said.model, *(part.model for part in (*parts, *pieces))} == {model}
        assert "".join(part.message.content or "" for part in parts) == chat.message.content
        told.append((chat.message.content, said.response, [piece.response for piece in pieces], said.context))
        told[-1] += (client.show(model).details, sorted(str(row.model) for row in client.list().models))
        told[-1] += ([row.digest for row in client.ps().models],)
        client.close()  # type: ignore[no-untyped-call]
    assert told[0] == told[1]


def test_the_openai_client_works_through_the_gateway(world: World) -> None:
    """Chat, streamed and whole, and completions answer as they do without it, under the name that was asked."""
    told: list[list[str | None]] = []
    said: Any = {"temperature": 0, "top_p": 1, "seed": 1, "max_tokens": 8}
    turns: Any = TURN
    for url, model in ((world.engine, BASE), (world.gateway, ALIAS)):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            chat = client.chat.completions.create(model=model, messages=turns, **said)
            parts = list(client.chat.completions.create(model=model, messages=turns, stream=True, **said))
            text = client.completions.create(model=model, prompt="def f1(x", **said)
        assert {chat.model, text.model, *(part.model for part in parts)} == {model}
        words = [part.choices[0].delta.content for part in parts]
        told.append([chat.choices[0].message.content, text.choices[0].text, *words, chat.choices[0].finish_reason])
    assert told[0] == told[1]


def test_other_models_and_errors_pass_untouched(world: World) -> None:
    """A checkpoint by its own name, an unknown model and a broken body are answered by the engine alone."""
    for body in (b'{"model":"nobody","messages":[]}', b"{", b"", b'{"model":"%s","stream":false}' % NIGHT.encode()):
        direct, through = (
            httpx.post(f"{url}/api/chat", content=body, timeout=60) for url in (world.engine, world.gateway)
        )
        assert (through.status_code, models(through), bare(through)) == (
            direct.status_code, models(direct), bare(direct),
        )  # fmt: skip
        assert "x-fleetssd-checkpoint" not in through.headers


def test_deleting_the_alias_leaves_the_checkpoint(world: World) -> None:
    """Names are managed as they are written: only requests that run a model follow the route."""
    http = httpx.Client(base_url=world.gateway)
    http.post("/api/copy", json={"source": BASE, "destination": "other"})
    assert http.request("DELETE", "/api/delete", json={"model": ALIAS}).status_code == 200
    names = [row["name"] for row in http.get("/api/tags").json()["models"]]
    assert http.post("/api/chat", json={"model": ALIAS, "messages": [], "stream": False}).status_code == 200
    assert http.post("/api/copy", json={"source": "other", "destination": ALIAS}).status_code == 200
    http.close()
    assert BASE in names
    assert f"{ALIAS}:latest" not in names


def test_a_blob_larger_than_any_body_is_streamed(world: World) -> None:
    """The limit of requests is not that of files; the engine proves the digest."""
    data = b"x" * (30 * LIMIT)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = f"{world.gateway}/api/blobs/{digest}"
    assert httpx.head(path).status_code == 404
    chunks = (data[at : at + LIMIT] for at in range(0, len(data), LIMIT))
    assert httpx.post(path, content=chunks, timeout=60).status_code == 201
    assert [httpx.post(path, content=data, timeout=60).status_code, httpx.head(path).status_code] == [200, 200]


# --- the decode ------------------------------------------------------------------------------------------------


def test_a_silent_v1_caller_gets_the_fleets_decode(world: World) -> None:
    """What it hears is what it would hear if it stated [decode]; without the gateway it hears T = 1."""
    body = {"messages": TURN, "seed": 5, "max_tokens": 24}
    path = "/v1/chat/completions"
    silent = httpx.post(world.gateway + path, json={"model": ALIAS, **body}, timeout=60)
    stated, forced = (
        httpx.post(world.engine + path, json={"model": BASE, **body, **more}, timeout=60)
        for more in ({"temperature": 0.3, "top_p": 0.5}, {})
    )
    assert bare(silent) == bare(stated) != bare(forced)


def test_a_callers_own_temperature_is_left_alone(world: World) -> None:
    """It stays, and what the caller left out beside it is filled."""
    own = {"temperature": 1.7, "seed": 5, "num_predict": 24}
    body = {"messages": TURN, "stream": False}
    through = httpx.post(f"{world.gateway}/api/chat", json={"model": ALIAS, **body, "options": own}, timeout=60)
    stated = own | {"top_p": 0.5, "top_k": 7, "min_p": 0.0}
    direct = httpx.post(f"{world.engine}/api/chat", json={"model": BASE, **body, "options": stated}, timeout=60)
    assert bare(through) == bare(direct)


# --- the route -------------------------------------------------------------------------------------------------


def test_a_flip_in_the_store_is_followed(world: World) -> None:
    """The same name answers with the new checkpoint's words, and the header says so; then back."""
    body = {"model": ALIAS, "prompt": "def f1(x", "raw": True, "stream": False, "options": GREEDY}
    heard = []
    for origin, target in ((BASE, NIGHT), (NIGHT, BASE)):
        world.flip(origin, target)
        reply = httpx.post(f"{world.gateway}/api/generate", json=body, timeout=60)
        direct = httpx.post(f"{world.engine}/api/generate", json={**body, "model": target}, timeout=60)
        assert reply.headers["x-fleetssd-checkpoint"] == world.digests[target]
        assert reply.json()["response"] == direct.json()["response"]
        heard.append((reply.json()["response"], reply.json()["model"]))
    assert heard[0][0] != heard[1][0]
    assert {model for _, model in heard} == {ALIAS}


def test_without_a_store_the_alias_flows(world: World, tmp_path: Path) -> None:
    """A database that cannot be read is said on /healthz, and the engine's own alias answers."""
    (tmp_path / "fleetssd.sqlite3").write_bytes(b"no database at all" * 100)
    with gateway(settings(tmp_path, world.engine)) as (url, _):
        reply = httpx.post(f"{url}/api/chat", json={"model": ALIAS, "messages": [], "stream": False}, timeout=60)
        health = httpx.get(f"{url}/healthz").json()
    assert (reply.status_code, reply.json()["model"]) == (200, ALIAS)
    assert "x-fleetssd-checkpoint" not in reply.headers
    assert (health["model"], health["served"], health["store"] != "ok") == (ALIAS, None, True)


# --- failures --------------------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused(world: World) -> None:
    """413 with a hint, told by the length or found while reading; at the limit it passes."""
    fits = json.dumps({"model": ALIAS, "messages": [], "stream": False}).encode().ljust(LIMIT)
    assert httpx.post(f"{world.gateway}/api/chat", content=fits, timeout=60).status_code == 200
    for content in (fits + b" ", iter([fits, b" "])):
        reply = httpx.post(f"{world.gateway}/api/chat", content=content)
        assert (reply.status_code, "max_body_bytes" in reply.json()["hint"]) == (413, True)


def test_a_full_queue_is_held_until_there_is_room(world: World) -> None:
    """A few failures before the first byte are not seen; where they last, the engine's own answer says when to come."""
    body = {"model": ALIAS, "prompt": "x", "stream": False, "options": GREEDY}
    seen = []
    for failures in (3, 1000):
        httpx.post(f"{world.engine}/embedded/faults", json={"fail_next": failures, "fail_status": 503})
        reply = httpx.post(f"{world.gateway}/api/generate", json=body, timeout=60)
        seen.append((reply.status_code, reply.headers.get("retry-after")))
    httpx.delete(f"{world.engine}/embedded/faults")
    assert seen == [(200, None), (503, "1")]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("ollama", "Is Ollama running? `ollama serve`"), ("llama-server", "Is llama-server running at [engine] url?")],
)
def test_without_an_engine_the_answer_is_502(tmp_path: Path, kind: str, advice: str) -> None:
    """Before the first byte, in the route's own language, with what to do; the gateway ends well all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = settings(tmp_path, f"http://127.0.0.1:{port}")
    config.write_text(config.read_text().replace("[engine]", f'[engine]\nkind = "{kind}"\nadapters_dir = "adapters"'))
    with gateway(config) as (url, process):
        api = httpx.post(f"{url}/api/chat", json={"model": ALIAS})
        v1 = httpx.post(f"{url}/v1/chat/completions", json={"model": ALIAS})
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=45) == 0
    assert (api.status_code, api.json()["hint"]) == (502, advice)
    assert (v1.status_code, v1.json()["error"]["type"]) == (502, "api_error")


@contextmanager
def raw_engine(*answers: bytes) -> Iterator[tuple[str, list[bytes], threading.Event]]:
    """Listen as an engine that gives each connection the next of the answers, then waits for its end.

    Yields its URL, what was asked, and an event that is set when the last caller hung up.
    """
    asked: list[bytes] = []
    hung_up = threading.Event()

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)
                if b"cut" not in answer:
                    while connection.recv(65536):
                        pass
        hung_up.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked, hung_up
        thread.join(timeout=30)
        assert not thread.is_alive()


HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
EOF = b'HTTP/1.1 500 Internal Server Error\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"error":"EOF"}'


@pytest.mark.parametrize("words", [b"", HALF + b'8\r\n{"a":1}\n\r\n'], ids=["while waiting", "while streaming"])
def test_a_caller_that_hangs_up_lets_the_engine_go(tmp_path: Path, words: bytes) -> None:
    """The engine's connection is closed, so it stops generating; before the first byte, and after."""
    with raw_engine(words) as (engine, asked, hung_up), gateway(settings(tmp_path, engine)) as (url, _):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as caller:
            caller.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n\r\n" + b'{"model":"fleet-coder"}'
            )
            while not asked:
                time.sleep(0.02)
            if words:
                assert b'{"a":1}' in caller.recv(65536)  # the engine has not ended its line's stream
        assert hung_up.wait(timeout=20)


def test_a_half_written_alias_is_asked_again(tmp_path: Path) -> None:
    """The engine's EOF while a name is copied is not the caller's business."""
    well = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    with raw_engine(EOF, well) as (engine, asked, _), gateway(settings(tmp_path, engine)) as (url, _process):
        reply = httpx.post(f"{url}/api/chat", json={"model": ALIAS})
    assert (reply.status_code, reply.content, len(asked)) == (200, b"{}", 2)


def test_a_stream_that_breaks_is_broken_for_the_caller(tmp_path: Path) -> None:
    """Half an answer is never closed as if it were whole."""
    heard: list[str] = []
    with (
        raw_engine(HALF + b'a\r\n{"cut":1}\n\r\n') as (engine, _, _),
        gateway(settings(tmp_path, engine)) as (url, _process),
        httpx.stream("POST", f"{url}/api/chat", json={"model": ALIAS}) as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        heard.extend(reply.iter_lines())
    assert reply.status_code == 200


def test_the_gateway_says_what_is_wrong_with_its_settings(tmp_path: Path) -> None:
    """A taken port is exit code 78; --help needs no settings."""
    config = settings(tmp_path, "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(config.read_text().replace("port = 0", f"port = {taken.getsockname()[1]}"))
        command = [sys.executable, "-m", "services.gateway"]
        refused = subprocess.run([*command, "--config", str(config)], capture_output=True, text=True, check=False)
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "cannot listen" in refused.stderr) == (78, True)
    assert (helped.returncode, "--config" in helped.stdout) == (0, True)


# --- under systemd ---------------------------------------------------------------------------------------------


def test_it_is_ready_for_systemd_and_feeds_the_watchdog(tmp_path: Path) -> None:
    """READY=1 once it listens, then WATCHDOG=1 again and again, engine or not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        watched = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with gateway(settings(tmp_path, "http://127.0.0.1:1"), **watched):
            told = [listener.recv(100) for _ in range(3)]
    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_clean(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say of the unit, once its program is installed."""
    text = (Path(__file__).parents[2] / "systemd" / "fleetssd-gateway.service").read_text()
    unit = tmp_path / "fleetssd-gateway.service"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
