"""httpx behind the memory port: RetainDB's HTTP API, every wait short and finite."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from fleetssd import config, facts
from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.facts import Written

MOST_BYTES = 1_000_000
_KEY = "Put the server's key, one line, into the file that mirror.key_file names."


class RetainDb:
    """A RetainDB server.

    Every method raises Transient where the server is away, slow or busy, Misconfigured where the key is not accepted,
    and Rejected where it will never take this one request.
    """

    def __init__(self, settings: config.Mirror) -> None:
        self.root, self.seconds = settings.url, settings.timeout_seconds
        key = read_key(settings.key_file)
        # The self-hosted server reads the first, the hosted one wants both.
        secret = {"Authorization": f"Bearer {key}", "X-API-Key": key} if key else {}
        self.client = httpx.Client(headers=secret, timeout=self.seconds, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def write(self, body: Mapping[str, Any], key: str) -> Written:
        """Write a fact and return what came of it; the same key twice is one memory."""
        answer = self._ask("POST", "/v1/memory", body, {"Idempotency-Key": key})
        try:
            return facts.written(answer)
        except KeyError:
            raise Transient(f"{self.root} names no memory in its answer", hint="Is mirror.url a RetainDB?") from None

    def read(self, memory: str) -> dict[str, Any] | None:
        """Return a memory by its id; None where there is none."""
        try:
            return self._ask("GET", f"/v1/memory/{quote(memory, safe='')}")
        except Rejected as error:
            if error.status == 404:
                return None
            raise

    def forget(self, memory: str) -> None:
        """Delete a memory; a missing one is no error."""
        try:
            self._ask("DELETE", f"/v1/memory/{quote(memory, safe='')}")
        except Rejected as error:
            if error.status != 404:
                raise

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a request and return the object of its answer, all within the time limit."""
        try:
            with self.client.stream(method, self.root + path, json=body, headers=headers) as response:
                content = self._read(response)
        except httpx.TransportError as error:
            raise self._silent(type(error).__name__) from None
        self._check(response, path, content)
        if not content:
            return {}
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Transient(f"{self.root} answered {path} with no JSON object", hint="Is mirror.url a RetainDB?")
        return found

    def _read(self, response: httpx.Response) -> bytes:
        """Read a body; a server that drips it byte by byte is as slow as one that is silent."""
        deadline = time.monotonic() + self.seconds
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if time.monotonic() > deadline or len(content) > MOST_BYTES:
                raise self._silent("its answer does not end")
        return bytes(content)

    def _check(self, response: httpx.Response, path: str, content: bytes) -> None:
        code = response.status_code
        if code < 300:
            return
        said = f"{self.root} answered {path} with {code}{_said(content)}"
        if code in (401, 403):
            raise Misconfigured(said, hint=_KEY)
        if code in (408, 425, 429) or code >= 500:
            raise Transient(said, hint="It is told again later.")
        if code < 400:
            raise Misconfigured(said, hint="Set mirror.url to the address that the server really has.")
        raise Rejected(said, status=code)

    def _silent(self, why: str) -> Transient:
        return Transient(f"the memory server at {self.root} does not answer ({why})", hint="It is told again later.")


def read_key(path: Path | None) -> str:
    """Read the key file; empty where none is named. Raises Misconfigured where it is missing or holds no key."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(f"cannot read the key file {path}", hint=_KEY) from None
    if not key or not key.isprintable() or " " in key:
        raise Misconfigured(f"the key file {path} holds no key", hint=_KEY)
    return key


def _said(content: bytes) -> str:
    try:
        error = json.loads(content)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {message[:200]}" if isinstance(message, str) else ""
