"""The ASGI application: routes, the Host check, and errors in Ollama's words."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import catalogue, conversations, embeddings, openai
from .profiles import DEFAULT_PROFILE, PROFILES
from .replies import ApiError, json_reply
from .store import Store
from .turns import Server

DEFAULT_NUM_CTX = 2048
DEFAULT_PARALLEL = 4
Handler = Callable[[Server, Request], Awaitable[Response]]


async def _root(_server: Server, _http: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(server: Server, _http: Request) -> Response:
    return json_reply({"version": server.profile.version})


_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", _root),
    ("GET", "/api/version", _version),
    ("GET", "/api/tags", catalogue.tags),
    ("GET", "/api/ps", catalogue.ps),
    ("POST", "/api/show", catalogue.show_model),
    ("POST", "/api/create", catalogue.create_model),
    ("POST", "/api/pull", catalogue.pull_model),
    ("POST", "/api/copy", catalogue.copy_model),
    ("DELETE", "/api/delete", catalogue.delete_model),
    ("HEAD", "/api/blobs/{digest}", catalogue.has_blob),
    ("POST", "/api/blobs/{digest}", catalogue.put_blob),
    ("POST", "/api/generate", conversations.generate),
    ("POST", "/api/chat", conversations.chat),
    ("POST", "/api/embed", embeddings.embed),
    ("POST", "/v1/chat/completions", openai.chat_completions),
    ("POST", "/v1/completions", openai.completions),
    ("GET", "/v1/models", openai.list_models),
    ("GET", "/v1/models/{model:path}", openai.one_model),
    ("GET", "/embedded/faults", catalogue.show_faults),
    ("POST", "/embedded/faults", catalogue.change_faults),
    ("DELETE", "/embedded/faults", catalogue.clear_faults),
)
_HEADS = frozenset({"/", "/api/version", "/api/tags"})  # where the real server has HEAD beside GET


def build_app(
    data: Path,
    *,
    profile: str = DEFAULT_PROFILE,
    num_ctx: int = DEFAULT_NUM_CTX,
    parallel: int = DEFAULT_PARALLEL,
    loopback: bool = True,
) -> ASGIApp:
    """Build the server over the store in `data`; `loopback` says that it is bound there, which checks Host."""
    server = Server(Store(data), PROFILES[profile], num_ctx=num_ctx, parallel=parallel)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        server.store.prune()
        server.scheduler.open()
        try:
            yield
        finally:
            await server.scheduler.close()

    app = Starlette(
        routes=[Route(path, _bound(server, handler), methods=[method]) for method, path, handler in _ROUTES],
        exception_handlers={ApiError: _api_error, 404: _not_found, 405: _wrong_method},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return HostCheck(app) if loopback else app


def _bound(server: Server, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(http: Request) -> Response:
        return await handler(server, http)

    return endpoint


async def _api_error(_http: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for nothing else
    return json_reply({"error": error.message}, error.status, error.content_type)


async def _not_found(_http: Request, _error: Exception) -> Response:
    return Response("404 page not found", 404, {"content-type": "text/plain"})


async def _wrong_method(http: Request, error: Exception) -> Response:
    """Answer 405 with every method that the path has."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    path = http.url.path
    found = {method for method, route, _ in _ROUTES if Route(route, _root).path_regex.match(path)}
    found |= {"HEAD"} if path in _HEADS else set()
    allowed = [method for method in ("HEAD", "GET", "POST", "DELETE") if method in found]
    headers = {"content-type": "text/plain", "allow": ", ".join(allowed)}
    return Response("405 method not allowed", 405, headers)


class HostCheck:
    """Refuse a request whose Host is not of this machine: what keeps a web page from talking to a local server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403 with an empty body."""
        if scope["type"] == "http":
            host = next((value for key, value in scope["headers"] if key == b"host"), b"").decode("latin-1")
            if not allowed_host(host):
                await Response(status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def allowed_host(header: str) -> bool:
    """Whether a Host header names this machine: loopback, a private address, localhost or a local domain."""
    host = header.lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        local = host.endswith((".localhost", ".local", ".internal"))
        return local or host in ("", "localhost", socket.gethostname().lower())
    return address.is_loopback or address.is_private or address.is_unspecified
