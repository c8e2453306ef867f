"""A merged or baked GGUF is a copy of the base with some tensors' bytes replaced in place.

The types stay, so sizes and offsets stay: keys, layout and every other tensor are the base's own bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from fleetssd.adapters.gguf_builder.source import ARCHITECTURES, Base, Matrix, Source, Target, targets
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.gguf_header import Tensor

_Type = gguf.GGMLQuantizationType
WRITABLE = frozenset(
    {_Type.F32, _Type.F16, _Type.BF16, _Type.Q8_0, _Type.Q4_0, _Type.Q4_1, _Type.Q5_0, _Type.Q5_1},
)
"""What the gguf package can quantise to; it reads K-quants but cannot write them."""

_CHUNK = 1024
"""Rows merged at once: bounds memory, and quantisation blocks lie along rows, so it changes no byte."""

_NORM = "output_norm.weight"


def patched_copy(base: Base, out: Path, patches: Iterable[tuple[int, bytes]]) -> str:
    """Copy the base to `out` with (offset, bytes) patches written over it, and return the copy's sha256 (hex)."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.copyfile(base.path, partial)
        with partial.open("r+b") as file:
            for offset, data in patches:
                file.seek(offset)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def merge(source: Source, base: Base) -> Iterator[tuple[int, bytes]]:
    """Yield W + scale · B @ A for every adapted tensor, in the tensor's own type; all checks come first."""
    found = targets(source, base)
    for target in found:
        _need_writable(target)
    return (patch for target in found for patch in _merged_rows(source, base, target))


def bake(base: Base, tau: float) -> tuple[tuple[int, bytes], ...]:
    """Return the patch that divides the logits by τ: the final norm's weight times 1 / τ.

    Exact only where nothing stands between the norm and the logits but one matrix. Raises Misconfigured elsewhere.
    """
    if not (math.isfinite(tau) and tau > 0):
        raise Misconfigured(f"temperature {tau} cannot be baked", hint="Use a finite τ above 0.")
    norm = _bakeable(base)
    weights = base.data[norm.offset : norm.offset + norm.shape[0] * 4].view("<f4")
    return ((norm.offset, (weights.astype(np.float64) / tau).astype("<f4").tobytes()),)


def _bakeable(base: Base) -> Tensor:
    keys, tensors = base.header.keys, base.header.tensors
    architecture = base.header.architecture
    between = [key for key in keys if key.endswith((".final_logit_softcapping", ".logit_scale")) and keys[key]]
    if architecture not in ARCHITECTURES or architecture == "gemma2" or between or "output.bias" in tensors:
        raise Misconfigured(
            f"a temperature cannot be baked into {architecture}: {', '.join(between) or 'its head is not one matrix'}",
            hint='Set decode.manage = "none" or "gateway".',
        )
    if _NORM not in tensors or tensors[_NORM].type != _Type.F32:
        raise Misconfigured(f"{_NORM} is missing or not F32", hint="Convert the base with llama.cpp's converter.")
    return tensors[_NORM]


def _need_writable(target: Target) -> None:
    if target.tensor.type not in WRITABLE:
        raise Misconfigured(
            f"{target.name} is {_name(target.tensor.type)}, which cannot be written here",
            hint="Serve a Q8_0 or F16 base, or install adapters instead of merging (engine.road).",
        )


def _merged_rows(source: Source, base: Base, target: Target) -> Iterator[tuple[int, bytes]]:
    a = source.matrix(target.pair.a).astype(np.float64)
    b = target.rows(source.matrix(target.pair.b))
    kind = _Type(target.tensor.type)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    height, width = target.tensor.shape
    stride = width // block * size
    for row in range(0, height, _CHUNK):
        start, count = target.tensor.offset + row * stride, min(_CHUNK, height - row)
        raw = np.array(base.data[start : start + count * stride]).reshape(count, stride)
        # float64 keeps the sum's order out of the result: the same bytes whatever BLAS does.
        delta = target.pair.scale * (b[row : row + count].astype(np.float64) @ a)
        whole = (gguf.dequantize(raw, kind).astype(np.float64) + delta).astype(np.float32)
        yield start, _quantised(whole, kind, target)


def _quantised(whole: Matrix, kind: Any, target: Target) -> bytes:
    limit = np.finfo(np.float32 if kind in {_Type.F32, _Type.BF16} else np.float16).max  # the others scale by a float16
    if not (np.abs(whole) <= limit).all():
        raise Rejected(f"{target.name} leaves the range of {kind.name} when merged", hint="The adapter is too strong.")
    return bytes(gguf.quantize(whole, kind).tobytes())


def _name(number: int) -> str:
    return _Type(number).name if number in set(_Type) else f"type {number}"
