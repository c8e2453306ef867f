"""Kill -9 of who swaps, of the engine and of the gateway in the steps of a swap: the alias never leads to nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.serving import served
from tests.e2e import swap_child
from tests.e2e.small_world import environment, free_port

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ADAPTED, MERGED, ALIAS = "fleet-base:latest", "fleet-coder:v1", "fleet-coder:v2", "fleet-coder:latest"
SLOW = 700
"""Milliseconds that a step is stretched to: long enough to be seen and killed in."""
PATIENCE = 60.0
Process: TypeAlias = subprocess.Popen[str]

pytestmark = pytest.mark.e2e


def eventually(look: Callable[[], object], what: str) -> None:
    """Wait until there is something to see."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"{what}: nothing to be seen"
        time.sleep(0.005)


def start(module: str, *arguments: str) -> Process:
    """Start one of our processes."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())


def kill(process: Process) -> None:
    """End a process as a power cut would."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@dataclass
class Place:
    """An engine over a folder that outlives it, at one address, with a base and two candidates."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: Process | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alias(self) -> Path:
        """The alias on the engine's disk."""
        return self.folder / "ollama/manifests/registry.ollama.ai/library/fleet-coder/latest"

    def up(self) -> None:
        """Start it and wait until it answers."""
        self.process = start(
            "services.embedded_ollama", "--port", str(self.port), "--data", str(self.folder / "ollama"),
            "--profile", "0.34.1",
        )  # fmt: skip
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline())["url"] == self.url

    def down(self) -> None:
        """Kill it."""
        assert self.process is not None
        kill(self.process)

    def post(self, path: str, **body: object) -> httpx.Response:
        """Ask it."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60)

    def names(self) -> dict[str, str]:
        """Return its names and digests."""
        return {row["name"]: row["digest"] for row in httpx.get(f"{self.url}/api/tags").json()["models"] or []}

    def answer(self, model: str, url: str = "") -> str:
        """Return a model's greedy answer."""
        options = {"temperature": 0, "num_predict": 8}
        body = {"model": model, "prompt": "def f1(x", "raw": True, "stream": False, "options": options}
        return str(httpx.post(f"{url or self.url}/api/generate", json=body, timeout=60).json()["response"])

    def furnish(self) -> None:
        """Install the base, an adapter on the base's own file, and a merged file."""
        with closing(OllamaEngine(self.url, BASE, partial(serve_manifest, "127.0.0.1"))) as engine:
            blobs = {name: engine.upload(FILES / f"{name}.gguf") for name in ("base", "a1", "m1")}
            for model, blob in ((BASE, blobs["base"]), (MERGED, blobs["m1"])):
                files = {"m.gguf": f"sha256:{blob}"}
                self.post("/api/create", model=model, files=files, parameters={"num_ctx": 256}, stream=False)
            engine.pull(ADAPTED, BASE, None, blobs["a1"])
            for model, kind, blob in ((BASE, "base", "base"), (ADAPTED, "adapter", "a1"), (MERGED, "merged", "m1")):
                served_digest = engine.digest_of(model)
                assert served_digest is not None
                self.checkpoints[model] = Checkpoint(
                    blobs[blob], kind, model, served_digest, None, "none", 1.0, 1, NOW  # type: ignore[arg-type]
                )  # fmt: skip
                self.answers[model] = self.answer(model)
        assert len(set(self.answers.values())) == 3


