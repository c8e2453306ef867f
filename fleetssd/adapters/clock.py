"""The system's clock, and one that a file steers (the demo and tests live faster than the day)."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fleetssd import files
from fleetssd.errors import Misconfigured


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """Return the present moment in UTC."""
        return datetime.now(UTC)


class SteeredClock:
    """The time of this machine plus the seconds that a file holds; without the file it is the machine's own."""

    def __init__(self, offset_file: Path) -> None:
        self._file = offset_file

    def now(self) -> datetime:
        """Return the steered moment in UTC. Raises Misconfigured where the file holds no number."""
        return datetime.now(UTC) + timedelta(seconds=self._offset())

    def steer(self, seconds: float) -> None:
        """Set the offset for every process that reads this file."""
        files.write(self._file, f"{seconds}\n")

    def _offset(self) -> float:
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return 0.0
        try:
            offset = float(text)
        except ValueError:
            offset = math.nan
        if not math.isfinite(offset):
            raise Misconfigured(
                f"{self._file} holds no number of seconds", hint="Write one, or unset schedule.clock_offset_file."
            )
        return offset
