"""Times signed merge deliveries that are on disk before their 2xx, against SQLite's own insert with an fsync each.

The daemon's route runs in a process of its own over the product's database; senders on loopback keep a fixed number
of connections busy, and the forge's largest recorded kind of body (13 kB) is what they send. The peer is a loop around
sqlite3 on the same file system, in the same minute: the same rows into the same table with its indexes, the same
journal and durability (WAL, synchronous FULL), one row a commit. The latency is that of a paced load, since the answer
at the most is a queue's length; the peer's own slowest commits stand beside it, for a disk that others use has a tail.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

GOAL = 0.7
P99_GOAL_MS = 50.0
PACED = 50
"""Deliveries a second of the latency's load: merges of a very large instance, whose one worker delivers in order."""
SECRET = b"benchmark"
SAMPLE = Path(__file__).parents[1] / "tests" / "samples" / "gitea" / "webhooks" / "03-pull-request-closed-merge.bin"


NUMBERS = count(1)
TEMPLATE = SAMPLE.read_bytes()
PAYLOAD = (
    '{"id": "%d", "event": "pull_request", "repository": "fleet/conveyor", "repository_id": 1, "pull": 2, '
    '"body_sha256": "%s"}'
)
"""What the product keeps of a delivery."""
INSERT = "INSERT INTO deliveries (id, body_sha256, payload, received_at, outcome) VALUES (?, ?, ?, ?, '')"


def serve(folder: Path) -> None:
    """Serve the webhook route over a new database in `folder` until told to end; the port is the first line out."""
    import structlog  # noqa: PLC0415  the parent needs none of these
    import uvicorn  # noqa: PLC0415
    from starlette.applications import Starlette  # noqa: PLC0415

    from fleetssd.adapters.clock import SystemClock  # noqa: PLC0415
    from fleetssd.adapters.store import SqlStore  # noqa: PLC0415
    from fleetssd.config import parse  # noqa: PLC0415
    from fleetssd.web.webhook import routes  # noqa: PLC0415
    from services.daemon import SWITCH_SECONDS  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_SECONDS)
    structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())
    (folder / "secret").write_bytes(SECRET)
    forge = {"url": "http://forge.test", "token_file": folder / "t", "webhook_secret_file": folder / "secret"}
    settings = parse({"data_dir": folder, "forge": forge, "fleet": {"agents": ["a"], "repositories": ["o/r"]}})
    store = SqlStore.open(settings.database)
    app = Starlette(routes=routes(settings, store, SystemClock(), lambda: None))
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
    sock = config.bind_socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio does for the daemon's own socket
    sock.listen()
    print(sock.getsockname()[1], flush=True)
    uvicorn.Server(config).run([sock])


