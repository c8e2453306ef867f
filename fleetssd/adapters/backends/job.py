"""What a backend is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fleetssd.adapters.backends.durable import KEPT, SAVE_STEPS
from fleetssd.adapters.backends.smoke import NextTokens
from fleetssd.training import TrainPlan, accumulation, schedule, warmup


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

    def arguments(self) -> dict[str, Any]:
        """Return the run by the names that transformers and MLX's trainer share."""
        lora = self.plan.lora
        return {
            "max_steps": self.steps,
            "per_device_train_batch_size": min(lora.micro_batch, lora.batch),
            "gradient_accumulation_steps": accumulation(lora),
            "gradient_checkpointing": self.plan.placement.kind != "cpu",
            "learning_rate": lora.learning_rate,
            **schedule(lora),
            "warmup_steps": warmup(lora, self.steps),
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,  # .999 would average the squares over more steps than a night has
            "packing": False,
            "seed": self.plan.seed,
            "logging_steps": 1,
            "save_steps": SAVE_STEPS,
            "save_total_limit": KEPT,
        }


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
