"""The forge's side of the webhook without I/O: what a hook must be, what one is, and why none of it may arrive."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from fleetssd.errors import Misconfigured
from fleetssd.gitea import API

EVENTS = ("pull_request_only",)
"""Asked for; the server shows it as `pull_request`, which asked for would mean a dozen events more."""
TESTED = (*EVENTS, "push")
"""A test delivery is a push, and a hook that does not listen to pushes gets none."""
SHOWN = "pull_request"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a hook hangs: a repository (`owner/name`) or an organisation (its name)."""

    name: str
    organization: bool = False

    @property
    def path(self) -> str:
        """The hooks' address below the forge's root."""
        return f"{API}/{'orgs' if self.organization else 'repos'}/{quote(self.name, safe='/-_.~')}/hooks"


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook as the server shows it; its secret is never shown."""

    id: int
    url: str
    content_type: str
    events: tuple[str, ...]
    active: bool


def parse(row: Mapping[str, Any]) -> Hook:
    """Read a hook. Raises KeyError, TypeError or ValueError where it is none."""
    told = row.get("config") or {}
    events = tuple(str(event) for event in row.get("events") or ())
    return Hook(
        int(row["id"]), str(told.get("url", "")), str(told.get("content_type", "")), events, bool(row["active"])
    )


def body(url: str, secret: str, events: tuple[str, ...]) -> dict[str, Any]:
    """Return what makes or mends a hook: always the whole of it, since a PATCH resets the events it does not name."""
    config = {"url": url, "content_type": "json", "secret": secret}
    return {"type": "gitea", "config": config, "events": list(events), "branch_filter": "*", "active": True}


def faults(hook: Hook, url: str) -> tuple[str, ...]:
    """Say what keeps a hook from telling us of merges; the server takes unknown events without a word."""
    found = []
    if hook.url != url:
        found.append(f"it calls {hook.url}")
    if not hook.active:
        found.append("it is not active")
    if SHOWN not in hook.events:
        found.append("the server dropped its event pull_request_only")
    if hook.content_type not in ("json", "form"):
        found.append(f"its content type is {hook.content_type or 'not told'}")
    return tuple(found)


def address(url: str) -> str:
    """Check the address that the forge shall call; old servers take any text. Raises Misconfigured."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.password or parts.fragment:
        raise Misconfigured(
            f"the forge cannot call {url!r}", hint="Write it as https://fleetssd.example/webhook, as the forge sees it."
        )
    if parts.path in ("", "/"):
        raise Misconfigured(f"{url} names no path", hint="The daemon takes deliveries at /webhook.")
    return url


def not_delivered(url: str) -> str:
    """Explain why a test delivery did not come, with what to write into the forge's app.ini for this address."""
    return (
        f"The forge called nothing within the wait. Gitea and Forgejo refuse private addresses unless they are told: "
        f"in app.ini, section [webhook], set ALLOWED_HOST_LIST = {_allowed(urlsplit(url).hostname or '')} (in Docker "
        f"GITEA__webhook__ALLOWED_HOST_LIST or FORGEJO__webhook__ALLOWED_HOST_LIST) and restart the forge. If that is "
        f"set: does {url} reach the daemon from the forge's machine, and is its certificate one that the forge "
        f"trusts? The hook's page in the forge's web interface shows the error; the API does not."
    )


def _allowed(host: str) -> str:
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        return "external,loopback" if host == "localhost" else f"external,{host}"
    if known.is_loopback:
        return "external,loopback"
    return "external,private" if known.is_private else "external"
