"""Which models are loaded, who may use them, and who waits: one runner per base file, first come first served.

A request that fits a loaded runner gets it at once. Any other waits in one queue that is served in order, one load at
a time: a runner that must change is first drained (its users finish undisturbed), then killed and started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .durations import FOREVER
from .engine import Engine, Spec
from .models import Model
from .replies import ApiError

DEFAULT_KEEP_ALIVE = 300.0  # seconds
MAX_LOADED = 3
MAX_QUEUE = 512
BUSY = "server busy, please try again.  maximum pending requests exceeded"
_FOREVER_SECONDS = 9_223_372_036.0  # the longest Go duration, which is what "for ever" is written as

LoadKey = tuple[object, ...]
Start = Callable[[Spec], Awaitable[Engine]]


@dataclass(eq=False)
class Runner:
    """A loaded model. `name` and `model` are those of the request that caused the load."""

    key: str
    load_key: LoadKey
    name: str
    model: Model
    engine: Engine
    keep_alive: float
    users: int = 0
    draining: bool = False  # somebody waits for its end: newcomers queue up behind them
    expires_at: float = 0.0  # seconds since 1970
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None

    def fits(self, load_key: LoadKey) -> bool:
        """Whether a request with these load-time settings can be served without a load."""
        return self.load_key == load_key and self.engine.alive and not self.draining

    @property
    def expires_ns(self) -> int:
        """When it goes if nobody asks again, in nanoseconds since 1970."""
        return int(self.expires_at * 1e9)


def to_evict(runners: Iterable[Runner]) -> Runner | None:
    """Choose who goes to make room: the idle one with the shortest keep_alive, else the shortest of the busy."""
    return min(runners, key=lambda runner: (runner.users > 0, runner.keep_alive), default=None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request needs of the scheduler."""

    name: str
    model: Model
    spec: Spec
    load_key: LoadKey
    keep_alive: float | None = None

    @property
    def key(self) -> str:
        """The runner's key: the base file, and whether it embeds."""
        return f"{self.spec.model}{'#embedding' if self.spec.embedding else ''}"


@dataclass(eq=False)
class _Pending:
    wanted: Wanted
    future: asyncio.Future[Runner]


def _cancel_too(work: asyncio.Task[Runner], future: asyncio.Future[Any]) -> None:
    """Abort the load of a request whose client has gone."""
    if future.cancelled():
        work.cancel()


class Scheduler:
    """Owns every runner; all methods belong to one event loop."""

    def __init__(self, start: Start, *, max_loaded: int = MAX_LOADED, max_queue: int = MAX_QUEUE) -> None:
        self._start = start
        self._max_loaded = max_loaded
        self._pending: asyncio.Queue[_Pending] = asyncio.Queue(max_queue)
        self._loop_task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.loaded: dict[str, Runner] = {}

    def open(self) -> None:
        """Begin to serve the queue."""
        self._loop_task = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Stop serving and kill every child."""
        if self._loop_task:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        for runner in list(self.loaded.values()):
            await self._end(runner)
        for task in list(self._ending):
            await task

    async def acquire(self, wanted: Wanted) -> Runner:
        """Get the runner for a request; give it back with `release`.

        Cancelling the call gives up the place in the queue and aborts the load it was waiting for. Raises ApiError
        503 where the queue is full, and whatever the load raised.
        """
        runner = self.loaded.get(wanted.key)
        if runner is not None and runner.fits(wanted.load_key):
            return self._use(runner, wanted)
        pending = _Pending(wanted, asyncio.get_running_loop().create_future())
        try:
            self._pending.put_nowait(pending)
        except asyncio.QueueFull as error:
            raise ApiError(503, BUSY) from error
        try:
            return await pending.future
        except asyncio.CancelledError:
            if pending.future.done() and not pending.future.cancelled() and not pending.future.exception():
                self.release(pending.future.result())
            raise

    def release(self, runner: Runner) -> None:
        """Give a runner back; the last user starts its clock."""
        runner.users -= 1
        if runner.users:
            return
        runner.idle.set()
        if self.loaded.get(runner.key) is not runner:
            return
        if runner.keep_alive <= 0:
            self._unload(runner)
        else:
            self._start_clock(runner)

    def expire(self, key: str) -> asyncio.Task[None] | None:
        """Unload the runner of a base file as soon as nobody uses it; never kills work in flight."""
        runner = self.loaded.get(key)
        if runner is None:
            return None
        runner.keep_alive = 0.0
        return self._unload(runner) if not runner.users else None

    # --- users and clocks -------------------------------------------------------------------------------------

    def _use(self, runner: Runner, wanted: Wanted) -> Runner:
        runner.users += 1
        runner.idle.clear()
        if runner.timer:
            runner.timer.cancel()
            runner.timer = None
        if wanted.keep_alive is not None:
            runner.keep_alive = wanted.keep_alive
        runner.expires_at = time.time() + min(runner.keep_alive, _FOREVER_SECONDS)
        return runner

    def _start_clock(self, runner: Runner) -> None:
        runner.expires_at = time.time() + min(runner.keep_alive, _FOREVER_SECONDS)
        if runner.keep_alive != FOREVER:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.keep_alive, self._unload, runner)

    def _unload(self, runner: Runner) -> asyncio.Task[None]:
        self._forget(runner)
        task = asyncio.create_task(runner.engine.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _forget(self, runner: Runner) -> None:
        if runner.timer:
            runner.timer.cancel()
        if self.loaded.get(runner.key) is runner:
            del self.loaded[runner.key]

    async def _end(self, runner: Runner) -> None:
        self._forget(runner)
        await runner.engine.stop()

    # --- the queue --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            pending = await self._pending.get()
            if pending.future.cancelled():
                continue
            work = asyncio.create_task(self._provide(pending.wanted))
            pending.future.add_done_callback(partial(_cancel_too, work))
            try:
                runner = await work
            except asyncio.CancelledError:
                if not pending.future.cancelled():  # it is this loop that is cancelled
                    work.cancel()
                    raise
            except Exception as error:  # noqa: BLE001 - whatever the load met belongs to the request
                if not pending.future.done():
                    pending.future.set_exception(error)
            else:
                if pending.future.done():
                    self.release(runner)
                else:
                    pending.future.set_result(runner)

    async def _provide(self, wanted: Wanted) -> Runner:
        while True:
            runner = self.loaded.get(wanted.key)
            if runner is not None and runner.fits(wanted.load_key):
                return self._use(runner, wanted)
            if runner is None and len(self.loaded) < self._max_loaded:
                return await self._load(wanted)
            doomed = runner or to_evict(self.loaded.values())
            if doomed is not None:
                await self._drain(doomed)

    async def _drain(self, runner: Runner) -> None:
        """Wait until nobody uses the runner, then end it; who uses it already is never disturbed."""
        runner.draining = True
        runner.keep_alive = 0.0
        if runner.users:
            await runner.idle.wait()
        await self._end(runner)

    async def _load(self, wanted: Wanted) -> Runner:
        engine = await self._start(wanted.spec)
        keep_alive = DEFAULT_KEEP_ALIVE if wanted.keep_alive is None else wanted.keep_alive
        runner = Runner(wanted.key, wanted.load_key, wanted.name, wanted.model, engine, keep_alive)
        self.loaded[wanted.key] = runner
        return self._use(runner, wanted)
