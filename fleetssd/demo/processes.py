"""The demo's processes: started on free loopback ports, ended with the demo however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from fleetssd.errors import Misconfigured, Transient

READY_SECONDS = 60.0


@contextlib.contextmanager
def server(module: str, *arguments: str, log: Path) -> Iterator[dict[str, Any]]:
    """Run `python -m MODULE` until the block ends; yield the JSON line that it prints when it is ready.

    Raises Misconfigured, naming the log, where it ends or stays silent instead.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=environment(),
        )  # fmt: skip
    try:
        yield _first_line(process, module, log)
    finally:
        stop(process)


@contextlib.contextmanager
def daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon until the block ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.daemon", "--config", str(config)],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment(),
        )  # fmt: skip
    try:
        yield process
    finally:
        stop(process)


def run_steps(command: Sequence[str], log: Path, step: Callable[[dict[str, Any]], None]) -> None:
    """Run a process that prints JSON lines and hand each to `step`. Raises Transient where it fails."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=environment(), text=True,
        )  # fmt: skip
    assert process.stdout is not None  # noqa: S101  it was asked for
    try:
        for line in process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                step(json.loads(line))
        if process.wait() != 0:
            raise Transient(f"{command[0]} ended with {process.returncode}", hint=f"Read {log}.")
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process with SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def environment() -> dict[str, str]:
    """Return what children see: no hub, one thread, passive waits (two spinning threads stall on busy cores)."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }


def _first_line(process: subprocess.Popen[bytes], module: str, log: Path) -> dict[str, Any]:
    assert process.stdout is not None  # noqa: S101  it was asked for
    lines: Queue[bytes] = Queue()
    threading.Thread(target=lambda out=process.stdout: lines.put(out.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=READY_SECONDS)
        ready: dict[str, Any] = json.loads(line)
    except (Empty, json.JSONDecodeError):
        raise Misconfigured(f"{module} did not start", hint=f"Read {log}.") from None
    return ready
