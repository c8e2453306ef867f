"""What the gateway changes on the way, as values: the model's name, a decode that nobody stated, and nothing else.

Bodies are spliced and never written anew, so every other byte stays as it was: numbers, spaces, key order, emoji.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetssd.artefact import same_name
from fleetssd.config import Decode
from fleetssd.routes import Route

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

SCALED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""The routes on which a llama-server reads which adapters apply; on the others its own scales decide."""


CHANGES = frozenset({"create", "copy", "delete", "pull", "push", "blobs"})
"""First words under /api that change the engine's models."""


def climbs(path: str) -> bool:
    """Say whether a path has steps that an engine would resolve: it could lead out of /api and /v1."""
    return not {".", ".."}.isdisjoint(path.split("/"))


def changes_models(path: str) -> bool:
    """Say whether a route changes the engine's models; empty steps are passed over, as an engine may."""
    steps = [step.lower() for step in path.split("/") if step]
    return steps[:1] == ["api"] and bool(CHANGES.intersection(steps[1:2]))


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a JSON object: its key, its value, and where the value stands in the text."""

    key: str
    value: Any
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that names a model: its route, its text, the members of its object as the engine reads them, the name.

    To the engine letter case does not matter, and the last one of a name counts.
    """

    path: str
    text: str
    members: Mapping[str, Member]
    model: str

    def field(self, name: str) -> Any:
        """Return a field's value, None where there is none."""
        member = self.members.get(name)
        return member.value if member else None

    @property
    def temperature(self) -> float | None:
        """The caller's own temperature, None where it says none."""
        options = self.field("options")
        own = self.field("temperature") if self.path.startswith("/v1/") else None
        if not self.path.startswith("/v1/") and isinstance(options, dict):
            own = options.get("temperature")
        return own if isinstance(own, int | float) and not isinstance(own, bool) else None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for the alias as it is sent on: its body, the caller's name for the model and the engine's."""

    body: bytes
    asked: str
    sent: str


def read(path: str, body: bytes) -> Asked | None:
    """Return a request that runs a model; None on another route, and where no JSON object names a model."""
    if path not in ASKS:
        return None
    text = body.decode("utf-8", "surrogateescape")
    try:
        members = {member.key.lower(): member for member in _members(text, 0)}
    except (ValueError, RecursionError):  # the engine's to refuse
        return None
    model = members.get("model")
    if model is None or not isinstance(model.value, str) or not model.value.isprintable():
        return None
    return Asked(path, text, members, model.value)


def rewrite(asked: Asked, way: Route, decode: Decode) -> Ask | None:
    """Send a request for the alias to its checkpoint, with the decode filled in where the gateway manages it.

    None where the request is not for the alias: it passes untouched.
    """
    if not same_name(asked.model, way.alias):
        return None
    model = asked.members["model"]
    edits = [_Edit(model.start, model.end, _json(way.model)), *_stated(asked, decode)]
    if asked.path in SCALED and way.more:
        edits += _Put(asked.text, way.more, fill=True, clamp=True).into(0, asked.members)
    return Ask(_spliced(asked.text, edits).encode("utf-8", "surrogateescape"), asked.model, way.model)


def reaches(asked: Asked, way: Route) -> bool:
    """Say whether a request can be sent to another checkpoint than the alias's: it runs one, and can say which."""
    return bool(ASKS[asked.path]) and (asked.path in SCALED or not way.more)


def warning(asked: Asked, way: Route, decode: Decode) -> str | None:
    """Return what to tell a caller whose own temperature meets a baked one; None where nothing goes wrong.

    Greedy stays greedy at any temperature of the weights, and 1 is what they were baked for.
    """
    own = asked.temperature if ASKS[asked.path] else None
    if decode.clamp or way.tau == 1.0 or own in (None, 0, 1):
        return None
    return (
        f"temperature {own:g} meets a checkpoint with {way.tau:g} baked in and samples at {own * way.tau:g}; "
        "leave the temperature out"
    )


def rename(line: bytes, ask: Ask) -> bytes:
    """Give a reply, or a line of a streamed one (NDJSON or SSE), the model name that the caller asked for."""
    if ask.sent == ask.asked:
        return line
    sent = ask.sent.encode()
    at = line.find(sent)
    if at < 0:
        return line
    before = line[:at]
    if before.endswith(b'"model":"') and _FLAT.match(before) and line[at + len(sent) : at + len(sent) + 1] == b'"':
        return before + _json(ask.asked)[1:-1].encode() + line[at + len(sent) :]
    return _renamed(line, ask)


