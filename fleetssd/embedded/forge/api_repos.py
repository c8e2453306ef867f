"""API: repositories, organisations, accounts, branches and git data."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from fleetssd.embedded.forge import access, accounts, pull_rows, repositories
from fleetssd.embedded.forge.bare import NOTHING
from fleetssd.embedded.forge.call import CAP, Call, Refusal, answer
from fleetssd.embedded.forge.model import Account, Repository
from fleetssd.embedded.forge.objects import FOLDER
from fleetssd.errors import Rejected

_SWITCHES = {
    "description": "description",
    "private": "private",
    "archived": "archived",
    "has_issues": "has_issues",
    "has_pull_requests": "has_pull_requests",
    "allow_manual_merge": "allow_manual_merge",
    "autodetect_manual_merge": "autodetect_manual_merge",
    "default_delete_branch_after_merge": "delete_branch_after_merge",
}


def version(call: Call) -> Response:
    """Say which server is played."""
    return answer({"version": call.state.quirks.version_text or call.state.version})


def settings(call: Call) -> Response:
    """Say how large pages get."""
    caps = {
        "max_response_items": call.state.quirks.page_cap or CAP,
        "default_paging_num": 30,
        "default_git_trees_per_page": 1000,
        "default_max_blob_size": 10485760,
    }
    return answer(caps if call.state.old else {**caps, "default_max_response_size": 104857600})


def user(call: Call) -> Response:
    """Show whose token it is."""
    return answer(call.view.account(call.actor))


def named_user(call: Call) -> Response:
    """Show an account."""
    return answer(call.view.account(call.account(call.parts["login"])))


def search(call: Call) -> Response:
    """List repositories that the caller can read."""
    wanted = call.text("q").lower()
    found = [r for r in repositories.visible(call.state, call.caller) if wanted in r.name.lower()]
    if call.text("archived"):
        found = [r for r in found if r.archived is (call.text("archived") == "true")]
    rows = [call.view.repository(repository) for repository in call.page(found)]
    return answer({"ok": True, "data": rows}, headers={"X-Total-Count": str(len(found))})


def organization_repositories(call: Call) -> Response:
    """List an organisation's repositories."""
    account = call.account(call.parts["login"])
    found = [r for r in repositories.visible(call.state, call.caller) if r.owner == account.id]
    return call.paged(found, [call.view.repository(repository) for repository in call.page(found)])


def create(call: Call) -> Response:
    """Make a repository of one's own, or of an organisation that one owns."""
    owner: Account = call.actor
    if "login" in call.parts:
        owner = call.account(call.parts["login"])
        admin = call.actor.is_admin or owner.members.get(str(call.actor.id)) == "owner"
        if not admin:
            raise Refusal(403, "Given user is not allowed to create repository in organization.")
    body = call.json
    repository = repositories.create(
        call.state,
        call.actor,
        owner,
        str(body.get("name") or ""),
        description=str(body.get("description") or ""),
        private=bool(body.get("private")),
        default_branch=str(body.get("default_branch") or "main"),
        auto_init=bool(body.get("auto_init")),
    )
    return answer(call.view.repository(repository), 201)


def read(call: Call) -> Response:
    """Show a repository."""
    return answer(call.view.repository(call.repository()))


def edit(call: Call) -> Response:
    """Rename a repository or turn its switches."""
    repository, body = call.repository(access.ADMIN), call.json
    for switch, field in _SWITCHES.items():
        if switch in body:
            setattr(repository, field, body[switch])
    name, branch = body.get("name"), body.get("default_branch")
    if branch and call.state.bare(repository).branch(branch):
        repository.default_branch = branch
        call.state.bare(repository).head_to(branch)
    if name and name != repository.name:
        repositories.rename(call.state, repository, name)
    repository.updated = call.state.now()
    call.state.save(repository)
    return answer(call.view.repository(repository))


def delete(call: Call) -> Response:
    """Delete a repository."""
    repositories.delete(call.state, call.repository(access.ADMIN))
    return Response(status_code=204)


def fork(call: Call) -> Response:
    """Copy a repository to the caller."""
    made = repositories.fork(call.state, call.actor, call.repository())
    return answer(call.view.repository(made), 202)


def add_collaborator(call: Call) -> Response:
    """Give an account rights in a repository."""
    repository, account = call.repository(access.ADMIN), call.account(call.parts["login"])
    repository.collaborators[str(account.id)] = str(call.json.get("permission") or "write")
    call.state.save(repository)
    return Response(status_code=204)


def branches(call: Call) -> Response:
    """List the branches with their tips."""
    repository = call.repository()
    bare = call.state.bare(repository)
    names = sorted(ref.removeprefix("refs/heads/") for ref in bare.refs if ref.startswith("refs/heads/"))
    rows = [{"name": name, "commit": {"id": bare.branch(name)}} for name in call.page(names)]
    return call.paged(names, rows)


def delete_branch(call: Call) -> Response:
    """Delete a branch; no timeline tells of it."""
    repository, name = call.writable(access.WRITE), call.parts["branch"]
    bare = call.state.bare(repository)
    if not bare.branch(name):
        raise call.missing()
    if name == repository.default_branch:
        raise Refusal(403, "can not delete default branch")
    bare.remember()
    bare.move((f"refs/heads/{name}", NOTHING))
    return Response(status_code=204)


