"""What an answer does to the files of a repository, with everything that it must not do found before it is run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fleetssd.diffs import escapes, matches
from fleetssd.errors import Corrupt
from fleetssd.extraction import Format, Malformed
from fleetssd.solutions import EXECUTABLE, PLAIN, File, apply_diff, apply_files, parse_diff, parse_files, touched

LINK = "120000"
"""git's mode of a symbolic link; its text is where it points to."""
MAX_BYTES = 8 << 20
MAX_NAME, MAX_PATH = 255, 4_000
"""In bytes, what Linux takes: the sandbox could not write a longer one, and that would be no fault of its own."""


@dataclass(frozen=True, slots=True)
class Change:
    """Files written (path, text) and removed; what of the written is in `executable` may be run."""

    written: tuple[tuple[str, str], ...]
    removed: tuple[str, ...] = ()
    executable: tuple[str, ...] = ()


def applied(
    content: str,
    solution_format: Format,
    tree: Mapping[str, File],
    *,
    guards: Sequence[str] = (),
    tests: Collection[str] = (),
    path: str = "",
) -> Change | Malformed:
    """Apply what `extract` found to a tree of files; `path` is the one file that format `code` writes.

    What matches `guards` stays as it is: an answer that writes tests too is judged by the rest of it. `tests` are
    paths that are written after the answer. A path that leaves the tree, goes through a link or cannot stand beside
    the others, a hunk that does not apply, and an answer that changes nothing are Malformed.
    """
    try:
        before, after = _both(content, solution_format, tree, path)
    except _OffError as error:
        return Malformed(str(error))
    except Corrupt as error:
        return Malformed(f"does not apply: {error.message}")
    changed = {name: file for name, file in after.items() if before.get(name) != file}
    gone = [name for name in before if name not in after]
    kept = {name: file for name, file in changed.items() if not matches(name, guards)}
    removed = [name for name in gone if not matches(name, guards)]
    if not kept and not removed:
        return Malformed("it changes nothing but tests" if changed or gone else "it changes nothing")
    if sum(len(file.text) for file in kept.values()) > MAX_BYTES:
        return Malformed(f"it writes more than {MAX_BYTES >> 20} MiB")
    if clash := _clash(({*tree} - {*removed}) | {*tests}, kept):
        return Malformed(clash)
    return Change(
        tuple((name, file.text) for name, file in kept.items()),
        tuple(removed),
        tuple(name for name, file in kept.items() if file.mode == EXECUTABLE),
    )


class _OffError(Exception):
    """A path or a mode that no answer may have."""


def _both(
    content: str, solution_format: Format, tree: Mapping[str, File], path: str
) -> tuple[dict[str, File], dict[str, File]]:
    """Return the files that an answer touches, before and after it."""
    if solution_format == "code":
        before = _touched(tree, [path])
        return before, {path: File(content, before[path].mode if path in before else PLAIN)}
    if solution_format == "files":
        wholes = parse_files(content)
        before = _touched(tree, [whole.path for whole in wholes])
        return before, apply_files(before, wholes)
    patches = parse_diff(content)
    if odd := {patch.mode for patch in patches} - {"", PLAIN, EXECUTABLE, "100664"}:
        raise _OffError(f"it makes a file of mode {min(odd)[:6]}, which is a link or none at all")
    before = _touched(tree, touched(patches))
    return before, apply_diff(before, patches)


def _touched(tree: Mapping[str, File], paths: Sequence[str]) -> dict[str, File]:
    for path in paths:
        if escapes(path) or _too_long(path):
            raise _OffError(f"{path[:80]!r} is no path inside the repository")
    found = {path: tree[path] for path in paths if path in tree}
    for path, file in found.items():
        if file.mode == LINK:
            raise _OffError(f"{path} is a symbolic link")
    return found


def _clash(others: Collection[str], written: Mapping[str, File]) -> str:
    """Return why the written files cannot stand beside the others, nothing where they can."""
    files = {*others, *written}
    folders = {parent for path in files for parent in _parents(path)}
    for path in written:
        if path in folders:
            return f"does not apply: {path} is a folder"
        if below := next((parent for parent in _parents(path) if parent in files), None):
            return f"does not apply: {below} is no folder"
    return ""


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _too_long(path: str) -> bool:
    name = path.encode(errors="surrogateescape")
    return len(name) > MAX_PATH or any(len(part) > MAX_NAME for part in name.split(b"/"))
