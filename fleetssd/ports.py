"""The few Protocols between the domain and the world; each has a real adapter and one contract suite."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fleetssd.checkpoints import (
    Answer,
    Checkpoint,
    Night,
    Sample,
    StageRow,
    Swap,
    VerdictRow,
)
from fleetssd.diffs import PullDiff
from fleetssd.facts import Entry, Written
from fleetssd.gitea import Commit, Delivery, IssueText, MergedPull, PullKey, Sweep
from fleetssd.hooks import Hook, Place
from fleetssd.placement import Choice
from fleetssd.recipe import Sampling
from fleetssd.records import Record
from fleetssd.training import TrainPlan, TrainResult

if TYPE_CHECKING:
    from fleetssd.audit.filing import Filed  # the audit parses YAML, which no process that lives long shall load

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


class Clock(Protocol):
    """The only source of now; aware UTC."""

    def now(self) -> datetime:
        """Return the present moment in UTC."""
        ...


class Store(Protocol):
    """The database: the only place where processes meet. Every method is one transaction."""

    # --- ingestion
    def add_delivery(self, delivery: Delivery, now: datetime) -> bool:
        """Keep a verified delivery durably; False where these very bytes were kept before."""
        ...

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep many deliveries with one durable write; the answers are those of `add_delivery`, in order."""
        ...

    def open_deliveries(self) -> list[Delivery]:
        """Return the deliveries not handled yet, oldest first."""
        ...

    def close_delivery(self, delivery_id: str, now: datetime, outcome: str) -> None:
        """Mark a delivery as handled."""
        ...

    def cursor(self, instance: str) -> datetime | None:
        """Return the time up to which the last completed sweep saw everything."""
        ...

    def set_cursor(self, instance: str, cursor: datetime) -> None:
        """Move the cursor after a completed sweep."""
        ...

    def seen(self, instance: str) -> dict[PullKey, str]:
        """Return every pull request on file with the `updated_at` text it was last read at."""
        ...

    def put_pull(self, pull: PullKey, updated_at: str, record: Record | None, now: datetime) -> None:
        """File a pull request and its record in one transaction; the same record twice is one row."""
        ...

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change what is known of a record (its state, its reasons), keeping its id."""
        ...

    def records(self, state: str | None = None) -> list[Record]:
        """Return the records, newest merge first."""
        ...

    def records_by_id(self, ids: Sequence[str]) -> list[Record]:
        """Return these records in the order asked; an unknown id raises Corrupt."""
        ...

    def window(self, size: int, per_repository: int) -> list[str]:
        """Return the ids of the newest training records, as `buffer.window` picks them; unsettled ones wait."""
        ...

    # --- sides: the issues of what was ever held out are on file, and no record of one is written as `train`
    def unsettled(self, limit: int) -> list[Record]:
        """Return records that are new or changed and were not settled since, oldest merge first."""
        ...

    def tied(self, ties: Collection[int]) -> list[Record]:
        """Return the settled records that have one of these ties, those of their issues included."""
        ...

    def settle(self, records: Sequence[Record], now: datetime) -> None:
        """Write records with their ties and mark them as settled, in one transaction."""
        ...

    def held_among(self, keys: Collection[str]) -> set[str]:
        """Return those of these split keys that were ever held out."""
        ...

    def hold(self, keys: Collection[str], now: datetime) -> list[Record]:
        """Hold issues out for ever and return their records; those that taught are held out now, and unsettled."""
        ...

    def freeze_held_out(self, now: datetime) -> int:
        """Let nothing join the held-out records any more, and return how many they are; a second time is ignored."""
        ...

    def held_out_frozen(self) -> datetime | None:
        """Return since when the held-out set is frozen; None where it is not."""
        ...

    # --- nights
    def open_night(self, plan: Mapping[str, Any], arm: str, now: datetime) -> Night:
        """Create tonight's row with its frozen plan and close stage `freeze`, in one transaction.

        The number of the new night is `plan["night"]`; where that night exists already it is returned unchanged.
        """
        ...

    def night(self, number: int) -> Night | None:
        """Return a night with its stages and verdict."""
        ...

    def nights(self) -> list[Night]:
        """Return all nights, oldest first."""
        ...

    def finish_stage(self, row: StageRow) -> None:
        """Write a stage's row; a second write of the same stage is ignored."""
        ...

    def fail_night(self, number: int, reason: str, now: datetime) -> None:
        """Close a night as failed, with the reason."""
        ...

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Keep training samples; one row a (night, record)."""
        ...

    def samples(self, night: int) -> list[Sample]:
        """Return the night's samples in the order of their records in the plan."""
        ...

    def add_answers(self, answers: Iterable[Answer]) -> None:
        """Keep graded answers; one row a (night, arm, problem, index)."""
        ...

    def answers(self, night: int, arm: str | None = None) -> list[Answer]:
        """Return graded answers ordered by (arm, problem, index)."""
        ...

    def decide(self, verdict: VerdictRow, used: Sequence[str], started_at: datetime) -> None:
        """Write the verdict, mark the records used, finish stage `decide` and close the night: one transaction."""
        ...

    def used_records(self) -> dict[str, int]:
        """Return the ids of the records that a decided night was trained on, with the first such night."""
        ...

    # --- serving
    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; the same digest twice is one row."""
        ...

    def checkpoint(self, digest: str) -> Checkpoint | None:
        """Return a checkpoint by its artefact digest."""
        ...

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        ...

    def begin_swap(self, swap: Swap, now: datetime) -> Swap:
        """Write the intent of a swap and return it with its id."""
        ...

    def finish_swap(self, swap_id: int, now: datetime, evidence: Mapping[str, Any]) -> None:
        """Mark a swap as proven."""
        ...

    def swaps(self) -> list[Swap]:
        """Return the swap log, oldest first."""
        ...

    # --- processes
    def claim(self, name: str, owner: str, until: datetime, now: datetime) -> bool:
        """Take a lease (`BEGIN IMMEDIATE`); True where it was free, expired or already ours."""
        ...

    def release(self, name: str, owner: str) -> None:
        """Give a lease back; a lease of another owner is left alone."""
        ...


class Forge(Protocol):
    """A Gitea-compatible forge, read only."""

    def sweep(self, since: datetime | None) -> Sweep:
        """Return every closed pull request updated at or after `since`, each once; None means all there are."""
        ...

    def pull(self, repository: str, number: int) -> MergedPull | None:
        """Return the detail of one pull request; None where it is gone or hidden from us."""
        ...

    def issue(self, repository: str, number: int) -> IssueText | None:
        """Return an issue's title and body; None where it is missing or is a pull request."""
        ...

    def timeline(self, repository: str, number: int) -> list[dict[str, Any]]:
        """Return the raw timeline rows of an issue or pull request."""
        ...

    def commit(self, repository: str, sha: str) -> Commit | None:
        """Return a commit; None where the repository has none of that name."""
        ...

    def diff(self, repository: str, number: int) -> tuple[bytes, str] | None:
        """Return a pull request's own diff and its frozen head, without git; None where either is gone."""
        ...


