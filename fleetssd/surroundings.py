"""What a run in the sandbox stands on and what it may use: values that a problem carries to the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WORK, ENVIRONMENT = "/tmp/work", "/env"  # noqa: S108  paths inside the sandbox
"""Where a run finds its files, and where the environment that was prepared for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `memory_bytes` is address space a process; `disk_bytes` is beside the tree of the run."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20
    processes: int = 16
    open_files: int = 64
    file_bytes: int = 16 << 20
    disk_bytes: int = 64 << 20
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What many runs find in the sandbox beside their own files; none of them can change it for the next.

    The contents of `tree` are copied into WORK before anything is written there. `environment` is read-only at
    ENVIRONMENT, its `bin` is first on PATH and its `bin/python` is what `python` means. `binds` are read-only under
    their own names. `limits` stand instead of the sandbox's own. All folders are this machine's.
    """

    tree: Path | None = None
    environment: Path | None = None
    binds: tuple[Path, ...] = ()
    limits: Limits | None = None


BARE = Surroundings()
"""Nothing beside a run's own files, and the sandbox's own limits."""

UNWALLED = "Answers of a model run without a sandbox, with the rights, files and network of this machine's fleetssd."
"""What is said of evaluation.sandbox = "none", every night and wherever it shows."""
