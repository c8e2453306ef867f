"""What fleetssd reads from and writes to a forge, its git mirrors and a memory server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fleetssd.diffs import PullDiff
from fleetssd.facts import Written
from fleetssd.gitea import Commit, IssueText, MergedPull
from fleetssd.hooks import Hook, Place
from fleetssd.sweeps import Part, Since

if TYPE_CHECKING:
    from fleetssd.audit.filing import Filed  # the audit parses YAML, which no process that lives long shall load


class Forge(Protocol):
    """A Gitea-compatible forge, read only."""

    def sweep(self, since: Since) -> Iterator[Part]:
        """Yield every closed pull request updated where `since` says, or later, in parts that need not all be held.

        Each list comes oldest update first, and `since` is asked once for each by its name. The last part is of the
        whole forge.
        """
        ...

    def follows(self, repository_id: int, repository: str) -> bool:
        """Tell whether a watched repository had this name before, or has it now and is watched by an earlier one."""
        ...

    def pull(self, repository: str, number: int) -> MergedPull | None:
        """Return the detail of one pull request; None where it is gone or hidden from us."""
        ...

    def issue(self, repository: str, number: int) -> IssueText | None:
        """Return an issue's title and body; None where it is missing or is a pull request."""
        ...

    def timeline(self, repository: str, number: int) -> list[dict[str, Any]]:
        """Return the raw timeline rows of an issue or pull request."""
        ...

    def commit(self, repository: str, sha: str) -> Commit | None:
        """Return a commit; None where the repository has none of that name."""
        ...

    def diff(self, repository: str, number: int) -> tuple[bytes, str] | None:
        """Return a pull request's own diff and its frozen head, without git; None where either is gone."""
        ...


class Hooks(Protocol):
    """A Gitea-compatible forge's webhooks, for a token that may change them."""

    def repositories(self) -> list[str]:
        """Return the repositories (`owner/name`) that the token sees, archived ones left out."""
        ...

    def hooks(self, place: Place) -> list[Hook]:
        """Return the hooks at a place."""
        ...

    def create(self, place: Place, body: Mapping[str, Any]) -> Hook:
        """Make a hook; two calls make two."""
        ...

    def mend(self, place: Place, hook: int, body: Mapping[str, Any]) -> Hook:
        """Change a hook."""
        ...

    def drop(self, place: Place, hook: int) -> None:
        """Delete a hook; one that is gone is no error."""
        ...

    def test(self, place: Place, hook: int) -> None:
        """Ask for a test delivery; Rejected where the server cannot make one now."""
        ...


class Issues(Protocol):
    """A Gitea-compatible forge's issues, for a token that may write them."""

    def account(self) -> str:
        """Return the login of the token's account."""
        ...

    def full_name(self, repository: str) -> str:
        """Return the name that a repository has now."""
        ...

    def labels(self, repository: str) -> dict[str, int]:
        """Return the ids of a repository's labels by name."""
        ...

    def written_by(self, repository: str, login: str) -> list[Filed]:
        """Return an account's issues in a repository, open and closed, oldest first."""
        ...

    def open(self, repository: str, title: str, body: str, labels: Sequence[int]) -> int:
        """Open an issue and return its number; two calls open two."""
        ...

    def edit(self, repository: str, number: int, title: str, body: str) -> None:
        """Change an issue's texts, and open it where it is closed."""
        ...

    def label(self, repository: str, number: int, labels: Sequence[int]) -> None:
        """Put labels on an issue."""
        ...


class Mirror(Protocol):
    """Local git mirrors of the watched repositories."""

    def diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Fetch the heads of a repository's pull requests at once; the value is the diff or a refusal reason code."""
        ...

    def message(self, pull: MergedPull, commit: str) -> str:
        """Return a commit's message as git tells it, empty where git has no such commit."""
        ...

    def contained(self, pull: MergedPull, commits: Sequence[str]) -> bool:
        """Tell whether one of these commits is in the branch that a pull request was merged into."""
        ...


class Memory(Protocol):
    """A memory server that agents search; a copy, never the truth."""

    def write(self, body: Mapping[str, Any], key: str) -> Written:
        """Write a fact and return what came of it; the same key twice is one memory."""
        ...

    def read(self, memory: str) -> dict[str, Any] | None:
        """Return a memory by its id; None where there is none."""
        ...

    def forget(self, memory: str) -> None:
        """Delete a memory; a missing one is no error."""
        ...
