"""The safetensors header without I/O: where each tensor lies in the file (github.com/huggingface/safetensors)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from fleetssd.errors import Corrupt

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one value; adapters hold no other types."""


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor's type, shape (row-major, slowest first) and place: `offset` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def values(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


def parse(data: bytes | memoryview, size: int) -> dict[str, Span]:
    """Read the header from the first bytes of a file of `size` bytes, in the file's order.

    Raises Corrupt where the header lies outside the file, is not JSON, or names bytes that do not fit.
    """
    length = int.from_bytes(bytes(data[:8]), "little")
    if size < 8 or length > size - 8 or len(data) < 8 + length:
        raise Corrupt("not a safetensors file: its header lies outside the file")
    try:
        table = json.loads(bytes(data[8 : 8 + length]))
        entries = {str(name): entry for name, entry in table.items() if name != "__metadata__"}
        return {name: _span(name, entry, 8 + length, size) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"not a safetensors header: {error}") from None


def _span(name: str, entry: dict[str, object], start: int, size: int) -> Span:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in WIDTHS or not isinstance(dtype, str):
        raise Corrupt(f"tensor {name} has type {dtype}", hint="Adapters are saved as F32, F16 or BF16.")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        raise Corrupt(f"tensor {name} has no shape or no offsets")
    span = Span(dtype=dtype, shape=tuple(int(n) for n in shape), offset=start + int(offsets[0]))
    if int(offsets[1]) - int(offsets[0]) != span.values * WIDTHS[dtype] or start + int(offsets[1]) > size:
        raise Corrupt(f"tensor {name} does not fit its bytes", hint="The file is truncated or damaged.")
    return span
