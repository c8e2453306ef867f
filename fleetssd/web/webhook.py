"""The webhook endpoint: verify, keep, answer; the work is done later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from fleetssd.config import Settings
from fleetssd.errors import FleetError, Misconfigured, Rejected
from fleetssd.gitea_hooks import read_delivery
from fleetssd.ports import Clock, Store

log = structlog.get_logger()
PATH = "/webhook"
_HINT = "Put the hook's secret into the file that forge.webhook_secret_file names."


def routes(settings: Settings, store: Store, clock: Clock, hint: Callable[[], None]) -> list[BaseRoute]:
    """Return the route that takes deliveries; `hint` asks for a poll.

    A delivery that names a merge is stored durably before it is answered (202). Other signed events and repetitions
    are 204, unsigned ones 401, and without a configured secret all are 503. The forge repeats nothing and gives up
    after five seconds, so nothing else is done here. Raises Misconfigured where the secret's file cannot be read.
    """
    secret = read_secret(settings.forge.webhook_secret_file)

    async def take(request: Request) -> Response:
        if not secret:
            return _say(503, "no webhook secret is configured: set forge.webhook_secret_file")
        try:
            body = await _body(request, settings.web.max_body_bytes)
            headers = {name.lower(): value for name, value in request.headers.items()}
            delivery = read_delivery(headers, body, secret)
            if delivery.pull is None:
                return Response(status_code=204)
            new = await run_in_threadpool(store.add_delivery, delivery, clock.now())
        except Rejected as error:
            return _say(error.status or 400, error.message)
        except ClientDisconnect:
            return _say(400, "the delivery was cut off")
        except FleetError as error:
            log.warning("delivery_not_kept", error=error.message)
            return _say(503, "the delivery could not be kept")
        if new:
            log.info("delivery_kept", delivery=delivery.id, repository=delivery.repository, pull=delivery.pull)
            hint()
        return Response(status_code=202 if new else 204)

    # POST alone: a GET that follows somebody's redirect is 405, since the forge would book a 2xx as delivered.
    return [Route(PATH, take, methods=["POST"])]


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
    if declared.isdigit() and int(declared) > limit:
        raise Rejected("the delivery is too large", status=413)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Rejected("the delivery is too large", status=413)
    return bytes(body)


def _say(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status_code=status)
