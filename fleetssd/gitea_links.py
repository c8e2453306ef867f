"""Which issues a merged pull request answers: what its text declares, and what the timelines confirm."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from fleetssd.gitea import MergedPull, items, moment

KEYWORDS = ("close", "closes", "closed", "fix", "fixes", "fixed", "resolve", "resolves", "resolved")
TOGETHER = timedelta(seconds=2)
"""How far apart a merge and the closing of its issue can be recorded."""

Confidence: TypeAlias = Literal["closed", "declared"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in a text; `closes` where a closing keyword binds it."""

    repository: str
    number: int
    closes: bool


@dataclass(frozen=True, slots=True)
class Link:
    """An issue that the server linked to the merge.

    `confidence` is `closed` where the issue was closed together with the merge, else `declared`. `by_merge` is True
    where nothing but the server's own merge can have closed it, which a merge that was only found in git never does.
    """

    repository: str
    number: int
    confidence: Confidence
    by_merge: bool


def references(
    pull: MergedPull,
    comments: Iterable[str] = (),
    keywords: Sequence[str] = KEYWORDS,
    hosts: Collection[str] | None = None,
) -> list[Reference]:
    """Find the issues that a pull request's title, body and comments name, as the server parses them; closers first.

    A keyword binds the one reference that follows it after exactly one space. Addresses count where their host is
    one of `hosts` (None: any; the timeline decides in the end).
    """
    texts = [pull.title, *(plain(text) for text in (pull.body, *comments))]
    found: dict[tuple[str, int], Reference] = {}
    for text in texts:
        for reference in _scan(_shorten(text, hosts), pull.repository, keywords):
            key = (reference.repository.lower(), reference.number)
            if key not in found or (reference.closes and not found[key].closes):
                found[key] = reference
    found.pop((pull.repository.lower(), pull.key.number), None)
    return sorted(found.values(), key=lambda reference: not reference.closes)


def candidates(pull: MergedPull, texts: Iterable[str] = (), keywords: Sequence[str] = KEYWORDS) -> list[Reference]:
    """Find every issue that a server may have taken these texts to close or to mention; possible closers first.

    Servers differ in what they read as code, as an address or as a delimiter, so this finds more than `references`:
    `closes` is set where a keyword stands anywhere between it and what is named before it in its line. The issue's
    timeline decides.
    """
    texts = list(texts)
    found = {(ref.repository.lower(), ref.number): ref for ref in references(pull, texts, keywords)}
    for text in (pull.title, pull.body, *texts):
        for reference in _named(text, pull.repository, keywords):
            key = (reference.repository.lower(), reference.number)
            if key not in found or (reference.closes and not found[key].closes):
                found[key] = reference
    found.pop((pull.repository.lower(), pull.key.number), None)
    return sorted(found.values(), key=lambda reference: not reference.closes)


def plain(markdown: str) -> str:
    """Take out of a text what the server does not search: comments, code, link texts, emphasis marks."""
    text = re.sub(r"<!--.*?(?:-->|\Z)", "\n", markdown.replace("\r\n", "\n"), flags=re.DOTALL)
    text = "\n".join(_without_code(text.split("\n")))
    text = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "\n", text, flags=re.DOTALL)
    text = re.sub(r"!?\[[^\]\n]*\]\(([^()\s]*)[^()\n]*\)", r"\1", text)
    # A mark ends a run of text; a keyword and its reference must stand in the same run.
    return re.sub(r"\*+|~~|(?<![0-9A-Za-z_])_+|_+(?![0-9A-Za-z_])", "\n", text)


def _without_code(lines: Sequence[str]) -> Iterable[str]:
    fence, after_blank = "", True
    for line in lines:
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~"):
                fence, after_blank = "", True
            yield ""
        elif mark:
            fence = mark[1]
            yield ""
        elif after_blank and re.match(r" {4}|\t", line):
            yield ""
        else:
            after_blank = not line.strip()
            yield line


_ADDRESS = re.compile(
    r"https?://([^/\s]+)/(?:[^\s()]*?/)??([0-9A-Za-z_.-]+/[0-9A-Za-z_.-]+)/(?:issues|pulls)/([0-9]+)(?![0-9A-Za-z_/#?-])"
)
_REFERENCE = (
    r"(?:(?:^|(?<=[\s(\[]))(?P<keyword>{words}):?[ ])?"
    r"(?:^|(?<=[\s(\['\"]))(?P<repository>[0-9A-Za-z_.-]+/[0-9A-Za-z_.-]+)?[#!](?P<number>[0-9]+)"
    r"(?=\s|[)\]'\"]|[:;,.?!](?:\s|\Z)|\Z)"
)


