"""The forge without I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import gitea
from fleetssd.gitea import PullKey

ROW: dict[str, Any] = {
    "number": 7,
    "title": "Fix it",
    "body": "Fixes #3",
    "user": {"id": 4, "login": "agent-1"},
    "labels": [{"name": "bug"}, None, {"name": "bug"}],
    "updated_at": "2026-11-21T23:31:17+01:00",
    "closed_at": "2026-11-21T23:31:17+01:00",
    "pull_request": {"merged": True},
    "repository": {"id": 2, "full_name": "fleet/conveyor"},
}
DETAIL: dict[str, Any] = {
    **ROW,
    "merged": True,
    "merged_by": {"id": 2, "login": "maintainer"},
    "merge_commit_sha": "m" * 40,
    "merge_base": "b" * 40,
    "comments": 2,
    "base": {"repo": {"id": 2, "full_name": "fleet/conveyor", "clone_url": "http://elsewhere/fleet/conveyor.git"}},
}


def test_a_row_keeps_who_wrote_it_and_whether_it_merged() -> None:
    """A row of an issue list becomes a value with its key, author, labels (each once) and UTC time."""
    found = gitea.parse_row(ROW, "http://forge")
    assert found is not None
    assert found.key == PullKey("http://forge", 2, 7)
    assert (found.author, found.merged, found.labels) == ("agent-1", True, ("bug",))
    assert found.closed_at == datetime(2026, 11, 21, 22, 31, 17, tzinfo=UTC)
    assert found.updated_at == "2026-11-21T23:31:17+01:00"


@pytest.mark.parametrize("part", ["pull_request", "repository"])
def test_a_row_that_is_no_pull_request_is_nothing(part: str) -> None:
    """An issue's row, or one without its repository, is not a pull request."""
    assert gitea.parse_row({**ROW, part: None}, "http://forge") is None


def test_a_detail_keeps_merger_and_commits() -> None:
    """The detail gives the merger, the merge commit and the merge base."""
    found = gitea.parse_pull(DETAIL, "http://forge")
    assert (found.merger, found.merged) == ("maintainer", True)
    assert (found.merge_commit, found.merge_base, found.comments) == ("m" * 40, "b" * 40, 2)


def test_git_is_asked_at_the_configured_server_only() -> None:
    """The clone address comes from the configured root, whatever host the answer names."""
    assert gitea.parse_pull(DETAIL, "http://forge/git/").clone_url == "http://forge/git/fleet/conveyor.git"


@pytest.mark.parametrize(("told", "read"), [(True, True), (False, False), (None, None), ("yes", None)])
def test_a_server_may_not_say_whether_it_detects_merges(told: Any, read: bool | None) -> None:
    """Only a boolean counts as an answer; older servers have no such field."""
    detail = {**DETAIL, "base": {"repo": {**DETAIL["base"]["repo"], "autodetect_manual_merge": told}}}
    assert gitea.parse_pull(detail, "http://forge").autodetects is read


def test_missing_people_and_texts_are_empty() -> None:
    """Null fields are empty values, never errors."""
    found = gitea.parse_pull(
        {**DETAIL, "user": None, "merged_by": None, "body": None, "labels": None, "comments": None}, "http://forge"
    )
    assert (found.author, found.merger, found.body, found.labels, found.comments) == ("", "", "", (), 0)


def test_an_account_without_login_goes_by_its_username() -> None:
    """`username` stands in for a missing `login`; a deleted account keeps its Ghost."""
    assert gitea.login({"username": "agent-2"}) == "agent-2"
    assert gitea.login({"id": -1, "login": "Ghost"}) == "Ghost"


def test_an_issue_is_named_by_the_server() -> None:
    """The issue's repository is spelt as the server spells it, not as the reference did."""
    issue = {**ROW, "pull_request": None}
    found = gitea.parse_issue(issue, "FLEET/Conveyor")
    assert found is not None
    assert (found.repository, found.number, found.repository_id) == ("fleet/conveyor", 7, 2)


