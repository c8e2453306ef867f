"""Measure how busy an evaluation keeps the engine: tokens a second, against a plain concurrent load in the same run.

The engine is the embedded Ollama with the toy's base and, as candidate, a copy of it with a temperature baked in. Asked
at one decode they answer alike and not the same, as the arms of a night do; with --alike the base is asked at that
temperature, and every answer of the candidate is one that the base gave before, which costs no run.
With --lean the plain load asks as the evaluation does, through our own client: a peer that costs half as much.
The evaluation is the night's own: all arms over every problem, graded in the sandbox, kept in SQLite. The plain load
asks the same prompts with the same seeds and decode, in the same order, as many at once, and does nothing else. Both
take turns: plain, evaluation, evaluation, plain. Processor seconds are printed beside: other load moves them less.

usage: python -m benchmarks.saturation [--problems 200] [--samples 8] [--concurrency 16] [--workers 1]
       [--base demo/base] [--alike] [--lean]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.adapters.loopback_registry import serve_manifest
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.sandboxes import BubblewrapSandbox
from fleetssd.adapters.store import SqlStore
from fleetssd.demo import processes
from fleetssd.operations.evaluate import BASE, CANDIDATE, Arm, Examiner
from fleetssd.operations.learn import seed_of
from fleetssd.ports import Prompt
from fleetssd.problems import Problem
from fleetssd.recipe import Sampling
from fleetssd.toy.work import some_work

GOAL = 0.95
TAU = 0.5
SEED = 7
DECODE = Sampling(1.0, 40, 1.0, 0.0, 96)


@dataclass
class Load:
    """What one way to ask has cost so far."""

    tokens: int = 0
    seconds: float = 0.0
    passes: list[float] = field(default_factory=list)

    def add(self, tokens: int, seconds: float) -> None:
        """Count one pass."""
        self.tokens += tokens
        self.seconds += seconds
        self.passes.append(tokens / seconds)

    @property
    def rate(self) -> float:
        """Tokens a second over all passes."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Spent:
    """Processor seconds so far: of this process, the engine, and the sandbox."""

    client: float
    engine: float
    sandbox: float

    def __sub__(self, before: Spent) -> Spent:
        return Spent(self.client - before.client, self.engine - before.engine, self.sandbox - before.sandbox)

    def __str__(self) -> str:
        return f"client {self.client:.1f} s, engine {self.engine:.1f} s, sandbox {self.sandbox:.1f} s of processor time"


