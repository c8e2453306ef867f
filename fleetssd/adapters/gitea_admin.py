"""httpx behind the hooks port: the few writes that fleetssd ever sends to a forge, none of them repeated blindly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx

from fleetssd import hooks
from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient
from fleetssd.gitea import API, items, next_page, same_host
from fleetssd.hooks import Hook, Place

PAGE = 50
HOPS = 3
_SCOPES = (
    "Give --token-file a token with write:repository (for --org: write:organization) of an administrator of the "
    "repository (an owner of the organisation). It is needed for this alone: the daemon reads with its own."
)


class GiteaHooks:
    """A Gitea or Forgejo server's webhooks.

    Every method raises Transient where the server is away or busy, Misconfigured where the token may not do this or
    webhooks are switched off, and Rejected where the server refuses this one request.
    """

    def __init__(self, root: str, token: str, *, timeout: float = 30.0) -> None:
        self.root = root
        self.client = httpx.Client(
            headers={"Authorization": f"token {token}", "Accept": "application/json"},
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def repositories(self) -> list[str]:
        """Return the repositories (`owner/name`) that the token sees, archived ones left out."""
        rows = self._pages(f"{API}/repos/search", archived="false")
        with _shaped(self.root):
            return [str(row["full_name"]) for row in rows if row.get("archived") is not True]

    def hooks(self, place: Place) -> list[Hook]:
        """Return the hooks at a place."""
        rows = self._pages(self._now(place).path)
        with _shaped(self.root):
            return [hooks.parse(row) for row in rows]

    def create(self, place: Place, body: Mapping[str, Any]) -> Hook:
        """Make a hook; two calls make two."""
        return self._hook(self._write("POST", place, "", body))

    def mend(self, place: Place, hook: int, body: Mapping[str, Any]) -> Hook:
        """Change a hook."""
        return self._hook(self._write("PATCH", place, f"/{hook}", body))

    def drop(self, place: Place, hook: int) -> None:
        """Delete a hook; one that is gone is no error."""
        try:
            self._write("DELETE", place, f"/{hook}")
        except Rejected as error:
            if error.status != 404:
                raise

    def test(self, place: Place, hook: int) -> None:
        """Ask for a test delivery; Rejected where the server cannot make one now."""
        try:
            self._write("POST", place, f"/{hook}/tests")
        except Transient as error:
            # 1.22 trips over an empty repository with a 500 that says nothing; later versions answer 404.
            raise Rejected(error.message, hint="Has the repository a commit?", status=500) from None

    def _hook(self, response: httpx.Response) -> Hook:
        with _shaped(self.root):
            return hooks.parse(response.json())

    def _pages(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Read every page of a list, which some addresses wrap in an object."""
        rows: list[dict[str, Any]] = []
        so_far, page = 0, 1
        while True:
            response = self._send("GET", self.root + path, query={**query, "page": str(page), "limit": str(PAGE)})
            if response.is_redirect:
                raise Rejected(f"{self.root} has moved {path}", status=response.status_code)
            with _shaped(self.root):
                told = response.json()
                on_page = items(told.get("data") if isinstance(told, dict) else told)
            rows += on_page
            so_far += len(on_page)
            total = response.headers.get("x-total-count", "")
            following = next_page(page, len(on_page), so_far, int(total) if total.isdecimal() else None)
            if following is None:
                return rows
            page = following

    def _write(self, method: str, place: Place, tail: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Send a write once. A redirect is not followed: the place is looked up, and the write sent to its name."""
        response = self._send(method, self.root + place.path + tail, body)
        if response.is_redirect:
            response = self._send(method, self.root + self._now(place).path + tail, body)
        if response.is_redirect:
            raise Rejected(f"{self.root} keeps moving {place.name}", status=response.status_code)
        return response

    def _now(self, place: Place) -> Place:
        """Return a place under the name that it has now."""
        if place.organization:  # the API has no address that follows a renamed organisation without more scopes
            return place
        url = f"{self.root}{API}/repos/{quote(place.name, safe='/-_.~')}"
        for _ in range(HOPS):
            response = self._send("GET", url)
            if not response.is_redirect:
                with _shaped(self.root):
                    return replace(place, name=str(response.json()["full_name"]))
            url = str(httpx.URL(url).join(response.headers["location"]))
        raise Rejected(f"{self.root} keeps moving {place.name}", status=response.status_code)

    def _send(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request; a redirect comes back as it is, unless it leads to another server."""
        try:
            response = self.client.request(method, url, json=body, params=query)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Transient(
                f"the forge at {self.root} does not answer ({type(error).__name__})",
                hint="Do the same again: what is there is found by its address and not made twice.",
            ) from None
        if response.is_redirect:
            if same_host(self.root, response.headers.get("location", "")):
                return response
            raise Misconfigured(
                f"{self.root} redirects to another server; the token stays here",
                hint="Set forge.url to the address that the forge really has.",
            )
        return self._checked(response)

    def _checked(self, response: httpx.Response) -> httpx.Response:
        code = response.status_code
        if code < 300:
            return response
        message = _said(response)
        said = f"{self.root} answered {response.request.url.path} with {code}" + (f": {message}" if message else "")
        if code == 403 and "disabled" in message:
            raise Misconfigured(said, hint="Set DISABLE_WEBHOOKS = false in [security] of the forge's app.ini.")
        if code in (401, 403):
            raise Misconfigured(said, hint=_SCOPES)
        if code in (408, 425, 429) or code >= 500:
            raise Transient(said, hint="Do the same again later.")
        raise Rejected(said, status=code, hint=_hint(code))


def _hint(code: int) -> str:
    return "Is the name right, and does the token's account see it?" if code == 404 else ""


def _said(response: httpx.Response) -> str:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return message[:200] if isinstance(message, str) else ""


@contextmanager
def _shaped(root: str) -> Iterator[None]:
    try:
        yield
    except FleetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(
            f"{root} answered with something of an unknown shape ({type(error).__name__})",
            hint="Is forge.url the address of a Gitea (1.22 or newer) or Forgejo (11 or newer) server?",
        ) from None
