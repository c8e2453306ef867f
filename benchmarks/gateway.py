"""Times the gateway against direct calls and against the LiteLLM proxy, over an engine that answers at once.

All stand on loopback, each in a process of its own: a stub that speaks Ollama (the answer costs nothing, so that what
is measured is the way), the gateway as it ships with its database and telemetry, and LiteLLM's proxy, installed by pip
into a virtual environment of its own and configured as lean as it goes: one worker, no database, no logging. Rounds
take turns, so that what else the machine does meets all of them. The latency is that of one caller at a time; the rate
is that of many, who ask again as soon as they are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

ADDED_MS = 1.0
TIMES = 5.0
LITELLM = "litellm[proxy]==1.106.2"
PATH = "/v1/chat/completions"
ALIAS = "fleet-coder"
WORDS = 32
"""Pieces of a streamed answer."""

Body = dict[str, object]
TURNS = [
    {"role": "system", "content": "You are a coder of the fleet. " * 20},
    {"role": "user", "content": "def f(x):\n    return x\n" * 20},
]


# --- the engine that answers at once ------------------------------------------------------------------------------


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


def _event(model: str, delta: Body, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    table = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
             "system_fingerprint": "fp_ollama", "choices": [choice]}  # fmt: skip
    return b"data: " + json.dumps(table, separators=(",", ":")).encode() + b"\n\n"


def _whole(model: str) -> bytes:
    message = {"role": "assistant", "content": "word " * WORDS}
    table = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
             "system_fingerprint": "fp_ollama",
             "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 300, "completion_tokens": WORDS, "total_tokens": 300 + WORDS}}  # fmt: skip
    body = json.dumps(table, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def _streamed(model: str) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = [_event(model, {"role": "assistant", "content": "word "}, None)] * WORDS
    end = _chunk(_event(model, {}, "stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [head, *(_chunk(event) for event in events), end]


class Stub(asyncio.Protocol):
    """Answers every request of a connection with words made beforehand."""

    whole, pieces = _whole(ALIAS), _streamed(ALIAS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self.buffer += data
        while (request := _cut(self.buffer)) is not None:
            body, self.buffer = request
            if b'"stream":true' in body or b'"stream": true' in body:
                for piece in self.pieces:
                    self.transport.write(piece)  # type: ignore[attr-defined]
            else:
                self.transport.write(self.whole)  # type: ignore[attr-defined]


def _cut(data: bytes) -> tuple[bytes, bytes] | None:
    """Part a whole message (request or answer) from what follows it; None where it is not whole."""
    head, mark, rest = data.partition(b"\r\n\r\n")
    if not mark:
        return None
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        end = rest.find(b"0\r\n\r\n") if rest.startswith(b"0\r\n\r\n") else rest.find(b"\r\n0\r\n\r\n")
        if end < 0:
            return None
        return rest[:end], rest[end + (5 if rest.startswith(b"0\r\n\r\n") else 7) :]
    at = lower.find(b"content-length:")
    length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return (rest[:length], rest[length:]) if len(rest) >= length else None


def serve_stub() -> None:
    """Serve until ended; the port is the first line out."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    _quick(run())


def _quick(work: object) -> object:
    import uvloop  # noqa: PLC0415

    return uvloop.run(work)  # type: ignore[arg-type]


# --- callers ------------------------------------------------------------------------------------------------------


class Caller(asyncio.Protocol):
    """One connection that asks, waits for the whole answer, and asks again."""

    def __init__(self, request: bytes, until: float, took: list[float], failed: list[bytes]) -> None:
        self.request, self.until, self.took, self.failed = request, until, took, failed
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the request and start the clock."""
        self.buffer, self.began = b"", time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Stop the clock where the answer is whole."""
        self.buffer += data
        if not data.endswith(b"\r\n\r\n") and b"chunked" in self.buffer[:600]:
            return  # an answer in pieces ends so; looking for its end each time would be what is measured
        if _cut(self.buffer) is None:
            return
        now = time.perf_counter()
        self.took.append(now - self.began)
        if not self.buffer.startswith(b"HTTP/1.1 200"):
            self.failed.append(self.buffer[:300])
        if now < self.until:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self.done.done():
            self.done.set_result(None)


def ask(url: str, *, stream: bool, callers: int, seconds: float) -> tuple[list[float], float]:
    """Ask for so many seconds; returns the seconds of each answer, and the answers a second."""
    parts = urlsplit(url)
    body = json.dumps({"model": ALIAS, "messages": TURNS, "stream": stream}, separators=(",", ":")).encode()
    request = (
        b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-1\r\n"
        b"Content-Length: %d\r\n\r\n%s"
    ) % (PATH.encode(), parts.netloc.encode(), len(body), body)
    took: list[float] = []
    failed: list[bytes] = []

    async def run() -> None:
        loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
        made = [
            await loop.create_connection(lambda: Caller(request, until, took, failed), parts.hostname, parts.port)
            for _ in range(callers)
        ]
        await asyncio.gather(*(caller.done for _, caller in made))

    began = time.perf_counter()
    _quick(run())
    if failed or not took:
        raise SystemExit(f"{url} answered {len(failed)} of {len(took)} calls with an error, such as {failed[:1]}")
    return took, len(took) / (time.perf_counter() - began)


# --- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def started(command: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process in a group of its own until the block ends."""
    with log.open("w") as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        env={**os.environ, **environment},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def stub(folder: Path) -> Iterator[str]:
    """Run the engine that answers at once; yields its address."""
    with started([sys.executable, __file__, "--stub"], folder / "stub.log") as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


