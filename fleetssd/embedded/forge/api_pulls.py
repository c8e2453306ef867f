"""API: pull requests, their diffs and commits, merges, and what checks said of commits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from fleetssd.embedded.forge import access, api_issues, history, pull_rows, pulls
from fleetssd.embedded.forge.call import CAP, DEFAULT_LIMIT, Call, Refusal, answer
from fleetssd.embedded.forge.model import Issue, Status
from fleetssd.embedded.forge.pulls import MergeRequest
from fleetssd.errors import Rejected

_ORDERS: dict[str, Callable[[Issue], int]] = {
    "recentupdate": lambda issue: -issue.updated,
    "leastupdate": lambda issue: issue.updated,
    "oldest": lambda issue: issue.created,
    "mostcomment": lambda issue: -issue.comments,
    "leastcomment": lambda issue: issue.comments,
    "recentclose": lambda issue: -(issue.closed_at or 0),
}
_BAD = ("error", "failure", "warning")


def list_pulls(call: Call) -> Response:
    """List pull requests; the row is not the detail (`merged_by` null, no counts) except on 1.22."""
    repository = call.repository()
    if not repository.has_pull_requests:
        raise call.missing()
    found = [i for i in call.state.issues.values() if i.repository == repository.id and i.is_pull]
    state = call.text("state")
    if state in ("open", "closed"):
        found = [issue for issue in found if issue.closed is (state == "closed")]
    if not call.state.old:
        found = _newer_filters(call, found)
    if call.query.getlist("labels"):
        # Any of these ids; a pull request with two of them is listed twice, since the servers join without distinct.
        wanted = [int(text) for text in call.query.getlist("labels") if text.isdigit()]
        found = [issue for issue in found for label in wanted if label in issue.labels]
    found.sort(key=lambda issue: (issue.created, issue.id), reverse=True)
    order = _ORDERS.get(call.text("sort"))
    if order and not (call.state.old and call.text("sort") == "recentclose"):
        found.sort(key=order)
    return call.paged(found, [pull_rows.listed(call.view, issue) for issue in call.page(found)])


def create(call: Call) -> Response:
    """Open a pull request."""
    repository, body = call.writable(), call.json
    if not repository.has_pull_requests:
        raise call.missing()
    if not body.get("title"):
        raise Refusal(422, "[Title]: Required")
    issue = pulls.create(
        call.state,
        call.actor,
        repository,
        title=str(body["title"]),
        body=str(body.get("body") or ""),
        head=str(body.get("head") or ""),
        base=str(body.get("base") or ""),
    )
    return answer(pull_rows.detail(call.view, issue), 201)


def read(call: Call) -> Response:
    """Show a pull request."""
    return answer(pull_rows.detail(call.view, call.pull(call.repository())[0]))


def edit(call: Call) -> Response:
    """Change title, body, state or maintainer edits."""
    repository = call.writable()
    issue, pull = call.pull(repository)
    if issue.poster != call.actor.id and access.right(call.state, call.caller, repository) < access.WRITE:
        raise Refusal(403, "Forbidden")
    api_issues.change(call, issue)
    allow = call.json.get("allow_maintainer_edit")
    if allow is not None and allow is not pull.allow_maintainer_edit:
        pull.allow_maintainer_edit = bool(allow)
        if pull.merged:
            pull.merged_at = call.state.now()  # the servers' own slip: any write of the row moves it
        call.state.save(pull)
    return answer(pull_rows.detail(call.view, issue), 201)


def diff(call: Call) -> Response:
    """Show the pull request's own diff as text."""
    repository = call.repository()
    _, pull = call.pull(repository)
    options = ["--binary"] if call.text("binary") == "true" else []
    bare = call.state.bare(repository)
    base = pull.merge_base
    if not pull.merged and bare.branch(pull.base_ref):
        base = bare.merge_base(bare.branch(pull.base_ref), pull.head)
    if call.path.endswith(".patch"):
        text = bare.git("format-patch", "--stdout", *options, f"{base}..{pull.head}")
    else:
        text = bare.diff(base, pull.head, *options)
    return PlainTextResponse(text)


def files(call: Call) -> Response:
    """List the changed files; 1.22 crashes once the fork is gone."""
    issue, pull = call.pull(call.repository())
    if call.state.old and pull.head_repository not in call.state.repositories:
        return HTMLResponse("<!DOCTYPE html>\n<title>Internal Server Error</title>\n", 500)
    rows = pull_rows.files(call.view, issue)
    return call.counted(call.page(rows), len(rows))


def commits(call: Call) -> Response:
    """List the pull request's commits, newest first."""
    repository = call.repository()
    _, pull = call.pull(repository)
    names = history.between(call.state.bare(repository).objects, pull.merge_base, pull.head)
    rows = [pull_rows.commit(call.view, repository, name) for name in call.page(names)]
    return call.counted(rows, len(names))


