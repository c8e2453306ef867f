"""The caller's side of the gateway: its body, the way back to it, and its patience."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import TypeAlias

import structlog
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from fleetssd.errors import Rejected
from fleetssd.gateway import refusal

log = structlog.get_logger()

Headers: TypeAlias = list[tuple[bytes, bytes]]


class Call:
    """A request under an id of its own; `started` is whether the caller has seen anything of the reply."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope, receive)
        self.path: str = scope["path"]
        self.id = uuid.uuid4().hex
        self.started = False
        self.headers: Headers = [(b"x-fleetssd-request", self.id.encode())]
        self._receive, self._send = receive, send

    async def body(self, limit: int) -> bytes:
        """Read the body. Raises Rejected as soon as it is known to be over the limit in bytes."""
        declared = self.request.headers.get("content-length", "")
        body = bytearray()
        if not declared.isdigit() or int(declared) <= limit:
            async for chunk in self.request.stream():
                body += chunk
                if len(body) > limit:
                    break
            else:
                return bytes(body)
        raise Rejected(f"the request is larger than {limit} bytes", hint="Raise [gateway] max_body_bytes.", status=413)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes in, however large it is."""
        async for chunk in self.request.stream():
            if chunk:
                yield chunk

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers, ours beside them."""
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.headers]})
        self.started = True

    async def more(self, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the reply."""
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a reply that is all there."""
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        await self.start(status, [*kept, (b"content-length", str(len(body)).encode())])
        await self.more(body, last=True)

    async def refuse(self, status: int, message: str, hint: str) -> None:
        """Say what is wrong, in the words of the route."""
        log.warning("request_refused", request=self.id, path=self.path, status=status, error=message)
        # What the caller still has to send is not read, so the connection cannot be used again.
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await self.whole(status, headers, refusal(self.path, message, hint))

    async def while_connected(self, work: Awaitable[None]) -> None:
        """Do the work until the caller hangs up: then the engine is let go at once and stops generating."""
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[0].cancelled():
            tasks[0].result()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
