"""The forge without I/O: requests as values, payloads in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class PullKey:
    """A pull request for ever: (instance, repository id, number); names may change."""

    instance: str
    repository_id: int
    number: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified webhook delivery: a hint to look at one pull request, or at nothing we know."""

    id: str
    event: str
    repository: str
    repository_id: int
    pull: int | None
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on an issue."""

    author: str
    body: str
    at: datetime


@dataclass(frozen=True, slots=True)
class IssueText:
    """An issue as a prompt sees it."""

    repository: str
    number: int
    title: str
    body: str
    repository_id: int = 0
    author: str = ""
    comments: tuple[Comment, ...] = ()


@dataclass(frozen=True, slots=True)
class PullRow:
    """A closed pull request as an issue list shows it: who wrote it and whether it merged, but no commits."""

    key: PullKey
    repository: str
    title: str
    body: str
    author: str
    merged: bool
    labels: tuple[str, ...]
    closed_at: datetime | None
    updated_at: str


@dataclass(frozen=True, slots=True)
class MergedPull:
    """The detail of a closed pull request, as far as we need it; `merged` is the only truth for merged.

    `autodetects` tells whether the repository takes merges that it only found in git for merges; None where the
    server does not say. `branch` is the one that it was merged into, `size_kb` what
    the server says of the repository's size.
    """

    key: PullKey
    repository: str
    clone_url: str
    title: str
    body: str
    author: str
    merger: str
    merged: bool
    merge_commit: str
    merge_base: str
    labels: tuple[str, ...]
    closed_at: datetime | None
    updated_at: str
    comments: int = 0
    autodetects: bool | None = None
    opened_at: datetime | None = None
    branch: str = ""
    size_kb: int | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as the forge tells it."""

    sha: str
    message: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of the forge's API: a path below its root and a query."""

    path: str
    query: tuple[tuple[str, str], ...] = ()


def search_request(since: datetime | None, before: datetime | None, page: int, limit: int) -> Request:
    """Ask for closed pull requests of the whole instance updated in [`since`, `before`]; page counts from 1.

    `page` and `limit` always go together: alone, some servers ignore them.
    """
    fixed = (("type", "pulls"), ("state", "closed"), *_between(since, before))
    return Request(f"{API}/repos/issues/search", (*fixed, ("limit", str(limit)), ("page", str(page))))


def list_request(
    repository: str, author: str, since: datetime | None, before: datetime | None, page: int, limit: int
) -> Request:
    """Ask for one repository's closed pull requests updated in [`since`, `before`]; no author means anybody's."""
    who = (("created_by", author),) if author else ()
    fixed = (("type", "pulls"), ("state", "closed"), *_between(since, before), *who)
    return Request(f"{API}/repos/{_path(repository)}/issues", (*fixed, ("limit", str(limit)), ("page", str(page))))


def _between(since: datetime | None, before: datetime | None) -> tuple[tuple[str, str], ...]:
    ends = (("since", since), ("before", before))
    return tuple((name, stamp(end)) for name, end in ends if end is not None)


def repository_request(repository: str) -> Request:
    """Ask for a repository, under whatever name it has now."""
    return Request(f"{API}/repos/{_path(repository)}")


def repositories_request(owner: str, page: int, limit: int) -> Request:
    """Ask for an organisation's repositories, or, without an owner, for every repository that the token sees."""
    paging = (("limit", str(limit)), ("page", str(page)))
    return Request(f"{API}/orgs/{quote(owner, safe='')}/repos" if owner else f"{API}/repos/search", paging)


def settings_request() -> Request:
    """Ask for the server's page caps."""
    return Request(f"{API}/settings/api")


def commit_request(repository: str, sha: str) -> Request:
    """Ask for a commit's message and parents."""
    return Request(f"{API}/repos/{_path(repository)}/git/commits/{quote(sha, safe='')}")


def diff_request(repository: str, number: int) -> Request:
    """Ask for a pull request's own diff as text, which the API gives out also where git is switched off."""
    return Request(f"{API}/repos/{_path(repository)}/pulls/{number}.diff")


def head_request(repository: str, number: int) -> Request:
    """Ask for a pull request's frozen head."""
    return Request(f"{API}/repos/{_path(repository)}/git/refs/pull/{number}/head")


def pull_request(repository: str, number: int) -> Request:
    """Ask for the detail of a pull request."""
    return Request(f"{API}/repos/{_path(repository)}/pulls/{number}")


def issue_request(repository: str, number: int) -> Request:
    """Ask for an issue."""
    return Request(f"{API}/repos/{_path(repository)}/issues/{number}")


def timeline_request(repository: str, number: int) -> Request:
    """Ask for a whole timeline: without `page`, since pages are cut before hidden rows are taken out."""
    return Request(f"{API}/repos/{_path(repository)}/issues/{number}/timeline")


UNREAD = "unread"


def unread(times: int, again: datetime) -> str:
    """Write, in the place of its `updated_at`, that a pull request could not be read so often, and when to try again.

    It never equals what a server says, so the pull request counts as new until it is read.
    """
    return f"{UNREAD} {times} {stamp(again)}"


def unread_times(text: str) -> int:
    """Return how often a pull request could not be read since it last was."""
    words = text.split(" ")
    return int(words[1]) if words[0] == UNREAD and len(words) == 3 and words[1].isdigit() else 0


