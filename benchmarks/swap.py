"""Swaps checkpoints under constant streaming load, by the alias itself and through the gateway, and counts who noticed.

The engine is the embedded Ollama, whose alias is half written for some milliseconds at each copy, as the real one's
was measured to be. Swaps are the product's own (`operations.swap`): evidence, lease, proof and all; every tenth one is
a rollback. Each checkpoint is recognisable by its greedy answer, so an answer by a checkpoint that did not serve while
the request ran is seen. Latencies are those of the same load at rest, before, and during the swaps.

A row ends when its share of --minutes is over, and on Ctrl-C or SIGTERM all do: what was seen until then is told and
counts as far as it goes. It is also kept in --out, rewritten every few seconds.

usage: python -m benchmarks.swap [--swaps 1000] [--minutes 25] [--profiles 0.32 0.34.1] [--ways alias gateway]
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import structlog

from benchmarks.swap_load import GREEDY, PROMPT, WINDOW, Load, Swapped, numbers, spread
from fleetssd import wiring
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint
from fleetssd.config import Settings, load
from fleetssd.operations.swap import flip, rollback

FILES = Path(__file__).parents[1] / "tests" / "samples" / "ollama" / "files"
BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"
CANDIDATES = ("fleet-coder:v20261122-m1", "fleet-coder:v20261123-m2")
ROLLBACK_GOAL = 1.0
"""Seconds from the decision to an answer of the incumbent, where it is still loaded."""
FOLLOWS = 5.0
"""Seconds after which a gateway that has not followed a swap is taken for lost."""
TURN = 10
"""Every so many swaps one is a rollback."""
LOOK = 10.0
"""Seconds between two looks at a row that is not whole yet."""


@dataclass(frozen=True)
class World:
    """An engine, a database, the product's settings, and the way that callers take."""

    engine: OllamaEngine
    store: SqlStore
    settings: Settings
    url: str
    gateway: bool

    def swap(self, target: Checkpoint | None, serving: str) -> Swapped:
        """Flip to a checkpoint, or roll back from what serves (its digest), and wait until callers are sent there."""
        held = set(self.engine.loaded().values())
        now, began = datetime.now(UTC), time.monotonic()
        if target is None:
            done = rollback(self.store, self.engine, self.settings, actor="operator", reason="benchmark", now=now)
        else:
            done = flip(self.store, self.engine, self.settings, target, actor="operator", now=now)
        end = time.monotonic() + FOLLOWS
        while self.gateway and httpx.get(f"{self.url}/healthz").json()["served"] != done.to_digest:
            if time.monotonic() > end:
                sys.exit("the gateway did not follow the swap log")
            time.sleep(0.01)
        on_file = self.store.checkpoint(done.to_digest)
        loaded = on_file is not None and on_file.served_digest in held
        return Swapped(began, time.monotonic(), done.to_digest, serving, target is None, loaded)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """Run a service until the block ends; yields the URL that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(  # in a session of its own: a Ctrl-C ends the measurement, and then this
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as child:
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


@dataclass
class Clock:
    """How long the rows may take; `over` once somebody asks for the end."""

    ends: float
    over: threading.Event

    def until(self, rows: int) -> float:
        """Return when a row must end that so many rows share the time with, itself included."""
        now = time.monotonic()
        return now + max(self.ends - now, 0) / rows


@dataclass
class Row:
    """One profile by one way, and what was seen of it so far."""

    profile: str
    way: str
    wanted: int
    window_ms: int
    seen: dict[str, object]

    def measure(self, clock: Clock, streams: int, rest: float, until: float, keep: Callable[[], None]) -> None:
        """Swap until all is done or time is over; `seen` is right whenever `keep` is called."""
        with (
            tempfile.TemporaryDirectory() as name,
            world(Path(name), self.profile, gateway=self.way == "gateway", window_ms=self.window_ms) as made,
        ):
            where, checkpoints = made
            known = answers(where, checkpoints)
            still, busy = (Load(where.url, ALIAS, streams) for _ in range(2))
            with still.running():
                clock.over.wait(rest)
            swaps, looked = [Swapped(0.0, 0.0, checkpoints[0].digest)], time.monotonic()
            with busy.running():
                for number in range(self.wanted):
                    if clock.over.is_set() or time.monotonic() > until:
                        break
                    others = [one for one in checkpoints[1:] if one.digest != swaps[-1].digest]
                    target = None if number % TURN == TURN - 1 else others[number % len(others)]
                    swaps.append(where.swap(target, swaps[-1].digest))
                    if time.monotonic() > looked + LOOK:
                        self.seen = numbers(swaps, still.calls, tuple(busy.calls), known)
                        looked = time.monotonic()
                        self.say(until)
                        keep()
            self.seen = numbers(swaps, still.calls, busy.calls, known)
            told = [swap.evidence for swap in where.store.swaps() if "alias_ms" in swap.evidence]
            self.seen["most_copies"] = max((one["alias_copies"] for one in told), default=0)
            self.seen["alias_ms"] = spread([one["alias_ms"] for one in told])
            keep()

    def say(self, until: float) -> None:
        """Say on stderr how far it is."""
        seen = self.seen
        sys.stderr.write(
            f"{self.profile} {self.way}: {seen['swaps']} of {self.wanted} swaps, {seen['calls']} calls, "
            f"{seen['failed']} failed, {seen['wrong_answers']} wrong; at most {until - time.monotonic():.0f} s more\n"
        )

    def told(self) -> dict[str, object]:
        """Return the row as a table."""
        return {"profile": self.profile, "way": self.way, "wanted": self.wanted, **self.seen, "holds": self.holds()}

    def holds(self) -> bool:
        """Say whether it is what is claimed: a gateway fails nobody, an alias only in its window, nobody is misled."""
        failures, back = self.seen["failures"], self.seen["rollback_first_s"]
        assert isinstance(failures, dict)
        allowed = {WINDOW} if self.way == "alias" else set()
        fast = not isinstance(back, dict) or back["max"] <= ROLLBACK_GOAL
        return set(failures) <= allowed and self.seen["wrong_answers"] == 0 and fast

    def line(self) -> str:
        """Return a line of the table."""
        seen, back = self.seen, self.seen["rollback_first_s"]
        return (
            f"{self.profile:>7} {self.way:>8} {seen['swaps']:>6} {seen['calls']:>7} {seen['failed']:>7} "
            f"{seen['wrong_answers']:>6} {seen['p50_ms']:>8} {seen['added_p50_ms']:>8} {seen['p99_ms']:>8} "
            f"{seen['added_p99_ms']:>8} {back['max'] if isinstance(back, dict) else '-':>9}  "
            + (", ".join(f"{count} x {name}" for name, count in dict(seen["failures"]).items()) or "no failure")  # type: ignore[call-overload]
        )


HEAD = (
    f"{'profile':>7} {'way':>8} {'swaps':>6} {'calls':>7} {'failed':>7} {'wrong':>6} {'p50 ms':>8} {'added':>8} "
    f"{'p99 ms':>8} {'added':>8} {'back s':>9}  failures"
)


def claim(rows: Sequence[Row]) -> dict[str, object]:
    """Return what was seen as one object; it holds where every row is whole and does."""
    through = [row for row in rows if row.way == "gateway"] or rows
    whole = all(row.seen["swaps"] == row.wanted for row in rows)
    return {
        "claim": "failed requests while checkpoints are swapped under streaming load",
        "value": sum(int(str(row.seen["failed"])) for row in through),
        "goal": 0,
        "whole": whole,
        "holds": whole and all(row.holds() for row in rows),
        "rows": [row.told() for row in rows],
    }


def kept(out: Path, rows: Sequence[Row]) -> None:
    """Write what was seen so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".part")
    beside.write_text(json.dumps(claim(rows), indent=1))
    beside.replace(out)


