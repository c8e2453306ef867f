"""What a run leaves on disk: checkpoints that are whole or nothing, and the adapter, published by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fleetssd import safetensors

SAVE_STEPS = 50
"""A kill loses at most so many steps; a checkpoint is the adapter and its optimiser state, three times its size."""

KEPT = 2
"""Whole checkpoints that are kept: the older one goes before the newer one is marked whole."""

_WHOLE = "whole"
"""The marker written into a checkpoint once everything in it is on disk."""


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; torn ones, left by a kill, are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / _WHOLE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def mark_whole(checkpoint: Path) -> None:
    """Put a checkpoint on disk, then say so in it."""
    sync(checkpoint)
    write(checkpoint / _WHOLE, b"")
    sync(checkpoint)


def publish(save: Callable[[Path], None], out: Path) -> str:
    """Save the adapter with stable bytes and free of local paths, rename it into place, return its sha256 (hex)."""
    temporary, final = out / "adapter.tmp", out / "adapter"
    for folder in (temporary, final):
        shutil.rmtree(folder, ignore_errors=True)
    save(temporary)
    for path in temporary.iterdir():  # a model card, a tokenizer: nothing that the adapter needs
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    config = json.loads((temporary / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set: its order is the hash seed's
    config["base_model_name_or_path"] = None
    write(temporary / "adapter_config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    weights = temporary / "adapter_model.safetensors"
    widen(weights)
    weights.chmod(0o644)
    sync(temporary)
    temporary.rename(final)
    return hashlib.sha256((final / weights.name).read_bytes()).hexdigest()


def widen(path: Path) -> None:
    """Rewrite a safetensors file in float32 where a backend saved something narrower; the values are the same."""
    data = path.read_bytes()
    spans = safetensors.parse(data, len(data))
    if all(span.dtype == "F32" for span in spans.values()):
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, span in spans.items():
        blob = _values(data, span).tobytes()
        header[name] = {"dtype": "F32", "shape": list(span.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    table = json.dumps(header).encode()
    table += b" " * (-len(table) % 8)
    write(path, len(table).to_bytes(8, "little") + table + b"".join(blobs))


def _values(data: bytes, span: safetensors.Span) -> Any:
    if span.dtype == "BF16":  # float32 with the lower half cut off
        halves = np.frombuffer(data, "<u2", span.values, span.offset)
        return (halves.astype("<u4") << 16).view("<f4")
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[span.dtype]
    return np.frombuffer(data, kind, span.values, span.offset).astype("<f4")


def write(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Wait until a folder and the files in it are on disk."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
