"""How an answer ended, read from its last lines: why it stopped, what it cost, whether it held anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TAIL = 4
"""Lines at the end of a streamed answer that tell all of this, on every route."""

_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "completed": "stop", "max_tokens": "length",
    "max_output_tokens": "length", "tool_use": "tool_calls", "function_call": "tool_calls",
}  # fmt: skip
_SAYS = re.compile(
    rb'"(?:content|response|text|delta|thinking|reasoning|reasoning_content|partial_json|arguments)"\s*:\s*"[^"]'
    rb'|"(?:tool_calls|embeddings?)"\s*:\s*\[\s*[^\]\s]|"type"\s*:\s*"(?:tool_use|function_call)"'
)


@dataclass(frozen=True, slots=True)
class Ending:
    """`finish` is empty and a number None where the engine did not tell; `failed` is an error within the answer."""

    finish: str = ""
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    load_ns: int | None = None
    failed: bool = False


def says(line: bytes) -> bool:
    """Say whether a reply, or a line of one, holds any of an answer: text, thoughts or a tool's call."""
    return _SAYS.search(line) is not None


def ending(lines: Iterable[bytes]) -> Ending:
    """Read the last lines of a streamed answer, or a whole one as a single line; what is no JSON is passed over."""
    told: dict[str, Any] = {}
    for line in lines:
        told |= {key: value for key, value in _told(_object(line)).items() if value is not None}
    return Ending(**told)


def _told(table: Mapping[str, Any]) -> dict[str, Any]:
    inner = table.get("response")
    if isinstance(inner, dict):  # the events of /v1/responses
        table = {**inner, "error": inner.get("error") or table.get("error")}
    usage = table.get("usage") if isinstance(table.get("usage"), dict) else {}
    assert isinstance(usage, dict)  # noqa: S101  for the type checker
    return {
        "finish": _finish(table),
        "prompt_tokens": _count(table, "prompt_eval_count") or _count(usage, "prompt_tokens", "input_tokens"),
        "answer_tokens": _count(table, "eval_count") or _count(usage, "completion_tokens", "output_tokens"),
        "load_ns": _count(table, "load_duration"),
        "failed": True if table.get("error") else None,
    }


def _finish(table: Mapping[str, Any]) -> str | None:
    choices, delta, details = table.get("choices"), table.get("delta"), table.get("incomplete_details")
    word = table.get("done_reason") or table.get("stop_reason")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        word = choices[0].get("finish_reason")
    elif isinstance(delta, dict) and delta.get("stop_reason"):
        word = delta["stop_reason"]
    elif isinstance(details, dict):
        word = details.get("reason")
    elif table.get("object") == "response":
        word = table.get("status")
    return _FINISH.get(word, word)[:40] if isinstance(word, str) else None


def _count(table: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
            return value
    return None


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        table = json.loads(line.removeprefix(b"data:").decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
