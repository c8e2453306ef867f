"""A merged or baked GGUF is the base with some tensors' bytes made anew.

Where the types stay, sizes and offsets stay: keys, layout and every other tensor are the base's own bytes. Where a
target gets another type, the table of tensors is written afresh and what follows moves; keys and untouched tensors are
still the base's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fleetssd import gguf_header
from fleetssd.adapters.gguf_builder import pieces
from fleetssd.adapters.gguf_builder.pieces import Piece
from fleetssd.adapters.gguf_builder.quants import Type, name_of, tensor_bytes
from fleetssd.adapters.gguf_builder.source import Base
from fleetssd.gguf_header import Tensor, padded


@dataclass(frozen=True, slots=True)
class Change:
    """One tensor made anew: its type in the new file, and the pieces that make it."""

    kind: int
    made: tuple[Piece, ...]


def patched_copy(base: Base, out: Path, changes: Mapping[str, Change]) -> str:
    """Write the base with some tensors changed to `out` and return its sha256 (hex)."""
    moved = any(change.kind != base.header.tensors[name].type for name, change in changes.items())
    return pieces.write(out, _relaid(base, changes) if moved else _in_place(base, changes))


def _in_place(base: Base, changes: Mapping[str, Change]) -> Iterator[Piece]:
    at = 0
    for name in sorted(changes, key=lambda name: base.header.tensors[name].offset):
        tensor = base.header.tensors[name]
        yield from pieces.copied(base.read, at, tensor.offset)
        yield from changes[name].made
        at = tensor.offset + _size(tensor.type, tensor)
    yield from pieces.copied(base.read, at, base.size)


def _relaid(base: Base, changes: Mapping[str, Change]) -> Iterator[Piece]:
    """Lay the tensors out anew, in the base's order, and yield table and bytes with zeros between them."""
    header, at, rows = base.header, 0, {}
    order = sorted(header.tensors, key=lambda name: header.tensors[name].offset)
    for name in order:
        tensor = header.tensors[name]
        kind = changes[name].kind if name in changes else tensor.type
        rows[name] = (kind, tensor.shape, at)
        at += padded(_size(kind, tensor), header.align)
    table = gguf_header.write_table({name: rows[name] for name in header.tensors})
    yield from pieces.copied(base.read, 0, header.table)
    yield partial(_zeros_after, table, header.table, header.align)
    for name in order:
        tensor, (kind, _, _) = header.tensors[name], rows[name]
        stop = tensor.offset + _size(tensor.type, tensor)
        yield from changes[name].made if name in changes else pieces.copied(base.read, tensor.offset, stop)
        size = _size(kind, tensor)
        yield partial(bytes, padded(size, header.align) - size)


def _zeros_after(data: bytes, begins: int, align: int) -> bytes:
    return data + bytes(padded(begins + len(data), align) - begins - len(data))


def _size(kind: int, tensor: Tensor) -> int:
    return tensor_bytes(Type(kind), tensor.shape)


def retyped(base: Base, other: Base) -> dict[str, int]:
    """Return how many tensors of `other` have another type than in the base, by `<old> > <new>`."""
    counts: dict[str, int] = {}
    for name, tensor in base.header.tensors.items():
        new = other.header.tensors[name].type
        if new != tensor.type:
            change = f"{name_of(tensor.type)} > {name_of(new)}"
            counts[change] = counts.get(change, 0) + 1
    return counts
