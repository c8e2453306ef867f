"""keep_alive as Ollama reads it: a number is seconds, a string is a Go duration, below zero means for ever."""

from __future__ import annotations

import math
import re

FOREVER = math.inf
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def parse_go_duration(text: str) -> float:
    """Read a Go duration such as "1h30m" or "-1s" in seconds.

    Raises ValueError with Go's own words.
    """
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, end = 0.0, 0
    for term in _TERM.finditer(rest):
        if term.start() != end:
            break
        if not term[2]:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if term[2] not in _UNITS:
            raise ValueError(f'time: unknown unit "{term[2]}" in duration "{text}"')
        total, end = total + float(term[1]) * _UNITS[term[2]], term.end()
    if not rest or end != len(rest):
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def parse_keep_alive(value: object) -> float | None:
    """Read a request's keep_alive in seconds: None where it is absent, FOREVER where it is negative.

    Raises ValueError with the text that the server answers.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"Unsupported type: '{type(value).__name__}'")  # noqa: TRY004 - the value is the client's
    seconds = parse_go_duration(value) if isinstance(value, str) else float(value)
    return FOREVER if seconds < 0 else seconds
