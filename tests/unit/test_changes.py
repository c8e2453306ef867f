"""What an answer does to a repository's files, and what it must not do."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.changes import LINK, Change, applied
from fleetssd.extraction import Extracted, Format, Malformed, extract
from fleetssd.solutions import EXECUTABLE, File, Whole, render_files

TREE = {
    "app.py": File("one = 1\n"),
    "run.sh": File("exit 0\n", EXECUTABLE),
    "docs/guide.md": File("Read.\n"),
    "tests/test_app.py": File("import app\n"),
    "current": File("docs", LINK),
}
GUARDS = ("tests/**", "conftest.py")
PATHS = [
    "app.py",
    "new.py",
    "docs",
    "docs/new.md",
    "app.py/x",
    "tests/test_app.py",
    "conftest.py",
    "current",
    "../x",
    "/x",
]


def files(*wholes: Whole) -> Change | Malformed:
    """Apply an answer of whole files."""
    return applied(render_files(wholes), "files", TREE, guards=GUARDS, tests=("tests/test_app.py",))


def diff(text: str) -> Change | Malformed:
    """Apply a diff."""
    return applied(text, "diff", TREE, guards=GUARDS, tests=("tests/test_app.py",))


def test_only_what_changes_is_written() -> None:
    """A file that stays as it was is not written; a new one that runs is told so."""
    made = files(
        Whole("app.py", File("one = 2\n")),
        Whole("docs/guide.md", TREE["docs/guide.md"]),
        Whole("go.sh", File("exit 1\n", EXECUTABLE)),
        Whole("run.sh", None),
    )
    assert made == Change((("app.py", "one = 2\n"), ("go.sh", "exit 1\n")), ("run.sh",), ("go.sh",))


def test_a_diff_is_applied_where_its_lines_stand() -> None:
    """A renamed file leaves its old place; its content follows the hunks."""
    made = diff("diff --git a/app.py b/main.py\nsimilarity index 50%\nrename from app.py\nrename to main.py\n"
                "--- a/app.py\n+++ b/main.py\n@@ -7 +7 @@\n-one = 1\n+one = 3\n")  # fmt: skip
    assert made == Change((("main.py", "one = 3\n"),), ("app.py",))


def test_tests_stay_as_they_are() -> None:
    """Of an answer that writes tests and what configures them, the rest is kept; where nothing is left, it says so."""
    guarded = [Whole("tests/test_app.py", File("pass\n")), Whole("conftest.py", File("x\n"))]
    assert files(Whole("app.py", File("one = 2\n")), *guarded) == Change((("app.py", "one = 2\n"),))
    assert files(*guarded) == Malformed("it changes nothing but tests")
    assert files(Whole("app.py", TREE["app.py"])) == Malformed("it changes nothing")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../x", "no path inside"),
        ("/etc/passwd", "no path inside"),
        ("a/../../x", "no path inside"),
        (".git/config", "no path inside"),
        ("sub/.GIT/hooks/x", "no path inside"),
        ("x" * 256, "no path inside"),
        ("current", "is a symbolic link"),
        ("current/x.md", "current is no folder"),
        ("app.py/x.py", "app.py is no folder"),
        ("docs", "docs is a folder"),
        ("tests", "tests is a folder"),
    ],
)
def test_a_path_that_cannot_stand_is_malformed(path: str, reason: str) -> None:
    """A path that leaves the tree, goes through a link or clashes fails the answer before anything is written."""
    made = files(Whole(path, File("x = 1\n")))
    assert isinstance(made, Malformed)
    assert reason in made.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--- a/app.py\n+++ b/app.py\n@@ -1 +1 @@\n-two = 2\n+two = 3\n", "the lines of a hunk are not there"),
        ("--- a/gone.py\n+++ b/gone.py\n@@ -1 +1 @@\n-x\n+y\n", "no file gone.py"),
        ("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n", "mode 120000"),
        ("diff --git a/m b/m\nnew file mode 160000\n--- /dev/null\n+++ b/m\n@@ -0,0 +1 @@\n+x\n", "mode 160000"),
        ("diff --git a/app.py b/app.py\nBinary files a/app.py and b/app.py differ\n", "is binary"),
    ],
)
def test_a_diff_that_does_not_fit_is_malformed(text: str, reason: str) -> None:
    """What git would not apply, or what makes a link or a submodule, fails the answer with its reason."""
    made = diff(text)
    assert isinstance(made, Malformed)
    assert reason in made.reason


def test_an_answer_of_absurd_size_is_malformed() -> None:
    """A repeated copy cannot fill the sandbox's wire."""
    made = files(Whole("big.txt", File("x" * (9 << 20))))
    assert made == Malformed("it writes more than 8 MiB")


@given(
    parts=st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(["x = 1\n", "", None])), max_size=4),
    noise=st.sampled_from(["", "```\n", "Well.\n"]),
)
def test_whatever_is_applied_stays_inside_and_leaves_the_tests_alone(
    parts: list[tuple[str, str | None]], noise: str
) -> None:
    """No answer writes or removes a guarded path, a path outside, a link, or a file where a folder is."""
    text = noise + render_files([Whole(path, None if body is None else File(body)) for path, body in parts])
    for solution_format in get_args(Format):
        found = extract(text, solution_format)
        if isinstance(found, Malformed):
            continue
        made = applied(found.content, solution_format, TREE, guards=GUARDS, path="app.py")
        if isinstance(made, Change) and isinstance(found, Extracted):
            touched = {path for path, _ in made.written} | set(made.removed)
            below = {"app.py/x"} if "app.py" in made.removed else set()  # a file may give way to a folder
            assert touched <= {"app.py", "new.py", "docs/new.md"} | below
