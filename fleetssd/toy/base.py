"""What a built base is: its settings, its files and the statement that makes them whole; free of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fleetssd import files
from fleetssd.toy.corpus import NOISE, PAIRS

STATEMENT = "base.json"
FORMAT = 1
"""Counts up when the same settings would give another model."""


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """How the base is made; equal settings and equal corpora give the same model on the same machine.

    `matrix_rate` is Muon's learning rate, `rate` AdamW's for what is not a hidden matrix. Both follow a cosine
    from a short warm-up down to `final` of themselves.
    """

    seed: int = 0
    pairs: int = PAIRS
    noise: float = NOISE
    steps: int = 400
    batch: int = 32
    matrix_rate: float = 0.021
    rate: float = 3e-3
    warmup: float = 0.05
    final: float = 0.1
    hidden: int = 128
    feed_forward: int = 384
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    head_width: int = 32
    context: int = 512


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A whole base on disk: the Hugging Face folder, the two GGUFs and the sha256 of every file by its name."""

    folder: Path
    digests: Mapping[str, str] = field(repr=False)
    loss: float
    seconds: float

    @property
    def hf(self) -> Path:
        """Return the folder with safetensors, config, tokenizer and chat template."""
        return self.folder / "hf"

    @property
    def weights(self) -> Path:
        """Return the safetensors file, which training starts from."""
        return self.hf / "model.safetensors"

    @property
    def f32(self) -> Path:
        """Return the GGUF with the exact weights."""
        return self.folder / "base-f32.gguf"

    @property
    def q8_0(self) -> Path:
        """Return the quantised GGUF, which is served."""
        return self.folder / "base-q8_0.gguf"


def read_base(folder: Path, settings: BaseSettings, corpus_digest: str) -> BaseModel | None:
    """Return the base in `folder` if it is whole and was made with these settings; None if it must be built."""
    try:
        statement = json.loads((folder / STATEMENT).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    made = (statement.get("format"), statement.get("settings"), statement.get("corpus_sha256"))
    if made != (FORMAT, asdict(settings), corpus_digest):
        return None
    model = BaseModel(folder, statement["files"], statement["loss"], statement["seconds"])
    return model if _whole(model) else None


def state_base(model: BaseModel, settings: BaseSettings, corpus_digest: str, versions: Mapping[str, str]) -> None:
    """Write the statement last and by rename: where it stands, everything it names is whole."""
    statement: dict[str, Any] = {
        "format": FORMAT,
        "settings": asdict(settings),
        "corpus_sha256": corpus_digest,
        "versions": dict(versions),
        "files": dict(model.digests),
        "loss": model.loss,
        "seconds": model.seconds,
    }
    files.write(model.folder / STATEMENT, json.dumps(statement, indent=2, sort_keys=True))


def file_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below `folder` but the statement, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name != STATEMENT
    }


def _whole(model: BaseModel) -> bool:
    named = all(name in model.digests for name in ("hf/model.safetensors", model.f32.name, model.q8_0.name))
    return named and all(
        (model.folder / name).is_file() and hashlib.sha256((model.folder / name).read_bytes()).hexdigest() == digest
        for name, digest in model.digests.items()
    )
