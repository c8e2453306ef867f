"""Which issues a merged pull request answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.gitea import MergedPull, PullKey
from fleetssd.gitea_links import Reference, candidates, confirm, plain, references

MERGE = datetime(2026, 11, 21, 23, 0, 10, tzinfo=UTC)
PULL = MergedPull(
    key=PullKey("http://forge", 2, 9),
    repository="fleet/links",
    clone_url="",
    title="",
    body="",
    author="agent-1",
    merger="maintainer",
    merged=True,
    merge_commit="m",
    merge_base="b",
    labels=(),
    closed_at=MERGE,
    updated_at="",
)


def at(seconds: int) -> str:
    """Return a time that many seconds after the merge."""
    return (MERGE + timedelta(seconds=seconds)).isoformat()


def ref(action: str, created: int, updated: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a timeline row in which our pull request refers to the issue."""
    issue = {"number": 9, "repository": {"id": 2}}
    times = {"created_at": at(created), "updated_at": at(created if updated is None else updated)}
    return {"type": "pull_ref", "ref_action": action, "ref_issue": issue, **times, **more}


CLOSE = {"type": "close", "created_at": at(1)}


def closed(body: str, **more: Any) -> list[tuple[str, int]]:
    """Return what a body closes."""
    found = references(replace(PULL, body=body), **more)
    return [(reference.repository, reference.number) for reference in found if reference.closes]


def test_a_keyword_binds_one_reference() -> None:
    """`Fixes #1, #2` closes the first and mentions the second."""
    assert references(replace(PULL, body="Fixes #1, #2")) == [
        Reference("fleet/links", 1, True),
        Reference("fleet/links", 2, False),
    ]
    assert closed("Fixes #1, fixes #2") == [("fleet/links", 1), ("fleet/links", 2)]


def test_the_title_is_plain_text() -> None:
    """A keyword in the title closes; marks in it are only characters."""
    found = references(replace(PULL, title="Fixes #4 at last", body="about #5"))
    assert found == [Reference("fleet/links", 4, True), Reference("fleet/links", 5, False)]


def test_a_comment_closes_too() -> None:
    """The server reads comments on the pull request; a later closing beats an earlier mention."""
    assert references(replace(PULL, body="see #6"), ["this closes #6"]) == [Reference("fleet/links", 6, True)]


def test_another_repository_is_named() -> None:
    """`owner/name#n` is an issue elsewhere; case does not make it another one."""
    assert closed("closes fleet/ledger#1 and closes FLEET/Ledger#1") == [("fleet/ledger", 1)]


def test_a_pull_request_does_not_close_itself() -> None:
    """Its own number in its own text is no issue."""
    assert references(replace(PULL, body="fixes #9")) == []


@pytest.mark.parametrize(
    "body",
    [
        "```\nfixes #1\n```\n",
        "~~~~\n~~~\nfixes #1\n~~~~",
        "```\nfixes #1",
        "para\n\n    fixes #1\n    fixes #2",
        "\tfixes #1",
        "``fixes #1 ` ``",
        "<!-- fixes #1",
        "a <!-- \nfixes #1\n--> b",
        "[fixes #1](http://elsewhere/x)",
    ],
)
def test_code_comments_and_link_texts_are_not_read(body: str) -> None:
    """What renders as code, or not at all, refers to nothing."""
    assert references(replace(PULL, body=body)) == []


def test_text_after_code_is_read_again() -> None:
    """A fence ends where it is closed; a line after code that is not indented is text."""
    assert closed("```\nfixes #1\n```\nfixes #2\n\n    code\nfixes #3") == [("fleet/links", 2), ("fleet/links", 3)]


def test_an_indented_line_inside_a_paragraph_is_text() -> None:
    """Indented code needs a blank line before it."""
    assert closed("and so\n    fixes #1") == [("fleet/links", 1)]


def test_an_underscore_inside_a_name_is_no_mark() -> None:
    """Emphasis ends a run of text, a name with underscores does not."""
    assert closed("fixes fleet/my_own_repo#1") == [("fleet/my_own_repo", 1)]
    assert closed("_fixes_ #1") == []
    assert closed("_fixes #1_") == [("fleet/links", 1)]


def test_addresses_count_for_known_hosts() -> None:
    """An address of the instance is a reference; with hosts given, one of another host is not."""
    body = "fixes http://git.fleet.test/sub/fleet/links/issues/3."
    assert closed(body) == [("fleet/links", 3)]
    assert closed(body, hosts={"git.fleet.test"}) == [("fleet/links", 3)]
    assert closed(body, hosts={"other.test"}) == []


def test_keywords_can_be_set() -> None:
    """A server's own keywords replace the default ones; none at all means that nothing closes."""
    assert closed("heals #1 and fixes #2", keywords=["heals"]) == [("fleet/links", 1)]
    assert closed("fixes #2", keywords=[]) == []


@given(st.text(alphabet="fixes FIXES#!0123456789 \n\t()[]`*_~<>-!/.:", max_size=80))
def test_no_text_is_too_odd(text: str) -> None:
    """Any text is read, with closers first and each issue once."""
    found = references(replace(PULL, title=text, body=text))
    keys = [(reference.repository.lower(), reference.number) for reference in found]
    assert len(keys) == len(set(keys))
    assert [reference.closes for reference in found] == sorted((r.closes for r in found), reverse=True)


