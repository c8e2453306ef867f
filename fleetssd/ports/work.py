"""What runs outside the daemon: the sandbox, the trainer and the artefact builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fleetssd.checks import Preparation
from fleetssd.placement import Choice
from fleetssd.ports.clock import Progress
from fleetssd.records import Record
from fleetssd.solutions import File, Whole
from fleetssd.surroundings import BARE, Surroundings
from fleetssd.training import TrainPlan, TrainResult

if TYPE_CHECKING:
    from fleetssd.guards.harness import TaskScore  # numpy, which the daemon needs none of


@dataclass(frozen=True, slots=True)
class Job:
    """One run in the sandbox, by its id: `command` (argv, `python` first) over `files` in its surroundings.

    In order: the tree is copied, the paths in `removed` go, `files` (path, text) are written; bytes that are no UTF-8
    are surrogate escapes. What of `files` is also in `executable` may be run.
    """

    id: str
    files: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    removed: tuple[str, ...] = ()
    executable: tuple[str, ...] = ()
    surroundings: Surroundings = BARE


@dataclass(frozen=True, slots=True)
class Grade:
    """How a run ended. `fault` means that the sandbox itself failed: the run proves nothing."""

    id: str
    passed: bool
    fault: bool
    detail: str


class Sandbox(Protocol):
    """Runs model-written code where it can see and harm nothing."""

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Run every job, in parallel, and return the grades in order."""
        ...

    def close(self) -> None:
        """End the sandbox and everything in it."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What a held-out problem stands on: the commit that its pull request started from, and what became of it.

    `files` are that commit's, by path, read when asked for; `work` is the folder that a run gets a copy of, which is
    the same files with what the preparation made beside them. `gold` are all files that the merged change touched, as
    they are after it.
    """

    files: Mapping[str, File]
    work: Path
    environment: Path | None
    gold: tuple[Whole, ...]


class Grounds(Protocol):
    """Commits that are checked out and prepared on this machine: a cache, which can always be made again."""

    def at(self, record: Record, preparation: Preparation) -> Ground:
        """Return a record's ground, made where it is missing.

        Raises NotAdmittedError where it cannot be had or prepared, Transient where the forge is away.
        """
        ...

    def keep(self, record: Record, preparation: Preparation) -> None:
        """Note that a ground is used tonight, so that none is made room for another at its cost."""
        ...


class Preparer(Protocol):
    """Runs the command that prepares a commit, where it can reach little else."""

    def prepare(self, preparation: Preparation, work: Path, environment: Path) -> None:
        """Run the command in `work` with a virtual environment in `environment`; both are written to.

        Raises NotAdmittedError with the end of its output where it fails or takes too long.
        """
        ...


class Harness(Protocol):
    """Asks a served model benchmark tasks that are none of ours."""

    def score(self, model: str, folder: Path) -> tuple[TaskScore, ...]:
        """Return one score a task; what it writes goes to `folder`."""
        ...


class Trainer(Protocol):
    """Runs one training job in a process of its own."""

    def place(self, backend: str, device: str, *, qlora: bool) -> Choice:
        """Return what trains here and why; "auto" is found by trying."""
        ...

    def train(self, plan: TrainPlan, rows: Path, base: Path, out: Path, progress: Progress) -> TrainResult:
        """Train into `out/adapter`; `out/result.json` is written last. A finished folder is returned as it is."""
        ...


class Builder(Protocol):
    """Turns an adapter folder into the files an engine serves."""

    def adapter(self, adapter: Path, base_gguf: Path, out: Path, kind: str) -> str:
        """Write the GGUF LoRA, its matrices as `kind` (F16 or F32), and return its sha256 (hex)."""
        ...

    def merged(self, adapter: Path, base_gguf: Path, out: Path, tau: float) -> str:
        """Write the merged GGUF, with τ baked in where it is not 1, and return its sha256 (hex)."""
        ...

    def baked(self, base_gguf: Path, out: Path, tau: float) -> str:
        """Write a copy of the base with τ baked in and return its sha256 (hex)."""
        ...

    def retyped(self, base_gguf: Path, built: Path) -> dict[str, int]:
        """Return how many tensors of a built file have another type than in the base, by `<old> > <new>`."""
        ...
