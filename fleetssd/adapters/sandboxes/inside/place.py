"""Where a job works: laid out before it runs, emptied after it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Any

WORK = "/tmp/work"  # noqa: S108  a tmpfs of our own
TREE, ENVIRONMENT = "/tree", "/env"  # read-only, where a job has such surroundings
WRITABLE = ("/tmp", "/dev/shm")  # noqa: S108
MAX_INODES = 5_000  # beyond this, leaving is cheaper than tidying up
INODE_BYTES = 1_024  # of the kernel's memory, for a file without content
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def lay_out(job: dict[str, Any]) -> None:
    """Copy the tree, take away what the job removes, then write its files."""
    if os.path.isdir(TREE):  # noqa: PTH112
        _copy(TREE, ".")
    for path in job["removed"]:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)  # noqa: PTH108
    made = {""}
    for path, content in job["files"]:
        parent = path.rpartition("/")[0]
        if parent not in made:
            made.add(parent)
            _make(parent)
        _write(path, content.encode("utf-8", "surrogateescape"))
    for path in job["executable"]:
        os.chmod(path, 0o755)  # noqa: PTH101,S103


def attributes() -> list[tuple[int, list[str]]]:
    """Return mode and extended attributes of every writable place, which a job of our uid may change."""
    return [(os.stat(root).st_mode, os.listxattr(root)) for root in WRITABLE]  # noqa: PTH116


def used() -> int:
    """Return how many files and folders there are in all writable places."""
    usages = [os.statvfs(root) for root in WRITABLE]
    return sum(usage.f_files - usage.f_ffree for usage in usages)


def tidy(inodes: int) -> bool:
    """Empty every writable place; False where that is not certain, and then this zygote must not be used again."""
    try:
        if used() > inodes:
            return False
        for root in WRITABLE:
            _empty(root)
        return not _left_in_kernel()
    except (OSError, RecursionError):
        return False


def _make(folder: str) -> None:
    try:
        os.mkdir(folder)  # noqa: PTH102
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103


def _write(path: str, content: bytes) -> None:
    try:
        file = os.open(path, _WRITE, 0o666)
    except OSError:
        if not os.path.islink(path):  # noqa: PTH114
            raise
        os.unlink(path)  # noqa: PTH108  what takes a link's place is not written where it points to
        file = os.open(path, _WRITE, 0o666)
    while content:
        content = content[os.write(file, content) :]
    os.close(file)


def _copy(source: str, target: str) -> None:
    """Copy what is in a folder, links as links."""
    with os.scandir(source) as entries:
        for entry in entries:
            place = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)  # noqa: PTH115,PTH211
            elif entry.is_dir():
                os.mkdir(place)  # noqa: PTH102
                _copy(entry.path, place)
            else:
                shutil.copy(entry.path, place)


def _empty(folder: str) -> None:
    """Remove what is in a folder, by its path: nobody is left who could put a link in our way."""
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                _empty(entry.path)
                os.rmdir(entry.path)  # noqa: PTH106
            else:
                os.unlink(entry.path)  # noqa: PTH108


def _left_in_kernel() -> bool:
    """Return whether anything outlived the job that belongs to no process.

    System V memory, semaphores and queues do, and connections that were closed: their port is taken for a minute.
    """
    tables = ("/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg")
    if any(_read(table).count(b"\n") > 1 for table in tables):  # the first line is the table's head
        return True
    return b" tw 0 " not in (_read("/proc/net/sockstat") or b" tw 0 ")


def _read(table: str) -> bytes:
    """Return a table of the kernel's; nothing in a sandbox without /proc."""
    try:
        file = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(file, 4_096)
    finally:
        os.close(file)
