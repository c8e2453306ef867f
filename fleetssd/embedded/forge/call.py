"""One API request: who asks, what for, and the answers that are alike everywhere (errors, pages, redirects)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.responses import Response

from fleetssd.embedded.forge import access
from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.model import Account, Issue, Pull, Repository
from fleetssd.embedded.forge.rows import View
from fleetssd.embedded.forge.state import State

DEFAULT_LIMIT, CAP = 30, 50
JSON_TYPE = "application/json;charset=utf-8"


class Refusal(Exception):
    """An error answer; `reasons` is what a 404 lists under `errors`."""

    def __init__(self, status: int, message: str, *, reasons: list[str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reasons = status, message, reasons


class Elsewhere(Exception):
    """The thing was renamed; `path` is where it is now."""

    def __init__(self, status: int, path: str) -> None:
        super().__init__(path)
        self.status, self.path = status, path


@dataclass(slots=True)
class Call:
    """A request that was let in; `origin` is the address it was sent to, without a slash at the end."""

    state: State
    caller: Caller
    method: str
    path: str
    query: QueryParams
    parts: dict[str, str]
    body: bytes
    origin: str
    topic: str = ""

    @property
    def root(self) -> str:
        """Return ROOT_URL without its slash: what Link headers and `url` are built from."""
        return self.state.quirks.link_root.rstrip("/") or self.state.root_url or self.origin

    @property
    def view(self) -> View:
        """Return the rows as this caller sees them; 1.22 builds every address from ROOT_URL."""
        return View(self.state, self.caller, self.root if self.state.old else self.origin, self.root)

    @property
    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object, {} for an empty body; raise Refusal (422) for anything else."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refusal(422, str(error)) from error
        if not isinstance(value, dict):
            raise Refusal(422, "json: cannot unmarshal into Go value")
        return value

    @property
    def actor(self) -> Account:
        """Return the signed-in account; raise Refusal (401) for anonymous callers."""
        if self.caller.account is None:
            raise Refusal(401, "token is required")
        return self.caller.account

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Return a whole-number query parameter; nonsense counts as absent."""
        value = self.query.get(name, "")
        return int(value) if re.fullmatch(r"-?\d{1,9}", value) else default

    def moment(self, name: str) -> int | None:
        """Return a time parameter in seconds; raise Refusal (422) for one that is no RFC 3339."""
        value = self.query.get(name, "")
        if not value:
            return None
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value):
            layout = "2006-01-02T15:04:05Z07:00"
            raise Refusal(422, f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"')
        return int(datetime.fromisoformat(value).timestamp())

    def repository(self, right: int = access.READ) -> Repository:
        """Find the repository that the path names, and check what the caller may do there.

        Raises Refusal: 404 missing or hidden, 403 for too little.
        """
        owner, name = self.parts["owner"], self.parts["repo"]
        if self.state.account_named(owner) is None:
            self._forwarded(owner, 307, f"/{owner}")
            raise self.no_owner(owner)
        repository = self.state.repository_named(owner, name)
        if repository is None:
            self._forwarded(f"{owner}/{name}", 307 if self.state.old else 301, f"/{owner}/{name}")
            raise self.missing()
        held = access.right(self.state, self.caller, repository)
        if held < access.READ:
            raise self.missing()
        if repository.private and self.caller.public_only:
            what = "issues" if self.state.old and self.topic == "issue" else "repos"
            raise Refusal(403, f"token scope is limited to public {what}")
        if held < right:
            raise Refusal(403, "user should have a permission to write to a repo")
        return repository

    def writable(self, right: int = access.READ) -> Repository:
        """Find the repository for a change; an archived one takes none (423)."""
        repository = self.repository(right)
        if repository.archived:
            raise Refusal(423, f"{self.state.full_name(repository)} is archived")
        return repository

    def issue(self, repository: Repository) -> Issue:
        """Find the issue or pull request that the path names; raise Refusal (404)."""
        found = self.state.by_number.get((repository.id, int(self.parts["index"])))
        if found is None or (not found.is_pull and not repository.has_issues):
            raise self.missing()
        return found

    def pull(self, repository: Repository) -> tuple[Issue, Pull]:
        """Find the pull request that the path names; raise Refusal (404), also where pull requests are off."""
        found = self.state.by_number.get((repository.id, int(self.parts["index"])))
        if found is None or not found.is_pull or not repository.has_pull_requests:
            raise self.missing()
        return found, self.state.pull_of[found.id]

    def missing(self, *reasons: str) -> Refusal:
        """Make the 404 of this version."""
        message = "The target couldn't be found." if self.state.old else "not found"
        return Refusal(404, message, reasons=list(reasons) or None)

    def no_owner(self, owner: str) -> Refusal:
        """Make the 404 for an owner that nobody knows."""
        return Refusal(404, "GetUserByName", reasons=[f"user redirect does not exist [name: {owner}]"])

    def no_user(self, login: str) -> str:
        """Name an account that is not there, as the servers do."""
        return f"user does not exist [uid: 0, name: {login}]"

    def account(self, login: str) -> Account:
        """Find an account by the path's name; raise Refusal (404) or Elsewhere."""
        found = self.state.account_named(login)
        if found is None:
            self._forwarded(login, 307, f"/{login}")
            raise self.no_owner(login)
        return found

    def page(self, items: Sequence[Any], *, default: int = DEFAULT_LIMIT, cap: int = CAP) -> list[Any]:
        """Cut the page that is asked for; `cap` 0 means none."""
        limit = self.number("limit", default)
        if limit <= 0:
            limit = max(len(items), 1) if limit < 0 and not cap else default
        limit = min(limit, cap) if cap else limit
        limit = min(limit, self.state.quirks.page_cap or limit)
        start = (max(self.number("page", 1), 1) - 1) * limit
        rows = list(items[start : start + limit])
        if self.state.quirks.repeat_last_row and start and start <= len(items):
            rows = [items[start - 1], *rows][:limit]
        if self.state.quirks.double_row:
            rows += rows[-1:]
        return rows

    def paged(self, items: Sequence[Any], rows: list[Any], *, default: int = DEFAULT_LIMIT, cap: int = CAP) -> Response:
        """Answer with rows and the headers that tell of the other pages."""
        total, asked = len(items), self.number("limit", default)
        limit = (min(asked, cap) if cap else asked) if asked > 0 else default
        limit = min(limit, self.state.quirks.page_cap or limit)
        last = max(-(-total // limit), 1)
        current = min(max(self.number("page", 1), 1), last)
        links = []
        if current < last:
            links += [self._link(current + 1, "next"), self._link(last, "last")]
        if self.number("page", 1) > 1:
            links += [self._link(1, "first"), self._link(max(current - 1, 1), "prev")]
        drift = self.number("page", 1) if self.state.quirks.total_count_drift else 0
        headers = {"X-Total-Count": str(total + drift)}
        if links:
            headers["Link"] = ",".join(links)
        return answer(rows, headers=headers)

    def counted(self, rows: list[Any], total: int) -> Response:
        """Answer with one page in the manner of the file and commit lists (no Link)."""
        limit = min(self.number("limit", DEFAULT_LIMIT), CAP) or DEFAULT_LIMIT
        page, pages = max(self.number("page", 1), 1), -(-total // limit)
        more = "true" if page < pages else "false"
        return answer(
            rows,
            headers={
                "X-HasMore": more,
                "X-Page": str(page),
                "X-PageCount": str(pages),
                "X-PerPage": str(limit),
                "X-Total-Count": str(total),
            },
        )

    def refused(self, refusal: Refusal) -> Response:
        """Turn a refusal into its answer."""
        body: dict[str, Any] = {"message": refusal.message, "url": f"{self.root}/api/swagger"}
        if refusal.status == 404:
            body = {"errors": refusal.reasons, **body}
        return answer(body, refusal.status)

    def moved(self, elsewhere: Elsewhere) -> Response:
        """Turn a rename into its redirect: a relative address, an HTML page for GET."""
        target = elsewhere.path + (f"?{self.query}" if self.query else "")
        phrase = "Moved Permanently" if elsewhere.status == 301 else "Temporary Redirect"
        page = f'<a href="{html.escape(target)}">{phrase}</a>.\n\n' if self.method == "GET" else ""
        return Response(page, elsewhere.status, {"Location": target}, media_type="text/html" if page else None)

    def _forwarded(self, key: str, status: int, old: str) -> None:
        place = self.state.moved.get(key.lower())
        if place:
            raise Elsewhere(status, self.path.replace(old, f"/{place}", 1))

    def _link(self, page: int, relation: str) -> str:
        pairs = [(key, value) for key, value in self.query.multi_items() if key != "page"]
        query = urlencode(sorted([*pairs, ("page", str(page))]))
        return f'<{self.root}{self.path}?{query}>; rel="{relation}"'


def without_empty_arrays(value: Any) -> Any:
    """Return JSON in which arrays without items are null, as a server in Go writes those that nothing was put in."""
    if isinstance(value, dict):
        return {key: without_empty_arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_empty_arrays(item) for item in value] or None
    return value


def answer(value: Any, status: int = 200, *, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON, compact, with a newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    return Response(text, status, {**(headers or {}), "Content-Type": JSON_TYPE})
