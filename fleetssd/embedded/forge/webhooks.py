"""Say what happened to the hooks that want to know: payloads, signatures, headers, and one thread that delivers."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import queue
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx

from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.model import Account, Delivery, Hook, Repository
from fleetssd.embedded.forge.quirks import Quirks
from fleetssd.embedded.forge.rows import Json, View
from fleetssd.embedded.forge.state import State

TIMEOUT = 5.0  # seconds; what the servers give a receiver
_PULL = ("pull_request_assign", "pull_request_label", "pull_request_milestone", "pull_request_comment")
_REVIEWS = ("pull_request_review", "pull_request_sync", "pull_request_review_request")
_OLD_REVIEWS = (
    "pull_request_review_approved",
    "pull_request_review_rejected",
    "pull_request_review_comment",
    "pull_request_sync",
    "pull_request_review_request",
)
_ISSUES = ("issue_assign", "issue_label", "issue_milestone", "issue_comment")
_PLAIN = ("create", "delete", "fork", "push", "release", "repository", "status", "wiki", "package")
_COARSE: dict[str, str] = {
    "issue_label": "issues",
    "pull_request_label": "pull_request",
    "pull_request_sync": "pull_request",
}
_COARSE["pull_request_comment"] = "issue_comment"
_ESCAPED: dict[str, str] = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def expand(wanted: list[str], *, old: bool = False) -> list[str]:
    """Turn the names of a request into fine events; unknown names vanish, an empty list means push."""
    if not wanted:
        return ["push"]
    found: list[str] = []
    for name in wanted:
        if name == "pull_request":
            found += ["pull_request", *_PULL, *(_OLD_REVIEWS if old else _REVIEWS)]
        elif name == "issues":
            found += ["issues", *_ISSUES]
        elif name in ("pull_request_only", "issues_only"):
            found.append(name.removesuffix("_only"))
        elif name in (*_PLAIN, *_PULL, *_REVIEWS, *_OLD_REVIEWS, *_ISSUES):
            found.append(name)
    return list(dict.fromkeys(found))


def announce(state: State, actor: Account, repository: Repository, kind: str, build: Callable[[View], Json]) -> None:
    """Put a delivery into the outbox for every hook that listens to this event; `build` makes the payload."""
    hooks = [hook for hook in state.hooks.values() if _listens(hook, repository, kind)]
    if not hooks:
        return
    view = View(state, Caller(actor), state.root_url, state.root_url)
    quiet = View(state, Caller(), state.root_url, state.root_url)
    body = build(view)
    tail: Json = {key: body.pop(key) for key in ("commit_id", "review", "is_pull") if key in body}
    payload: Json = {
        **body,
        "repository": view.repository(repository),
        "sender": quiet.account(actor),
        **tail,
    }
    if state.quirks.hook_action and "action" in payload:
        payload["action"] = state.quirks.hook_action
    text = encode(payload)
    state.outbox += [Delivery(hook, _COARSE.get(kind, kind), kind, text) for hook in hooks]


def encode(payload: Any) -> bytes:
    """Write JSON as the servers do: two spaces, raw UTF-8, `<`, `>` and `&` escaped, no newline at the end."""
    text = json.dumps(payload, indent=2, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPED[match[0]], text).encode()


def request_of(delivery: Delivery, *, old: bool = False, forgejo: bool = False) -> httpx.Request:
    """Build the request of a delivery, with a new UUID, signed over the payload's bytes."""
    hook, payload = delivery.hook, delivery.payload
    secret = hook.secret.encode()
    sha256 = hmac.new(secret, payload, hashlib.sha256).hexdigest() if secret else ""
    sha1 = hmac.new(secret, payload, hashlib.sha1).hexdigest() if secret else ""
    name = str(uuid.uuid4())
    headers = [("User-Agent", "Go-http-client/1.1"), ("Accept-Encoding", "gzip")]
    if hook.authorization:
        headers.append(("Authorization", hook.authorization))
    form = hook.content_type == "form"
    headers.append(("Content-Type", "application/x-www-form-urlencoded" if form else "application/json"))
    for brand in ("GitHub", "Gitea", "Gogs", *(("Forgejo",) if forgejo else ())):
        headers += [
            (f"X-{brand}-Delivery", name),
            (f"X-{brand}-Event", delivery.event),
            (f"X-{brand}-Event-Type", delivery.kind),
        ]
        if brand != "GitHub":
            headers.append((f"X-{brand}-Signature", sha256))
        if brand in ("GitHub", "Gitea") and not old and not forgejo:
            headers.append((f"X-{brand}-Hook-Installation-Target-Type", hook.target))
    headers += [("X-Hub-Signature", f"sha1={sha1}"), ("X-Hub-Signature-256", f"sha256={sha256}")]
    body = urlencode({"payload": payload}).encode() if form else payload
    return httpx.Request("POST", hook.url, headers=headers, content=body)


class Courier:
    """The one worker that delivers, in order; a slow receiver holds all others up, and nothing is tried twice."""

    def __init__(self, quirks: Callable[[], Quirks], *, old: bool = False) -> None:
        self._quirks, self._old = quirks, old
        self._queue: queue.Queue[Delivery | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)
        self._thread.start()

    def send(self, deliveries: list[Delivery]) -> None:
        """Queue deliveries."""
        for delivery in deliveries:
            self._queue.put(delivery)

    @property
    def idle(self) -> bool:
        """Tell whether everything that was queued has been dealt with."""
        return not self._queue.unfinished_tasks

    def close(self) -> None:
        """Deliver what is queued, then stop."""
        self._queue.put(None)
        self._thread.join(TIMEOUT)

    def _work(self) -> None:
        # Like Go's client: a 301, 302 or 303 turns the POST into a GET without a body.
        with httpx.Client(timeout=TIMEOUT, follow_redirects=True, trust_env=False) as client:
            while (delivery := self._queue.get()) is not None:
                self._deliver(client, delivery)
                self._queue.task_done()

    def _deliver(self, client: httpx.Client, delivery: Delivery) -> None:
        quirks = self._quirks()
        if quirks.hold_deliveries:
            return
        for _ in range(2 if quirks.repeat_deliveries else 1):
            # A receiver that is away is final: no retry, no trace in the API.
            with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
                client.send(request_of(delivery, old=self._old, forgejo=quirks.forgejo_headers))


def _listens(hook: Hook, repository: Repository, kind: str) -> bool:
    where = {"repository": repository.id, "organization": repository.owner, "system": 0}[hook.target]
    return hook.active and hook.owner == where and kind in hook.events
