"""One turn of a model: from a request's fields to a runner held, a prompt rendered and pieces of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from .durations import parse_keep_alive
from .engine import Engine, Spec, start
from .faults import Faults, garbled
from .metadata import read_header
from .models import Model, read_model
from .names import Name, parse_name
from .options import Options, add_format, completion_request, merge_options
from .profiles import Profile
from .replies import ApiError, Json, quoted
from .scheduler import Runner, Scheduler, Wanted
from .store import BadManifest, Store
from .template import Message, render_chatml, render_plain

HEALTH_POLL = 0.25  # seconds between two looks at a runner that loads
_REPEATS = 100  # the same piece this often in a row ends an answer with an error
_RENDERED = 4096  # prompts that are kept rendered, per server
_BROKEN, _TAIL = "\ufffd", 16  # what stands for bytes that are no text; characters looked at
T = TypeVar("T")


class Server:
    """What every route needs: the store, the scheduler, the faults and the settings."""

    def __init__(self, store: Store, profile: Profile, *, num_ctx: int, parallel: int) -> None:
        self.store = store
        self.profile = profile
        self.num_ctx = num_ctx
        self.parallel = parallel
        self.faults = Faults()
        self.scheduler = Scheduler(self._start)
        self.rendered: dict[tuple[str, str], str] = {}

    async def _start(self, spec: Spec) -> Engine:
        header = read_header(spec.model) if spec.adapters and self.profile.adapterless else None
        if header and header.architecture in self.profile.adapterless:
            raise ApiError(500, "failed to initialize model: loras are not yet implemented")
        began = time.monotonic()
        await asyncio.sleep(self.faults.slow_load_ms / 1000)
        engine = await start(spec)
        await asyncio.sleep(-(time.monotonic() - began) % HEALTH_POLL)  # readiness is seen at the next poll only
        return engine

    def find(self, text: str) -> tuple[Name, Model]:
        """Resolve a name as it stands on disk now. Raises ApiError 400, 404, 500."""
        name = parse_name(text)
        if not name.valid:
            raise ApiError(400, "invalid model name")
        name = self.store.existing(name)
        try:
            return name, read_model(self.store, name)
        except FileNotFoundError as error:
            raise ApiError(404, f"model '{text}' not found") from error
        except BadManifest as error:
            raise ApiError(500, str(error)) from error


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer; `timings` and `reason` come with the last."""

    text: str
    logprobs: list[Json] = field(default_factory=list)
    reason: str | None = None
    timings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Turn:
    """A runner held for one request. `close` it exactly once the answer is over; closing twice is harmless."""

    server: Server
    asked: str
    model: Model
    options: Options
    runner: Runner
    started: int
    loaded: int
    request: Mapping[str, Any]
    _open: bool = True

    @property
    def engine(self) -> Engine:
        """The runner's engine."""
        return self.runner.engine

    def close(self) -> None:
        """Give the runner back."""
        if self._open:
            self._open = False
            self.server.scheduler.release(self.runner)

    def metrics(self, last: Piece) -> Json:
        """Report durations in integer nanoseconds and token counts; zeros are left out."""
        timings = last.timings
        metrics = {
            "total_duration": time.perf_counter_ns() - self.started,
            "load_duration": self.loaded - self.started,
            "prompt_eval_count": int(timings.get("cache_n") or 0) + int(timings.get("prompt_n") or 0),
            "prompt_eval_duration": int(float(timings.get("prompt_ms") or 0) * 1e6),
            "eval_count": int(timings.get("predicted_n") or 0),
            "eval_duration": int(float(timings.get("predicted_ms") or 0) * 1e6),
        }
        return {key: value for key, value in metrics.items() if value}


def check_fields(request: Mapping[str, Any]) -> float | None:
    """Check what is checked before the name is looked up; return keep_alive in seconds. Raises ApiError 400."""
    try:
        keep_alive = parse_keep_alive(request.get("keep_alive"))
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    if not 0 <= int(request.get("top_logprobs") or 0) <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20")
    return keep_alive


async def open_turn(
    server: Server,
    request: Mapping[str, Any],
    name: Name,
    model: Model,
    *,
    started: int,
    embedding: bool = False,
) -> Turn:
    """Get the model loaded and hold its runner. Raises ApiError."""
    asked = str(request["model"])
    if request.get("think") and request["think"] != "false":
        raise ApiError(400, f"{quoted(asked)} does not support thinking")
    options = merge_options(server.num_ctx, model.parameters, request.get("options"))
    for key, capability in (("tools", "tools"), ("suffix", "insert")):
        if request.get(key):
            raise ApiError(400, f"{'/'.join(name.parts[:3])}:{name.tag} does not support {capability}")
    if model.path is None:
        raise ApiError(400, f"{quoted(asked)} does not support {'chat' if 'messages' in request else 'generate'}")
    header = model.header
    trained = header.limit("context_length") if header else 0
    context = min(options.num_ctx, trained) if trained else options.num_ctx
    spec = Spec(
        model=model.path,
        adapters=model.adapters,
        context=max(context, 1),
        parallel=server.parallel,
        batch=int(options.values["num_batch"]),
        shift=request.get("shift") is not False,
        embedding=embedding,
    )
    load_key = (model.adapters, spec.context, spec.shift, options.load_key)
    wanted = Wanted(name.short, model, spec, load_key, check_fields(request))
    runner = await server.scheduler.acquire(wanted)
    return Turn(server, asked, model, options, runner, started, time.perf_counter_ns(), request)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless the client goes away first, which cancels it. Raises ApiError 499 then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "request canceled")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ApiError):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- prompts --------------------------------------------------------------------------------------------------


