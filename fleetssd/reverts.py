"""Which pull requests another one takes back, read from its title and body."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleetssd.gitea import PullKey, PullRow, items, moment, parse_row

_TITLE = re.compile(r'\s*revert(?:s|ed)?\b[:\s]*["\u201c\u00ab]', re.IGNORECASE)
_COMMIT = re.compile(r"\bThis reverts commit ([0-9a-f]{7,64})\b", re.IGNORECASE)
_PULL = re.compile(r"\breverts (?:([0-9A-Za-z_.-]+/[0-9A-Za-z_.-]+))?[#!]([0-9]+)\b", re.IGNORECASE)
_SHA = re.compile("[0-9a-f]{40,64}")
_QUOTED = re.compile(r"\(#([0-9]+)\)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a merged pull request says it takes back: commits (or their first digits) and numbers, in one repository."""

    repository_id: int
    commits: frozenset[str]
    pulls: frozenset[int]


def is_revert(title: str, body: str) -> bool:
    """Tell whether a pull request takes another one back, in the forms that git and the forges write."""
    return bool(_TITLE.match(title) or _COMMIT.search(body))


def claims(rows: Iterable[PullRow]) -> list[Claim]:
    """Return what the merged reverts among these rows take back; who wrote them does not matter."""
    return [_claim(row) for row in rows if row.merged and is_revert(row.title, row.body)]


def commit_claim(message: str, repository_id: int) -> Claim | None:
    """Return what a commit says it takes back, in git's own words; None where it says nothing."""
    commits = frozenset(commit.lower() for commit in _COMMIT.findall(message))
    return Claim(repository_id, commits, frozenset()) if commits else None


def suspects(
    timeline: Iterable[Mapping[str, Any]], instance: str, since: datetime | None, known: Collection[str]
) -> tuple[list[PullRow], list[str]]:
    """Return what in a pull request's timeline may take it back: merged reverts that name it, and other commits.

    Only what came at or after `since` counts; the commits in `known` are its own.
    """
    pulls, commits = list[PullRow](), list[str]()
    for row in items(list(timeline)):
        at = moment(row.get("created_at"))
        if since is not None and (at is None or at < since):
            continue
        if row.get("type") == "commit_ref" and isinstance(row.get("ref_commit_sha"), str):
            sha = row["ref_commit_sha"]
            commits += [sha] if _SHA.fullmatch(sha) and sha not in known else []
        elif row.get("type") in ("pull_ref", "comment_ref") and isinstance(row.get("ref_issue"), dict):
            with suppress(KeyError, TypeError, ValueError):  # a row about something that is hidden from us
                found = parse_row(row["ref_issue"], instance)
                pulls += [found] if found is not None and found.merged and is_revert(found.title, found.body) else []
    return pulls, list(dict.fromkeys(commits))


def taken_back(pull: PullKey, commits: Iterable[str], found: Iterable[Claim]) -> bool:
    """Tell whether one of the claims is about this pull request, by its number or by its merge or head commit."""
    ours = [commit for commit in commits if commit]
    return any(_about(pull.number, ours, claim) for claim in found if claim.repository_id == pull.repository_id)


def _claim(row: PullRow) -> Claim:
    commits = frozenset(commit.lower() for commit in _COMMIT.findall(row.body))
    pulls = {int(number) for place, number in _PULL.findall(row.body) if place.lower() in ("", row.repository.lower())}
    if not commits and not pulls:
        # The merge commit's subject names its pull request last: Revert "Merge pull request 'T' (#2) from b into main".
        pulls = {int(number) for number in _QUOTED.findall(row.title)[-1:]}
    return Claim(row.key.repository_id, commits, frozenset(pulls - {row.key.number}))


def _about(number: int, commits: Iterable[str], claim: Claim) -> bool:
    return number in claim.pulls or any(commit.startswith(start) for commit in commits for start in claim.commits)
