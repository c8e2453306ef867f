"""Solutions as text: a unified diff, or whole files; read, and applied to a tree of files.

A tree is {path: File}. What a text says is checked against the tree it is applied to; what does not fit is Corrupt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleetssd.errors import Corrupt

PLAIN, EXECUTABLE = "100644", "100755"
_HINT = "The answer does not fit the files it is about."


@dataclass(frozen=True, slots=True)
class File:
    """A text file with its git mode."""

    text: str
    mode: str = PLAIN


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines that change together: `start` counts from 1 in the old file; a line keeps its line end, if it has one."""

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patch:
    """What a unified diff does to one file; `old` is None where it is made, `new` where it is deleted.

    `mode` is the mode after the change where the diff names one.
    """

    old: str | None
    new: str | None
    mode: str = ""
    hunks: tuple[Hunk, ...] = ()
    copied: bool = False
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """A file in full after the change; `file` is None where it is deleted."""

    path: str
    file: File | None


# --- unified diffs, as `git diff` writes them

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


def parse_diff(text: str) -> tuple[Patch, ...]:
    """Read a unified diff; blank lines around its files are passed over. Raises Corrupt where it is none."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    found, at = [], 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        patch, at = _parse_file(lines, at)
        found.append(patch)
    return tuple(found)


def apply_diff(tree: Mapping[str, File], patches: Iterable[Patch]) -> dict[str, File]:
    """Return the tree after a diff; every file is read as it was before all of it.

    A hunk whose line number is wrong goes where its old lines stand, if that is one place. Raises Corrupt where a file
    or a line is not there.
    """
    patches = list(patches)
    out = {path: file for path, file in tree.items() if path not in {p.old for p in patches if not p.copied}}
    for patch in patches:
        before = _before(tree, patch)
        text = _patched(before.text, patch)
        if patch.new is None:
            if text:
                raise Corrupt(f"{patch.old} is deleted but not empty after its hunks", hint=_HINT)
        elif patch.new in out:
            raise Corrupt(f"{patch.new} is there already", hint=_HINT)
        else:
            out[patch.new] = File(text, patch.mode or before.mode)
    return out


def _parse_file(lines: Sequence[str], at: int) -> tuple[Patch, int]:
    """Read one file's part, from its `diff --git` (or `---`) line on."""
    head: dict[str, str] = {}
    first = lines[at]
    if first.startswith("diff --git "):
        at += 1
    elif not first.startswith("--- "):
        raise Corrupt(f"no diff: {first[:60]!r}", hint=_HINT)
    while at < len(lines) and not lines[at].startswith(("@@ ", "diff --git ")):
        line = lines[at]
        if line.startswith("--- ") and "---" in head:
            break
        for word in _HEADS:
            if line.startswith(f"{word} "):
                head[word] = line[len(word) + 1 :]
                break
        else:
            raise Corrupt(f"no line of a diff: {line[:60]!r}", hint=_HINT)
        at += 1
    hunks = []
    while at < len(lines) and lines[at].startswith("@@ "):
        hunk, at = _parse_hunk(lines, at)
        hunks.append(hunk)
    return _patch(first, head, tuple(hunks)), at


_HEADS = (
    "old mode", "new mode", "new file mode", "deleted file mode", "similarity index", "dissimilarity index",
    "rename from", "rename to", "copy from", "copy to", "index", "---", "+++", "Binary files", "GIT binary patch",
)  # fmt: skip


def _patch(first: str, head: Mapping[str, str], hunks: tuple[Hunk, ...]) -> Patch:
    mode = head.get("new file mode") or head.get("new mode") or head.get("index", "").partition(" ")[2]
    if "rename to" in head or "copy to" in head:
        kind = "rename" if "rename to" in head else "copy"
        old, new = (_unquoted(head.get(f"{kind} {side}", "")) for side in ("from", "to"))
        return Patch(old, new, mode, hunks, copied=kind == "copy")
    if "+++" in head:
        before, after = (_sided(head.get(word, "/dev/null")) for word in ("---", "+++"))
        if before is None and after is None:
            raise Corrupt("a diff of no file", hint=_HINT)
        return Patch(before, after, mode, hunks)
    path = _same_path(first)
    old_path = None if "new file mode" in head else path
    binary = any(word in head for word in ("Binary files", "GIT binary patch"))
    return Patch(old_path, None if "deleted file mode" in head else path, mode, hunks, binary=binary)


