"""Requests to a server of the OpenAI kind, and its ways to fail turned into our errors."""

from __future__ import annotations

from typing import Any

import httpx

from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.in_flight import Away


class Wire:
    """JSON over HTTP to one server."""

    def __init__(self, url: str, timeout: float, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url, timeout=httpx.Timeout(timeout, connect=5.0, pool=None), transport=transport, trust_env=False
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """Return what the server says. Raises Away, Transient, or Rejected with its words and status."""
        try:
            response = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Away(f"no engine answers at {self.url}", hint="Is the server of [engine] url up?") from None
        except httpx.TransportError as error:
            raise Transient(
                f"the engine at {self.url} hung up: {type(error).__name__}", hint="Its own log says why."
            ) from None
        if response.status_code < 400:
            return _table(response)
        said, status = _words(response), response.status_code
        if status in (408, 425, 429, 502, 503, 504):
            raise Transient(f"the engine said {status}: {said}", hint="It is busy; the next try may go through.")
        if status in (401, 403):
            raise Misconfigured(
                f"the engine said {status}: {said}", hint="fleetssd sends no key; start it without one."
            )
        raise Rejected(f"the engine said {status}: {said}", hint="The engine's own log has the details.", status=status)


def _table(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text  # vLLM says "Success: ..." in plain text


def _words(response: httpx.Response) -> str:
    table = _table(response)
    error = table.get("error", table) if isinstance(table, dict) else table
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300] or "nothing"