@given(st.text(alphabet="abc `~*_\n#1", max_size=60))
def test_code_marks_do_not_survive_as_fences(text: str) -> None:
    """Reading a text leaves no emphasis mark behind."""
    assert "*" not in plain(text)


def test_a_row_at_the_merge_confirms() -> None:
    """A `closes` row that is not younger than the merge links; a close at the same time is the strongest sign."""
    link = confirm(PULL, "fleet/links", 3, [ref("closes", -5), CLOSE])
    assert link is not None
    assert (link.confidence, link.by_merge) == ("closed", True)


def test_an_issue_that_stayed_open_is_still_linked() -> None:
    """Some merges close nothing; the row alone says what the work was for."""
    link = confirm(PULL, "fleet/links", 3, [ref("closes", 0)])
    assert link is not None
    assert (link.confidence, link.by_merge) == ("declared", False)


def test_a_comment_confirms_like_a_body() -> None:
    """`comment_ref` rows count as `pull_ref` rows do."""
    assert confirm(PULL, "fleet/links", 3, [ref("closes", -1, type="comment_ref")]) is not None


def test_a_row_younger_than_the_merge_is_no_link() -> None:
    """A body edited after the merge declares what the merge never did."""
    assert confirm(PULL, "fleet/links", 3, [ref("closes", 1), CLOSE]) is None


def test_an_edited_away_reference_needs_the_close() -> None:
    """A row neutered after the merge links only where the issue was closed together with it."""
    rows = [ref("neutered", -5, 60)]
    assert confirm(PULL, "fleet/links", 3, rows) is None
    assert confirm(PULL, "fleet/links", 3, [*rows, CLOSE]) is not None
    assert confirm(PULL, "fleet/links", 3, [ref("neutered", -5, -2), CLOSE]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"ref_action": "none"},
        {"type": "issue_ref"},
        {"ref_issue": None},
        {"ref_issue": {"number": 8, "repository": {"id": 2}}},
        {"ref_issue": {"number": 9, "repository": {"id": 3}}},
        {"ref_issue": {"number": 9, "repository": None}},
        {"created_at": None},
    ],
)
def test_rows_of_others_confirm_nothing(change: dict[str, Any]) -> None:
    """Only a closing row of this very pull request counts."""
    assert confirm(PULL, "fleet/links", 3, [{**ref("closes", -5), **change}, CLOSE]) is None


def test_an_unmerged_pull_request_closes_nothing() -> None:
    """The row says `closes` on pull requests that were closed without a merge, too."""
    assert confirm(replace(PULL, merged=False), "fleet/links", 3, [ref("closes", -5)]) is None
    assert confirm(replace(PULL, closed_at=None), "fleet/links", 3, [ref("closes", -5)]) is None


def test_a_pushed_keyword_proves_no_merge() -> None:
    """Where a commit may have closed the issue, its closing does not show that a person merged."""
    commit = {"type": "commit_ref", "created_at": at(-1)}
    link = confirm(PULL, "fleet/links", 3, [ref("closes", -5), commit, CLOSE])
    assert link is not None
    assert (link.confidence, link.by_merge) == ("closed", False)


def test_null_rows_are_passed_over() -> None:
    """Old servers put null items into timelines."""
    rows: list[Any] = [None, ref("closes", -5)]
    assert confirm(PULL, "fleet/links", 3, rows) is not None


@pytest.mark.parametrize(
    "body",
    [
        "- step\n\n    fixes #1",
        "fixes http://elsewhere/fleet/links/issues/1#issuecomment-7",
        "fixes http://forge/sub/path/fleet/links/issues/1?x=y",
        "fixes `#1`",
        "**Fixes** #1",
        "Closes: the one in #1",
        "fixes fleet/links#1|",
        "fixes GH#1 and fixes #1!",
    ],
)
def test_what_a_server_may_read_otherwise_is_a_candidate(body: str) -> None:
    """Marks, code, addresses and delimiters that servers read differently do not hide a reference."""
    assert Reference("fleet/links", 1, True) in candidates(replace(PULL, body=body))


def test_a_candidate_is_a_closer_where_a_keyword_is_the_last_thing_named_before_it() -> None:
    """The keyword binds the next reference in its line alone; what it closes for sure stays first."""
    found = candidates(replace(PULL, title="About #4", body="see #5\nFixes the #1, #2"), ["resolves #3"])
    assert [(reference.number, reference.closes) for reference in found] == [
        (3, True), (1, True), (4, False), (5, False), (2, False),
    ]  # fmt: skip


@pytest.mark.parametrize("body", ["&#39;", "fixes ../..#1", "fixes ./a#1", "a/b/#1", "x#1", "#1st", "fixes #9"])
def test_what_names_no_issue_is_no_candidate(body: str) -> None:
    """An entity, a path that climbs, a fragment, a word, and the pull request itself."""
    assert candidates(replace(PULL, body=body)) == []


@given(st.text(alphabet="fixes #!1234()[]`*_~\n\t/ab.-", max_size=60))
def test_every_reference_is_a_candidate(body: str) -> None:
    """What the strict reading finds, the wide one finds too, and a closer stays one."""
    wide = {(ref.repository.lower(), ref.number, ref.closes) for ref in candidates(replace(PULL, body=body))}
    for ref in references(replace(PULL, body=body)):
        assert {(ref.repository.lower(), ref.number, closes) for closes in (ref.closes, True)} & wide
