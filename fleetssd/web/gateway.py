"""The pass-through in front of the engine: what comes in goes out, and `fleetssd.gateway` says what changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fleetssd.config import Decode
from fleetssd.errors import Rejected
from fleetssd.gateway import Ask, rename, rewrite, worth_a_retry
from fleetssd.web.caller import Call
from fleetssd.web.feed import Feed

log = structlog.get_logger()

PAUSE = 0.05
"""Seconds before the second try; a copied alias is half written for 2 to 6 ms."""
_STREAMS = ("application/x-ndjson", "text/event-stream")
_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_OURS = _HOP | {b"host", b"expect", b"accept-encoding"}  # a compressed reply could not be followed


def build_gateway(feed: Feed, client: httpx.AsyncClient, url: str, decode: Decode, max_body_bytes: int) -> Starlette:
    """Return the application: everything under /api and /v1 goes to the engine at `url`, /healthz is our own."""
    through = Gateway(feed, client, url, decode, max_body_bytes)

    async def health(_: Request) -> Response:
        way = feed.route
        return JSONResponse({"status": "ok", "model": way.model, "served": way.digest, "store": feed.problem or "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await feed.refresh()
        looking = asyncio.create_task(feed.run())
        yield
        looking.cancel()
        await client.aclose()

    paths = [Route(path, through) for path in ("/", "/api/{rest:path}", "/v1/{rest:path}")]
    return Starlette(routes=[Route("/healthz", health), *paths], lifespan=lifespan)


class Gateway:
    """One engine, one alias: an ASGI application that streams both ways."""

    def __init__(self, feed: Feed, client: httpx.AsyncClient, url: str, decode: Decode, max_body_bytes: int) -> None:
        self._feed, self._client, self._url = feed, client, httpx.URL(url)
        self._decode, self._limit = decode, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its reply back; what goes wrong before the reply's first byte is said in JSON."""
        call = Call(scope, receive, send)
        try:
            if call.path.startswith("/api/blobs/"):  # gigabytes: never in memory, and never sent twice
                await self._pass(call, None, None)
            else:
                body, way = await call.body(self._limit), self._feed.route
                ask = rewrite(call.path, body, way, self._decode)
                if ask is not None and way.digest is not None:
                    call.headers.append((b"x-fleetssd-checkpoint", way.digest.encode()))
                await call.while_connected(self._pass(call, body if ask is None else ask.body, ask))
        except ClientDisconnect:
            return
        except Rejected as error:
            await call.refuse(413, error.message, error.hint)
        except httpx.InvalidURL as error:
            await call.refuse(400, f"no engine has such an address: {error}", "Look at the path of the request.")
        except httpx.TransportError as error:
            if call.started:  # the connection is cut, as the engine's was: the caller must not take half for whole
                log.warning("reply_cut", request=call.id, error=str(error))
                return
            await call.refuse(502, f"no engine answers at {self._url}", "Is Ollama running? `ollama serve`")

    async def _pass(self, call: Call, body: bytes | None, ask: Ask | None) -> None:
        reply = await self._open(call, body)
        try:
            headers = [(name, value) for name, value in reply.headers.raw if name.lower() not in _HOP]
            streamed = reply.headers.get("content-type", "").startswith(_STREAMS)
            if reply.is_stream_consumed or (ask and not streamed):
                content = await reply.aread()
                await call.whole(reply.status_code, headers, rename(content, ask) if ask else content)
                return
            await call.start(reply.status_code, headers)
            async for chunk in _renamed(reply.aiter_raw(), ask) if ask else reply.aiter_raw():
                await call.more(chunk)
            await call.more(b"", last=True)
        finally:
            await reply.aclose()

    async def _open(self, call: Call, body: bytes | None) -> httpx.Response:
        """Send until the reply's headers are there; a body that is in memory may be sent twice."""
        if body is not None:
            try:
                reply = await self._client.send(self._onward(call, body), stream=True)
                if reply.status_code not in (500, 503) or not worth_a_retry(reply.status_code, await reply.aread()):
                    return reply
                await reply.aclose()
            except (httpx.ConnectError, httpx.ConnectTimeout):
                pass
            await asyncio.sleep(PAUSE)
        return await self._client.send(self._onward(call, body), stream=True)

    def _onward(self, call: Call, body: bytes | None) -> httpx.Request:
        request = call.request
        left = _OURS if body is None else _OURS | {b"content-length"}
        headers = [(name, value) for name, value in request.headers.raw if name not in left]
        query = request.scope["query_string"]
        target = self._url.raw_path.rstrip(b"/") + request.scope["raw_path"] + (b"?" + query if query else b"")
        return httpx.Request(
            request.method,
            self._url.copy_with(raw_path=target),
            headers=[*headers, (b"accept-encoding", b"identity")],
            content=call.chunks() if body is None else body,
            extensions={"timeout": self._client.timeout.as_dict()},
        )


async def _renamed(chunks: AsyncIterator[bytes], ask: Ask) -> AsyncIterator[bytes]:
    """Pass whole lines on as soon as they are there; no reader can do anything with half of one."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield b"".join(rename(line, ask) + b"\n" for line in lines)
    if rest:
        yield rename(rest, ask)
