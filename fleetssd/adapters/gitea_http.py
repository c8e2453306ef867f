"""httpx behind the forge port: one client, at most two requests in flight, every wait finite."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import stamina

from fleetssd import config, gitea
from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient
from fleetssd.gitea import IssueText, MergedPull, PullRow, Request, Sweep

IN_FLIGHT = 2
REDIRECTS = 3
SWEEPS = 4
"""How often a sweep is read again while its rows keep moving."""

_SCOPES = "Give forge.token_file a token with read:repository and read:issue, of an account that sees the repositories."


class GiteaForge:
    """A Gitea or Forgejo server, read with one token. Safe to share between threads.

    Every method raises Transient where the server is away or busy (after `attempts` tries), Misconfigured where the
    address or the token is wrong, and Rejected where it refuses this one request.
    """

    def __init__(self, settings: config.Forge, *, attempts: int = 4, wait_seconds: float = 0.5) -> None:
        self.root, self.page_size = settings.url, settings.page_size
        self.attempts, self.wait = attempts, wait_seconds
        self.slots = threading.BoundedSemaphore(IN_FLIGHT)
        self.client = httpx.Client(
            headers={"Authorization": f"token {read_token(settings.token_file)}", "Accept": "application/json"},
            timeout=settings.timeout_seconds,
            limits=httpx.Limits(max_connections=IN_FLIGHT),
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def sweep(self, since: datetime | None) -> Sweep:
        """Return every closed pull request updated at or after `since`, each once; None means all there are."""
        rows: dict[gitea.PullKey, PullRow] = {}
        at: datetime | None = None
        for _ in range(SWEEPS):
            found, total_moved, told = self._pages(since)
            at = at or told
            rows |= {row.key: row for row in found}
            if not total_moved:
                return Sweep(tuple(rows.values()), at)
        return Sweep(tuple(rows.values()), at, complete=False)

    def pull(self, repository: str, number: int) -> MergedPull | None:
        """Return the detail of one pull request; None where it is gone or hidden from us."""
        detail = self._object(gitea.pull_request(repository, number))
        with _shaped(self.root, "a pull request"):
            return None if detail is None else gitea.parse_pull(detail, self.root)

    def issue(self, repository: str, number: int) -> IssueText | None:
        """Return an issue's title and body; None where it is missing or is a pull request."""
        row = self._object(gitea.issue_request(repository, number))
        with _shaped(self.root, "an issue"):
            return None if row is None else gitea.parse_issue(row, repository)

    def timeline(self, repository: str, number: int) -> list[dict[str, Any]]:
        """Return the raw timeline rows of an issue or pull request; none where it is gone."""
        try:
            return gitea.items(self._get(gitea.timeline_request(repository, number))[0])
        except Rejected as error:
            if error.status == 404:
                return []
            raise

    def _pages(self, since: datetime | None) -> tuple[list[PullRow], bool, datetime | None]:
        """Read one sweep: its rows, whether the total moved meanwhile, and the clock before the first page."""
        rows: list[PullRow] = []
        totals, at, so_far, page = set[int | None](), None, 0, 1
        while True:
            body, response = self._get(gitea.search_request(since, page, self.page_size))
            found, on_page = gitea.items(body), len(body) if isinstance(body, list) else 0
            with _shaped(self.root, "a list of pull requests"):
                rows += [row for item in found if (row := gitea.parse_row(item, self.root)) is not None]
            at = at or _date(response)
            total = _total(response)
            totals.add(total)
            so_far += on_page
            following = gitea.next_page(page, on_page, so_far, total)
            if following is None:
                return rows, len(totals) > 1, at
            page = following

    def _object(self, request: Request) -> dict[str, Any] | None:
        """Return a JSON object, or None where there is none for us; a body of `null` is asked for again."""

        def whole(body: Any) -> None:
            if not isinstance(body, dict):
                raise Transient(f"{self.root} answered {request.path} with no object", hint="It is asked again later.")

        try:
            body, _ = self._get(request, whole)
        except Rejected as error:
            if error.status in (404, 410):
                return None
            raise
        found: dict[str, Any] = body
        return found

    def _get(self, request: Request, check: Callable[[Any], None] = lambda _: None) -> tuple[Any, httpx.Response]:
        """Send a request until it is answered; a server that says when to come back is obeyed."""
        tries, wait = self.attempts, self.wait
        for attempt in stamina.retry_context(
            on=_patience, attempts=tries, timeout=None, wait_initial=wait, wait_max=10.0, wait_jitter=wait
        ):
            with attempt:
                response = self._once(request)
                body = _json(response, self.root)
                check(body)
        return body, response

    def _once(self, request: Request) -> httpx.Response:
        url = self.root + request.path
        query: tuple[tuple[str, str], ...] | None = request.query or None
        for _ in range(REDIRECTS + 1):
            try:
                with self.slots:
                    response = self.client.get(url, params=query)
            except httpx.InvalidURL:
                raise Rejected(f"{self.root} has no {request.path}", status=404) from None
            except httpx.TransportError as error:
                raise _silent(self.root, error) from None
            if not response.is_redirect:
                return _checked(response, self.root)
            url, query = self._redirected(url, response), None
        raise Rejected(f"{self.root} redirects {request.path} again and again", status=response.status_code)

    def _redirected(self, url: str, response: httpx.Response) -> str:
        target = response.headers["location"]
        if not gitea.same_host(self.root, target):
            raise Misconfigured(
                f"{self.root} redirects to another server; the token stays here",
                hint="Set forge.url to the address that the forge really has.",
            )
        return str(httpx.URL(url).join(target))


