"""What a backend is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fleetssd.adapters.backends.smoke import NextTokens
from fleetssd.training import TrainPlan


@dataclass(frozen=True, slots=True)
class Job:
    """One run, with its rows as token ids.

    `steps` are optimiser steps, `max_length` is in tokens, `resume` is a whole checkpoint or None.
    """

    plan: TrainPlan
    base: Path
    rows: tuple[dict[str, list[int]], ...]
    tokenizer: Any
    steps: int
    max_length: int
    checkpoints: Path
    resume: Path | None
    guard: Any


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where training ended: the step, one loss a step, what saves the adapter in PEFT's form to a new folder.

    `settings` are what the trainer was told, `next_tokens` what the trained model thinks comes next.
    """

    step: int
    losses: tuple[float, ...]
    save: Callable[[Path], None]
    settings: dict[str, Any]
    next_tokens: NextTokens


class BackendModule(Protocol):
    """What each of `on_trl`, `on_unsloth` and `on_mlx` has."""

    def prepare(self, plan: TrainPlan) -> Mapping[str, str]:
        """Import the libraries in the order they need and return their versions; raises Misconfigured."""
        ...

    def fit(self, job: Job) -> Fitted:
        """Load the base, wrap it and train."""
        ...
