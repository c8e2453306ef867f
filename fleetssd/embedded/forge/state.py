"""Everything the forge knows, in memory, with its indexes; each change is also put into the journal."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fleetssd.embedded.forge.bare import BareRepository
from fleetssd.embedded.forge.journal import Journal
from fleetssd.embedded.forge.model import (
    GHOST,
    Account,
    Delivery,
    Hook,
    Issue,
    Label,
    Pull,
    Record,
    Repository,
    Row,
    Status,
    Token,
)
from fleetssd.embedded.forge.quirks import Quirks

R = TypeVar("R", Account, Token, Repository, Label, Issue, Pull, Row, Hook, Status)
GHOST_ACCOUNT = Account(GHOST, "Ghost")


class State:
    """The records by kind and the bare repositories; hold `lock` while reading or changing any of it."""

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "1.26.1",
        root_url: str = "",
        quirks: Quirks | None = None,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.version, self.root_url = folder, version, root_url
        self.quirks = quirks or Quirks()
        self._seconds = seconds
        self.lock = threading.RLock()
        (folder / "repositories").mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / "forge.sqlite3")
        self.accounts: dict[int, Account] = {}
        self.tokens: dict[int, Token] = {}
        self.repositories: dict[int, Repository] = {}
        self.labels: dict[int, Label] = {}
        self.issues: dict[int, Issue] = {}
        self.pulls: dict[int, Pull] = {}
        self.rows: dict[int, Row] = {}
        self.hooks: dict[int, Hook] = {}
        self.statuses: dict[int, Status] = {}
        self.moved: dict[str, str] = {}
        self.by_number: dict[tuple[int, int], Issue] = {}
        self.by_digest: dict[str, Token] = {}
        self.pull_of: dict[int, Pull] = {}
        self.rows_of: dict[int, list[Row]] = defaultdict(list)
        self.rows_from: dict[int, list[Row]] = defaultdict(list)
        self.outbox: list[Delivery] = []
        self._bare: dict[int, BareRepository] = {}
        self._ids: dict[str, int] = {}
        self._load()

    @property
    def old(self) -> bool:
        """Tell whether a server of the 1.22 line is played."""
        return self.version.startswith("1.22")

    def now(self) -> int:
        """Return the server's time in whole seconds."""
        return int(self._seconds()) + self.quirks.clock_offset

    def next_id(self, kind: type[Record]) -> int:
        """Return the next id of a kind; ids are never used twice."""
        self._ids[kind.__name__] = value = self._ids.get(kind.__name__, 0) + 1
        self.journal.put_value("next", kind.__name__, value)
        return value

    def add(self, record: R) -> R:
        """Take up a record and write it."""
        self._take(record)
        self.journal.put(record)
        return record

    def save(self, *records: Record) -> None:
        """Write records that were changed."""
        for record in records:
            self.journal.put(record)

    def drop(self, record: Record) -> None:
        """Forget a record."""
        self._table(type(record)).pop(record.id, None)
        if isinstance(record, Token):
            self.by_digest.pop(record.digest, None)
        if isinstance(record, Row):
            self.rows_of[record.issue] = [row for row in self.rows_of[record.issue] if row is not record]
        self.journal.drop(record)

    def forward(self, old: str, new: str) -> None:
        """Remember that a path (`owner` or `owner/name`) is elsewhere now."""
        self.moved[old.lower()] = new
        self.journal.put_value("moved", old.lower(), new)

    def bare(self, repository: Repository) -> BareRepository:
        """Return the bare repository; its folder carries the id, so a rename moves nothing."""
        if repository.id not in self._bare:
            path = self.folder / "repositories" / f"{repository.id}.git"
            self._bare[repository.id] = BareRepository(path)
        return self._bare[repository.id]

    def forget_bare(self, repository: Repository) -> None:
        """Delete the repository from disk."""
        self.bare(repository).remove()
        del self._bare[repository.id]

    def account(self, number: int | None) -> Account:
        """Return an account, or Ghost for one that is gone."""
        return self.accounts.get(number or GHOST, GHOST_ACCOUNT)

    def account_named(self, login: str) -> Account | None:
        """Find an account by its name, whatever the case."""
        return next((a for a in self.accounts.values() if a.login.lower() == login.lower()), None)

    def repository_named(self, owner: str, name: str) -> Repository | None:
        """Find a repository by owner and name, whatever the case."""
        account = self.account_named(owner)
        if account is None:
            return None
        mine = (r for r in self.repositories.values() if r.owner == account.id)
        return next((r for r in mine if r.name.lower() == name.lower()), None)

    def full_name(self, repository: Repository) -> str:
        """Return `owner/name`."""
        return f"{self.account(repository.owner).login}/{repository.name}"

    def close(self) -> None:
        """Write what is pending and end every process."""
        with self.lock:
            self.journal.close()
            for bare in self._bare.values():
                bare.close()

    def _table(self, kind: type[Record]) -> dict[int, Any]:
        tables: dict[type[Record], dict[int, Any]] = {
            Account: self.accounts,
            Token: self.tokens,
            Repository: self.repositories,
            Label: self.labels,
            Issue: self.issues,
            Pull: self.pulls,
            Row: self.rows,
            Hook: self.hooks,
            Status: self.statuses,
        }
        return tables[kind]

    def _take(self, record: Record) -> None:
        self._table(type(record))[record.id] = record
        if isinstance(record, Issue):
            self.by_number[record.repository, record.number] = record
        elif isinstance(record, Pull):
            self.pull_of[record.issue] = record
        elif isinstance(record, Token):
            self.by_digest[record.digest] = record
        elif isinstance(record, Row):
            self.rows_of[record.issue].append(record)
            if record.ref_issue is not None:
                self.rows_from[record.ref_issue].append(record)

    def _load(self) -> None:
        for kind in (Account, Token, Repository, Label, Issue, Pull, Row, Hook, Status):
            for _, body in self.journal.read(kind.__name__):
                self._take(kind(**body))
        self._ids = dict(self.journal.read("next"))
        self.moved = dict(self.journal.read("moved"))
