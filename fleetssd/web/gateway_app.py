"""The gateway as an application: the way through, and beside it what it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetssd.config import Settings
from fleetssd.web.feed import Feed
from fleetssd.web.gateway import Gateway
from fleetssd.web.metrics import exposition
from fleetssd.web.recorder import Recorder
from fleetssd.web.tally import Tally, metrics
from fleetssd.web.upstream import Upstream


def build_gateway(feed: Feed, upstream: Upstream, recorder: Recorder | None, settings: Settings) -> ASGIApp:
    """Return the application: everything under /api and /v1 goes to the engine, /healthz and /metrics are our own."""
    tally = Tally()
    through = Gateway(feed, upstream, settings, recorder, tally)
    own = _own(feed, upstream, recorder, through, tally)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        passes = scope["type"] == "http" and (path == "/" or path.startswith(("/api/", "/v1/")))
        await (through if passes else own)(scope, receive, send)

    return app


def _own(feed: Feed, upstream: Upstream, recorder: Recorder | None, through: Gateway, tally: Tally) -> Starlette:
    async def health(_: Request) -> Response:
        way = feed.now.route
        store = feed.problem or (recorder and recorder.problem) or "ok"
        return JSONResponse({"status": "ok", "model": way.model, "served": way.digest, "store": store})

    async def scrape(_: Request) -> Response:
        gauges = {
            "calls_in_flight": float(through.bounds.calls),
            "calls_held": float(through.bounds.held),
            "calls_waiting": float(recorder.waiting if recorder else 0),
            "store_up": float(not (feed.problem or (recorder and recorder.problem))),
        }
        text = exposition(lambda: metrics(tally, gauges, recorder.lost if recorder else 0))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        upstream.open()
        await feed.refresh()
        looking = asyncio.create_task(feed.run())
        yield
        looking.cancel()
        await through.shadow.close()
        if recorder:
            await asyncio.to_thread(recorder.close)
        await upstream.close()

    return Starlette(routes=[Route("/healthz", health), Route("/metrics", scrape)], lifespan=lifespan)
