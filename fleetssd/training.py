"""What is trained, and what makes a finished run acceptable: TrainPlan in, TrainResult out."""

from __future__ import annotations

from dataclasses import dataclass

from fleetssd.recipe import Lora


@dataclass(frozen=True, slots=True)
class Row:
    """One training pair: the user's message and the assistant's answer, both plain text."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One run, serialisable and free of local paths.

    `base_digest` is the sha256 of the base's safetensors, `rows_digest` that of the rows file (JSON Lines).
    """

    night: int
    base_digest: str
    rows_digest: str
    rows: int
    lora: Lora
    seed: int
    threads: int


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run says of itself; written last, so its existence means that the adapter is whole.

    `losses` is one value a step; seconds are wall clock; `peak_rss_mb` is in MiB.
    """

    adapter_digest: str
    base_digest: str
    rows_digest: str
    rows_used: int
    rows_too_long: int
    steps: int
    tokens: int
    losses: tuple[float, ...]
    seconds: float
    peak_rss_mb: float
    backend: str
    versions: dict[str, str]
