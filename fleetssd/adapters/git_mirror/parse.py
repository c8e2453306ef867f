"""What git's plumbing prints, read as values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PAIR = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{40,64})\n")
_PAIR_LINE = re.compile(rb"^([0-9a-f]{40,64}) ([0-9a-f]{40,64})\n", re.MULTILINE)
_NULL = re.compile("0+")
REGULAR = ("100644", "100755")
"""Modes of plain files."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as far as diffs need it."""

    sha: str
    tree: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One path of a change; modes are octal text, blobs are object names, zeros where there is none."""

    path: str
    old_mode: str
    new_mode: str
    old: str
    new: str

    @property
    def blobs(self) -> tuple[str, ...]:
        """The objects that a diff of this path reads; a submodule's commit is none of ours."""
        sides = ((self.old_mode, self.old), (self.new_mode, self.new))
        return tuple(blob for mode, blob in sides if mode != "160000" and not _NULL.fullmatch(blob))

    @property
    def texts(self) -> tuple[str, ...]:
        """The contents of the path where it is a plain file, before and after the change."""
        sides = ((self.old_mode, self.old), (self.new_mode, self.new))
        return tuple(blob for mode, blob in sides if mode in REGULAR)


def objects(output: bytes) -> dict[str, tuple[str, bytes]]:
    """Read `cat-file --batch`: {name: (type, content)}; missing objects are left out."""
    found: dict[str, tuple[str, bytes]] = {}
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        words = output[at:end].decode().split(" ")
        at = end + 1
        if len(words) == 3 and words[2].isdigit():
            size = int(words[2])
            found[words[0]] = (words[1], output[at : at + size])
            at += size + 1
    return found


def commits(output: bytes) -> dict[str, Commit]:
    """Read the commits in the output of `cat-file --batch`, by name."""
    return {name: _commit(name, body) for name, (kind, body) in objects(output).items() if kind == "commit"}


def _commit(name: str, body: bytes) -> Commit:
    lines = body.partition(b"\n\n")[0].decode("utf-8", errors="replace").split("\n")
    fields = [line.split(" ", 1) for line in lines if " " in line]
    tree = next(value for key, value in fields if key == "tree")
    return Commit(name, tree, tuple(value for key, value in fields if key == "parent"))


def raw_changes(output: bytes) -> dict[tuple[str, str], tuple[Change, ...]]:
    """Read `diff-tree --stdin -r --raw -z` over pairs of trees: {(old tree, new tree): changes}."""
    found: dict[tuple[str, str], list[Change]] = {}
    at, current = 0, list[Change]()
    while at < len(output):
        pair = _PAIR.match(output, at)
        if pair:
            current = found[pair[1].decode(), pair[2].decode()] = []
            at = pair.end()
        else:
            middle = output.index(b"\0", at)
            end = output.index(b"\0", middle + 1)
            old_mode, new_mode, old, new = output[at:middle].decode().removeprefix(":").split(" ")[:4]
            path = output[middle + 1 : end].decode("utf-8", errors="surrogateescape")
            current.append(Change(path, old_mode, new_mode, old, new))
            at = end + 1
    return {pair: tuple(changes) for pair, changes in found.items()}


def patches(output: bytes) -> dict[tuple[str, str], bytes]:
    """Read `diff-tree --stdin -p` over pairs of trees: {(old tree, new tree): the patch's bytes}.

    A patch's own lines start with a space, a sign, a backslash or one of git's words, so a line of two object names is
    always the next pair.
    """
    marks = list(_PAIR_LINE.finditer(output))
    ends = [mark.start() for mark in marks[1:]] + [len(output)]
    return {
        (mark[1].decode(), mark[2].decode()): output[mark.end() : end] for mark, end in zip(marks, ends, strict=True)
    }


def heads(output: bytes) -> Iterator[tuple[int, str]]:
    """Read `for-each-ref` lines of `<commit> refs/fleet/pull/<number>`."""
    for line in output.decode().split("\n"):
        sha, _, ref = line.partition(" ")
        number = ref.rpartition("/")[2]
        if number.isdigit():
            yield int(number), sha


def utf8(body: bytes) -> str | None:
    """Return a file's text; None where it is binary."""
    if b"\0" in body:
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None
