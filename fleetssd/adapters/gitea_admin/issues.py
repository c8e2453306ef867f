"""A forge's issues behind the issues port: labels by id, and no write that is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx

from fleetssd.adapters.gitea_admin.wire import Wire, shaped
from fleetssd.audit import filing
from fleetssd.audit.filing import Filed
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.gitea import API

_SCOPES = (
    "Give --token-file a token with write:issue, read:repository and read:user of an account that may write issues "
    "there. It is needed for this alone: the daemon reads with its own."
)


class GiteaIssues:
    """A Gitea or Forgejo server's issues.

    Every method raises Transient where the server is away or busy, Misconfigured where the token may not do this, and
    Rejected where the server refuses this one request. Repositories are named as they are called now.
    """

    def __init__(self, root: str, token: str, *, timeout: float = 30.0) -> None:
        self.root = root
        self._wire = Wire(root, token, lambda _said: _SCOPES, timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def account(self) -> str:
        """Return the login of the token's account."""
        response = self._wire.send("GET", f"{self.root}{API}/user")
        with shaped(self.root):
            return str(response.json()["login"])

    def full_name(self, repository: str) -> str:
        """Return the name that a repository has now."""
        return self._wire.full_name(repository)

    def labels(self, repository: str) -> dict[str, int]:
        """Return the ids of the labels that a repository has of its own or from its organisation."""
        rows = self._wire.pages(f"{_path(repository)}/labels")
        with suppress(Rejected, Misconfigured):  # a person's repository, or a token that may not see the organisation
            rows = [*self._wire.pages(f"{API}/orgs/{quote(repository.partition('/')[0])}/labels"), *rows]
        with shaped(self.root):
            return {str(row["name"]): int(row["id"]) for row in rows}

    def written_by(self, repository: str, login: str) -> list[Filed]:
        """Return an account's issues in a repository, open and closed, oldest first."""
        rows = self._wire.pages(f"{_path(repository)}/issues", state="all", type="issues", created_by=login)
        with shaped(self.root):
            found = [filing.parse(row) for row in rows]
        return sorted((issue for issue in found if issue.author == login), key=lambda issue: issue.number)

    def open(self, repository: str, title: str, body: str, labels: Sequence[int]) -> int:
        """Open an issue and return its number; two calls open two."""
        sent = {"title": title, "body": body, "labels": list(labels)}
        response = self._write("POST", f"{_path(repository)}/issues", sent)
        with shaped(self.root):
            return int(response.json()["number"])

    def edit(self, repository: str, number: int, title: str, body: str) -> None:
        """Change an issue's texts, and open it where it is closed."""
        self._write("PATCH", f"{_path(repository)}/issues/{number}", {"title": title, "body": body, "state": "open"})

    def label(self, repository: str, number: int, labels: Sequence[int]) -> None:
        """Put labels on an issue."""
        self._write("POST", f"{_path(repository)}/issues/{number}/labels", {"labels": list(labels)})

    def _write(self, method: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
        response = self._wire.send(method, self.root + path, body)
        if response.is_redirect:
            raise Rejected(f"{self.root} has moved {path}", hint="Do the same again.", status=response.status_code)
        return response


def _path(repository: str) -> str:
    return f"{API}/repos/{quote(repository, safe='/-_.~')}"