def main() -> int:
    """Print a table and, last, the claim as one JSON object; 1 where it does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000, help="swaps of each row (default 1000)")
    parser.add_argument("--minutes", type=float, default=25.0, help="all rows together take no longer (default 25)")
    parser.add_argument("--streams", type=int, default=4, help="answers streamed at a time (default 4)")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of the same load at rest (default 10)")
    parser.add_argument("--profiles", nargs="+", default=["0.32", "0.34.1"], help="Ollamas to stand in for")
    parser.add_argument("--ways", nargs="+", default=["alias", "gateway"], choices=["alias", "gateway"])
    parser.add_argument("--window-ms", type=int, default=4, help="how long a copied alias is half written (default 4)")
    parser.add_argument("--out", type=Path, default=Path(".cache/swap.json"), help="where results are kept")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = Clock(time.monotonic() + args.minutes * 60, threading.Event())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: clock.over.set())
    ways = [(profile, way) for profile in args.profiles for way in args.ways]
    rows: list[Row] = []
    print(HEAD, flush=True)
    for left, (profile, way) in zip(range(len(ways), 0, -1), ways, strict=True):
        if clock.over.is_set():
            break
        rows.append(Row(profile, way, args.swaps, args.window_ms, {}))
        rows[-1].measure(clock, args.streams, args.rest, clock.until(left), lambda: kept(args.out, rows))
        print(rows[-1].line(), flush=True)
    for row in rows:
        print(f"{'holds' if row.holds() else 'DOES NOT HOLD'}: {row.profile} by {row.way}, {row.seen['swaps']} swaps")
    found = claim(rows)
    print(json.dumps(found))
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
