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
