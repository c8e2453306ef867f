"""The names of sampling settings: many spellings, one word each; and how much of a value may be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

SPELLINGS = {
    "temperature": "temperature", "temp": "temperature", "top_p": "top_p", "topp": "top_p", "top_k": "top_k",
    "topk": "top_k", "min_p": "min_p", "minp": "min_p", "typical_p": "typical_p", "repeat_penalty": "repeat_penalty",
    "repetition_penalty": "repeat_penalty", "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty", "repeat_last_n": "repeat_last_n", "samplers": "samplers",
    "adaptive_sampling": "adaptive_sampling", "t_train": "temperature",
}  # fmt: skip
AMBIGUOUS = {
    "t": "temperature", "seed": "seed", "stop": "stop", "num_predict": "num_predict", "num_ctx": "num_ctx",
    "ctx_size": "num_ctx", "context_length": "num_ctx",
}  # fmt: skip
"""Words that mean sampling only among their like."""
AMONG = ("extra_body", "options", "parameter", "generation_params", "sampling", "params", "llama-server", "ollama")
ON_V1 = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop")
"""What Ollama's /v1 has a field for; it drops every other name without a word."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PLAIN = re.compile(r"[-+]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[-+]?\d{1,3})?|true|false|null|none|auto", re.IGNORECASE)
_SHOWN = 60


def canonical(path: Sequence[str], value: str) -> str | None:
    """Return the one word for the setting at the end of a path; None where it is no sampling setting."""
    if not path:
        return None
    name = _CAMEL.sub("_", path[-1].lstrip("-")).replace("-", "_").lower().removeprefix("llama_arg_")
    if name in AMBIGUOUS or name.startswith("ollama_"):
        near = {part.lower() for part in path[:-1]} & set(AMONG)
        known = name.removeprefix("ollama_")
        return (SPELLINGS | AMBIGUOUS).get(known) if near or known != name else None
    if name == "temp" and not is_plain(value):
        return None  # a folder, more likely
    ending = next((word for word in ("temperature", "top_p", "top_k", "min_p") if name.endswith(f"_{word}")), name)
    return SPELLINGS.get(ending)


def is_plain(value: str) -> bool:
    """Say whether a value is a number or one of the words that stand for none: it can be no secret."""
    return _PLAIN.fullmatch(value.strip()) is not None


def shown(value: str, *, private: bool) -> str:
    """Return as much of a value as may be shown: of a private file nothing but numbers, of an address no login."""
    if is_plain(value):
        return value.strip()
    if private:
        return "(not shown)"
    if found := address(value):
        host, port, path = found
        value = f"{host}:{port}{path}" if port else f"{host}{path}"
    clean = "".join(letter for letter in value if letter.isprintable())
    return clean[: _SHOWN - 1] + "…" if len(clean) > _SHOWN else clean


def address(value: str) -> tuple[str, int | None, str] | None:
    """Return host, port and path of an http address, without what it may carry of secrets; None where it is none."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.hostname, port, parts.path.rstrip("/")
