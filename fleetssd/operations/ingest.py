"""Poll the forge: what merged since the last time becomes records, each pull request once."""

from __future__ import annotations

from datetime import datetime

from fleetssd.config import Settings
from fleetssd.operations.fetching import hints
from fleetssd.operations.marks import Marks
from fleetssd.operations.poll_summary import PollSummary
from fleetssd.operations.polling import Poll
from fleetssd.ports import Forge, Mirror, Progress, Store
from fleetssd.records import Redact
from fleetssd.twins import Sketch, unsketched

__all__ = ["PollSummary", "poll_once"]


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

    Repeating it, after a crash or for the overlap of its windows, changes nothing. A cursor moves only when every row
    up to it is on file, window by window, so a backfill that was cut short goes on where it was.
    Without a `sketch` only equal prompts are near-duplicates. Raises the forge's own error where nothing could be read.
    """
    poll = Poll(settings, forge, mirror, store, secrets, now, progress, sketch)
    marks, deliveries, tally = Marks(settings, store, now), store.open_deliveries(), poll.tally
    anew = marks.stale
    if anew:
        poll.judge_anew()
    hinted = {hint.key: hint for hint in hints(deliveries, settings, forge)}
    for part in forge.sweep(lambda place: None if anew else marks.since(place)):
        poll.take(part)
        for row in part.rows:
            hinted.pop(row.key, None)
        if part.done and not tally.errors:
            marks.move(part.place, part.upto)
    if tally.rows or deliveries:
        poll.look_around(hinted)
    if tally.errors and not tally.read:
        raise tally.errors[0]
    if tally.complete and not tally.errors:
        for delivery in deliveries:
            store.close_delivery(delivery.id, now, "polled")
    return tally.summary(len(deliveries))
