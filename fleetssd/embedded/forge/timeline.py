"""Timeline rows: what happened to an issue, and who refers to it."""

from __future__ import annotations

from fleetssd.embedded.forge import access, references
from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.model import Account, Issue, Label, Repository, Row
from fleetssd.embedded.forge.objects import Commit
from fleetssd.embedded.forge.references import Reference
from fleetssd.embedded.forge.state import State

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})


def add(
    state: State,
    issue: Issue,
    kind: str,
    actor: Account,
    *,
    body: str = "",
    label: Label | None = None,
    titles: tuple[str, str] = ("", ""),
    referring: Issue | None = None,
    comment: Row | None = None,
    action: str = "none",
    commit: str = "",
) -> Row:
    """Add a row to an issue's timeline, now."""
    now = state.now()
    return state.add(
        Row(
            state.next_id(Row),
            issue.id,
            kind,
            actor.id,
            now,
            now,
            body,
            *titles,
            referring.id if referring else None,
            comment.id if comment else None,
            action,
            commit,
            label.id if label else None,
        )
    )


def refer(state: State, actor: Account, source: Issue, *, comment: Row | None = None) -> None:
    """Bring the rows that `source` (or one comment on it) leaves on other issues up to its present text.

    References that went away are neutered; new ones get a row.
    """
    wanted = _targets(state, actor, source, comment)
    key = comment.id if comment else None
    for row in state.rows_from[source.id]:
        if row.ref_comment != key or row.ref_action == "neutered":
            continue
        if wanted.get(row.issue) == row.ref_action:
            del wanted[row.issue]
        else:
            row.ref_action, row.updated = "neutered", state.now()
            state.save(row)
    kind = "comment_ref" if comment else "pull_ref" if source.is_pull else "issue_ref"
    for target, action in wanted.items():
        issue = state.issues[target]
        add(state, issue, kind, actor, referring=source, comment=comment, action=action)
        touch(state, issue)


def refer_from_commit(
    state: State, actor: Account, repository: Repository, commit: Commit, *, skip: int | None
) -> list[Issue]:
    """Leave a `commit_ref` row on every issue that a commit message names, once; return those that it closes.

    `skip` is the id of the pull request whose own merge made the commit.
    """
    closed = []
    for reference in references.in_body(commit.message, root_url=state.root_url, links_close=not state.old):
        issue = _find(state, repository, reference)
        if issue is None or issue.id == skip or not _reads(state, actor, issue):
            continue
        if not any(row.ref_commit == commit.id for row in state.rows_of[issue.id]):
            subject = commit.message.split("\n", 1)[0].translate(_HTML)
            place = state.full_name(repository)
            add(
                state,
                issue,
                "commit_ref",
                actor,
                body=f'<a href="/{place}/commit/{commit.id}">{subject}</a>',
                commit=commit.id,
            )
            touch(state, issue)
        if reference.action == "closes" and not issue.is_pull and _may_close(state, actor, issue):
            closed.append(issue)
    return closed


def linked(state: State, source: Issue, action: str) -> list[Issue]:
    """List the issues that a pull request, or a comment on it, closes (or reopens) when it is merged."""
    found = (row for row in state.rows_from[source.id] if row.ref_action == action)
    return list({row.issue: state.issues[row.issue] for row in found}.values())


def touch(state: State, *issues: Issue) -> None:
    """Move `updated_at` of issues to now."""
    for issue in issues:
        issue.updated = state.now()
        state.save(issue)


def _texts(state: State, source: Issue, comment: Row | None) -> list[Reference]:
    close = not state.old
    if comment is not None:
        return references.in_body(comment.body, root_url=state.root_url, links_close=close)
    body = references.in_body(source.body, root_url=state.root_url, links_close=close)
    return references.combined([references.in_title(source.title), body])


def _targets(state: State, actor: Account, source: Issue, comment: Row | None) -> dict[int, str]:
    """Resolve what a text names to issue ids and the action that its writer may declare there."""
    repository = state.repositories[source.repository]
    wanted: dict[int, str] = {}
    for reference in _texts(state, source, comment):
        issue = _find(state, repository, reference)
        if issue is None or issue.id == source.id or not _reads(state, actor, issue):
            continue
        action = reference.action
        foreign = comment is not None or issue.repository != source.repository
        if not source.is_pull or issue.is_pull or (foreign and not _may_close(state, actor, issue)):
            action = "none"
        if wanted.get(issue.id, "none") == "none":
            wanted[issue.id] = action
    return wanted


def _find(state: State, repository: Repository, reference: Reference) -> Issue | None:
    place: Repository | None = repository
    if reference.owner:
        place = state.repository_named(reference.owner, reference.name)
    return state.by_number.get((place.id, reference.number)) if place else None


def _reads(state: State, actor: Account, issue: Issue) -> bool:
    return access.right(state, Caller(actor), state.repositories[issue.repository]) >= access.READ


def _may_close(state: State, actor: Account, issue: Issue) -> bool:
    right = access.right(state, Caller(actor), state.repositories[issue.repository])
    return issue.poster == actor.id or right >= access.WRITE