class Hooks(Protocol):
    """A Gitea-compatible forge's webhooks, for a token that may change them."""

    def repositories(self) -> list[str]:
        """Return the repositories (`owner/name`) that the token sees, archived ones left out."""
        ...

    def hooks(self, place: Place) -> list[Hook]:
        """Return the hooks at a place."""
        ...

    def create(self, place: Place, body: Mapping[str, Any]) -> Hook:
        """Make a hook; two calls make two."""
        ...

    def mend(self, place: Place, hook: int, body: Mapping[str, Any]) -> Hook:
        """Change a hook."""
        ...

    def drop(self, place: Place, hook: int) -> None:
        """Delete a hook; one that is gone is no error."""
        ...

    def test(self, place: Place, hook: int) -> None:
        """Ask for a test delivery; Rejected where the server cannot make one now."""
        ...


class Issues(Protocol):
    """A Gitea-compatible forge's issues, for a token that may write them."""

    def account(self) -> str:
        """Return the login of the token's account."""
        ...

    def full_name(self, repository: str) -> str:
        """Return the name that a repository has now."""
        ...

    def labels(self, repository: str) -> dict[str, int]:
        """Return the ids of a repository's labels by name."""
        ...

    def written_by(self, repository: str, login: str) -> list[Filed]:
        """Return an account's issues in a repository, open and closed, oldest first."""
        ...

    def open(self, repository: str, title: str, body: str, labels: Sequence[int]) -> int:
        """Open an issue and return its number; two calls open two."""
        ...

    def edit(self, repository: str, number: int, title: str, body: str) -> None:
        """Change an issue's texts, and open it where it is closed."""
        ...

    def label(self, repository: str, number: int, labels: Sequence[int]) -> None:
        """Put labels on an issue."""
        ...


