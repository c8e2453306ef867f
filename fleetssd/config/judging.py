"""What a candidate is asked, how its answers are run, and what it must show."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

from pydantic import Field, field_validator, model_validator

from fleetssd.config.section import Section


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
        "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg",
        "pyproject.toml", "noxfile.py", "sitecustomize.py", "usercustomize.py", "*.pth", "*.dist-info/**",
        "*.egg-info/**", "Makefile", "makefile", "GNUmakefile", "jest.config.*", "vitest.config.*", "vite.config.*",
        ".mocharc.*", "package.json",
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
    sandbox_workers: int = Field(default=0, ge=0)
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