def _parse_hunk(lines: Sequence[str], at: int) -> tuple[Hunk, int]:
    match = _HUNK.match(lines[at])
    if match is None:
        raise Corrupt(f"no hunk: {lines[at][:60]!r}", hint=_HINT)
    left, right = (int(match[n]) if match[n] is not None else 1 for n in (2, 4))
    sides: dict[str, list[str]] = {"-": [], "+": []}
    old, new = sides["-"], sides["+"]
    at += 1
    last = ""
    while at < len(lines):
        sign = lines[at][:1] or " "  # an editor that strips trailing blanks empties an empty context line
        if sign == "\\":
            for side in (sides[s] for s in last if sides[s]):
                side[-1] = side[-1].removesuffix("\n")
        elif sign not in "-+ " or (len(old) == left and len(new) == right):
            break
        else:
            last = "-+" if sign == " " else sign
            for side in (sides[s] for s in last):
                side.append(lines[at][1:] + "\n")
        at += 1
    if len(old) != left or len(new) != right:
        raise Corrupt(f"a hunk of {len(old)} and {len(new)} lines says {left} and {right}", hint=_HINT)
    return Hunk(int(match[1]), tuple(old), tuple(new)), at


def _before(tree: Mapping[str, File], patch: Patch) -> File:
    if patch.binary:
        raise Corrupt(f"{patch.new or patch.old} is binary", hint=_HINT)
    if patch.old is None:
        return File("")
    if patch.old not in tree:
        raise Corrupt(f"no file {patch.old}", hint=_HINT)
    return tree[patch.old]


def _patched(text: str, patch: Patch) -> str:
    lines = _lines(text)
    out: list[str] = []
    done = 0
    for hunk in patch.hunks:
        at = _place(lines, hunk, done)
        if at is None:
            raise Corrupt(f"{patch.old or patch.new}: the lines of a hunk are not there", hint=_HINT)
        out += [*lines[done:at], *hunk.new]
        done = at + len(hunk.old)
    return "".join([*out, *lines[done:]])


def _place(lines: Sequence[str], hunk: Hunk, done: int) -> int | None:
    """Return the index at which a hunk's old lines stand, not before `done`."""
    said = hunk.start - 1 if hunk.old else hunk.start  # an empty range names the line before it
    size = len(hunk.old)
    if said >= done and tuple(lines[said : said + size]) == hunk.old and said <= len(lines):
        return said
    if not size:
        return None
    places = [at for at in range(done, len(lines) - size + 1) if tuple(lines[at : at + size]) == hunk.old]
    return places[0] if len(places) == 1 else None


def _lines(text: str) -> list[str]:
    """Cut at newlines alone: a carriage return or a form feed is content."""
    parts = text.split("\n")
    return [*(f"{part}\n" for part in parts[:-1]), *([parts[-1]] if parts[-1] else [])]


def _sided(name: str) -> str | None:
    """Read the name of a `---` or `+++` line: git ends one with a space in it by a tab."""
    name = _unquoted(name.removesuffix("\t"))
    return None if name == "/dev/null" else name.partition("/")[2]


