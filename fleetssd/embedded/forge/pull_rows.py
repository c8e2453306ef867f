"""The JSON shapes of pull requests, their files and commits."""

from __future__ import annotations

from urllib.parse import quote

from fleetssd.embedded.forge import merging
from fleetssd.embedded.forge.bare import BareRepository
from fleetssd.embedded.forge.model import Issue, Pull, Repository
from fleetssd.embedded.forge.rows import NEVER, Json, View, is_draft
from fleetssd.errors import Rejected

_STATUS = {"A": "added", "M": "changed", "D": "deleted", "R": "renamed", "C": "copied", "T": "changed"}


def head_ref(issue: Issue) -> str:
    """Return the ref that keeps a pull request's head."""
    return f"refs/pull/{issue.number}/head"


def live_head(view: View, issue: Issue, pull: Pull) -> tuple[Repository | None, str, str]:
    """Return the head's repository, its ref's name and the commit there now."""
    repository = view.state.repositories.get(pull.head_repository or 0)
    tip = view.state.bare(repository).branch(pull.head_ref) if repository else ""
    return (repository, pull.head_ref, tip) if tip else (repository, head_ref(issue), pull.head)


def detail(view: View, issue: Issue) -> Json:
    """Show a pull request in full."""
    return _pull(view, issue, listed=False)


def listed(view: View, issue: Issue) -> Json:
    """Show a pull request as the list does: no merger, no counts, the frozen head (1.22: as the detail)."""
    return _pull(view, issue, listed=not view.state.old)


def files(view: View, issue: Issue) -> list[Json]:
    """Show the changed files, as git counts them."""
    state, pull = view.state, view.state.pull_of[issue.id]
    repository = state.repositories[issue.repository]
    place, bare = state.full_name(repository), state.bare(repository)
    rows = []
    for status, old, new, added, deleted in _raw_changes(bare, pull.merge_base, pull.head):
        path = quote(new)
        rows.append(
            {
                "filename": new,
                **({"previous_filename": old} if old != new else {}),
                "status": status,
                "additions": added,
                "deletions": deleted,
                "changes": added + deleted,
                "html_url": f"{view.web}/{place}/src/commit/{pull.head}/{path}",
                "contents_url": f"{view.root}/api/v1/repos/{place}/contents/{path}?ref={pull.head}",
                "raw_url": f"{view.web}/{place}/raw/commit/{pull.head}/{path}",
            }
        )
    return rows


def commit(view: View, repository: Repository, name: str, *, stats: bool = True) -> Json:
    """Show a commit; raise Rejected (404) where there is none."""
    state, bare, place = view.state, view.state.bare(repository), view.state.full_name(repository)
    found = bare.objects.commit(name)
    api = f"{view.root}/api/v1/repos/{place}/git"
    by_mail = {account.email.lower(): account for account in state.accounts.values() if account.email}

    def person(text: str) -> tuple[Json, Json | None]:
        who, seconds, _ = text.rsplit(" ", 2)
        display, _, mail = who.rpartition(" <")
        account = by_mail.get(mail.rstrip(">").lower())
        shown = {"name": display, "email": mail.rstrip(">"), "date": view.time(int(seconds))}
        return shown, view.account(account) if account else None

    (author, author_row), (committer, committer_row) = person(found.author), person(found.committer)
    row: Json = {
        "url": f"{api}/commits/{found.id}",
        "sha": found.id,
        "created": committer["date"],
        "html_url": f"{view.web}/{place}/commit/{found.id}",
        "commit": {
            "url": f"{api}/commits/{found.id}",
            "author": author,
            "committer": committer,
            "message": found.message,
            "tree": {"url": f"{api}/trees/{found.tree}", "sha": found.tree, "created": committer["date"]},
            "verification": None,
        },
        "author": author_row,
        "committer": committer_row,
        "parents": [{"url": f"{api}/commits/{parent}", "sha": parent, "created": NEVER} for parent in found.parents],
        "files": None,
    }
    if stats and found.parents:
        added, deleted, _ = bare.numbers(found.parents[0], found.id)
        row["stats"] = {"total": added + deleted, "additions": added, "deletions": deleted}
    return row


