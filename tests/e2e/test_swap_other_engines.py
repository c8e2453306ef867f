"""One adapter from a night's folder to the alias and back, over llama.cpp's own server and a stand-in for vLLM."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from fleetssd import wiring
from fleetssd.adapters.store import SqlStore
from fleetssd.canary import meets
from fleetssd.checkpoints import Checkpoint
from fleetssd.config import Settings, load
from fleetssd.operations import canary
from fleetssd.operations.capabilities import known
from fleetssd.operations.freeze import base_checkpoint
from fleetssd.operations.install import install
from fleetssd.operations.keep import keep
from fleetssd.operations.retention import sweep
from fleetssd.operations.swap import flip, rollback
from fleetssd.ports import Engine, Prompt
from fleetssd.recipe import Lora, NightPlan, Sampling
from fleetssd.telemetry import Filter
from tests.contract.llama_server import Running, llama_server
from tests.contract.vllm_server import vllm_server
from tests.e2e.test_gateway import gateway

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 8)
LONG = "Write a function that reverses a list and counts its words. " * 4
BODY = {"model": ALIAS, "messages": [{"role": "user", "content": LONG}], "temperature": 0, "top_k": 1, "max_tokens": 8}
PLAN = NightPlan(
    1, "ssd", 1, (), (), (), GREEDY, Lora(4, 8.0, (), 1e-3, 4, 1, 1, 0, 64), GREEDY, "none", (0.2,), 4, 4, "auto", "0",
    "0", BASE, 1.0,
)  # fmt: skip

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class World:
    """What the test acts on."""

    config: Path
    settings: Settings
    store: SqlStore
    engine: Engine
    base: Checkpoint
    server: Running | None

    def install(self) -> Checkpoint:
        """Install the sample as a night would and put it on file."""
        folder = self.settings.data_dir / "artefact"
        (folder / "peft").mkdir(parents=True)
        (folder / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
        (folder / "peft" / "adapter_model.safetensors").write_bytes(b"matrices")
        content = (FILES / "a1.gguf").read_bytes()
        (folder / "adapter.gguf").write_bytes(content)
        made = install(
            self.engine, plan=PLAN, base_model=BASE, alias=ALIAS, folder=folder, road="adapter-create", tau=1.0,
            files={"adapter": hashlib.sha256(content).hexdigest()}, prompts=["def f1(x", "def f2(y"], witnesses=(),
            now=NOW,
        ).checkpoint  # fmt: skip
        self.store.put_checkpoint(made)
        return made

    def put_in(self, number: int, model: str) -> Checkpoint:
        """Create a model of a sample adapter and put it on file."""
        folder = self.settings.data_dir / model.replace(":", "-")
        folder.mkdir()
        (folder / "adapter.gguf").write_bytes((FILES / f"a{number}.gguf").read_bytes())
        digest = self.engine.upload(folder / "adapter.gguf")
        served = self.engine.create(model, BASE, None, digest)
        made = Checkpoint(digest, "adapter", model, served, None, "adapter-create", 1.0, 1, NOW)
        self.store.put_checkpoint(made)
        return made

    def ask(self, model: str) -> str:
        """Ask what the agents ask, as an evaluation does."""
        return self.engine.complete(model, [Prompt(LONG, 1)], GREEDY, lambda *_: None)[0].text

    def answer(self) -> str:
        """Return what the fleet gets from its alias."""
        return self.engine.complete(ALIAS, [Prompt("def f1(x", 1)], GREEDY, lambda *_: None)[0].text


@pytest.fixture(params=["llama-server", "vllm"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Yield a fleet that serves its base."""
    (tmp_path / "hf").mkdir()
    with ExitStack() as stack:
        server = None
        if request.param == "vllm":
            url = stack.enter_context(vllm_server(BASE, tmp_path / "hf")).url
        else:
            server = stack.enter_context(llama_server(FILES / "base.gguf", tmp_path / "adapters"))
            url = server.url
        config = tmp_path / "config.toml"
        config.write_text(
            f'data_dir = "{tmp_path}"\n[forge]\nurl = "http://127.0.0.1:1"\ntoken_file = "token"\n'
            f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n'
            f'[base]\nweights = "hf"\ngguf = "{FILES / "base.gguf"}"\n'
            f'[engine]\nkind = "{request.param}"\nurl = "{url}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
            f'adapters_dir = "adapters"\nreload_command = {json.dumps(server.reload if server else ())}\n'
            "[gateway]\nport = 0\n"
        )
        settings = load(config)
        store = stack.enter_context(closing(wiring.open_store(settings)))
        engine = stack.enter_context(closing(wiring.open_engine(settings)))
        base = base_checkpoint(settings, engine, NOW)
        store.put_checkpoint(base)
        yield World(config, settings, store, engine, base, server)


