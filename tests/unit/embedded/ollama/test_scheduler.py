"""The scheduler's decisions, with loads that fail, hang or are not needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from fleetssd.embedded.ollama.engine import Engine, Spec
from fleetssd.embedded.ollama.models import Model
from fleetssd.embedded.ollama.replies import ApiError
from fleetssd.embedded.ollama.scheduler import BUSY, Runner, Scheduler, Wanted, to_evict

NONE: Any = None  # a model or an engine that the decision never looks at


def runner(keep_alive: float, users: int = 0) -> Runner:
    """Return a runner as `to_evict` sees it."""
    return Runner("k", (), "n", cast("Model", NONE), cast("Engine", NONE), keep_alive, users)


def wanted(name: str) -> Wanted:
    """Return a request for a model of its own."""
    return Wanted(name, cast("Model", NONE), Spec(Path(name), (), 512, 1), (name,))


def test_the_shortest_keep_alive_goes_first() -> None:
    """Not the least recently used one: a fleet pins its model with a long keep_alive."""
    runners = [runner(300.0), runner(float("inf")), runner(60.0)]
    assert to_evict(runners) is runners[2]


def test_an_idle_runner_goes_before_a_busy_one() -> None:
    """Work in flight outweighs a short keep_alive."""
    runners = [runner(1.0, users=1), runner(600.0)]
    assert to_evict(runners) is runners[1]


def test_nothing_loaded_means_nothing_to_evict() -> None:
    """There is no candidate among none."""
    assert to_evict([]) is None


def test_a_full_queue_is_answered_503() -> None:
    """One load hangs, one request waits, the third is refused in the server's words."""

    async def hang(_spec: Spec) -> Engine:
        await asyncio.Event().wait()
        raise AssertionError

    async def scene() -> ApiError:
        scheduler = Scheduler(hang, max_queue=1)
        scheduler.open()
        waiting = []
        for name in ("a", "b"):
            waiting.append(asyncio.create_task(scheduler.acquire(wanted(name))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(ApiError) as error:
            await scheduler.acquire(wanted("c"))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await scheduler.close()
        return error.value

    refused = asyncio.run(scene())
    assert (refused.status, refused.message) == (503, BUSY)


def test_who_waits_is_served_in_the_order_of_coming() -> None:
    """One load at a time, whichever model it is of: the second of a name stands behind the first of another."""
    loads: list[str] = []

    async def refuse(spec: Spec) -> Engine:
        loads.append(spec.model.name)
        await asyncio.sleep(0)
        raise ApiError(500, "no")

    async def scene() -> None:
        scheduler = Scheduler(refuse)
        scheduler.open()
        await asyncio.gather(*(scheduler.acquire(wanted(name)) for name in "abacb"), return_exceptions=True)
        await scheduler.close()

    asyncio.run(scene())
    assert loads == list("abacb")


def test_a_failed_load_is_the_error_of_its_request_alone() -> None:
    """The next request is tried anew."""
    calls: list[str] = []

    async def fail(spec: Spec) -> Engine:
        calls.append(str(spec.model))
        raise ApiError(500, f"no {spec.model}")

    async def scene() -> list[str]:
        scheduler = Scheduler(fail)
        scheduler.open()
        got = await asyncio.gather(*(scheduler.acquire(wanted(n)) for n in "ab"), return_exceptions=True)
        await scheduler.close()
        return [str(error) for error in got]

    assert asyncio.run(scene()) == ["no a", "no b"]
    assert calls == ["a", "b"]


def test_a_client_that_leaves_aborts_its_load() -> None:
    """The load is cancelled and the next in the queue is served."""
    events: list[str] = []

    async def start(spec: Spec) -> Engine:
        events.append(f"load {spec.model}")
        if str(spec.model) == "b":
            raise ApiError(500, "b was tried")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("aborted")
            raise
        raise AssertionError

    async def scene() -> None:
        scheduler = Scheduler(start)
        scheduler.open()
        leaving = asyncio.create_task(scheduler.acquire(wanted("a")))
        while not events:
            await asyncio.sleep(0)
        following = asyncio.create_task(scheduler.acquire(wanted("b")))
        leaving.cancel()
        await asyncio.gather(leaving, following, return_exceptions=True)
        await scheduler.close()

    asyncio.run(scene())
    assert events == ["load a", "aborted", "load b"]
