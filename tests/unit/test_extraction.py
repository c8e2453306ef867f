"""What is found in a completion, in each format; nothing that a model can write is an error."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.extraction import Extracted, Format, Malformed, extract
from fleetssd.solutions import File, Whole, parse_diff, parse_files

DIFF = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
OTHER = DIFF.replace("a.py", "b.py")
PLAIN = DIFF.partition("\n")[2]
PIECES = [
    "```diff\n",
    "```\n",
    "--- a/x\n",
    "+++ b/x\n",
    "@@ -1 +1 @@\n",
    "+y\n",
    "-z\n",
    "### `a.py`\n",
    "\\ No newline\n",
]


def found(text: str, solution_format: Format) -> str:
    """Return what is found."""
    made = extract(text, solution_format)
    assert isinstance(made, Extracted), made
    return made.content


@pytest.mark.parametrize("text", [DIFF, PLAIN, f"Here:\n\n{DIFF}", f"Sure.\n```diff\n{DIFF}```\nDone.\n"])
def test_a_diff_is_found_fenced_or_bare(text: str) -> None:
    """Prose around a fence, and prose before a bare diff, is left out."""
    assert found(text, "diff") in (DIFF, PLAIN)


def test_the_diffs_of_several_fences_are_one() -> None:
    """A model that writes a fence a file means all of them; a fence with something else in it is passed over."""
    text = f"```diff\n{DIFF}```\nrun it:\n```sh\nmake\n```\nand\n```\n{OTHER}```\n"
    assert found(text, "diff") == DIFF + OTHER


@pytest.mark.parametrize("text", ["{0}\n{1}", "\n{0}{1}\n", "{0} \n\n{1}\n\n"])
def test_blank_lines_around_files_mean_nothing(text: str) -> None:
    """Between the files of a diff, before them and after them a model may leave lines empty, as git lets it."""
    made = parse_diff(found(f"```diff\n{text.format(DIFF, OTHER)}```\n", "diff"))
    assert made == parse_diff(DIFF + OTHER)


def test_whole_files_may_be_fenced_loosely() -> None:
    """A blank line before the fence and blanks after its end are none of the file's text."""
    text = "### `a.py`\n\n```python\nx = 3\n``` \n"
    assert parse_files(found(text, "files")) == (Whole("a.py", File("x = 3\n")),)


@pytest.mark.parametrize("which", get_args(Format))
def test_a_row_of_marks_is_read_once(which: Format) -> None:
    """What a collapsed model repeats takes no time that grows with its square."""
    assert isinstance(extract("`" * 2_000_000, which), Extracted if which == "code" else Malformed)


def test_a_fence_inside_a_diff_does_not_end_it() -> None:
    """The lines of a diff begin with a sign, so a fence that a file contains is none of the answer's."""
    inside = "--- a/a.md\n+++ b/a.md\n@@ -1,3 +1,3 @@\n ```\n-one\n+two\n ```\n"
    assert found(f"```diff\n{inside}```\n", "diff") == inside


@pytest.mark.parametrize(
    ("text", "solution_format", "reason"),
    [
        ("", "diff", "empty answer"),
        (" \n", "code", "empty answer"),
        ("No.", "diff", "no diff in the answer"),
        ("No.", "files", "no file in the answer"),
        (DIFF.replace("@@ -1 +1 @@", "@@ -1,9 +1 @@"), "diff", "bad diff: a hunk of 1 and 1 lines says 9 and 1"),
        (DIFF + "That is all.\n", "diff", "bad diff: no diff: 'That is all.'"),
        ("### `a.py`\n```\nx = 1\n", "files", "bad files: the content of a.py has no end"),
        ("x\0y", "diff", "the answer contains a NUL character"),
        ("\ud800", "files", "the answer is not valid Unicode"),
        (f"@@ -{'9' * 5000} +1 @@".join(DIFF.split("@@ -1 +1 @@")), "diff", "bad diff: Exceeds the limit"),
    ],
)
def test_what_is_no_solution_says_why(text: str, solution_format: Format, reason: str) -> None:
    """A malformed answer has a reason that a person can read."""
    made = extract(text, solution_format)
    assert isinstance(made, Malformed)
    assert made.reason.startswith(reason)


@given(
    text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)), which=st.sampled_from(get_args(Format))
)
def test_nothing_that_a_model_writes_is_an_error(text: str, which: Format) -> None:
    """Every text is either a solution or malformed."""
    assert isinstance(extract(text, which), Extracted | Malformed)
