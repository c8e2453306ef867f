"""The rows of calls on their way to the database: a bounded queue, and one thread that nobody waits for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog

from fleetssd.calls import Call, Gap
from fleetssd.errors import Corrupt, FleetError
from fleetssd.ports import Traffic

log = structlog.get_logger()

PAUSE = (0.5, 30.0)
"""Seconds before a database that was away is tried again, at first and at most; the pause doubles."""


class Recorder:
    """The `Sink` of the gateway. `put` belongs to one thread; `waiting` rows are in memory, `lost` ones are counted.

    A commit is due at half a batch, so that with what comes in meanwhile kill -9 loses a batch at most; or after
    `flush_seconds`. While the database is away rows wait, `queue` of them; what does not fit leaves a gap.
    """

    def __init__(self, store: Callable[[], Traffic], *, batch: int, flush_seconds: float, queue: int) -> None:
        self.problem: str | None = None
        self.lost = 0
        self._store, self._flush, self._room = store, flush_seconds, queue
        self._batch, self._due = batch, max(1, batch // 2)
        self._rows: deque[Call] = deque()
        self._gap: Gap | None = None
        self._lock = threading.Lock()  # of the gap alone: both threads write it
        self._some, self._ready, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows are not on file yet."""
        return len(self._rows)

    def put(self, call: Call) -> None:
        """Take a call without waiting for anything; where there is no room it is dropped, and counted."""
        if len(self._rows) >= self._room:
            self._drop([call])
            return
        self._rows.append(call)
        if len(self._rows) == 1:
            self._some.set()
        if len(self._rows) >= self._due:
            self._ready.set()

    def close(self, seconds: float = 10.0) -> int:
        """Write what waits and end; return how many rows could not be written within these seconds."""
        self._closing.set()
        self._some.set()
        self._ready.set()
        self._thread.join(seconds)
        left = self.waiting + (self._gap.calls if self._gap else 0)
        if left:
            log.error("calls_lost", calls=left, error=self.problem)
        return left

    def _run(self) -> None:
        pause = PAUSE[0]
        while not (self._closing.is_set() and not self._rows and self._gap is None):
            self._some.wait()
            self._ready.wait(self._flush)
            self._some.clear()
            self._ready.clear()
            if self._write():
                pause = PAUSE[0]
            elif self._closing.is_set():
                return
            else:
                self._closing.wait(pause)
                pause = min(2 * pause, PAUSE[1])
                self._some.set()
                self._ready.set()

    def _write(self) -> bool:
        """Write everything that waits, batch by batch; say whether the database took it."""
        while (rows := list(islice(self._rows, self._batch))) or (self._gap is not None and self._closing.is_set()):
            with self._lock:
                gap, self._gap = self._gap, None
            try:
                self._store().add_calls(rows, gap)
            except Corrupt as error:  # trying it again would hold up all that follow
                self._restore(gap)
                self._troubled(error.message)
                if not rows:
                    return False
                self._drop(rows)
            except FleetError as error:
                self._restore(gap)
                self._troubled(error.message)
                return False
            except Exception as error:
                if self.problem is None:
                    log.exception("calls_not_written_by_a_fault")
                self._restore(gap)
                self._troubled(type(error).__name__)
                return False
            else:
                self._well(gap)
            for _ in rows:
                self._rows.popleft()
        return True

    def _drop(self, calls: list[Call]) -> None:
        with self._lock:
            self.lost += len(calls)
            self._gap = _joined(self._gap, Gap(len(calls), calls[0].at, calls[-1].at))

    def _restore(self, gap: Gap | None) -> None:
        if gap is not None:
            with self._lock:
                self._gap = _joined(gap, self._gap)

    def _troubled(self, problem: str) -> None:
        """Say once that the database is away."""
        if self.problem is None:
            log.warning("calls_not_written", error=problem, hint="Requests flow; rows wait.", room=self._room)
        self.problem = problem

    def _well(self, gap: Gap | None) -> None:
        if self.problem is not None or gap is not None:
            log.info("calls_written_again", lost=gap.calls if gap else 0)
        self.problem = None


def _joined(first: Gap | None, then: Gap | None) -> Gap | None:
    """Return two gaps as one; what came between them is on file."""
    if first is None or then is None:
        return first or then
    return Gap(first.calls + then.calls, min(first.since, then.since), max(first.until, then.until))
