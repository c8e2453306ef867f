"""One poll's parts: what is read, and what is filed of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime, timedelta

from fleetssd.config import Settings
from fleetssd.diffs import PullDiff, is_agent
from fleetssd.errors import FleetError, Misconfigured
from fleetssd.gitea import MergedPull, PullKey, PullRow, row_of, unread, unread_due, unread_times
from fleetssd.operations.fetching import IN_FLIGHT, Batch, Pipeline, fetch
from fleetssd.operations.poll_summary import Tally
from fleetssd.operations.reading import Look, Read, Reader
from fleetssd.operations.sides import settle_new
from fleetssd.ports import Forge, Mirror, Progress, Store
from fleetssd.records import (
    Record,
    Redact,
    judged_anew,
    make_record,
    refusals_of_row,
    refused_row,
    side,
    watched,
)
from fleetssd.reverts import Claim, claims, taken_back
from fleetssd.split import TWIN
from fleetssd.sweeps import Part, unseen
from fleetssd.twins import Sketch

BATCH = 100
"""Pull requests read from one repository between two writes: what a crash can make us read again."""
RETRIES = 5
"""Unreadable pull requests tried again in one poll."""
MOST_UNREAD = 10_000
RETRY, DAY = timedelta(hours=1), timedelta(days=1)
"""How long an unreadable pull request rests at first, and at most; the pause doubles."""
GONE, AGAIN = "gone", "again"
"""In the place of an `updated_at`: nothing to read, and to be read again."""
UNREADABLE = "unreadable"
REVERTED = "reverted_later"
UNWATCHED = "repository_not_watched"


@dataclass
class Poll:
    """One poll's parts; every write is a transaction that a repetition leaves as it is."""

    settings: Settings
    forge: Forge
    mirror: InitVar[Mirror]
    store: Store
    secrets: Redact
    now: datetime
    progress: Progress
    sketch: Sketch
    reader: Reader = field(init=False)
    instance: str = field(init=False)
    tally: Tally = field(default_factory=Tally)
    earlier: dict[PullKey, Record] = field(default_factory=dict)
    listed: dict[PullKey, PullRow] = field(default_factory=dict)
    seen: dict[PullKey, str] = field(default_factory=dict)
    claims: dict[int, Claim] = field(default_factory=dict)
    puts: list[tuple[PullKey, str, Record | None]] = field(default_factory=list)

    def __post_init__(self, mirror: Mirror) -> None:
        self.reader, self.instance = Reader(self.settings, self.forge, mirror), self.settings.forge.url

    def take(self, part: Part) -> None:
        """File a part of a sweep; nothing of it is held afterwards."""
        tally, before = self.tally, self.tally.rows
        tally.rows += len(part.rows)
        tally.complete = tally.complete and part.complete
        tally.gaps += part.gaps
        if not part.rows:
            return
        self._begin({row.key: row for row in part.rows}, [row.key for row in part.rows])
        found = claims(part.rows)
        self._note(found)
        looks = self.looks()
        self._flush()
        total = before + max(part.total or 0, len(part.rows))
        self.read_all(looks, tally.rows - len(looks), total)
        self._take_back_all(found)
        settle_new(self.store, self.settings.records, self.sketch, self.now)

    def look_around(self, hinted: dict[PullKey, Look]) -> None:
        """Read what deliveries name and no sweep has shown, and some of what could not be read for long."""
        known = self.store.seen(hinted)
        news = {key: look for key, look in hinted.items() if key not in known or unread_times(known[key])}
        enough = self.settings.forge.unreadable_after
        unread = self.store.unread(self.instance, MOST_UNREAD)
        due = [key for key, text in unread.items() if unread_times(text) >= enough and unread_due(text, self.now)]
        rested = self.store.records_of([key for key in due if key not in news])
        again = {key: Look(key, record.repository, None) for key, record in list(rested.items())[:RETRIES]}
        if news or again:
            self._begin({}, [*news, *again])
            self.read_all([*news.values(), *again.values()], self.tally.rows, self.tally.rows + len(news | again))
            settle_new(self.store, self.settings.records, self.sketch, self.now)

    def _begin(self, listed: dict[PullKey, PullRow], keys: Sequence[PullKey]) -> None:
        self.listed, self.seen, self.claims = listed, self.store.seen(keys), {}
        same = {key for key, row in listed.items() if self.seen.get(key) == row.updated_at}
        self.earlier = self.store.records_of([key for key in self.seen if key not in same])

    def looks(self) -> list[Look]:
        """Return the pull requests to read: new ones, and refused ones that have moved since.

        A row that shows by itself why it cannot teach is filed and not read. A record that was taken stays as it was
        at its merge: later comments, edits and renames are not what was asked; only a revert takes it back.
        """
        looks = []
        for row in unseen(self.listed.values(), self.seen):
            earlier, before = self.earlier.get(row.key), self.seen.get(row.key, "")
            if unread_times(before) >= self.settings.forge.unreadable_after and not unread_due(before, self.now):
                # A delivery may have named it before any list did: then only a record says where to look for it again.
                if earlier is None and not self._judge(row, row.updated_at):
                    self._put(row.key, before, refused_row(row, (UNREADABLE,)))
                continue
            if earlier is not None and earlier.prompt:
                self._look_back(earlier, row)
            elif not self._judge(row, row.updated_at):
                looks.append(Look(row.key, row.repository, row.updated_at))
        return looks

    def judge_anew(self) -> None:
        """Judge what is on file by the accounts, repositories and labels that count now.

        What was taken keeps its texts, so it can come back; what was refused by them is read again where they allow it.
        """
        last = ""
        while some := self.store.records_after(last, BATCH):
            last = some[-1].id
            for record in some:
                self._judge_anew(record)
            self._flush()

    def _judge_anew(self, record: Record) -> None:
        reasons = judged_anew(record, self.settings.fleet)
        if reasons and UNWATCHED in reasons and self._followed(record):
            reasons = judged_anew(record, self.settings.fleet)
        if reasons is not None and record.prompt:
            state = "refused" if reasons else side(record.split_keys, self.settings.records)
            self.store.replace_record(replace(record, state=state, reasons=reasons), self.now)
        elif reasons is not None:
            self._put(record.key, AGAIN, None)

    def _followed(self, what: PullRow | Record) -> bool:
        """Tell whether something is in a watched repository that has, or had, another name; from now on it counts."""
        repository = what.repository
        if not is_agent(what.author, self.settings.fleet) or watched(repository, self.settings.fleet):
            return False
        if not self.forge.follows(what.key.repository_id, repository):
            return False
        fleet = self.settings.fleet
        also = fleet.model_copy(update={"repositories": (*fleet.repositories, repository)})
        self.settings = self.settings.model_copy(update={"fleet": also})
        self.reader = replace(self.reader, settings=self.settings)
        self.tally.gaps.append(f"{repository} is watched by a name that it had before: change fleet.repositories")
        return True

    def _look_back(self, record: Record, row: PullRow) -> None:
        """Take a record back where its pull request moved because somebody reverted it."""
        try:
            reverted = REVERTED not in record.reasons and self.reader.taken_back_since(row.key, row.repository)
        except FleetError as error:
            self._give_up(Look(row.key, row.repository, row.updated_at), error)
            return
        if reverted:
            self._take_back(record)
        self._put(row.key, row.updated_at, None)

    def _take_back(self, record: Record) -> None:
        self.store.replace_record(_reverted(record), self.now)

    def _take_back_all(self, found: Sequence[Claim]) -> None:
        """Take back what is on file and some claims are about."""
        for claim in found:
            for record in self.store.records_named(self.instance, claim):
                commits = (record.merge_commit, record.head_commit)
                if REVERTED not in record.reasons and taken_back(record.key, commits, [claim]):
                    self._take_back(record)

    def _note(self, found: Sequence[Claim]) -> None:
        """Keep claims for what is read later: their windows need not be the ones that show what they are about."""
        if found:
            self.store.note_claims(self.instance, found)
            self.claims.clear()

    def read_all(self, looks: Sequence[Look], done: int, total: int) -> None:
        """Read pull requests batch by batch, one repository at a time, and file each."""
        by_repository = defaultdict[int, list[Look]](list)
        for look in looks:
            by_repository[look.key.repository_id].append(look)
        batches = [
            group[start : start + BATCH] for group in by_repository.values() for start in range(0, len(group), BATCH)
        ]
        with (
            ThreadPoolExecutor(IN_FLIGHT, "forge") as threads,
            closing(Pipeline(self.reader, threads).through(batches)) as line,
        ):
            for batch in line:
                self.progress(done, total, "pull requests")
                self._file_batch(batch)
                done += len(batch.looks)
        if looks:
            self.progress(done, total, "pull requests")

    def _file_batch(self, batch: Batch) -> None:
        """File the records of one repository's pull requests."""
        if any(read.pull is not None and self._followed(row_of(read.pull)) for read in batch.reads):
            batch = fetch(self.reader, batch.looks, [self.reader.read(look) for look in batch.looks])
        for failure in batch.failures:
            self._give_up(failure.look, failure.error)
        self.tally.without_git += batch.without_git
        for read in batch.reads:
            self.tally.read += 1
            if read.pull is not None:
                self._file_read(read, read.pull, batch.diffs)
            else:
                self._put(read.look.key, read.look.updated_at or GONE, None)
        self._flush()

    def _file_read(self, read: Read, pull: MergedPull, diffs: dict[int, PullDiff | str]) -> None:
        """File what was read; one that a hint named is judged by its row first, as a sweep's is."""
        row = row_of(pull)
        updated_at = pull.updated_at if read.look.updated_at is None else read.look.updated_at
        if row.key not in self.listed and (found := claims([row])):
            self._note(found)
            self._take_back_all(found)
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
        self._put(look.key, unread(times, self.now + pause), record)
        if times < enough:
            self.tally.errors.append(error)
        elif record is not None:
            self.tally.states["refused"] += 1

    def _judge(self, row: PullRow, updated_at: str) -> bool:
        """File a pull request that its row refuses; tell whether it does."""
        reasons = refusals_of_row(row, self.settings.fleet)
        if row.merged and UNWATCHED in reasons and self._followed(row):
            reasons = refusals_of_row(row, self.settings.fleet)
        # A stranger's work elsewhere is none of ours: a public instance is full of it.
        if reasons and not {"author_not_agent", UNWATCHED} <= set(reasons):
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
        earlier, repository = self.earlier.get(key), key.repository_id
        if repository not in self.claims:
            self.claims[repository] = self.store.claims(self.instance, repository)
        if taken_back(key, (record.merge_commit, record.head_commit), [self.claims[repository]]):
            record = _reverted(record)
        if earlier is None:
            self._put(key, updated_at, record)
        else:
            if REVERTED in earlier.reasons:
                record = _reverted(record)
            self.store.replace_record(replace(record, id=earlier.id), self.now)
            self._put(key, updated_at, None)
        self.tally.states[record.state] += 1

    def _put(self, key: PullKey, updated_at: str, record: Record | None) -> None:
        """Write a pull request with the next batch."""
        self.puts.append((key, updated_at, record))

    def _flush(self) -> None:
        if self.puts:
            self.store.put_pulls(self.puts, self.now)
            self.puts = []


def _reverted(record: Record) -> Record:
    """Refuse what was taken back; what does not stand at all is nobody's twin."""
    kept = [code for code in record.reasons if code != TWIN]
    return replace(record, state="refused", reasons=tuple(dict.fromkeys([*kept, REVERTED])))
