"""What callers saw while checkpoints were swapped: constant streams, and the numbers that come of their calls."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx

GREEDY = {"temperature": 0, "seed": 1, "num_predict": 16}
PROMPT = "def f1(x"
BACK_OFF = 0.02
"""Seconds a caller waits after a failure."""
WINDOW = "alias half written"
"""The failure that an alias has for some milliseconds at every copy; no other is allowed, and none at a gateway."""


@dataclass(frozen=True)
class Swapped:
    """A swap: when it was decided and when it was proven, by whom it is served since, and by whom it was before.

    `loaded` says whether what serves now was in memory already when that was decided.
    """

    began: float
    at: float
    digest: str
    before: str = ""
    back: bool = False
    loaded: bool = True


@dataclass(frozen=True)
class Call:
    """One streamed request: when it ran, and its answer, or the class of its failure and what was said."""

    began: float
    ended: float
    answer: str
    failure: str
    said: str = ""


@dataclass
class Load:
    """Constant concurrent streams in a thread of their own; `calls` grows until the block ends."""

    url: str
    model: str
    streams: int
    calls: list[Call] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask as long as the block lasts."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()
            self.over.clear()

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            await asyncio.gather(*(self._stream(client) for _ in range(self.streams)))

    async def _stream(self, client: httpx.AsyncClient) -> None:
        while not self.over.is_set():
            call = await asked(client, self.model)
            self.calls.append(call)
            if call.failure:  # whoever asks again at once meets the same half-written alias
                await asyncio.sleep(BACK_OFF)


async def asked(client: httpx.AsyncClient, model: str) -> Call:
    """Stream one answer."""
    began, texts, failure, said, done = time.monotonic(), list[str](), "", "", False
    body = {"model": model, "prompt": PROMPT, "raw": True, "options": GREEDY}
    try:
        async with client.stream("POST", "/api/generate", json=body) as reply:
            if reply.status_code != 200:
                said = (await reply.aread()).decode()
                failure = classed(reply.status_code, said)
            else:
                async for line in reply.aiter_lines():
                    told = json.loads(line)
                    texts.append(told.get("response", ""))
                    done = done or bool(told.get("done"))
                    if "error" in told:
                        failure, said = "error in the stream", str(told["error"])
                failure = failure or ("" if done else "ended in silence")
    except httpx.TransportError as error:
        failure, said = type(error).__name__, str(error)
    return Call(began, time.monotonic(), "".join(texts), failure, said)


def classed(status: int, said: str) -> str:
    """Return the class of a refusal."""
    try:
        error = json.loads(said)["error"]
    except (ValueError, KeyError, TypeError):
        error = ""
    return WINDOW if status == 500 and error in ("EOF", "unexpected EOF") else f"HTTP {status}"


def numbers(
    swaps: Sequence[Swapped], still: Sequence[Call], busy: Sequence[Call], known: Mapping[str, str]
) -> dict[str, object]:
    """Return what the calls of a row say; the first of `swaps` is where it began."""
    failures = Counter(_failure(call, swaps) for call in busy if call.failure)
    took = [one.at - one.began for one in swaps[1:]]
    found: dict[str, object] = {
        "swaps": len(took),
        "calls": len(busy),
        "failed": failures.total(),
        "failures": dict(failures),
        "examples": {call.failure: call.said[:200] for call in reversed(busy) if call.failure},
        "wrong_answers": wrong(busy, swaps, known),
        "swap_s": spread(took),
        **_back(swaps, busy, known),
    }
    for share in (50, 99):
        rest, moved = (
            _percentile([call.ended - call.began for call in calls if not call.failure], share)
            for calls in (still, busy)
        )
        found |= {f"p{share}_ms": round(moved, 1), f"added_p{share}_ms": round(moved - rest, 1)}
    return found


def wrong(calls: Sequence[Call], swaps: Sequence[Swapped], known: Mapping[str, str]) -> int:
    """Count answers by a checkpoint that did not serve at any moment of the request.

    A swap is on the way from the proof of the one before it to its own: in that time both may answer.
    """
    proven, count = [one.at for one in swaps], 0
    for call in calls:
        first = max(bisect_right(proven, call.began) - 1, 0)
        last = bisect_right(proven, call.ended)
        served = {one.digest for one in swaps[first : last + 1]}
        count += not call.failure and known.get(call.answer) not in served
    return count


def _failure(call: Call, swaps: Sequence[Swapped]) -> str:
    """Return the class of a failure; the alias's own is it only while a swap was under way."""
    if call.failure != WINDOW:
        return call.failure
    after = bisect_right([one.at for one in swaps], call.began)
    under_way = after < len(swaps) and swaps[after].began <= call.ended
    # The last swap's proof may come before its caller is told, and a row may be looked at within a swap.
    return WINDOW if under_way or after == len(swaps) else f"{WINDOW}, with no swap under way"


def _back(swaps: Sequence[Swapped], calls: Sequence[Call], known: Mapping[str, str]) -> dict[str, object]:
    """Say how long aborts took, where what they went back to was loaded.

    `first`: until a caller who asked after the decision had the incumbent's whole answer. `last`: until the last time
    that somebody asked and still met what was aborted.
    """
    first, last, unloaded = list[float](), list[float](), 0
    for one in swaps:
        if not one.back:
            continue
        if not one.loaded:
            unloaded += 1
            continue
        after = [call for call in calls if call.began >= one.began]
        first += sorted(call.ended - one.began for call in after if known.get(call.answer) == one.digest)[:1]
        missed = [call for call in after if call.began <= one.at and known.get(call.answer) == one.before]
        last.append(max((call.began - one.began for call in missed), default=0.0))
    return {
        "rollbacks": len(last),
        "rollbacks_not_loaded": unloaded,
        "rollback_first_s": spread(first),
        "rollback_last_s": spread(last),
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median and the largest of some values, None for none."""
    return {"median": round(median(values), 3), "max": round(max(values), 3)} if values else None


def _percentile(values: Sequence[float], share: int) -> float:
    return (quantiles(values, n=100)[share - 1] if len(values) > 1 else sum(values)) * 1e3
