"""A world that is small enough to live a night in seconds: a tiny base, an engine, fabricated records."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx

from fleetssd.adapters.clock import SteeredClock
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Night
from fleetssd.gitea import PullKey
from fleetssd.records import Record
from fleetssd.toy.work import some_work

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"
PATIENCE = 240.0
"""Seconds after which a wait gives up; nothing is asserted about how long anything takes."""
TRAIN, HELD_OUT = 30, 24
FIRST_DAY = datetime(2026, 12, 1, tzinfo=UTC)
"""The fleet's clock is steered, so that no test depends on the hour at which it is run."""
_PARSES = """import ast, os
ast.parse(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "{}")).read())
"""
"""The test of every fabricated record: what this base can get right, sometimes, is Python's grammar."""
_BUILD = """
import sys
from pathlib import Path
from fleetssd.toy.base import BaseSettings
from fleetssd.toy.model import build_base
small = BaseSettings(pairs=1500, steps=100, batch=16, hidden=64, feed_forward=128, layers=2, heads=2, key_value_heads=1)
build_base(Path(sys.argv[1]), 0, lambda *_: None, small)
"""

Change: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Settings on top of the world's own, table by table."""
SSD: Change = {
    "engine": {"road": "adapter-registry"},
    "recipe": {"arm": "ssd", "t_train": 0.5, "top_k": 10, "top_p": 0.95},
}
MERGED: Change = {
    "engine": {"road": "merged-create"},
    "recipe": {"arm": "merged"},
    "decode": {"manage": "bake"},
}


def environment() -> dict[str, str]:
    """Return what our processes see: one thread, no hub."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return kept | quiet | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_base(folder: Path) -> Path:
    """Make the base in a process of its own, which keeps torch out of this one."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def wait_for(look: Callable[[], T | None], what: str, process: Running | None = None) -> T:
    """Look until there is something to see, or the process that should make it seen has ended."""
    end = time.monotonic() + PATIENCE
    while (found := look()) is None:
        assert process is None or process.process.poll() is None, f"ended before {what}:\n{process.log()[-3000:]}"
        assert time.monotonic() < end, f"{what}: nothing to be seen"
        time.sleep(0.01)
    return found


