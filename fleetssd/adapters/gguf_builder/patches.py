"""A merged or baked GGUF is the base with some tensors' bytes made anew.

Where the types stay, sizes and offsets stay: keys, layout and every other tensor are the base's own bytes. Where a
target's type cannot be written here (K-quants), it gets the fallback type, the table of tensors is written afresh and
what follows moves; keys and untouched tensors are still the base's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np

from fleetssd import gguf_header
from fleetssd.adapters.gguf_builder import pieces
from fleetssd.adapters.gguf_builder.pieces import Piece
from fleetssd.adapters.gguf_builder.quants import WRITABLE, Type, add, laid_out, row_bytes
from fleetssd.adapters.gguf_builder.source import ARCHITECTURES, Base, Matrix, Source, Target, targets
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.gguf_header import Tensor

Factors: TypeAlias = Callable[[Target, Any], tuple[Matrix, Matrix]]
"""Reads the two matrices of a target that is to have a type."""

_VALUES = 1 << 19
"""Values merged as one piece, by whole rows: B @ A of so many stays in the cache that the sum reads it from."""
_NORM = "output_norm.weight"


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
        at += _padded(_size(kind, tensor), header.align)
    table = gguf_header.write_table({name: rows[name] for name in header.tensors})
    yield from pieces.copied(base.read, 0, header.table)
    yield partial(_zeros_after, table, header.table, header.align)
    for name in order:
        tensor, (kind, _, _) = header.tensors[name], rows[name]
        stop = tensor.offset + _size(tensor.type, tensor)
        yield from changes[name].made if name in changes else pieces.copied(base.read, tensor.offset, stop)
        size = _size(kind, tensor)
        yield partial(bytes, _padded(size, header.align) - size)


def _zeros_after(data: bytes, begins: int, align: int) -> bytes:
    return data + bytes(_padded(begins + len(data), align) - begins - len(data))


def _padded(size: int, align: int) -> int:
    return math.ceil(size / align) * align


def _size(kind: int, tensor: Tensor) -> int:
    *rows, width = tensor.shape
    return math.prod(rows) * row_bytes(Type(kind), width)


def merge(source: Source, base: Base, fallback: str) -> dict[str, Change]:
    """Return W + scale · B @ A for every adapted tensor: in its own type, or `fallback` where that cannot be written.

    All checks come before the first byte. Raises Misconfigured for a type that cannot be read.
    """
    found = {target: _written(target, fallback) for target in targets(source, base)}
    factors: Factors = lru_cache(maxsize=3)(partial(_factors, source))  # pieces come target by target
    return {target.name: _merged(factors, base, target, kind) for target, kind in found.items()}


def _written(target: Target, fallback: str) -> Any:
    """Return the type that the merged tensor gets."""
    kind, wanted = target.tensor.type, Type[fallback]
    if kind in WRITABLE:
        return Type(kind)
    if not _readable(kind) or target.tensor.shape[-1] % gguf.GGML_QUANT_SIZES[Type(kind)][0]:
        raise Misconfigured(
            f"{target.name} is {_name(kind)}, which cannot be merged here",
            hint="Serve a Q8_0, F16 or K-quantised base, or install adapters instead of merging (engine.road).",
        )
    return wanted


@cache
def _readable(kind: int) -> bool:
    """Tell whether the gguf package dequantises a type, by trying it on a block of zeros."""
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[Type(kind)][1]), np.uint8), Type(kind))
    except (NotImplementedError, ValueError, KeyError):
        return False
    return True


def _factors(source: Source, target: Target, out: Any) -> tuple[Matrix, Matrix]:
    """Return A as its sum wants it, and B in the base's order of rows, times its strength."""
    a = laid_out(source.matrix(target.pair.a), Type(target.tensor.type), out)
    return a, target.rows(source.matrix(target.pair.b)) * np.float32(target.pair.scale)


def _merged(factors: Factors, base: Base, target: Target, out: Any) -> Change:
    height, width = target.tensor.shape
    step = max(1, _VALUES // width)
    parts = [range(at, min(at + step, height)) for at in range(0, height, step)]
    return Change(int(out), tuple(partial(_rows, factors, base, target, out, part) for part in parts))


def _rows(factors: Factors, base: Base, target: Target, out: Any, rows: range) -> Matrix:
    kind = Type(target.tensor.type)
    stride = row_bytes(kind, target.tensor.shape[1])
    a, b = factors(target, out)
    raw = base.read(target.tensor.offset + rows.start * stride, len(rows) * stride)
    data = add(raw, kind, b[rows.start : rows.stop], a, out)
    if data is None:
        raise Rejected(f"{target.name} leaves the range of {out.name} when merged", hint="The adapter is too strong.")
    return data


def retyped(base: Base, other: Base) -> dict[str, int]:
    """Return how many tensors of `other` have another type than in the base, by `<old> > <new>`."""
    counts: dict[str, int] = {}
    for name, tensor in base.header.tensors.items():
        new = other.header.tensors[name].type
        if new != tensor.type:
            change = f"{_name(tensor.type)} > {_name(new)}"
            counts[change] = counts.get(change, 0) + 1
    return counts


def bake(base: Base, tau: float) -> dict[str, Change]:
    """Return the final norm's weight times 1 / τ, which divides the logits by τ.

    Exact only where nothing stands between the norm and the logits but one matrix. Raises Misconfigured elsewhere.
    """
    if not (math.isfinite(tau) and tau > 0):
        raise Misconfigured(f"temperature {tau} cannot be baked", hint="Use a finite τ above 0.")
    norm = _bakeable(base)
    weights = np.frombuffer(base.read(norm.offset, norm.shape[0] * 4), "<f4").astype(np.float64)
    return {_NORM: Change(norm.type, (partial(bytes, (weights / tau).astype("<f4").tobytes()),))}


def _bakeable(base: Base) -> Tensor:
    keys, tensors = base.header.keys, base.header.tensors
    architecture = base.header.architecture
    between = [key for key in keys if key.endswith((".final_logit_softcapping", ".logit_scale")) and keys[key]]
    if architecture not in ARCHITECTURES or architecture == "gemma2" or between or "output.bias" in tensors:
        raise Misconfigured(
            f"a temperature cannot be baked into {architecture}: {', '.join(between) or 'its head is not one matrix'}",
            hint='Set decode.manage = "none" or "gateway".',
        )
    if _NORM not in tensors or tensors[_NORM].type != Type.F32:
        raise Misconfigured(f"{_NORM} is missing or not F32", hint="Convert the base with llama.cpp's converter.")
    return tensors[_NORM]


def _name(number: int) -> str:
    return Type(number).name if number in set(Type) else f"type {number}"
