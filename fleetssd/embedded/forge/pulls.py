"""Open pull requests, follow their branches, and merge them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fleetssd.embedded.forge import access, history, issues, merging, timeline
from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.bare import NOTHING, RefChange
from fleetssd.embedded.forge.model import Account, Issue, Pull, Repository
from fleetssd.embedded.forge.pull_rows import head_ref, person_line
from fleetssd.embedded.forge.rows import is_draft
from fleetssd.embedded.forge.state import State
from fleetssd.errors import Rejected, Transient


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """What a merge call asks for; empty texts mean the server's own."""

    style: str
    title: str = ""
    message: str = ""
    commit: str = ""
    expected_head: str = ""
    delete_branch: bool | None = None


def create(
    state: State, actor: Account, repository: Repository, *, title: str, body: str, head: str, base: str
) -> Issue:
    """Open a pull request from `branch` or `owner:branch` into a branch of the repository.

    Raises Rejected: 404 for a branch that is not there, 409 for one that is open already.
    """
    source, branch = _source(state, repository, head)
    tip, base_tip = state.bare(source).branch(branch), state.bare(repository).branch(base)
    if not tip or not base_tip:
        raise Rejected("not found", status=404)
    for issue in _open_pulls(state, repository):
        pull = state.pull_of[issue.id]
        if (pull.head_repository, pull.head_ref, pull.base_ref) == (source.id, branch, base):
            known = f"issue_id: {issue.id}, head_repo_id: {source.id}, base_repo_id: {repository.id}"
            raise Rejected(f"pull request already exists for these targets [id: {pull.id}, {known}]", status=409)
    bare = state.bare(repository)
    bare.remember()
    if source is not repository:
        bare.git("fetch", "--quiet", str(state.bare(source).path), tip)
    common = bare.merge_base(base_tip, tip)
    issue = issues.place(state, actor, repository, title, body, is_pull=True)
    bare.move((head_ref(issue), tip))
    state.add(Pull(state.next_id(Pull), issue.id, base, branch, source.id, common, tip))
    timeline.refer(state, actor, issue)
    _push_row(state, actor, issue, history.between(bare.objects, base_tip, tip)[::-1], forced=False)
    issues.announce(state, actor, issue, "opened")
    return issue


def reopen(state: State, actor: Account, issue: Issue) -> None:
    """Open a closed pull request again; raise Rejected (412) for a merged one."""
    pull = state.pull_of[issue.id]
    if pull.merged:
        raise Rejected("cannot change state of this pull request, it was already merged", status=412)
    issues.reopen(state, actor, issue)
    repository = state.repositories.get(pull.head_repository or 0)
    tip = state.bare(repository).branch(pull.head_ref) if repository else ""
    if repository and tip and tip != pull.head:
        follow(state, actor, repository, RefChange(f"refs/heads/{pull.head_ref}", pull.head, tip))


def follow(state: State, actor: Account, source: Repository, change: RefChange) -> None:
    """Take a push to a branch over into the open pull requests that come from it."""
    old, new, branch = change.old, change.new, change.ref.removeprefix("refs/heads/")
    for issue in list(state.issues.values()):
        pull = state.pull_of.get(issue.id)
        if pull is None or issue.closed or new == NOTHING:
            continue
        if (pull.head_repository, pull.head_ref) != (source.id, branch) or pull.head == new:
            continue
        repository = state.repositories[issue.repository]
        bare = state.bare(repository)
        if source is not repository:
            bare.git("fetch", "--quiet", str(state.bare(source).path), new)
        forced = not history.is_ancestor(bare.objects, old, new)
        base_tip = bare.branch(pull.base_ref)
        own = set(history.between(bare.objects, base_tip, new)) if base_tip else None
        fresh = [c for c in history.between(bare.objects, old, new)[::-1] if own is None or c in own]
        pull.head = new
        pull.merge_base = (base_tip and bare.merge_base(base_tip, new)) or pull.merge_base
        bare.move((head_ref(issue), new))
        state.save(pull)
        if forced:
            _forget_pushes(state, issue)
            fresh = history.between(bare.objects, base_tip, new)[::-1] if base_tip else fresh
        _push_row(state, actor, issue, fresh, forced=False)
        if forced:
            _push_row(state, actor, issue, [old, new], forced=True)
        issues.announce(state, actor, issue, "synchronized", kind="pull_request_sync")