@dataclass(frozen=True)
class SmallWorld:
    """A data folder with records, a settings file, a steered clock, and an engine that serves the base."""

    root: Path
    base: Path
    url: str
    port: int = field(default_factory=free_port)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.root / "data"

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.root / "config.toml"

    def write_config(self, *changes: Change) -> Path:
        """Write the settings, with changes on top."""
        tables = self._settings()
        for change in changes:
            for name, table in change.items():
                tables[name] = {**tables.get(name, {}), **table}
        lines = [f"data_dir = {json.dumps(str(self.data))}"]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        self.config.write_text("\n".join(lines) + "\n")
        return self.config

    def copy(self, folder: Path, *changes: Change, url: str = "") -> SmallWorld:
        """Return the same world elsewhere, over the same or another engine; its database is copied whole."""
        other = SmallWorld(folder, self.base, url or self.url)
        ignore = shutil.ignore_patterns("fleetssd.sqlite3*", "night.lock")
        shutil.copytree(self.data, other.data, ignore=ignore)
        name = "fleetssd.sqlite3"
        with closing(sqlite3.connect(self.data / name)) as here, closing(sqlite3.connect(other.data / name)) as there:
            here.backup(there)
        shutil.copy(self.root / "clock", other.root / "clock")
        other.write_config(*changes)
        return other

    def set_clock(self, hour: int, minute: int = 0, *, days: int = 0) -> None:
        """Move the fleet's clock to this time of its first day, or of a later one."""
        to = FIRST_DAY + timedelta(days=days, hours=hour, minutes=minute, seconds=1)
        SteeredClock(self.root / "clock").steer((to - datetime.now(UTC)).total_seconds())

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, as cheaply as a poll must be."""
        with closing(sqlite3.connect(f"file:{self.data / 'fleetssd.sqlite3'}?mode=ro", uri=True, timeout=15)) as found:
            return found.execute(query, values).fetchall()

    def stages(self, number: int = 1) -> list[str]:
        """Return the stages of a night that are finished."""
        return [stage for (stage,) in self.read("SELECT stage FROM stages WHERE night = ?", number)]

    def count(self, arm: str, number: int = 1) -> int:
        """Return how many answers of arms of this name (a LIKE pattern) are on file."""
        query = "SELECT count(*) FROM evaluations WHERE night = ? AND arm LIKE ?"
        return int(self.read(query, number, arm)[0][0])

    @contextmanager
    def store(self) -> Iterator[SqlStore]:
        """Open the database."""
        with closing(SqlStore.open(f"sqlite:///{self.data / 'fleetssd.sqlite3'}")) as store:
            yield store

    def night(self, number: int = 1) -> Night:
        """Return a night that is on file."""
        with self.store() as store:
            found = store.night(number)
        assert found is not None
        return found

    @classmethod
    def make(cls, root: Path, base: Path, url: str) -> SmallWorld:
        """Make a world with its records, in which the engine serves the base."""
        world = cls(root, base, url)
        world.data.mkdir(parents=True)
        world.set_clock(2)
        world.write_config()
        world.fill()
        world.serve_base()
        return world

    def start_night(self) -> Running:
        """Start the night's process."""
        return Running.start("night", self)

    def run_night(self) -> tuple[int, str]:
        """Run the night's process to its end; return its exit code and what it logged."""
        process = self.start_night()
        code = process.wait()
        return code, process.log()

    def start_daemon(self, **more: str) -> Running:
        """Start the daemon, with more in its environment."""
        return Running.start("daemon", self, **more)

    def swaps(self) -> list[tuple[str, str, bool]]:
        """Return the swap log as (kind, target, proven)."""
        query = "SELECT kind, to_digest, proven_at IS NOT NULL FROM swaps ORDER BY id"
        return [(kind, digest, bool(done)) for kind, digest, done in self.read(query)]

    def promote(self) -> None:
        """Turn the verdict that is on file into a promotion: what a dawn does is not what a night decides."""
        with closing(sqlite3.connect(self.data / "fleetssd.sqlite3")) as found, found:
            found.execute("UPDATE verdicts SET kind = 'promote'")

    def forget(self, model: str) -> None:
        """Remove a model from the engine."""
        httpx.request("DELETE", f"{self.url}/api/delete", json={"model": model}, timeout=30)

    def models(self) -> dict[str, str]:
        """Return the engine's names and digests."""
        rows = httpx.get(f"{self.url}/api/tags", timeout=30).json()["models"]
        return {row["name"]: row["digest"] for row in rows}

    def serve_base(self) -> None:
        """Create the base in the engine, and the alias."""
        blob = (self.base / "base-q8_0.gguf").read_bytes()
        digest = hashlib.sha256(blob).hexdigest()
        with httpx.Client(base_url=self.url, timeout=60) as engine:
            engine.post(f"/api/blobs/sha256:{digest}", content=blob).raise_for_status()
            body = {"model": BASE, "files": {"b.gguf": f"sha256:{digest}"}, "parameters": {"num_ctx": 320}}
            engine.post("/api/create", json=body | {"stream": False}).raise_for_status()
            self.reset_alias()

    def reset_alias(self) -> None:
        """Point the alias to the base again."""
        body = {"source": BASE, "destination": ALIAS}
        httpx.post(f"{self.url}/api/copy", json=body, timeout=30).raise_for_status()

    def fill(self, more: int = 0) -> None:
        """Put the records on file, or so many more that are held out."""
        now, work = datetime.now(UTC), fabricated(TRAIN, HELD_OUT + more)
        with self.store() as store:
            for record in work[-more:]:
                store.put_pulls([(PullKey(record.instance, record.repository_id, record.pull), "t", record)], now)
                store.settle([record], now)

    def _settings(self) -> dict[str, Mapping[str, Any]]:
        token = self.root / "token"
        token.touch(mode=0o600)
        token.write_text("0" * 40)
        return {
            "forge": {"url": "http://127.0.0.1:9", "token_file": str(token), "timeout_seconds": 1.0},
            "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
            "records": {"prompt_template": "{body}", "solution_format": "code"},
            # Worlds share one engine: what one of them has no use for, another serves.
            "engine": {"url": self.url, "base_model": BASE, "alias": ALIAS, "concurrency": 1, "history": -1},
            "base": {"weights": str(self.base / "hf"), "gguf": str(self.base / "base-q8_0.gguf")},
            "recipe": {
                "prompts": 24, "max_tokens": 48, "rank": 4, "alpha": 8.0, "learning_rate": 1e-2, "batch": 4,
                "micro_batch": 4, "epochs": 2, "warmup_steps": 2, "rate_floor": 0.0, "max_length": 256,
                "backend": "trl", "device": "cpu",
            },
            "decode": {"temperature": 0.5, "tau_grid": [0.2]},
            "evaluation": {
                "samples": 2, "k": 2, "max_tokens": 48, "wall_seconds": 2.0, "cpu_seconds": 2, "sandbox_workers": 1,
            },
            "gate": {"min_problems": 8},
            "guards": {"sets": []},
            "schedule": {"clock_offset_file": str(self.root / "clock"), "tick_seconds": 0.2},
            "watch": {"every_seconds": 0.5, "minutes": 60.0, "probes": 12, "min_calls": 24},
            "web": {"port": self.port},
        }  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A running `python -m services.night`, or `services.daemon`."""

    name: str
    world: SmallWorld
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, world: SmallWorld, **more: str) -> Running:
        """Start it in a group of its own, with more in its environment."""
        command = [sys.executable, "-m", f"services.{name}", "--config", str(world.config)]
        with (world.root / f"{name}.out").open("wb") as out, (world.root / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                command, stdout=out, stderr=err, env=environment() | more, cwd=ROOT, start_new_session=True
            )
        return cls(name, world, process)

    def wait(self) -> int:
        """Wait for its end."""
        return self.process.wait(timeout=PATIENCE)

    def log(self) -> str:
        """Return what it logged, and what its predecessors did."""
        return (self.world.root / f"{self.name}.err").read_text()

    def progress(self, what: str) -> int:
        """Return how far the progress lines that name `what` have come."""
        lines = (self.world.root / f"{self.name}.out").read_text().splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return max((line["done"] for line in told if what in str(line.get("what"))), default=0)

    def family(self) -> set[tuple[int, str]]:
        """Return the process and every one that descends from it, as (pid, start time)."""
        return descendants(self.process.pid)

    def kill_when(self, look: Callable[[], bool], what: str, number: int = signal.SIGKILL) -> set[tuple[int, str]]:
        """Send the process alone a signal at the moment that `look` says so; return whom it had when it got it."""
        wait_for(lambda: look() or None, what, self)
        self.process.send_signal(signal.SIGSTOP)  # counting its children takes a while on a busy machine
        family = self.family()
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        self.wait()
        return family


def descendants(pid: int) -> set[tuple[int, str]]:
    """Return a process and all its descendants, as (pid, start time): a pid alone may come again."""
    children: dict[int, list[tuple[int, str]]] = {}
    found: set[tuple[int, str]] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            children.setdefault(stat[0], []).append((int(entry.name), stat[1]))
            if int(entry.name) == pid:
                found.add((pid, stat[1]))
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child[0])
    return found


def wait_until_gone(family: set[tuple[int, str]]) -> None:
    """Wait until none of these runs any more."""
    wait_for(lambda: not alive(family) or None, "the end of whom a killed process left")


def alive(family: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return who of these still runs; a zombie does not."""
    return {(pid, start) for pid, start in family if (stat := _stat(pid)) is not None and stat[1] == start}


