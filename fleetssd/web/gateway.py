"""The pass-through in front of the engine: what comes in goes out, and `fleetssd.gateway` says what changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from fleetssd.artefact import same_name
from fleetssd.calls import Fault
from fleetssd.config import Settings
from fleetssd.errors import Rejected
from fleetssd.gateway import Ask, Asked, changes_models, climbs, reaches, read, rename, rewrite, warning, worth_a_retry
from fleetssd.keys import whose
from fleetssd.ports import Sink
from fleetssd.routes import Route
from fleetssd.tasks import task_key
from fleetssd.web.attempt import Attempt, new_id
from fleetssd.web.bounds import RETRY_AFTER, Bounds
from fleetssd.web.caller import Caller, Headers
from fleetssd.web.feed import Feed
from fleetssd.web.shadow import Shadow
from fleetssd.web.tally import Tally
from fleetssd.web.upstream import Away, Reply, Upstream

log = structlog.get_logger()

PAUSE = 0.05
"""Seconds before the second try; a copied alias is half written for 2 to 6 ms. Every further pause is twice as long."""
LONGEST_PAUSE = 0.5
CANDIDATE_HOLD = 1.0
"""Seconds that a candidate may be unable to answer before the incumbent does."""
LOST = 2
"""How often a request that the engine hung up on is sent again: it may be the one that kills it."""
CALLERS = 1000
"""Callers that are remembered as warned."""
_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_OURS = _HOP | {b"host", b"expect", b"accept-encoding", b"x-fleetssd-task", b"x-fleetssd-agent"}
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_WITHOUT_LENGTH = _OURS | {b"content-length"}
_COME_BACK = (b"retry-after", b"%d" % RETRY_AFTER)


@dataclass(slots=True)
class Sending:
    """A request on its way to one model: `ask` is None where nothing changes, `attempt` where nothing is told of it."""

    body: bytes
    ask: Ask | None = None
    attempt: Attempt | None = None
    told: Headers | None = None


class Gateway:
    """One engine, one alias: an ASGI application that streams both ways."""

    def __init__(self, feed: Feed, upstream: Upstream, settings: Settings, sink: Sink | None, tally: Tally) -> None:
        self._feed, self._upstream, self._sink, self._tally = feed, upstream, sink, tally
        self._settings, self._decode, self._alias = settings.gateway, settings.decode, settings.engine.alias
        self._texts = settings.telemetry.texts
        self._warned: set[str] = set()
        self.bounds = Bounds(settings.gateway)
        self.shadow = Shadow(upstream, settings.gateway, tally, self._tell)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its reply back; what goes wrong before the reply's first byte is said in JSON."""
        caller = Caller(scope, receive, send)
        try:
            caller.agent = self._agent(caller)
            self._check(caller.path)
            with self.bounds.call(caller.agent or caller.address):
                await self._serve(caller)
        except ClientDisconnect:
            return
        except Rejected as error:
            await self._refuse(caller, error.status or 400, error.message, error.hint)
        except Away as error:
            if caller.started:  # the connection is cut, as the engine's was: the caller must not take half for whole
                log.warning("reply_cut", request=caller.id, error=error.message)
                return
            await self._refuse(caller, 502, error.message, error.hint)

    def _agent(self, caller: Caller) -> str:
        """Return who asks: the agent that a key names, or, where nobody needs a key, what the caller calls itself."""
        keys = self._feed.keys
        if keys is None:
            claimed = caller.header(b"x-fleetssd-agent", 64)
            return claimed if claimed.isprintable() else ""
        scheme, _, token = caller.header(b"authorization").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else caller.header(b"x-api-key")
        agent = whose(keys, given)
        if agent is None:
            raise Rejected("no valid API key", hint="`fleetssd gateway key add NAME` makes one.", status=401)
        self._tally.agents[agent] += 1
        return agent

    def _check(self, path: str) -> None:
        if climbs(path):
            raise Rejected("no engine has such an address", hint="Look at the path of the request.", status=400)
        if self._settings.read_only and changes_models(path):
            raise Rejected(
                "this gateway changes no models", hint="[gateway] read_only; ask the engine itself.", status=403
            )

    async def _refuse(self, caller: Caller, status: int, message: str, hint: str) -> None:
        self._tally.refused[status] += 1
        if self._tally.refused[status] == 1:  # the rest is counted: whoever is refused asks again
            log.warning("request_refused", request=caller.id, path=caller.path, status=status, error=message)
        more: Headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
        if status in (429, 502, 503):
            more.append(_COME_BACK)
        await caller.refuse(status, message, hint, more)

    async def _serve(self, caller: Caller) -> None:
        if caller.path.startswith("/api/blobs/"):  # gigabytes: never in memory, and never sent twice
            headers = self._headers(caller, _OURS)
            reply = await self._upstream.send(caller.method, _target(caller), headers, caller.chunks())
            await self._pass(caller, Sending(b""), reply)
            return
        body = await caller.body(self._settings.max_body_bytes)
        await caller.while_connected(self._answer(caller, body))

    async def _answer(self, caller: Caller, body: bytes) -> None:
        asked = read(caller.path, body)
        if asked is None:
            await self._attempted(caller, Sending(body), self._settings.hold_seconds)
            return
        held = await self._settled() if same_name(asked.model, self._alias) else 0
        task, source = task_key(caller.header(b"x-fleetssd-task"), asked)
        attempt = Attempt(
            caller.id, caller.agent, asked.path, asked.model, asked.model, None, task, source, texts=self._texts,
            at=caller.at, began=time.perf_counter_ns() - held, held_ns=held,
        )  # fmt: skip
        now = self._feed.now
        own = self._sending(caller, asked, body, now.route, attempt)
        trial = now.trial(task or caller.id, datetime.now(UTC)) if own.ask else None
        trial = trial if trial and reaches(asked, trial) else None
        if own.ask is None:
            attempt.checkpoint = now.digest(asked.model)
        shadows = now.canary is not None and now.canary.mode == "shadow"
        if trial and not shadows:
            first = self._sending(caller, asked, body, trial, attempt.beside(caller.id))
            if await self._attempted(caller, first, min(CANDIDATE_HOLD, self._settings.hold_seconds), spare=True):
                return
            attempt.held_ns = time.perf_counter_ns() - attempt.began
        await self._attempted(caller, own, self._settings.hold_seconds)
        if trial and shadows and attempt.status < 400:
            other = attempt.beside(new_id(), of=caller.id, shadow=True)
            self.shadow.ask(other, self._sending(caller, asked, body, trial, other).body)

    def _sending(self, caller: Caller, asked: Asked, body: bytes, way: Route, attempt: Attempt) -> Sending:
        ask = rewrite(asked, way, self._decode)
        if ask is None:
            return Sending(body, None, attempt)
        attempt.model, attempt.checkpoint, attempt.request = ask.sent, way.digest, ask.body if self._texts else b""
        told: Headers = [(b"x-fleetssd-checkpoint", way.digest.encode())] if way.digest else []
        if text := warning(asked, way, self._decode):
            self._warn(caller, text)
            told.append((b"x-fleetssd-warning", text.encode()))
        return Sending(ask.body, ask, attempt, told)

    def _warn(self, caller: Caller, text: str) -> None:
        """Count a temperature that meets a baked one, and log it once for each caller."""
        self._tally.warned += 1
        name = caller.agent or caller.address
        if name not in self._warned and len(self._warned) < CALLERS:
            self._warned.add(name)
            log.warning("baked_temperature", agent=caller.agent, address=caller.address, warning=text)

    async def _settled(self) -> int:
        """Hold a request while a flip reloads the engine; returns for how many ns.

        Where a flip takes longer than hold_seconds, requests flow: its hand may be dead.
        """
        since = self._feed.reloading_since
        left = since + self._settings.hold_seconds - time.monotonic() if since else 0
        if left <= 0:
            return 0
        began = time.perf_counter_ns()
        with self.bounds.hold():
            await self._feed.settled(left)
        return time.perf_counter_ns() - began

    async def _attempted(self, caller: Caller, sending: Sending, seconds: float, *, spare: bool = False) -> bool:
        """Send a request and pass its reply on; False where there is a spare way and this one gave no answer."""
        attempt, spared = sending.attempt, False
        try:
            reply = await self._open(caller, sending, seconds)
            if not spare or (reply.status < 500 and reply.status != 404):
                await self._pass(caller, sending, reply)
            elif attempt:
                attempt.status, spared = reply.status, True
                reply.close()
        except Away:
            _blame(attempt, "cut" if caller.started else "away")
            spared = spare and not caller.started
            if not spared:
                raise
        except Rejected:
            _blame(attempt, "refused")
            raise
        except asyncio.CancelledError:
            _blame(attempt, "gone")
            raise
        finally:
            if attempt:
                if spared:
                    attempt.id, attempt.of = new_id(), caller.id
                self._tell(attempt)
        return not spared

    def _tell(self, attempt: Attempt) -> None:
        call = attempt.call()
        self._tally.count(call)
        if self._sink:
            self._sink.put(call)

    async def _pass(self, caller: Caller, sending: Sending, reply: Reply) -> None:
        attempt, ask = sending.attempt, sending.ask
        try:
            left = _HOP | {b"content-length"} if ask else _HOP  # another name is another length
            headers = [(name, value) for name, value in reply.headers if name.lower() not in left]
            headers += sending.told or []
            if attempt:
                attempt.status, attempt.streamed = reply.status, reply.streams
            if reply.is_read or (attempt and not reply.streams):
                content = await reply.read()
                if attempt:
                    attempt.hear(content)
                if reply.status == 503 and not any(name.lower() == b"retry-after" for name, _ in headers):
                    headers.append(_COME_BACK)
                await caller.whole(reply.status, headers, rename(content, ask) if ask else content)
                return
            await caller.start(reply.status, headers)
            async for chunk in _lines(reply, ask, attempt) if attempt else reply.chunks():
                await caller.more(chunk)
            await caller.more(b"", last=True)
        finally:
            reply.close()

    async def _open(self, caller: Caller, sending: Sending, seconds: float) -> Reply:
        """Send until the reply's headers are there, again and again while the engine is away, full or half written.

        A request that the engine hung up on is sent again where it does nothing but answer.
        """
        deadline, pause, lost = time.monotonic() + seconds, PAUSE, 0
        target, headers = _target(caller), self._headers(caller, _WITHOUT_LENGTH)
        with ExitStack() as held:
            while True:
                reply, failure = None, None
                try:
                    reply = await self._upstream.send(caller.method, target, headers, sending.body)
                    if reply.status not in (500, 503) or not worth_a_retry(reply.status, await reply.read()):
                        return reply
                except Away as error:
                    lost += error.how != "refused"
                    if lost and (lost > LOST or not (sending.attempt or caller.method in ("GET", "HEAD"))):
                        raise
                    failure = error
                if time.monotonic() + pause > deadline:
                    return _or_raise(reply, failure)
                if pause == PAUSE:
                    held.enter_context(self.bounds.hold())
                if reply:
                    reply.close()
                began = time.perf_counter_ns()
                await asyncio.sleep(pause)
                if sending.attempt:
                    sending.attempt.held_ns += time.perf_counter_ns() - began
                self._tally.retries += 1
                pause = min(pause * 2, LONGEST_PAUSE)

    def _headers(self, caller: Caller, left: frozenset[bytes]) -> Headers:
        if self._feed.keys is not None:
            left |= _CREDENTIALS
        kept = [pair for pair in caller.scope["headers"] if pair[0] not in left]
        return [*kept, (b"accept-encoding", b"identity")]  # a compressed reply could not be followed


def _or_raise(reply: Reply | None, failure: Away | None) -> Reply:
    if reply is None:
        assert failure is not None  # noqa: S101  one of them is there
        raise failure
    return reply


def _blame(attempt: Attempt | None, fault: Fault) -> None:
    if attempt:
        attempt.fault = fault


def _target(caller: Caller) -> bytes:
    query: bytes = caller.scope["query_string"]
    path: bytes = caller.scope["raw_path"]
    return path + (b"?" + query if query else b"")


async def _lines(reply: Reply, ask: Ask | None, attempt: Attempt) -> AsyncIterator[bytes]:
    """Pass whole lines on as soon as they are there; no reader can do anything with half of one."""
    rest = b""
    async for chunk in reply.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        if not lines:
            continue
        for line in lines:
            attempt.hear(line + b"\n")
        yield b"".join(rename(line, ask) + b"\n" for line in lines) if ask else b"\n".join([*lines, b""])
    if rest:
        attempt.hear(rest)
        yield rename(rest, ask) if ask else rest
