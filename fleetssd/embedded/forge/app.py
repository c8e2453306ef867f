"""The ASGI application: which address is answered by whom, and what every request goes through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fleetssd.embedded.forge import access, api_hooks, api_issues, api_pulls, api_repos, quirks
from fleetssd.embedded.forge.access import BadCredentials, Caller
from fleetssd.embedded.forge.call import JSON_TYPE, Call, Elsewhere, Refusal, answer, without_empty_arrays
from fleetssd.embedded.forge.smart_http import GitServer
from fleetssd.embedded.forge.state import State
from fleetssd.embedded.forge.webhooks import Courier
from fleetssd.errors import FleetError, Misconfigured, Rejected

Handler = Callable[[Call], Response]

_REPO = "/repos/{owner}/{repo}"
_ISSUE = f"{_REPO}/issues/{{index:int}}"
_PULL = f"{_REPO}/pulls/{{index:int}}"
# method, path below /api/v1, topic of the scope that is needed ("" for none), handler
ENDPOINTS: tuple[tuple[str, str, str, Handler], ...] = (
    ("GET", "/version", "", api_repos.version),
    ("GET", "/settings/api", "", api_repos.settings),
    ("GET", "/user", "user", api_repos.user),
    ("GET", "/users/{login}", "user", api_repos.named_user),
    ("POST", "/users/{login}/tokens", "user", api_repos.create_token),
    ("POST", "/admin/users", "admin", api_repos.create_user),
    ("DELETE", "/admin/users/{login}", "admin", api_repos.delete_user),
    ("POST", "/admin/users/{login}/rename", "admin", api_repos.rename_user),
    ("GET", "/admin/hooks", "admin", api_hooks.list_hooks),
    ("POST", "/admin/hooks", "admin", api_hooks.create),
    ("POST", "/orgs", "organization", api_repos.create_organization),
    ("GET", "/orgs/{login}/repos", "organization", api_repos.organization_repositories),
    ("POST", "/orgs/{login}/repos", "organization", api_repos.create),
    ("GET", "/orgs/{login}/hooks", "organization", api_hooks.list_hooks),
    ("POST", "/orgs/{login}/hooks", "organization", api_hooks.create),
    ("PATCH", "/orgs/{login}/hooks/{id:int}", "organization", api_hooks.edit),
    ("DELETE", "/orgs/{login}/hooks/{id:int}", "organization", api_hooks.delete),
    ("POST", "/user/repos", "repository", api_repos.create),
    ("GET", "/repos/search", "repository", api_repos.search),
    ("GET", "/repos/issues/search", "issue", api_issues.search),
    ("GET", _REPO, "repository", api_repos.read),
    ("PATCH", _REPO, "repository", api_repos.edit),
    ("DELETE", _REPO, "repository", api_repos.delete),
    ("POST", f"{_REPO}/forks", "repository", api_repos.fork),
    ("PUT", f"{_REPO}/collaborators/{{login}}", "repository", api_repos.add_collaborator),
    ("GET", f"{_REPO}/branches", "repository", api_repos.branches),
    ("DELETE", f"{_REPO}/branches/{{branch:path}}", "repository", api_repos.delete_branch),
    ("GET", f"{_REPO}/git/refs/{{ref:path}}", "repository", api_repos.refs),
    ("GET", f"{_REPO}/git/commits/{{sha}}", "repository", api_repos.commit),
    ("GET", f"{_REPO}/git/trees/{{sha}}", "repository", api_repos.tree),
    ("GET", f"{_REPO}/raw/{{path:path}}", "repository", api_repos.raw),
    ("GET", f"{_REPO}/commits/{{sha}}/pull", "repository", api_pulls.by_commit),
    ("GET", f"{_REPO}/commits/{{ref:path}}/status", "repository", api_pulls.status),
    ("POST", f"{_REPO}/statuses/{{sha}}", "repository", api_pulls.create_status),
    ("GET", f"{_REPO}/labels", "issue", api_issues.labels),
    ("POST", f"{_REPO}/labels", "issue", api_issues.create_label),
    ("GET", f"{_REPO}/issues", "issue", api_issues.list_issues),
    ("POST", f"{_REPO}/issues", "issue", api_issues.create),
    ("PATCH", f"{_REPO}/issues/comments/{{id:int}}", "issue", api_issues.edit_comment),
    ("GET", _ISSUE, "issue", api_issues.read),
    ("PATCH", _ISSUE, "issue", api_issues.edit),
    ("GET", f"{_ISSUE}/timeline", "issue", api_issues.timeline),
    ("GET", f"{_ISSUE}/comments", "issue", api_issues.comments),
    ("POST", f"{_ISSUE}/comments", "issue", api_issues.create_comment),
    ("GET", f"{_ISSUE}/labels", "issue", api_issues.issue_labels),
    ("POST", f"{_ISSUE}/labels", "issue", api_issues.add_labels),
    ("DELETE", f"{_ISSUE}/labels/{{id:int}}", "issue", api_issues.remove_label),
    ("PUT", f"{_ISSUE}/lock", "issue", api_issues.lock),
    ("DELETE", f"{_ISSUE}/lock", "issue", api_issues.lock),
    ("GET", f"{_REPO}/pulls", "repository", api_pulls.list_pulls),
    ("POST", f"{_REPO}/pulls", "repository", api_pulls.create),
    ("GET", f"{_PULL}.diff", "repository", api_pulls.diff),
    ("GET", f"{_PULL}.patch", "repository", api_pulls.diff),
    ("GET", _PULL, "repository", api_pulls.read),
    ("PATCH", _PULL, "repository", api_pulls.edit),
    ("GET", f"{_PULL}/files", "repository", api_pulls.files),
    ("GET", f"{_PULL}/commits", "repository", api_pulls.commits),
    ("GET", f"{_PULL}/reviews", "repository", api_pulls.reviews),
    ("GET", f"{_PULL}/merge", "repository", api_pulls.is_merged),
    ("POST", f"{_PULL}/merge", "repository", api_pulls.merge),
    ("GET", f"{_REPO}/hooks", "repository", api_hooks.list_hooks),
    ("POST", f"{_REPO}/hooks", "repository", api_hooks.create),
    ("GET", f"{_REPO}/hooks/{{id:int}}", "repository", api_hooks.read),
    ("PATCH", f"{_REPO}/hooks/{{id:int}}", "repository", api_hooks.edit),
    ("DELETE", f"{_REPO}/hooks/{{id:int}}", "repository", api_hooks.delete),
    ("POST", f"{_REPO}/hooks/{{id:int}}/tests", "repository", api_hooks.test),
)


class Forge:
    """The application over a state; `courier` delivers its webhooks."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.courier = Courier(lambda: state.quirks, old=state.old)
        self._git = GitServer(state)
        routes = [
            Route(f"/api/v1{path}", self._endpoint(topic, handler), methods=[method])
            for method, path, topic, handler in ENDPOINTS
        ]
        routes += [
            Route("/api/healthz", self._health, methods=["GET"]),
            Route("/embedded/quirks", self._quirks, methods=["GET", "POST"]),
            Route("/{owner}/{repo}.git/{rest:path}", self._serve_git, methods=["GET", "POST"]),
            Route("/{rest:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]
        self.app = Starlette(routes=routes)

    def close(self) -> None:
        """Deliver what is queued and write what is pending."""
        self.courier.close()
        self.state.close()

    def _endpoint(self, topic: str, handler: Handler) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            if request.method == "HEAD":
                return Response(status_code=405)
            body = await request.body()
            return await run_in_threadpool(self._perform, request, body, topic, handler)

        return endpoint

    def _perform(self, request: Request, body: bytes, topic: str, handler: Handler) -> Response:
        """Answer one API request: faults first, then who, then what; all changes are written before the answer."""
        state = self.state
        call = Call(
            state,
            Caller(),
            request.method,
            request.url.path,
            request.query_params,
            {key: str(value) for key, value in request.path_params.items()},
            body,
            f"{request.url.scheme}://{request.headers.get('host', '')}",
            topic,
        )
        with state.lock:
            fault = state.quirks.fault_for(call.method, call.path)
            if fault is not None:
                return Response(fault.body, fault.status, {**fault.headers, "Content-Type": fault.content_type})
            try:
                response = self._answer(call, request.headers.get("authorization", ""), handler)
                return _nulled(response) if state.quirks.null_arrays else response
            finally:
                state.journal.commit()
                self._send()

    def _answer(self, call: Call, header: str, handler: Handler) -> Response:
        try:
            call.caller = access.identify(self.state, header)
            if self.state.quirks.sign_in_required and call.caller.account is None:
                return answer({"message": "Only signed in user is allowed to call APIs."}, 403)
            _check_scope(call)
            return handler(call)
        except Elsewhere as elsewhere:
            return call.moved(elsewhere)
        except (BadCredentials, Refusal, FleetError) as error:
            return call.refused(_refusal(call, error))

    def _send(self) -> None:
        if self.state.outbox:
            outbox, self.state.outbox = self.state.outbox, []
            self.courier.send(outbox)

    async def _serve_git(self, request: Request) -> Response:
        fault = self.state.quirks.fault_for(request.method, request.url.path)
        if fault is not None:
            return Response(fault.body, fault.status, {**fault.headers, "Content-Type": fault.content_type})
        try:
            return await self._git.answer(request)
        finally:
            self._send()

    async def _quirks(self, request: Request) -> Response:
        """Show or replace the quirks; this address is ours alone."""
        if request.method == "POST":
            try:
                values = quirks.parse(await request.json())
            except Misconfigured as error:
                return answer({"message": error.message, "hint": error.hint}, 422)
            with self.state.lock:
                self.state.quirks = values
        return Response(status_code=204)

    async def _health(self, request: Request) -> Response:
        return answer({"status": "pass", "description": f"embedded forge at {request.url.path}"})

    async def _unknown(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(status_code=405)
        return PlainTextResponse("404 page not found\n", 404)


def _nulled(response: Response) -> Response:
    if response.headers.get("content-type") != JSON_TYPE:
        return response
    kept = {name: response.headers[name] for name in ("x-total-count", "link") if name in response.headers}
    return answer(without_empty_arrays(json.loads(bytes(response.body))), response.status_code, headers=kept)


def _check_scope(call: Call) -> None:
    """Check the scope that an address needs; raise Refusal (401 without a token where one is needed, 403)."""
    reading = call.method == "GET"
    scope = f"{'read' if reading else 'write'}:{call.topic}"
    if not call.topic:
        return
    if call.caller.account is None:
        if not reading or call.topic in ("user", "admin"):
            raise Refusal(401, "token is required")
        return
    if not call.caller.holds(scope):
        need = "token does not have at least one of required scope(s)"
        held = ",".join(call.caller.scopes)
        tail = f": [{scope}]" if call.state.old else f", required=[{scope}], token scope={held}"
        raise Refusal(403, need + tail)
    if call.topic == "admin" and not call.caller.account.is_admin:
        raise Refusal(403, "user should be the site admin")


def _refusal(call: Call, error: BadCredentials | Refusal | FleetError) -> Refusal:
    """Say what a failure is to the caller."""
    if isinstance(error, BadCredentials):
        known = "user does not exist [uid: 0, name: ]"
        return Refusal(401, known if call.state.old else "invalid username, password or token")
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Rejected):
        missing = error.status == 404 and error.message == "not found"
        return call.missing() if missing else Refusal(error.status or 422, error.message)
    return Refusal(500, error.message)
