"""Read and write the objects of one bare repository without starting a git process for each."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from fleetssd.errors import Corrupt, Rejected

Tree = dict[bytes, tuple[str, str]]
"""Name to (mode, object id); the mode of a folder is `40000`."""

FOLDER = "40000"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it is stored; `author` and `committer` are `Name <mail> seconds zone`."""

    id: str
    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    message: str

    @property
    def seconds(self) -> int:
        """When it was committed, in seconds since the epoch."""
        return int(self.committer.rsplit(" ", 2)[1])


class Objects:
    """The object store of the bare repository at `path`, read through one `git cat-file --batch` that stays open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batch: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._commits: dict[str, Commit] = {}

    def read(self, name: str) -> tuple[str, str, bytes]:
        """Return (id, type, bytes) of an object named by id or expression; raise Rejected where there is none."""
        with self._guard:
            process = self._process()
            if process.stdin is None or process.stdout is None:
                raise Corrupt("git cat-file has no pipes")
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
            head = process.stdout.readline().decode().split()
            if len(head) != 3:
                raise Rejected(f"no object {name!r}", status=404)
            body = process.stdout.read(int(head[2]))
            process.stdout.read(1)
        return head[0], head[1], body

    def exists(self, name: str) -> bool:
        """Tell whether an object is there."""
        try:
            self.read(name)
        except Rejected:
            return False
        return True

    def write(self, kind: str, body: bytes) -> str:
        """Store a loose object and return its id; one that is already there is left alone."""
        whole = f"{kind} {len(body)}".encode() + b"\x00" + body
        name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        target = self.path / "objects" / name[:2] / name[2:]
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            draft = target.parent / f"tmp_obj_{threading.get_ident()}_{name[2:10]}"
            draft.write_bytes(zlib.compress(whole, 1))
            draft.chmod(0o444)
            os.replace(draft, target)  # noqa: PTH105 -- one call, no path object to keep
        return name

    def commit(self, name: str) -> Commit:
        """Return the commit of that id; commits never change, so they are kept."""
        kept = self._commits.get(name)
        if kept is None:
            found, kind, body = self.read(name)
            if kind == "tag":
                return self.commit(body.split(b"\n", 1)[0].split()[1].decode())
            kept = self._commits[name] = _parse_commit(found, body)
        return kept

    def write_commit(self, tree: str, parents: list[str], author: str, committer: str, message: str) -> str:
        """Store a commit; author and committer as in `Commit`."""
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        text = "\n".join([*lines, f"author {author}", f"committer {committer}", "", message])
        return self.write("commit", text.encode())

    def tree(self, name: str) -> Tree:
        """Return the entries of a tree; the empty name is the empty tree."""
        if not name:
            return {}
        body = self.read(name)[2]
        entries: Tree = {}
        at = 0
        while at < len(body):
            space = body.index(b" ", at)
            end = body.index(b"\x00", space)
            entries[body[space + 1 : end]] = (body[at:space].decode(), body[end + 1 : end + 21].hex())
            at = end + 21
        return entries

    def write_tree(self, entries: Tree) -> str:
        """Store a tree, its entries in git's order (a folder sorts as if its name ended in a slash)."""
        ordered = sorted(entries.items(), key=lambda item: item[0] + b"/" if item[1][0] == FOLDER else item[0])
        return self.write(
            "tree",
            b"".join(mode.encode() + b" " + name + b"\x00" + bytes.fromhex(sha) for name, (mode, sha) in ordered),
        )

    def close(self) -> None:
        """End the reading process."""
        with self._guard:
            if self._batch is not None:
                self._batch.communicate()
                self._batch = None

    def _process(self) -> subprocess.Popen[bytes]:
        if self._batch is None or self._batch.poll() is not None:
            self._batch = subprocess.Popen(
                ["git", "--git-dir", self.path, "cat-file", "--batch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._batch


def _parse_commit(name: str, body: bytes) -> Commit:
    head, _, message = body.decode("utf-8", "replace").partition("\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.split("\n"):
        key, _, value = line.partition(" ")
        fields.setdefault(key, []).append(value)
    return Commit(
        name,
        fields["tree"][0],
        tuple(fields.get("parent", ())),
        fields["author"][0],
        fields["committer"][0],
        message,
    )
