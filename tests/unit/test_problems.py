"""Held-out problems: their files and commands, and what is found in a completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt
from fleetssd.problems import Change, Extracted, Malformed, Outcome, Problem, combine, extract

TESTS = (("tests/test_a.py", "assert 1"), ("tests/test_b.py", "assert 2"))


def problem(**changed: object) -> Problem:
    """Return a small problem with some fields changed."""
    fields = {
        "id": "p1",
        "repository": "house/kit",
        "pull": 3,
        "prompt": "Add f.",
        "solution_path": "src/f.py",
        "tests": TESTS,
    }
    return Problem(**(fields | changed))  # type: ignore[arg-type]


def test_files_hold_the_solution_and_every_test() -> None:
    """A run gets the solution at its path and the hidden tests beside it."""
    assert problem().files(Change((("src/f.py", "x = 1\n"),))) == (("src/f.py", "x = 1\n"), *TESTS)


def test_a_test_wins_over_a_solution_of_the_same_path() -> None:
    """A solution cannot take the place of a hidden test."""
    files = dict(problem(solution_path="tests/test_a.py").files(Change((("tests/test_a.py", "pass"),))))
    assert files["tests/test_a.py"] == "assert 1"


def test_every_test_gets_a_command_of_its_own() -> None:
    """The template's {test} becomes each test's path, and quoting is the shell's."""
    made = problem(check="python -m 'my runner' {test}").commands()
    assert made == (
        ("python", "-m", "my runner", "tests/test_a.py"),
        ("python", "-m", "my runner", "tests/test_b.py"),
    )


def test_a_check_without_a_test_in_it_runs_once() -> None:
    """A command that finds its tests itself is run once."""
    assert problem(check="make check").commands() == (("make", "check"),)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.py", "a/../../b.py", "", "a\0b"])
def test_a_path_outside_of_the_work_folder_is_refused(path: str) -> None:
    """No problem may write outside of the folder it is run in."""
    with pytest.raises(Corrupt, match="no path inside"):
        problem(solution_path=path)


def test_a_problem_without_tests_is_refused() -> None:
    """What has no test cannot be examined."""
    with pytest.raises(Corrupt, match="no tests"):
        problem(tests=())


@pytest.mark.parametrize(
    ("completion", "content"),
    [
        ("def f():\n    return 1", "def f():\n    return 1\n"),
        ("\n\ndef f(): return 1  \n\n", "def f(): return 1\n"),
        ("Sure!\n```python\ndef f(): return 1\n```\nDone.", "def f(): return 1\n"),
        ("```\na = 1\n```\nand\n```py\na = 1\nb = 2\n```", "a = 1\nb = 2\n"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1\n"),
        ("~~~py\nx = '```'\n~~~", "x = '```'\n"),
        ("    indented = 1", "    indented = 1\n"),
    ],
)
def test_code_is_found_with_or_without_a_fence(completion: str, content: str) -> None:
    """The longest fenced block is the file; without a fence the whole answer is; an open fence runs to the end."""
    assert extract(completion, "code") == Extracted(content)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("```python\n\n```", "empty"),
        ("x = '\0'", "NUL"),
        ("x = '\ud800'", "Unicode"),
    ],
)
def test_an_unusable_answer_is_malformed_with_its_reason(completion: str, reason: str) -> None:
    """An answer without a solution is a failure that says why, not an error."""
    found = extract(completion, "code")
    assert isinstance(found, Malformed)
    assert reason in found.reason


@given(st.text(alphabet=st.characters(exclude_characters="`~\0", exclude_categories=["Cs"])))
def test_wrapping_code_in_a_fence_changes_nothing(text: str) -> None:
    """A fenced answer and the same answer bare are the same solution."""
    bare = extract(text, "code")
    fenced = extract(f"Here:\n```python\n{text}\n```\n", "code")
    assert bare == fenced


def test_a_fault_is_never_a_pass() -> None:
    """An outcome cannot be both proven and void."""
    with pytest.raises(ValueError, match="proves nothing"):
        Outcome(passed=True, fault=True)


def test_all_runs_of_an_answer_must_pass() -> None:
    """One failed test fails the answer, even beside a fault; a fault alone voids it; no run at all fails it."""
    good, bad = Outcome(passed=True), Outcome(passed=False, detail="assert")
    void = Outcome(passed=False, fault=True)
    assert combine((good, good)) == good
    assert combine((good, void, bad)) == bad
    assert combine((good, void)) == void
    assert combine(()) == Outcome(passed=False)


def test_an_answer_is_a_change_or_says_why_it_is_none() -> None:
    """The solution of a completion is written at its path; a completion without one is malformed."""
    assert problem().answer("```python\nx = 1\n```") == Change((("src/f.py", "x = 1\n"),))
    assert isinstance(problem().answer(""), Malformed)


def test_what_the_merged_change_removed_is_gone_for_every_answer() -> None:
    """A check runs without the tests that the merged change removed, and without what the answer removed."""
    made = problem(removed=("tests/old.py",))
    assert made.gone(Change((), ("src/g.py", "tests/old.py"))) == ("src/g.py", "tests/old.py")
