"""The routes about stored models: blobs, create, pull, copy, delete, show, tags, ps, and the fault hooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from .create import create, refuse_early
from .models import listing
from .names import Name, parse_name
from .pull import pull
from .replies import JSON_PLAIN, ApiError, Json, LineStream, body_of, dumps, json_reply, quoted, rfc3339
from .show import shown
from .turns import Server


async def has_blob(server: Server, http: Request) -> Response:
    """Answer HEAD /api/blobs/<digest>."""
    digest = http.path_params["digest"]
    if not server.store.blob(digest).exists():
        raise ApiError(404, f"blob {quoted(digest)} not found")
    return Response(status_code=200)


async def put_blob(server: Server, http: Request) -> Response:
    """Answer POST /api/blobs/<digest>; a blob that is there is not read again."""
    digest = http.path_params["digest"]
    if server.store.blob(digest).exists():
        return Response(status_code=200)
    try:
        found = await server.store.receive(http.stream(), server.faults.blob_room)
    except OSError as error:
        raise ApiError(500, f"write {error.filename}: {str(error.strerror).lower()}") from error
    if found != digest:
        raise ApiError(400, f"digest mismatch, expected {quoted(digest)}, got {quoted(found)}")
    return Response(status_code=201)


async def create_model(server: Server, http: Request) -> Response:
    """Answer /api/create."""
    request = await body_of(http)
    name = server.store.existing(refuse_early(server.profile, request))
    return await _progress(request, create(server.store, server.profile, name, request))


async def pull_model(server: Server, http: Request) -> Response:
    """Answer /api/pull."""
    request = await body_of(http)
    name = parse_name(str(request.get("model") or request.get("name") or ""))
    if not name.valid:
        raise ApiError(400, "invalid model name")
    name = server.store.existing(name)
    return await _progress(request, pull(server.store, name, insecure=bool(request.get("insecure"))))


async def _progress(request: Json, steps: AsyncIterator[Json]) -> Response:
    """Stream status lines, or wait for the last; an error before the first line has its real status."""
    if request.get("stream") is False:
        last: Json = {}
        async for last in steps:  # noqa: B007 - only the last one is answered
            pass
        return json_reply(last, 200, JSON_PLAIN)
    first = await anext(steps)
    return LineStream(_status_lines(first, steps), lambda: None)


async def _status_lines(first: Json, steps: AsyncIterator[Json]) -> AsyncIterator[bytes]:
    yield dumps(first) + b"\n"
    try:
        async for step in steps:
            yield dumps(step) + b"\n"
    except ApiError as error:
        yield dumps({"error": error.message}) + b"\n"


async def copy_model(server: Server, http: Request) -> Response:
    """Answer /api/copy: the destination gets the source's manifest byte for byte."""
    request = await body_of(http)
    source, target = str(request.get("source") or ""), str(request.get("destination") or "")
    names: list[Name] = []
    for label, text in (("source", source), ("destination", target)):
        name = parse_name(text)
        if not name.valid:
            raise ApiError(400, f"{label} {quoted(text)} is invalid")
        names.append(server.store.existing(name))
    try:
        raw = server.store.path(names[0]).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ApiError(404, f"model {quoted(source)} not found") from error
    if names[0] != names[1]:
        await _write_alias(server, names[1], raw)
    return Response(status_code=200)


async def _write_alias(server: Server, name: Name, raw: bytes) -> None:
    """Write at once, or (the fault) as the real server does: truncate, wait, write."""
    if server.faults.alias_eof_ms:
        path = server.store.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        await asyncio.sleep(server.faults.alias_eof_ms / 1000)
    server.store.write_manifest(name, raw)


async def delete_model(server: Server, http: Request) -> Response:
    """Answer DELETE /api/delete; a runner that serves the model goes on."""
    request = await body_of(http)
    text = str(request.get("model") or request.get("name") or "")
    name = parse_name(text)
    if not name.valid:
        raise ApiError(400, f"name {quoted(text)} is invalid")
    try:
        server.store.delete(server.store.existing(name))
    except FileNotFoundError as error:
        raise ApiError(404, f"model '{text}' not found") from error
    return Response(status_code=200)


async def show_model(server: Server, http: Request) -> Response:
    """Answer /api/show."""
    request = await body_of(http)
    text = str(request.get("model") or request.get("name") or "")
    if not text:
        raise ApiError(400, "model is required")
    name, model = server.find(text)
    return json_reply(shown(name, model, server.store.path(name).stat().st_mtime_ns, request))


async def tags(server: Server, _http: Request) -> Response:
    """Answer /api/tags."""
    return json_reply({"models": listing(server.store)})


async def ps(server: Server, _http: Request) -> Response:
    """Answer /api/ps: what is loaded, under the name that caused the load; the longest to stay first."""
    runners = sorted(server.scheduler.loaded.values(), key=lambda runner: -runner.expires_ns)
    return json_reply(
        {
            "models": [
                {
                    "name": runner.name,
                    "model": runner.name,
                    "size": runner.model.size,
                    "digest": runner.model.digest,
                    "details": runner.model.details() | {"parent_model": ""},
                    "expires_at": rfc3339(runner.expires_ns),
                    "size_vram": 0,
                    "context_length": runner.engine.spec.context,
                }
                for runner in runners
            ]
        }
    )


async def show_faults(server: Server, _http: Request) -> Response:
    """Answer GET /embedded/faults."""
    return json_reply(server.faults.shown())


async def change_faults(server: Server, http: Request) -> Response:
    """Answer POST /embedded/faults; `garble` names a model, or the digest of one."""
    request = await body_of(http)
    wanted = request.get("garble")
    server.faults.change(request, _digest_of(server, str(wanted)) if wanted else None)
    return json_reply(server.faults.shown())


async def clear_faults(server: Server, _http: Request) -> Response:
    """Answer DELETE /embedded/faults."""
    server.faults.clear()
    return json_reply({})


def _digest_of(server: Server, text: str) -> str:
    """Find the checkpoint meant: the fault stays with it, wherever the name points later."""
    bare = text.removeprefix("sha256:").removeprefix("sha256-")
    for _, manifest in server.store.readable():
        if bare == manifest.digest or f"sha256:{bare}" in manifest.digests:
            return manifest.digest
    return server.find(text)[1].digest