def worth_a_retry(status: int, body: bytes) -> bool:
    """Say whether a reply asks for another try: a full queue, or a name that was read while it was written."""
    error: Any = _parsed(body)
    while isinstance(error, dict):
        error = error.get("error", error.get("message"))
    return status == 503 or (status == 500 and error in ("EOF", "unexpected EOF"))


def refusal(path: str, message: str, hint: str) -> bytes:
    """Return an error of the gateway's own in the words of the route: Ollama's, or OpenAI's under /v1."""
    if path.startswith("/v1/"):
        error = {"message": message, "type": "api_error", "param": None, "code": None, "hint": hint}
        return _json({"error": error}).encode("utf-8", "replace")
    return _json({"error": message, "hint": hint}).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


_FLAT = re.compile(rb"(?:data:\s*)?\{[^{}\[\]]*\Z")
"""The start of a line in which nothing was opened but the outermost object."""
_OPEN = re.compile(r"\s*(?:data:\s*)?\{")
_SPACE = re.compile(r"[ \t\n\r]*")
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_READER = json.JSONDecoder(strict=False)
_WITHIN = frozenset({"message", "response"})
"""Objects in which a streamed reply names its model: message_start of /v1/messages, the events of /v1/responses."""


def _members(text: str, at: int) -> Iterator[Member]:
    """Yield the members of the object that opens at `at`, lazily; none where none does. Raises ValueError."""
    opened = _OPEN.match(text, at)
    if opened is None:
        return
    at = _skip(text, opened.end())
    while text[at : at + 1] != "}":
        key, at = _READER.raw_decode(text, at)
        at = _skip(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise ValueError
        start = _skip(text, at + 1)
        value, end = _READER.raw_decode(text, start)
        yield Member(key, value, start, end)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise ValueError


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _renamed(line: bytes, ask: Ask) -> bytes:
    text = line.decode("utf-8", "surrogateescape")
    try:
        for member in _names(text):
            if member.value == ask.sent:
                edit = _Edit(member.start, member.end, _json(ask.asked))
                return _spliced(text, [edit]).encode("utf-8", "surrogateescape")
    except (ValueError, RecursionError):  # half a line, or no JSON
        pass
    return line


def _names(line: str) -> Iterator[Member]:
    for member in _members(line, 0):
        if member.key == "model":
            yield member
        elif member.key in _WITHIN and isinstance(member.value, dict):
            yield from (inner for inner in _members(line, member.start) if inner.key == "model")


def _stated(asked: Asked, decode: Decode) -> list[_Edit]:
    """State what the caller left out; what the caller said stays, unless [decode] clamps it."""
    if decode.manage != "gateway" and not decode.clamp:
        return []
    wanted = {name: getattr(decode, name) for name in ASKS[asked.path]}
    put = _Put(asked.text, wanted, fill=decode.manage == "gateway", clamp=decode.clamp)
    if not wanted or asked.path.startswith("/v1/"):
        return put.into(0, asked.members)
    options = asked.members.get("options")
    if options is not None and options.value is not None:
        # Options are a plain table to the engine: letter case does matter.
        return put.into(options.start, {inner.key: inner for inner in _members(asked.text, options.start)})
    return _Put(asked.text, {"options": wanted}, fill=put.fill, clamp=False).into(0, asked.members)


@dataclass(frozen=True, slots=True)
class _Put:
    """Values for an object: `fill` states those that are missing or null, `clamp` replaces those that are said."""

    text: str
    wanted: Mapping[str, Any]
    fill: bool
    clamp: bool

    def into(self, at: int, members: Mapping[str, Member]) -> list[_Edit]:
        """Return the edits of the object that opens at `at`, if one does."""
        opened = _OPEN.match(self.text, at)
        found = {name: members.get(name) for name in self.wanted}
        edits = [
            _Edit(member.start, member.end, _json(self.wanted[name]))
            for name, member in found.items()
            if member and (self.fill if member.value is None else self.clamp)
        ]
        left = [_json(name) + ":" + _json(self.wanted[name]) for name, member in found.items() if member is None]
        if opened is None or not left or not self.fill:
            return edits
        return [*edits, _Edit(opened.end(), opened.end(), ",".join(left) + ("," if members else ""))]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def _spliced(text: str, edits: Sequence[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
