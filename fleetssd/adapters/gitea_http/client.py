"""Requests to a forge: one client, at most two in flight, no more a second than is allowed, every wait finite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import stamina

from fleetssd import config, gitea
from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient
from fleetssd.gitea import Request

_T = TypeVar("_T")

IN_FLIGHT = 2
REDIRECTS = 3

_SCOPES = "Give forge.token_file a token with read:repository and read:issue, of an account that sees the repositories."


class Client:
    """Requests to a Gitea or Forgejo server, with one token. Safe to share between threads.

    Every method raises Transient where the server is away or busy (after `attempts` tries), Misconfigured where the
    address or the token is wrong, and Rejected where it refuses this one request.
    """

    def __init__(self, settings: config.Forge, *, attempts: int = 4, wait_seconds: float = 0.5) -> None:
        self.root = settings.url
        self.attempts, self.wait = attempts, wait_seconds
        self.slots = threading.BoundedSemaphore(IN_FLIGHT)
        self.pace = Pace(settings.requests_per_second)
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

    def object(self, request: Request) -> dict[str, Any] | None:
        """Return a JSON object, or None where there is none for us; a body of `null` is asked for again."""

        def whole(body: Any) -> None:
            if not isinstance(body, dict):
                raise Transient(f"{self.root} answered {request.path} with no object", hint="It is asked again later.")

        try:
            body, _ = self.get(request, whole)
        except Rejected as error:
            if error.status in (404, 410):
                return None
            raise
        found: dict[str, Any] = body
        return found

    def get(self, request: Request, check: Callable[[Any], None] = lambda _: None) -> tuple[Any, httpx.Response]:
        """Return the JSON of an answer, and the answer."""

        def read(response: httpx.Response) -> Any:
            body = _json(response, self.root)
            check(body)
            return body

        return self._until(request, read)

    def text(self, request: Request) -> bytes | None:
        """Return an answer's bytes, or None where there is nothing for us."""
        try:
            return self._until(request, lambda response: response.content)[0]
        except Rejected as error:
            if error.status in (404, 410):
                return None
            raise

    def _until(self, request: Request, read: Callable[[httpx.Response], _T]) -> tuple[_T, httpx.Response]:
        """Send a request until it is answered; a server that says when to come back is obeyed."""
        tries, wait = self.attempts, self.wait
        for attempt in stamina.retry_context(
            on=_patience, attempts=tries, timeout=None, wait_initial=wait, wait_max=10.0, wait_jitter=wait
        ):
            with attempt:
                response = self._once(request)
                found = read(response)
        return found, response

    def _once(self, request: Request) -> httpx.Response:
        url = self.root + request.path
        query: tuple[tuple[str, str], ...] | None = request.query or None
        for _ in range(REDIRECTS + 1):
            try:
                with self.slots:
                    self.pace.wait()
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


class Pace:
    """Lets so many requests a second go, evenly; 0 means any number."""

    def __init__(self, rate: float) -> None:
        self.gap = 1 / rate if rate else 0.0
        self.lock, self.free_at = threading.Lock(), 0.0

    def wait(self) -> None:
        """Return when it is this request's turn."""
        if self.gap:
            with self.lock:
                now = time.monotonic()
                turn = max(now, self.free_at)
                self.free_at = turn + self.gap
            time.sleep(turn - now)


@contextmanager
def shaped(root: str, what: str) -> Iterator[None]:
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
        raise Misconfigured(said, hint=f"The token is not accepted. {_SCOPES}", status=code)
    if code == 403:
        raise Misconfigured(said, hint=f"The token may not read this. {_SCOPES}", status=code)
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
        return max((parsedate_to_datetime(text) - (date(response) or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def date(response: httpx.Response) -> datetime | None:
    """Return the server's clock, or None where it told none."""
    try:
        return parsedate_to_datetime(response.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def total(response: httpx.Response) -> int | None:
    """Return how many rows the server says there are, or None where it does not say."""
    text = response.headers.get("x-total-count", "")
    return int(text) if text.isdigit() else None
