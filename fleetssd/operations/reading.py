"""Read one pull request in full: its detail, the issues that it answers, whether it was taken back, its diff."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleetssd.config import Settings
from fleetssd.diffs import PullDiff
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected
from fleetssd.gitea import IssueText, MergedPull, PullKey, moment, parse_comments, row_of
from fleetssd.gitea_links import Link, Reference, candidates, confirm
from fleetssd.ports import Forge, Mirror
from fleetssd.records import refusals_of_row
from fleetssd.reverts import claims, commit_claim, suspects, taken_back
from fleetssd.solutions import parse_diff, touched

MAX_REFERENCES = 20
"""References looked at in one pull request; a text with more is a list, not a closing note."""
MAX_SUSPECTS = 10
"""Commits looked at in one timeline for what they take back, newest first."""


@dataclass(frozen=True, slots=True)
class Look:
    """A pull request to read in full, and the `updated_at` to remember it by; None for the one in its detail."""

    key: PullKey
    repository: str
    updated_at: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """A pull request with the issues it answers; None where a list shows one that is gone or hidden from us."""

    look: Look
    pull: MergedPull | None
    issues: tuple[IssueText, ...] = ()
    links: tuple[Link, ...] = ()
    reverted: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A pull request that could not be read, and why."""

    look: Look
    error: FleetError


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads through the forge's API, and through git for diffs. Safe to share between threads."""

    settings: Settings
    forge: Forge
    mirror: Mirror

    def read(self, look: Look) -> Read | Failure:
        """Read a pull request and what it answers; an error is a value: the others go on."""
        try:
            pull = self.forge.pull(look.repository, look.key.number)
            if pull is None or pull.key != look.key:
                return Read(look, None)
            if refusals_of_row(row_of(pull), self.settings.fleet):
                return Read(look, pull)
            timeline: list[dict[str, Any]] = []
            if pull.comments or _moved_since_merge(pull):
                timeline = self.forge.timeline(pull.repository, pull.key.number)
            issues, links = self._answers(pull, timeline)
            return Read(look, pull, issues, links, self.reverted(pull, timeline))
        except FleetError as error:
            return Failure(look, error)

    def reverted(self, pull: MergedPull, timeline: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether a timeline shows that the change was taken back: by a merged pull request, or by a push.

        A commit that says so counts once it is in the branch that the change was merged into.
        """
        ours = (pull.merge_commit,)
        rows, shas = suspects(timeline, pull.key.instance, pull.closed_at, ours)
        if taken_back(pull.key, ours, claims(rows)):
            return True
        said = []
        for sha in shas[-MAX_SUSPECTS:]:
            commit = self.forge.commit(pull.repository, sha)
            message = commit.message if commit else self._told_by_git(pull, sha)
            claim = commit_claim(message, pull.key.repository_id)
            if claim is not None and taken_back(pull.key, ours, [claim]):
                said.append(sha)
        return bool(said and self.mirror.contained(pull, said))

    def _told_by_git(self, pull: MergedPull, sha: str) -> str:
        """Return the message of a commit that the API does not give out; empty where git does not either."""
        try:
            return self.mirror.message(pull, sha)
        except (Misconfigured, Rejected):
            return ""

    def taken_back_since(self, key: PullKey, repository: str) -> bool:
        """Tell whether a pull request that was read before was taken back since; mostly this is one request."""
        timeline = self.forge.timeline(repository, key.number)
        rows, shas = suspects(timeline, key.instance, None, ())
        if not rows and not shas:
            return False
        pull = self.forge.pull(repository, key.number)
        return pull is not None and pull.key == key and self.reverted(pull, timeline)

    def diffs(self, pulls: Sequence[MergedPull]) -> tuple[dict[int, PullDiff | str], int]:
        """Return the diffs of one repository's pull requests, and how many of them came without git.

        Where git is switched off, or lacks a head, the forge's API has the diff; a pull request without either has
        its reason code.
        """
        if not pulls:
            return {}, 0
        refused: FleetError | None = None
        try:
            found = self.mirror.diffs(pulls)
        except (Misconfigured, Rejected) as error:
            found, refused = {pull.key.number: "head_gone" for pull in pulls}, error
        lacking = [pull for pull in pulls if found.get(pull.key.number) == "head_gone"]
        told = {pull.key.number: self._told(pull) for pull in lacking}
        without_git = sum(isinstance(diff, PullDiff) for diff in told.values())
        if refused is not None and not without_git:
            raise refused
        return found | told, without_git

    def _told(self, pull: MergedPull) -> PullDiff | str:
        """Return the diff as the API tells it: the files that it makes are known in full, the others only in part."""
        found = self.forge.diff(pull.repository, pull.key.number)
        if found is None:
            return "head_gone"
        text, head = found
        if not pull.merge_base or pull.merge_base == head:
            return "base_unknown"
        try:
            patches = parse_diff(text.decode("utf-8", errors="surrogateescape"))
        except Corrupt:
            return "no_diff"
        made = {p.new: "".join(line for hunk in p.hunks for line in hunk.new) for p in patches if p.old is None}
        runs = tuple(p.new for p in patches if p.new is not None and p.mode == "100755")
        merge = self.forge.commit(pull.repository, pull.merge_commit) if pull.merge_commit else None
        return PullDiff(
            base_commit=pull.merge_base,
            head_commit=head,
            diff=text,
            changed_paths=touched(patches),
            files=tuple((path, content) for path, content in made.items() if path is not None),
            merge_parents=merge.parents if merge else (),
            executable=runs,
        )

    def _answers(
        self, pull: MergedPull, timeline: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[IssueText, ...], tuple[Link, ...]]:
        """Return the issues that the server linked to the merge, with how it shows."""
        texts = [str(row.get("body") or "") for row in timeline if row.get("type") == "comment"]
        # A title that was changed since is told nowhere else.
        texts += [str(row.get("old_title") or "") for row in timeline if row.get("type") == "change_title"]
        found = candidates(pull, texts, self.settings.forge.close_keywords)[:MAX_REFERENCES]
        answers = self._confirmed(pull, [reference for reference in found if reference.closes])
        # A plain mention can be all that is left of a reference that was edited after the merge.
        if not answers or _moved_since_merge(pull):
            answers += self._confirmed(pull, [reference for reference in found if not reference.closes])
        return tuple(issue for issue, _ in answers), tuple(link for _, link in answers)

    def _confirmed(self, pull: MergedPull, found: Iterable[Reference]) -> list[tuple[IssueText, Link]]:
        answers: dict[tuple[int, int], tuple[IssueText, Link]] = {}
        for reference in found:
            try:
                issue = self.forge.issue(reference.repository, reference.number)
                timeline = self.forge.timeline(issue.repository, issue.number) if issue else []
            except Misconfigured as error:
                # Anybody can name what is closed to our token; only what we watch must be open to it.
                if error.status == 403 and reference.repository.lower() != pull.repository.lower():
                    continue
                raise
            if issue is None:
                continue
            link = confirm(pull, issue.repository, issue.number, timeline)
            if link is not None:
                shown = parse_comments(timeline) if self.settings.records.comments != "none" else ()
                answers[issue.repository_id, issue.number] = (replace(issue, comments=shown), link)
        return list(answers.values())


def _moved_since_merge(pull: MergedPull) -> bool:
    updated = moment(pull.updated_at)
    return updated is not None and pull.closed_at is not None and updated > pull.closed_at
