"""Adds a matrix to quantised rows: Q8_0 in cache-sized blocks of numpy, every other type through the gguf package."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder.source import Matrix

Type = gguf.GGMLQuantizationType
WRITABLE = frozenset({Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1})
"""What the gguf package can quantise to; it reads K-quants but cannot write them."""

_BLOCK, _BYTES = 32, 34
"""A block of Q8_0: a float16 scale and 32 signed bytes."""
_CACHED = 1 << 17
"""Values handled at once: half a MiB a buffer stays in the second-level cache, where a pass costs next to nothing."""
_ALMOST_HALF = 0x3EFFFFFF
"""Bits of the largest float32 below one half: added with a number's sign, it makes truncation round halves away."""


def row_bytes(kind: Any, width: int) -> int:
    """Return the bytes of one row of `width` values."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(width // block * size)


def add(raw: bytes, kind: Any, delta: Matrix, out: Any) -> Matrix | None:
    """Return the rows `raw` of type `kind` plus `delta` (rows, width; float32) as the bytes of type `out`.

    The sum is taken in float32 and quantised as the gguf package does, bit for bit. None where a value leaves the
    range of `out`.
    """
    if kind == out == Type.Q8_0:
        return _add_q8_0(raw, np.ascontiguousarray(delta, np.float32).reshape(-1))
    rows, width = delta.shape
    packed = np.frombuffer(raw, np.uint8).reshape(rows, row_bytes(kind, width))
    whole = (gguf.dequantize(packed, kind) + delta).astype(np.float32)
    limit = np.finfo(np.float32 if out in {Type.F32, Type.BF16} else np.float16).max  # the others scale by a float16
    if not (np.abs(whole) <= limit).all():
        return None
    return np.ascontiguousarray(gguf.quantize(whole, out)).view(np.uint8)


def _add_q8_0(raw: bytes, delta: Matrix) -> Matrix | None:
    """Add flat values to flat blocks of Q8_0, a slice that fits the cache at a time."""
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, _BYTES)
    out, slices = np.empty_like(blocks), _Slices(min(_CACHED, delta.size))
    step = _CACHED // _BLOCK
    for start in range(0, len(blocks), step):
        part = delta[start * _BLOCK : (start + step) * _BLOCK]
        if not slices.add(blocks[start : start + step], part, out[start : start + step]):
            return None
    return out


class _Slices:
    """Buffers that are used again for every slice, so that no pass waits for fresh memory."""

    def __init__(self, size: int) -> None:
        self._one: Matrix = np.empty(size, np.float32)
        self._two: Matrix = np.empty(size, np.float32)

    def add(self, blocks: Matrix, delta: Matrix, out: Matrix) -> bool:
        """Write blocks plus delta to `out`; False where a value leaves the range."""
        count = delta.size
        whole, spare = self._one[:count], self._two[:count]
        rows = whole.reshape(-1, _BLOCK)
        np.copyto(rows, blocks[:, 2:].view(np.int8))
        rows *= np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
        whole += delta
        peaks = _peaks(whole, spare)
        if not (peaks <= np.finfo(np.float16).max).all():
            return False
        scale = peaks / np.float32(127)
        out[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        rows *= np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0).reshape(-1, 1)
        half: Matrix = spare.view(np.uint32)
        np.bitwise_and(whole.view(np.uint32), 0x80000000, out=half)
        np.bitwise_or(half, _ALMOST_HALF, out=half)
        whole += spare
        np.copyto(out[:, 2:].view(np.int8), rows, casting="unsafe")
        return True


def _peaks(whole: Matrix, spare: Matrix) -> Matrix:
    """Return the largest |value| of each block of 32.

    Numpy reduces short axes slowly; passes over the whole slice, each against itself shifted by a power of two, leave
    the peak of every eight values at the first of them, and then of every four eights. A NaN goes through.
    """
    span = np.abs(whole, out=spare)
    for shift in (1, 2, 4):
        span = np.maximum(span[:-shift], span[shift:])
    span = np.ascontiguousarray(span[::8])
    for shift in (1, 2):
        span = np.maximum(span[:-shift], span[shift:])
    return np.ascontiguousarray(span[::4])
