"""The GGUF header without I/O: keys, and where each tensor lies in the file (github.com/ggml-org/ggml, docs/gguf.md).

The gguf package reads a vocabulary into one numpy object a token; here arrays are walked over, so that a base's header
costs milliseconds and no memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fleetssd.errors import Corrupt, Misconfigured

Buffer: TypeAlias = Any  # bytes, memoryview or mmap: whatever struct.unpack_from reads

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: ggml type number, row-major shape (slowest first) and `offset` in bytes from the file's start."""

    type: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF says of itself. `keys` holds scalars and strings; of an array only its length, as a one-tuple.

    `table` is where the table of tensors begins, `start` where their bytes do, `align` what offsets are multiples of.
    """

    keys: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    table: int
    start: int
    align: int

    @property
    def architecture(self) -> str:
        """The value of general.architecture. Raises Corrupt."""
        return str(self.need("general.architecture"))

    def need(self, key: str) -> Any:
        """Return a key that must be there. Raises Corrupt."""
        if key not in self.keys:
            raise Corrupt(f"the GGUF has no {key}", hint="The file is damaged or was written by another tool.")
        return self.keys[key]

    def number(self, name: str) -> int:
        """Return an integer of this architecture, such as `block_count`. Raises Misconfigured where layers differ."""
        value = self.need(f"{self.architecture}.{name}")
        if isinstance(value, tuple):
            raise Misconfigured(
                f"{self.architecture}.{name} differs from layer to layer", hint="Use another base model."
            )
        return int(value)


def parse(data: Buffer, size: int) -> Header:
    """Read the header of a GGUF of `size` bytes, version 2 or 3, little-endian. Raises Corrupt."""
    try:
        magic, version, tensors, keys = struct.unpack_from("<4sIQQ", data, 0)
        if magic != b"GGUF" or version not in (2, 3):
            raise Corrupt(f"not a little-endian GGUF of version 2 or 3 (magic {magic!r}, version {version})")
        cursor = _Cursor(data, 24)
        table = {cursor.text(): cursor.value() for _ in range(keys)}
        infos_at = cursor.at
        infos = [cursor.info() for _ in range(tensors)]
    except (struct.error, UnicodeDecodeError, IndexError, OverflowError) as error:
        raise Corrupt(f"the GGUF's header is damaged: {error}") from None
    align = table.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(align, int) or align < 1:
        raise Corrupt(f"the GGUF's alignment is {align!r}")
    start = padded(cursor.at, align)
    found = {name: Tensor(kind, shape, start + offset) for name, kind, shape, offset in infos}
    if any(tensor.offset >= size for tensor in found.values()):
        raise Corrupt("the GGUF is truncated: a tensor lies behind its end")
    return Header(keys=table, tensors=found, table=infos_at, start=start, align=align)


def write_table(tensors: Mapping[str, tuple[int, tuple[int, ...], int]]) -> bytes:
    """Return a table of tensors, each (ggml type, row-major shape, offset from where the tensors' bytes begin)."""
    rows = []
    for name, (kind, shape, offset) in tensors.items():
        text = name.encode()
        rows.append(struct.pack(f"<Q{len(text)}sI", len(text), text, len(shape)))
        rows.append(struct.pack(f"<{len(shape)}QIQ", *shape[::-1], kind, offset))
    return b"".join(rows)


def padded(size: int, align: int) -> int:
    """Return the next multiple of `align` from `size` on."""
    return math.ceil(size / align) * align


class _Cursor:
    """A position in the buffer; each method reads one thing and moves on."""

    def __init__(self, data: Buffer, at: int) -> None:
        self.data, self.at = data, at

    def number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return value

    def text(self) -> str:
        length = self.number("<Q")
        raw = bytes(self.data[self.at : self.at + length])
        if len(raw) != length:
            raise IndexError("a string lies behind the end")
        self.at += length
        return raw.decode()

    def value(self) -> Any:
        kind = self.number("<I")
        if kind == _STRING:
            return self.text()
        return self._array() if kind == _ARRAY else self.number(_layout(kind))

    def _array(self) -> tuple[int]:
        kind, length = self.number("<I"), self.number("<Q")
        if kind == _STRING:
            for _ in range(length):
                width = self.number("<Q")
                self.at += width
        else:
            self.at += length * struct.calcsize(_layout(kind))
        return (length,)

    def info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self.text()
        shape = tuple(self.number("<Q") for _ in range(self.number("<I")))
        return name, self.number("<I"), shape[::-1], self.number("<Q")


def _layout(kind: int) -> str:
    if kind not in _SCALARS:
        raise Corrupt(f"the GGUF holds a value of unknown type {kind}")
    return _SCALARS[kind]
