"""Opens an adapter folder and a base GGUF, and finds the base tensor that each LoRA pair belongs to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np

from fleetssd import gguf_header, lora, safetensors
from fleetssd.errors import Corrupt, Misconfigured

Matrix: TypeAlias = Any  # numpy array of float32, two dimensions

_NUMBERS = {architecture: number for number, architecture in gguf.MODEL_ARCH_NAMES.items()}
ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3"})
"""Those whose names, shapes and row order are known to carry over from Hugging Face."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base GGUF: its header and where its bytes are. They are read, not mapped: mapped pages count as memory."""

    path: Path
    header: gguf_header.Header
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; from several threads too. Raises Corrupt where they are not there any more."""
        return _read(self.path, offset, size)


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter: its pairs and where its bytes are."""

    lora: lora.Adapter
    path: Path

    def matrix(self, span: safetensors.Span) -> Matrix:
        """Return one tensor as float32; bfloat16 is the upper half of a float32."""
        width = safetensors.WIDTHS[span.dtype]
        raw = np.frombuffer(_read(self.path, span.offset, span.values * width), np.uint8)
        if span.dtype == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(span.shape)
        kind = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[span.dtype]
        return raw.view(kind).astype(np.float32, copy=False).reshape(span.shape)


@dataclass(frozen=True, slots=True)
class Target:
    """One pair and its base tensor. `heads` is above 0 where the GGUF keeps the rows of each head in another order."""

    pair: lora.Pair
    name: str
    tensor: gguf_header.Tensor
    heads: int

    def rows(self, b: Matrix) -> Matrix:
        """Return B with its rows in the base's order.

        Hugging Face rotates the halves of a head, llama.cpp's `llama` neighbouring rows: converters interleave them.
        """
        if not self.heads:
            return b
        halves = b.reshape(self.heads, 2, b.shape[0] // self.heads // 2, b.shape[1])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(b.shape))


def read_base(path: Path) -> Base:
    """Map a base GGUF and read its header. Raises Misconfigured where it is missing or split, Corrupt where damaged."""
    data = _map(path, Misconfigured(f"no base GGUF at {path}", hint="Set [base] gguf to the file that is served."))
    header = gguf_header.parse(memoryview(data), data.size)
    if int(header.keys.get("split.count", 1)) > 1:
        raise Misconfigured(f"{path} is one of several parts", hint="Join them: llama-gguf-split --merge.")
    return Base(path, header, data.size)


def read_adapter(folder: Path) -> Source:
    """Map a PEFT folder's weights and read its pairs. Raises Corrupt, or Misconfigured for what is no plain LoRA."""
    missing = Corrupt(f"no whole adapter in {folder}", hint="Train again.")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise missing from None
    path = folder / "adapter_model.safetensors"
    data = _map(path, missing)
    return Source(lora.parse(config, safetensors.parse(memoryview(data), data.size)), path)


def targets(source: Source, base: Base) -> tuple[Target, ...]:
    """Return every pair with its base tensor, shapes proven to fit, in the adapter's order.

    Raises Misconfigured for an architecture or a module without a GGUF LoRA, Corrupt where shapes do not fit.
    """
    architecture = base.header.architecture
    if architecture not in ARCHITECTURES:
        raise Misconfigured(
            f"no adapters for {architecture}", hint=f"Known architectures: {', '.join(sorted(ARCHITECTURES))}."
        )
    names = gguf.get_tensor_name_map(_NUMBERS[architecture], base.header.number("block_count"))
    return tuple(_target(base, names, pair) for pair in source.lora.pairs)


def _target(base: Base, names: Any, pair: lora.Pair) -> Target:
    name = f"{names.get_name(pair.module)}.weight"
    tensor = base.header.tensors.get(name)
    if pair.module.endswith("embed_tokens") or ".experts." in pair.module:
        raise Misconfigured(f"{pair.module} has no GGUF LoRA here", hint="Adapt attention and dense MLP layers only.")
    if tensor is None:
        raise Misconfigured(
            f"the base has no tensor for {pair.module}",
            hint="A tied lm_head cannot be adapted alone; otherwise this adapter is of another base.",
        )
    if tensor.shape != (pair.b.shape[0], pair.a.shape[1]):
        raise Corrupt(f"{pair.module} is {pair.b.shape[0]} x {pair.a.shape[1]}, {name} in the base is {tensor.shape}")
    return Target(pair, name, tensor, _heads(base.header, pair))


def _heads(header: gguf_header.Header, pair: lora.Pair) -> int:
    kind = pair.module.rpartition(".")[2]
    if header.architecture != "llama" or kind not in {"q_proj", "k_proj"}:
        return 0
    heads = header.number("attention.head_count" if kind == "q_proj" else "attention.head_count_kv")
    if heads < 1 or pair.b.shape[0] % (2 * heads):
        raise Corrupt(f"{pair.module} has {pair.b.shape[0]} rows, which {heads} heads do not share evenly")
    return heads


def _map(path: Path, missing: Exception) -> Any:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (FileNotFoundError, ValueError):  # numpy's word for an empty file
        raise missing from None


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise Corrupt(f"{path.name} ends before byte {offset + size}", hint="It changed while it was read.")
    return data