def _same_path(first: str) -> str:
    """Read `diff --git a/P b/P`, where both are one path."""
    names = first.removeprefix("diff --git ")
    if names.startswith('"'):
        return _unquoted(names[: len(names) // 2]).partition("/")[2]
    return names[: len(names) // 2].partition("/")[2]


def _unquoted(name: str) -> str:
    """Read a name as git quotes it: C escapes between double quotes, bytes as octal."""
    if not (len(name) > 1 and name.startswith('"') and name.endswith('"')):
        return name
    out = bytearray()
    for match in re.finditer(r'\\([0-7]{3}|[abtnvfr"\\])|([^\\])', name[1:-1], re.DOTALL):
        if match[2] is not None:
            out += match[2].encode("utf-8", errors="surrogateescape")
        else:
            out.append(int(match[1], 8) if match[1].isdigit() else _ESCAPES[match[1]])
    return out.decode("utf-8", errors="surrogateescape")


# --- whole files

_HEADING = re.compile(r"### (?P<path>`[^`\n]+`|\"(?:[^\"\\\n]|\\.)*\")(?: \((?P<marks>[a-z, ]+)\))?")
_DELETED, _OPEN_END, _RUNS = "deleted", "no newline at the end", "executable"


def render_files(files: Iterable[Whole]) -> str:
    """Write files in full, each under its path in a fence longer than any in its text."""
    return "".join(_render_file(whole) for whole in files)


def parse_files(text: str) -> tuple[Whole, ...]:
    """Read what `render_files` writes; text between the files is passed over. Raises Corrupt where a fence is open."""
    lines, found, at = text.split("\n"), list[Whole](), 0
    while at < len(lines):
        match = _HEADING.fullmatch(lines[at].rstrip())
        at += 1
        if match is None:
            continue
        path = match["path"][1:-1] if match["path"].startswith("`") else _unquoted(match["path"])
        marks = (match["marks"] or "").split(", ")
        if _DELETED in marks:
            found.append(Whole(path, None))
            continue
        body, at = _fenced(lines, at, path)
        ended = body.removesuffix("\n") if _OPEN_END in marks else body
        found.append(Whole(path, File(ended, EXECUTABLE if _RUNS in marks else PLAIN)))
    return tuple(found)


def apply_files(tree: Mapping[str, File], files: Iterable[Whole]) -> dict[str, File]:
    """Return the tree with these files in place. Raises Corrupt where a file that is not there is deleted."""
    out = dict(tree)
    for whole in files:
        if whole.file is not None:
            out[whole.path] = whole.file
        elif out.pop(whole.path, None) is None:
            raise Corrupt(f"no file {whole.path} to delete", hint=_HINT)
    return out


def heading(path: str, *marks: str) -> str:
    """Write a file's heading; a path that cannot stand between back quotes is quoted as git quotes it."""
    odd = "`" in path or any(not char.isprintable() or char == '"' for char in path)
    shown = _quoted(path) if odd else f"`{path}`"
    return f"### {shown}" + (f" ({', '.join(marks)})" if marks else "") + "\n"


def fenced(text: str) -> str:
    """Put a text between fences that no line of it closes; a text without a last newline gets one."""
    longest = max((len(run) for run in re.findall(r"^`{3,}", text, re.MULTILINE)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{fence}\n"


def _render_file(whole: Whole) -> str:
    if whole.file is None:
        return heading(whole.path, _DELETED)
    marks = [_RUNS] if whole.file.mode == EXECUTABLE else []
    marks += [_OPEN_END] if whole.file.text and not whole.file.text.endswith("\n") else []
    return heading(whole.path, *marks) + fenced(whole.file.text)


def _fenced(lines: Sequence[str], at: int, path: str) -> tuple[str, int]:
    """Return the text of the fence that opens at a line, or after blank ones, and the line after it."""
    while at < len(lines) and not lines[at].strip():
        at += 1
    fence = re.fullmatch(r"(`{3,})[^`]*", lines[at]) if at < len(lines) else None
    if fence is None:
        raise Corrupt(f"{path} has no content", hint=_HINT)
    for end in range(at + 1, len(lines)):
        if lines[end].rstrip() == fence[1]:
            return "".join(f"{line}\n" for line in lines[at + 1 : end]), end + 1
    raise Corrupt(f"the content of {path} has no end", hint=_HINT)


def _quoted(path: str) -> str:
    escapes = {value: key for key, value in _ESCAPES.items()}
    out = []
    for byte in path.encode("utf-8", errors="surrogateescape"):
        if byte in escapes:
            out.append(f"\\{escapes[byte]}")
        else:
            out.append(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
    return f'"{"".join(out)}"'


def touched(patches: Iterable[Patch]) -> tuple[str, ...]:
    """Return every path that a diff touches, before or after it, in order."""
    paths = (path for patch in patches for path in (patch.old, patch.new) if path is not None)
    return tuple(dict.fromkeys(paths))
