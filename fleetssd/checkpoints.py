"""Checkpoints, stages and swaps as values: what the database remembers of a night and of a dawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

Stage: TypeAlias = Literal["freeze", "sample", "train", "build", "install", "evaluate", "challenge", "decide"]
STAGES: tuple[Stage, ...] = ("freeze", "sample", "train", "build", "install", "evaluate", "decide")
ORDER: tuple[Stage, ...] = (*STAGES[:-1], "challenge", STAGES[-1])
"""How stages follow each other; `challenge` is one only of nights that carry a challenger."""
Kind: TypeAlias = Literal["base", "adapter", "merged"]
Road: TypeAlias = Literal["adapter-registry", "adapter-create", "merged-registry", "merged-create", "none"]
"""What is installed, and by which way: "<artefact>-<way>"; "none" is the base itself."""

SwapKind: TypeAlias = Literal["flip", "settle", "rollback", "refused"]
Actor: TypeAlias = Literal["dawn", "watch", "operator"]
NightState: TypeAlias = Literal["running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Something the engine can serve.

    `digest` is the sha256 (hex) of the artefact: the adapter GGUF, the merged GGUF, or the base's own GGUF.
    `model` is its immutable name in the engine; `served_digest` is the engine's digest of that name (the sha256 of
    the manifest). `tau` is the temperature baked into the weights, 1.0 where none is.
    """

    digest: str
    kind: Kind
    model: str
    served_digest: str
    night: int | None
    road: Road
    tau: float
    bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StageRow:
    """A finished stage: its existence is the proof that its result is whole."""

    night: int
    stage: Stage
    result: dict[str, Any]
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Night:
    """One night: its plan (as JSON), how far it came and what it decided."""

    number: int
    state: NightState
    arm: str
    plan: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None = None
    failure: str = ""
    stages: tuple[StageRow, ...] = ()
    verdict: VerdictRow | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What a night decided, bound to the artefact's digest, with every number as JSON."""

    night: int
    kind: Literal["promote", "keep", "reject", "invalid"]
    reason: str
    artefact: str
    evidence: dict[str, Any]
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt for training, and how it was drawn."""

    night: int
    record: str
    prompt: str
    completion: str
    seed: int
    finish: str
    engine: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion of one held-out problem by one arm, and how it was graded; `fault` voids it."""

    night: int
    arm: str
    problem: str
    index: int
    seed: int
    completion: str
    finish: str
    passed: bool
    fault: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Swap:
    """A line of the swap log. `done` is false between the intent and its proof; a restart finishes or undoes it."""

    id: int
    kind: SwapKind
    actor: Actor
    from_digest: str
    to_digest: str
    to_model: str
    night: int | None
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    done: bool = False
