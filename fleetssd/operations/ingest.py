"""Poll the forge: what merged since the last time becomes records, each pull request once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from fleetssd.config import Settings
from fleetssd.diffs import PullDiff
from fleetssd.errors import FleetError
from fleetssd.gitea import (
    Delivery,
    IssueText,
    MergedPull,
    PullKey,
    PullRow,
    Sweep,
    moment,
    row_of,
    unseen,
    window_start,
)
from fleetssd.gitea_links import Link, Reference, confirm, references
from fleetssd.operations.sides import settle_new
from fleetssd.ports import Forge, Mirror, Progress, Store
from fleetssd.records import Record, Redact, make_record, refusals_of_row, refused_row
from fleetssd.reverts import claims, taken_back
from fleetssd.twins import Sketch, unsketched

BATCH = 200
"""Pull requests read from one repository between two writes: what a crash can make us read again."""
READERS = 2
MAX_REFERENCES = 20
"""References looked at in one pull request; a text with more is a list, not a closing note."""
REVERTED = "reverted_later"


@dataclass(frozen=True, slots=True)
class PollSummary:
    """What a poll did: rows in the window, pull requests read, records filed by state, reads that failed."""

    rows: int = 0
    read: int = 0
    train: int = 0
    held_out: int = 0
    refused: int = 0
    failed: int = 0
    deliveries: int = 0
    complete: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Look:
    """A pull request to read in full, and the `updated_at` to remember it by; None for the one in its detail."""

    key: PullKey
    repository: str
    updated_at: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    """A pull request with the issues it answers; None where a list shows one that is gone or hidden from us."""

    look: _Look
    pull: MergedPull | None
    issues: tuple[IssueText, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass
class _Tally:
    """Counts of one poll, and the first error that it met on the way."""

    states: Counter[str] = field(default_factory=Counter)
    read: int = 0
    errors: list[FleetError] = field(default_factory=list)


def poll_once(
    settings: Settings,
    forge: Forge,
    mirror: Mirror,
    store: Store,
    secrets: Redact,
    now: datetime,
    progress: Progress,
    sketch: Sketch = unsketched,
) -> PollSummary:
    """Read everything that was merged since the last completed poll and file it; a quiet poll is one request.

    Repeating it, after a crash or for the overlap of its windows, changes nothing. The cursor moves only when every
    row of the window is on file.
    Without a `sketch` only equal prompts are near-duplicates. Raises the forge's own error where nothing could be read.
    """
    instance = settings.forge.url
    poll = _Poll(settings, forge, mirror, store, secrets, now, progress, sketch)
    deliveries = store.open_deliveries()
    sweep = forge.sweep(window_start(store.cursor(instance), settings.forge.overlap_seconds))
    seen = store.seen(instance) if sweep.rows or deliveries else {}
    poll.read_all([*poll.looks(sweep, seen), *_hints(deliveries, sweep, seen, instance)])
    poll.settle(sweep)
    tally = poll.tally
    if tally.errors and not tally.read:
        raise tally.errors[0]
    if sweep.complete and not tally.errors:
        store.set_cursor(instance, sweep.at or now)
        for delivery in deliveries:
            store.close_delivery(delivery.id, now, "polled")
    return PollSummary(
        rows=len(sweep.rows),
        read=tally.read,
        train=tally.states["train"],
        held_out=tally.states["held_out"],
        refused=tally.states["refused"],
        failed=len(tally.errors),
        deliveries=len(deliveries),
        complete=sweep.complete,
    )


def _hints(deliveries: Sequence[Delivery], sweep: Sweep, seen: dict[PullKey, str], instance: str) -> Iterator[_Look]:
    """Return the pull requests that deliveries name and that no sweep has shown yet."""
    shown = {row.key for row in sweep.rows} | seen.keys()
    for delivery in deliveries:
        key = PullKey(instance, delivery.repository_id, delivery.pull or 0)
        if key.number and key not in shown and delivery.repository:
            shown.add(key)
            yield _Look(key, delivery.repository, None)


def _moved_since_merge(pull: MergedPull) -> bool:
    updated = moment(pull.updated_at)
    return updated is not None and pull.closed_at is not None and updated > pull.closed_at


class _Poll:
    """One poll's parts; every write is a transaction that a repetition leaves as it is."""

    def __init__(
        self,
        settings: Settings,
        forge: Forge,
        mirror: Mirror,
        store: Store,
        secrets: Redact,
        now: datetime,
        progress: Progress,
        sketch: Sketch,
    ) -> None:
        self.settings, self.forge, self.mirror, self.store = settings, forge, mirror, store
        self.secrets, self.now, self.progress, self.sketch = secrets, now, progress, sketch
        self.tally = _Tally()
        self.earlier: dict[PullKey, Record] = {}
        self.rows: list[PullRow] = []

    def looks(self, sweep: Sweep, seen: dict[PullKey, str]) -> list[_Look]:
        """Return the pull requests to read: new ones, and refused ones that have moved since.

        A row that shows by itself why it cannot teach is filed and not read. A record that was taken stays as it was
        at its merge: later comments, edits and renames are not what was asked.
        """
        fresh = unseen(sweep.rows, seen)
        if any(row.key in seen for row in fresh):
            self.earlier = {record.key: record for record in self.store.records()}
        looks = []
        for row in fresh:
            earlier = self.earlier.get(row.key)
            if earlier is not None and earlier.prompt:
                self.store.put_pull(row.key, row.updated_at, None, self.now)
            elif not self._judge(row, row.updated_at):
                looks.append(_Look(row.key, row.repository, row.updated_at))
        return looks

    def read_all(self, looks: Sequence[_Look]) -> None:
        """Read pull requests batch by batch, one repository at a time, and file each."""
        done = 0
        by_repository = defaultdict[int, list[_Look]](list)
        for look in looks:
            by_repository[look.key.repository_id].append(look)
        with ThreadPoolExecutor(READERS, "forge") as readers:
            for group in by_repository.values():
                for start in range(0, len(group), BATCH):
                    batch = group[start : start + BATCH]
                    self.progress(done, len(looks), "pull requests")
                    self._file_batch(list(readers.map(self._read, batch)))
                    done += len(batch)
        if looks:
            self.progress(done, len(looks), "pull requests")

    def settle(self, sweep: Sweep) -> None:
        """Take back what was reverted, then put what belongs together on one side."""
        found = claims([*sweep.rows, *self.rows])
        for record in self.store.records() if found else ():
            commits = (record.merge_commit, record.head_commit)
            if REVERTED not in record.reasons and taken_back(record.key, commits, found):
                reasons = (*record.reasons, REVERTED)
                self.store.replace_record(replace(record, state="refused", reasons=reasons), self.now)
        settle_new(self.store, self.settings.records, self.sketch, self.now)

    def _read(self, look: _Look) -> _Read | FleetError:
        """Read a pull request and what it answers, in a reader's thread; an error is a value: the others go on."""
        try:
            pull = self.forge.pull(look.repository, look.key.number)
            if pull is None or pull.key != look.key:
                return _Read(look, None)
            if refusals_of_row(row_of(pull), self.settings.fleet):
                return _Read(look, pull)
            issues, links = self._answers(pull)
            return _Read(look, pull, issues, links)
        except FleetError as error:
            return error

    def _answers(self, pull: MergedPull) -> tuple[tuple[IssueText, ...], tuple[Link, ...]]:
        """Return the issues that the server linked to the merge, with how it shows."""
        comments: list[str] = []
        if pull.comments:
            rows = self.forge.timeline(pull.repository, pull.key.number)
            comments = [str(row.get("body") or "") for row in rows if row.get("type") == "comment"]
        found = references(pull, comments, self.settings.forge.close_keywords)[:MAX_REFERENCES]
        answers = self._confirmed(pull, [reference for reference in found if reference.closes])
        # A plain mention can be all that is left of a reference that was edited after the merge.
        if not answers or _moved_since_merge(pull):
            answers += self._confirmed(pull, [reference for reference in found if not reference.closes])
        return tuple(issue for issue, _ in answers), tuple(link for _, link in answers)

    def _confirmed(self, pull: MergedPull, found: Iterable[Reference]) -> list[tuple[IssueText, Link]]:
        answers: dict[tuple[int, int], tuple[IssueText, Link]] = {}
        for reference in found:
            issue = self.forge.issue(reference.repository, reference.number)
            if issue is None:
                continue
            link = confirm(pull, issue.repository, issue.number, self.forge.timeline(issue.repository, issue.number))
            if link is not None:
                answers[issue.repository_id, issue.number] = (issue, link)
        return list(answers.values())

    def _file_batch(self, batch: Sequence[_Read | FleetError]) -> None:
        """Read the diffs of one repository's pull requests with git and file their records."""
        self.tally.errors += [error for error in batch if isinstance(error, FleetError)]
        reads = [read for read in batch if isinstance(read, _Read)]
        try:
            fleet = self.settings.fleet
            diffs = self._diffs(
                [read.pull for read in reads if read.pull and not refusals_of_row(row_of(read.pull), fleet)]
            )
        except FleetError as error:
            self.tally.errors.append(error)
            return
        for read in reads:
            self.tally.read += 1
            if read.pull is not None:
                self._file_read(read, read.pull, diffs)
            elif read.look.updated_at is not None:
                self.store.put_pull(read.look.key, read.look.updated_at, None, self.now)

    def _file_read(self, read: _Read, pull: MergedPull, diffs: dict[int, PullDiff | str]) -> None:
        """File what was read; one that a hint named is judged by its row first, as a sweep's is."""
        row = row_of(pull)
        updated_at = pull.updated_at if read.look.updated_at is None else read.look.updated_at
        self.rows.append(row)
        if not self._judge(row, updated_at):
            self._file(pull.key, updated_at, self._record(read, pull, diffs))

    def _judge(self, row: PullRow, updated_at: str) -> bool:
        """File a pull request that its row refuses; tell whether it does."""
        reasons = refusals_of_row(row, self.settings.fleet)
        # A stranger's work elsewhere is none of ours: a public instance is full of it.
        if reasons and not {"author_not_agent", "repository_not_watched"} <= set(reasons):
            self._file(row.key, updated_at, refused_row(row, reasons))
        return bool(reasons)

    def _diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        return self.mirror.diffs(pulls[0].repository, pulls[0].clone_url, pulls) if pulls else {}

    def _record(self, read: _Read, pull: MergedPull, diffs: dict[int, PullDiff | str]) -> Record:
        return make_record(
            pull,
            read.issues,
            read.links,
            diffs.get(pull.key.number, "no_diff"),
            fleet=self.settings.fleet,
            rules=self.settings.records,
            redact=self.secrets,
        )

    def _file(self, key: PullKey, updated_at: str, record: Record) -> None:
        """File a record; what is known of a pull request that was refused before is replaced, its id stays."""
        earlier = self.earlier.get(key)
        if earlier is None:
            self.store.put_pull(key, updated_at, record, self.now)
        else:
            if REVERTED in earlier.reasons:
                record = replace(record, state="refused", reasons=(*record.reasons, REVERTED))
            self.store.replace_record(replace(record, id=earlier.id), self.now)
            self.store.put_pull(key, updated_at, None, self.now)
        self.tally.states[record.state] += 1
