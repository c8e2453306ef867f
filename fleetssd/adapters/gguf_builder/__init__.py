"""Builds what an engine serves, with the gguf package and numpy: a GGUF LoRA, a merged GGUF, a base with τ baked in."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fleetssd.adapters.gguf_builder.baking import bake
from fleetssd.adapters.gguf_builder.llama_quantize import LlamaQuantize
from fleetssd.adapters.gguf_builder.lora_file import write_lora
from fleetssd.adapters.gguf_builder.merging import merge
from fleetssd.adapters.gguf_builder.patches import patched_copy, retyped
from fleetssd.adapters.gguf_builder.source import read_adapter, read_base


class GgufBuilder:
    """Implements `ports.Builder`. The same input gives the same bytes; a file appears whole or not at all.

    `quantize` is llama.cpp's llama-quantize, which writes K-quants; without it, and for types that it cannot write
    either, merged targets get the type `fallback`.
    """

    def __init__(self, fallback: str = "Q8_0", quantize: Path | None = None) -> None:
        self._fallback = fallback
        self._quantize = quantize

    def adapter(self, adapter: Path, base_gguf: Path, out: Path, kind: str) -> str:
        """Write the GGUF LoRA, its matrices as `kind` (F16 or F32), and return its sha256 (hex).

        Raises Corrupt where the adapter's matrices do not fit the base, Misconfigured where no GGUF LoRA can say it,
        Rejected where a value leaves the range of `kind`.
        """
        return write_lora(read_adapter(adapter), read_base(base_gguf), out, kind)

    def merged(self, adapter: Path, base_gguf: Path, out: Path, tau: float) -> str:
        """Write the merged GGUF, with τ baked in where it is not 1, and return its sha256 (hex).

        Keys and every tensor that is not adapted stay as the base has them, byte for byte. Raises as `adapter` does,
        and Misconfigured where a target's type cannot be read, llama-quantize fails or τ cannot be baked.
        """
        base = read_base(base_gguf)
        baked = bake(base, tau) if tau != 1.0 else {}
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            program = LlamaQuantize(self._quantize, Path(folder)) if self._quantize else None
            return patched_copy(base, out, merge(read_adapter(adapter), base, self._fallback, program) | baked)

    def baked(self, base_gguf: Path, out: Path, tau: float) -> str:
        """Write a copy of the base with τ baked in and return its sha256 (hex). Raises Misconfigured."""
        base = read_base(base_gguf)
        return patched_copy(base, out, bake(base, tau))

    def retyped(self, base_gguf: Path, built: Path) -> dict[str, int]:
        """Return how many tensors of a built file have another type than in the base, by `<old> > <new>`."""
        return retyped(read_base(base_gguf), read_base(built))
