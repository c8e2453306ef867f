"""Many requests to one engine at once: in order, tried again, and given up where nobody is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import stamina

from fleetssd.cores import leave_one
from fleetssd.errors import FleetError, Transient
from fleetssd.ports import Completion, Progress, Prompt

ATTEMPTS = 4
GONE = 8
"""After this many requests in a row that found nobody there, the rest are not tried."""
FAILED = Completion("", "error", 0)
A = TypeVar("A")
B = TypeVar("B")


class Away(Transient):
    """Nobody listens there: not busy, but gone."""


def attempts() -> Iterable[stamina.Attempt]:
    """Return the tries of one request: again, after a pause, where the engine was busy."""
    return stamina.retry_context(on=Transient, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0)


class InFlight:
    """Up to `concurrency` requests in flight over all callers, first come first served.

    Whoever asks next while the last answers of another are on their way gets the slots that these leave.
    """

    def __init__(self, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency, "ask", leave_one)

    def close(self) -> None:
        """Wait for what is in flight and drop the rest."""
        self._pool.shutdown(cancel_futures=True)

    def map(self, ask: Callable[[A], B], asked: Iterable[A]) -> list[B]:
        """Return the answers, in order. Raises what `ask` raises."""
        return list(self._pool.map(ask, asked))

    def completions(
        self, ask: Callable[[Prompt], Completion], prompts: Sequence[Prompt], progress: Progress
    ) -> list[Completion]:
        """Return one completion a prompt, in order; one that failed is `finish="error"`.

        Raises the last Away where the engine is gone altogether, so that a night is put off and not spoilt.
        """
        lock, done = threading.Lock(), 0
        away: list[Away] = []

        def one(prompt: Prompt) -> Completion:
            nonlocal done
            if len(away) >= GONE:
                return FAILED
            answer, failure = _tried(ask, prompt)
            with lock:
                done += 1
                away[:] = [*away, failure] if isinstance(failure, Away) else []
                progress(done, len(prompts), "completions")
            return answer

        answers = self.map(one, prompts)
        if away and len(away) >= min(GONE, len(prompts)):
            raise away[-1]
        return answers


def _tried(ask: Callable[[Prompt], Completion], prompt: Prompt) -> tuple[Completion, FleetError | None]:
    try:
        return ask(prompt), None
    except FleetError as error:
        return FAILED, error
