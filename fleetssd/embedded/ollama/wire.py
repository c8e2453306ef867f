"""A small HTTP/1.1 client for one loopback server: no pool, no redirects, as few steps per request as will do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_LIMIT = 1 << 24  # one event of a stream may carry thousands of probabilities


class WireError(ConnectionError):
    """The other side closed or broke the exchange."""


class Reply:
    """A status and a body that is read once."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self._headers = headers
        self._reader = reader

    async def read(self) -> bytes:
        """Read the whole body."""
        length = self._headers.get("content-length")
        if length is not None:
            return await self._reader.readexactly(int(length))
        return b"".join([chunk async for chunk in self._chunks()])

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the body's lines without their ends, as they arrive."""
        rest = b""
        async for chunk in self._chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def _chunks(self) -> AsyncIterator[bytes]:
        if self._headers.get("transfer-encoding") != "chunked":
            while data := await self._reader.read(65536):
                yield data
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            data = await self._reader.readexactly(size + 2)
            yield data[:-2]


@asynccontextmanager
async def exchange(host: str, port: int, method: str, path: str, body: bytes = b"") -> AsyncIterator[Reply]:
    """Send one JSON request; leaving the block closes the connection, which tells the server to stop.

    Raises WireError where the connection is refused or breaks.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_LIMIT)
    except OSError as error:
        raise WireError(str(error)) from error
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        writer.write(head.encode() + body)
        status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        yield Reply(status, headers, reader)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise WireError("unexpected EOF") from error
    finally:
        writer.close()


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return int(first.split(" ", 2)[1]), {key.strip().lower(): value.strip() for key, _, value in pairs}
