"""What else a machine did while something was timed: a ratio from a busy machine is its neighbours'."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

QUIET = 0.25
"""Processors that others may use on average before a machine counts as busy."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Span:
    """Seconds: on the wall, of processors on our side, of processors for anybody else, and of the disk being busy.

    What the system does not tell is None.
    """

    wall: float
    ours: float
    others: float | None
    disk: float | None


class Watch:
    """Looks at the machine now; `span` says what it did since, given what our children took that are not waited for."""

    def __init__(self, folder: Path) -> None:
        self._device = os.stat(folder).st_dev  # noqa: PTH116  the device's number is all that is asked for
        self._before = self._now()

    def span(self) -> Span:
        """Return what happened since."""
        (wall, ours, busy, disk), now = self._before, self._now()
        spent = now[1] - ours
        others = max(0.0, now[2] - busy - spent) if busy is not None and now[2] is not None else None
        return Span(now[0] - wall, spent, others, now[3] - disk if disk is not None and now[3] is not None else None)

    def _now(self) -> tuple[float, float, float | None, float | None]:
        mine = os.times()
        used = mine.user + mine.system + mine.children_user + mine.children_system
        return time.perf_counter(), used, _busy(), _disk(self._device)


def _busy() -> float | None:
    """Return the processor seconds that were not idle since the machine started, those of its host's others too."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * _TICK


def _disk(device: int) -> float | None:
    """Return the seconds in which a disk had something to do; not every filesystem is on one."""
    try:
        path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        return int(path.read_text().split()[9]) / 1000
    except (OSError, ValueError, IndexError):
        return None
