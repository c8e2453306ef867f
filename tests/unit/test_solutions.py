"""Solutions as text: read, written, applied, and refused where they do not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt
from fleetssd.solutions import (
    EXECUTABLE,
    File,
    Patch,
    Whole,
    apply_diff,
    apply_files,
    parse_diff,
    parse_files,
    render_files,
    touched,
)

TEXTS = st.text(st.sampled_from("ab\n\r`~#\f é"), max_size=40)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=12)
FILES = st.one_of(st.none(), st.builds(File, TEXTS, st.sampled_from(["100644", EXECUTABLE])))
EDIT = "--- a/x\n+++ b/x\n@@ -{start},2 +{start},2 @@\n one\n-two\n+TWO\n"


@given(st.dictionaries(PATHS, FILES, max_size=4))
def test_whole_files_survive_their_text(files: dict[str, File | None]) -> None:
    """Any path and any content come back from the text as they went in."""
    wholes = tuple(Whole(path, file) for path, file in files.items())
    assert parse_files(render_files(wholes)) == wholes


def test_prose_around_the_files_is_passed_over() -> None:
    """A model may talk; a heading and its fence are what counts."""
    text = "Here it is:\n\n### `a.py`\n```python\nA = 1\n```\nDone.\n"
    assert parse_files(text) == (Whole("a.py", File("A = 1\n")),)


@pytest.mark.parametrize("text", ["### `a`\nno fence\n", "### `a`\n```\nopen\n", "### `a`"])
def test_a_file_without_its_content_is_refused(text: str) -> None:
    """A heading needs a fence that ends."""
    with pytest.raises(Corrupt):
        parse_files(text)


def test_a_deleted_file_must_be_there() -> None:
    """Deleting what is not there does not fit."""
    assert apply_files({"a": File("x")}, [Whole("a", None), Whole("b", File("y"))]) == {"b": File("y")}
    with pytest.raises(Corrupt):
        apply_files({}, [Whole("a", None)])


@pytest.mark.parametrize("start", [1, 3, 900])
def test_a_wrong_line_number_is_forgiven_where_the_place_is_clear(start: int) -> None:
    """A hunk goes where its old lines stand."""
    patches = parse_diff(EDIT.format(start=start))
    assert apply_diff({"x": File("zero\n\none\ntwo\n")}, patches) == {"x": File("zero\n\none\nTWO\n")}


@pytest.mark.parametrize("text", ["one\n2\n", "one\ntwo\none\ntwo\n", ""])
def test_a_hunk_without_its_place_is_refused(text: str) -> None:
    """No place, or two of them, fits nowhere."""
    with pytest.raises(Corrupt, match="not there"):
        apply_diff({"x": File(text)}, parse_diff(EDIT.format(start=9)))


@pytest.mark.parametrize(
    "text",
    [
        "hello\n",
        "diff --git a/x b/x\nsurprise\n",
        "--- a/x\n+++ b/x\n@@ -1,3 +1,1 @@\n a\n",
        "--- a/x\n+++ b/x\n@@ nonsense @@\n",
        "--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+a\n",
    ],
)
def test_what_is_no_diff_is_refused(text: str) -> None:
    """A text that is no diff, or a hunk that counts wrongly, is Corrupt."""
    with pytest.raises(Corrupt):
        parse_diff(text)


@pytest.mark.parametrize(
    "patch",
    [
        Patch("gone", "gone"),
        Patch(None, "there"),
        Patch("there", None),
        Patch("there", "there", binary=True),
    ],
)
def test_a_patch_must_fit_its_tree(patch: Patch) -> None:
    """A missing file, one that is there already, a deletion that leaves text, a binary change: refused."""
    with pytest.raises(Corrupt):
        apply_diff({"there": File("x\n")}, [patch])


def test_an_empty_context_line_may_have_lost_its_blank() -> None:
    """Editors strip trailing blanks; an empty line in a hunk is a context line."""
    text = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n"
    assert apply_diff({"x": File("a\n\nb\n")}, parse_diff(text)) == {"x": File("a\n\nc\n")}


def test_touched_names_both_ends_of_a_rename() -> None:
    """A rename touches the old path and the new one."""
    text = "diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n"
    assert touched(parse_diff(text)) == ("x", "y")
    assert apply_diff({"x": File("1", EXECUTABLE)}, parse_diff(text)) == {"y": File("1", EXECUTABLE)}


def git(*lines: str) -> str:
    """Return lines as a diff."""
    return "".join(f"{line}\n" for line in lines)


DIFFS = {
    "a rename with an edit and a mode": (
        git(
            "diff --git a/old.py b/new.py",
            "old mode 100644",
            "new mode 100755",
            "similarity index 66%",
            "rename from old.py",
            "rename to new.py",
            "index 1..2",
            "--- a/old.py",
            "+++ b/new.py",
            "@@ -1,3 +1,3 @@",
            " a",
            "-b",
            "+B",
            " c",
        ),
        {"old.py": File("a\nb\nc\n")},
        {"new.py": File("a\nB\nc\n", EXECUTABLE)},
    ),
    "a mode alone": (
        git(
            "diff --git a/run.sh b/run.sh",
            "old mode 100644",
            "new mode 100755",
        ),
        {"run.sh": File("x\n")},
        {"run.sh": File("x\n", EXECUTABLE)},
    ),
    "a copy beside its edited source": (
        git(
            "diff --git a/a b/b",
            "similarity index 100%",
            "copy from a",
            "copy to b",
            "diff --git a/a b/a",
            "index 1..2 100644",
            "--- a/a",
            "+++ b/a",
            "@@ -1 +1 @@",
            "-x",
            "+y",
        ),
        {"a": File("x\n")},
        {"a": File("y\n"), "b": File("x\n")},
    ),
    "no newline at the end, on either side": (
        git(
            "diff --git a/a b/a",
            "index 1..2 100644",
            "--- a/a",
            "+++ b/a",
            "@@ -1,2 +1,2 @@",
            " x",
            "-old",
            "\\ No newline at end of file",
            "+new",
            "\\ No newline at end of file",
        ),
        {"a": File("x\nold")},
        {"a": File("x\nnew")},
    ),
    "a last line without newline that stays": (
        git(
            "diff --git a/a b/a",
            "index 1..2 100644",
            "--- a/a",
            "+++ b/a",
            "@@ -1,2 +1,2 @@",
            "-x",
            "+y",
            " end",
            "\\ No newline at end of file",
        ),
        {"a": File("x\nend")},
        {"a": File("y\nend")},
    ),
    "carriage returns": (
        git(
            "diff --git a/a b/a",
            "index 1..2 100644",
            "--- a/a",
            "+++ b/a",
            "@@ -1,2 +1,2 @@",
            "-x\r",
            "+y\r",
            " z\r",
        ),
        {"a": File("x\r\nz\r\n")},
        {"a": File("y\r\nz\r\n")},
    ),
    "an empty file that comes and one that goes": (
        git(
            "diff --git a/gone b/gone",
            "deleted file mode 100644",
            "index e69de29..0000000",
            "diff --git a/new b/new",
            "new file mode 100755",
            "index 0000000..e69de29",
        ),
        {"gone": File("")},
        {"new": File("", EXECUTABLE)},
    ),
    "a file that goes": (
        git(
            "diff --git a/gone b/gone",
            "deleted file mode 100644",
            "index 1..0",
            "--- a/gone",
            "+++ /dev/null",
            "@@ -1 +0,0 @@",
            "-x",
        ),
        {"gone": File("x\n"), "stays": File("y")},
        {"stays": File("y")},
    ),
    "names that git quotes, and one that ends in a blank": (
        git(
            'diff --git "a/t\\tb\\303\\251" "b/t\\tb\\303\\251"',
            "index 1..2 100644",
            '--- "a/t\\tb\\303\\251"',
            '+++ "b/t\\tb\\303\\251"',
            "@@ -1 +1 @@",
            "-x",
            "+y",
            "diff --git a/end  b/end ",
            "index 1..2 100644",
            "--- a/end \t",
            "+++ b/end \t",
            "@@ -1 +1 @@",
            "-x",
            "+y",
        ),
        {"t\tbé": File("x\n"), "end ": File("x\n")},
        {"t\tbé": File("y\n"), "end ": File("y\n")},
    ),
    "a quoted name of a file that only changes its mode": (
        git(
            'diff --git "a/q\\"" "b/q\\""',
            "old mode 100755",
            "new mode 100644",
        ),
        {'q"': File("x", EXECUTABLE)},
        {'q"': File("x")},
    ),
    "a plain diff of two files, without git's own lines": (
        git(
            "--- a/a",
            "+++ b/a",
            "@@ -0,0 +1 @@",
            "+top",
            "@@ -1 +2,2 @@",
            " x",
            "+y",
            "--- a/b",
            "+++ b/b",
            "@@ -1 +1 @@",
            "-1",
            "+2",
        ),
        {"a": File("x\n"), "b": File("1\n")},
        {"a": File("top\nx\ny\n"), "b": File("2\n")},
    ),
}


@pytest.mark.parametrize("case", DIFFS)
def test_what_git_writes_is_applied(case: str) -> None:
    """Each kind of change that git spells in a way of its own gives the tree after it."""
    text, before, after = DIFFS[case]
    assert apply_diff(before, parse_diff(text)) == after


def test_the_last_line_end_may_be_missing() -> None:
    """A text that was cut at its very end is whole; a head without a change is a patch that changes nothing."""
    assert parse_diff(EDIT.format(start=1)[:-1]) == parse_diff(EDIT.format(start=1))
    twice = parse_diff("--- a/x\n+++ b/x\n" + EDIT.format(start=1))
    assert apply_diff({"x": File("one\ntwo\n")}, twice[1:]) == {"x": File("one\nTWO\n")}
    assert (len(twice), twice[0].hunks) == (2, ())


def test_an_insertion_goes_behind_its_line_or_nowhere() -> None:
    """A hunk without old lines has only its number to go by."""
    text = "--- a/x\n+++ b/x\n@@ -{0},0 +1 @@\n+new\n"
    assert apply_diff({"x": File("a\nb\n")}, parse_diff(text.format(1))) == {"x": File("a\nnew\nb\n")}
    with pytest.raises(Corrupt, match="not there"):
        apply_diff({"x": File("a\n")}, parse_diff(text.format(9)))


def test_a_path_that_cannot_be_shown_is_quoted() -> None:
    """Control characters, back quotes and bytes that are no text are escaped as git escapes them."""
    wholes = (Whole("a\tb", File("x\n")), Whole("`c`\\", None), Whole("\udce9\x01", File("y")))
    text = render_files(wholes)
    assert '### "a\\tb"' in text
    assert '### "\\351\\001" (no newline at the end)' in text
    assert parse_files(text) == wholes
