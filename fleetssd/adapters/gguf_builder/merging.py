"""Merges a LoRA into a base: every adapted tensor is dequantised, summed in float32 and quantised again."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import cache, lru_cache, partial
from typing import Any, TypeAlias

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder.llama_quantize import TYPES, LlamaQuantize
from fleetssd.adapters.gguf_builder.patches import Change
from fleetssd.adapters.gguf_builder.quants import WRITABLE, Type, add, laid_out, name_of, row_bytes
from fleetssd.adapters.gguf_builder.source import Base, Matrix, Source, Target, targets
from fleetssd.errors import Misconfigured, Rejected

Factors: TypeAlias = Callable[[Target, Any], tuple[Matrix, Matrix]]
"""Reads the two matrices of a target that is to have a type."""

_VALUES = 1 << 19
"""Values merged as one piece, by whole rows: B @ A of so many stays in the cache that the sum reads it from."""


def merge(source: Source, base: Base, fallback: str, quantize: LlamaQuantize | None) -> dict[str, Change]:
    """Return W + scale · B @ A for every adapted tensor, in its own type where that can be written.

    Types of `llama_quantize.TYPES` are written by the program where there is one; others become `fallback`. All checks
    come before the first byte. Raises Misconfigured for a type that cannot be read.
    """
    own = TYPES if quantize else frozenset()
    found = {target: _written(target, fallback, own) for target in targets(source, base)}
    factors: Factors = lru_cache(maxsize=3)(partial(_factors, source))  # pieces come target by target
    merged = {target.name: _merged(factors, base, target, kind) for target, kind in found.items()}
    if quantize:
        whole = {target.name: merged[target.name].made for target in found if target.tensor.type in own}
        made = quantize.made(base, whole)
        merged |= {name: Change(base.header.tensors[name].type, pieces) for name, pieces in made.items()}
    return merged


def _written(target: Target, fallback: str, own: AbstractSet[Any]) -> Any:
    """Return the type that the sum is written in: float32 for those of `own`, which the program quantises."""
    kind, wanted = target.tensor.type, Type.F32 if target.tensor.type in own else Type[fallback]
    if kind in WRITABLE:
        return Type(kind)
    if not _readable(kind) or target.tensor.shape[-1] % gguf.GGML_QUANT_SIZES[Type(kind)][0]:
        raise Misconfigured(
            f"{target.name} is {name_of(kind)}, which cannot be merged here",
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
