"""httpx behind the forge port: what the poller asks a Gitea or Forgejo server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fleetssd import config, gitea
from fleetssd.adapters.gitea_http.client import Client, read_token, shaped
from fleetssd.adapters.gitea_http.sweeping import Sweeper
from fleetssd.errors import Rejected
from fleetssd.gitea import Commit, IssueText, MergedPull
from fleetssd.sweeps import WINDOW, Part, Since

__all__ = ["GiteaForge", "read_token"]


class GiteaForge:
    """A Gitea or Forgejo server, read with one token. Safe to share between threads.

    Every method raises Transient where the server is away or busy (after `attempts` tries), Misconfigured where the
    address or the token is wrong, and Rejected where it refuses this one request.
    """

    def __init__(
        self,
        settings: config.Forge,
        fleet: config.Fleet | None = None,
        *,
        attempts: int = 4,
        wait_seconds: float = 0.5,
        window: int = WINDOW,
    ) -> None:
        self.root = settings.url
        self.client = Client(settings, attempts=attempts, wait_seconds=wait_seconds)
        self.sweeper = Sweeper(self.client, settings, fleet, window)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def sweep(self, since: Since) -> Iterator[Part]:
        """Yield every closed pull request updated where `since` says, or later, in parts."""
        return self.sweeper.sweep(since)

    def follows(self, repository_id: int, repository: str) -> bool:
        """Tell whether a watched repository had this name before, or has it now and is watched by an earlier one."""
        return self.sweeper.follows(repository_id, repository)

    def pull(self, repository: str, number: int) -> MergedPull | None:
        """Return the detail of one pull request; None where it is gone or hidden from us."""
        detail = self.client.object(gitea.pull_request(repository, number))
        with shaped(self.root, "a pull request"):
            return None if detail is None else gitea.parse_pull(detail, self.root)

    def issue(self, repository: str, number: int) -> IssueText | None:
        """Return an issue's title and body; None where it is missing or is a pull request."""
        row = self.client.object(gitea.issue_request(repository, number))
        with shaped(self.root, "an issue"):
            return None if row is None else gitea.parse_issue(row, repository)

    def timeline(self, repository: str, number: int) -> list[dict[str, Any]]:
        """Return the raw timeline rows of an issue or pull request; none where it is gone."""
        try:
            return gitea.items(self.client.get(gitea.timeline_request(repository, number))[0])
        except Rejected as error:
            if error.status == 404:
                return []
            raise

    def commit(self, repository: str, sha: str) -> Commit | None:
        """Return a commit; None where the repository has none of that name."""
        body = self.client.object(gitea.commit_request(repository, sha))
        with shaped(self.root, "a commit"):
            return None if body is None else gitea.parse_commit(body)

    def diff(self, repository: str, number: int) -> tuple[bytes, str] | None:
        """Return a pull request's own diff and its frozen head, without git; None where either is gone."""
        text = self.client.text(gitea.diff_request(repository, number))
        if text is None:
            return None
        try:
            head = gitea.parse_head(self.client.get(gitea.head_request(repository, number))[0])
        except Rejected as error:
            if error.status in (404, 410):
                return None
            raise
        return (text, head) if head else None