@contextmanager
def _shaped(root: str, what: str) -> Iterator[None]:
    """Turn an answer of an unknown shape into an error that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(
            f"{root} answered with {what} of an unknown shape ({type(error).__name__}: {error})",
            hint="Is forge.url the address of a Gitea (1.22 or newer) or Forgejo (11 or newer) server?",
        ) from None


def read_token(path: Path) -> str:
    """Read a token file. Raises Misconfigured where it is missing, empty or no token."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read the token file {path}: {_reason(error)}", hint=_SCOPES) from None
    if not token or any(not character.isprintable() or character == " " for character in token):
        raise Misconfigured(f"the token file {path} holds no token", hint=_SCOPES)
    return token


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "it cannot be read" if isinstance(error, OSError) else "it is not plain text"


def _patience(error: Exception) -> bool | timedelta:
    """Retry what is transient, after the pause that the server asked for, if it asked for one."""
    if not isinstance(error, Transient):
        return False
    return True if error.retry_after is None else timedelta(seconds=min(error.retry_after, 60.0))


def _silent(root: str, error: httpx.TransportError) -> FleetError:
    return Transient(
        f"the forge at {root} does not answer ({type(error).__name__})",
        hint="Is forge.url right, and is the server up? Polling goes on by itself.",
    )


def _checked(response: httpx.Response, root: str) -> httpx.Response:
    """Turn an error status into the error that fits the reaction; texts of servers differ and are only shown."""
    code = response.status_code
    if code < 400:
        return response
    said = f"{root} answered {response.request.url.path} with {code}{_said(response)}"
    if code == 401:
        raise Misconfigured(said, hint=f"The token is not accepted. {_SCOPES}")
    if code == 403:
        raise Misconfigured(said, hint=f"The token may not read this. {_SCOPES}")
    if code in (408, 425, 429) or code >= 500:
        raise Transient(said, hint="It is asked again later.", retry_after=_retry_after(response))
    raise Rejected(said, status=code)


def _said(response: httpx.Response) -> str:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {message[:200]}" if isinstance(message, str) and message else ""


def _json(response: httpx.Response, root: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Transient(
            f"{root} answered {response.request.url.path} with something that is not JSON",
            hint="Is forge.url the address of a Gitea or Forgejo server? A proxy's own page looks like this too.",
        ) from None


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - (_date(response) or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _date(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def _total(response: httpx.Response) -> int | None:
    text = response.headers.get("x-total-count", "")
    return int(text) if text.isdigit() else None
