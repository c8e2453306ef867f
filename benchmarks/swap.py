"""Swaps checkpoints under constant streaming load, by the alias itself and through the gateway, and counts who noticed.

The engine is the embedded Ollama, whose alias is half written for some milliseconds at each copy, as the real one's
was measured to be. Swaps are the product's own (`operations.swap`): evidence, lease, proof and all; every tenth one is
a rollback. Each checkpoint is recognisable by its greedy answer, so an answer by a checkpoint that did not serve while
the request ran is seen. Latencies are those of the same load at rest, before, and during the swaps.

usage: python -m benchmarks.swap [--swaps 1000] [--profiles 0.32 0.34.1] [--ways alias gateway] [--window-ms 4]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import httpx

from fleetssd import wiring
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint
from fleetssd.config import Settings, load
from fleetssd.operations.swap import flip, rollback

FILES = Path(__file__).parents[1] / "tests" / "samples" / "ollama" / "files"
BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"
CANDIDATES = ("fleet-coder:v20261122-m1", "fleet-coder:v20261123-m2")
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 16}
PROMPT = "def f1(x"
ROLLBACK_GOAL = 1.0
"""Seconds from the decision to an answer of the incumbent, where it is still loaded."""
FOLLOWS = 5.0
"""Seconds after which a gateway that has not followed a swap is taken for lost."""
BACK_OFF = 0.02
"""Seconds a caller waits after a failure."""
TURN = 10
"""Every so many swaps one is a rollback."""


@dataclass(frozen=True)
class Served:
    """A checkpoint that was proven to serve, and when."""

    at: float
    digest: str


@dataclass(frozen=True)
class Call:
    """One streamed request: when it ran, seconds to its first byte, and its answer, or how it failed."""

    began: float
    ended: float
    first: float
    answer: str
    failure: str


@dataclass
class Load:
    """Constant concurrent streams in a thread of their own; `calls` grows until `stop`."""

    url: str
    streams: int
    calls: list[Call] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask as long as the block lasts."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()
            self.over.clear()

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            await asyncio.gather(*(self._stream(client) for _ in range(self.streams)))

    async def _stream(self, client: httpx.AsyncClient) -> None:
        while not self.over.is_set():
            call = await asked(client)
            self.calls.append(call)
            if call.failure:  # whoever asks again at once meets the same half-written alias
                await asyncio.sleep(BACK_OFF)


async def asked(client: httpx.AsyncClient) -> Call:
    """Stream one answer of the alias."""
    began = time.monotonic()
    first, texts, done, failure = 0.0, [], False, ""
    body = {"model": ALIAS, "prompt": PROMPT, "raw": True, "options": GREEDY}
    try:
        async with client.stream("POST", "/api/generate", json=body) as reply:
            if reply.status_code != 200:
                failure = f"{reply.status_code} {(await reply.aread()).decode()[:80]}"
            else:
                async for line in reply.aiter_lines():
                    first = first or time.monotonic() - began
                    told = json.loads(line)
                    texts.append(told.get("response", ""))
                    done = done or bool(told.get("done"))
                    failure = failure or str(told.get("error", ""))
    except httpx.TransportError as error:
        failure = type(error).__name__
    return Call(began, time.monotonic(), first, "".join(texts), failure or ("" if done else "ended in silence"))


@dataclass(frozen=True)
class World:
    """An engine, a database, the product's settings, and the way that callers take."""

    engine: OllamaEngine
    store: SqlStore
    settings: Settings
    url: str
    gateway: bool

    def swap(self, target: Checkpoint | None) -> Served:
        """Flip to a checkpoint, or roll back, and wait until callers are sent there."""
        now = datetime.now(UTC)
        if target is None:
            done = rollback(self.store, self.engine, self.settings, actor="operator", reason="benchmark", now=now)
        else:
            done = flip(self.store, self.engine, self.settings, target, actor="operator", now=now)
        end = time.monotonic() + FOLLOWS
        while self.gateway and httpx.get(f"{self.url}/healthz").json()["served"] != done.to_digest:
            if time.monotonic() > end:
                sys.exit("the gateway did not follow the swap log")
            time.sleep(0.01)
        return Served(time.monotonic(), done.to_digest)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """Run a service until the block ends; yields the URL that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            yield str(json.loads(child.stdout.readline())["url"])
        finally:
            child.terminate()
            child.wait(timeout=60)


@contextmanager
def world(folder: Path, profile: str, *, gateway: bool, window_ms: int) -> Iterator[tuple[World, list[Checkpoint]]]:
    """Serve a base and install two candidates beside it, each with a file of its own."""
    with ExitStack() as stack:
        data = str(folder / "ollama")
        engine_url = stack.enter_context(
            process("services.embedded_ollama", "--port", "0", "--data", data, "--profile", profile, "--parallel", "8")
        )
        config = folder / "config.toml"
        config.write_text(
            f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:9"\ntoken_file = "{folder}/token"\n'
            f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n[gateway]\nport = 0\n'
            f'[engine]\nurl = "{engine_url}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
        )
        settings = load(config)
        store = stack.enter_context(closing(wiring.open_store(settings)))
        engine = stack.enter_context(closing(OllamaEngine(engine_url, BASE, wiring_serve)))
        checkpoints = [
            installed(engine, engine_url, model, data) for model, data in zip((BASE, *CANDIDATES), files(), strict=True)
        ]
        for checkpoint in checkpoints:
            store.put_checkpoint(checkpoint)
            engine.preload(checkpoint.model)
        engine.point(ALIAS, BASE)
        httpx.post(f"{engine_url}/embedded/faults", json={"alias_eof_ms": window_ms}).raise_for_status()
        url = stack.enter_context(process("services.gateway", "--config", str(config))) if gateway else engine_url
        yield World(engine, store, settings, url, gateway), checkpoints


def wiring_serve(*_: object) -> object:
    """Open no registry: nothing is installed while swaps are measured."""
    raise NotImplementedError


def files() -> list[bytes]:
    """Return three models whose greedy answers differ: the sample's base, its merged one, and one between them."""
    base, merged = (FILES / "base.gguf").read_bytes(), (FILES / "m1.gguf").read_bytes()
    half = len(base) // 2
    return [base, merged, base[:half] + merged[half:]]