def test_an_issue_without_its_repository_keeps_the_name_asked_for() -> None:
    """A server that leaves the repository out is believed about the rest."""
    found = gitea.parse_issue({**ROW, "pull_request": None, "repository": None}, "fleet/x")
    assert found is not None
    assert (found.repository, found.repository_id) == ("fleet/x", 0)


def test_a_pull_request_is_no_issue() -> None:
    """The issue endpoint answers for pull requests too; those are no closing issues."""
    assert gitea.parse_issue(ROW, "fleet/conveyor") is None


@pytest.mark.parametrize(
    "never",
    [
        None,
        "",
        "1970-01-01T00:00:00Z",
        "1970-01-01T01:00:00+01:00",
        "0001-01-01T00:00:00Z",
        "soon",
        "2026-11-21T10:00:00",
        3,
    ],
)
def test_never_is_no_time(never: Any) -> None:
    """Null, the zero times in any zone, and what is no time at all read as None."""
    assert gitea.moment(never) is None


@given(st.datetimes(datetime(1971, 1, 2), datetime(9000, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_times_survive_the_zone_they_are_told_in(naive: datetime, minutes: int) -> None:
    """A moment written in any zone is read as the same moment, and asked for with a Z."""
    moment = naive.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=minutes)))
    assert gitea.moment(moment.isoformat()) == moment
    assert gitea.moment(gitea.stamp(moment)) == moment


@pytest.mark.parametrize(
    ("value", "expected"), [(None, []), ({}, []), ([None, {"a": 1}, 3], [{"a": 1}]), ([], []), ("x", [])]
)
def test_arrays_and_items_may_be_null(value: Any, expected: list[Any]) -> None:
    """A null array is empty; items that are no objects are dropped."""
    assert gitea.items(value) == expected


def test_the_poll_asks_for_closed_pull_requests_of_the_whole_instance() -> None:
    """One search covers all repositories; page and limit always go together."""
    request = gitea.search_request(datetime(2026, 11, 21, 12, tzinfo=UTC), None, 2, 50)
    assert request.path == "/api/v1/repos/issues/search"
    assert dict(request.query) == {
        "type": "pulls", "state": "closed", "since": "2026-11-21T12:00:00Z", "limit": "50", "page": "2",
    }  # fmt: skip
    assert "since" not in dict(gitea.search_request(None, None, 1, 50).query)


def test_names_are_quoted_in_paths() -> None:
    """Whatever a repository is called, it stays inside its path."""
    assert gitea.pull_request("a/b", 1).path == "/api/v1/repos/a/b/pulls/1"
    assert gitea.issue_request("a/b?x", 2).path == "/api/v1/repos/a/b%3Fx/issues/2"
    assert gitea.timeline_request("a/b c", 3) == gitea.Request("/api/v1/repos/a/b%20c/issues/3/timeline")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("/api/v1/repos/new/name", True),
        ("http://forge:3000/x", True),
        ("https://forge:3000/x", False),
        ("http://forge:3000@evil/x", False),
        ("//evil/x", False),
    ],
)
def test_a_redirect_must_stay_with_the_server(url: str, same: bool) -> None:
    """Only a relative address, or the very same scheme, host and port, may see the token."""
    assert gitea.same_host("http://forge:3000", url) is same


