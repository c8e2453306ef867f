"""A commit's files on disk, byte for byte and without git: no filters, no attributes, no history beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleetssd.adapters.git_mirror.parse import REGULAR, objects, raw_changes
from fleetssd.adapters.git_mirror.process import Repository
from fleetssd.admission import NotAdmittedError
from fleetssd.changes import LINK
from fleetssd.diffs import escapes
from fleetssd.solutions import EXECUTABLE, File, Whole

MAX_TREE_BYTES = 512 << 20
"""A larger tree would not fit into a sandbox's memory several times."""
AT_ONCE = 500
"""Files read by one process: their contents are in memory together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree; `mode` is git's octal text."""

    path: str
    mode: str
    blob: str


def entries(listing: bytes) -> list[Entry]:
    """Read `ls-tree -r -z`: files and links; a submodule is an empty place and left out.

    Raises NotAdmittedError where a path must not be written to disk.
    """
    found = []
    for line in filter(None, listing.split(b"\0")):
        head, _, name = line.partition(b"\t")
        mode, kind, blob = head.decode("ascii").split(" ")
        if kind == "blob":
            found.append(Entry(name.decode("utf-8", errors="surrogateescape"), mode, blob))
    files = {entry.path for entry in found}
    for entry in found:
        parts = entry.path.split("/")
        below_file = any("/".join(parts[:end]) in files for end in range(1, len(parts)))
        if escapes(entry.path) or below_file:
            raise NotAdmittedError("tree_unsafe", repr(entry.path[:200]))
    return found


def write_tree(mirror: Repository, commit: str, folder: Path) -> int:
    """Write a commit's files into an empty folder and return their size in bytes; links are written last, as links."""
    found = entries(mirror.read("ls-tree", "-r", "-z", "--full-tree", commit))
    mirror.fetch_blobs({entry.blob for entry in found})
    total = 0
    for some in _chunks(found):
        bodies = _bodies(mirror, [entry.blob for entry in some])
        total += sum(len(bodies[entry.blob]) for entry in some)
        if total > MAX_TREE_BYTES:
            raise NotAdmittedError("tree_too_large", f"more than {MAX_TREE_BYTES >> 20} MiB")
        for entry in some:
            if entry.mode != LINK:
                _write(folder / entry.path, bodies[entry.blob], 0o755 if entry.mode == EXECUTABLE else 0o644)
    links = [entry for entry in found if entry.mode == LINK]
    targets = _bodies(mirror, [entry.blob for entry in links])
    for entry in links:
        _folder(folder / entry.path)
        (folder / entry.path).symlink_to(os.fsdecode(targets[entry.blob]))
    return total


def changed_files(mirror: Repository, base: str, head: str) -> tuple[Whole, ...]:
    """Return every file that a change touches, whole, as it is after it."""
    pair = f"{base}^{{tree}}", f"{head}^{{tree}}"
    trees = mirror.read("rev-parse", *pair).decode().split()
    found = raw_changes(
        mirror.read(
            "diff-tree", "--stdin", "-r", "--raw", "-z", "--no-renames", stdin=f"{trees[0]} {trees[1]}\n".encode()
        )
    )
    changes = [change for some in found.values() for change in some]
    new = [change for change in changes if change.new_mode in (*REGULAR, LINK)]
    mirror.fetch_blobs({change.new for change in new})
    bodies = _bodies(mirror, [change.new for change in new])
    kept = {change.path: File(_text(bodies[change.new]), change.new_mode) for change in new}
    return tuple(Whole(change.path, kept.get(change.path)) for change in changes)


def _bodies(mirror: Repository, blobs: Sequence[str]) -> dict[str, bytes]:
    if not blobs:
        return {}
    stdin = "".join(f"{blob}\n" for blob in sorted(set(blobs))).encode()
    return {name: body for name, (_, body) in objects(mirror.read("cat-file", "--batch", stdin=stdin)).items()}


def _text(body: bytes) -> str:
    return body.decode("utf-8", errors="surrogateescape")


def _chunks(found: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(found), AT_ONCE):
        yield found[start : start + AT_ONCE]


def _write(path: Path, body: bytes, mode: int) -> None:
    _folder(path)
    descriptor = os.open(os.fsencode(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        os.fchmod(descriptor, mode)  # whatever the umask is: a run under another uid has to read it


def _folder(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
