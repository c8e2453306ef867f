"""Which task a request belongs to: what its caller says, else how its conversation begins."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fleetssd.calls import TaskSource
from fleetssd.gateway import Asked

LENGTH = 200
"""Characters of a task key; a longer one is kept as its hash."""
_FIELDS = ("user", "prompt_cache_key", "session_id")
_METADATA = ("task", "task_id", "session", "session_id", "conversation_id", "user_id")
"""Keys of `metadata` that stay the same through a task, the most telling first; others may differ from call to call."""
_sorted = json.JSONEncoder(sort_keys=True).encode
_PROMPT = 1000
"""Characters of a plain prompt that make its conversation: what grows is at its end."""


def task_key(header: str, asked: Asked) -> tuple[str, TaskSource]:
    """Return the task that a request belongs to and where that is from; `header` is X-Fleetssd-Task, empty for none."""
    if kept := _kept(header):
        return kept, "header"
    metadata = asked.field("metadata")
    told = [asked.field(name) for name in _FIELDS[:1]]
    told += [metadata.get(name) for name in _METADATA] if isinstance(metadata, dict) else []
    told += [asked.field(name) for name in _FIELDS[1:]]
    for value in told:
        if kept := _kept(value):
            return kept, "body"
    begun = _beginning(asked)
    if begun is None:
        return "", "none"
    text = _sorted(begun).encode()
    return "conversation:" + hashlib.blake2b(text, digest_size=8).hexdigest(), "conversation"


def _kept(value: Any) -> str:
    """Return a key as it is kept: its text, or its hash where it is long or cannot be printed."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = str(value).strip()
    if len(text) <= LENGTH and text.isprintable():
        return text
    return "hash:" + hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _beginning(asked: Asked) -> Any:
    """Return what stays at the start of a conversation while turns are added; None where there is none."""
    first = [asked.field("system"), asked.field("instructions")]
    for name in ("messages", "input"):
        turns = asked.field(name)
        if isinstance(turns, list) and turns:
            return [*first, *_until_user(turns)]
    for name in ("prompt", "input"):
        text = asked.field(name)
        if isinstance(text, str) and text:
            return [*first, text[:_PROMPT]]
    return None


def _until_user(turns: list[Any]) -> list[Any]:
    for at, turn in enumerate(turns):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return turns[: at + 1]
    return turns[:1]