def installed(engine: OllamaEngine, url: str, model: str, data: bytes) -> Checkpoint:
    """Create a model of a file and return it as a checkpoint."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        digest = engine.upload(Path(file.name))
    body = {"model": model, "files": {"m.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 256}, "stream": False}
    httpx.post(f"{url}/api/create", json=body, timeout=60).raise_for_status()
    kind = "base" if model == BASE else "merged"
    served = engine.digest_of(model)
    assert served is not None
    return Checkpoint(digest, kind, model, served, None, "none", 1.0, len(data), datetime.now(UTC))  # type: ignore[arg-type]


def answers(world: World, checkpoints: Sequence[Checkpoint]) -> dict[str, str]:
    """Return the checkpoint's digest by the answer that it gives."""
    found = {}
    for checkpoint in checkpoints:
        body = {"model": checkpoint.model, "prompt": PROMPT, "raw": True, "options": GREEDY, "stream": False}
        said = httpx.post(f"{world.settings.engine.url}/api/generate", json=body, timeout=60).json()["response"]
        found[said] = checkpoint.digest
    if len(found) != len(checkpoints):
        sys.exit("two checkpoints give one answer: they cannot be told apart")
    return found


def wrong(calls: Sequence[Call], served: Sequence[Served], known: dict[str, str]) -> int:
    """Count answers by a checkpoint that did not serve at any moment of the request.

    A swap is on the way from the proof of the one before it to its own: in that time both may answer.
    """
    count = 0
    for call in calls:
        if call.failure:
            continue
        before = [one for one in served if one.at <= call.began][-1:]
        within = [one for one in served if call.began < one.at <= call.ended]
        after = [one for one in served if one.at > call.ended][:1]
        count += known.get(call.answer) not in {one.digest for one in (*before, *within, *after)}
    return count


def percentile(values: Sequence[float], share: int) -> float:
    """Return a percentile, in milliseconds."""
    return (quantiles(values, n=100)[share - 1] if len(values) > 1 else values[0]) * 1e3