def unread_due(text: str, now: datetime) -> bool:
    """Tell whether it is time to try a pull request again."""
    again = moment(text.rpartition(" ")[2])
    return again is None or again <= now


def stamp(moment: datetime) -> str:
    """Write a moment as the API takes it: whole seconds, UTC, `Z` (a literal plus would be read as a space)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: Any) -> datetime | None:
    """Read a time in any zone as UTC; null and the two ways to write `never` are None."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None or found.year <= 1:  # year 1 in a zone east of Greenwich has no UTC form
        return None
    found = found.astimezone(UTC)
    return None if found.year <= 1970 else found


def items(value: Any) -> list[dict[str, Any]]:
    """Return the objects of an array; null arrays and null items are nothing."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def parse_row(row: Mapping[str, Any], instance: str) -> PullRow | None:
    """Read a row of an issue list; None where it is no pull request or names no repository."""
    merge, place = row.get("pull_request"), row.get("repository")
    if not isinstance(merge, dict) or not isinstance(place, dict):
        return None
    return PullRow(
        key=PullKey(instance, int(place["id"]), int(row["number"])),
        repository=str(place["full_name"]),
        title=_text(row.get("title")),
        body=_text(row.get("body")),
        author=login(row.get("user")),
        merged=merge.get("merged") is True,
        labels=_labels(row),
        closed_at=moment(row.get("closed_at")),
        updated_at=_text(row.get("updated_at")),
    )


def parse_pull(detail: Mapping[str, Any], instance: str) -> MergedPull:
    """Read a pull request's detail. Raises KeyError or TypeError where it is no such object."""
    place = detail["base"]["repo"]
    name, detects = str(place["full_name"]), place.get("autodetect_manual_merge")
    return MergedPull(
        key=PullKey(instance, int(place["id"]), int(detail["number"])),
        repository=name,
        # Built from the configured root: an address in the answer may name another host, where no token may go.
        clone_url=f"{instance.rstrip('/')}/{_path(name)}.git",
        title=_text(detail.get("title")),
        body=_text(detail.get("body")),
        author=login(detail.get("user")),
        merger=login(detail.get("merged_by")),
        merged=detail.get("merged") is True,
        merge_commit=_text(detail.get("merge_commit_sha")),
        merge_base=_text(detail.get("merge_base")),
        labels=_labels(detail),
        closed_at=moment(detail.get("closed_at")),
        updated_at=_text(detail.get("updated_at")),
        comments=int(detail.get("comments") or 0),
        autodetects=detects if isinstance(detects, bool) else None,
        opened_at=moment(detail.get("created_at")),
        branch=_text(detail["base"].get("ref")),
        size_kb=size if isinstance(size := place.get("size"), int) else None,
    )


def row_of(pull: MergedPull) -> PullRow:
    """Return the row that a list would show of a pull request whose detail was read."""
    return PullRow(
        key=pull.key,
        repository=pull.repository,
        title=pull.title,
        body=pull.body,
        author=pull.author,
        merged=pull.merged,
        labels=pull.labels,
        closed_at=pull.closed_at,
        updated_at=pull.updated_at,
    )


def parse_issue(row: Mapping[str, Any], repository: str) -> IssueText | None:
    """Read an issue; None where it is a pull request."""
    if row.get("pull_request") is not None:
        return None
    place = row.get("repository") or {}
    return IssueText(
        repository=str(place.get("full_name") or repository),
        number=int(row["number"]),
        title=_text(row.get("title")),
        body=_text(row.get("body")),
        repository_id=int(place.get("id") or 0),
        author=login(row.get("user")),
    )


def parse_comments(timeline: Iterable[Mapping[str, Any]]) -> tuple[Comment, ...]:
    """Read the comments of a timeline, oldest first."""
    found = []
    for row in timeline:
        at = moment(row.get("created_at"))
        if row.get("type") == "comment" and at is not None and _text(row.get("body")):
            found.append(Comment(login(row.get("user")), _text(row.get("body")), at))
    return tuple(found)


def parse_commit(body: Mapping[str, Any]) -> Commit:
    """Read a commit. Raises KeyError or TypeError where it is none."""
    parents = tuple(str(parent["sha"]) for parent in items(body.get("parents")))
    return Commit(str(body["sha"]), _text(body["commit"]["message"]), parents)


def parse_head(body: Any) -> str:
    """Read the commit of a ref: an array of one on today's servers, an object on some others; empty where none."""
    found = items(body) if isinstance(body, list) else [body] if isinstance(body, dict) else []
    target = found[0].get("object") if found else None
    return _text(target.get("sha")) if isinstance(target, dict) else ""


def page_cap(body: Any) -> int:
    """Read how many rows the server gives at most; 0 where it does not say."""
    cap = body.get("max_response_items") if isinstance(body, dict) else None
    return cap if isinstance(cap, int) and cap > 0 else 0


def login(user: Any) -> str:
    """Return an account's name, empty where there is none; a deleted account is `Ghost`."""
    return _text(user.get("login") or user.get("username")) if isinstance(user, dict) else ""


def same_host(root: str, url: str) -> bool:
    """Tell whether a redirect stays with the server that the token is meant for; a relative one does."""
    there, here = urlsplit(url), urlsplit(root)
    return not there.netloc or (there.scheme, there.netloc) == (here.scheme, here.netloc)


def _labels(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_text(label.get("name")) for label in items(row.get("labels"))))


def _path(repository: str) -> str:
    return quote(repository, safe="/-_.~")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
