"""Work items: unique files, an exact prompt, and a test script that judges by its exit status."""

from __future__ import annotations

import builtins
import io
import os
import sys

import pytest

from fleetssd.toy.work import REPOSITORIES, WorkItem, some_work


@pytest.fixture(scope="module")
def items() -> list[WorkItem]:
    """Draw as much work as the demo's three nights need."""
    return some_work(0, 900)


def run_test(item: WorkItem, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an item's script as the main module over `code`, without touching a disk."""
    opened: list[str] = []

    def read(path: str, **_: str) -> io.StringIO:
        opened.append(os.path.normpath(path))
        return io.StringIO(code)

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "exists", lambda path: os.path.normpath(path) == f"/task/{item.path}")
        patch.setattr(builtins, "open", read)
        exec(  # noqa: S102  our own generator's output
            compile(item.test, item.test_path, "exec"),
            {"__name__": "__main__", "__file__": f"/task/{item.test_path}"},
        )
    assert opened == [f"/task/{item.path}"]


def test_every_file_is_its_own(items: list[WorkItem]) -> None:
    """No two items of a stream write the same file of the same repository."""
    assert len({(item.repository, item.path) for item in items}) == len(items)
    assert {item.repository for item in items} == set(REPOSITORIES)


def test_a_stream_is_deterministic(items: list[WorkItem]) -> None:
    """The same seed gives the same items, however many are asked for."""
    assert some_work(0, 50) == items[:50]


def test_the_prompt_is_the_issue_body(items: list[WorkItem]) -> None:
    """The body is the sentence the base was trained to see; the title is short and names the function."""
    for item in items[:100]:
        assert item.body == item.problem.prompt
        assert item.title.endswith(item.problem.function)
        assert item.path == f"src/{item.problem.function}.py"
        assert item.test_path == f"tests/test_{item.problem.function}.py"


def test_merged_solutions_pass_their_script(items: list[WorkItem], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every merged solution passes its own test script."""
    for item in items[:120]:
        run_test(item, item.after, monkeypatch)


def test_what_is_mended_fails_its_script(items: list[WorkItem], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong version on main fails the script that comes with the mend."""
    mends = [item for item in items if item.action == "mend"][:20]
    assert len(mends) == 20
    for item in mends:
        assert item.before is not None
        with pytest.raises(AssertionError):
            run_test(item, item.before, monkeypatch)


def test_types_count(items: list[WorkItem], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer equal in value but of another type fails: 1 is not True, 2.0 is not 2."""
    item = next(item for item in items if item.problem.tier == "easy" and isinstance(item.after, str))
    shadow = f"{item.after}\n_right = {item.problem.function}\n"
    shadow += f"def {item.problem.function}(*arguments):\n    return float(_right(*arguments))\n"
    with pytest.raises(AssertionError, match="returned"):
        run_test(item, shadow, monkeypatch)


def test_a_solution_cannot_end_the_test(items: list[WorkItem], monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution that exits with status 0 has not passed."""
    with pytest.raises(AssertionError, match="end the test"):
        run_test(items[0], "raise SystemExit(0)\n", monkeypatch)


def test_a_habit_writes_one_style(items: list[WorkItem]) -> None:
    """With a habit every list problem of one shape is written alike, which free styles are not."""

    def first_words(found: list[WorkItem]) -> set[str]:
        lists = [item for item in found if item.problem.tier == "medium"]
        return {item.after.split("\n")[1].split()[0] for item in lists}

    assert len(first_words(some_work(9, 60, habit=5))) <= 2
    assert len(first_words(items[:60])) > 2


def test_repositories_share_the_work(items: list[WorkItem]) -> None:
    """Every repository gets about a third of the items, and some of every slice."""
    for name in REPOSITORIES:
        mine = [item for item in items if item.repository == name]
        assert 240 <= len(mine) <= 360
        assert len({item.slices for item in mine}) == 6


def test_slices_are_labelled(items: list[WorkItem]) -> None:
    """Every item counts for house or plain and for its tier, and all six slices are filled."""
    assert len({item.slices for item in items}) == 6


def test_work_needs_no_torch() -> None:
    """Drawing work loads nothing that trains."""
    assert "fleetssd.toy.work" in sys.modules
    assert "fleetssd.toy.model" not in sys.modules