class Mirror(Protocol):
    """Local git mirrors of the watched repositories."""

    def diffs(self, repository: str, clone_url: str, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Fetch the heads of many pull requests at once; the value is the diff or a refusal reason code."""
        ...

    def contained(self, pull: MergedPull, commits: Sequence[str]) -> bool:
        """Tell whether one of these commits is in the branch that a pull request was merged into."""
        ...


class Outbox(Protocol):
    """What a memory server is to be told; part of the database. Every method is one transaction."""

    def note_facts(self, now: datetime) -> int:
        """Put records that are not in the outbox into it, and mark what was told of records refused since."""
        ...

    def due_facts(self, now: datetime, limit: int) -> list[tuple[Entry, Record]]:
        """Return what is to be told now with its records, longest due first."""
        ...

    def save_fact(self, entry: Entry, now: datetime) -> None:
        """Keep how far an entry got."""
        ...


class Memory(Protocol):
    """A memory server that agents search; a copy, never the truth."""

    def write(self, body: Mapping[str, Any], key: str) -> Written:
        """Write a fact and return what came of it; the same key twice is one memory."""
        ...

    def read(self, memory: str) -> dict[str, Any] | None:
        """Return a memory by its id; None where there is none."""
        ...

    def forget(self, memory: str) -> None:
        """Delete a memory; a missing one is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered; `finish` is stop, length or error."""

    text: str
    finish: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: user text and the seed of its sampling."""

    text: str
    seed: int


class Sampler(Protocol):
    """Draws training completions from the frozen base with a stated sampler order."""

    name: str

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What this engine can do, found by trying."""

    version: str
    creates_adapters: bool
    pulls_from_loopback: bool


class Engine(Protocol):
    """An Ollama-compatible server."""

    def probe(self) -> Probe:
        """Find out by trying, without side effects, what the server accepts."""
        ...

    def digest_of(self, model: str) -> str | None:
        """Return the server's digest of a name (tags), or None where there is no such name."""
        ...

    def blob_of(self, model: str) -> str:
        """Return the sha256 (hex) of the model's own GGUF, read from show's FROM line."""
        ...

    def adapter_of(self, model: str) -> str | None:
        """Return the sha256 (hex) of the model's adapter, read from show's ADAPTER line; two lines raise Corrupt."""
        ...

    def upload(self, path: Path) -> str:
        """Put a file into the server's blob store (HEAD, then POST) and return its sha256 (hex)."""
        ...

    def pull_adapter(self, model: str, base_model: str, base_blob: str, adapter: str) -> str:
        """Install `adapter` beside the base by serving a manifest on loopback; return the server's digest."""
        ...

    def create_merged(self, model: str, base_model: str, blob: str) -> str:
        """Create a model from an uploaded GGUF with the base's system, parameters and licence; return its digest."""
        ...

    def rendered(self, model: str, text: str) -> str | None:
        """Return the prompt as the server renders it for one user message; None where it cannot say."""
        ...

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Chat with a model, many prompts at once, every sampling parameter sent; failures are `finish="error"`."""
        ...

    def preload(self, model: str) -> None:
        """Load a model and keep it."""
        ...

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, with the server's digests."""
        ...

    def point(self, alias: str, model: str) -> None:
        """Make the alias serve this model (copy), repeating where the copy window shows a broken alias."""
        ...

    def remove(self, model: str) -> None:
        """Delete a name; a missing one is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One run in the sandbox: files to write, the command (argv, `python` first), by its id."""

    id: str
    files: tuple[tuple[str, str], ...]
    command: tuple[str, ...]


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

    def adapter(self, adapter: Path, base_gguf: Path, out: Path) -> str:
        """Write the GGUF LoRA and return its sha256 (hex)."""
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
