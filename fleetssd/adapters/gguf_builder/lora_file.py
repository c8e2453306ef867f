"""Writes a LoRA as a GGUF adapter, one matrix in memory at a time.

What llama.cpp asks of it: general.type, the base's architecture, adapter.type, adapter.lora.alpha (a missing one
silently means strength 1), and `<base tensor>.lora_a` (r, in) and `.lora_b` (out, r) in pairs; it scales by alpha / r.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder.source import Base, Source, Target, targets


def write_lora(source: Source, base: Base, out: Path) -> str:
    """Write the adapter for this base to `out` and return its sha256 (hex)."""
    found = targets(source, base)
    partial = out.with_name(f".{out.name}.partial")
    try:
        _write(source, base, found, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _write(source: Source, base: Base, found: tuple[Target, ...], path: Path) -> None:
    writer = gguf.GGUFWriter(path, base.header.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, source.lora.alpha)
    four_bytes = np.dtype(np.float32)
    for target in found:
        for side, span in (("a", target.pair.a), ("b", target.pair.b)):
            writer.add_tensor_info(f"{target.name}.lora_{side}", span.shape, four_bytes, span.values * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for target in found:
        writer.write_tensor_data(source.matrix(target.pair.a))
        b = target.rows(source.matrix(target.pair.b))
        writer.write_tensor_data(b * np.float32(source.lora.fold(target.pair)))
    writer.close()