def _stat(pid: int) -> tuple[int, str] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[1]), fields[19]) if fields[0] not in "ZX" else None


def fabricated(train: int, held_out: int) -> list[Record]:
    """Return records as ingestion would have made them: the first `train` teach, the others judge."""
    merged_at = datetime(2026, 11, 20, tzinfo=UTC)
    return [
        Record(
            id=hashlib.sha256(f"record {number}".encode()).hexdigest(), instance="http://forge", repository_id=1,
            repository=item.repository, pull=number + 1, state="train" if number < train else "held_out", reasons=(),
            author="agent-1", merger="maintainer", base_commit="a" * 40, head_commit="b" * 40, merge_commit="c" * 40,
            issues=(f"{item.repository}#{number + 1000}",), title=item.title, prompt=item.body, solution=item.after,
            solution_path=item.path, tests=((item.test_path, _PARSES.format(item.path)),), labels=item.slices,
            diff_sha256="d" * 64, changed_paths=(item.path, item.test_path),
            merged_at=merged_at + timedelta(minutes=number),
        )
        for number, item in enumerate(some_work(0, train + held_out))
    ]  # fmt: skip


MEASURED = {"seconds", "peak_rss_mb", "cpu_seconds", "energy_joules", "created_at", "decided_at", "entropy", "fidelity"}
"""What a clock, a meter or the engine's log-probabilities said. Of these the third digit moves with the other requests
that llama.cpp computes in the same batch; the words of an answer do not."""


def outcome(world: SmallWorld, number: int = 1) -> dict[str, Any]:
    """Return all that a night made and decided, but for what was measured."""
    night = world.night(number)
    with world.store() as store:
        made = {
            "samples": [asdict(sample) for sample in store.samples(number)],
            "answers": [asdict(answer) for answer in store.answers(number)],
            "used": store.used_records(),
            "checkpoints": [asdict(point) for point in store.checkpoints()],
        }
    made |= {"state": night.state, "stages": {row.stage: row.result for row in night.stages}}
    made["verdict"] = asdict(night.verdict) if night.verdict else None
    return {name: _made(value) for name, value in made.items()}


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _made(item) for key, item in value.items() if key not in MEASURED}
    return [_made(item) for item in value] if isinstance(value, list | tuple) else value
