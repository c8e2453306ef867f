"""Writes a file from pieces that several threads make at once, in order, hashed on the way.

A file of gigabytes passes through some tens of megabytes of memory; the order of the bytes, and so their digest, does
not depend on how many threads there are. Where the filesystem can, the bytes go around the page cache: there they would
push out the model that is being served, and pages cost more processor time than the merge itself has to spare.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from fleetssd.errors import Misconfigured

Bytes: TypeAlias = Any  # bytes, or a contiguous array of them
Piece: TypeAlias = Callable[[], Bytes]
"""Makes the next bytes of the file."""

PIECE = 1 << 20
"""Bytes that are copied as one piece."""
_WAITING = 8
"""Pieces that may wait to be written: a disk that pauses for a moment stops nobody."""
_SECTOR = 4096
"""What size and place of a direct write are multiples of, on any disk there is."""
_BUFFER = 1 << 22
_BUFFERS = 3
"""One is filled while another is on its way, and one may be late."""
_MOST_THREADS = 8
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS has none


def cores() -> int:
    """Return how many processors are ours; macOS knows only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def copied(read: Callable[[int, int], bytes], start: int, stop: int) -> Iterator[Piece]:
    """Yield pieces that copy the bytes from `start` to `stop` of another file."""
    for at in range(start, stop, PIECE):
        yield partial(read, at, min(PIECE, stop - at))


def write(out: Path, pieces: Iterable[Piece]) -> str:
    """Write the pieces to `out`, which appears whole or not at all, and return its sha256 (hex).

    Raises Misconfigured where the disk is full.
    """
    unfinished, digest = out.with_name(f".{out.name}.partial"), hashlib.sha256()
    try:
        with _Disk(unfinished) as disk:
            for data in _made(pieces):
                digest.update(data)
                disk.write(data)
            disk.finish()
        unfinished.rename(out)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Misconfigured(f"no room for {out}", hint="Make room there; a night goes on where it stopped.") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return digest.hexdigest()


class _Disk:
    """A file that is written in large, aligned pieces by a thread of its own, around the page cache where possible."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._buffers = deque((mmap.mmap(-1, _BUFFER), _nothing()) for _ in range(_BUFFERS))
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        os.close(self._file)

    def write(self, data: Bytes) -> None:
        """Append bytes. Raises what the disk said to earlier ones."""
        rest = np.frombuffer(data, np.uint8)
        while rest.size:
            buffer, written = self._buffers[0]
            written.result()
            at = self._size % _BUFFER
            part, rest = rest[: _BUFFER - at], rest[_BUFFER - at :]
            np.copyto(np.frombuffer(buffer, np.uint8)[at : at + part.size], part)  # lets other threads run
            self._size += part.size
            if self._size % _BUFFER == 0:
                self._send(_BUFFER)

    def finish(self) -> None:
        """Bring everything to disk. Raises what the disk said."""
        if rest := self._size % _BUFFER:
            self._send(-(-rest // _SECTOR) * _SECTOR)
        for _, written in self._buffers:
            written.result()
        os.ftruncate(self._file, self._size)
        os.fsync(self._file)

    def _send(self, size: int) -> None:
        """Have the first buffer written and make it the last."""
        buffer, _ = self._buffers.popleft()
        start = (self._size - 1) // _BUFFER * _BUFFER
        self._buffers.append((buffer, self._thread.submit(_put, self._file, memoryview(buffer)[:size], start)))


def _nothing() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def _open(path: Path) -> int:
    """Open a new file for direct writes; not every filesystem has them."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT, 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o644)


def _put(file: int, data: memoryview, start: int) -> None:
    """Write all of it; a disk whose sectors are larger than ours gets it through the page cache."""
    while data:
        try:
            count = os.pwrite(file, data, start)
        except OSError as error:
            flags = fcntl.fcntl(file, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & _DIRECT:
                raise
            fcntl.fcntl(file, fcntl.F_SETFL, flags & ~_DIRECT)
            continue
        data, start = data[count:], start + count


def _made(pieces: Iterable[Piece]) -> Iterator[Bytes]:
    """Yield what the pieces make, in order."""
    threads = min(cores(), _MOST_THREADS)
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