_NAMED = re.compile(
    r"https?://[^/\s]+/(?:[^\s()]*?/)??(?P<place>[0-9A-Za-z_.-]+/[0-9A-Za-z_.-]+)/(?:issues|pulls)/(?P<id>[0-9]{1,9})(?![0-9])"
    r"|(?<![0-9A-Za-z_.&/-])(?P<repository>[0-9A-Za-z_.-]+/[0-9A-Za-z_.-]+)?[#!](?P<number>[0-9]{1,9})(?![0-9A-Za-z_])",
    re.ASCII,
)


def _named(text: str, repository: str, keywords: Sequence[str]) -> Iterable[Reference]:
    """Find whatever looks like a reference, with no regard to marks, delimiters and code."""
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, keywords)) or '(?!)'})\b", re.IGNORECASE)
    for line in text.splitlines():
        start = 0  # a keyword binds one reference, the next
        for match in _NAMED.finditer(line):
            place, number = match["place"] or match["repository"] or repository, match["id"] or match["number"]
            if _stays(place):
                yield Reference(place, int(number), words.search(line, start, match.start()) is not None)
            start = match.end()


def _shorten(text: str, hosts: Collection[str] | None) -> str:
    return _ADDRESS.sub(lambda m: f"{m[2]}#{m[3]}" if hosts is None or m[1] in hosts else m[0], text)


def _scan(text: str, repository: str, keywords: Sequence[str]) -> Iterable[Reference]:
    words = "|".join(re.escape(word) for word in keywords) or r"(?!)"
    # ASCII: a no-break space is no space, a ligature no keyword.
    for match in re.finditer(_REFERENCE.replace("{words}", words), text, re.ASCII | re.IGNORECASE):
        if _stays(place := match["repository"] or repository):
            yield Reference(place, int(match["number"]), match["keyword"] is not None)


def _stays(place: str) -> bool:
    """Tell whether a name can be asked for: one made of dots would climb to another address."""
    return not any(set(part) <= {"."} for part in place.split("/"))


def confirm(pull: MergedPull, repository: str, number: int, timeline: Sequence[Mapping[str, Any]]) -> Link | None:
    """Check a candidate against the issue's own timeline; None where the server did not link it to this merge.

    A `closes` row counts unless it is younger than the merge. A row whose reference was edited away after the merge
    counts only where the issue was closed together with it.
    """
    closed_at = pull.closed_at
    if not pull.merged or closed_at is None:
        return None
    rows = items(list(timeline))
    together = _closed_at_merge(rows, closed_at)
    ours = [row for row in rows if _names(row, pull)]
    declared = any(row.get("ref_action") == "closes" and _not_later(row, closed_at) for row in ours)
    edited = any(row.get("ref_action") == "neutered" and _edited_after(row, closed_at) for row in ours)
    if not declared and not (edited and together):
        return None
    # A pushed commit message closes issues too, and needs no merge by a person.
    by_commit = any(row.get("type") == "commit_ref" and _not_later(row, closed_at + TOGETHER) for row in rows)
    return Link(repository, number, "closed" if together else "declared", by_merge=together and not by_commit)


def _names(row: Mapping[str, Any], pull: MergedPull) -> bool:
    if row.get("type") not in ("pull_ref", "comment_ref") or not isinstance(row.get("ref_issue"), dict):
        return False
    issue = row["ref_issue"]
    place = issue.get("repository") or {}
    return issue.get("number") == pull.key.number and place.get("id") == pull.key.repository_id


def _not_later(row: Mapping[str, Any], limit: datetime) -> bool:
    created = moment(row.get("created_at"))
    return created is not None and created <= limit


def _edited_after(row: Mapping[str, Any], closed_at: datetime) -> bool:
    updated = moment(row.get("updated_at"))
    return _not_later(row, closed_at) and updated is not None and updated > closed_at


def _closed_at_merge(rows: Iterable[Mapping[str, Any]], closed_at: datetime) -> bool:
    times = (moment(row.get("created_at")) for row in rows if row.get("type") == "close")
    return any(time is not None and abs(time - closed_at) <= TOGETHER for time in times)