@pytest.mark.parametrize(
    ("asked", "path", "query"),
    [
        (
            gitea.list_request("o/r", "agent-1", datetime(2026, 11, 22, tzinfo=UTC), None, 2, 50),
            "/repos/o/r/issues",
            "type=pulls state=closed since=2026-11-22T00:00:00Z created_by=agent-1 limit=50 page=2",
        ),
        (
            gitea.list_request("o/r", "", None, None, 1, 5),
            "/repos/o/r/issues",
            "type=pulls state=closed limit=5 page=1",
        ),
        (
            gitea.search_request(datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC), 1, 50),
            "/repos/issues/search",
            "type=pulls state=closed since=2026-11-22T00:00:00Z before=2026-11-23T00:00:00Z limit=50 page=1",
        ),
        (gitea.repository_request("o/r"), "/repos/o/r", ""),
        (gitea.repositories_request("a/b", 1, 50), "/orgs/a%2Fb/repos", "limit=50 page=1"),
        (gitea.repositories_request("", 3, 50), "/repos/search", "limit=50 page=3"),
        (gitea.settings_request(), "/settings/api", ""),
        (gitea.commit_request("o/r", "main/x"), "/repos/o/r/git/commits/main%2Fx", ""),
        (gitea.diff_request("o/r", 7), "/repos/o/r/pulls/7.diff", ""),
        (gitea.head_request("o/r", 7), "/repos/o/r/git/refs/pull/7/head", ""),
        (gitea.pull_request("o/r", 7), "/repos/o/r/pulls/7", ""),
        (gitea.issue_request("o/r", 7), "/repos/o/r/issues/7", ""),
        (gitea.timeline_request("o/r", 7), "/repos/o/r/issues/7/timeline", ""),
    ],
)
def test_every_question_has_its_address(asked: gitea.Request, path: str, query: str) -> None:
    """A request is a path below the API's root and a query, in this order; what is not asked for is not there."""
    assert asked.path == f"/api/v1{path}"
    assert " ".join("=".join(pair) for pair in asked.query) == query


def test_what_could_not_be_read_says_how_often_and_when_again() -> None:
    """The note never equals a time of the server, and every other text counts as none."""
    later = datetime(2026, 11, 22, 3, tzinfo=UTC)
    text = gitea.unread(4, later)
    assert (gitea.unread_times(text), gitea.moment(text)) == (4, None)
    assert gitea.unread_due(text, later)
    assert not gitea.unread_due(text, later - timedelta(seconds=1))
    for other in ("", "2026-11-22T03:00:00Z", "gone", "unread x 2026", "unread 4"):
        assert gitea.unread_times(other) == 0
    assert gitea.unread_due("unread 4 soon", later)


def test_a_row_is_that_of_its_detail() -> None:
    """What a list would show of a pull request stands in its detail."""
    assert gitea.row_of(gitea.parse_pull(DETAIL, "http://forge")) == gitea.parse_row(ROW, "http://forge")


def test_the_comments_of_a_timeline_are_read() -> None:
    """Other rows, empty texts and comments without a time are none."""
    said = {"type": "comment", "user": {"login": "ann"}, "body": "Why?", "created_at": "2026-11-22T03:00:00Z"}
    timeline = [said, {**said, "type": "label"}, {**said, "body": None}, {**said, "created_at": None}]
    assert gitea.parse_comments(timeline) == (gitea.Comment("ann", "Why?", datetime(2026, 11, 22, 3, tzinfo=UTC)),)


def test_a_commit_is_read_with_its_parents() -> None:
    """A root commit may have null for parents; what is no commit is an error."""
    body = {"sha": "c" * 40, "commit": {"message": "Mend"}, "parents": [{"sha": "p" * 40}]}
    assert gitea.parse_commit(body) == gitea.Commit("c" * 40, "Mend", ("p" * 40,))
    assert gitea.parse_commit({**body, "parents": None}).parents == ()
    with pytest.raises((KeyError, TypeError)):
        gitea.parse_commit({"sha": "c" * 40, "commit": None})


@pytest.mark.parametrize(
    ("body", "sha"),
    [
        ([{"ref": "refs/pull/7/head", "object": {"sha": "h"}}], "h"),
        ({"object": {"sha": "h"}}, "h"),
        ([{"object": None}], ""),
        ([], ""),
        (None, ""),
        ("h", ""),
    ],
)
def test_a_head_is_an_array_or_an_object(body: Any, sha: str) -> None:
    """Servers differ; none is empty."""
    assert gitea.parse_head(body) == sha


@pytest.mark.parametrize(
    ("body", "cap"),
    [({"max_response_items": 50}, 50), ({"max_response_items": 0}, 0), ({"max_response_items": "9"}, 0), ([], 0)],
)
def test_the_servers_cap_is_a_number_or_not_told(body: Any, cap: int) -> None:
    """Nothing that is no positive number is a cap."""
    assert gitea.page_cap(body) == cap
