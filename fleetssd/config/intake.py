"""Where the fleet's merged work comes from, and how it becomes records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from fleetssd.config.section import Section, http_url


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
        return http_url(url)


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
        return http_url(url)
