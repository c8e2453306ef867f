"""A small HTTP/1.1 client for one loopback server: no redirects, as few steps per request as will do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_LIMIT = 1 << 24  # one event of a stream may carry thousands of probabilities
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class WireError(ConnectionError):
    """The other side closed or broke the exchange."""


class Reply:
    """A status and a body that is read once. `reusable` says that the connection can serve another request."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.reusable = False
        self._headers = headers
        self._reader = reader

    async def read(self) -> bytes:
        """Read the whole body."""
        length = self._headers.get("content-length")
        if length is None:
            return b"".join([chunk async for chunk in self._chunks()])
        body = await self._reader.readexactly(int(length))
        self.reusable = self._headers.get("connection", "").lower() != "close"
        return body

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


class Wire:
    """Connections to one server; at most `spare` of them are kept open between requests."""

    def __init__(self, host: str, port: int, *, spare: int) -> None:
        self._host, self._port, self._spare = host, port, spare
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Close what is open and idle."""
        while self._idle:
            self._idle.pop()[1].close()

    @asynccontextmanager
    async def exchange(self, path: str, body: bytes) -> AsyncIterator[Reply]:
        """POST one JSON request; leaving the block early closes the connection, which tells the server to stop.

        Raises WireError where the connection is refused or breaks.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        (reader, writer), reply = await self._asked(head.encode() + body)
        try:
            yield reply
        except (OSError, asyncio.IncompleteReadError) as error:
            raise WireError("unexpected EOF") from error
        finally:
            if reply.reusable and len(self._idle) < self._spare:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _asked(self, request: bytes) -> tuple[_Connection, Reply]:
        """Send on a kept connection, or on a new one where the server has closed that in the meantime."""
        while self._idle:
            connection = self._idle.pop()
            if connection[0].at_eof():
                connection[1].close()
                continue
            try:
                return connection, await _sent(connection, request)
            except (OSError, asyncio.IncompleteReadError):
                continue
        try:
            connection = await asyncio.open_connection(self._host, self._port, limit=_LIMIT)
            return connection, await _sent(connection, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise WireError("unexpected EOF") from error


async def _sent(connection: _Connection, request: bytes) -> Reply:
    reader, writer = connection
    try:
        writer.write(request)
        status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
    except BaseException:
        writer.close()
        raise
    return Reply(status, headers, reader)


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return int(first.split(" ", 2)[1]), {key.strip().lower(): value.strip() for key, _, value in pairs}