def _pull(view: View, issue: Issue, *, listed: bool) -> Json:
    state, pull = view.state, view.state.pull_of[issue.id]
    repository = state.repositories[issue.repository]
    bare, address = state.bare(repository), view.issue_address(issue)
    source, ref, tip = live_head(view, issue, pull)
    base_tip = bare.branch(pull.base_ref)
    shown = view.repository(repository)
    common = pull.merge_base if issue.closed or not base_tip else bare.merge_base(base_tip, pull.head)
    row: Json = {
        "id": pull.id,
        "url": address,
        "number": issue.number,
        "user": view.account(state.account(issue.poster), mail=True),
        "title": issue.title,
        "body": issue.body,
        "labels": view.labels(issue),
        "milestone": None,
        "assignee": None,
        "assignees": None if listed or state.old else [],
        "requested_reviewers": None if listed or state.old else [],
        **({} if state.old else {"requested_reviewers_teams": None if listed else []}),
        "state": "closed" if issue.closed else "open",
        "draft": is_draft(issue.title),
        "is_locked": issue.locked,
        "comments": issue.comments,
        **({"review_comments": 0} if state.old else {}),
        **({} if listed else _counts(view, issue, common, tip)),
        "html_url": address,
        "diff_url": f"{address}.diff",
        "patch_url": f"{address}.patch",
        "mergeable": issue.closed or listed or _mergeable(bare, issue, base_tip, pull.head),
        "merged": pull.merged,
        "merged_at": None if pull.merged_at is None else view.time(pull.merged_at),
        "merge_commit_sha": pull.merge_commit or None,
        "merged_by": view.account(state.account(pull.merged_by)) if pull.merged and not listed else None,
        "allow_maintainer_edit": pull.allow_maintainer_edit,
        "base": {
            "label": pull.base_ref,
            "ref": pull.base_ref,
            "sha": base_tip,
            "repo_id": repository.id,
            "repo": shown,
        },
        "head": {
            "label": pull.head_ref,
            "ref": ref,
            "sha": pull.head if listed else tip,
            "repo_id": source.id if source else -1,
            "repo": (shown if source is repository else view.repository(source)) if source else None,
        },
        "merge_base": common,
        "due_date": None,
        "created_at": view.time(issue.created),
        "updated_at": view.time(issue.updated),
        "closed_at": None if issue.closed_at is None else view.time(issue.closed_at),
        "pin_order": 0,
        **({} if state.old else {"content_version": issue.content_version}),
    }
    return row


def _counts(view: View, issue: Issue, common: str, tip: str) -> Json:
    """Count lines and files up to the live tip of the head branch; nothing is known once a fork is gone."""
    state, pull = view.state, view.state.pull_of[issue.id]
    if pull.head_repository not in state.repositories:
        gone = {"additions": 0, "deletions": 0, "changed_files": 0}
        return gone if state.old else {}
    bare, key = state.bare(state.repositories[issue.repository]), f"{common}..{tip}"
    if key not in pull.numbers:
        known = tip if bare.objects.exists(tip) else pull.head  # a fork's late push is not in this repository
        pull.numbers[key] = bare.numbers(common, known) if common else [0, 0, 0]
        state.save(pull)
    added, deleted, changed = pull.numbers[key]
    return {"additions": added, "deletions": deleted, "changed_files": changed}


def _mergeable(bare: BareRepository, issue: Issue, base_tip: str, head: str) -> bool:
    return bool(base_tip) and not is_draft(issue.title) and merging.mergeable(bare, base_tip, head)


def _raw_changes(bare: BareRepository, base: str, head: str) -> list[tuple[str, str, str, int, int]]:
    """List (status, old path, new path, additions, deletions); a changed binary file counts as unchanged."""
    if not base:
        raise Rejected("no merge base", status=404)
    fields = bare.diff(base, head, "--raw", "--numstat", "-z", "-M").decode("utf-8", "replace").split("\0")
    statuses: list[tuple[str, str, str]] = []
    at = 0
    while at < len(fields) and fields[at].startswith(":"):
        letter = fields[at].rsplit(" ", 1)[1][:1]
        width = 2 if letter in "RC" else 1
        statuses.append((letter, fields[at + 1], fields[at + width]))
        at += 1 + width
    found = []
    for letter, old, new in statuses:
        added, deleted, _ = fields[at].split("\t", 2)
        at += 3 if letter in "RC" else 1
        status = "unchanged" if letter == "M" and added == "-" else _STATUS.get(letter, "changed")
        counts = (0, 0) if added == "-" else (int(added), int(deleted))
        found.append((status, old, new, *counts))
    return found


def person_line(name: str, mail: str, seconds: int) -> str:
    """Write an identity as commits store it."""
    return f"{name} <{mail}> {seconds} +0000"
