"""The few writes that fleetssd ever sends to a forge, none of them repeated blindly, and its refusals as our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from fleetssd.errors import FleetError, Misconfigured, Rejected, Transient
from fleetssd.gitea import API, items, same_host
from fleetssd.sweeps import next_page

PAGE = 50
HOPS = 3


class Wire:
    """One server and one token; `forbidden` turns what a 401 or 403 said into a hint.

    Every method raises Transient where the server is away or busy, Misconfigured where the token may not do this, and
    Rejected where the server refuses this one request.
    """

    def __init__(self, root: str, token: str, forbidden: Callable[[str], str], *, timeout: float) -> None:
        self.root = root
        self._forbidden = forbidden
        self.client = httpx.Client(
            headers={"Authorization": f"token {token}", "Accept": "application/json"},
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def pages(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Read every page of a list, which some addresses wrap in an object."""
        rows: list[dict[str, Any]] = []
        so_far, page = 0, 1
        while True:
            response = self.send("GET", self.root + path, query={**query, "page": str(page), "limit": str(PAGE)})
            if response.is_redirect:
                raise Rejected(f"{self.root} has moved {path}", status=response.status_code)
            with shaped(self.root):
                told = response.json()
                on_page = items(told.get("data") if isinstance(told, dict) else told)
            rows += on_page
            so_far += len(on_page)
            total = response.headers.get("x-total-count", "")
            following = next_page(page, len(on_page), so_far, int(total) if total.isdecimal() else None)
            if following is None:
                return rows
            page = following

    def full_name(self, repository: str) -> str:
        """Return the name (`owner/name`) that a repository has now."""
        url = f"{self.root}{API}/repos/{quote(repository, safe='/-_.~')}"
        for _ in range(HOPS):
            response = self.send("GET", url)
            if not response.is_redirect:
                with shaped(self.root):
                    return str(response.json()["full_name"])
            url = str(httpx.URL(url).join(response.headers["location"]))
        raise Rejected(f"{self.root} keeps moving {repository}", status=response.status_code)

    def send(
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
                hint="Do the same again: what is there is found again and not made twice.",
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
        if code in (401, 403):
            raise Misconfigured(said, hint=self._forbidden(message))
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
def shaped(root: str) -> Iterator[None]:
    """Turn what an answer of an unknown shape makes Python raise into one of our errors."""
    try:
        yield
    except FleetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Transient(
            f"{root} answered with something of an unknown shape ({type(error).__name__})",
            hint="Is forge.url the address of a Gitea (1.22 or newer) or Forgejo (11 or newer) server?",
        ) from None
