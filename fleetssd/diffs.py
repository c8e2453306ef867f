"""What a diff is made of, read from its text: which changes must not teach."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fleetssd import config

GENERATED = (
    "*.lock", "*.min.js", "*.min.css", "*.map", "*.snap", "*_pb2.py", "*_pb2_grpc.py", "*.pb.go", "*.generated.*",
    "package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "go.sum", "vendor/**", "node_modules/**",
    "third_party/**", "dist/**",
)  # fmt: skip
LICENCES = ("LICENSE", "LICENSE.*", "LICENCE", "LICENCE.*", "COPYING", "COPYING.*", "NOTICE", "NOTICE.*")


def change_refusals(diff: bytes, paths: Sequence[str], rules: config.Records) -> list[str]:
    """Say why a change cannot teach: its size, its kind, or where it lies."""
    if not diff:
        return ["empty_diff"]
    reasons = ["too_large"] if len(diff) > rules.max_diff_bytes else _kinds(diff)
    if paths and all(matches(path, GENERATED) for path in paths):
        reasons.append("generated")
    if any(matches(path, LICENCES) for path in paths):
        reasons.append("licence")
    if any(matches(path, rules.exclude_paths) for path in paths):
        reasons.append("excluded_path")
    if any(_escapes(path) for path in paths):
        reasons.append("unsafe_path")
    return reasons


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


def _escapes(path: str) -> bool:
    parts = path.split("/")
    return path.startswith("/") or ".." in parts or ".git" in (part.lower() for part in parts)
