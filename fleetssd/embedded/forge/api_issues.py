"""API: issues, comments, labels, timelines and the search over all repositories."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from fleetssd.embedded.forge import access, issues, pulls, repositories
from fleetssd.embedded.forge.call import CAP, DEFAULT_LIMIT, Call, Refusal, answer
from fleetssd.embedded.forge.model import Issue, Label, Repository, Row


def search(call: Call) -> Response:
    """Search issues and pull requests of every repository that the caller can read."""
    seen = {repository.id for repository in repositories.visible(call.state, call.caller)}
    owner = call.text("owner")
    if owner:
        account = call.state.account_named(owner)
        if account is None:
            raise Refusal(400, call.no_user(owner))
        seen = {key for key in seen if call.state.repositories[key].owner == account.id}
    found = [issue for issue in call.state.issues.values() if issue.repository in seen]
    if call.text("created") == "true" and call.caller.account:
        found = [issue for issue in found if issue.poster == call.caller.id]
    # 1.22 does not know created_by here: it is ignored without a word.
    found = _filtered(call, found, created_by=not call.state.old)
    cap, default = (CAP, 20) if call.state.old else (0, DEFAULT_LIMIT)
    page = call.page(found, default=default, cap=cap)
    return call.paged(found, [call.view.issue(issue) for issue in page], default=default, cap=cap)


def list_issues(call: Call) -> Response:
    """List issues and pull requests of one repository."""
    repository = call.repository()
    found = [issue for issue in call.state.issues.values() if issue.repository == repository.id]
    if not repository.has_issues:
        found = [issue for issue in found if issue.is_pull]
    found = _filtered(call, found, created_by=True)
    return call.paged(found, [call.view.issue(issue) for issue in call.page(found)])


def create(call: Call) -> Response:
    """Open an issue."""
    repository, body = call.writable(), call.json
    if not repository.has_issues:
        raise call.missing()
    title = _required(body, "title")
    issue = issues.create(call.state, call.actor, repository, title, str(body.get("body") or ""))
    if access.right(call.state, call.caller, repository) >= access.WRITE:
        wanted = [call.state.labels[key] for key in body.get("labels") or [] if key in call.state.labels]
        issues.label(call.state, call.actor, issue, wanted)
        if body.get("closed"):
            issues.close(call.state, call.actor, issue)
    return answer(call.view.issue(issue), 201)


def read(call: Call) -> Response:
    """Show an issue, or a pull request as an issue."""
    return answer(call.view.issue(call.issue(call.repository())))


def edit(call: Call) -> Response:
    """Change title, body or state."""
    issue = call.issue(call.writable())
    _may_write(call, issue)
    change(call, issue)
    return answer(call.view.issue(issue), 201)


def change(call: Call, issue: Issue) -> None:
    """Apply title, body and state of a request."""
    body, state = call.json, call.state
    issues.edit(state, call.actor, issue, body.get("title"), body.get("body"))
    if body.get("state") == "closed":
        issues.close(state, call.actor, issue)
    elif body.get("state") == "open":
        if issue.is_pull:
            pulls.reopen(state, call.actor, issue)
        else:
            issues.reopen(state, call.actor, issue)


def comments(call: Call) -> Response:
    """List an issue's comments, all of them, oldest first."""
    rows = _window(call, [row for row in _rows_or_crash(call) if row.kind == "comment"])
    return answer(
        [call.view.comment(row) for row in rows],
        headers={"X-Total-Count": str(len(rows))},
    )


def create_comment(call: Call) -> Response:
    """Write a comment."""
    issue = call.issue(call.writable())
    held = access.right(call.state, call.caller, call.state.repositories[issue.repository])
    if issue.locked and held < access.WRITE:
        raise Refusal(403, "You cannot comment on a locked issue.")
    row = issues.comment(call.state, call.actor, issue, _required(call.json, "body"))
    return answer(call.view.comment(row), 201)


def edit_comment(call: Call) -> Response:
    """Change a comment."""
    repository, row = call.writable(), call.state.rows.get(int(call.parts["id"]))
    if row is None or row.kind != "comment" or call.state.issues[row.issue].repository != repository.id:
        raise call.missing()
    if row.poster != call.actor.id and access.right(call.state, call.caller, repository) < access.WRITE:
        raise Refusal(403, "Only the poster may edit the comment")
    issues.edit_comment(call.state, call.actor, row, _required(call.json, "body"))
    return answer(call.view.comment(row))


def timeline(call: Call) -> Response:
    """List what happened to an issue; without `page` everything, and `null` for nothing."""
    rows = _window(call, _rows_or_crash(call))
    if "page" in call.query or "limit" in call.query:
        rows = call.page(rows)
    seen = {repository.id for repository in repositories.visible(call.state, call.caller)}
    # Rows from repositories that the caller cannot read go after paging, so pages may be short.
    shown = [row for row in rows if _readable(call, row, seen)]
    body: list[Any] = [call.view.timeline(row) for row in shown]
    if call.state.quirks.null_timeline_item:
        body.append(None)
    return answer(body or None, headers={"X-Total-Count": str(len(shown))})


