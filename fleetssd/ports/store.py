"""The database, the only place where processes meet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from fleetssd.admission import Admission
from fleetssd.artefact import Probe
from fleetssd.checkpoints import Answer, Checkpoint, Night, Sample, StageRow, Swap, VerdictRow
from fleetssd.facts import Entry
from fleetssd.gitea import Delivery, PullKey
from fleetssd.origins import Origin
from fleetssd.records import Record, State
from fleetssd.reverts import Claim


class Store(Protocol):
    """The database: the only place where processes meet. Every method is one transaction."""

    # --- ingestion
    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep verified deliveries with one durable write; False, in their order, for bytes that were kept before."""
        ...

    def open_deliveries(self) -> list[Delivery]:
        """Return the deliveries not handled yet, oldest first."""
        ...

    def close_delivery(self, delivery_id: str, now: datetime, outcome: str) -> None:
        """Mark a delivery as handled."""
        ...

    def cursor(self, instance: str) -> datetime | None:
        """Return the time up to which everything is on file."""
        ...

    def set_cursors(self, names: Sequence[str], cursor: datetime) -> None:
        """Move cursors together, after everything up to then is on file."""
        ...

    def seen(self, pulls: Collection[PullKey]) -> dict[PullKey, str]:
        """Return those of these pull requests that are on file, with the `updated_at` text they were last read at."""
        ...

    def unread(self, instance: str, limit: int) -> dict[PullKey, str]:
        """Return pull requests on file that could not be read when they last should have been."""
        ...

    def put_pulls(self, pulls: Sequence[tuple[PullKey, str, Record | None]], now: datetime) -> None:
        """File pull requests and their records with one durable write, all or none; a record twice is one row."""
        ...

    def note_claims(self, instance: str, claims: Sequence[Claim]) -> None:
        """Keep what merged pull requests say they take back; the same claim twice is one."""
        ...

    def claims(self, instance: str, repository_id: int) -> Claim:
        """Return everything that pull requests of a repository say they take back, as one claim."""
        ...

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change what is known of a record (its state, its reasons), keeping its id."""
        ...

    def records(self, state: str | None = None) -> list[Record]:
        """Return the records, newest merge first."""
        ...

    def record_groups(self) -> list[tuple[State, tuple[str, ...], int]]:
        """Return how many records have each state, the refused ones apart by their reasons, without reading them."""
        ...

    def held_out_ids(self) -> list[str]:
        """Return the ids of the held-out records that were weighed against what teaches, newest merge first."""
        ...

    def records_after(self, record: str, limit: int, state: str | None = None) -> list[Record]:
        """Return the next records in the order of their ids; the empty id comes before all."""
        ...

    def records_of(self, pulls: Collection[PullKey]) -> dict[PullKey, Record]:
        """Return the records of those of these pull requests that have one."""
        ...

    def records_named(self, instance: str, claim: Claim) -> list[Record]:
        """Return the records that a claim is about, by number or by the start of their merge or head commit."""
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

    # --- which held-out records examine
    def put_admission(self, admission: Admission) -> None:
        """Keep what came of verifying a held-out record, in place of what came of it before."""
        ...

    def admissions(self) -> dict[str, Admission]:
        """Return what came of verifying, by record id."""
        ...

    # --- whose work the records hold
    def put_origins(self, origins: Sequence[Origin]) -> None:
        """Keep origins of records; a later one replaces it."""
        ...

    def origins(self, records: Collection[str] | None = None) -> dict[str, Origin]:
        """Return the origins of these records, or all, by record id; nobody looked for those that are missing."""
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

    def capability(self, host: str, version: str, base: str) -> Probe | None:
        """Return what an engine of this version was seen to do with this base (digest); None where nobody looked."""
        ...

    def keep_capability(self, host: str, base: str, found: Probe, now: datetime) -> None:
        """Keep what a trial found; a later one replaces it."""
        ...

    def forget_capabilities(self, host: str) -> None:
        """Drop what an engine was seen to do: it did otherwise."""
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