def merge(state: State, actor: Account, issue: Issue, wanted: MergeRequest) -> None:
    """Merge an open pull request and close what it closes.

    Raises Rejected: 405 when it is not ready or the style is off, 409 for conflicts.
    """
    pull, repository = state.pull_of[issue.id], state.repositories[issue.repository]
    bare = state.bare(repository)
    _check_ready(state, actor, issue, wanted)
    if wanted.style == "manually-merged":
        _mark(state, actor, issue, wanted.commit)
        return
    bare.remember()
    base_ref = f"refs/heads/{pull.base_ref}"
    base_tip = bare.branch(pull.base_ref)
    made = merging.make(bare, _merge_values(state, actor, issue, wanted, base_tip))
    pull.merge_base = bare.merge_base(base_tip, pull.head)
    bare.move((base_ref, made))
    _set_merged(state, actor, issue, made)
    read_commits(state, actor, repository, RefChange(base_ref, base_tip, made), skip=issue.id)
    delete = repository.delete_branch_after_merge if wanted.delete_branch is None else wanted.delete_branch
    if delete and pull.head_repository == repository.id and bare.branch(pull.head_ref):
        bare.move((f"refs/heads/{pull.head_ref}", NOTHING))
        timeline.add(state, issue, "delete_branch", actor)
    detect_merged(state, actor, repository, base_ref)


def schedule(state: State, actor: Account, issue: Issue, wanted: MergeRequest) -> None:
    """Merge later, in the scheduler's name, when a check of the head turns green."""
    pull = state.pull_of[issue.id]
    pull.scheduled = {"by": str(actor.id), "style": wanted.style}
    state.save(pull)
    timeline.add(state, issue, "pull_scheduled_merge", actor)


def settle_schedules(state: State, repository: Repository, commit: str) -> None:
    """Merge what was waiting for this commit's checks."""
    for issue in _open_pulls(state, repository):
        pull = state.pull_of[issue.id]
        if pull.scheduled and pull.head == commit:
            scheduler = state.account(int(pull.scheduled["by"]))
            merge(state, scheduler, issue, MergeRequest(pull.scheduled["style"]))


def read_commits(
    state: State,
    actor: Account,
    repository: Repository,
    change: RefChange,
    *,
    skip: int | None = None,
) -> None:
    """Let the messages of a branch's new commits refer to issues, and close them on the default branch.

    `skip` is the id of the pull request whose merge this is.
    """
    bare = state.bare(repository)
    default = change.ref == f"refs/heads/{repository.default_branch}"
    fresh = bare.unseen(change.new)
    if default and change.old != NOTHING:
        fresh = history.between(bare.objects, change.old, change.new)[::-1]
    for name in fresh:
        commit = bare.objects.commit(name)
        closed = timeline.refer_from_commit(state, actor, repository, commit, skip=skip)
        if default:
            for issue in closed:
                issues.close(state, actor, issue, commit=name)


def detect_merged(state: State, actor: Account, repository: Repository, ref: str) -> None:
    """Mark pull requests whose head was pushed into the base by hand, where the repository asks for it.

    The issues that they name stay open, as on the servers.
    """
    bare = state.bare(repository)
    if not repository.autodetect_manual_merge:
        return
    tip = bare.refs.get(ref, "")
    for issue in _open_pulls(state, repository):
        pull = state.pull_of[issue.id]
        if f"refs/heads/{pull.base_ref}" != ref or not history.is_ancestor(bare.objects, pull.head, tip):
            continue
        path = bare.git("rev-list", "--ancestry-path", "--merges", "--reverse", f"{pull.head}..{tip}")
        made = path.decode().split("\n", 1)[0] or pull.head
        merger = _author(state, repository, bare.objects.commit(made).author) if state.old else actor
        _set_merged(state, merger, issue, made, close=False)


def _author(state: State, repository: Repository, line: str) -> Account:
    """Find the account of a commit's author by mail; the owner of the repository stands in for strangers."""
    mail = line.rsplit(" <", 1)[1].split(">", 1)[0].lower()
    found = next((a for a in state.accounts.values() if a.email.lower() == mail), None)
    return found or state.account(repository.owner)


def _source(state: State, repository: Repository, head: str) -> tuple[Repository, str]:
    owner, _, branch = head.rpartition(":")
    if not owner or owner.lower() == state.account(repository.owner).login.lower():
        return repository, branch
    account = state.account_named(owner)
    for other in state.repositories.values():
        if account and other.owner == account.id and other.fork_of == repository.id:
            return other, branch
    raise Rejected("not found", status=404)


