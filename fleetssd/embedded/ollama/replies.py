"""What goes over the wire: JSON the way Go writes it, Ollama's error shape, RFC 3339 times with nanoseconds."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

Json = dict[str, Any]
JSON_UTF8 = "application/json; charset=utf-8"
JSON_PLAIN = "application/json"  # what a handler that announced a stream answers instead
NDJSON = "application/x-ndjson"


class ApiError(Exception):
    """An answer that is not the one asked for: an HTTP status and Ollama's text for it."""

    def __init__(self, status: int, message: str, *, content_type: str = JSON_UTF8) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.content_type = content_type


def dumps(value: object) -> bytes:
    """Encode `value` as compact UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def go_dumps(value: object) -> bytes:
    """Encode `value` byte for byte as Go's json.Encoder does: HTML escaped, newline at the end, whole floats bare."""
    text = json.dumps(_whole(value), ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return (text + "\n").encode()


def _whole(value: object) -> object:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value


def quoted(text: str) -> str:
    """Quote `text` as Go's %q does for the characters that occur in names."""
    return json.dumps(text, ensure_ascii=False)


def json_reply(body: object, status: int = 200, content_type: str = JSON_UTF8) -> Response:
    """Answer with one JSON object."""
    return Response(dumps(body), status, {"content-type": content_type})


def rfc3339(ns: int | None = None) -> str:
    """Write a UTC instant (nanoseconds since 1970, default now) as Go's time.RFC3339Nano does."""
    seconds, rest = divmod(time.time_ns() if ns is None else ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


async def body_of(request: Request) -> Json:
    """Read the JSON object that every POST carries.

    Raises ApiError 400 with Go's words for an empty body, a cut one, or something that is not an object.
    """
    raw = await request.body()
    if not raw.strip():
        raise ApiError(400, "missing request body")
    try:
        value = json.loads(raw)
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid character in string literal") from error
    except json.JSONDecodeError as error:
        raise ApiError(400, _go_syntax_error(error)) from error
    if not isinstance(value, dict):
        raise ApiError(400, f"json: cannot unmarshal {_go_kind(value)} into Go value of type api.Request")
    return value


def _go_syntax_error(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos :].lstrip()
    if not rest or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character '{rest[0]}' looking for beginning of value"


def _go_kind(value: object) -> str:
    kinds = {bool: "bool", str: "string", list: "array", int: "number", float: "number"}
    return kinds.get(type(value), "null")


class LineStream(StreamingResponse):
    """A stream of lines; `close` runs when it ends or the client has gone, so that its runner is let go."""

    def __init__(self, lines: AsyncIterator[bytes], close: Callable[[], None], content_type: str = NDJSON) -> None:
        super().__init__(lines, headers={"content-type": content_type})
        self._close = close

    async def stream_response(self, send: Send) -> None:
        """Send every line, and clean up whatever happens."""
        try:
            await super().stream_response(send)
        finally:
            self._close()