@dataclass(frozen=True)
class Swapping:
    """A swap that is to be disturbed: where it starts, where it goes, and the settings and log of its own."""

    place: Place
    config: Path
    target: str
    verb: str

    def child(self) -> Process:
        """Start what swaps."""
        digest = self.place.checkpoints[self.target].digest
        return start("tests.e2e.swap_child", str(self.config), digest, self.verb)

    def log(self) -> list[Swap]:
        """Return the swap log."""
        with closing(SqlStore.open(f"sqlite:///{self.config.parent / 'fleetssd.sqlite3'}")) as store:
            return list(store.swaps())

    def finish(self) -> None:
        """Swap again, as a restart does; the alias is proven at the target by one line, and answers so."""
        wanted = self.place.checkpoints[self.target]
        assert swap_child.main(str(self.config), wanted.digest, self.verb) == 0
        log = self.log()
        now = served(log, list(self.place.checkpoints.values()))
        assert now is not None
        assert now.digest == wanted.digest
        assert [line.done for line in log if line.kind == self.verb and line.to_digest == wanted.digest] == [True]
        assert self.place.names()[ALIAS] == wanted.served_digest
        assert self.place.answer(ALIAS) == self.place.answers[self.target]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield an engine that outlives its own kills."""
    made = Place(tmp_path_factory.mktemp("place"))
    made.up()
    made.furnish()
    store = SqlStore.open(f"sqlite:///{made.folder / 'fleetssd.sqlite3'}")
    for checkpoint in made.checkpoints.values():
        store.put_checkpoint(checkpoint)
    store.close()
    yield made
    made.down()


STEPS = {
    "merged, loading": (MERGED, "flip", {"slow_load_ms": SLOW}),
    "merged, pointing": (MERGED, "flip", {"alias_eof_ms": SLOW}),
    "adapter, pointing": (ADAPTED, "flip", {"alias_eof_ms": SLOW}),
    "adapter, loading": (ADAPTED, "flip", {"slow_load_ms": SLOW}),
    "rollback, pointing": (BASE, "rollback", {"alias_eof_ms": SLOW}),
    "rollback, loading": (BASE, "rollback", {"slow_load_ms": SLOW}),
}
"""Where a swap can be for more than an instant: the checkpoint it goes to, the verb, and what stretches the step."""


@pytest.fixture(params=STEPS)
def swapping(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swapping]:
    """Yield a swap before it begins, with a fault that stretches one of its steps."""
    target, verb, fault = STEPS[request.param]
    shutil.copy(place.folder / "fleetssd.sqlite3", tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[forge]\nurl = "http://127.0.0.1:9"\ntoken_file = "token"\n'
        f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n[gateway]\nport = {free_port()}\n'
        f'[engine]\nurl = "{place.url}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
    )
    made = Swapping(place, config, target, verb)
    first = ADAPTED if verb == "rollback" else BASE
    place.post("/api/copy", source=first, destination=ALIAS)
    if verb == "rollback":
        with closing(SqlStore.open(f"sqlite:///{tmp_path / 'fleetssd.sqlite3'}")) as store:
            origin, to = place.checkpoints[BASE], place.checkpoints[ADAPTED]
            line = Swap(0, "flip", "dawn", origin.digest, to.digest, to.model, None, "before")
            store.finish_swap(store.begin_swap(line, NOW).id, NOW, {})
    for row in httpx.get(f"{place.url}/api/ps").json()["models"]:
        place.post("/api/generate", model=row["name"], keep_alive=0)
    httpx.post(f"{place.url}/embedded/faults", json=fault)
    yield made
    with suppress(httpx.TransportError):
        httpx.delete(f"{place.url}/embedded/faults")


@contextmanager
def in_its_step(swap: Swapping, step: str) -> Iterator[Process]:
    """Start the swap and yield it in the middle of the step."""
    child = swap.child()
    aims = swap.place.checkpoints[swap.target].served_digest
    if step.endswith("pointing"):
        eventually(lambda: swap.place.alias.stat().st_size == 0, "a half-written alias")
    elif step == "merged, loading":
        eventually(lambda: swap.log()[-1:] and not swap.log()[-1].done, "an intent")
    else:
        eventually(lambda: swap.place.names().get(ALIAS) == aims, "the alias at its target")
    assert child.poll() is None
    yield child
    if child.poll() is None:
        child.wait(timeout=PATIENCE)
    assert child.stdout is not None
    child.stdout.close()


def test_who_swaps_dies(swapping: Swapping, request: pytest.FixtureRequest) -> None:
    """The next start finishes what the dead one began; until then the alias is the incumbent or the candidate."""
    with in_its_step(swapping, request.node.callspec.params["swapping"]) as child:
        child.kill()
    assert not swapping.log()[-1].done
    known = {checkpoint.served_digest for checkpoint in swapping.place.checkpoints.values()}
    eventually(lambda: swapping.place.names().get(ALIAS) in known, "an alias that is whole")
    swapping.finish()


def test_the_engine_dies(swapping: Swapping, request: pytest.FixtureRequest) -> None:
    """Who swaps asks to be tried again; the engine comes back, at worst with half an alias, and all is finished."""
    step = request.node.callspec.params["swapping"]
    with in_its_step(swapping, step) as child:
        swapping.place.down()
        assert child.wait(timeout=PATIENCE) == 75
    assert not swapping.log()[-1].done
    swapping.place.up()
    assert (swapping.place.names().get(ALIAS) is None) is step.endswith("pointing")
    swapping.finish()


@pytest.mark.parametrize("swapping", ["merged, loading", "adapter, pointing", "rollback, loading"], indirect=True)
def test_the_gateway_dies(swapping: Swapping, request: pytest.FixtureRequest) -> None:
    """A swap of any kind ends without it, and a gateway that starts anew sends callers where the log says."""
    first = gateway(swapping.config)
    with in_its_step(swapping, request.node.callspec.params["swapping"]) as child:
        kill(first)
        assert child.wait(timeout=PATIENCE) == 0
    swapping.finish()
    again = gateway(swapping.config)
    url = f"http://127.0.0.1:{swapping.config.read_text().partition('port = ')[2].split()[0]}"
    assert swapping.place.answer(ALIAS, url) == swapping.place.answers[swapping.target]
    kill(again)


def gateway(config: Path) -> Process:
    """Start a gateway and wait until it listens."""
    process = start("services.gateway", "--config", str(config))
    assert process.stdout is not None
    assert process.stdout.readline()
    return process
