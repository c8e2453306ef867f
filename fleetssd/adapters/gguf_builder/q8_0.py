"""Adds a LoRA to rows of Q8_0, in as few passes over memory as numpy allows.

A block of Q8_0 is a float16 scale and 32 signed bytes. Numpy is slow on rows of 32, so values are held in four planes:
plane p has the eight values from 8 p on of every block, one block after the other. A pass over a plane is then one long
loop, and the columns of A, put into this order once a target, make B @ A come out in it.
"""

from __future__ import annotations

import numpy as np

from fleetssd.adapters.gguf_builder.source import Matrix

BLOCK, BYTES = 32, 34
_PLANES, _RUN = 4, 8
_CACHED = 1 << 11
"""Blocks handled at once: with its buffers such a slice stays in the second-level cache, where a pass costs least."""
_SIGN, _ALMOST_HALF = np.uint32(0x80000000), np.uint32(0x3EFFFFFF)
"""The bits of a sign, and of the largest float32 below one half: put together, added, they make truncation round."""
_TINY = np.finfo(np.float32).smallest_normal


def planes(a: Matrix) -> Matrix:
    """Return the columns of A (r, width) by plane: (4, r, width / 4)."""
    rank, width = a.shape
    parted = a.reshape(rank, width // BLOCK, _PLANES, _RUN).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(parted).reshape(_PLANES, rank, width // _PLANES)


def add(raw: bytes, b: Matrix, a: Matrix) -> Matrix | None:
    """Return the bytes of rows of Q8_0 plus B @ A, with A by plane; None where a scale leaves the range of float16.

    Summed in float32 and quantised as the gguf package does, bit for bit: halves are rounded away from zero.
    """
    blocks = np.frombuffer(raw, np.uint8)
    delta: Matrix = np.matmul(b, a).reshape(_PLANES, -1, _RUN)
    out, count = np.empty_like(blocks), delta.shape[1]
    buffers = _Slice(min(_CACHED, count))
    for start in range(0, count, _CACHED):
        rows = slice(start * BYTES, min(start + _CACHED, count) * BYTES)
        if not buffers.add(blocks[rows], delta[:, start : start + _CACHED], out[rows]):
            return None
    return out


def _scales(blocks: Matrix) -> Matrix:
    """View the scales of packed blocks."""
    return np.ndarray((blocks.size // BYTES,), "<f2", blocks, strides=(BYTES,))


def _values(blocks: Matrix) -> Matrix:
    """View the values of packed blocks by plane, eight bytes as one number: (4, blocks)."""
    return np.ndarray((_PLANES, blocks.size // BYTES), "<u8", blocks, BYTES - BLOCK, (_RUN, BYTES))


class _Slice:
    """Buffers that are used again for every slice, so that no pass waits for fresh memory."""

    def __init__(self, blocks: int) -> None:
        shape = (_PLANES, blocks, _RUN)
        self._bytes: Matrix = np.empty(shape, np.int8)
        self._whole: Matrix = np.empty(shape, np.float32)
        self._spare: Matrix = np.empty(shape, np.float32)
        self._factor: Matrix = np.empty(shape[1:], np.float32)
        self._peaks: Matrix = np.empty((2, blocks * _RUN), np.float32)

    def add(self, blocks: Matrix, delta: Matrix, out: Matrix) -> bool:
        """Write blocks plus delta to `out`; False where a value leaves the range."""
        count = delta.shape[1]
        whole = self._whole[:, :count]
        self._read(blocks, whole)
        whole += delta
        peaks = self._highest(whole)
        if not peaks.max() <= np.finfo(np.float16).max:
            return False
        peaks /= np.float32(127)
        np.copyto(_scales(out), peaks.astype(np.float16))
        self._write(whole, np.reciprocal(np.maximum(peaks, _TINY)), out)
        return True

    def _read(self, blocks: Matrix, whole: Matrix) -> None:
        """Spread packed blocks over `whole`."""
        packed, factor = self._bytes[:, : whole.shape[1]], self._factor[: whole.shape[1]]
        np.copyto(packed.view("<u8")[:, :, 0], _values(blocks))
        np.copyto(whole, packed)
        np.copyto(factor, _scales(blocks).astype(np.float32)[:, None])
        whole *= factor

    def _highest(self, whole: Matrix) -> Matrix:
        """Return the largest |value| of each block: over the planes, then over eights, each shifted against itself.

        What a shift brings in from the next block is read nowhere. A NaN goes through.
        """
        size, spare = whole.shape[1] * _RUN, self._spare[:, : whole.shape[1]]
        np.abs(whole, out=spare)
        one, two = self._peaks[:, :size]
        eights = one.reshape(-1, _RUN)
        np.maximum(spare[0], spare[1], out=eights)
        np.maximum(eights, spare[2], out=eights)
        np.maximum(eights, spare[3], out=eights)
        np.maximum(one[:-1], one[1:], out=two[:-1])
        np.maximum(two[:-3], two[2:-1], out=one[:-3])
        highest: Matrix = np.maximum(one[:-7:_RUN], one[4:-3:_RUN])
        return highest

    def _write(self, whole: Matrix, inverse: Matrix, out: Matrix) -> None:
        """Pack `whole` over its scales into `out`, rounded."""
        count = whole.shape[1]
        packed, factor, half = self._bytes[:, :count], self._factor[:count], self._spare[:, :count]
        np.copyto(factor, inverse[:, None])
        whole *= factor
        bits: Matrix = half.view(np.uint32)
        np.bitwise_and(whole.view(np.uint32), _SIGN, out=bits)
        np.bitwise_or(bits, _ALMOST_HALF, out=bits)
        whole += half
        np.copyto(packed, whole, casting="unsafe")
        np.copyto(_values(out), packed.view("<u8")[:, :, 0])