def _open_pulls(state: State, repository: Repository) -> list[Issue]:
    return [
        issue
        for issue in state.issues.values()
        if issue.is_pull and not issue.closed and issue.repository == repository.id
    ]


def _push_row(state: State, actor: Account, issue: Issue, commits: list[str], *, forced: bool) -> None:
    body = json.dumps({"is_force_push": forced, "commit_ids": commits}, separators=(",", ":"))
    timeline.add(state, issue, "pull_push", actor, body=body)


def _forget_pushes(state: State, issue: Issue) -> None:
    """Drop the rows of earlier pushes: a force push made their commits meaningless."""
    for row in list(state.rows_of[issue.id]):
        if row.kind == "pull_push" and '"is_force_push":false' in row.body:
            state.drop(row)


def _check_ready(state: State, actor: Account, issue: Issue, wanted: MergeRequest) -> None:
    pull, repository = state.pull_of[issue.id], state.repositories[issue.repository]
    if pull.merged:
        raise Rejected("The PR is already merged", status=405)
    if issue.closed:
        raise Rejected("The PR is closed", status=404)
    if access.right(state, Caller(actor), repository) < access.WRITE:
        raise Rejected("User not allowed to merge PR", status=405)
    if state.quirks.busy_merges > 0:
        state.quirks.busy_merges -= 1
        raise Rejected("Please try again later", status=405)
    if is_draft(issue.title):
        raise Rejected("Work in progress PRs cannot be merged", status=405)
    if wanted.style not in merging.STYLES:
        raise Rejected("[Do]: In", status=422)
    if wanted.style == "manually-merged" and not repository.allow_manual_merge:
        raise Rejected("merge style manually-merged is not allowed", status=405)
    if wanted.expected_head and wanted.expected_head != pull.head:
        raise Rejected("head out of date", status=409)


def _merge_values(state: State, actor: Account, issue: Issue, wanted: MergeRequest, base_tip: str) -> merging.Wanted:
    pull, poster = state.pull_of[issue.id], state.account(issue.poster)
    merger = person_line(actor.login, actor.email, state.now())
    squash = wanted.style == "squash"
    title = wanted.title or (
        f"{issue.title} (#{issue.number})"
        if squash
        else f"Merge pull request '{issue.title}' (#{issue.number}) from {pull.head_ref} into {pull.base_ref}"
    )
    message = f"{title}\n\n{wanted.message}" if wanted.message else title
    author = merger
    if squash and poster.id != actor.id:
        author = person_line(poster.login, poster.email, state.now())
        gap = "\n" if state.old and not wanted.message else "\n\n"
        who = f"{poster.login} <{poster.email}>"
        message += f"{gap}Co-authored-by: {who}\nCo-committed-by: {who}"
    return merging.Wanted(wanted.style, base_tip, pull.head, merger, author, f"{message}\n")


def _mark(state: State, actor: Account, issue: Issue, commit: str) -> None:
    """Take a merge made by hand as this pull request's; 1.22 closes no issue then."""
    pull, repository = state.pull_of[issue.id], state.repositories[issue.repository]
    bare = state.bare(repository)
    tip = bare.branch(pull.base_ref)
    try:
        found = bare.objects.commit(commit).id
    except Rejected as error:
        raise Rejected("Wrong commit ID", status=409) from error
    if not history.is_ancestor(bare.objects, found, tip):
        raise Rejected("Wrong commit ID", status=409)
    if state.old or state.quirks.recheck_before_mark:
        pull.merge_base = bare.merge_base(tip, pull.head)
    _set_merged(state, actor, issue, found, close=not state.old)


def _set_merged(state: State, actor: Account, issue: Issue, commit: str, *, close: bool = True) -> None:
    pull, now = state.pull_of[issue.id], state.now()
    if pull.merged:
        raise Transient("merged meanwhile")
    pull.merged, pull.merged_at, pull.merged_by, pull.merge_commit = True, now, actor.id, commit
    pull.scheduled = {}
    issue.closed, issue.closed_at = True, now
    state.save(pull)
    timeline.add(state, issue, "merge_pull", actor)
    timeline.touch(state, issue)
    issues.announce(state, actor, issue, "closed")
    if close:
        for other in timeline.linked(state, issue, "closes"):
            issues.close(state, actor, other, commit=commit)
        for other in timeline.linked(state, issue, "reopens"):
            issues.reopen(state, actor, other)