def reviews(call: Call) -> Response:
    """List reviews: nobody reviews here."""
    call.pull(call.repository())
    return answer([], headers={"X-Total-Count": "0"})


def is_merged(call: Call) -> Response:
    """Answer 204 for a merged pull request, 404 for any other."""
    _, pull = call.pull(call.repository())
    if not pull.merged:
        raise call.missing()
    return Response(status_code=204)


def merge(call: Call) -> Response:
    """Merge a pull request, or schedule its merge (201)."""
    issue, pull = call.pull(call.writable())
    body = call.json
    wanted = MergeRequest(
        str(body.get("Do") or body.get("do") or ""),
        str(body.get("MergeTitleField") or ""),
        str(body.get("MergeMessageField") or ""),
        str(body.get("MergeCommitID") or ""),
        str(body.get("head_commit_id") or ""),
        body.get("delete_branch_after_merge"),
    )
    state = _combined(call, pull.head)[0]
    if body.get("merge_when_checks_succeed") and state != "success":
        pulls.schedule(call.state, call.actor, issue, wanted)
        return Response(status_code=201)
    pulls.merge(call.state, call.actor, issue, wanted)
    return Response(status_code=200)


def by_commit(call: Call) -> Response:
    """Show the pull request that a merge commit came from."""
    repository = call.repository()
    for issue in call.state.issues.values():
        pull = call.state.pull_of.get(issue.id)
        if pull and issue.repository == repository.id and pull.merge_commit == call.parts["sha"]:
            return answer(pull_rows.detail(call.view, issue))
    raise call.missing()


def status(call: Call) -> Response:
    """Show what all checks say of a commit; state and count are of the page that is asked for."""
    repository = call.repository()
    name, view = call.parts["ref"], call.view
    commit = _commit_id(call, name)
    found = _newest(call, commit)
    page = call.page(found)
    state, total = _worst([item.status for item in page], old=call.state.old), len(page)
    if not page and call.state.old:
        nothing: dict[str, Any] = {"state": "", "sha": "", "total_count": 0, "statuses": None}
        return answer({**nothing, "repository": None, "commit_url": "", "url": ""})
    place = f"{call.root}/api/v1/repos/{call.state.full_name(repository)}/commits/{commit}"
    body = {
        "state": state,
        "sha": commit,
        "total_count": total,
        "statuses": [view.status(item) for item in page] or None,
        "repository": view.repository(repository),
        "commit_url": place,
        "url": f"{place}/status",
    }
    return answer(body, headers={"X-Total-Count": str(len(found))})


def create_status(call: Call) -> Response:
    """Take in what a check says of a commit; a scheduled merge may go off."""
    repository, body, state = call.writable(access.WRITE), call.json, call.state
    word = str(body.get("state") or "")
    if word not in ("pending", "success", "skipped", *_BAD):
        raise Refusal(422, "[State]: Required")
    made = state.add(
        Status(
            state.next_id(Status),
            repository.id,
            _commit_id(call, call.parts["sha"]),
            str(body.get("context") or "default"),
            word,
            str(body.get("description") or ""),
            str(body.get("target_url") or ""),
            call.actor.id,
            state.now(),
        )
    )
    if _combined(call, made.commit)[0] == "success":
        pulls.settle_schedules(state, repository, made.commit)
    return answer(call.view.status(made), 201)


def _newer_filters(call: Call, found: list[Issue]) -> list[Issue]:
    """Apply `poster` and `base_branch`, which 1.22 ignores."""
    if call.text("poster"):
        account = call.state.account_named(call.text("poster"))
        if account is None:
            raise Refusal(400, call.no_user(call.text("poster")))
        found = [issue for issue in found if issue.poster == account.id]
    base = call.text("base_branch")
    return [i for i in found if call.state.pull_of[i.id].base_ref == base] if base else found


def _commit_id(call: Call, name: str) -> str:
    repository = call.repository()
    bare = call.state.bare(repository)
    known = bare.branch(name) or bare.refs.get(f"refs/tags/{name}", name)
    try:
        return bare.objects.commit(known).id
    except Rejected as error:
        if call.state.old:
            return known
        raise call.missing() from error


def _newest(call: Call, commit: str) -> list[Status]:
    """Return the last word of each context, by context's first appearance."""
    found: dict[str, Status] = {}
    for item in call.state.statuses.values():
        if item.commit == commit:
            found[item.context] = item
    return list(found.values())


def _combined(call: Call, commit: str) -> tuple[str, int]:
    found = _newest(call, commit)[:DEFAULT_LIMIT]
    return _worst([item.status for item in found], old=call.state.old), min(len(found), CAP)


def _worst(words: list[str], *, old: bool) -> str:
    if old and "warning" in words and not {"error", "failure"} & set(words):
        return "warning"
    if any(word in _BAD for word in words):
        return "failure"
    if "pending" in words or not words:
        return "pending"
    return "success"
