"""What the gateway changes on the way, as values: the model's name, a decode that nobody stated, and nothing else.

Bodies are spliced and never written anew, so every other byte stays as it was: numbers, spaces, key order, emoji.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetssd.artefact import same_name
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.config import Decode
from fleetssd.serving import served

ASKS: Mapping[str, tuple[str, ...]] = {
    "/api/chat": ("temperature", "top_p", "top_k", "min_p"),
    "/api/generate": ("temperature", "top_p", "top_k", "min_p"),
    "/api/embed": (),
    "/api/embeddings": (),
    "/v1/chat/completions": ("temperature", "top_p"),
    "/v1/completions": ("temperature", "top_p"),
    "/v1/embeddings": (),
    "/v1/messages": ("temperature", "top_p"),
    "/v1/responses": ("temperature", "top_p"),
}
"""The routes that run a model, with the sampling parameters that each of them takes.

On every other route the alias stays as it is: who deletes the alias must not delete the checkpoint behind it.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the fleet's alias leads: a name in the engine, and the artefact's digest (None: no checkpoint on file)."""

    alias: str
    model: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for the alias as it is sent on: its body, the caller's name for the model and the engine's."""

    body: bytes
    asked: str
    sent: str


def route(alias: str, swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> Route:
    """Return where the alias leads by the swap log; raises Corrupt where that checkpoint is not on file."""
    checkpoint = served(swaps, checkpoints)
    return Route(alias, checkpoint.model, checkpoint.digest) if checkpoint else Route(alias, alias, None)


def rewrite(path: str, body: bytes, way: Route, decode: Decode) -> Ask | None:
    """Send a request for the alias to its checkpoint, with the decode filled in where the gateway manages it.

    None where the request is not for the alias (another route, another model, no JSON object): it passes untouched.
    """
    if path not in ASKS:
        return None
    members = list(_members(body))
    model = _last(members, "model")
    asked = _string(body, model) if model else None
    if model is None or asked is None or not same_name(asked, way.alias):
        return None
    edits = [_Edit(model.start, model.end, _json(way.model)), *_fill(path, body, members, decode)]
    return Ask(_spliced(body, edits), asked, way.model)


def rename(line: bytes, ask: Ask) -> bytes:
    """Give a reply, or a line of a streamed one (NDJSON or SSE), the model name that the caller asked for."""
    if ask.sent != ask.asked:
        for member in _names(line):
            if _string(line, member) == ask.sent:
                return _spliced(line, [_Edit(member.start, member.end, _json(ask.asked))])
    return line


def worth_a_retry(status: int, body: bytes) -> bool:
    """Say whether a reply asks for another try: a full queue, or a name that was read while it was written."""
    error: Any = _parsed(body)
    while isinstance(error, dict):
        error = error.get("error", error.get("message"))
    return status == 503 or (status == 500 and error in ("EOF", "unexpected EOF"))


def refusal(path: str, message: str, hint: str) -> bytes:
    """Return an error of the gateway's own in the words of the route: Ollama's, or OpenAI's under /v1."""
    if path.startswith("/v1/"):
        return _json({"error": {"message": message, "type": "api_error", "param": None, "code": None, "hint": hint}})
    return _json({"error": message, "hint": hint})


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of a JSON object: its key, and where its value stands."""

    key: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: bytes


_OPEN = re.compile(rb"\s*(?:data:\s*)?\{")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]', re.DOTALL)
_WITHIN = frozenset({"message", "response"})
"""Objects in which a streamed reply names its model: message_start of /v1/messages, the events of /v1/responses."""


def _members(text: bytes, at: int = 0) -> Iterator[_Member]:
    """Yield the members of the object that opens at `at`, lazily: a reply names its model first."""
    opened = _OPEN.match(text, at)
    if opened is None:
        return
    depth, key, begin = 0, b"", -1
    for token in _TOKEN.finditer(text, opened.end() - 1):
        mark = token[0]
        depth += (mark in (b"{", b"[")) - (mark in (b"}", b"]"))
        if depth == 1 and mark[:1] == b'"' and begin < 0:
            key = mark
        elif depth == 1 and mark == b":":
            begin = token.end()
        elif begin >= 0 and ((depth == 1 and mark == b",") or depth == 0):
            span = text[begin : token.start()]
            start = begin + len(span) - len(span.lstrip())
            yield _Member(str(_parsed(key)), start, start + len(span.strip()))
            begin = -1
        if depth == 0:
            return


def _names(line: bytes) -> Iterator[_Member]:
    for member in _members(line):
        if member.key == "model":
            yield member
        elif member.key in _WITHIN and line[member.start : member.start + 1] == b"{":
            yield from (inner for inner in _members(line, member.start) if inner.key == "model")


def _fill(path: str, body: bytes, members: Sequence[_Member], decode: Decode) -> list[_Edit]:
    """State what the caller left out; what the caller said stays."""
    wanted = {name: getattr(decode, name) for name in ASKS[path]} if decode.manage == "gateway" else {}
    if not wanted or path.startswith("/v1/"):
        return _state(body, 0, members, wanted, _last)
    options = _last(members, "options")
    if options is None or body[options.start : options.end] == b"null":
        return _state(body, 0, members, {"options": wanted}, _last)
    return _state(body, options.start, list(_members(body, options.start)), wanted, _exact)


_Find = Callable[[Sequence[_Member], str], "_Member | None"]


def _state(body: bytes, at: int, members: Sequence[_Member], wanted: Mapping[str, Any], find: _Find) -> list[_Edit]:
    """Put the wanted members that are missing or null into the object that opens at `at`, if one does."""
    opened = _OPEN.match(body, at)
    found = {name: find(members, name) for name in wanted}
    nulls = [
        _Edit(member.start, member.end, _json(wanted[name]))
        for name, member in found.items()
        if member and body[member.start : member.end] == b"null"
    ]
    missing = b",".join(_json(name) + b":" + _json(wanted[name]) for name, member in found.items() if member is None)
    if opened is None or not missing:
        return nulls
    return [*nulls, _Edit(opened.end(), opened.end(), missing + (b"," if members else b""))]


def _last(members: Sequence[_Member], key: str) -> _Member | None:
    """Find a field as the engine does: letter case does not matter, and the last one counts."""
    return next((member for member in reversed(members) if member.key.lower() == key), None)


def _exact(members: Sequence[_Member], key: str) -> _Member | None:
    """Find an option as the engine does: options are a plain table, whose keys are what they are."""
    return next((member for member in reversed(members) if member.key == key), None)


def _string(text: bytes, member: _Member) -> str | None:
    value = _parsed(text[member.start : member.end]) if text[member.start : member.start + 1] == b'"' else None
    return value if isinstance(value, str) else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _spliced(text: bytes, edits: Sequence[_Edit]) -> bytes:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
