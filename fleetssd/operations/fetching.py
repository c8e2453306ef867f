"""Read batches of pull requests ahead of whoever files them: first by the forge's API, then by git."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from fleetssd.config import Settings
from fleetssd.diffs import PullDiff
from fleetssd.errors import FleetError
from fleetssd.gitea import Delivery, PullKey, row_of
from fleetssd.operations.reading import Failure, Look, Read, Reader
from fleetssd.ports import Forge
from fleetssd.records import refusals_of_row, watched

IN_FLIGHT = 2
"""Threads that ask the forge, by its API or by git: so many requests are under way at once, and no more."""
AHEAD = 4
"""Batches read ahead of the one that is filed; no more than that, so that memory stays flat."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pull requests of one repository as they were read, their diffs, and what could not be read."""

    looks: tuple[Look, ...]
    reads: tuple[Read, ...] = ()
    failures: tuple[Failure, ...] = ()
    diffs: dict[int, PullDiff | str] = field(default_factory=dict)
    without_git: int = 0


def hints(deliveries: Sequence[Delivery], settings: Settings, forge: Forge) -> Iterator[Look]:
    """Return the pull requests that deliveries name.

    A hook of the whole server tells of repositories that nobody watches, and that the token may not be able to read.
    """
    for delivery in deliveries:
        owner, name = delivery.repository_id, delivery.repository
        if delivery.pull and name and (watched(name, settings.fleet) or forge.follows(owner, name)):
            yield Look(PullKey(settings.forge.url, owner, delivery.pull), name, None)


def fetch(reader: Reader, looks: Sequence[Look], found: Sequence[Read | Failure]) -> Batch:
    """Return a batch with its diffs; where git and the API have none of them, all of it has failed."""
    reads = tuple(read for read in found if isinstance(read, Read))
    failures = tuple(failure for failure in found if isinstance(failure, Failure))
    fleet = reader.settings.fleet
    wanted = [read.pull for read in reads if read.pull and not refusals_of_row(row_of(read.pull), fleet)]
    try:
        diffs, without_git = reader.diffs(wanted)
    except FleetError as error:
        return Batch(tuple(looks), (), (*failures, *(Failure(read.look, error) for read in reads)))
    return Batch(tuple(looks), reads, failures, diffs, without_git)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Reads through a pool of threads."""

    reader: Reader
    threads: ThreadPoolExecutor

    def through(self, batches: Sequence[Sequence[Look]]) -> Generator[Batch, None, None]:
        """Yield each batch in order, a few of the next ones on their way; none of them where it is closed."""
        left: Iterator[Sequence[Look]] = iter(batches)
        going: deque[Future[Batch]] = deque(map(self._start, islice(left, AHEAD)))
        try:
            while going:
                batch = going.popleft().result()
                going.extend(map(self._start, islice(left, 1)))
                yield batch
        finally:
            for future in going:
                future.cancel()

    def _start(self, looks: Sequence[Look]) -> Future[Batch]:
        reading = [self.threads.submit(self.reader.read, look) for look in looks]
        # These are all started before it, so that it never waits for what waits for a thread.
        return self.threads.submit(lambda: fetch(self.reader, looks, [future.result() for future in reading]))
