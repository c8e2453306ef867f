"""Frozen settings, parsed totally and early; an unknown key names its nearest neighbour.

`parse` is pure; `load` reads the file and is the only I/O here. Secrets are named by file, never by value.
"""

from __future__ import annotations

import difflib
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fleetssd import presets
from fleetssd.errors import Misconfigured


class Section(BaseModel):
    """A frozen table of the settings file that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Forge(Section):
    """Where merged pull requests come from."""

    url: str
    token_file: Path
    webhook_secret_file: Path | None = None
    poll_seconds: float = Field(default=120.0, gt=0)
    overlap_seconds: float = Field(default=300.0, ge=0)
    page_size: int = Field(default=50, ge=1, le=50)
    timeout_seconds: float = Field(default=60.0, gt=0)
    mode: Literal["auto", "search", "repository"] = "auto"
    requests_per_second: float = Field(default=0.0, ge=0)
    unreadable_after: int = Field(default=5, ge=1)
    mirror_quota_mb: int = Field(default=20_480, ge=0)
    close_keywords: tuple[str, ...] = (
        "close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "resolved",
    )  # fmt: skip

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _http_url(url)


class Fleet(Section):
    """Who may teach, and where."""

    agents: tuple[str, ...] = Field(min_length=1)
    repositories: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    exclude_labels: tuple[str, ...] = ()
    require_human_merge: bool = True
    allow_unproven_merger: bool = False


class Records(Section):
    """How a merged pull request becomes a prompt and a solution."""

    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    near_duplicate: float = Field(default=0.8, ge=0.7, le=1)
    split_key: str = "fleetssd"
    system_prompt: str = ""
    prompt_template: str = "{title}\n\n{body}"
    weak_links: Literal["keep", "drop"] = "keep"
    comments: Literal["none", "author", "people"] = "none"
    context_tokens: int = Field(default=0, ge=0)
    solution_format: Literal["diff", "files", "code"] = "diff"
    test_globs: tuple[str, ...] = ("tests/**", "test_*", "**/test_*", "**/*_test.*", "**/*.test.*")
    max_diff_bytes: int = Field(default=200_000, gt=0)
    exclude_paths: tuple[str, ...] = ()
    secrets: Literal["redact", "refuse"] = "redact"
    injections: Literal["refuse", "keep"] = "refuse"
    secret_patterns: tuple[str, ...] = ()


class Buffer(Section):
    """The rolling window of training records."""

    size: int = Field(default=500, gt=0)
    per_repository: int = Field(default=500, gt=0)


class Engine(Section):
    """The server that serves the fleet: an Ollama, or one that takes adapters from a folder."""

    kind: Literal["ollama", "llama-server", "vllm"] = "ollama"
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
        return _http_url(url)


class Base(Section):
    """The frozen, pristine model on disk: Hugging Face weights to train on and the GGUF that is served."""

    weights: Path | None = None
    gguf: Path | None = None
    fallback_type: Literal["Q8_0", "F32", "F16", "BF16", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] = "Q8_0"
    llama_quantize: str = Field(default="auto", min_length=1)


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
    warmup_steps: int = Field(default=6, ge=0)
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
        return url and _http_url(url)


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


class Checking(Section):
    """How the answers to a repository's problems are checked."""

    check: str = "python {test}"
    prepare: str = ""
    prepare_seconds: float = Field(default=900.0, gt=0)
    prepare_network: bool = True
    prepare_environment: tuple[str, ...] = ()
    prepare_binds: tuple[Path, ...] = ()
    binds: tuple[Path, ...] = ()
    lock_files: tuple[str, ...] = ()
    guard_globs: tuple[str, ...] = (
        "conftest.py", "pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "noxfile.py", "sitecustomize.py",
        "usercustomize.py", "*.pth", "jest.config.*", "vitest.config.*", "package.json",
    )  # fmt: skip
    repeats: int = Field(default=3, ge=2, le=100)
    wall_seconds: float = Field(default=10.0, gt=0)
    cpu_seconds: int = Field(default=5, gt=0)
    memory_mb: int = Field(default=512, gt=0)
    processes: int = Field(default=16, gt=0)
    disk_mb: int = Field(default=64, gt=0)

    @field_validator("check", "prepare")
    @classmethod
    def _words(cls, command: str) -> str:
        try:
            shlex.split(command)
        except ValueError as error:
            raise ValueError(f"a shell could not read this command: {error}") from None
        return command


