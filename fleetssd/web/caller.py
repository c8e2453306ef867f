"""The caller's side of the gateway: its body, the way back to it, and its patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import TypeAlias

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from fleetssd.errors import Rejected
from fleetssd.gateway import refusal
from fleetssd.web.attempt import new_id

Headers: TypeAlias = list[tuple[bytes, bytes]]
BODY_SECONDS = 60.0
"""How long a body may take to come in, uploads of files aside: a caller that trickles would keep a place for ever."""


class Caller:
    """A request under an id of its own; `started` is whether the caller has seen anything of the reply."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.address: str = scope["client"][0] if scope.get("client") else "unknown"
        self.id, self.at = new_id(), datetime.now(UTC)
        self.agent = ""
        self.started = False
        self.ours: Headers = [(b"x-fleetssd-request", self.id.encode())]
        self._receive, self._send, self._over, self._gone = receive, send, False, False

    def header(self, name: bytes, length: int = 1000) -> str:
        """Return a header's text (the last one of that name), empty for none."""
        return self.headers.get(name, b"")[:length].decode("utf-8", "replace").strip()

    async def body(self, limit: int) -> bytes:
        """Read the body. Raises Rejected where it is over the limit in bytes, or takes too long."""
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        message = await self._next()
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):  # most are here already
            return body
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._rest(bytearray(body), limit)
        except TimeoutError:
            raise Rejected("the request's body did not come", hint="Send it in one go.", status=408) from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes in, however large it is."""
        more = True
        while more:
            message = await self._next()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers, ours beside them."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.ours]})

    async def more(self, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the reply."""
        self._over = last
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a reply that is all there."""
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        await self.start(status, [*kept, (b"content-length", b"%d" % len(body))])
        await self.more(body, last=True)

    async def refuse(self, status: int, message: str, hint: str, more: Headers | None = None) -> None:
        """Say what is wrong, in the words of the route."""
        # What the caller still has to send is not read, so the connection cannot be used again.
        headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *(more or [])]
        await self.whole(status, headers, refusal(self.path, message, hint))

    async def while_connected(self, work: Awaitable[None]) -> None:
        """Do the work until the caller hangs up: then the engine is let go at once and stops generating.

        Raises ClientDisconnect where it did.
        """
        here = asyncio.current_task()
        assert here is not None  # noqa: S101  a coroutine runs in one
        watching = asyncio.ensure_future(self._watch(here))
        try:
            await work
        except asyncio.CancelledError:
            if not self._gone:
                raise
            here.uncancel()
            raise ClientDisconnect from None
        finally:
            watching.cancel()

    async def _watch(self, work: asyncio.Task[None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = not self._over  # the end of a reply looks like a caller who leaves
        if self._gone:
            work.cancel()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message

    async def _rest(self, body: bytearray, limit: int) -> bytes:
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)


def _too_large(limit: int) -> Rejected:
    return Rejected(f"the request is larger than {limit} bytes", hint="Raise [gateway] max_body_bytes.", status=413)
