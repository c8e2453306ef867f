"""Writes a file from pieces that several threads make at once, in order, hashed on the way.

A file of gigabytes passes through some tens of megabytes of memory; the order of the bytes, and so their digest, does
not depend on how many threads there are.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias

Bytes: TypeAlias = Any  # bytes, or a contiguous array of them
Piece: TypeAlias = Callable[[], Bytes]
"""Makes the next bytes of the file."""

PIECE = 1 << 20
"""Bytes that are copied as one piece."""
_WAITING = 16
"""Pieces that may wait to be written: a disk that pauses for a moment stops nobody."""
_FLUSHED = 128 << 20
"""Bytes after which the disk is set to work, or it would rest until the end and then be waited for."""
_MOST_THREADS = 8


def copied(read: Callable[[int, int], bytes], start: int, stop: int) -> Iterator[Piece]:
    """Yield pieces that copy the bytes from `start` to `stop` of another file."""
    for at in range(start, stop, PIECE):
        yield partial(read, at, min(PIECE, stop - at))


def write(out: Path, pieces: Iterable[Piece]) -> str:
    """Write the pieces to `out`, which appears whole or not at all, and return its sha256 (hex)."""
    unfinished, digest = out.with_name(f".{out.name}.partial"), hashlib.sha256()
    try:
        with unfinished.open("wb") as file, ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher:
            disk = _Disk(file, flusher)
            for data in _made(pieces):
                digest.update(data)
                file.write(data)
                disk.wrote(memoryview(data).nbytes)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return digest.hexdigest()


class _Disk:
    """Has what was written brought to disk beside the writing; a failure of it is raised by the last fsync, too."""

    def __init__(self, file: IO[bytes], flusher: ThreadPoolExecutor) -> None:
        self._file, self._flusher = file, flusher
        self._open = 0
        self._running: Future[None] | None = None

    def wrote(self, size: int) -> None:
        """Count bytes; start the next flush where enough are open and none runs."""
        self._open += size
        if self._open >= _FLUSHED and (self._running is None or self._running.done()):
            self._open = 0
            self._running = self._flusher.submit(os.fsync, self._file.fileno())


def _made(pieces: Iterable[Piece]) -> Iterator[Bytes]:
    """Yield what the pieces make, in order."""
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    waiting: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="piece") as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(piece))
                if len(waiting) > _WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
