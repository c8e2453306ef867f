"""Which pull requests another one takes back."""

from __future__ import annotations

import pytest

from fleetssd.gitea import PullKey, PullRow
from fleetssd.reverts import claims, is_revert, taken_back

COMMIT = "6bc7d0367dd8b18426280d12babf8901a7cd2c09"


def row(title: str, body: str = "", *, merged: bool = True) -> PullRow:
    """Make a merged pull request number 31 of repository 1."""
    return PullRow(PullKey("f", 1, 31), "fleet/a", title, body, "maintainer", merged, (), None, "")


def about(found: PullRow, *, number: int = 2, commit: str = COMMIT, repository: int = 1) -> bool:
    """Tell whether a row takes back pull request `number`, merged as `commit`."""
    return taken_back(PullKey("f", repository, number), ["", commit], claims([found]))


@pytest.mark.parametrize(
    ("title", "body", "expected"),
    [
        ('Revert "Mend the belt (#2)"', "", True),
        ("revert: “Mend the belt”", "", True),
        ("Undo", f"This reverts commit {COMMIT}.", True),
        ("Reverting relays", "We reverts nothing", False),
        ("Revert to the old belt", "Reverts #2 in spirit", False),
    ],
)
def test_the_forms_of_a_revert(title: str, body: str, expected: bool) -> None:
    """Git's and the forges' own forms count, a word in a sentence does not."""
    assert is_revert(title, body) is expected


def test_a_revert_names_its_commit() -> None:
    """`This reverts commit` decides, whole or shortened; the number quoted in the title then does not."""
    assert about(row('Revert "T (#7)"', f"This reverts commit {COMMIT}."))
    assert about(row('Revert "T"', f"This reverts commit {COMMIT[:10]}."))
    assert not about(row('Revert "T (#2)"', f"This reverts commit {'0' * 40}."))


def test_a_revert_names_its_pull_request() -> None:
    """`Reverts owner/name#n` of the same repository, or the number that the title quotes last."""
    assert about(row('Revert "T"', "Reverts fleet/a#2"))
    assert about(row('Revert "T"', "Reverts #2"))
    assert not about(row('Revert "T"', "Reverts fleet/b#2"))
    assert about(row("Revert \"Merge pull request 'T' (#2) from b into main\""))
    assert not about(row('Revert "Revert "T (#2)" (#5)"'))


def test_only_merged_reverts_of_the_same_repository_count() -> None:
    """An open revert, one elsewhere, or a title that names nothing takes nothing back."""
    revert = row('Revert "T (#2)"')
    assert about(revert)
    assert not about(revert, repository=2)
    assert not about(row('Revert "T (#2)"', merged=False))
    assert not about(row('Revert "T"'))
