"""Kill -9 of who swaps, of the engine and of the gateway at every step of a swap: the alias never leads to nothing.

A step that takes time is stretched, and its process dies within it; at the others it dies before the call that takes
the step, so that between two of them there is nowhere left to die.
"""

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
from fleetssd.telemetry import Filter
from tests.e2e import swap_child
from tests.e2e.small_world import environment, free_port

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ADAPTED, MERGED, ALIAS = "fleet-base:latest", "fleet-coder:v1", "fleet-coder:v2", "fleet-coder:latest"
SLOW = 700
"""Milliseconds that a step is stretched to: long enough to be seen and killed in."""
PATIENCE = 60.0
BATCH, CALLS = 3, 8
"""Rows that a gateway may lose when it dies, and the calls that it has answered by then."""
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
    origin: str
    target: str
    verb: str

    def child(self) -> Process:
        """Start what swaps."""
        digest = self.place.checkpoints[self.target].digest
        return start("tests.e2e.swap_child", str(self.config), digest, self.verb)

    def log(self) -> list[Swap]:
        """Return the swap log."""
        with self.store() as store:
            return list(store.swaps())

    @contextmanager
    def store(self) -> Iterator[SqlStore]:
        """Open the database."""
        with closing(SqlStore.open(f"sqlite:///{self.config.parent / 'fleetssd.sqlite3'}")) as store:
            yield store

    def begin(self) -> None:
        """Put alias and log where they are before the swap."""
        for old in self.config.parent.glob("fleetssd.sqlite3*"):
            old.unlink()
        shutil.copy(self.place.folder / "fleetssd.sqlite3", self.config.parent)
        self.place.post("/api/copy", source=self.origin, destination=ALIAS)
        if self.verb == "rollback":
            first, then = self.place.checkpoints[self.target], self.place.checkpoints[self.origin]
            line = Swap(0, "flip", "dawn", first.digest, then.digest, then.model, None, "before")
            with self.store() as store:
                store.finish_swap(store.begin_swap(line, NOW).id, NOW, {})

    def whole(self) -> bool:
        """Say whether the alias is the incumbent or the candidate."""
        sides = [self.place.checkpoints[name].served_digest for name in (self.origin, self.target)]
        return self.place.names().get(ALIAS) in sides

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


Way: TypeAlias = tuple[str, str, str]
"""The checkpoint that serves before, the one that is to serve, and the verb."""

STEPS: dict[str, tuple[Way, dict[str, int]]] = {
    "merged, loading": ((BASE, MERGED, "flip"), {"slow_load_ms": SLOW}),
    "merged, pointing": ((BASE, MERGED, "flip"), {"alias_eof_ms": SLOW}),
    "adapter, pointing": ((BASE, ADAPTED, "flip"), {"alias_eof_ms": SLOW}),
    "adapter, loading": ((BASE, ADAPTED, "flip"), {"slow_load_ms": SLOW}),
    "rollback, pointing": ((ADAPTED, BASE, "rollback"), {"alias_eof_ms": SLOW}),
    "rollback, loading": ((ADAPTED, BASE, "rollback"), {"slow_load_ms": SLOW}),
}
"""Where a swap can be for more than an instant, and what stretches the step."""


def before_it(place: Place, folder: Path, way: Way) -> Swapping:
    """Return a swap before it begins, with settings and a log of its own."""
    config = folder / "config.toml"
    config.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:9"\ntoken_file = "token"\n'
        f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n[gateway]\nport = {free_port()}\n'
        f"[telemetry]\nbatch = {BATCH}\nflush_ms = 3600000.0\n"
        f'[engine]\nurl = "{place.url}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
    )
    made = Swapping(place, config, *way)
    made.begin()
    return made


@pytest.fixture(params=STEPS)
def swapping(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swapping]:
    """Yield a swap before it begins, with a fault that stretches one of its steps."""
    way, fault = STEPS[request.param]
    made = before_it(place, tmp_path, way)
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
    eventually(swapping.whole, "an alias that is whole")
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


def test_the_gateway_dies(swapping: Swapping, request: pytest.FixtureRequest) -> None:
    """A swap ends without it; a new one sends callers where the log says, and of what it answered a batch is lost."""
    url = f"http://127.0.0.1:{swapping.config.read_text().partition('port = ')[2].split()[0]}"
    first = gateway(swapping.config)
    assert {swapping.place.answer(ALIAS, url) for _ in range(CALLS)} == {swapping.place.answers[swapping.origin]}
    with in_its_step(swapping, request.node.callspec.params["swapping"]) as child:
        kill(first)
        assert child.wait(timeout=PATIENCE) == 0
    with swapping.store() as store:
        calls = store.calls(Filter(), 2 * CALLS)
    assert CALLS - BATCH <= len(calls) <= CALLS
    assert {call.checkpoint for call in calls} == {swapping.place.checkpoints[swapping.origin].digest}
    swapping.finish()
    again = gateway(swapping.config)
    assert swapping.place.answer(ALIAS, url) == swapping.place.answers[swapping.target]
    kill(again)


Die: TypeAlias = Callable[[Swapping, int, int], str]


@pytest.fixture(scope="module")
def die() -> Iterator[Die]:
    """Yield what swaps until the n-th call that counts and kills there: itself (0), or the process named."""
    command = [sys.executable, "-m", "tests.e2e.dying_child"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as server:
        told, heard = server.stdin, server.stdout
        assert told is not None
        assert heard is not None

        def one(swap: Swapping, number: int, victim: int) -> str:
            digest = swap.place.checkpoints[swap.target].digest
            print(json.dumps([str(swap.config), digest, swap.verb, number, victim]), file=told, flush=True)
            return heard.readline().strip()

        yield one


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        ((BASE, MERGED, "flip"), "begin_swap preload point adapter_of preload finish_swap release"),
        ((MERGED, BASE, "rollback"), "begin_swap point adapter_of preload finish_swap release release"),
        ((BASE, ADAPTED, "flip"), "begin_swap quiet"),
    ],
    ids=["merged", "rollback", "adapter"],
)
def test_who_swaps_dies_before_a_step(place: Place, tmp_path: Path, die: Die, way: Way, steps: str) -> None:
    """Wherever it ends, the alias is one of both, and the next start brings it to the target by one line of the log."""
    swap = before_it(place, tmp_path, way)
    for number, step in enumerate(steps.split(), start=2):  # the first is the lease: before it nothing is done
        assert die(swap, number, 0) == step
        assert swap.whole()
        swap.finish()
        swap.begin()


def test_the_engine_dies_before_a_step(place: Place, tmp_path: Path, die: Die) -> None:
    """Who swaps asks to be tried again, or is through already; the engine comes back with an alias that is whole."""
    swap = before_it(place, tmp_path, (BASE, MERGED, "flip"))
    for number, end in enumerate(("preload 75", "point 75", "adapter_of 75", "preload 75", "finish_swap 0"), start=3):
        assert place.process is not None
        assert die(swap, number, place.process.pid) == end
        place.down()
        place.up()
        assert swap.whole()
        swap.finish()
        swap.begin()


def gateway(config: Path) -> Process:
    """Start a gateway and wait until it listens."""
    process = start("services.gateway", "--config", str(config))
    assert process.stdout is not None
    assert process.stdout.readline()
    return process