def refs(call: Call) -> Response:
    """List the refs under a prefix; a pull request's frozen head is `pull/N/head`."""
    repository, wanted = call.repository(), f"refs/{call.parts['ref']}"
    bare = call.state.bare(repository)
    found = [(ref, sha) for ref, sha in sorted(bare.refs.items()) if ref.startswith(wanted)]
    if not found:
        raise call.missing()
    api = f"{call.root}/api/v1/repos/{call.state.full_name(repository)}/git"
    return answer(
        [
            {
                "ref": ref,
                "url": f"{api}/{ref}",
                "object": {"type": "commit", "sha": sha, "url": f"{api}/commits/{sha}"},
            }
            for ref, sha in found
        ]
    )


def commit(call: Call) -> Response:
    """Show a commit."""
    repository = call.repository()
    name = call.parts["sha"]
    known = call.state.bare(repository).branch(name) or name
    try:
        return answer(pull_rows.commit(call.view, repository, known))
    except Rejected as error:
        raise call.missing() from error


def tree(call: Call) -> Response:
    """List a tree, page by page (`per_page`, not `limit`); past the end it is null."""
    repository = call.repository()
    entries = _entries(call, repository, call.parts["sha"], recursive=call.text("recursive") == "true")
    size = min(max(call.number("per_page", 1000), 1), 1000)
    page = max(call.number("page", 1), 1)
    shown = entries[(page - 1) * size : page * size]
    body = {
        "sha": call.parts["sha"],
        "tree": shown or None,
        "truncated": page * size < len(entries),
        "page": page,
        "total_count": len(entries),
    }
    return answer(body, headers={"X-Total-Count": str(len(entries))})


def raw(call: Call) -> Response:
    """Send a file's bytes at a commit, with an ETag."""
    repository = call.repository()
    bare = call.state.bare(repository)
    name = call.text("ref") or repository.default_branch
    try:
        sha, kind, body = bare.objects.read(f"{bare.branch(name) or name}:{call.parts['path']}")
    except Rejected as error:
        raise call.missing() from error
    if kind != "blob":
        raise call.missing()
    return Response(body, headers={"ETag": f'"{sha}"'}, media_type="application/octet-stream")


def create_user(call: Call) -> Response:
    """Make an account (administrators only)."""
    body = call.json
    login = str(body.get("username") or body.get("login") or "")
    made = accounts.create(call.state, login, email=str(body.get("email") or ""))
    if body.get("password"):
        made.password = access.digest(str(body["password"]))
        call.state.save(made)
    return answer(call.view.account(made), 201)


def delete_user(call: Call) -> Response:
    """Delete an account (administrators only)."""
    accounts.delete(call.state, call.account(call.parts["login"]))
    return Response(status_code=204)


def rename_user(call: Call) -> Response:
    """Rename an account (administrators only)."""
    accounts.rename(call.state, call.account(call.parts["login"]), str(call.json.get("new_username") or ""))
    return Response(status_code=204)


def create_token(call: Call) -> Response:
    """Make a token; here the caller's own token will do where the servers want a password."""
    account = call.account(call.parts["login"])
    if account.id != call.actor.id and not call.actor.is_admin:
        raise Refusal(403, "Forbidden")
    body = call.json
    scopes = [str(scope) for scope in body.get("scopes") or []]
    text = accounts.grant(call.state, account, str(body.get("name") or ""), scopes)
    row: dict[str, Any] = {"name": body.get("name"), "sha1": text, "token_last_eight": text[-8:]}
    return answer({**row, "scopes": scopes}, 201)


def create_organization(call: Call) -> Response:
    """Make an organisation that the caller owns."""
    made = accounts.create(call.state, str(call.json.get("username") or ""), organization=True)
    made.full_name = str(call.json.get("full_name") or "")
    made.members[str(call.actor.id)] = "owner"
    call.state.save(made)
    return answer({**call.view.account(made), "name": made.login}, 201)


def _entries(call: Call, repository: Repository, name: str, *, recursive: bool) -> list[dict[str, Any]]:
    bare = call.state.bare(repository)
    api = f"{call.root}/api/v1/repos/{call.state.full_name(repository)}/git"
    found: list[dict[str, Any]] = []

    def walk(tree_id: str, folder: str) -> None:
        for entry, (mode, sha) in bare.objects.tree(tree_id).items():
            path, is_folder = folder + entry.decode("utf-8", "replace"), mode == FOLDER
            kind = "tree" if is_folder else "blob"
            size = 0 if is_folder else len(bare.objects.read(sha)[2])
            row = {"path": path, "mode": mode.zfill(6), "type": kind, "size": size, "sha": sha}
            found.append({**row, "url": f"{api}/{kind}s/{sha}"})
            if is_folder and recursive:
                walk(sha, path + "/")

    try:
        walk(bare.objects.read(f"{bare.branch(name) or name}^{{tree}}")[0], "")
    except Rejected as error:
        raise call.missing() from error
    return found