@contextmanager
def receiver(folder: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run the receiver in a process of its own; yields its port and the process."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


def delivery(number: int) -> bytes:
    """Return a whole signed HTTP request for a merge that no other number names."""
    body = TEMPLATE.replace(b'"number": 2,', b'"number": %d,' % number)
    signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    head = (
        "POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Gitea-Event: pull_request\r\nX-Gitea-Delivery: {number}\r\n"
        f"X-Gitea-Signature: {signature}\r\n\r\n"
    )
    return head.encode() + body


async def burst(
    port: int, connections: int, seconds: float, then: Callable[[], None], pause: float = 0.0
) -> dict[int, float]:
    """Keep so many connections busy for so long, then call `then`; return the seconds each 2xx took, by its number.

    Each connection sends as fast as it is answered, or rests about `pause` seconds between two deliveries, at random
    as independent senders do. One that is cut off ends its sender: what it had sent last was not acknowledged.
    """
    took, chance = dict[int, float](), random.Random(1)
    began = time.perf_counter()

    async def sender() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.sleep(pause * chance.random())
            for number in NUMBERS:
                request = delivery(number)
                sent = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 202"), head
                took[number] = time.perf_counter() - sent
                await asyncio.sleep(chance.expovariate(1 / pause) if pause else 0)
                if time.perf_counter() - began > seconds:
                    then()
                    break
        writer.close()

    await asyncio.gather(*(sender() for _ in range(connections)))
    return took


def peer(path: Path, model: Path, seconds: float) -> list[float]:
    """Return the seconds that each of SQLite's own commits of one row took, into a table as it is in `model`."""
    times: list[float] = []
    with closing(sqlite3.connect(model)) as database:
        made = [row[0] for row in database.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'deliveries'")]
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        for statement in filter(None, made):
            database.execute(statement)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            digest = hashlib.sha256(str(len(times)).encode()).hexdigest()
            row = (str(len(times)), digest, PAYLOAD % (len(times), digest), "2026-11-22 02:00:00.000000")
            start = time.perf_counter()
            database.execute(INSERT, row)
            times.append(time.perf_counter() - start)
    return times


def stored(folder: Path) -> set[int]:
    """Return the numbers of the deliveries that the receiver's database holds."""
    with closing(sqlite3.connect(folder / "fleetssd.sqlite3")) as database:
        return {int(row[0]) for row in database.execute("SELECT id FROM deliveries")}


@dataclass(frozen=True, slots=True)
class Round:
    """Deliveries a second at the most, the seconds that each answer took then, and those at PACED deliveries a second.

    `peer` are SQLite's rows a second just before and after, `commits` the seconds that each of its commits took.
    """

    rate: float
    times: tuple[float, ...]
    paced: tuple[float, ...]
    peer: float
    commits: tuple[float, ...]


def turn(folder: Path, connections: int, seconds: float) -> Round:
    """Measure deliveries between two halves of the peer: a disk's fsync is not the same from minute to minute."""
    folder.mkdir()
    with receiver(folder) as (port, _):
        model = folder / "fleetssd.sqlite3"
        before = peer(folder / "before.sqlite3", model, seconds / 2)
        began = time.perf_counter()
        took = asyncio.run(burst(port, connections, seconds, lambda: None))
        wall = time.perf_counter() - began
        after = peer(folder / "after.sqlite3", model, seconds / 2)
        paced = asyncio.run(burst(port, connections, seconds, lambda: None, connections / PACED))
    commits = (*before, *after)
    return Round(len(took) / wall, tuple(took.values()), tuple(paced.values()), len(commits) / seconds, commits)


def lost(folder: Path, connections: int, seconds: float) -> tuple[int, int]:
    """Kill the receiver (SIGKILL) within a burst; return how many deliveries had their 2xx, and how many are gone."""
    folder.mkdir()
    with receiver(folder) as (port, process):
        took = asyncio.run(burst(port, connections, seconds, process.kill))
    return len(took), len(took.keys() - stored(folder))


def percentiles(times: list[tuple[float, ...]]) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    ordered = sorted(took for each in times for took in each)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


def main() -> None:
    """Print the rates and, last, the claims as JSON objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="a folder on the disk to measure")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        rounds = [turn(root / str(number), args.connections, args.seconds / 2) for number in range(args.rounds)]
        kills = [lost(root / f"killed-{number}", args.connections, 1.0) for number in range(3)]
    for each in rounds:
        print(
            f"SQLite alone: {each.peer:.0f} rows/s; deliveries: {each.rate:.0f}/s over {args.connections} connections"
        )
    (full50, full99), (p50, p99) = percentiles([r.times for r in rounds]), percentiles([r.paced for r in rounds])
    print(f"answer at the most: p50 {full50:.1f} ms, p99 {full99:.1f} ms")
    print(f"answer at {PACED} a second: p50 {p50:.1f} ms, p99 {p99:.1f} ms (goal under {P99_GOAL_MS:.0f} ms)")
    disk50, disk99 = percentiles([r.commits for r in rounds])
    print(f"SQLite's own commit on this disk: p50 {disk50:.1f} ms, p99 {disk99:.1f} ms")
    acknowledged, gone = (sum(numbers) for numbers in zip(*kills, strict=True))
    print(f"kill -9 in {len(kills)} bursts: {acknowledged} deliveries had their 2xx, {gone} of them are lost")
    ratio = statistics.median(each.rate / each.peer for each in rounds)
    rate, sqlite = (
        round(statistics.median(values)) for values in zip(*((r.rate, r.peer) for r in rounds), strict=True)
    )
    result = {
        "claim": "durable webhook deliveries a second, against SQLite's own inserts with fsync",
        "value": round(ratio, 2),
        "goal": GOAL,
        "holds": ratio >= GOAL and p99 < P99_GOAL_MS and not gone,
        "deliveries_a_second": rate,
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "p99_ms_at_the_most": round(full99, 1),
        "disk_p99_ms": round(disk99, 1),
        "lost": gone,
        "peer": {
            "name": "sqlite3, the same rows and indexes, WAL, synchronous FULL, one row a commit",
            "value": sqlite,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
