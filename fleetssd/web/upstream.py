"""The engine as the gateway sees it: requests go out as they are, and replies come back raw."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias
from urllib.parse import quote_from_bytes

import aiohttp
from yarl import URL

from fleetssd.advice import ADVICE
from fleetssd.config import EngineKind
from fleetssd.errors import Rejected, Transient

Headers: TypeAlias = list[tuple[bytes, bytes]]
CONNECT_SECONDS = 5.0
STREAMS = ("application/x-ndjson", "text/event-stream")
"""What is passed on line by line."""
_QUIET = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_PRINTABLE = bytes(range(0x21, 0x7F)).decode()


class Away(Transient):
    """No answer from the engine: `refused` (nobody listens), `lost` (before the first byte) or `cut` (after it)."""

    def __init__(self, how: Literal["refused", "lost", "cut"], message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.how = how


class Reply:
    """An engine's reply whose headers are here; `close` lets the engine go, wherever its body is."""

    def __init__(self, reply: aiohttp.ClientResponse, hint: str) -> None:
        self._reply, self._hint = reply, hint
        self.status = reply.status
        self.headers: Headers = list(reply.raw_headers)
        self.streams = reply.headers.get("content-type", "").startswith(STREAMS)
        self._read: bytes | None = None

    @property
    def is_read(self) -> bool:
        """Whether the whole body was read already."""
        return self._read is not None

    async def read(self) -> bytes:
        """Return the whole body. Raises Away where it breaks off."""
        if self._read is None:
            self._read = b"".join([chunk async for chunk in self.chunks()])
        return self._read

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Away where it breaks off."""
        try:
            async for chunk in self._reply.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise Away("cut", f"the engine's answer broke off: {type(error).__name__}", self._hint) from None

    def close(self) -> None:
        """Give the connection back where the body was read whole, else close it: then the engine stops generating."""
        self._reply.close() if not self._reply.content.is_eof() else self._reply.release()


class Upstream:
    """Connections to one engine. An answer may be hours of silence away: only its start has a time limit."""

    def __init__(self, url: str, kind: EngineKind = "ollama", connect_seconds: float = CONNECT_SECONDS) -> None:
        self.url, self._hint = url.rstrip("/"), ADVICE[kind].away
        self._seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Start; must be called on the event loop that will use it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, family=socket.AF_UNSPEC),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._seconds),
            auto_decompress=False,
            skip_auto_headers=_QUIET,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, method: str, target: bytes, headers: Headers, body: bytes | AsyncIterator[bytes] | None
    ) -> Reply:
        """Send a request and return its reply once the headers are here.

        Raises Away where there is no engine, and Rejected where the request cannot be one.
        """
        assert self._session is not None  # noqa: S101  opened by the application's start
        try:
            made = self._session.request(
                method,
                URL(self.url + quote_from_bytes(target, safe=_PRINTABLE), encoded=True),
                headers=[(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in headers],
                data=body or None,
                allow_redirects=False,
            )
            reply = await made
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise Away("refused", f"no engine answers at {self.url}", self._hint) from None
        except (aiohttp.InvalidURL, ValueError):
            raise Rejected(
                "the request has an address or a header that no engine takes", hint="Look at both."
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Away("lost", f"the engine at {self.url} hung up: {type(error).__name__}", self._hint) from None
        if not 200 <= reply.status <= 599:
            reply.close()
            raise Away("lost", f"the engine at {self.url} answered with status {reply.status}", self._hint)
        return Reply(reply, self._hint)
