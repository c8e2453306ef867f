"""What people do with issues; a pull request is an issue too."""

from __future__ import annotations

from fleetssd.embedded.forge import pull_rows, timeline, webhooks
from fleetssd.embedded.forge.model import Account, Issue, Label, Repository, Row
from fleetssd.embedded.forge.rows import Json, View
from fleetssd.embedded.forge.state import State


def create(state: State, actor: Account, repository: Repository, title: str, body: str) -> Issue:
    """Open an issue and leave its references."""
    issue = place(state, actor, repository, title, body, is_pull=False)
    announce(state, actor, issue, "opened")
    timeline.refer(state, actor, issue)
    return issue


def place(state: State, actor: Account, repository: Repository, title: str, body: str, *, is_pull: bool) -> Issue:
    """Take the next number of a repository for an issue row."""
    now, number = state.now(), repository.next_number
    repository.next_number += 1
    state.save(repository)
    return state.add(Issue(state.next_id(Issue), repository.id, number, actor.id, title, body, now, now, is_pull))


def edit(state: State, actor: Account, issue: Issue, title: str | None, body: str | None) -> None:
    """Change title or body; what they refer to is read again."""
    changes: Json = {}
    if title is not None and title != issue.title:
        timeline.add(state, issue, "change_title", actor, titles=(issue.title, title))
        changes["title"] = {"from": issue.title}
        issue.title = title
    if body is not None and body != issue.body:
        changes["body"] = {"from": issue.body}
        issue.body = body
        issue.content_version += 1
    if not changes:
        return
    timeline.touch(state, issue)
    timeline.refer(state, actor, issue)
    announce(
        state,
        actor,
        issue,
        "edited",
        changes={**changes, "added_labels": None, "removed_labels": None},
    )


def close(state: State, actor: Account, issue: Issue, *, commit: str = "") -> None:
    """Close an open issue; `commit` is what closed it, if one did."""
    if issue.closed:
        return
    issue.closed, issue.closed_at = True, state.now()
    timeline.add(state, issue, "close", actor)
    timeline.touch(state, issue)
    announce(state, actor, issue, "closed", commit=commit)


def reopen(state: State, actor: Account, issue: Issue) -> None:
    """Open a closed issue again."""
    if not issue.closed:
        return
    issue.closed, issue.closed_at = False, None
    timeline.add(state, issue, "reopen", actor)
    timeline.touch(state, issue)
    announce(state, actor, issue, "reopened")


def comment(state: State, actor: Account, issue: Issue, body: str) -> Row:
    """Write a comment and leave its references."""
    row = timeline.add(state, issue, "comment", actor, body=body)
    issue.comments += 1
    timeline.touch(state, issue)
    timeline.refer(state, actor, issue, comment=row)
    repository = state.repositories[issue.repository]

    def payload(view: View) -> Json:
        pull = {"pull_request": pull_rows.detail(view, issue)} if issue.is_pull else {}
        shown = {"action": "created", "issue": view.issue(issue), **pull, "comment": view.comment(row)}
        return {**shown, "is_pull": issue.is_pull}

    kind = "pull_request_comment" if issue.is_pull else "issue_comment"
    webhooks.announce(state, actor, repository, kind, payload)
    return row


def edit_comment(state: State, actor: Account, row: Row, body: str) -> None:
    """Change a comment; `updated_at` of its issue stays."""
    row.body, row.updated = body, state.now()
    state.save(row)
    timeline.refer(state, actor, state.issues[row.issue], comment=row)


def label(state: State, actor: Account, issue: Issue, labels: list[Label], *, remove: bool = False) -> None:
    """Put labels on an issue, or take them off; those already so are left alone."""
    moved = [item for item in labels if (item.id in issue.labels) is remove]
    for item in moved:
        timeline.add(state, issue, "label", actor, body="" if remove else "1", label=item)
        if remove:
            issue.labels.remove(item.id)
        else:
            issue.labels.append(item.id)
    if moved:
        timeline.touch(state, issue)
        kind = "pull_request_label" if issue.is_pull else "issue_label"
        announce(state, actor, issue, "label_updated", kind=kind)


def announce(
    state: State,
    actor: Account,
    issue: Issue,
    action: str,
    *,
    kind: str = "",
    commit: str = "",
    changes: Json | None = None,
) -> None:
    """Tell the hooks what happened to an issue or pull request."""
    repository = state.repositories[issue.repository]
    edited = {"changes": changes} if changes is not None else {}

    def payload(view: View) -> Json:
        head = {"action": action, "number": issue.number, **edited}
        if not issue.is_pull:
            return {**head, "issue": view.issue(issue), "commit_id": commit}
        shown = {"pull_request": pull_rows.detail(view, issue), "requested_reviewer": None}
        return {**head, **shown, "commit_id": "", "review": None}

    default = "pull_request" if issue.is_pull else "issues"
    webhooks.announce(state, actor, repository, kind or default, payload)
