"""ZygoteSandbox: jobs over a few prepared workers, each of which is replaced where it is not proven clean."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from fleetssd.adapters.sandboxes.worker import DeadError, Zygote
from fleetssd.cores import leave_one
from fleetssd.ports import Grade, Job, Progress
from fleetssd.surroundings import BARE, Limits, Surroundings


class ZygoteSandbox(ABC):
    """Grades jobs in `workers` places at once, each with the program of `inside` in it; `_start` makes a place.

    Thread-safe; use it as a context manager or call `close`. The first place is made at construction, which raises
    Misconfigured where none can be.
    """

    def __init__(self, limits: Limits | None = None, *, workers: int = 2) -> None:
        self._limits = limits or Limits()
        self._closed = False
        self._local = threading.local()
        self._lock = threading.Lock()
        self._zygotes: set[Zygote] = set()
        # The workers' threads live as long as the sandbox: the kernel ends a bwrap with the thread
        # that started it.
        self._pool = ThreadPoolExecutor(workers, "sandbox", leave_one, (workers,))
        try:
            self._pool.submit(lambda: self._keep(self._first(self._limits), BARE)).result()
        except BaseException:
            self._pool.shutdown()
            raise

    @abstractmethod
    def _first(self, limits: Limits) -> Zygote:
        """Make the first place, bare. Raises Misconfigured where this machine allows none."""

    @abstractmethod
    def _start(self, limits: Limits, around: Surroundings) -> Zygote:
        """Make a place with these surroundings. Raises DeadError."""

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Run every job, in parallel, and return the grades in order. A sandbox that dies twice on a job is a fault."""
        grades = []
        for grade in self._pool.map(self._grade, jobs):
            grades.append(grade)
            progress(len(grades), len(jobs), "sandbox")
        return grades

    def close(self) -> None:
        """End the sandbox and everything in it; jobs under way end as faults, jobs not begun are cancelled."""
        with self._lock:
            self._closed, zygotes = True, list(self._zygotes)
        for zygote in zygotes:
            zygote.kill()
        self._pool.shutdown(cancel_futures=True)
        for zygote in zygotes:
            zygote.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _grade(self, job: Job) -> Grade:
        deaths = []
        for _ in range(2):
            try:
                reply = self._zygote(job.surroundings).ask(_told(job), self._limits_of(job.surroundings).wall_seconds)
            except DeadError as death:
                deaths.append(str(death))
                self._discard()
                continue
            if reply["retire"]:
                self._discard()
            return Grade(job.id, bool(reply["passed"]), bool(reply["fault"]), str(reply["detail"]))
        return Grade(job.id, passed=False, fault=True, detail=f"the sandbox died twice: {deaths[-1]}")

    def _zygote(self, around: Surroundings) -> Zygote:
        """Return this thread's zygote, started where there is none or where it has other surroundings."""
        found: Zygote | None = getattr(self._local, "zygote", None)
        if found is not None and self._local.around == around and not found.expired:
            return found
        self._discard()
        return self._keep(self._start(self._limits_of(around), around), around)

    def _limits_of(self, around: Surroundings) -> Limits:
        return around.limits or self._limits

    def _keep(self, zygote: Zygote, around: Surroundings) -> Zygote:
        with self._lock:
            if not self._closed:
                self._zygotes.add(zygote)
                self._local.zygote, self._local.around = zygote, around
                return zygote
        zygote.release()
        raise DeadError("the sandbox is closed")

    def _discard(self) -> None:
        """Drop this thread's zygote, if it has one."""
        zygote: Zygote | None = getattr(self._local, "zygote", None)
        self._local.zygote = None
        if zygote is not None:
            with self._lock:
                self._zygotes.discard(zygote)
            zygote.release()


def _told(job: Job) -> dict[str, object]:
    """Return a job as the place reads it; with the digest of its script where that is one of its files."""
    script = job.command[1] if len(job.command) > 1 else "-"
    text = None if script.startswith("-") else dict(job.files).get(script)
    digest = text and hashlib.sha256(f"{script}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "files": job.files,
        "command": job.command,
        "removed": job.removed,
        "executable": job.executable,
        **({"digest": digest} if digest else {}),
    }
