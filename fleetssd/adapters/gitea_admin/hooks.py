"""A forge's webhooks behind the hooks port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from fleetssd import hooks
from fleetssd.adapters.gitea_admin.wire import Wire, shaped
from fleetssd.errors import Rejected, Transient
from fleetssd.gitea import API
from fleetssd.hooks import Hook, Place

_SCOPES = (
    "Give --token-file a token with write:repository (for --org: write:organization) of an administrator of the "
    "repository (an owner of the organisation). It is needed for this alone: the daemon reads with its own."
)
_DISABLED = "Set DISABLE_WEBHOOKS = false in [security] of the forge's app.ini."


class GiteaHooks:
    """A Gitea or Forgejo server's webhooks.

    Every method raises Transient where the server is away or busy, Misconfigured where the token may not do this or
    webhooks are switched off, and Rejected where the server refuses this one request.
    """

    def __init__(self, root: str, token: str, *, timeout: float = 30.0) -> None:
        self.root = root
        self._wire = Wire(root, token, lambda said: _DISABLED if "disabled" in said else _SCOPES, timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def repositories(self) -> list[str]:
        """Return the repositories (`owner/name`) that the token sees, archived ones left out."""
        rows = self._wire.pages(f"{API}/repos/search", archived="false")
        with shaped(self.root):
            return [str(row["full_name"]) for row in rows if row.get("archived") is not True]

    def hooks(self, place: Place) -> list[Hook]:
        """Return the hooks at a place."""
        rows = self._wire.pages(self._now(place).path)
        with shaped(self.root):
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
        with shaped(self.root):
            return hooks.parse(response.json())

    def _write(self, method: str, place: Place, tail: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Send a write once. A redirect is not followed: the place is looked up, and the write sent to its name."""
        response = self._wire.send(method, self.root + place.path + tail, body)
        if response.is_redirect:
            response = self._wire.send(method, self.root + self._now(place).path + tail, body)
        if response.is_redirect:
            raise Rejected(f"{self.root} keeps moving {place.name}", status=response.status_code)
        return response

    def _now(self, place: Place) -> Place:
        """Return a place under the name that it has now."""
        if place.organization:  # the API has no address that follows a renamed organisation without more scopes
            return place
        return replace(place, name=self._wire.full_name(place.name))
