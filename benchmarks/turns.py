"""Two trees of processes that take turns, so that a neighbour who comes and goes slows both alike.

Each is stopped (SIGSTOP) while the other runs and is timed by its own running time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

POLL = 0.005
"""Seconds between two looks at whether a side has ended: what its time may be wrong by, once a run."""


def tree(pid: int) -> Iterator[int]:
    """Yield a process, then its descendants, each before its children."""
    yield pid
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        with contextlib.suppress(OSError):
            for below in path.read_text().split():
                yield from tree(int(below))


class Side:
    """One of the two: a command that says events as JSON lines. `clock` counts only its own turns, in seconds."""

    def __init__(self, name: str, command: Sequence[str], surroundings: Mapping[str, str], log: Path) -> None:
        self.name, self.spent, self.since = name, 0.0, time.perf_counter()
        self.told: list[float] = []
        """When each step was told, by `clock`."""
        self.said: dict[str, dict[str, Any]] = {}
        self.cpu, self.running, self.ended = 0.0, True, False
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                list(command), env=dict(surroundings), stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,  # a Ctrl-C is for whoever keeps the time, which then prints what it has
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def clock(self) -> float:
        """Seconds in which it ran."""
        return self.spent + (time.perf_counter() - self.since if self.running else 0.0)

    def wait_stopped(self) -> None:
        """Wait until it has stopped itself, ready; its clock starts at nothing then."""
        os.waitpid(self.process.pid, os.WUNTRACED)
        self.spent, self.running = 0.0, False

    def pause(self) -> None:
        """Stop the tree, parents first, so that nothing new comes up behind."""
        self._signal(signal.SIGSTOP)
        self.spent, self.running = self.clock, False

    def go_on(self) -> None:
        """Let the tree run."""
        self.since, self.running = time.perf_counter(), True
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing behind that is stopped for ever."""
        if not self.ended:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.ended, self.running = True, False

    def turn(self, seconds: float) -> bool:
        """Run for so long; tell whether it has ended, and then what it took."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.spent, self.running, self.ended = self.clock, False, True
                self.cpu = usage.ru_utime + usage.ru_stime
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self._reader.join()
                if self.process.returncode:
                    raise SystemExit(f"{self.name} failed:\n{self._log.read_text(errors='replace')[-2000:]}")
                return True
            time.sleep(POLL)
        return False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith('{"event"'):
                continue  # a library's own log
            event = json.loads(line)
            self.said[event["event"]] = event
            if event["event"] == "step":
                self.told.append(self.clock)

    def _signal(self, number: signal.Signals) -> None:
        for pid in [*tree(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def take_turns(sides: Sequence[Side], seconds: float, after: Callable[[], None]) -> None:
    """Run all to their ends, a turn of so many seconds each, and call `after` behind every turn.

    All are stopped when this begins. Whatever ends it early, a signal too, ends them all.
    """
    waiting = list(sides)
    try:
        while waiting:
            side = waiting.pop(0)
            side.go_on()
            if not side.turn(seconds):
                side.pause()
                waiting.append(side)
            after()
    finally:
        for side in sides:
            side.end()
