"""A gateway in a thread, before an engine that does what its test says, with a real database behind."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call
from fleetssd.canary import Canary, Mode
from fleetssd.config import parse
from fleetssd.errors import Misconfigured, Transient
from fleetssd.keys import Key
from fleetssd.routes import Route, Routing
from fleetssd.telemetry import Filter
from fleetssd.web.feed import Feed
from fleetssd.web.gateway_app import build_gateway
from fleetssd.web.recorder import Recorder
from fleetssd.web.upstream import Upstream

ALIAS, INCUMBENT, CANDIDATE = "fleet-coder", "fleet-coder:v1-aaaa", "fleet-coder:v2-bbbb"
OLD, NEW = Route(ALIAS, INCUMBENT, "aaaa"), Route(ALIAS, CANDIDATE, "bbbb")
AT = datetime.now(UTC)
LIMIT = 10_000
Answer = Callable[[str, bytes, asyncio.StreamWriter], Awaitable[None]]


def whole(status: int, body: bytes, more: bytes = b"") -> bytes:
    """Return a reply of the engine."""
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
    return head % (status, len(body), more) + body


def said(body: bytes, words: str = "hello", **more: Any) -> bytes:
    """Return a well-ended answer under the name that was asked."""
    model = json.loads(body or b"{}").get("model", "")
    table = {"model": model, "message": {"role": "assistant", "content": words}, "done": True, "done_reason": "stop"}
    return whole(200, json.dumps({**table, "eval_count": 3, "prompt_eval_count": 5, **more}).encode())


async def well(path: str, body: bytes, out: asyncio.StreamWriter) -> None:
    """Answer at once, a body that is no JSON object as Ollama does."""
    try:
        out.write(said(body))
    except (ValueError, AttributeError, RecursionError) as error:
        out.write(whole(400, json.dumps({"error": str(error)}).encode()))


@dataclass
class World:
    """What a test sees and turns: the engine's behaviour, what it was asked, and what the gateway is told to do."""

    store: SqlStore
    url: str = ""
    answer: Answer = well
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list, repr=False)
    routing: Routing = field(default_factory=lambda: Routing(OLD, names={INCUMBENT: "aaaa"}))
    keys: dict[str, Key] | None = None
    down: bool = False
    broken_keys: bool = False
    recorder: Recorder | None = None
    look: Callable[[], None] = lambda: None
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    def read(self) -> Routing:
        """Be the database that the feed reads."""
        if self.down:
            raise Transient("the database is away")
        return self.routing

    def read_keys(self) -> dict[str, Key] | None:
        """Be the key file."""
        if self.broken_keys:
            raise Misconfigured("line 2 of the key file is no key")
        return self.keys

    def turn(self, **changes: Any) -> None:
        """Change the routing, and wait until the gateway has seen it."""
        self.routing = replace(self.routing, **changes)
        self.look()

    def canary(self, mode: Mode, share: float = 1.0) -> None:
        """Start a canary."""
        self.turn(canary=Canary("bbbb", CANDIDATE, mode, share, AT - timedelta(1), AT + timedelta(1)), candidate=NEW)

    def post(self, path: str = "/api/chat", **more: Any) -> httpx.Response:
        """Ask the fleet's model something."""
        headers = more.pop("headers", {})
        body = {"model": ALIAS, "messages": [{"role": "user", "content": "x"}], "stream": False, **more}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=30)

    def calls(self, count: int) -> list[Call]:
        """Return the calls on file, oldest first, once there are so many."""
        deadline = time.monotonic() + 20
        while len(found := self.store.calls(Filter(), 1000)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} calls came to file"
            time.sleep(0.01)
        return found[::-1]

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        text = httpx.get(f"{self.url}/metrics").text
        rows = [line for line in text.splitlines() if line.startswith(f"fleetssd_gateway_{name}")]
        assert rows, f"no metric {name}"
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    def standing(self) -> str:
        """Say where every task of the engine and of the gateway stands: for an answer that does not come."""
        told = io.StringIO()
        for task in [task for loop in self.loops for task in asyncio.all_tasks(loop)]:
            task.print_stack(file=told)
        return told.getvalue()

    def models(self) -> list[str]:
        """Return the models that the engine was asked for."""
        return [json.loads(body)["model"] for _, _, body in self.asked]


@contextmanager
def gateway_world(folder: Path, **settings: Any) -> Iterator[World]:
    """Run a gateway with these settings of [gateway] (and `decode`, a table of its own)."""
    decode = settings.pop("decode", {})
    gateway = {"hold_seconds": 0.5, "max_body_bytes": LIMIT, **settings}
    with closing(SqlStore.open(f"sqlite:///{folder / 's.sqlite3'}")) as store:
        world = World(store)
        with _engine(world) as engine:
            made = parse({
                "data_dir": folder, "forge": {"url": "http://forge.test", "token_file": "t"}, "decode": decode,
                "fleet": {"agents": ["a"], "repositories": ["o/r"]}, "engine": {"alias": ALIAS, "url": engine},
                "gateway": gateway,
            })  # fmt: skip
            world.recorder = Recorder(lambda: store, batch=10, flush_seconds=0.01, queue=1000)

            async def serve(ready: Callable[[], None], stop: asyncio.Event) -> None:
                feed = Feed(world.read, Routing(Route(ALIAS, ALIAS, None)), world.read_keys)
                app = build_gateway(feed, Upstream(engine), world.recorder, made)
                config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="on", ws="none")
                server = uvicorn.Server(config)
                running = asyncio.create_task(server.serve())
                while not server.started:
                    await asyncio.sleep(0.005)
                loop = asyncio.get_running_loop()
                world.loops.append(loop)
                world.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
                world.look = lambda: asyncio.run_coroutine_threadsafe(feed.refresh(), loop).result(10)
                ready()
                await stop.wait()
                server.should_exit = True
                await running

            with _thread(serve):
                yield world


@contextmanager
def _engine(world: World) -> Iterator[str]:
    urls: list[str] = []

    async def serve(ready: Callable[[], None], stop: asyncio.Event) -> None:
        async def handle(source: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
            # Closed whatever happens: a caller would wait for ever for the answer of a task that has ended.
            with closing(out), suppress(ConnectionError, asyncio.IncompleteReadError):
                async for path, headers, body in _requests(source):
                    world.asked.append((path, headers, body))
                    await world.answer(path, body, out)
                    await out.drain()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        world.loops.append(asyncio.get_running_loop())
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready()
        await stop.wait()
        server.close()

    with _thread(serve):
        yield urls[0]


async def _requests(source: asyncio.StreamReader) -> AsyncIterator[tuple[str, dict[str, str], bytes]]:
    while True:
        head = (await source.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await source.readuntil(b"\r\n"), 16):
                body += (await source.readexactly(size + 2))[:-2]
            await source.readexactly(2)
        elif length := int(headers.get("content-length", 0)):
            body = await source.readexactly(length)
        yield head[0].split(" ")[1], headers, body


@contextmanager
def _thread(serve: Callable[[Callable[[], None], asyncio.Event], Awaitable[None]]) -> Iterator[None]:
    """Run a server on an event loop of its own until the block ends."""
    ready, loops, stops = threading.Event(), list[asyncio.AbstractEventLoop](), list[asyncio.Event]()

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        stops.append(asyncio.Event())
        await serve(ready.set, stops[0])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(30)
        assert not thread.is_alive()