def test_a_checkpoint_goes_to_the_alias_and_back(world: World) -> None:
    """The alias has the adapter after the flip and none after the rollback, answers so, and nothing is left behind."""
    with gateway(world.config) as (url, _):
        _there_and_back(world, url)


def _there_and_back(world: World, url: str) -> None:
    assert known(world.store, world.engine, world.settings.engine, NOW).creates_adapters
    before, made = world.answer(), world.install()
    assert _fleet(url, world.base.digest) == before
    swap = flip(world.store, world.engine, world.settings, made, actor="dawn", now=NOW, reason="better")
    assert world.engine.digest_of(ALIAS) == made.served_digest == swap.evidence["alias_digest"]
    assert world.engine.adapter_of(ALIAS) == made.digest
    after = world.answer()
    assert after != before
    assert _fleet(url, made.digest) == after
    if world.server is not None:
        world.server.restart()
        assert world.answer() == before  # a restarted llama-server serves its base until the daemon looks
        assert _fleet(url, made.digest) == after  # the gateway says which adapter applies
        assert keep(world.store, world.engine, world.settings, NOW)
        assert world.answer() == after
    rollback(world.store, world.engine, world.settings, actor="watch", reason="worse", now=NOW)
    assert world.engine.digest_of(ALIAS) == world.base.served_digest
    assert _fleet(url, world.base.digest) == world.answer() == before
    sweep(world.store, world.engine, world.settings, NOW)
    assert world.engine.digest_of(made.model) == made.served_digest  # it served last, so it is kept


@pytest.mark.parametrize("world", ["llama-server"], indirect=True)
def test_every_answer_is_the_checkpoints_that_its_header_names(world: World) -> None:
    """Through flips, evaluations beside them, restarts, a removal and an install no request fails or mixes adapters."""
    first, second = world.put_in(1, "fleet-coder:v1"), world.put_in(2, "fleet-coder:v2")
    server = world.server
    assert server is not None
    own = {point.digest: world.ask(point.model) for point in (world.base, first, second)}
    assert len({*own.values()}) == 3
    with gateway(world.config) as (url, _), _clients(url) as heard:
        for turn, point in enumerate((first, second, first)):
            flip(
                world.store, world.engine, world.settings, point, actor="operator", now=NOW + turn * timedelta(hours=1)
            )
            heard.until(point.digest)
            world.ask(second.model)
        server.restart()
        heard.more(20)
        world.engine.remove(second.model)
        server.restart()
        heard.more(20)
        world.put_in(2, "fleet-coder:v3")
        heard.more(20)
    assert {status for status, _, _, _ in heard} == {200}
    assert {(digest, text) for _, digest, text, _ in heard} == {*own.items()}
    assert sum(cached for *_, cached in heard) > len(heard) / 2


