"""Adds a LoRA to quantised rows: Q8_0 by passes of our own, every other type through the gguf package."""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder import q8_0
from fleetssd.adapters.gguf_builder.source import Matrix

Type = gguf.GGMLQuantizationType
WRITABLE = frozenset({Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1})
"""What the gguf package can quantise to; it reads K-quants but cannot write them."""


def row_bytes(kind: Any, width: int) -> int:
    """Return the bytes of one row of `width` values."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(width // block * size)


def laid_out(a: Matrix, kind: Any, out: Any) -> Matrix:
    """Return A (r, width) as `add` wants it for these types."""
    return q8_0.planes(a) if kind == out == Type.Q8_0 else a


def add(raw: bytes, kind: Any, b: Matrix, a: Matrix, out: Any) -> Matrix | None:
    """Return the rows `raw` of type `kind` plus B @ A, with A laid out, as the bytes of type `out`.

    The sum is taken in float32 and quantised as the gguf package does, bit for bit. None where a value leaves the
    range of `out`.
    """
    if kind == out == Type.Q8_0:
        return q8_0.add(raw, b, a)
    packed = np.frombuffer(raw, np.uint8).reshape(len(b), row_bytes(kind, a.shape[1]))
    whole = (gguf.dequantize(packed, kind) + b @ a).astype(np.float32)
    limit = np.finfo(np.float32 if out in {Type.F32, Type.BF16} else np.float16).max  # the others scale by a float16
    if not (np.abs(whole) <= limit).all():
        return None
    return np.ascontiguousarray(gguf.quantize(whole, out)).view(np.uint8)


def tensor_bytes(kind: Any, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor, whose shape is row-major."""
    *rows, width = shape
    return math.prod(rows) * row_bytes(kind, width)


def name_of(number: int) -> str:
    """Return a type's name, or what can be said of one that nobody here knows."""
    return Type(number).name if number in set(Type) else f"type {number}"