class CheckedRepository(Section):
    """What is checked otherwise in the repositories that match a glob; what is not named here is [evaluation]'s."""

    match: str
    test_globs: tuple[str, ...] | None = None
    check: str | None = None
    prepare: str | None = None
    prepare_seconds: float | None = None
    prepare_network: bool | None = None
    prepare_environment: tuple[str, ...] | None = None
    prepare_binds: tuple[Path, ...] | None = None
    binds: tuple[Path, ...] | None = None
    lock_files: tuple[str, ...] | None = None
    guard_globs: tuple[str, ...] | None = None
    repeats: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: int | None = None
    memory_mb: int | None = None
    processes: int | None = None
    disk_mb: int | None = None

    @model_validator(mode="after")
    def _holds(self) -> Self:
        Checking.model_validate(self.model_dump(exclude_none=True, exclude={"match", "test_globs"}))
        return self


class Evaluation(Checking):
    """What the held-out issues are asked, and how the answers are run."""

    samples: int = Field(default=8, gt=0)
    k: int = Field(default=8, gt=0)
    max_problems: int = Field(default=200, gt=0)
    tune_share: float = Field(default=0.2, gt=0, lt=1)
    stopping: Literal["fixed", "sequential"] = "fixed"
    teacher_decode: bool = True
    max_tokens: int = Field(default=1024, gt=0)
    repositories: tuple[CheckedRepository, ...] = ()
    references: int = Field(default=20, ge=0)
    environments_mb: int = Field(default=20_480, ge=0)
    sandbox: Literal["bubblewrap", "podman", "docker", "none"] = "bubblewrap"
    sandbox_image: str = Field(default="docker.io/library/python:3.11-slim", min_length=1)
    sandbox_workers: int = Field(default=2, gt=0)
    allow_no_sandbox: bool = False
    seed: int = 7

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.k > self.samples:
            raise ValueError("pass@k needs at least k samples: raise samples or lower k")
        return self

    @model_validator(mode="after")
    def _walled(self) -> Self:
        if self.sandbox == "none":
            if not self.allow_no_sandbox:
                raise ValueError(
                    'sandbox = "none" runs model-written code with your own rights: use "bubblewrap", "podman" or '
                    '"docker", or say allow_no_sandbox = true'
                )
            if self.prepare or any(repository.prepare for repository in self.repositories):
                raise ValueError('there is nothing to prepare in: with sandbox = "none", prepare must be empty')
        return self


class Gate(Section):
    """What a candidate must show."""

    alpha: float = Field(default=0.05, gt=0, lt=1)
    budget: Literal["lord", "spending"] = "lord"
    effect: float = Field(default=0.05, gt=0, lt=1)
    precondition: Literal["advise", "enforce"] = "advise"
    headroom: float = Field(default=0.05, gt=0, lt=1)
    pass_k_margin: float = Field(default=0.05, ge=0)
    max_void_share: float = Field(default=0.05, ge=0, le=1)
    min_problems: int = Field(default=20, gt=0)
    parse_drop: float = Field(default=0.05, ge=0)
    unique_ratio: float = Field(default=0.6, gt=0)
    distinct_low: float = Field(default=0.6, gt=0)
    distinct_high: float = Field(default=1.5, gt=1)
    length_drift: float = Field(default=0.25, gt=0)
    repetition_rise: float = Field(default=0.10, gt=0)
    self_bleu_rise: float = Field(default=0.15, gt=0)
    length_tail: float = Field(default=1.0, gt=0)
    refusal_rise: float = Field(default=0.05, ge=0)
    style_drift: float = Field(default=0.5, ge=0)
    entropy_low: float = Field(default=0.4, ge=0)
    entropy_high: float = Field(default=2.0, gt=1)
    guard_margin: float = Field(default=0.10, gt=0, lt=1)
    guard_items: int = Field(default=30, ge=2)
    challengers: int = Field(default=0, ge=0)


GuardSet: TypeAlias = Literal["shell", "knowledge", "instructions", "harmless", "unsafe"]
"""The guard tasks that ship with fleetssd."""


class Guards(Section):
    """What a coder must not forget while it learns: questions beside the fleet's own work."""

    sets: tuple[GuardSet, ...] = get_args(GuardSet)
    files: tuple[Path, ...] = ()
    samples: int = Field(default=4, gt=0)
    max_tokens: int = Field(default=256, gt=0)
    lm_eval_tasks: tuple[str, ...] = ()
    lm_eval_command: str = "lm_eval"
    lm_eval_limit: int = Field(default=200, gt=0)


class Prices(Section):
    """What an hour and a kilowatt hour cost you, for the reports; 0 is free, or not to be counted."""

    currency: str = Field(default="EUR", min_length=1, max_length=8)
    machine_hour: float = Field(default=0.0, ge=0)
    gpu_hour: float = Field(default=0.0, ge=0)
    kwh: float = Field(default=0.0, ge=0)


