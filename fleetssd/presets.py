"""Recipes by model family: starting points, not measurements of your fleet. What settings say themselves comes first.

Temperatures are the paper's (arXiv 2604.01193, table 3); the paper trains all weights, so rank, alpha and learning
rate are judgement: all linear layers, alpha from r to 2r, and a learning rate to sweep from 2e-5 to 2e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CODER: Mapping[str, Any] = {
    "t_train": 1.6, "top_k": 20, "top_p": 0.8, "min_p": 0.0,
    "rank": 32, "alpha": 32.0, "learning_rate": 5e-5, "batch": 16, "micro_batch": 1, "epochs": 2, "max_length": 0,
}  # fmt: skip

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Qwen3-4B-Instruct and its like: dense, q/k/v/o/gate/up/down.
    "coder-4b": _CODER,
    # Its thinking sister: cooler samples, which need room.
    "coder-4b-thinking": {**_CODER, "t_train": 1.1, "top_p": 0.95, "max_tokens": 8192},
    # Half the weights take twice the step.
    "coder-1.5b": {**_CODER, "alpha": 64.0, "learning_rate": 1e-4, "micro_batch": 2},
    # Llama 3.1 8B Instruct tolerates little heat.
    "llama-8b": {**_CODER, "t_train": 0.8},
    # Qwen3-30B-A3B: experts have no GGUF LoRA, so attention alone is adapted, over a 4-bit base.
    "moe-30b": {
        **_CODER, "targets": ("q_proj", "k_proj", "v_proj", "o_proj"), "rank": 64, "alpha": 64.0, "qlora": True,
    },
    # Phi-3 and Phi-4-mini fuse their projections.
    "phi-4b": {**_CODER, "targets": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")},
    # The demonstration's model of two megabytes, on one CPU core.
    "toy": {
        "t_train": 1.5, "rank": 16, "alpha": 32.0, "learning_rate": 5e-3, "batch": 32, "micro_batch": 32, "epochs": 5,
        "warmup_steps": 2, "rate_floor": 0.0, "max_length": 256, "max_tokens": 96, "backend": "trl", "device": "cpu",
    },
}  # fmt: skip


def fill(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's table with its preset beneath it. Raises ValueError, naming the presets there are."""
    name = given.get("preset", "")
    if not name:
        return dict(given)
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return {**PRESETS[name], **given}
