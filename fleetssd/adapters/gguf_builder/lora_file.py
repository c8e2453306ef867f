"""Writes a LoRA as a GGUF adapter, a few matrices in memory at a time.

What llama.cpp asks of it: general.type, the base's architecture, adapter.type, adapter.lora.alpha (a missing one
silently means strength 1), and `<base tensor>.lora_a` (r, in) and `.lora_b` (out, r) in pairs; it scales by alpha / r.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder import pieces
from fleetssd.adapters.gguf_builder.source import Base, Matrix, Source, Target, targets
from fleetssd.errors import Rejected

_ALIGN = gguf.GGUF_DEFAULT_ALIGNMENT


def write_lora(source: Source, base: Base, out: Path, kind: str) -> str:
    """Write the adapter for this base to `out`, every matrix as `kind` (F16 or F32), and return its sha256 (hex).

    Raises Rejected where a value leaves the range of `kind`.
    """
    found, wanted = targets(source, base), np.dtype({"F16": np.float16, "F32": np.float32}[kind])
    return pieces.write(out, _pieces(_header(source, base, found, out, wanted), source, found, wanted))


def _header(source: Source, base: Base, found: tuple[Target, ...], out: Path, kind: Any) -> bytes:
    """Return keys and the table of tensors, as the gguf package writes them."""
    path = out.with_name(f".{out.name}.header")
    writer = gguf.GGUFWriter(path, base.header.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, source.lora.alpha)
    for target in found:
        for side, span in (("a", target.pair.a), ("b", target.pair.b)):
            writer.add_tensor_info(f"{target.name}.lora_{side}", span.shape, kind, span.values * kind.itemsize)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _pieces(header: bytes, source: Source, found: tuple[Target, ...], kind: Any) -> Iterator[pieces.Piece]:
    yield partial(_padded, header)
    for target in found:
        yield partial(_a, source, target, kind)
        yield partial(_b, source, target, kind)


def _a(source: Source, target: Target, kind: Any) -> pieces.Bytes:
    return _padded(_as(kind, source.matrix(target.pair.a), target))


def _b(source: Source, target: Target, kind: Any) -> pieces.Bytes:
    matrix, fold = target.rows(source.matrix(target.pair.b)), source.lora.fold(target.pair)
    return _padded(_as(kind, matrix if fold == 1.0 else matrix * np.float32(fold), target))


def _as(kind: Any, matrix: Matrix, target: Target) -> Matrix:
    """Round to the nearest value of `kind`, as the gguf package does; beyond its largest one it would say infinity."""
    limit = np.finfo(kind).max
    if not (-limit <= matrix.min() and matrix.max() <= limit):  # not so for NaN either
        raise Rejected(
            f"the adapter of {target.pair.module} leaves the range of {kind}",
            hint='A run that fell apart looks like this; [base] adapter_type = "F32" takes values up to 3e38.',
        )
    return matrix.astype(kind, copy=False)


def _padded(data: pieces.Bytes) -> pieces.Bytes:
    rest = -memoryview(data).nbytes % _ALIGN
    return bytes(data) + bytes(rest) if rest else data