class Schedule(Section):
    """When the night runs and when the fleet wakes up, in local time of `timezone`."""

    enabled: bool = True
    night: str = "02:00"
    dawn: str = "06:00"
    timezone: str = "UTC"
    tick_seconds: float = Field(default=15.0, gt=0)
    clock_offset_file: Path | None = None

    @field_validator("night", "dawn")
    @classmethod
    def _hour(cls, text: str) -> str:
        hour, _, minute = text.partition(":")
        if not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
            raise ValueError("write it as HH:MM, for example 02:00")
        return text

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            if name != "UTC":  # known even where the machine has no zone database
                ZoneInfo(name)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ValueError("no such time zone; write it as Europe/Berlin, or install tzdata") from None
        return name


class Watch(Section):
    """How the first hours of a new checkpoint are watched."""

    minutes: float = Field(default=120.0, gt=0)
    every_seconds: float = Field(default=60.0, gt=0)
    probes: int = Field(default=24, gt=0)
    min_calls: int = Field(default=20, gt=0)
    max_drop: float = Field(default=0.25, gt=0)
    max_error_rate: float = Field(default=0.2, gt=0)


class Web(Section):
    """The daemon's own HTTP port: webhook, status page, metrics, health."""

    host: str = "127.0.0.1"
    port: int = Field(default=8377, ge=0, le=65535)
    max_body_bytes: int = Field(default=4_000_000, gt=0)


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


class Mirror(Section):
    """A RetainDB server that is told of every merged record, for agents to search; a copy, never the truth."""

    enabled: bool = False
    url: str = "http://127.0.0.1:3000"
    key_file: Path | None = None
    project: str = Field(default="fleetssd", min_length=1)
    timeout_seconds: float = Field(default=5.0, gt=0, le=5)
    every_seconds: float = Field(default=60.0, gt=0)

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _http_url(url)


class Settings(Section):
    """Everything an operator can set."""

    data_dir: Path
    database_url: str | None = None
    forge: Forge
    fleet: Fleet
    records: Records = Records()
    buffer: Buffer = Buffer()
    engine: Engine = Engine()
    base: Base = Base()
    recipe: Recipe = Recipe()
    decode: Decode = Decode()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    guards: Guards = Guards()
    prices: Prices = Prices()
    schedule: Schedule = Schedule()
    watch: Watch = Watch()
    web: Web = Web()
    mirror: Mirror = Mirror()
    gateway: Gateway = Gateway()
    telemetry: Telemetry = Telemetry()
    canary: Canary = Canary()

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        kind = self.engine.kind
        if kind == "ollama":
            return self
        if self.decode.manage == "bake":
            raise ValueError(
                f'decode.manage = "bake" needs a base of its own, which engine.kind = "{kind}" cannot take'
            )
        if self.recipe.sampler == "ollama" and self.recipe.sampler_url is None:
            raise ValueError('recipe.sampler = "ollama" needs sampler_url where the engine is none')
        if kind == "llama-server" and self.guards.lm_eval_tasks:
            raise ValueError('guards.lm_eval_tasks ask models by name, which engine.kind = "llama-server" ignores')
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL: `database_url`, else a SQLite file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'fleetssd.sqlite3'}"


def parse(table: Mapping[str, Any]) -> Settings:
    """Turn a parsed TOML table into settings.

    Raises Misconfigured, naming every wrong key and, for an unknown one, its nearest neighbour.
    """
    try:
        return Settings.model_validate(dict(table))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise Misconfigured("settings: " + "; ".join(lines), hint=_EXAMPLE) from None


def load(path: Path) -> Settings:
    """Read a TOML settings file; relative paths in it are relative to the file.

    Raises Misconfigured where the file is missing or not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"no settings file at {path}", hint=_EXAMPLE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}", hint="Mend the line it names.") from None
    return _absolute(parse(table), path.resolve().parent)


_EXAMPLE = "config.example.toml has every key with its default; `fleetssd config check` reads yours."


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://host:port or https://host")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address carries no token and no query; use token_file")
    return url.rstrip("/")


def _explain(problem: Any) -> str:
    where = [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        return f"{'.'.join(where)}: {problem['msg']}"
    near = difflib.get_close_matches(where[-1], _keys(where[:-1]), n=1)
    return f"{'.'.join(where)}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")


def _keys(path: list[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        if not part.isdigit():  # the number of a table in an array of tables
            model = model.model_fields[part].annotation
        model = next(iter(get_args(model)), model)
    return list(model.model_fields)


def _absolute(settings: Settings, root: Path) -> Settings:
    """Resolve every path against the folder of the settings file."""

    def moved(value: Any) -> Any:
        if isinstance(value, Section):
            return walk(value)
        return root / value.expanduser() if isinstance(value, Path) else value

    def walk(model: Section) -> Section:
        changed: dict[str, Any] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, (Section, Path)):
                changed[name] = moved(value)
            elif isinstance(value, tuple):
                changed[name] = tuple(moved(v) for v in value)
        return model.model_copy(update=changed)

    resolved = walk(settings)
    assert isinstance(resolved, Settings)  # noqa: S101  walk keeps the class; this tells the type checker so
    return resolved
