"""Which of the machine's cores our threads keep off."""

from __future__ import annotations

import os


def leave_one(wanted: int = 1) -> None:
    """Keep this thread, and what it starts, off one core, where the others are enough for `wanted` threads.

    An engine computes a token for every answer in flight at once, in few threads; each time one of ours wakes up on
    their core, all these answers wait. Nothing changes where a system has no affinity. The process keeps to what it
    was given itself, and asking twice is asking once.
    """
    own = _own()
    if len(own) > max(1, wanted):
        os.sched_setaffinity(0, own[1:])


def spare(most: int) -> int:
    """Return how many cores `leave_one` leaves to us: one at least, and at most so many."""
    return max(1, min(most, len(_own()) - 1))


def _own() -> list[int]:
    """Return the cores that the process was given: those of its first thread, which is never moved."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return sorted(os.sched_getaffinity(os.getpid())) if known else []
