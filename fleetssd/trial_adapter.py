"""A LoRA without effect, as GGUF bytes: what an engine is asked to load before a night relies on adapters.

Its matrices are F16, as a night's are by default.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

_ALIGNMENT = 32
_STRING, _F32 = 8, 6
_F16, _WIDTH = 1, 2


def for_model(show: Mapping[str, Any]) -> bytes | None:
    """Write a trial adapter for the model that this reply of POST /api/show describes.

    It touches one matrix at rank 1 with B = 0. None where the reply lists no tensors: then nothing can be tried.
    """
    architecture = str((show.get("model_info") or {}).get("general.architecture", ""))
    for row in show.get("tensors") or ():
        name = str(row.get("name", ""))
        shape: Sequence[Any] = row.get("shape") or []
        if architecture and name.startswith("blk.0.") and name.endswith(".weight") and len(shape) == 2:
            return blank(architecture, name, int(shape[0]), int(shape[1]))
    return None


def blank(architecture: str, tensor: str, inputs: int, outputs: int) -> bytes:
    """Write a rank-1 LoRA of zeros for one matrix (llama.cpp: A is [inputs, r], B is [r, outputs] in GGUF order)."""
    keys = [
        _text("general.architecture", architecture),
        _text("general.type", "adapter"),
        _text("adapter.type", "lora"),
        _string("adapter.lora.alpha") + struct.pack("<If", _F32, 1.0),
    ]
    first = _padded(_WIDTH * inputs)
    infos = [_info(f"{tensor}.lora_a", (inputs, 1), 0), _info(f"{tensor}.lora_b", (1, outputs), first)]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(keys)) + b"".join(keys + infos)
    head += bytes(-len(head) % _ALIGNMENT)
    return head + bytes(first + _padded(_WIDTH * outputs))


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", _STRING) + _string(value)


def _info(name: str, shape: Sequence[int], offset: int) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _F16, offset)
