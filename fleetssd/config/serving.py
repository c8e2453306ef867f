"""What serves the fleet, how it decodes, and how a new checkpoint is met and watched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from fleetssd.config.section import Section, http_url

EngineKind: TypeAlias = Literal["ollama", "llama-server", "vllm"]
"""What serves the fleet."""


class Engine(Section):
    """The server that serves the fleet: an Ollama, or one that takes adapters from a folder."""

    kind: EngineKind = "ollama"
    url: str = "http://127.0.0.1:11434"
    base_model: str = "fleet-base:latest"
    alias: str = "fleet-coder:latest"
    timeout_seconds: float = Field(default=120.0, gt=0)
    num_ctx: int | None = None
    road: Literal["auto", "adapter-registry", "adapter-create", "merged-registry", "merged-create"] = "auto"
    registry_host: str = "127.0.0.1"
    models_dir: Path | None = None
    adapters_dir: Path | None = None
    reload_command: tuple[str, ...] = ()
    history: int = Field(default=3, ge=-1)
    concurrency: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _shelved(self) -> Self:
        if self.kind == "ollama":
            return self
        if self.adapters_dir is None:
            raise ValueError(f'kind = "{self.kind}" needs adapters_dir, a folder that the server sees too')
        if self.road not in ("auto", "adapter-create"):
            raise ValueError(f'kind = "{self.kind}" takes adapters alone: road = "auto"')
        return self

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return http_url(url)


class Decode(Section):
    """The decode production really uses, and who manages it."""

    manage: Literal["none", "gateway", "bake"] = "none"
    clamp: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=40, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    tau_grid: tuple[float, ...] = (0.2, 0.4, 0.7)
    audit_folders: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _managed(self) -> Self:
        if self.clamp and self.manage == "none":
            raise ValueError('clamp holds callers to a decode that somebody manages: manage = "gateway" or "bake"')
        return self


class Watch(Section):
    """How the first hours of a new checkpoint are watched."""

    minutes: float = Field(default=120.0, gt=0)
    every_seconds: float = Field(default=60.0, gt=0)
    probes: int = Field(default=24, gt=0)
    min_calls: int = Field(default=20, gt=0)
    max_drop: float = Field(default=0.25, gt=0)
    max_error_rate: float = Field(default=0.2, gt=0)


class Gateway(Section):
    """The pass-through in front of the engine that the agents may talk to instead of it."""

    host: str = "127.0.0.1"
    port: int = Field(default=11435, ge=0, le=65535)
    max_body_bytes: int = Field(default=32_000_000, gt=0)
    keys_file: Path | None = None
    read_only: bool = False
    concurrency: int = Field(default=512, ge=1)
    agent_concurrency: int = Field(default=128, ge=1)
    hold_seconds: float = Field(default=10.0, ge=0)
    hold_requests: int = Field(default=128, ge=0)
    shadow_concurrency: int = Field(default=2, ge=1)
    shadow_seconds: float = Field(default=300.0, gt=0)


class Telemetry(Section):
    """The row that every call of the gateway leaves, and how long it stays."""

    enabled: bool = True
    texts: bool = False
    batch: int = Field(default=200, ge=1)
    flush_ms: float = Field(default=500.0, gt=0)
    queue: int = Field(default=20_000, ge=1)
    keep_days: float = Field(default=90.0, gt=0)
    attribution_hours: float = Field(default=24.0, ge=0)

    @model_validator(mode="after")
    def _holds_a_batch(self) -> Self:
        if self.queue < self.batch:
            raise ValueError("the queue must hold a batch: raise queue or lower batch")
        return self


class Canary(Section):
    """What a candidate may be worse by while it meets a share of the traffic, or follows the incumbent as a shadow."""

    share: float = Field(default=0.1, gt=0, le=1)
    minutes: float = Field(default=240.0, gt=0)
    every_seconds: float = Field(default=15.0, gt=0)
    cool_down_minutes: float = Field(default=120.0, ge=0)
    min_calls: int = Field(default=20, ge=5)
    max_error_rise: float = Field(default=0.05, ge=0, lt=1)
    max_empty_rise: float = Field(default=0.05, ge=0, lt=1)
    max_capped_rise: float = Field(default=0.10, ge=0, lt=1)
    max_slowdown: float = Field(default=0.5, ge=0)
    min_tasks: int = Field(default=20, ge=5)
    merge_hours: float = Field(default=24.0, gt=0)
    max_merge_drop: float = Field(default=0.2, ge=0, lt=1)
    false_alarm: float = Field(default=0.01, gt=0, le=0.1)
