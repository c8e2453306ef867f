"""Writes a LoRA as a GGUF adapter, a few matrices in memory at a time.

What llama.cpp asks of it: general.type, the base's architecture, adapter.type, adapter.lora.alpha (a missing one
silently means strength 1), and `<base tensor>.lora_a` (r, in) and `.lora_b` (out, r) in pairs; it scales by alpha / r.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder import pieces
from fleetssd.adapters.gguf_builder.source import Base, Source, Target, targets

_ALIGN = gguf.GGUF_DEFAULT_ALIGNMENT


def write_lora(source: Source, base: Base, out: Path) -> str:
    """Write the adapter for this base to `out` and return its sha256 (hex)."""
    found = targets(source, base)
    return pieces.write(out, _pieces(_header(source, base, found, out), source, found))


def _header(source: Source, base: Base, found: tuple[Target, ...], out: Path) -> bytes:
    """Return keys and the table of tensors, as the gguf package writes them."""
    path = out.with_name(f".{out.name}.header")
    writer = gguf.GGUFWriter(path, base.header.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, source.lora.alpha)
    four_bytes = np.dtype(np.float32)
    for target in found:
        for side, span in (("a", target.pair.a), ("b", target.pair.b)):
            writer.add_tensor_info(f"{target.name}.lora_{side}", span.shape, four_bytes, span.values * 4)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _pieces(header: bytes, source: Source, found: tuple[Target, ...]) -> Iterator[pieces.Piece]:
    yield partial(_padded, header)
    for target in found:
        yield partial(_a, source, target)
        yield partial(_b, source, target)


def _a(source: Source, target: Target) -> pieces.Bytes:
    return _padded(source.matrix(target.pair.a))


def _b(source: Source, target: Target) -> pieces.Bytes:
    matrix, fold = target.rows(source.matrix(target.pair.b)), source.lora.fold(target.pair)
    return _padded(matrix if fold == 1.0 else matrix * np.float32(fold))


def _padded(data: pieces.Bytes) -> pieces.Bytes:
    rest = -memoryview(data).nbytes % _ALIGN
    return bytes(data) + bytes(rest) if rest else data
