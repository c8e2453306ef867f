"""Requests to an Ollama server, and its many ways to fail turned into four errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import ollama

from fleetssd.adapters.ollama_engine.posts import Posts
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.in_flight import Away

SLOW = 900.0
"""Seconds for what loads, copies or hashes gigabytes."""


class Wire:
    """One server: the official client, and raw requests for the routes that it lacks."""

    def __init__(self, url: str, timeout: float, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        quick = httpx.Timeout(timeout, connect=5.0, pool=None)
        slow = httpx.Timeout(max(SLOW, timeout), connect=5.0, pool=None)
        trust = httpx.create_ssl_context()  # one for all three: each would read every certificate again
        self._raw = httpx.Client(base_url=url, timeout=quick, transport=transport, verify=trust)
        self._slow = slow
        self._posts = Posts.to(url, timeout) if transport is None else None
        self.client = ollama.Client(url, timeout=quick, transport=transport, verify=trust)
        self.patient = ollama.Client(url, timeout=slow, transport=transport, verify=trust)

    def close(self) -> None:
        """Close every connection."""
        self._raw.close()
        if self._posts is not None:
            self._posts.close()
        self.client.close()  # type: ignore[no-untyped-call]
        self.patient.close()  # type: ignore[no-untyped-call]

    def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, slow: bool = False
    ) -> dict[str, Any]:
        """Send JSON and return the JSON object of the reply."""
        return self._table(path, self.send(method, path, slow=slow, json=body).content)

    def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST JSON and return the JSON object of the reply, as `json` does, for what is asked thousands of times."""
        if self._posts is None:
            return self.json("POST", path, body)
        with self.told():
            status, content = self._posts.post(path, json.dumps(body).encode())
        if status >= 400:
            raise fault(status, _text(content))
        return self._table(path, content)

    def send(
        self, method: str, path: str, *, slow: bool = False, missing_ok: bool = False, **extra: Any
    ) -> httpx.Response:
        """Send a request and return its reply; a status of 400 and more is raised as one of our errors."""
        with self.told():
            if slow:
                extra["timeout"] = self._slow
            response = self._raw.request(method, path, **extra)
        if response.status_code >= 400 and not (missing_ok and response.status_code == 404):
            raise fault(response.status_code, _text(response.content))
        return response

    def _table(self, path: str, content: bytes) -> dict[str, Any]:
        try:
            table = json.loads(content)
        except ValueError:
            table = None
        if not isinstance(table, dict):
            raise Corrupt(f"{self.url}{path} answered something that is no JSON object", hint=NOT_OLLAMA)
        return table

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, with the server's digests."""
        models = self.json("GET", "/api/ps").get("models") or []
        return {str(row["name"]): str(row["digest"]) for row in models}

    def preload(self, model: str, num_ctx: int | None = None) -> None:
        """Load a model and keep it."""
        with self.told():
            self.patient.generate(model, "", keep_alive=-1, options={"num_ctx": num_ctx} if num_ctx else None)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what the client or httpx raises inside into our errors."""
        try:
            yield
        except ollama.ResponseError as error:
            raise fault(error.status_code, error.error) from None
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            raise Away(f"no engine answers at {self.url}", hint="Is Ollama running? `ollama serve`") from None
        except httpx.TimeoutException as error:
            raise Transient(f"the engine at {self.url} is too slow: {type(error).__name__}", hint=_SLOW_HINT) from None
        except httpx.TransportError as error:
            raise Transient(f"the engine at {self.url} hung up: {error}", hint="Its own log says why.") from None
        except ValueError:  # pydantic's, and that of a body which is no JSON
            raise Corrupt(
                f"the engine at {self.url} answered in a shape that is not Ollama's", hint=NOT_OLLAMA
            ) from None


def fault(status: int, text: str) -> FleetError:
    """Name an error by what the caller does next. `status` is -1 for an error inside a stream."""
    said = f"the engine said {status if status > 0 else 'in its stream'}: {text[:300] or 'nothing'}"
    lower = text.lower()
    if status in (408, 425, 429, 499, 502, 503, 504):
        return Transient(said, hint="It is busy; the next try may go through.")
    if "no space left" in lower or "disk quota" in lower:
        return Misconfigured(said, hint="Make room on the engine's disk.")
    if "digest mismatch" in lower:
        return Corrupt(said, hint="The file changed while it was sent; build it again.")
    if status in (401, 403):
        return Misconfigured(
            said, hint="Does [engine] url name the engine as it wants to be called (OLLAMA_HOST, OLLAMA_ORIGINS)?"
        )
    if lower.strip() in ("eof", "unexpected eof") and status in (-1, 500):
        return Transient(said, hint="A name was read while it was written.")
    return Rejected(said, hint="The engine's own log has the details.", status=status)


def _text(content: bytes) -> str:
    try:
        table = json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")
    return str(table.get("error", table)) if isinstance(table, dict) else str(table)


NOT_OLLAMA = "Does [engine] url point to an Ollama server, and to nothing in front of it?"
_SLOW_HINT = "Raise [engine] timeout_seconds, or look at what else the machine does."