def lock(call: Call) -> Response:
    """Lock or unlock an issue; 1.22 has no such address."""
    if call.state.old:
        raise call.missing()
    issue = call.issue(call.writable(access.WRITE))
    repositories.lock(call.state, call.actor, issue, locked=call.method == "PUT")
    return Response(status_code=204)


def labels(call: Call) -> Response:
    """List a repository's labels."""
    repository = call.repository()
    found = [label for label in call.state.labels.values() if label.repository == repository.id]
    found.sort(key=lambda label: label.name)
    return call.paged(found, [call.view.label(label) for label in call.page(found)])


def create_label(call: Call) -> Response:
    """Make a label."""
    repository, body = call.writable(access.WRITE), call.json
    name, color = _required(body, "name"), _required(body, "color").lstrip("#").lower()
    label = Label(call.state.next_id(Label), repository.id, name, color, body.get("description") or "")
    return answer(call.view.label(call.state.add(label)), 201)


def issue_labels(call: Call) -> Response:
    """List an issue's labels."""
    return answer(call.view.labels(call.issue(call.repository())))


def add_labels(call: Call) -> Response:
    """Put labels on an issue, by ids or by names; unknown ones are ignored."""
    repository = call.writable(access.WRITE)
    issue, wanted = call.issue(repository), call.json.get("labels") or []
    if len({type(item) for item in wanted}) > 1:
        raise Refusal(400, "labels should be an array of strings or integers")
    found = [_label(call, repository, item) for item in wanted]
    issues.label(call.state, call.actor, issue, [label for label in found if label])
    return answer(call.view.labels(issue))


def remove_label(call: Call) -> Response:
    """Take a label off an issue."""
    repository = call.writable(access.WRITE)
    issue, label = call.issue(repository), _label(call, repository, int(call.parts["id"]))
    if label is None:
        raise Refusal(422, "label does not exist")
    issues.label(call.state, call.actor, issue, [label], remove=True)
    return Response(status_code=204)


def _filtered(call: Call, found: list[Issue], *, created_by: bool) -> list[Issue]:
    state, kind = call.text("state", "open"), call.text("type")
    since, before = call.moment("since"), call.moment("before")
    if state != "all":
        found = [issue for issue in found if issue.closed is (state == "closed")]
    if kind in ("pulls", "issues"):
        found = [issue for issue in found if issue.is_pull is (kind == "pulls")]
    if since is not None:
        found = [issue for issue in found if issue.updated >= since]
    if before is not None:
        found = [issue for issue in found if issue.updated <= before]
    if created_by and call.text("created_by"):
        account = call.state.account_named(call.text("created_by"))
        if account is None:
            raise call.missing(call.no_user(call.text("created_by")))
        found = [issue for issue in found if issue.poster == account.id]
    found = _with_labels(call, found)
    return sorted(found, key=lambda issue: (issue.created, issue.id), reverse=True)


def _with_labels(call: Call, found: list[Issue]) -> list[Issue]:
    names = {name for name in call.text("labels").split(",") if name}
    keys = {label.id for label in call.state.labels.values() if label.name in names}
    # When none of the names exists the filter vanishes.
    return [issue for issue in found if keys & set(issue.labels)] if keys else found


def _rows_or_crash(call: Call) -> list[Row]:
    """Return an issue's rows; a number that is missing makes these addresses fail with 500, as on the servers."""
    repository = call.repository()
    found = call.state.by_number.get((repository.id, int(call.parts["index"])))
    if found is None:
        raise Refusal(500, "")
    return sorted(call.state.rows_of[found.id], key=lambda row: row.id)


def _window(call: Call, rows: list[Row]) -> list[Row]:
    since, before = call.moment("since"), call.moment("before")
    return [
        row for row in rows if (since is None or row.updated >= since) and (before is None or row.updated <= before)
    ]


def _readable(call: Call, row: Row, seen: set[int]) -> bool:
    if row.ref_issue is None:
        return True
    referring = call.state.issues.get(row.ref_issue)
    return referring is not None and (referring.repository in seen or call.caller.public_only)


def _label(call: Call, repository: Repository, wanted: Any) -> Label | None:
    if isinstance(wanted, str):
        return repositories.label_named(call.state, repository, wanted)
    label = call.state.labels.get(wanted)
    return label if label and label.repository == repository.id else None


def _may_write(call: Call, issue: Issue) -> None:
    repository = call.state.repositories[issue.repository]
    if issue.poster != call.actor.id and access.right(call.state, call.caller, repository) < access.WRITE:
        raise Refusal(403, "Forbidden")


def _required(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not value:
        raise Refusal(422, f"[{name.capitalize()}]: Required")
    return str(value)
