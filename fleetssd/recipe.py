"""Simple self-distillation as values: arms, sampling, LoRA hyperparameters, tonight's plan (arXiv 2604.01193)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from fleetssd.errors import Corrupt

Arm: TypeAlias = Literal["ssd", "merged"]
Manage: TypeAlias = Literal["none", "gateway", "bake"]
TEMPERATURE_FIRST = ("temperature", "top_k", "top_p", "min_p")
"""The paper's order: temper, then truncate. llama.cpp's own default tempers last."""
ORDERS: Mapping[str, tuple[str, ...]] = {
    "llama-server": TEMPERATURE_FIRST,
    "transformers": TEMPERATURE_FIRST,
    "unsloth": TEMPERATURE_FIRST,
    "vllm": ("temperature", "min_p", "top_k", "top_p"),
    "ollama": ("top_k", "top_p", "min_p", "temperature"),
}
"""The order in which each sampler applies a decode: the first three as they are told, the others as they are built."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """One decode, every parameter stated. `order` lists the samplers as they are applied."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_tokens: int
    order: tuple[str, ...] = ("top_k", "top_p", "min_p", "temperature")

    def at(self, temperature: float) -> Sampling:
        """Return the same decode at another temperature."""
        return Sampling(temperature, self.top_k, self.top_p, self.min_p, self.max_tokens, self.order)

    def llama_cpp(self, seed: int) -> dict[str, Any]:
        """Return what llama.cpp's servers, Ollama too, are told so that no default of theirs is left.

        The order and the length of an answer have other names in each of them.
        """
        return {**self._said(seed), "top_k": self.top_k, "typical_p": 1.0, "repeat_penalty": 1.0}

    def vllm(self, seed: int) -> dict[str, Any]:
        """Return what vLLM is told so that no default of its own is left; it says "all tokens" as top_k -1."""
        return {**self._said(seed), "top_k": self.top_k or -1, "repetition_penalty": 1.0, "max_tokens": self.max_tokens}

    def _said(self, seed: int) -> dict[str, Any]:
        shares = {"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p}
        return {**shares, "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": seed}

    @property
    def described(self) -> str:
        """Every parameter in the order of its use, such as `temperature 1.5 > top_k 20`; said of each sample."""
        values = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        label = "" if self.order[0] == "temperature" else " (temperature last)"
        return " > ".join(f"{step} {values[step]:g}" for step in self.order) + label


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA and optimiser hyperparameters of one run; steps follow from rows, batch and epochs.

    Without `warmup_steps` a tenth of the steps warms up. The cosine ends at `rate_floor` of the peak learning rate; a
    plan that does not say so was made when it ended at nothing.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    learning_rate: float
    batch: int
    micro_batch: int
    epochs: int
    warmup_steps: int | None
    max_length: int
    rate_floor: float = 0.0


@dataclass(frozen=True, slots=True)
class NightPlan:
    """Everything that tonight depends on, frozen before anything is spent.

    `train` are record ids; `held_out` are the ids the gate judges; `tune` is the slice of held-out that only
    chooses a temperature and that the gate never sees. `incumbent` and `base` are artefact digests;
    every arm answers an issue `samples` times, from which pass@1 and pass@`k` are estimated. `teacher` asks the base
    at the decode of the training samples too. `references` are held-out records without tests, which are asked and
    which no gate reads. `rounds` counts the records that teach by whose work they are: round 0 is the base's.
    `sandbox` is what answers run in. `challenger` is the digest of an earlier candidate that is asked the `fresh`
    held-out ids beside; a plan without one says nothing of either.
    """

    night: int
    arm: Arm
    seed: int
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    tune: tuple[str, ...]
    sampling: Sampling
    lora: Lora
    decode: Sampling
    manage: Manage
    tau_grid: tuple[float, ...]
    samples: int
    k: int
    road: str
    base: str
    incumbent: str
    incumbent_model: str
    incumbent_tau: float
    teacher: bool = False
    references: tuple[str, ...] = ()
    rounds: Mapping[str, int] = field(default_factory=dict)
    sandbox: str = "bubblewrap"
    challenger: str = ""
    fresh: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping; `from_json` is its inverse."""
        absent = () if self.challenger else ("challenger", "fresh")
        return {name: value for name, value in asdict(self).items() if name not in absent}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> NightPlan:
        """Rebuild a plan from `to_json` after a round trip through JSON. Raises Corrupt where it is none of ours."""
        plain = dict(table)
        try:
            for name in ("sampling", "decode"):
                plain[name] = Sampling(**{**plain[name], "order": tuple(plain[name]["order"])})
            plain["lora"] = Lora(**{**plain["lora"], "targets": tuple(plain["lora"]["targets"])})
            for name in ("train", "held_out", "tune", "tau_grid", "references", "fresh"):
                plain[name] = tuple(plain.get(name, ()))
            return cls(**plain)
        except (KeyError, TypeError) as error:
            raise Corrupt(
                f"the plan of night {table.get('night', '?')} was made by another version: {error}",
                hint="What was decided is on file: `fleetssd nights show N`.",
            ) from None

    @property
    def teacher_decode(self) -> Sampling:
        """The decode of the training samples as the engine would serve it: its order, and the length of an answer."""
        return replace(self.sampling, max_tokens=self.decode.max_tokens, order=self.decode.order)

    @property
    def digest(self) -> str:
        """Sha256 over the canonical JSON: two plans with one digest make one adapter."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()
