"""Room for mirrors: what was not used for longest goes first; a mirror that is gone is only fetched again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_GOING = ".going"


class Quota:
    """Keeps a folder of mirrors under `limit` bytes (0: any size). Sizes are measured when a mirror was used."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.sizes: dict[Path, int] = {}
        self.swept = False

    def used(self, mirror: Path) -> list[Path]:
        """Note that a mirror was used, make room, and return what was removed for it.

        The mirror itself stays unless it alone is over the limit.
        """
        if not self.limit:
            return []
        os.utime(mirror)  # the folder's own time is the memory of its use: it survives restarts
        self.sizes[mirror] = _size(mirror)
        if not self.swept:
            self._sweep()
        removed = []
        for path in sorted(self.sizes, key=lambda path: (path == mirror, _time(path))):
            if sum(self.sizes.values()) <= self.limit:
                break
            _remove(path)
            del self.sizes[path]
            removed.append(path)
        return removed

    def _sweep(self) -> None:
        """Measure what is there from before, and end removals that were cut short."""
        self.swept = True
        for path in self.folder.iterdir():
            if path.name.endswith(_GOING):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and path not in self.sizes:
                self.sizes[path] = _size(path)


def _remove(mirror: Path) -> None:
    """Take a mirror away at once, by its name: half of one is never opened."""
    going = mirror.with_name(mirror.name + _GOING)
    shutil.rmtree(going, ignore_errors=True)
    mirror.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _size(mirror: Path) -> int:
    total = 0
    for folder, _, names in os.walk(mirror):
        for name in names:
            path = Path(folder, name)
            try:
                total += path.lstat().st_blocks * 512
            except FileNotFoundError:  # git's own temporary files come and go
                continue
    return total


def _time(mirror: Path) -> float:
    return mirror.stat().st_mtime if mirror.exists() else 0.0