@contextmanager
def gateway(folder: Path, engine: str) -> Iterator[tuple[str, int]]:
    """Run the gateway as it ships, with a database of its own; yields its address and process id."""
    config = folder / "config.toml"
    config.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:1"\ntoken_file = "token"\n'
        f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n[engine]\nurl = "{engine}"\nalias = "{ALIAS}"\n'
        f'[decode]\nmanage = "gateway"\n[gateway]\nport = 0\n'
    )
    command = [sys.executable, "-m", "services.gateway", "--config", str(config)]
    with started(command, folder / "gateway.log") as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid


@contextmanager
def litellm(folder: Path, engine: str, home: Path) -> Iterator[tuple[str, int]]:
    """Install LiteLLM's proxy where it is not, run it with one worker; yields its address and process id."""
    program = home / "bin" / "litellm"
    if not program.exists():
        print(f"installing {LITELLM} into {home} ...", flush=True)
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "pip", "install", "-q", LITELLM], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "litellm.json"  # JSON is YAML
    model = {"model": f"openai/{ALIAS}", "api_base": f"{engine}/v1", "api_key": "sk-1"}
    config.write_text(json.dumps({"model_list": [{"model_name": ALIAS, "litellm_params": model}]}))
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
             "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # fmt: skip
    with started(command, folder / "litellm.log", **quiet) as process:
        deadline = time.monotonic() + 180
        while not _up(f"http://127.0.0.1:{port}/health/liveliness"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"LiteLLM does not start:\n{(folder / 'litellm.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", process.pid


def _up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310  loopback
            return bool(reply.status == 200)
    except OSError:
        return False


def _cpu(pid: int | None) -> float:
    """Return the seconds of processor that a process has used (Linux), 0 where that is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the measurement ----------------------------------------------------------------------------------------------


@dataclass
class Way:
    """A way to the engine, and what was measured on it, by stream or not."""

    name: str
    url: str
    pid: int | None = None
    took: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    rates: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    cpu: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def round(self, *, stream: bool, callers: int, seconds: float) -> None:
        """Measure latency, then rate."""
        took, _ = ask(self.url, stream=stream, callers=1, seconds=seconds)
        self.took[stream] += took
        before = _cpu(self.pid)
        many, rate = ask(self.url, stream=stream, callers=callers, seconds=seconds)
        self.rates[stream].append(rate)
        self.cpu[stream].append((_cpu(self.pid) - before) / len(many))

    def p(self, stream: bool, percent: int) -> float:
        """Return a percentile of the latency in ms."""
        return statistics.quantiles(self.took[stream], n=100)[percent - 1] * 1e3

    def rate(self, stream: bool) -> float:
        """Return the median answers a second."""
        return statistics.median(self.rates[stream])


def report(direct: Way, ours: Way, peer: Way | None) -> int:
    """Print the table and the verdicts; returns the exit code, 1 where a bar is missed."""
    ways = [way for way in (direct, ours, peer) if way]
    print(f"\n{'':22}{'p50 ms':>9}{'p99 ms':>9}{'+p50':>8}{'+p99':>8}{'answers/s':>11}{'CPU ms/answer':>15}")
    for stream in (False, True):
        for way in ways:
            added = (way.p(stream, 50) - direct.p(stream, 50), way.p(stream, 99) - direct.p(stream, 99))
            cpu = statistics.median(way.cpu[stream]) * 1e3
            print(
                f"{way.name + (', streamed' if stream else ''):22}{way.p(stream, 50):9.2f}{way.p(stream, 99):9.2f}"
                f"{added[0]:8.2f}{added[1]:8.2f}{way.rate(stream):11.0f}" + (f"{cpu:15.2f}" if way.pid else "")
            )
    missed = 0
    for stream in (False, True):
        kind = "streamed" if stream else "whole"
        added_p50 = ours.p(stream, 50) - direct.p(stream, 50)
        missed += _verdict(f"{kind}: adds {added_p50:.2f} ms at p50, bar {ADDED_MS:.1f} ms", added_p50 <= ADDED_MS)
        if peer:
            times = ours.rate(stream) / peer.rate(stream)
            missed += _verdict(f"{kind}: {times:.1f} x LiteLLM's answers a second, bar {TIMES:.0f} x", times >= TIMES)
    return 1 if missed else 0


def _verdict(text: str, met: bool) -> bool:
    print(f"{'met   ' if met else 'MISSED'} {text}")
    return not met


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every way (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each measurement (default 4)")
    parser.add_argument("--callers", type=int, default=16, help="callers at a time for the rate (default 16)")
    home = "LiteLLM's virtual environment, made where it is not (default .cache/litellm)"
    parser.add_argument("--litellm", type=Path, default=Path(".cache/litellm"), metavar="FOLDER", help=home)
    parser.add_argument("--no-litellm", action="store_true", help="leave the peer out")
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.stub:
        serve_stub()
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fleetssd-gateway-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        engine = stack.enter_context(stub(folder))
        ways = [Way("direct", engine), Way("fleetssd", *stack.enter_context(gateway(folder, engine)))]
        if not args.no_litellm:
            ways.append(Way("LiteLLM", *stack.enter_context(litellm(folder, engine, args.litellm.absolute()))))
        for way in ways:  # what is loaded at the first call is no cost of the others
            for stream in (False, True):
                ask(way.url, stream=stream, callers=4, seconds=min(1.0, args.seconds))
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", flush=True)
            for stream in (False, True):
                for way in ways:
                    way.round(stream=stream, callers=args.callers, seconds=args.seconds)
        return report(ways[0], ways[1], ways[2] if len(ways) > 2 else None)


if __name__ == "__main__":
    sys.exit(main())
