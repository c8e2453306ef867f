"""Requests by the thousand to one server: a fifth of httpx's processor time each."""

from __future__ import annotations

import http.client
import select
from collections import deque
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

CONNECT_SECONDS = 5.0


class Posts:
    """Kept connections to a server on plain HTTP. Thread-safe; a connection serves one request at a time."""

    @classmethod
    def to(cls, url: str, timeout: float) -> Posts | None:
        """Return them; None where a request needs more than a connection: encryption, a name and password, a proxy."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.username is not None or getproxies():
            return None
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"), timeout)

    def __init__(self, host: str, port: int, prefix: str, timeout: float) -> None:
        self._host, self._port, self._prefix, self._timeout = host, port, prefix, timeout
        self._idle: deque[http.client.HTTPConnection] = deque()

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send JSON and return the status and the whole reply. Raises what httpx raises where there is none."""
        connection = self._connection()
        try:
            connection.request("POST", f"{self._prefix}{path}", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            found = reply.status, reply.read()
        except TimeoutError as error:
            connection.close()
            raise httpx.ReadTimeout(str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
        if not reply.will_close:
            self._idle.append(connection)
        return found

    def close(self) -> None:
        """Close what is open and idle."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        """Return a kept connection that the server has not closed since, or a new one."""
        while self._idle:
            try:
                kept = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not select.select([kept.sock], [], [], 0)[0]:
                return kept
            kept.close()
        made = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        try:
            made.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        made.sock.settimeout(self._timeout)
        return made