@pytest.mark.parametrize("world", ["llama-server"], indirect=True)
def test_a_canary_is_asked_by_its_own_adapter(world: World) -> None:
    """Tasks stay on their side, whole and streamed, answered as that side's checkpoint is; an abort takes them back.

    A server that restarts meanwhile mixes nothing. Rows of calls name the checkpoint that answered.
    """
    first, second = world.put_in(1, "fleet-coder:v1"), world.put_in(2, "fleet-coder:v2")
    assert world.server is not None
    flip(world.store, world.engine, world.settings, first, actor="operator", now=datetime.now(UTC))
    own = {point.digest: world.ask(point.model) for point in (first, second)}
    trial = canary.start(world.store, world.engine, world.settings, second, datetime.now(UTC), share=0.5)
    sides = {met: next(key for key in map(str, range(99)) if meets(trial.canary, key) is met) for met in (True, False)}
    with gateway(world.config) as (url, _), httpx.Client(base_url=url, timeout=60) as fleet:
        _until(lambda: _asked(fleet, sides[True])[0] == second.digest)
        heard = [(met, *_asked(fleet, sides[met], stream=stream)) for _ in "12" for stream in (0, 1) for met in sides]
        told = {"model": ALIAS, "messages": BODY["messages"], "max_tokens": 8}
        reply = fleet.post("/v1/messages", json=told, headers={"X-Fleetssd-Task": sides[True]})
        assert reply.headers["x-fleetssd-checkpoint"] == first.digest  # this route cannot say which adapter applies
        world.server.restart()
        heard += [(met, *_asked(fleet, sides[met])) for met in sides]
        assert {*heard} == {(True, second.digest, own[second.digest]), (False, first.digest, own[first.digest])}
        assert world.engine.adapter_of(ALIAS) is None  # the restarted server's own: whoever asks past the gateway
        canary.abort(world.store, world.engine, world.settings, datetime.now(UTC), "enough")
        _until(lambda: _asked(fleet, sides[True])[0] == first.digest)
        assert [_asked(fleet, task) for task in sides.values()] == [(first.digest, own[first.digest])] * 2
    rows = world.store.calls(Filter(task=sides[True]), 99)
    assert {row.checkpoint for row in rows} == {first.digest, second.digest}


def _asked(fleet: httpx.Client, task: str, stream: int = 0) -> tuple[str, str]:
    """Ask the alias as an agent at a task; return the checkpoint by the header, and the answer."""
    reply = fleet.post("/v1/chat/completions", json=BODY | {"stream": bool(stream)}, headers={"X-Fleetssd-Task": task})
    if not stream:
        return reply.headers["x-fleetssd-checkpoint"], reply.json()["choices"][0]["message"]["content"]
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    said = (choice["delta"].get("content") for line in lines for choice in json.loads(line)["choices"])
    return reply.headers["x-fleetssd-checkpoint"], "".join(part or "" for part in said)


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, "the gateway did not follow the database"
        time.sleep(0.1)


class _Heard(list[tuple[int, str, str, bool]]):
    """Replies as they come: status, checkpoint by the header, answer, and whether the prompt came from the cache."""

    def more(self, count: int) -> None:
        """Wait for so many further replies."""
        wanted = len(self) + count
        self._wait(lambda: len(self) >= wanted)

    def until(self, digest: str) -> None:
        """Wait until a checkpoint answers."""
        start = len(self)
        self._wait(lambda: any(row[1] == digest for row in self[start:]))

    @staticmethod
    def _wait(met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not met():
            assert time.monotonic() < deadline, "no reply came"
            time.sleep(0.05)


@contextmanager
def _clients(url: str) -> Iterator[_Heard]:
    """Let three agents ask the alias one long prompt, over and over."""
    heard, stop = _Heard(), threading.Event()

    def agent() -> None:
        with httpx.Client(timeout=60) as http:
            while not stop.is_set():
                reply = http.post(f"{url}/v1/chat/completions", json=BODY)
                table = reply.json()
                text = table["choices"][0]["message"]["content"] if reply.status_code == 200 else reply.text
                cached = reply.status_code == 200 and table["timings"]["cache_n"] > 50
                heard.append((reply.status_code, reply.headers.get("x-fleetssd-checkpoint", ""), text, cached))

    with ThreadPoolExecutor(3) as pool:
        agents = [pool.submit(agent) for _ in range(3)]
        try:
            yield heard
        finally:
            stop.set()
        for one in agents:
            one.result()


def _fleet(url: str, digest: str) -> str:
    """Ask the alias through the gateway as an agent does, once the gateway sends to that checkpoint."""
    deadline = time.monotonic() + 20
    while httpx.get(f"{url}/healthz").json()["served"] != digest:
        assert time.monotonic() < deadline, "the gateway did not follow the swap log"
        time.sleep(0.1)
    turn = [{"role": "user", "content": "def f1(x"}]
    body = {"model": ALIAS, "messages": turn, "temperature": 0, "top_k": 1, "max_tokens": 8, "seed": 1}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20)
    assert reply.headers["x-fleetssd-checkpoint"] == digest
    return str(reply.json()["choices"][0]["message"]["content"])
