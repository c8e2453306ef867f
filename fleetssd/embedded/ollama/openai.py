"""/v1: the OpenAI shape over the same turns; temperature and top_p that are not sent become 1.0."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .conversations import with_system
from .models import listing
from .replies import JSON_PLAIN, JSON_UTF8, ApiError, Json, LineStream, body_of, dumps, json_reply
from .template import Message
from .turns import Piece, Server, Turn, chat_prompt, collected, first_of, open_turn, pieces, while_connected

_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
EVENTS = "text/event-stream"


def openai_error(error: ApiError) -> Response:
    """Answer an error in OpenAI's shape."""
    body = {
        "message": error.message,
        "type": _KINDS.get(error.status, "api_error"),
        "param": None,
        "code": None,
    }
    return json_reply({"error": body}, error.status, error.content_type)


async def chat_completions(server: Server, http: Request) -> Response:
    """Answer /v1/chat/completions."""
    return await _answered(server, http, CHAT)


async def completions(server: Server, http: Request) -> Response:
    """Answer /v1/completions: the prompt is one user message, as in /api/generate."""
    return await _answered(server, http, TEXT)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one of the two routes writes its objects: id prefix, object names, and where the text goes."""

    prefix: str
    whole: str
    chunk: str
    chat: bool


CHAT = _Shape("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)
TEXT = _Shape("cmpl", "text_completion", "text_completion", chat=False)


async def _answered(server: Server, http: Request, shape: _Shape) -> Response:
    started = time.perf_counter_ns()
    try:
        asked = await body_of(http)
        if not shape.chat:
            asked["messages"] = [{"role": "user", "content": str(asked.get("prompt") or "")}]
        request, messages = translated(asked)
    except ApiError as error:
        return openai_error(error)
    try:
        name, model = server.find(request["model"])
        turn = await while_connected(http, open_turn(server, request, name, model, started=started))
        with contextlib.ExitStack() as stack:
            stack.callback(turn.close)
            prompt = await chat_prompt(turn, with_system(turn, messages))
            if not asked.get("stream"):
                whole = await while_connected(http, collected(pieces(turn, prompt, stream=False)))
                return json_reply(_completion(turn, whole, shape), 200, JSON_PLAIN)
            source = pieces(turn, prompt, stream=True)
            first = await while_connected(http, first_of(source))
            stack.pop_all()
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            return LineStream(_events(turn, first, source, shape, usage=usage), turn.close, EVENTS)
    except ApiError as error:
        return openai_error(ApiError(error.status, error.message, content_type=JSON_PLAIN))


def translated(asked: Json) -> tuple[Json, list[Message]]:
    """Turn an OpenAI request into Ollama's fields and messages. Raises ApiError 400."""
    if not asked.get("messages"):
        raise ApiError(400, "[] is too short - 'messages'", content_type=JSON_UTF8)
    messages: list[Message] = []
    for message in asked["messages"]:
        content = message.get("content") or ""
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ApiError(400, "invalid message format")
            messages.append({"role": str(message.get("role") or ""), "content": part["text"]})
    options: Json = {
        "temperature": 1.0 if asked.get("temperature") is None else asked["temperature"],
        "top_p": 1.0 if asked.get("top_p") is None else asked["top_p"],
    }
    stop = asked.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    for theirs, ours in (
        ("max_tokens", "num_predict"),
        ("seed", "seed"),
        ("frequency_penalty", "frequency_penalty"),
        ("presence_penalty", "presence_penalty"),
    ):
        if asked.get(theirs) is not None:
            options[ours] = asked[theirs]
    return {
        "model": str(asked.get("model") or ""),
        "messages": messages,
        "options": options,
        "format": _format(asked.get("response_format") or {}),
        "tools": asked.get("tools"),
        "logprobs": asked.get("logprobs"),
        "top_logprobs": asked.get("top_logprobs"),
    }, messages


def _format(wanted: Json) -> Any:
    if wanted.get("type") == "json_object":
        return "json"
    if wanted.get("type") == "json_schema":
        return (wanted.get("json_schema") or {}).get("schema")
    return None


def _head(turn: Turn, shape: _Shape, kind: str) -> Json:
    return {
        "id": f"{shape.prefix}-{random.randrange(999)}",  # noqa: S311 - the real ids are as short and as random
        "object": kind,
        "created": int(time.time()),
        "model": turn.asked,
        "system_fingerprint": "fp_ollama",
    }


def _usage(turn: Turn, last: Piece) -> Json:
    metrics = turn.metrics(last)
    prompt, answer = metrics.get("prompt_eval_count", 0), metrics.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _completion(turn: Turn, whole: Piece, shape: _Shape) -> Json:
    said: Json = {"message": {"role": "assistant", "content": whole.text}} if shape.chat else {"text": whole.text}
    choice: Json = {"index": 0, **said, "finish_reason": whole.reason}
    if whole.logprobs:
        choice["logprobs"] = {"content": whole.logprobs}
    return {**_head(turn, shape, shape.whole), "choices": [choice], "usage": _usage(turn, whole)}


async def _events(
    turn: Turn, first: Piece, rest: AsyncIterator[Piece], shape: _Shape, *, usage: bool
) -> AsyncIterator[bytes]:
    head = _head(turn, shape, shape.chunk)
    role: Json = {"role": "assistant"}
    last = first
    try:
        piece: Piece | None = first
        while piece is not None:
            if piece.text or not piece.reason:
                said: Json = {"delta": {**role, "content": piece.text}} if shape.chat else {"text": piece.text}
                choice: Json = {"index": 0, **said, "finish_reason": None}
                if piece.logprobs:
                    choice["logprobs"] = {"content": piece.logprobs}
                yield _event({**head, "choices": [choice]})
                role = {}
            last = piece
            piece = await anext(rest, None)
    except ApiError as error:
        yield _event({"error": {"message": error.message, "type": "api_error", "param": None, "code": None}})
        return
    end: Json = {"delta": role} if shape.chat else {"text": ""}
    yield _event({**head, "choices": [{"index": 0, **end, "finish_reason": last.reason}]})
    if usage:
        yield _event({**head, "choices": [], "usage": _usage(turn, last)})
    yield b"data: [DONE]\n\n"


def _event(value: Json) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


async def list_models(server: Server, _http: Request) -> Response:
    """Answer /v1/models; an empty server has null there."""
    rows = [_row(row) for row in listing(server.store)]
    return json_reply({"object": "list", "data": rows or None}, 200, JSON_PLAIN)


async def one_model(server: Server, http: Request) -> Response:
    """Answer /v1/models/<name>."""
    try:
        name, _ = server.find(http.path_params["model"])
    except ApiError as error:
        return openai_error(ApiError(error.status, error.message, content_type=JSON_PLAIN))
    row = next(row for row in listing(server.store) if row["name"] == name.short)
    return json_reply(_row(row), 200, JSON_PLAIN)


def _row(row: Json) -> Json:
    created = int(time.mktime(time.strptime(row["modified_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone)
    return {"id": row["name"], "object": "model", "created": created, "owned_by": "library"}
