"""Git over HTTP: who may fetch and push, and the streams to and from `git http-backend`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fleetssd.embedded.forge import access, repositories
from fleetssd.embedded.forge.access import BadCredentials, Caller
from fleetssd.embedded.forge.bare import git_environment
from fleetssd.embedded.forge.model import Account, Repository
from fleetssd.embedded.forge.state import State

_CHUNK = 65536
_PUSH = "git-receive-pack"


@dataclass(frozen=True, slots=True)
class Grant:
    """A request that was let in."""

    repository: Repository
    account: Account | None
    push: bool


def admit(state: State, request: Request) -> Grant | Response:
    """Decide about a git request: the repository and who asks, or the answer that sends them away."""
    parts = request.path_params
    service = request.query_params.get("service") or parts["rest"]
    push = service.endswith(_PUSH)
    try:
        caller = access.identify(state, request.headers.get("authorization", ""))
    except BadCredentials:
        return PlainTextResponse("Failed to authenticate user\n", 401)
    owner, name = parts["owner"], parts["repo"]
    repository = state.repository_named(owner, name)
    if repository is None:
        place = state.moved.get(f"{owner}/{name}".lower())
        if place:
            target = f"/{place}.git/{parts['rest']}" + (f"?{request.url.query}" if request.url.query else "")
            return Response(status_code=307 if state.old else 301, headers={"Location": target})
    right = access.right(state, caller, repository) if repository else access.NONE
    if caller.account is None and (push or repository is None or right < access.READ):
        realm = {"WWW-Authenticate": 'Basic realm="Gitea (Basic Auth)"'}
        return PlainTextResponse("Unauthorized\n", 401, realm)
    if repository is None or right < access.READ:
        return PlainTextResponse("Repository not found", 404)
    if not _allowed(caller, repository, right, push=push):
        return PlainTextResponse("Forbidden\n", 403)
    return Grant(repository, caller.account, push)


class GitServer:
    """Runs git for admitted requests; pushes to one repository go one after the other."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._pushes: dict[int, asyncio.Lock] = {}

    async def answer(self, request: Request) -> Response:
        """Answer any request below `/owner/name.git/`."""
        grant = await run_in_threadpool(self._admit, request)
        if isinstance(grant, Response):
            return grant
        if grant.push and request.method == "POST":
            async with self._pushes.setdefault(grant.repository.id, asyncio.Lock()):
                return await self._push(request, grant)
        return await self._stream(request, grant)

    def _admit(self, request: Request) -> Grant | Response:
        with self.state.lock:
            grant = admit(self.state, request)
            if isinstance(grant, Grant):
                self.state.bare(grant.repository)
                if grant.push:
                    self.state.bare(grant.repository).remember()
            return grant

    async def _push(self, request: Request, grant: Grant) -> Response:
        """Run the push to its end, let everything follow it, and only then answer: the client may ask at once."""
        response = await self._stream(request, grant)
        if isinstance(response, StreamingResponse):
            body = b"".join([bytes(part) async for part in response.body_iterator if not isinstance(part, str)])
            headers = {key: value for key, value in response.headers.items() if key != "content-length"}
            response = Response(body, response.status_code, headers)
        await run_in_threadpool(self._pushed, grant)
        return response

    def _pushed(self, grant: Grant) -> None:
        with self.state.lock:
            if grant.account is not None:
                repositories.pushed(self.state, grant.account, grant.repository)
            self.state.journal.commit()

    async def _stream(self, request: Request, grant: Grant) -> Response:
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment(request, grant),
            limit=1 << 20,
        )
        feeder = asyncio.create_task(_feed(request, process))
        if process.stdout is None:
            raise RuntimeError("git http-backend has no output")
        status, headers = await _read_head(process.stdout)
        return StreamingResponse(_body(process, feeder), status, headers)

    def _environment(self, request: Request, grant: Grant) -> dict[str, str]:
        headers = request.headers
        path = self.state.folder / "repositories" / f"{grant.repository.id}.git"
        given = {
            "GIT_PROJECT_ROOT": str(path),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{request.path_params['rest']}",
            "QUERY_STRING": request.url.query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": headers.get("content-length", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
            "REMOTE_USER": grant.account.login if grant.account else "",
        }
        if self.state.quirks.disable_partial_clone:
            given |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "uploadpack.allowFilter",
                "GIT_CONFIG_VALUE_0": "false",
            }
        return {**git_environment(), **{key: value for key, value in given.items() if value}}


def _allowed(caller: Caller, repository: Repository, right: int, *, push: bool) -> bool:
    """Check right and scope; the scope counts in the Basic form only, as on the servers."""
    if push and (right < access.WRITE or repository.archived):
        return False
    if caller.account is None or not caller.basic:
        return True
    if caller.public_only and repository.private:
        return False
    return caller.holds("write:repository" if push else "read:repository")


async def _feed(request: Request, process: asyncio.subprocess.Process) -> None:
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        async for chunk in request.stream():
            process.stdin.write(chunk)
            await process.stdin.drain()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.close()
        await process.stdin.wait_closed()


async def _read_head(stream: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status, headers = 200, {}
    while line := (await stream.readline()).strip():
        name, _, value = line.decode().partition(": ")
        if name == "Status":
            status = int(value.split(" ", 1)[0])
        else:
            headers[name] = value
    return status, headers


async def _body(process: asyncio.subprocess.Process, feeder: asyncio.Task[None]) -> AsyncIterator[bytes]:
    try:
        while process.stdout is not None and (chunk := await process.stdout.read(_CHUNK)):
            yield chunk
        await feeder
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        feeder.cancel()
