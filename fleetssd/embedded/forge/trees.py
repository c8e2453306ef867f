"""Compare and merge trees path by path; what needs a look into files is left to git."""

from __future__ import annotations

from dataclasses import dataclass

from fleetssd.embedded.forge.objects import FOLDER, Objects, Tree

SUBMODULE = "160000"  # its object is a commit of another repository
_BINARY_PROBE = 8000  # git looks for a NUL in the first 8000 bytes


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs: `old` and `new` are (mode, object id), None where the path is absent."""

    path: str
    old: tuple[str, str] | None
    new: tuple[str, str] | None


class Conflict(Exception):
    """Both sides changed the same path."""


def changes(objects: Objects, old: str, new: str, folder: str = "") -> list[Change]:
    """List the changed files between two trees (ids, "" for the empty tree), without looking for renames."""
    if old == new:
        return []
    left, right = objects.tree(old), objects.tree(new)
    found: list[Change] = []
    for name in sorted(left.keys() | right.keys()):
        a, b = left.get(name), right.get(name)
        if a == b:
            continue
        path = folder + name.decode("utf-8", "surrogateescape")
        if _is_folder(a) or _is_folder(b):
            found += changes(objects, _folder(a), _folder(b), path + "/")
            a, b = (None if _is_folder(a) else a), (None if _is_folder(b) else b)
        if a != b:
            found.append(Change(path, a, b))
    return found


def merge(objects: Objects, base: str, ours: str, theirs: str) -> str:
    """Merge two trees over their base and return the new tree's id.

    Raises Conflict where both sides changed the same file.
    """
    if theirs in (ours, base):
        return ours
    if ours == base:
        return theirs
    old, mine, other = objects.tree(base), objects.tree(ours), objects.tree(theirs)
    merged = dict(mine)
    for name in old.keys() | other.keys():
        before, here, there = old.get(name), mine.get(name), other.get(name)
        if there in (before, here):
            continue
        if here == before:
            _place(merged, name, there)
        elif _foldered(before) and _foldered(here) and _foldered(there):
            inner = merge(objects, _folder(before), _folder(here), _folder(there))
            _place(merged, name, (FOLDER, inner) if objects.tree(inner) else None)
        else:
            raise Conflict(name.decode("utf-8", "replace"))
    return objects.write_tree(merged)


def count_added(objects: Objects, found: list[Change]) -> list[int] | None:
    """Return [additions, deletions, files] when every change is a new text file, else None (git must count)."""
    lines = 0
    for change in found:
        if change.old is not None or change.new is None or change.new[0] == SUBMODULE:
            return None
        body = objects.read(change.new[1])[2]
        if b"\x00" in body[:_BINARY_PROBE]:
            return None
        lines += body.count(b"\n") + (1 if body and not body.endswith(b"\n") else 0)
    return [lines, 0, len(found)]


def _place(tree: Tree, name: bytes, entry: tuple[str, str] | None) -> None:
    if entry is None:
        tree.pop(name, None)
    else:
        tree[name] = entry


def _is_folder(entry: tuple[str, str] | None) -> bool:
    return entry is not None and entry[0] == FOLDER


def _foldered(entry: tuple[str, str] | None) -> bool:
    return entry is None or entry[0] == FOLDER


def _folder(entry: tuple[str, str] | None) -> str:
    return entry[1] if entry is not None and entry[0] == FOLDER else ""
