"""Which pull requests another one takes back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fleetssd.gitea import PullKey, PullRow
from fleetssd.reverts import claims, commit_claim, is_revert, suspects, taken_back

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


def test_a_commit_says_what_it_takes_back() -> None:
    """Git's own sentence counts, however many there are; a commit without it claims nothing."""
    claim = commit_claim(f'Revert "T (#2)"\n\nThis reverts commit {COMMIT.upper()}.', 1)
    assert claim is not None
    assert taken_back(PullKey("f", 1, 9), [COMMIT], [claim])
    assert commit_claim('Revert "T (#2)"', 1) is None


MERGED_AT = "2026-11-22T01:00:00Z"
REF = {"created_at": MERGED_AT, "type": "commit_ref", "ref_commit_sha": COMMIT}
REVERT = {
    "number": 31, "title": 'Revert "T (#2)"', "body": "", "user": {"login": "ann"}, "pull_request": {"merged": True},
    "repository": {"id": 1, "full_name": "fleet/a"},
}  # fmt: skip
PULL_REF = {"created_at": MERGED_AT, "type": "pull_ref", "ref_issue": REVERT}


def suspected(*timeline: Any, since: datetime | None = None) -> tuple[list[int], list[str]]:
    """Return the numbers of the pull requests and the commits that a timeline makes suspect."""
    pulls, commits = suspects(timeline, "f", since, ("o" * 40,))
    return [pull.key.number for pull in pulls], commits


def test_a_timeline_names_its_suspects() -> None:
    """A merged revert, by reference or by comment, and each commit once, own ones left out."""
    own = {**REF, "ref_commit_sha": "o" * 40}
    assert suspected(PULL_REF, REF, REF, own, {"type": "close", "created_at": MERGED_AT}) == ([31], [COMMIT])
    assert suspected({**PULL_REF, "type": "comment_ref"}) == ([31], [])


@pytest.mark.parametrize(
    "row",
    [
        None,
        {**REF, "ref_commit_sha": None},
        {**REF, "ref_commit_sha": "not a commit"},
        {**PULL_REF, "ref_issue": None},
        {**PULL_REF, "ref_issue": {**REVERT, "pull_request": None}},
        {**PULL_REF, "ref_issue": {**REVERT, "pull_request": {"merged": False}}},
        {**PULL_REF, "ref_issue": {**REVERT, "title": "Mend the belt"}},
        {**PULL_REF, "ref_issue": {**REVERT, "repository": {"id": "hidden"}}},
    ],
)
def test_what_takes_nothing_back_is_no_suspect(row: Any) -> None:
    """Null rows, odd commits, issues, unmerged reverts, mentions, and rows about what is hidden from us."""
    assert suspected(row) == ([], [])


def test_only_what_came_since_the_merge_is_suspect() -> None:
    """An earlier row, or one without a time, is about something else."""
    merged = datetime(2026, 11, 22, 1, tzinfo=UTC)
    assert suspected(PULL_REF, REF, since=merged) == ([31], [COMMIT])
    early = "2026-11-22T00:59:59Z"
    assert suspected({**PULL_REF, "created_at": early}, {**REF, "created_at": None}, since=merged) == ([], [])
