"""The webhook endpoint: verify, keep, answer; the work is done later."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from fleetssd.config import Settings
from fleetssd.errors import FleetError, Misconfigured, Rejected
from fleetssd.gitea import Delivery
from fleetssd.gitea_hooks import read_delivery
from fleetssd.ports import Clock, Store

log = structlog.get_logger()
PATH = "/webhook"
SEEN = "/webhook/seen"
_HINT = "Put the hook's secret into the file that forge.webhook_secret_file names."
_MOST = 256
"""Deliveries in one transaction."""


def routes(settings: Settings, store: Store, clock: Clock, hint: Callable[[], None]) -> list[BaseRoute]:
    """Return the route that takes deliveries and the one that counts them; `hint` asks for a poll.

    A delivery that names a merge is stored durably before it is answered (202). Other signed events and repetitions
    are 204, unsigned ones 401, and without a configured secret all are 503. The forge repeats nothing and gives up
    after five seconds, so nothing else is done here. Raises Misconfigured where the secret's file cannot be read.
    """
    secret = read_secret(settings.forge.webhook_secret_file)
    desk = _Desk(store, clock, hint)
    seen = Counter[str]()

    async def take(request: Request) -> Response:
        answer = await _taken(request, secret, settings.web.max_body_bytes, desk)
        seen["signed" if answer.status_code in (202, 204) else "refused"] += 1
        return answer

    async def counted(_: Request) -> Response:
        return JSONResponse({"signed": seen["signed"], "refused": seen["refused"]})

    # POST alone: a GET that follows somebody's redirect is 405, since the forge would book a 2xx as delivered.
    return [Route(PATH, take, methods=["POST"]), Route(SEEN, counted, methods=["GET"])]


async def _taken(request: Request, secret: bytes | None, limit: int, desk: _Desk) -> Response:
    if not secret:
        return _say(503, "no webhook secret is configured: set forge.webhook_secret_file")
    try:
        body = await _body(request, limit)
        headers = {name.lower(): value for name, value in request.headers.items()}
        delivery = read_delivery(headers, body, secret)
        new = delivery.pull is not None and await desk.keep(delivery)
    except Rejected as error:
        return _say(error.status or 400, error.message)
    except ClientDisconnect:
        return _say(400, "the delivery was cut off")
    except FleetError as error:
        log.warning("delivery_not_kept", error=error.message)
        return _say(503, "the delivery could not be kept")
    return Response(status_code=202 if new else 204)


class _Desk:
    """Keeps deliveries; those that arrive while a write is under way share the next one, and its fsync."""

    def __init__(self, store: Store, clock: Clock, hint: Callable[[], None]) -> None:
        self._store, self._clock, self._hint = store, clock, hint
        self._waiting: list[tuple[Delivery, asyncio.Future[bool]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def keep(self, delivery: Delivery) -> bool:
        """Return once the delivery is on disk; False where these very bytes were there before.

        Raises the store's error where it could not be written.
        """
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, kept))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return await kept

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._write(batch)
        finally:
            self._writer = None

    async def _write(self, batch: list[tuple[Delivery, asyncio.Future[bool]]]) -> None:
        """Write a batch and settle what waits for it, whatever happens."""
        deliveries = [delivery for delivery, _ in batch]
        try:
            found = await run_in_threadpool(self._store.add_deliveries, deliveries, self._clock.now())
        except Exception as error:  # noqa: BLE001  it is raised again by everyone who waits
            for _, kept in batch:
                if not kept.done():
                    kept.set_exception(error)
            return
        for (_, kept), new in zip(batch, found, strict=True):
            if not kept.done():
                kept.set_result(new)
        fresh = [delivery.id for delivery, new in zip(deliveries, found, strict=True) if new]
        if fresh:
            log.info("deliveries_kept", deliveries=fresh)
            self._hint()


def read_secret(path: Path | None) -> bytes | None:
    """Read the shared secret; None where none is configured. Raises Misconfigured where the file holds none."""
    if path is None:
        return None
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise Misconfigured(f"cannot read the webhook secret {path}: {error.strerror}", hint=_HINT) from None
    if not secret:
        raise Misconfigured(f"the webhook secret {path} is empty", hint=_HINT)
    return secret


async def _body(request: Request, limit: int) -> bytes:
    """Read the raw body. Raises Rejected (413) as soon as it is known to be over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise Rejected("the delivery is too large", status=413)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Rejected("the delivery is too large", status=413)
    return bytes(body)


def _say(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status_code=status)
