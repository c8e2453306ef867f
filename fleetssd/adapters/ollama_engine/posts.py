"""Requests by the thousand to one server, by urllib3: half of httpx's processor time each."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
from urllib3 import HTTPConnectionPool, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

CONNECT_SECONDS = 5.0
KEPT = 64
"""Connections that are kept between requests; more may be open at once."""
_JSON = {"Content-Type": "application/json"}


class Posts:
    """Kept connections to a server on plain HTTP. Thread-safe."""

    @classmethod
    def to(cls, url: str, timeout: float) -> Posts | None:
        """Return them; None where a request needs more than a connection: encryption, a name and password, a proxy."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.username is not None or getproxies():
            return None
        kept = Timeout(connect=CONNECT_SECONDS, read=timeout)
        return cls(HTTPConnectionPool(parts.hostname, parts.port, kept, KEPT), parts.path.rstrip("/"))

    def __init__(self, pool: HTTPConnectionPool, prefix: str) -> None:
        self._pool, self._prefix = pool, prefix

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send JSON and return the status and the whole reply. Raises what httpx raises where there is none."""
        try:
            reply = self._pool.urlopen("POST", f"{self._prefix}{path}", body, _JSON, retries=False, redirect=False)
        except NewConnectionError as error:
            raise httpx.ConnectError(str(error)) from error
        except ConnectTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except ReadTimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except HTTPError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        return reply.status, reply.data

    def close(self) -> None:
        """Close what is open and idle."""
        self._pool.close()
