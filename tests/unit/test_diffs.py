"""What a diff is made of."""

from __future__ import annotations

import pytest

from fleetssd import config
from fleetssd.diffs import change_refusals, matches

RULES = config.Records(exclude_paths=("secret/**", "*.sql"))
HEAD = b"diff --git a/a b/a\nindex 1..2 100644\n--- a/a\n+++ b/a\n"


def refusals(diff: bytes, *paths: str) -> list[str]:
    """Return why a change is refused; it lies in src/a.py unless said otherwise."""
    return change_refusals(diff, paths or ("src/a.py",), RULES)


def test_a_change_of_text_may_teach() -> None:
    """An ordinary hunk, an added file, a rename: nothing stands against them."""
    assert refusals(HEAD + b"@@ -1 +1 @@\n-a\n+b\n") == []
    assert (
        refusals(b"diff --git a/a b/a\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+ \n")
        == []
    )
    assert (
        refusals(b"diff --git a/a b/b\nold mode 1\nnew mode 2\nsimilarity index 100%\nrename from a\nrename to b\n")
        == []
    )


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b"index 1..2 100644\nBinary files a/a and b/a differ\n", "binary"),
        (b"index 1..2 100644\nGIT binary patch\nliteral 1\n", "binary"),
        (b"new file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/a\n@@ -0,0 +1 @@\n+/etc/passwd\n", "symlink"),
        (b"index 1..2 120000\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n", "symlink"),
        (
            b"index 1..2 160000\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n",
            "submodule",
        ),
        (b"old mode 100644\nnew mode 100755\n", "mode_only"),
        (b"index 1..2 100644\n--- a/a\n+++ b/a\n@@ -1,2 +1 @@\n-a  b\n-c\n+a b c\n", "whitespace_only"),
    ],
)
def test_kinds_that_must_not_teach(lines: bytes, code: str) -> None:
    """Each kind of change that carries no text to learn has its code."""
    assert refusals(b"diff --git a/a b/a\n" + lines) == [code]


def test_content_cannot_pose_as_a_header() -> None:
    """Lines of content carry a sign, so they never look like git's own."""
    text = b"@@ -1 +1,3 @@\n-a\n+Binary files a and b differ\n+old mode 100644\n+new file mode 120000\n"
    assert refusals(HEAD + text) == []


def test_white_space_is_judged_hunk_by_hunk() -> None:
    """A line that moved from one hunk to another is a change."""
    moved = HEAD + b"@@ -1,2 +1 @@\n x\n-a\n@@ -9 +8,2 @@\n y\n+a\n"
    assert refusals(moved) == []


def test_several_files_are_judged_together() -> None:
    """A white-space change beside a real one is part of a real change, in whichever file."""
    space = HEAD + b"@@ -1 +1 @@\n-a\n+ a\n"
    assert refusals(space + HEAD) == ["whitespace_only"]
    assert refusals(space + HEAD + b"@@ -1 +1 @@\n-a\n+b\n") == []


def test_an_empty_diff_has_one_reason() -> None:
    """No bytes, no other question."""
    assert refusals(b"") == ["empty_diff"]


def test_a_large_diff_is_not_read() -> None:
    """Its size is reason enough; its kind is not looked for."""
    assert change_refusals(b"x" * 11, ("a",), config.Records(max_diff_bytes=10)) == ["too_large"]


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (("package-lock.json", "web/yarn.lock"), "generated"),
        (("a/vendor/lib/x.go",), "generated"),
        (("x_pb2.py",), "generated"),
        (("LICENSE", "src/a.py"), "licence"),
        (("docs/COPYING.txt",), "licence"),
        (("secret/plan.txt",), "excluded_path"),
        (("db/up.sql",), "excluded_path"),
        (("../outside",), "unsafe_path"),
        (("/etc/passwd",), "unsafe_path"),
        (("a/.GIT/config",), "unsafe_path"),
    ],
)
def test_where_a_change_must_not_lie(paths: tuple[str, ...], code: str) -> None:
    """Generated files alone, licences, excluded and unsafe paths refuse a change."""
    assert refusals(HEAD + b"@@ -1 +1 @@\n-a\n+b\n", *paths) == [code]


def test_generated_files_may_come_along() -> None:
    """A lock file beside a source file refuses nothing."""
    assert refusals(HEAD + b"@@ -1 +1 @@\n-a\n+b\n", "uv.lock", "src/a.py") == []


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        ("tests/unit/a.py", "tests/**", True),
        ("src/tests/a.py", "tests/**", True),
        ("src/a_test.py", "**/*_test.*", True),
        ("a_test.py", "**/*_test.*", True),
        ("src/test_a.py", "test_*", True),
        ("src/attest_a.py", "test_*", False),
        ("src/latests/a.py", "tests/**", False),
        ("a/b/c.py", "a/*/c.py", True),
    ],
)
def test_globs_cross_folders_as_told(path: str, glob: str, expected: bool) -> None:
    """`**` crosses folders, a bare name matches in every folder."""
    assert matches(path, [glob]) is expected
