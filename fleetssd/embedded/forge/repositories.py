"""Make, fork, rename and delete repositories, and take in what was pushed."""

from __future__ import annotations

import re

from fleetssd.embedded.forge import access, pulls, timeline, webhooks
from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.bare import NOTHING, RefChange
from fleetssd.embedded.forge.model import Account, Hook, Issue, Label, Repository
from fleetssd.embedded.forge.pull_rows import person_line
from fleetssd.embedded.forge.rows import Json, View
from fleetssd.embedded.forge.state import State
from fleetssd.errors import Rejected

_NAME = re.compile(r"[0-9a-zA-Z_][0-9a-zA-Z_.-]*\Z")
_PACK_AFTER = 50  # so many refs from one push are packed into one file


def create(
    state: State,
    actor: Account,
    owner: Account,
    name: str,
    *,
    description: str = "",
    private: bool = False,
    default_branch: str = "main",
    auto_init: bool = False,
) -> Repository:
    """Make a repository; raise Rejected: 422 for a bad name, 409 for one that is taken."""
    if not _NAME.match(name) or name.endswith(".git"):
        raise Rejected(f"[Name]: {name} is invalid", status=422)
    if state.repository_named(owner.login, name) is not None:
        raise Rejected("The repository with the same name already exists.", status=409)
    number, now = state.next_id(Repository), state.now()
    repository = state.add(Repository(number, owner.id, name, now, now, description, private, default_branch or "main"))
    bare = state.bare(repository)
    bare.create(repository.default_branch)
    if auto_init:
        objects = bare.objects
        readme = objects.write("blob", f"# {name}\n\n{description}".encode())
        who = person_line(actor.login, actor.email, now)
        tree = objects.write_tree({b"README.md": ("100644", readme)})
        commit = objects.write_commit(tree, [], who, who, "Initial commit\n")
        bare.unseen(commit)
        bare.move((f"refs/heads/{repository.default_branch}", commit))
    return repository


def fork(state: State, owner: Account, origin: Repository) -> Repository:
    """Copy a repository with its branches to another owner."""
    copy = create(state, owner, owner, origin.name, description=origin.description, private=origin.private)
    copy.fork_of, copy.has_issues, copy.default_branch = origin.id, False, origin.default_branch
    state.save(copy)
    bare = state.bare(copy)
    bare.git("fetch", "--quiet", str(state.bare(origin).path), "+refs/heads/*:refs/heads/*")
    bare.head_to(copy.default_branch)
    bare.refresh()
    bare.known = None
    return copy


def rename(state: State, repository: Repository, name: str) -> None:
    """Give a repository another name; the old one forwards."""
    owner = state.account(repository.owner)
    if state.repository_named(owner.login, name) is not None:
        raise Rejected("The repository with the same name already exists.", status=422)
    state.forward(f"{owner.login}/{repository.name}", f"{owner.login}/{name}")
    repository.name = name
    state.save(repository)


def delete(state: State, repository: Repository) -> None:
    """Delete a repository with its issues; pull requests that came from it live on without a head repository."""
    for issue in [issue for issue in state.issues.values() if issue.repository == repository.id]:
        for row in [*state.rows_of.pop(issue.id, []), *state.rows_from.pop(issue.id, [])]:
            if row.id in state.rows:
                state.drop(row)
        if issue.id in state.pull_of:
            state.drop(state.pull_of.pop(issue.id))
        del state.by_number[issue.repository, issue.number]
        state.drop(issue)
    for hook in [h for h in state.hooks.values() if h.target == "repository" and h.owner == repository.id]:
        state.drop(hook)
    state.forget_bare(repository)
    state.drop(repository)


def label_named(state: State, repository: Repository, name: str) -> Label | None:
    """Find a label by its name."""
    mine = (label for label in state.labels.values() if label.repository == repository.id)
    return next((label for label in mine if label.name == name), None)


