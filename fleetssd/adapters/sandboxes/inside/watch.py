"""The watcher's side of a run: its limits of time, output, memory and files, and its end."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import Any

from . import place

TAIL = 2_000
LOOK_SECONDS = 0.05  # between looks at the memory of all processes of a run, and at its files
_HELD = (b"RssAnon:", b"RssShmem:")  # what shares a file of the system holds nothing of its own


def watch(child: int, out_r: int, limits: dict[str, Any]) -> tuple[str, bytes]:
    """Wait for the child's end or a limit of what it may use; return why it was stopped and the output's tail.

    What the run says of itself waits in its pipe until it has ended: that needs no look in between.
    """
    now = time.monotonic()
    deadline, look = now + limits["wall_seconds"], now + LOOK_SECONDS
    most = limits["output_bytes"]
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    os.set_blocking(out_r, False)
    poll.register(pidfd, select.POLLIN)
    poll.register(out_r, select.POLLIN)
    tail, total, ended, running = b"", 0, "", True
    try:
        while running and not ended:
            left = min(deadline, look) - time.monotonic()
            ready = dict(poll.poll(max(0.0, left) * 1000.0))
            running = pidfd not in ready
            while (chunk := _read(out_r)) and total <= most:
                tail, total = (tail + chunk)[-4 * TAIL :], total + len(chunk)
            if total > most:
                ended = f"wrote more than {most} bytes of output"
            elif running:
                ended, look = _look(limits, deadline, look)
            if ready.get(out_r) == select.POLLHUP:
                poll.unregister(out_r)
    finally:
        os.close(pidfd)
    return ended, tail


def kill_all(child: int) -> int:
    """Kill every process but ourselves, reap them all and return the child's wait status.

    One `kill(-1)` is enough: the kernel walks the processes under the lock that fork needs, and a process with a
    pending SIGKILL cannot fork.
    """
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    status = 0
    while True:
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == child:
            status = ended


def _look(limits: dict[str, Any], deadline: float, look: float) -> tuple[str, float]:
    """Return why a run must end now, or nothing, and when to look again."""
    now = time.monotonic()
    if now >= deadline:
        return f"took longer than {limits['wall_seconds']} s", look
    if now < look:
        return "", look
    if _held() > limits["memory_bytes"]:
        return f"held more than {limits['memory_bytes']} bytes of memory in all processes", look
    if place.used() > limits["inodes"]:
        return f"made more than {limits['inodes']} files", look
    return "", now + LOOK_SECONDS


def _held() -> int:
    """Return the bytes that all processes but this one hold, what they share counted in each; 0 without /proc."""
    held = 0
    with suppress(FileNotFoundError), os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() and entry.name != "1":
                with (
                    suppress(FileNotFoundError, ProcessLookupError),  # it ended while we looked
                    open(f"{entry.path}/status", "rb") as file,  # noqa: PTH123
                ):
                    held += sum(int(line.split()[1]) << 10 for line in file if line.startswith(_HELD))
    return held


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except BlockingIOError:
        return b""
