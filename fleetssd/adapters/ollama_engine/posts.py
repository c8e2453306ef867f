"""Requests by the thousand to one server, by http.client: a fifth of httpx's processor time each."""

from __future__ import annotations

import select
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

CONNECT_SECONDS = 5.0
_JSON = {"Content-Type": "application/json"}


class Posts:
    """Kept connections to a server on plain HTTP. Thread-safe."""

    @classmethod
    def to(cls, url: str, timeout: float) -> Posts | None:
        """Return them; None where a request needs more than a connection: encryption, a name and password, a proxy."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.username is not None or getproxies():
            return None
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"), timeout)

    def __init__(self, host: str, port: int, prefix: str, timeout: float) -> None:
        self._host, self._port, self._prefix, self._timeout = host, port, prefix, timeout
        self._idle: list[HTTPConnection] = []  # append and pop are atomic

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send JSON and return the status and the whole reply. Raises what httpx raises where there is none."""
        connection = self._kept() or self._made()
        try:
            connection.request("POST", f"{self._prefix}{path}", body, _JSON)
            with connection.getresponse() as reply:
                content = reply.read()
        except TimeoutError as error:
            connection.close()
            raise httpx.ReadTimeout(str(error)) from error
        except (HTTPException, OSError) as error:
            connection.close()
            raise httpx.RemoteProtocolError(f"{type(error).__name__}: {error}") from error
        if connection.sock is not None:  # the server keeps it open too
            self._idle.append(connection)
        return reply.status, content

    def close(self) -> None:
        """Close what is open and idle."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> HTTPConnection | None:
        """Return an idle connection that the server has not closed in the meantime."""
        while self._idle:
            connection, poll = self._idle.pop(), select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):  # an end, or bytes that answer nothing
                return connection
            connection.close()
        return None

    def _made(self) -> HTTPConnection:
        connection = HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        connection.sock.settimeout(self._timeout)
        return connection
