"""Shadow calls: a candidate is asked what the incumbent answered already; nobody waits for it, nobody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fleetssd.config import Gateway
from fleetssd.errors import Rejected
from fleetssd.web.attempt import Attempt
from fleetssd.web.tally import Tally
from fleetssd.web.upstream import Away, Headers, Upstream

_HEADERS: Headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]


class Shadow:
    """A few shadow calls at a time; what would be more is left out and counted, never queued."""

    def __init__(self, upstream: Upstream, settings: Gateway, tally: Tally, done: Callable[[Attempt], None]) -> None:
        self._upstream, self._settings, self._tally, self._done = upstream, settings, tally, done
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, attempt: Attempt, body: bytes) -> None:
        """Start a shadow call where there is room for one."""
        if len(self._running) >= self._settings.shadow_concurrency:
            self._tally.shadows_left_out += 1
            return
        task = asyncio.get_running_loop().create_task(self._run(attempt, body))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End what runs."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, attempt: Attempt, body: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.shadow_seconds):
                await self._ask(attempt, body)
        except TimeoutError:
            attempt.fault = "late"
        except Away as error:
            attempt.fault = "cut" if error.how == "cut" else "away"
        except Rejected:
            attempt.fault = "refused"
        except asyncio.CancelledError:
            return
        self._done(attempt)

    async def _ask(self, attempt: Attempt, body: bytes) -> None:
        reply = await self._upstream.send("POST", attempt.path.encode(), _HEADERS, body)
        try:
            attempt.status, attempt.streamed = reply.status, reply.streams
            if not reply.streams:
                attempt.hear(await reply.read())
                return
            rest = b""
            async for chunk in reply.chunks():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    attempt.hear(line + b"\n")
            attempt.hear(rest)
        finally:
            reply.close()