def pushed(state: State, actor: Account, repository: Repository) -> None:
    """Find what a push changed by comparing refs, and let everything follow: pull requests, issues, hooks."""
    bare = state.bare(repository)
    changed = bare.refresh()
    if not changed:
        return
    repository.updated = state.now()
    if not bare.branch(repository.default_branch):
        _adopt_branch(state, repository, [change.ref for change in changed if change.new != NOTHING])
    state.save(repository)
    default = f"refs/heads/{repository.default_branch}"
    for change in sorted(changed, key=lambda change: change.ref != default):
        if not change.ref.startswith("refs/heads/"):
            continue
        pulls.follow(state, actor, repository, change)
        if change.new != NOTHING:
            pulls.read_commits(state, actor, repository, change)
            pulls.detect_merged(state, actor, repository, change.ref)
        _announce_push(state, actor, repository, change)
    if len(changed) > _PACK_AFTER:
        bare.git("pack-refs", "--all")


def test_delivery(state: State, actor: Account, repository: Repository, hook: Hook) -> None:
    """Send one hook a push of the default branch's tip onto itself, if it listens to pushes."""
    tip = state.bare(repository).branch(repository.default_branch)
    if not tip:
        # 1.22 trips over the empty repository, later versions say so.
        raise Rejected("" if state.old else "repository is empty", status=500 if state.old else 404)
    if "push" not in hook.events:
        return
    before = len(state.outbox)
    _announce_push(state, actor, repository, RefChange(f"refs/heads/{repository.default_branch}", tip, tip))
    state.outbox[before:] = [item for item in state.outbox[before:] if item.hook is hook]


def visible(state: State, caller: Caller) -> list[Repository]:
    """List the repositories that the caller can read, by id; a `public-only` token sees no private one."""
    return [
        repository
        for repository in state.repositories.values()
        if access.right(state, caller, repository) >= access.READ and not (caller.public_only and repository.private)
    ]


def lock(state: State, actor: Account, issue: Issue, *, locked: bool) -> None:
    """Close or open an issue for comments."""
    issue.locked = locked
    timeline.add(state, issue, "lock" if locked else "unlock", actor)
    timeline.touch(state, issue)


def _adopt_branch(state: State, repository: Repository, refs: list[str]) -> None:
    branches = [ref.removeprefix("refs/heads/") for ref in refs if ref.startswith("refs/heads/")]
    if branches and not state.bare(repository).branch(repository.default_branch):
        repository.default_branch = branches[0]
        state.bare(repository).head_to(branches[0])


def _announce_push(state: State, actor: Account, repository: Repository, change: RefChange) -> None:
    ref, old, new = change

    def payload(view: View) -> Json:
        place = f"{view.root}/{state.full_name(repository)}"
        commits = [_pushed_commit(state, repository, place, new)] if new != NOTHING else []
        return {
            "ref": ref,
            "before": old,
            "after": new,
            "compare_url": f"{place}/compare/{old}...{new}",
            "commits": commits,
            "total_commits": len(commits),
            "head_commit": commits[0] if commits else None,
            "pusher": View(state, Caller(), view.web, view.root).account(actor),
        }

    webhooks.announce(state, actor, repository, "push", payload)


def _pushed_commit(state: State, repository: Repository, place: str, name: str) -> Json:
    commit = state.bare(repository).objects.commit(name)

    def person(line: str) -> Json:
        who, _, mail = line.rsplit(" ", 2)[0].rpartition(" <")
        found = next((a for a in state.accounts.values() if a.email and a.email == mail.rstrip(">")), None)
        return {"name": who, "email": mail.rstrip(">"), "username": found.login if found else ""}

    return {
        "id": name,
        "message": commit.message,
        "url": f"{place}/commit/{name}",
        "author": person(commit.author),
        "committer": person(commit.committer),
        "verification": {
            "verified": False,
            "reason": "gpg.error.not_signed_commit",
            "signature": "",
            "signer": None,
            "payload": "",
        },
        "timestamp": View(state, Caller(), "", "").time(commit.seconds),
        "added": None,
        "removed": None,
        "modified": None,
    }
