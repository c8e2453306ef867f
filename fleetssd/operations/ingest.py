"""Poll the forge: what merged since the last time becomes records, each pull request once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from fleetssd.config import Settings
from fleetssd.diffs import PullDiff
from fleetssd.errors import FleetError, Misconfigured
from fleetssd.gitea import (
    Delivery,
    MergedPull,
    PullKey,
    PullRow,
    Sweep,
    row_of,
    unread,
    unread_due,
    unread_times,
    unseen,
    window_start,
)
from fleetssd.operations.reading import Failure, Look, Read, Reader
from fleetssd.operations.sides import settle_new
from fleetssd.ports import Forge, Mirror, Progress, Store
from fleetssd.records import Record, Redact, fingerprint, judged_anew, make_record, refusals_of_row, refused_row, side
from fleetssd.reverts import claims, taken_back
from fleetssd.split import TWIN
from fleetssd.twins import Sketch, unsketched

BATCH = 200
"""Pull requests read from one repository between two writes: what a crash can make us read again."""
READERS = 2
AHEAD = 2
"""Batches read ahead of git."""
RETRIES = 5
"""Unreadable pull requests tried again in one poll."""
RETRY, DAY = timedelta(hours=1), timedelta(days=1)
"""How long an unreadable pull request rests at first, and at most; the pause doubles."""
GONE = "gone"
UNREADABLE = "unreadable"
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
    without_git: int = 0
    complete: bool = True
    gaps: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass
class _Tally:
    """Counts of one poll, and the errors for which its window must be read again."""

    states: Counter[str] = field(default_factory=Counter)
    read: int = 0
    failed: int = 0
    without_git: int = 0
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
    cursor, scope = store.cursor(instance), f"{instance} {fingerprint(settings.fleet)}"
    anew = cursor is not None and store.cursor(scope) != cursor
    sweep = forge.sweep(None if anew else window_start(cursor, settings.forge.overlap_seconds))
    seen = store.seen(instance) if sweep.rows or deliveries or anew else {}
    poll.begin(sweep, seen, judged_anew=anew)
    looks = [*poll.looks(sweep), *_hints(deliveries, sweep, seen, instance)]
    poll.read_all([*looks, *poll.again(look.key for look in looks)])
    poll.settle(sweep)
    tally = poll.tally
    if tally.errors and not tally.read:
        raise tally.errors[0]
    if sweep.complete and not tally.errors:
        # First by whom it was judged: a crash between the two judges once more, and changes nothing.
        store.set_cursor(scope, sweep.at or now)
        store.set_cursor(instance, sweep.at or now)
        for delivery in deliveries:
            store.close_delivery(delivery.id, now, "polled")
    return PollSummary(
        rows=len(sweep.rows),
        read=tally.read,
        train=tally.states["train"],
        held_out=tally.states["held_out"],
        refused=tally.states["refused"],
        failed=tally.failed,
        deliveries=len(deliveries),
        without_git=tally.without_git,
        complete=sweep.complete,
        gaps=sweep.gaps,
    )


def _hints(deliveries: Sequence[Delivery], sweep: Sweep, seen: dict[PullKey, str], instance: str) -> Iterator[Look]:
    """Return the pull requests that deliveries name and that no sweep has shown yet."""
    shown = {row.key for row in sweep.rows} | {key for key, text in seen.items() if not unread_times(text)}
    for delivery in deliveries:
        key = PullKey(instance, delivery.repository_id, delivery.pull or 0)
        if key.number and key not in shown and delivery.repository:
            shown.add(key)
            yield Look(key, delivery.repository, None)


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
        self.settings, self.store, self.reader = settings, store, Reader(settings, forge, mirror)
        self.secrets, self.now, self.progress, self.sketch = secrets, now, progress, sketch
        self.tally = _Tally()
        self.earlier: dict[PullKey, Record] = {}
        self.listed: dict[PullKey, PullRow] = {}
        self.seen: dict[PullKey, str] = {}
        self.rows: list[PullRow] = []

    def begin(self, sweep: Sweep, seen: dict[PullKey, str], *, judged_anew: bool) -> None:
        """Take a sweep in; where other accounts, repositories or labels count now, judge what is on file by them."""
        self.seen, self.listed = seen, {row.key: row for row in sweep.rows}
        fresh = unseen(sweep.rows, seen)
        if judged_anew or any(row.key in seen for row in fresh) or any(map(unread_times, seen.values())):
            self.earlier = {record.key: record for record in self.store.records()}
        if judged_anew:
            self.judge_anew()

    def looks(self, sweep: Sweep) -> list[Look]:
        """Return the pull requests to read: new ones, and refused ones that have moved since.

        A row that shows by itself why it cannot teach is filed and not read. A record that was taken stays as it was
        at its merge: later comments, edits and renames are not what was asked; only a revert takes it back.
        """
        looks = []
        for row in unseen(sweep.rows, self.seen):
            earlier, before = self.earlier.get(row.key), self.seen.get(row.key, "")
            if unread_times(before) >= self.settings.forge.unreadable_after and not unread_due(before, self.now):
                continue
            if earlier is not None and earlier.prompt:
                self._look_back(earlier, row)
            elif not self._judge(row, row.updated_at):
                looks.append(Look(row.key, row.repository, row.updated_at))
        return looks

    def again(self, shown: Iterable[PullKey]) -> list[Look]:
        """Return some of the pull requests that could not be read for long, and whose time has come."""
        shown, enough = set(shown), self.settings.forge.unreadable_after
        due = [
            key
            for key, text in self.seen.items()
            if unread_times(text) >= enough and unread_due(text, self.now) and key not in shown and key in self.earlier
        ]
        return [Look(key, self.earlier[key].repository, None) for key in due[:RETRIES]]

    def judge_anew(self) -> None:
        """Judge what is on file by the accounts, repositories and labels that count now.

        What was taken keeps its texts, so it can come back; what was refused by them is read again where they allow it.
        """
        for record in self.earlier.values():
            reasons = judged_anew(record, self.settings.fleet)
            if reasons is None:
                continue
            if record.prompt:
                state = "refused" if reasons else side(record.split_keys, self.settings.records)
                self.store.replace_record(replace(record, state=state, reasons=reasons), self.now)
            else:
                self.seen.pop(record.key, None)

    def _look_back(self, record: Record, row: PullRow) -> None:
        """Take a record back where its pull request moved because somebody reverted it."""
        try:
            reverted = REVERTED not in record.reasons and self.reader.taken_back_since(row.key, row.repository)
        except FleetError as error:
            self._give_up(Look(row.key, row.repository, row.updated_at), error)
            return
        if reverted:
            self._take_back(record)
        self.store.put_pull(row.key, row.updated_at, None, self.now)

    def _take_back(self, record: Record) -> None:
        self.store.replace_record(_reverted(record), self.now)

    def read_all(self, looks: Sequence[Look]) -> None:
        """Read pull requests batch by batch, one repository at a time, and file each."""
        done = 0
        by_repository = defaultdict[int, list[Look]](list)
        for look in looks:
            by_repository[look.key.repository_id].append(look)
        batches = [
            group[start : start + BATCH] for group in by_repository.values() for start in range(0, len(group), BATCH)
        ]
        with ThreadPoolExecutor(READERS, "forge") as readers:
            # While git works on one batch the next one is read already; no more than that, so that memory stays flat.
            ahead = [readers.map(self.reader.read, batch) for batch in batches[:AHEAD]]
            for number, batch in enumerate(batches):
                self.progress(done, len(looks), "pull requests")
                reads = list(ahead.pop(0))
                if number + AHEAD < len(batches):
                    ahead.append(readers.map(self.reader.read, batches[number + AHEAD]))
                self._file_batch(reads)
                done += len(batch)
        if looks:
            self.progress(done, len(looks), "pull requests")

    def settle(self, sweep: Sweep) -> None:
        """Take back what was reverted, then put what belongs together on one side."""
        found = claims([*sweep.rows, *self.rows])
        for record in self.store.records() if found else ():
            commits = (record.merge_commit, record.head_commit)
            if REVERTED not in record.reasons and taken_back(record.key, commits, found):
                self._take_back(record)
        settle_new(self.store, self.settings.records, self.sketch, self.now)

    def _file_batch(self, batch: Sequence[Read | Failure]) -> None:
        """Read the diffs of one repository's pull requests with git and file their records."""
        for failure in batch:
            if isinstance(failure, Failure):
                self._give_up(failure.look, failure.error)
        reads = [read for read in batch if isinstance(read, Read)]
        fleet = self.settings.fleet
        wanted = [read.pull for read in reads if read.pull and not refusals_of_row(row_of(read.pull), fleet)]
        try:
            diffs, without_git = self.reader.diffs(wanted)
        except FleetError as error:
            for read in reads:
                self._give_up(read.look, error)
            return
        self.tally.without_git += without_git
        for read in reads:
            self.tally.read += 1
            if read.pull is not None:
                self._file_read(read, read.pull, diffs)
            else:
                self.store.put_pull(read.look.key, read.look.updated_at or GONE, None, self.now)

    def _file_read(self, read: Read, pull: MergedPull, diffs: dict[int, PullDiff | str]) -> None:
        """File what was read; one that a hint named is judged by its row first, as a sweep's is."""
        row = row_of(pull)
        updated_at = pull.updated_at if read.look.updated_at is None else read.look.updated_at
        self.rows.append(row)
        if not self._judge(row, updated_at):
            record = self._record(read, pull, diffs)
            if read.reverted:
                record = _reverted(record)
            self._file(pull.key, updated_at, record)

    def _give_up(self, look: Look, error: FleetError) -> None:
        """Note that a pull request could not be read; one that never can holds nothing up for ever.

        A wrong token or address is nobody's fault here: it holds the cursor until it is mended.
        """
        self.tally.failed += 1
        if isinstance(error, Misconfigured):
            self.tally.errors.append(error)
            return
        times = unread_times(self.seen.get(look.key, "")) + 1
        enough = self.settings.forge.unreadable_after
        pause = min(RETRY * 2 ** max(times - enough, 0), DAY) if times >= enough else timedelta(0)
        row = self.listed.get(look.key)
        known = look.key in self.earlier or times < enough or row is None
        record = None if known or row is None else refused_row(row, (UNREADABLE,))
        self.store.put_pull(look.key, unread(times, self.now + pause), record, self.now)
        if times < enough:
            self.tally.errors.append(error)
        elif record is not None:
            self.tally.states["refused"] += 1

    def _judge(self, row: PullRow, updated_at: str) -> bool:
        """File a pull request that its row refuses; tell whether it does."""
        reasons = refusals_of_row(row, self.settings.fleet)
        # A stranger's work elsewhere is none of ours: a public instance is full of it.
        if reasons and not {"author_not_agent", "repository_not_watched"} <= set(reasons):
            self._file(row.key, updated_at, refused_row(row, reasons))
        return bool(reasons)

    def _record(self, read: Read, pull: MergedPull, diffs: dict[int, PullDiff | str]) -> Record:
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
                record = _reverted(record)
            self.store.replace_record(replace(record, id=earlier.id), self.now)
            self.store.put_pull(key, updated_at, None, self.now)
        self.tally.states[record.state] += 1


def _reverted(record: Record) -> Record:
    """Refuse what was taken back; what does not stand at all is nobody's twin."""
    kept = [code for code in record.reasons if code != TWIN]
    return replace(record, state="refused", reasons=tuple(dict.fromkeys([*kept, REVERTED])))