def spent() -> Spent:
    """Read the processor time of everything below this process, with what ended in it."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    names: dict[int, str] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            number, told = int(entry.name), (entry / "stat").read_text()
            name, fields = told[told.index("(") + 1 : told.rindex(")")], told[told.rindex(")") + 2 :].split()
            parents[number], names[number] = int(fields[1]), name
            seconds[number] = sum(map(int, fields[11:15])) / tick
    roots: dict[int, int] = {os.getpid(): os.getpid()}

    def root(number: int) -> int:
        """Return the child of ours that a process descends from; 0 where it is not ours."""
        if number not in roots:
            above = parents.get(number, 0)
            roots[number] = number if above == os.getpid() else root(above) if above > 1 else 0
        return roots[number]

    parts = {"client": 0.0, "engine": 0.0, "sandbox": 0.0}
    for number, used in seconds.items():
        if root(number) == os.getpid():
            own = os.times()
            parts["client"] += own.user + own.system
        elif root(number):
            parts["sandbox" if names[root(number)] == "bwrap" else "engine"] += used
    return Spent(**parts)


@contextmanager
def engine(folder: Path, base: Path, concurrency: int) -> Iterator[tuple[OllamaEngine, str]]:
    """Serve the base and a baked copy of it; yield the client and the address."""
    baked = folder / "baked.gguf"
    GgufBuilder().baked(base / "base-q8_0.gguf", baked, TAU)
    with processes.server(
        "services.embedded_ollama",
        *("--data", str(folder / "ollama"), "--port", "0", "--parallel", str(concurrency)),
        log=folder / "ollama.log",
    ) as told:
        url = str(told["url"])
        with httpx.Client(base_url=url, timeout=120) as client:
            for name, gguf in (("base:latest", base / "base-q8_0.gguf"), ("candidate:latest", baked)):
                blob = gguf.read_bytes()
                digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
                client.post(f"/api/blobs/{digest}", content=blob).raise_for_status()
                body = {"model": name, "files": {"m.gguf": digest}, "parameters": {"num_ctx": 320}, "stream": False}
                client.post("/api/create", json=body).raise_for_status()

        def serve(path: str, body: bytes, media_type: str) -> Any:
            return serve_manifest("127.0.0.1", path, body, media_type)

        with closing(OllamaEngine(url, "base:latest", serve, concurrency=concurrency)) as made:
            made.preload("base:latest")
            made.preload("candidate:latest")
            yield made, url


def plain(url: str, arms: Sequence[Arm], problems: Sequence[Problem], concurrency: int) -> tuple[int, float]:
    """Ask everything at once, so many in flight; return tokens and seconds."""
    asked = [(arm, problem, index) for arm in arms for problem in problems for index in range(arm.samples)]
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    with httpx.Client(base_url=url, timeout=120, limits=limits) as client, ThreadPoolExecutor(concurrency) as pool:

        def ask(one: tuple[Arm, Problem, int]) -> int:
            arm, problem, index = one
            options = {
                "temperature": arm.sampling.temperature, "top_k": arm.sampling.top_k, "top_p": arm.sampling.top_p,
                "min_p": arm.sampling.min_p, "seed": seed_of(SEED, problem.id, index), "repeat_penalty": 1.0,
                "num_predict": arm.sampling.max_tokens,
            }  # fmt: skip
            messages = [{"role": "user", "content": problem.prompt}]
            body = {"model": arm.model, "messages": messages, "stream": False, "options": options}
            return int(client.post("/api/chat", json=body).raise_for_status().json()["eval_count"])

        began = time.perf_counter()
        tokens = sum(pool.map(ask, asked))
        return tokens, time.perf_counter() - began


def lean(served: OllamaEngine, arms: Sequence[Arm], problems: Sequence[Problem]) -> tuple[int, float]:
    """Ask everything through our own client, arm by arm; return tokens and seconds."""
    began = time.perf_counter()
    tokens = 0
    for arm in arms:
        prompts = [Prompt(p.prompt, seed_of(SEED, p.id, index)) for p in problems for index in range(arm.samples)]
        found = served.complete(arm.model, prompts, arm.sampling, lambda *_: None)
        tokens += sum(each.tokens for each in found)
    return tokens, time.perf_counter() - began


def main() -> None:
    """Print both rates and, last, their ratio as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="runs at once in the sandbox")
    parser.add_argument("--base", type=Path, default=Path("demo/base"))
    parser.add_argument("--alike", action="store_true", help="both arms give the same answers")
    parser.add_argument("--lean", action="store_true", help="the plain load asks through our own client")
    o = parser.parse_args()
    if not (o.base / "base-q8_0.gguf").exists():
        parser.exit(78, f"{o.base} holds no base: python -m services.trainer base --out {o.base} --seed 0\n")
    problems = [
        Problem(f"p{n}", item.repository, n, item.body, item.path, ((item.test_path, item.test),))
        for n, item in enumerate(some_work(3, o.problems))
    ]
    arms = [
        Arm(BASE, "base:latest", replace(DECODE, temperature=TAU) if o.alike else DECODE, o.samples),
        Arm(CANDIDATE, "candidate:latest", DECODE, o.samples),
    ]
    loads = {"plain": Load(), "evaluation": Load()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        served, url = stack.enter_context(engine(folder, o.base, o.concurrency))
        sandbox = stack.enter_context(BubblewrapSandbox(workers=o.workers))
        plain(url, arms, problems[: max(4, o.problems // 10)], o.concurrency)  # both models are warm
        for night, kind in enumerate(("plain", "evaluation", "evaluation", "plain"), 1):
            before = spent()
            if kind == "plain":
                tokens, seconds = lean(served, arms, problems) if o.lean else plain(url, arms, problems, o.concurrency)
            else:
                counted = stack.enter_context(closing(SqlStore.open(f"sqlite:///{folder}/{night}.sqlite3")))
                counted.open_night({"night": 1}, "ssd", datetime.now(UTC))
                tokens, seconds = evaluate(served, counted, sandbox, arms, problems)
            loads[kind].add(tokens, seconds)
            print(f"{kind}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s", flush=True)
            print(f"  {spent() - before}", flush=True)
    value = loads["evaluation"].rate / loads["plain"].rate
    print(f"evaluation {loads['evaluation'].rate:.0f} tokens/s, plain load {loads['plain'].rate:.0f} tokens/s")
    result = {"claim": "share of a plain load's tokens/s", "value": round(value, 3), "goal": GOAL}
    name = "our own client, which only asks" if o.lean else "plain concurrent load"
    peer = {"name": f"{name}, tokens/s", "value": round(loads["plain"].rate, 1)}
    print(json.dumps(result | {"holds": value >= GOAL, "peer": peer}))


def evaluate(
    served: OllamaEngine, store: SqlStore, sandbox: BubblewrapSandbox, arms: Sequence[Arm], problems: Sequence[Problem]
) -> tuple[int, float]:
    """Run the night's evaluation to its last grade; return tokens and seconds."""
    tokens, asked = 0, 0.0
    complete = served.complete

    def counting(*arguments: Any) -> Any:
        nonlocal tokens, asked
        found = complete(*arguments)
        asked = time.perf_counter() - began
        tokens += sum(each.tokens for each in found)
        return found

    served.complete = counting  # type: ignore[method-assign]
    try:
        began = time.perf_counter()
        Examiner(1, SEED, store, served, sandbox, lambda *_: None).examine(arms, problems)
        whole = time.perf_counter() - began
        print(f"  the engine answered for {asked:.1f} s of {whole:.1f} s; the rest is the last grades")
        return tokens, whole
    finally:
        served.complete = complete  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
