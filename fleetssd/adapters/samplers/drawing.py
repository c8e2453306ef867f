"""Many prompts at once with progress, and requests that are tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import stamina

from fleetssd.errors import Rejected, Transient
from fleetssd.ports import Completion, Progress, Prompt

READ_SECONDS = 600.0
ATTEMPTS = 3
GONE = "The next start of the night continues where this one stopped."


class Meter:
    """Counts completions and tokens, and tells both with the rate since the start."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = self._tokens = 0
        self._lock, self._began = threading.Lock(), time.monotonic()

    def count(self, completion: Completion) -> None:
        """Count one completion; from any thread."""
        with self._lock:
            self._done += 1
            self._tokens += completion.tokens
            rate = self._tokens / max(1e-3, time.monotonic() - self._began)
            self._progress(self._done, self._total, f"samples, {rate:.0f} tokens/s")


def draw_all(
    prompts: Sequence[Prompt], draw: Callable[[Prompt], Completion], at_once: int, progress: Progress
) -> list[Completion]:
    """Return what `draw` makes of each prompt, in order, so many at once. Raises what `draw` raises."""
    meter = Meter(len(prompts), progress)

    def one(prompt: Prompt) -> Completion:
        completion = draw(prompt)
        meter.count(completion)
        return completion

    with ThreadPoolExecutor(at_once, thread_name_prefix="sample") as pool:
        return list(pool.map(one, prompts))


class Wire:
    """JSON over HTTP to one sampling server; requests are tried again where the server is away or failing."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        timeout = httpx.Timeout(READ_SECONDS, connect=5.0, pool=None)
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport, trust_env=False)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer. Raises Transient where the server is gone or failing, Rejected where it says no."""
        for attempt in stamina.retry_context(
            on=Transient, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0
        ):
            with attempt:
                return self._once(method, path, body)
        raise AssertionError  # the last attempt returns or raises

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
            said = response.text[:200]
            if response.status_code < 400:
                table: dict[str, Any] = response.json()
                return table
        except httpx.TransportError as error:
            raise Transient(f"the sampler is gone: {type(error).__name__}", hint=GONE) from None
        except ValueError:
            raise Transient(f"the sampler's answer is no JSON: {said!r}", hint=GONE) from None
        if response.status_code >= 500 or response.status_code == 429:
            raise Transient(f"the sampler said {response.status_code}: {said}", hint=GONE)
        raise Rejected(f"the sampler said {response.status_code}: {said}", status=response.status_code)
