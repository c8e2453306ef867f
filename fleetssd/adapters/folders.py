"""The file system behind an audit: regular text files of a bounded size, no links, nothing that opens slowly."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleetssd.audit import Reading, Skipped, Source, form_of
from fleetssd.errors import Misconfigured

FILE_BYTES = 512_000
"""No settings file is larger; a log or a data set is."""
ALL_BYTES = 64_000_000
FILES = 50_000
"""Entries looked at before a look gives up: who names / shall hear of it."""
LINK = "a link; name what it points to"
IGNORED = frozenset(
    {".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", "sessions", "logs", "site-packages"}
)


def read_folders(folders: Sequence[Path]) -> Reading:
    """Read what may hold settings below these folders, or the file that one of them is.

    Each folder may be named by a link; links below it are told and not followed. Raises Misconfigured for a folder that
    is not there.
    """
    real = [_there(folder.expanduser()) for folder in folders]
    only = len(real) == 1 and real[0].is_dir()
    look = _Look(real[0] if only else Path(os.path.commonpath([path.parent for path in real])))
    for root in real:
        for path in [root] if root.is_file() else look.walk(root):
            look.take(path)
    return Reading(tuple(look.sources), tuple(look.skipped))


def _there(folder: Path) -> Path:
    if not folder.exists():
        raise Misconfigured(f"nothing at {folder}", hint="Name a folder, or a file, that this account can see.")
    return folder.resolve()


class _Unread(Exception):
    """A file that is not to be read; the text says why."""


@dataclass(slots=True)
class _Look:
    """What was read so far, and how much more may be."""

    root: Path
    sources: list[Source] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: int = 0
    read: int = 0

    def walk(self, root: Path) -> Iterator[Path]:
        """Yield the files below a folder whose names may mean settings, sorted."""
        for folder, inner, names in os.walk(root, onerror=lambda error: self._refuse(Path(str(error.filename)), error)):
            inner[:] = sorted(name for name in inner if name not in IGNORED)
            for link in (Path(folder, name) for name in inner if Path(folder, name).is_symlink()):
                self._skip(link, LINK)
            for name in sorted(names):
                self.seen += 1
                if self.seen > FILES:
                    self.skipped.append(Skipped(self._name(Path(folder)), f"more than {FILES} files: name less"))
                    return
                if form_of(name) is not None:
                    yield Path(folder, name)

    def take(self, path: Path) -> None:
        """Read one file, or say why not."""
        try:
            text = self._content(path).decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        except _Unread as unread:
            self._skip(path, str(unread))
            return
        except OSError as error:
            self._refuse(path, error)
            return
        if "\0" in text:
            self._skip(path, "binary")
            return
        form = form_of(path.name)
        if form is None:
            self._skip(path, "a file of an unknown kind")
            return
        self.sources.append(Source(self._name(path), form, text))

    def _content(self, path: Path) -> bytes:
        # Not to follow and not to wait: what was a file when it was listed may be a link or a pipe by now.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise _Unread("no regular file")
            if info.st_size > FILE_BYTES:
                raise _Unread(f"larger than {FILE_BYTES // 1000} kB")
            if self.read + info.st_size > ALL_BYTES:
                raise _Unread(f"more than {ALL_BYTES // 1_000_000} MB in all: name less")
            content = file.read(FILE_BYTES)
        self.read += len(content)
        return content

    def _refuse(self, path: Path, error: OSError) -> None:
        self._skip(path, LINK if path.is_symlink() else f"{error.strerror}")

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(self._name(path), reason))

    def _name(self, path: Path) -> str:
        """Name a file as it lies below what was asked for, with nothing that a terminal would obey."""
        inside = path.is_relative_to(self.root) and self.root != Path(path.anchor)
        name = str(path.relative_to(self.root) if inside else path)
        return "".join(letter if letter.isprintable() else "?" for letter in name)
