"""What a diff is made of, read from its text: which changes must not teach."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fleetssd import config

LOCKFILES = (
    "*.lock", "package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "go.sum", "packages.lock.json",
    "gradle.lockfile", "Package.resolved",
)  # fmt: skip
VENDORED = ("vendor/**", "node_modules/**", "third_party/**", "bower_components/**", "site-packages/**")
GENERATED = (
    "*.min.js", "*.min.css", "*.map", "*.snap", "*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*.pb.go", "*.pb.cc",
    "*.pb.h", "*.generated.*", "*.g.dart", "dist/**", *LOCKFILES, *VENDORED,
)  # fmt: skip
LICENCES = ("LICENSE", "LICENSE.*", "LICENCE", "LICENCE.*", "COPYING", "COPYING.*", "NOTICE", "NOTICE.*", "LICENSES/**")
MARKED_LINES = 20
"""How many lines from its top a file may say that a program wrote it."""
_MARK = re.compile(r"@generated\b|code generated .*do not edit|automatically generated|auto-generated", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PullDiff:
    """A pull request's own change, from git.

    `diff` is the exact output of `git diff`. `files` are (path, content at head) of its text files, `before` the same
    at the base, `executable` the paths that run at the head; `merge_parents` are the parents of the merge commit,
    empty where it could not be had.
    """

    base_commit: str
    head_commit: str
    diff: bytes
    changed_paths: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    merge_parents: tuple[str, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    executable: tuple[str, ...] = ()


def is_agent(login: str, fleet: config.Fleet) -> bool:
    """Tell whether an account matches one of the agents' globs; letter case does not count."""
    return any(fnmatchcase(login.lower(), glob.lower()) for glob in fleet.agents)


def change_refusals(change: PullDiff, rules: config.Records) -> list[str]:
    """Say why a change cannot teach: its size, its kind, or where it lies."""
    diff, paths = change.diff, change.changed_paths
    if not diff:
        return ["empty_diff"]
    reasons = ["too_large"] if len(diff) > rules.max_diff_bytes else _kinds(diff)
    reasons += _written_by_programs(change)
    if any(matches(path, LICENCES) for path in paths):
        reasons.append("licence")
    if any(matches(path, rules.exclude_paths) for path in paths):
        reasons.append("excluded_path")
    if any(escapes(path) for path in paths):
        reasons.append("unsafe_path")
    return reasons


def _written_by_programs(change: PullDiff) -> list[str]:
    """Say where nothing but lock files, other people's code, or what a program wrote was changed."""
    paths, marked = change.changed_paths, {path for path, text in change.files if _marked(text)}
    for code, globs in (("lockfile_only", LOCKFILES), ("vendored", VENDORED), ("generated", GENERATED)):
        if paths and all(matches(path, globs) or (code == "generated" and path in marked) for path in paths):
            return [code]
    return []


def _marked(text: str) -> bool:
    return any(_MARK.search(line) for line in text.split("\n", MARKED_LINES)[:MARKED_LINES])


def matches(path: str, globs: Iterable[str]) -> bool:
    """Tell whether a path matches a glob: `**` crosses folders, a glob without a slash may match the file's name."""
    name = path.rpartition("/")[2]
    for glob in globs:
        if _glob(path, glob) or ("/" not in glob and fnmatchcase(name, glob)):
            return True
        # A folder's name alone means that folder anywhere: vendor/** is also a/vendor/**.
        if glob.endswith("/**") and "/" not in glob[:-3] and f"/{glob[:-3]}/" in f"/{path}":
            return True
    return False


def _glob(path: str, glob: str) -> bool:
    return fnmatchcase(path, glob) or (glob.startswith("**/") and fnmatchcase(path, glob[3:]))


# A line of content starts with a space, a sign or a backslash, so these can only be git's own.
_BINARY = re.compile(rb"^(?:Binary files .* differ|GIT binary patch)$", re.MULTILINE)
_SYMLINK = re.compile(rb"^(?:(?:old|new|new file|deleted file) mode|index \S+) 120000$", re.MULTILINE)
_SUBMODULE = re.compile(rb"^(?:(?:old|new|new file|deleted file) mode|index \S+) 160000$", re.MULTILINE)
_FILE = re.compile(rb"^diff --git ", re.MULTILINE)


def _kinds(diff: bytes) -> list[str]:
    found = (("binary", _BINARY), ("symlink", _SYMLINK), ("submodule", _SUBMODULE))
    reasons = [code for code, pattern in found if pattern.search(diff)]
    if b"\0" in diff and not reasons:  # git looks for it in a file's first 8,000 bytes alone
        reasons.append("binary")
    if not reasons and all(_only_mode(part) for part in _FILE.split(diff)[1:]):
        reasons.append("mode_only")
    if not reasons and _only_whitespace(diff):
        reasons.append("whitespace_only")
    return reasons


def _only_mode(part: bytes) -> bool:
    return b"\nold mode " in part and b"\n@@ " not in part and b"\nrename from " not in part


def _only_whitespace(diff: bytes) -> bool:
    """Tell whether both sides of every change are equal once all white space is gone."""
    hunks = re.split(rb"^@@ .*$", diff, flags=re.MULTILINE)
    if len(hunks) == 1 or re.search(rb"^(?:new|deleted) file mode ", diff, re.MULTILINE):
        return False
    old, new = ([_lines(hunk, sign) for hunk in hunks[1:]] for sign in (b"-", b"+"))
    return old == new


def _lines(hunk: bytes, sign: bytes) -> bytes:
    body = re.split(rb"^diff --git ", hunk, maxsplit=1, flags=re.MULTILINE)[0]
    return b"".join(b"".join(line[1:].split()) for line in body.split(b"\n") if line.startswith(sign))


def escapes(path: str) -> bool:
    """Tell whether a path leaves its folder, or reaches git's own, on any system that may check it out."""
    parts = path.split("/")
    odd = any(char == "\\" or ord(char) < 32 or ord(char) == 127 for char in path)
    return path.startswith("/") or odd or any(part in ("..", ".", "") or _gits_own(part) for part in parts)


def _gits_own(part: str) -> bool:
    """Tell whether some system takes a name for `.git`: letter case, trailing dots and blanks, marks nobody sees."""
    plain = _IGNORED.sub("", part).casefold().partition(":")[0].rstrip(". ")
    return plain in (".git", "git~1", ".gitmodules")


_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
