"""/api/generate and /api/chat."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .replies import JSON_PLAIN, ApiError, Json, LineStream, body_of, dumps, json_reply, rfc3339
from .template import Message
from .turns import (
    Piece,
    Server,
    Turn,
    chat_prompt,
    check_fields,
    collected,
    first_of,
    open_turn,
    pieces,
    while_connected,
)

Shape = Callable[[str], Json]
Extra = Callable[[str], Awaitable[Json]]


async def generate(server: Server, http: Request) -> Response:
    """Answer /api/generate."""
    started = time.perf_counter_ns()
    request = await body_of(http)
    keep_alive = check_fields(request)
    asked, prompt = str(request.get("model") or ""), str(request.get("prompt") or "")
    if not asked:
        raise ApiError(404, "model '' not found")
    name, model = server.find(asked)
    if not prompt and keep_alive == 0:
        await _unload(server, str(model.path))
        return _done(asked, {"response": ""}, "unload")
    raw = bool(request.get("raw"))
    if raw and any(request.get(key) for key in ("template", "system", "context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    turn = await while_connected(http, open_turn(server, request, name, model, started=started))
    with _closing_unless_streamed(turn) as keep:
        if not prompt:
            return _done(asked, {"response": ""}, "load")
        text = prompt if raw else await _generate_prompt(turn, prompt)
        if request.get("_debug_render_only"):
            return json_reply(_rendered(asked, {"response": ""}, text))

        async def context(answer: str) -> Json:
            return {} if raw else {"context": await turn.engine.tokenize(text + answer)}

        return await _answer(http, turn, text, shape=_response, extra=context, keep=keep)


async def _generate_prompt(turn: Turn, prompt: str) -> str:
    request = turn.request
    system = request.get("system") or turn.model.system
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    earlier = request.get("context")
    if not earlier:
        messages += turn.model.messages
    text = await chat_prompt(turn, [*messages, {"role": "user", "content": prompt}])
    return await turn.engine.detokenize(earlier) + text if earlier else text


async def chat(server: Server, http: Request) -> Response:
    """Answer /api/chat."""
    started = time.perf_counter_ns()
    request = await body_of(http)
    keep_alive = check_fields(request)
    asked = str(request.get("model") or "")
    if not asked:
        raise ApiError(400, "model is required")
    name, model = server.find(asked)
    messages = plain_messages(request.get("messages"))
    if not messages and keep_alive == 0:
        await _unload(server, str(model.path))
        return _done(asked, _message(""), "unload")
    turn = await while_connected(http, open_turn(server, request, name, model, started=started))
    with _closing_unless_streamed(turn) as keep:
        if not messages:
            return _done(asked, _message(""), "load")
        text = await chat_prompt(turn, with_system(turn, messages))
        if request.get("_debug_render_only"):
            return json_reply(_rendered(asked, {"message": {"role": "", "content": ""}}, text))

        async def context(_answer: str) -> Json:
            return {}

        return await _answer(http, turn, text, shape=_message, extra=context, keep=keep)


def plain_messages(value: object) -> list[Message]:
    """Read the messages of a chat. Raises ApiError 400 where they are none."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ApiError(400, "json: cannot unmarshal into Go struct field ChatRequest.messages of type []api.Message")
    messages = [{"role": item.get("role") or "", "content": item.get("content") or ""} for item in value]
    if not all(isinstance(item["role"], str) and isinstance(item["content"], str) for item in messages):
        raise ApiError(400, "json: cannot unmarshal object into Go struct field Message.content of type string")
    return messages


def with_system(turn: Turn, messages: list[Message]) -> list[Message]:
    """Put the model's own messages in front, and its system text where the chat does not begin with one."""
    found = [*turn.model.messages, *messages]
    if messages[0]["role"] != "system" and turn.model.system:
        return [{"role": "system", "content": turn.model.system}, *found]
    return found


async def _answer(
    http: Request, turn: Turn, prompt: str, *, shape: Shape, extra: Extra, keep: contextlib.ExitStack
) -> Response:
    if turn.request.get("stream") is False:
        whole = await while_connected(http, collected(pieces(turn, prompt, stream=False)))
        return json_reply(_last(turn, shape(whole.text), whole, await extra(whole.text)))
    source = pieces(turn, prompt, stream=True)
    try:
        first = await while_connected(http, first_of(source))
    except ApiError as error:
        raise ApiError(error.status, error.message, content_type=JSON_PLAIN) from error
    keep.pop_all()
    return LineStream(_lines(turn, first, source, shape, extra), turn.close)


async def _lines(
    turn: Turn, first: Piece, rest: AsyncIterator[Piece], shape: Shape, extra: Extra
) -> AsyncIterator[bytes]:
    said: list[str] = []
    try:
        async for piece in _chained(first, rest):
            said.append(piece.text)
            if piece.reason:
                yield dumps(_last(turn, shape(piece.text), piece, await extra("".join(said)))) + b"\n"
            else:
                line = {"model": turn.asked, "created_at": rfc3339(), **shape(piece.text), "done": False}
                yield dumps(line | ({"logprobs": piece.logprobs} if piece.logprobs else {})) + b"\n"
    except ApiError as error:  # the status has been sent, so the error is a line
        yield dumps({"error": error.message}) + b"\n"


async def _chained(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


def _last(turn: Turn, shape: Json, piece: Piece, extra: Mapping[str, Any]) -> Json:
    reply = {"model": turn.asked, "created_at": rfc3339(), **shape, "done": True, "done_reason": piece.reason}
    reply |= {**extra, **turn.metrics(piece)}
    return reply | ({"logprobs": piece.logprobs} if piece.logprobs else {})


def _response(text: str) -> Json:
    return {"response": text}


def _message(text: str) -> Json:
    return {"message": {"role": "assistant", "content": text}}


def _done(asked: str, shape: Json, reason: str) -> Response:
    return json_reply({"model": asked, "created_at": rfc3339(), **shape, "done": True, "done_reason": reason})


def _rendered(asked: str, shape: Json, text: str) -> Json:
    debug = {"_debug_info": {"rendered_template": text}}
    return {"model": asked, "created_at": rfc3339(), **shape, "done": False, **debug}


async def _unload(server: Server, key: str) -> None:
    task = server.scheduler.expire(key)
    if task:
        await task


@contextlib.contextmanager
def _closing_unless_streamed(turn: Turn) -> Iterator[contextlib.ExitStack]:
    """Close the turn at the end of the block; a stream takes that over with `pop_all`."""
    with contextlib.ExitStack() as stack:
        stack.callback(turn.close)
        yield stack
