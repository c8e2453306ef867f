"""What is trained, from which base, and with which hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fleetssd import presets
from fleetssd.config.section import Section, http_url


class Base(Section):
    """The frozen, pristine model on disk: Hugging Face weights to train on and the GGUF that is served."""

    weights: Path | None = None
    gguf: Path | None = None
    fallback_type: Literal["Q8_0", "F32", "F16", "BF16", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] = "Q8_0"
    llama_quantize: str = Field(default="auto", min_length=1)
    adapter_type: Literal["F16", "F32"] = "F16"


class Recipe(Section):
    """Tonight's arm and its hyperparameters (defaults: a 4B coder)."""

    preset: str = ""
    arm: Literal["ssd", "merged"] = "ssd"
    prompts: int = Field(default=500, gt=0)
    t_train: float = Field(default=1.5, gt=0)
    top_k: int = Field(default=20, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: int = Field(default=2048, gt=0)
    sampler: Literal["llama-server", "ollama", "transformers", "unsloth", "vllm"] = "llama-server"
    sampler_url: str | None = None
    parity: Literal["paper", "none"] = "paper"
    rank: int = Field(default=32, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: float = Field(default=5e-5, gt=0)
    batch: int = Field(default=16, gt=0)
    micro_batch: int = Field(default=1, gt=0)
    epochs: int = Field(default=2, gt=0)
    rate_floor: float = Field(default=0.2, ge=0, lt=1)
    warmup_steps: int | None = Field(default=None, ge=0)
    max_length: int = Field(default=0, ge=0)
    seed: int = 1
    threads: int = Field(default=1, gt=0)
    backend: Literal["auto", "trl", "unsloth", "unsloth-mlx"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|metal|(cuda|xpu)(:\d+)?)$")
    qlora: bool = False
    python: Path | None = None
    mix: Path | None = None
    mix_ratio: float = Field(default=0.25, gt=0, le=10)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        return presets.fill(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        if self.parity == "paper" and self.sampler == "ollama":
            raise ValueError('ollama tempers last, the paper first: sampler = "llama-server", or parity = "none"')
        if self.sampler == "vllm" and self.sampler_url is None:
            raise ValueError('sampler = "vllm" needs sampler_url, such as "http://127.0.0.1:8000"')
        return self

    @field_validator("sampler_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        return url and http_url(url)