def measured(profile: str, way: str, swaps: int, streams: int, rest: float, window_ms: int) -> dict[str, object]:
    """Measure one profile by one way, print its row and return its numbers."""
    with (
        tempfile.TemporaryDirectory() as name,
        world(Path(name), profile, gateway=way == "gateway", window_ms=window_ms) as (made, checkpoints),
    ):
        known = answers(made, checkpoints)
        still = Load(made.url, streams)
        with still.running():
            time.sleep(rest)
        served, took, busy = [Served(0.0, checkpoints[0].digest)], list[float](), Load(made.url, streams)
        decided = list[tuple[float, str]]()
        with busy.running():
            for number in range(swaps):
                returning = number % TURN == TURN - 1
                others = [one for one in checkpoints[1:] if one.digest != served[-1].digest]
                began = time.monotonic()
                served.append(made.swap(None if returning else others[number % len(others)]))
                if returning:
                    decided.append((began, served[-1].digest))
                took.append(served[-1].at - began)
        copies = [swap.evidence.get("alias_copies", 0) for swap in made.store.swaps()]
    back = returned(decided, busy.calls, known)
    failures = Counter(call.failure for call in busy.calls if call.failure)
    window = sum(count for said, count in failures.items() if "EOF" in said)
    found = {
        "profile": profile,
        "way": way,
        "swaps": swaps,
        "calls": len(busy.calls),
        "failed": sum(failures.values()),
        "failed_in_the_alias_window": window,
        "failures": dict(failures),
        "wrong_answers": wrong(busy.calls, served, known),
        "swap_s": round(median(took), 3),
        "most_copies": max(copies, default=0),
        "rollback_s": {"median": round(median(back), 3), "max": round(max(back), 3)} if back else None,
    }
    for share in (50, 99):
        rest_ms, swap_ms = (
            percentile([call.ended - call.began for call in loaded.calls if not call.failure], share)
            for loaded in (still, busy)
        )
        found |= {f"p{share}_ms": round(swap_ms, 1), f"added_p{share}_ms": round(swap_ms - rest_ms, 1)}
    print(row(found))
    return found


def returned(decided: Sequence[tuple[float, str]], calls: Sequence[Call], known: dict[str, str]) -> list[float]:
    """Return for each rollback the seconds from its decision until a caller had an answer of the incumbent whole."""
    ends = [
        [call.ended - began for call in calls if call.ended > began and known.get(call.answer) == digest]
        for began, digest in decided
    ]
    return [min(found) for found in ends if found]


def row(found: dict[str, object]) -> str:
    """Return a line of the table."""
    back = found["rollback_s"]
    return (
        f"{found['profile']:>7} {found['way']:>8} {found['swaps']:>6} {found['calls']:>7} {found['failed']:>7} "
        f"{found['failed_in_the_alias_window']:>10} {found['wrong_answers']:>6} {found['p50_ms']:>8} "
        f"{found['added_p50_ms']:>8} {found['p99_ms']:>8} {found['added_p99_ms']:>8} "
        f"{back['max'] if isinstance(back, dict) else '-':>9}"
    )


HEAD = (
    f"{'profile':>7} {'way':>8} {'swaps':>6} {'calls':>7} {'failed':>7} {'in window':>10} {'wrong':>6} {'p50 ms':>8} "
    f"{'added':>8} {'p99 ms':>8} {'added':>8} {'back s':>9}"
)


def holds(found: dict[str, object]) -> bool:
    """Say whether a row is what is claimed: a gateway fails nobody, an alias only in its window, nobody is misled."""
    back = found["rollback_s"]
    fast = not isinstance(back, dict) or back["max"] <= ROLLBACK_GOAL
    allowed = 0 if found["way"] == "gateway" else found["failed_in_the_alias_window"]
    return found["failed"] == allowed and found["wrong_answers"] == 0 and fast


def main() -> None:
    """Print a table and, last, the claim as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000, help="swaps of each row (default 1000)")
    parser.add_argument("--streams", type=int, default=4, help="answers streamed at a time (default 4)")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of the same load at rest (default 10)")
    parser.add_argument("--profiles", nargs="+", default=["0.32", "0.34.1"], help="Ollamas to stand in for")
    parser.add_argument("--ways", nargs="+", default=["alias", "gateway"], choices=["alias", "gateway"])
    parser.add_argument("--window-ms", type=int, default=4, help="how long a copied alias is half written (default 4)")
    args = parser.parse_args()
    wiring.configure_logging()
    print(HEAD)
    rows = [
        measured(profile, way, args.swaps, args.streams, args.rest, args.window_ms)
        for profile in args.profiles
        for way in args.ways
    ]
    for found in rows:
        print(
            f"{'holds' if holds(found) else 'DOES NOT HOLD'}: {found['profile']} by {found['way']}: {found['failures']}"
        )
    through = [found for found in rows if found["way"] == "gateway"] or rows
    print(
        json.dumps(
            {
                "claim": f"failed requests over {args.swaps} swaps under streaming load",
                "value": sum(int(str(found["failed"])) for found in through),
                "goal": 0,
                "holds": all(map(holds, rows)),
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
