"""A model as an Ollama server's `show` describes it, and the layers that this description implies, byte for byte."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetssd.errors import Corrupt

MODEL = "application/vnd.ollama.image.model"
ADAPTER = "application/vnd.ollama.image.adapter"
TEMPLATE = "application/vnd.ollama.image.template"
SYSTEM = "application/vnd.ollama.image.system"
PARAMS = "application/vnd.ollama.image.params"
LICENSE = "application/vnd.ollama.image.license"
MESSAGES = "application/vnd.ollama.image.messages"
CONFIG = "application/vnd.docker.container.image.v1+json"

_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Shown:
    """What `show` says.

    `blob` and `adapters` are sha256 (hex); `template` is empty where the GGUF's own Jinja text rules; `messages` are
    turns (role, content) that stand before every conversation.
    """

    blob: str
    adapters: tuple[str, ...]
    template: str
    system: str
    parameters: tuple[tuple[str, Any], ...]
    licenses: tuple[str, ...]
    details: Mapping[str, Any]
    renderer: str
    parser: str
    messages: tuple[tuple[str, str], ...] = ()


def read_show(body: Mapping[str, Any]) -> Shown:
    """Read the reply of POST /api/show. Raises Corrupt where it names no GGUF."""
    lines = list(itertools.takewhile(_before_texts, str(body.get("modelfile", "")).splitlines()))
    models = _digests(lines, "FROM ")
    if len(models) != 1:
        raise Corrupt(f"show names {len(models)} model files, not one", hint="Only GGUF models can be fine-tuned.")
    template = str(body.get("template") or "")
    license_ = body.get("license") or ()
    return Shown(
        blob=models[0],
        adapters=_digests(lines, "ADAPTER "),
        # Go templates never hold `{%`: that is the GGUF's own. The other one is shown where there is none at all.
        template="" if "{%" in template or template == "{{ .Prompt }}" else template,
        system=str(body.get("system") or ""),
        parameters=read_parameters(str(body.get("parameters") or "")),
        licenses=(license_,) if isinstance(license_, str) else tuple(license_),
        details=dict(body.get("details") or {}),
        renderer=str(body.get("renderer") or ""),
        parser=str(body.get("parser") or ""),
        messages=tuple((str(turn["role"]), str(turn.get("content", ""))) for turn in body.get("messages") or ()),
    )


def read_parameters(text: str) -> tuple[tuple[str, Any], ...]:
    """Read show's parameter list: a key and a Go literal a line; `stop`, or a key that repeats, is a list."""
    found: dict[str, list[Any]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key:
            found.setdefault(key, []).append(_literal(value.strip()))
    return tuple((key, found[key] if key == "stop" or len(found[key]) > 1 else found[key][0]) for key in sorted(found))


def own_layers(shown: Shown) -> tuple[tuple[str, bytes], ...]:
    """Return (media type, bytes) of the small layers beside the model, in the server's order."""
    layers = [(LICENSE, text.encode()) for text in shown.licenses]
    layers += [(TEMPLATE, shown.template.encode())] if shown.template else []
    layers += [(SYSTEM, shown.system.encode())] if shown.system else []
    layers += [(PARAMS, go_json(dict(shown.parameters)))] if shown.parameters else []
    layers += [(MESSAGES, go_json(turns(shown)))] if shown.messages else []
    return tuple(layers)


def turns(shown: Shown) -> list[dict[str, str]]:
    """Return the turns before every conversation as the server writes them."""
    return [{"role": role, "content": content} for role, content in shown.messages]


def config_bytes(shown: Shown) -> bytes:
    """Return the config blob, as the server writes it for a model with these details."""
    details = shown.details
    family = str(details.get("family", ""))
    config: dict[str, Any] = {
        "model_format": details.get("format", "gguf"),
        "model_family": family,
        "model_families": list(details.get("families") or [family]),
        "model_type": details.get("parameter_size", ""),
        "file_type": details.get("quantization_level", ""),
    }
    config |= {"renderer": shown.renderer} if shown.renderer else {}
    config |= {"parser": shown.parser} if shown.parser else {}
    return go_json({**config, "architecture": "amd64", "os": "linux"})


def go_json(value: Any) -> bytes:
    """Encode as Go's json.Encoder does: compact, HTML characters escaped, a newline at the end."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return (text + "\n").encode()


def _before_texts(line: str) -> bool:
    """Say whether a Modelfile's head goes on: from its first free text on, a line may look like anything."""
    return not line.startswith(("TEMPLATE ", "SYSTEM ", "PARAMETER ", "LICENSE ", "MESSAGE "))


def _digests(lines: list[str], keyword: str) -> tuple[str, ...]:
    found = [_BLOB.search(line) for line in lines if line.startswith(keyword)]
    return tuple(match.group(1) for match in found if match)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)  # Go's %#v and JSON agree on numbers, booleans and plain strings
    except ValueError:
        return text.strip('"')
