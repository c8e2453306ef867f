"""Compiled scripts between two jobs, in memory that goes along with no fork but that of the job whose script it is."""

from __future__ import annotations

import mmap

MOST = 512  # scripts; beyond it all are forgotten, and compiled again where they come again


class Kept:
    """Marshalled code by the digest of its script. What is in there is never read by the process that keeps it."""

    def __init__(self) -> None:
        self._pages: dict[str, mmap.mmap] = {}

    def lend(self, digest: str) -> mmap.mmap | None:
        """Let the next fork have one script's code; None where it is not there."""
        found = self._pages.get(digest)
        if found is not None:
            found.madvise(mmap.MADV_DOFORK)
        return found

    def take_back(self, lent: mmap.mmap) -> None:
        """Keep it from the forks to come."""
        lent.madvise(mmap.MADV_DONTFORK)

    def put(self, digest: str, code: bytes) -> None:
        """Keep a script's code."""
        if len(self._pages) >= MOST:
            for pages in self._pages.values():
                pages.close()
            self._pages.clear()
        pages = mmap.mmap(-1, len(code), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_DONTFORK)
        pages.write(code)
        self._pages[digest] = pages