async def render(turn: Turn, messages: Sequence[Message]) -> str:
    """Render messages with the model's template, kept for the next request with the same ones."""
    model = turn.model
    if model.uses_chatml:
        return render_chatml(messages)
    header = model.header
    if not (header and header.chat_template):
        return render_plain(messages)
    key = (model.digest, repr(messages))
    kept = turn.server.rendered
    if key not in kept:
        if len(kept) >= _RENDERED:
            kept.clear()
        kept[key] = await turn.engine.render(list(messages))
    return kept[key]


async def chat_prompt(turn: Turn, messages: list[Message]) -> str:
    """Render a chat; where it is longer than the context, leave out the oldest messages that are not the system's."""
    prompt = await render(turn, messages)
    limit = turn.runner.engine.spec.context
    if turn.request.get("truncate") is False or len(prompt.encode()) <= limit:
        return prompt
    for first in range(len(messages)):
        kept = [m for m in messages[:first] if m["role"] == "system"] + messages[first:]
        prompt = await render(turn, kept)
        if len(await turn.engine.tokenize(prompt)) <= limit:
            break
    return prompt


async def _fitted(turn: Turn, prompt: str) -> str | list[int]:
    """Cut a prompt that fills the context: the first num_keep tokens and the last ones stay."""
    context = turn.runner.engine.spec.context
    if turn.request.get("truncate") is False or len(prompt.encode()) < context or context <= 1:
        return prompt
    tokens = await turn.engine.tokenize(prompt, special=True)
    limit = context - 1
    if len(tokens) <= limit:
        return prompt
    keep = int(turn.options.values["num_keep"])
    keep = min(keep if keep >= 0 else len(tokens), limit)
    return tokens[:keep] + tokens[keep + len(tokens) - limit :]


# --- pieces ---------------------------------------------------------------------------------------------------


async def pieces(turn: Turn, prompt: str, *, stream: bool) -> AsyncGenerator[Piece]:
    """Yield the answer, its last piece with the reason. Raises ApiError."""
    turn.server.faults.check_generation()
    top = int(turn.request.get("top_logprobs") or 0)
    with_logprobs = bool(turn.request.get("logprobs")) and turn.server.profile.logprobs
    request = completion_request(
        turn.options, await _fitted(turn, prompt), probabilities=max(top, 1) if with_logprobs else 0
    )
    add_format(request, turn.request.get("format"))
    whole = not stream and not with_logprobs and 0 < turn.options.num_predict <= _REPEATS
    source = _in_one_piece(turn, request) if whole else _in_many_pieces(turn, request, with_top=top > 0)
    garble, cut = turn.server.faults.garbles(turn.model.digest), turn.server.faults.cuts()
    if cut and whole:
        await turn.engine.stop()
    async for piece in source:
        yield Piece(garbled(piece.text), [], piece.reason, piece.timings) if garble else piece
        if cut:
            await turn.engine.stop()


async def _in_one_piece(turn: Turn, request: Json) -> AsyncIterator[Piece]:
    """Ask without a stream: it costs a fraction, and below the repeat limit nothing has to be watched.

    Only the end may differ: a stream never shows the start of a character that was not finished. Where the answer
    ends near broken text it is asked for again, with the same seed, as a stream.
    """
    if request["seed"] < 0:
        request["seed"] = random.getrandbits(31)
    reply = await turn.engine.complete(request)
    if _BROKEN in reply["content"][-_TAIL:]:
        async for piece in _in_many_pieces(turn, request, with_top=False):
            yield piece
        return
    yield Piece(reply["content"], [], _reason(reply), reply["timings"])


async def _in_many_pieces(turn: Turn, request: Json, *, with_top: bool) -> AsyncIterator[Piece]:
    last, repeats = "", 0
    async with contextlib.aclosing(turn.engine.stream(request)) as events:
        async for event in events:
            if "error" in event:
                raise ApiError(500, str(event["error"].get("message", event["error"])))
            text = event["content"]
            repeats = repeats + 1 if text.strip() == last else 0
            last = text.strip()
            if repeats > _REPEATS:
                raise ApiError(500, "prediction aborted, token repeat limit reached")
            if event["stop"]:
                yield Piece(text, [], _reason(event), event["timings"])
                return
            if text:
                found = event.get("completion_probabilities") or []
                yield Piece(text, [_logprob(entry, with_top=with_top) for entry in found])
    raise ApiError(500, "an error was encountered while running the model: unexpected EOF")


def _reason(event: Mapping[str, Any]) -> str:
    return "length" if event["stop_type"] == "limit" else "stop"


def _logprob(entry: Mapping[str, Any], *, with_top: bool) -> Json:
    converted = _token(entry)
    if with_top:
        converted["top_logprobs"] = [_token(other) for other in entry.get("top_logprobs") or []]
    return converted


def _token(entry: Mapping[str, Any]) -> Json:
    token = {"token": entry["token"], "logprob": entry["logprob"]}
    return token | {"bytes": list(entry["token"].encode())} if entry["token"] else token


async def first_of(source: AsyncIterator[Piece]) -> Piece:
    """Wait for the first piece: until it is there an error still has its own status."""
    return await anext(source)


async def collected(source: AsyncIterator[Piece]) -> Piece:
    """Join all pieces into one."""
    texts: list[str] = []
    logprobs: list[Json] = []
    last = Piece("")
    async for piece in source:
        texts.append(piece.text)
        logprobs += piece.logprobs
        last = piece
    return Piece("".join(texts), logprobs, last.reason, last.timings)
