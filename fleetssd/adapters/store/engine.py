"""Connections, transactions and the translation of database errors into ours."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlmodel import Session, SQLModel

from fleetssd.errors import Corrupt, FleetError, Misconfigured, Transient
from fleetssd.gitea import PullKey

BUSY_SECONDS = 15.0
_VARIABLES = 500
T = TypeVar("T")
_INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Database:
    """An engine, and the ways to use it: `reading` a snapshot, `writing` or `inserting` under the write lock."""

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.engine = _engine(url, busy_seconds)
        self._locked = self.engine.execution_options(immediate=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session over one consistent snapshot."""
        with translated(), Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that holds the write lock from its first statement and commits at the end."""
        with translated(), Session(self._locked) as session, session.begin():
            yield session

    @contextmanager
    def inserting(self) -> Iterator[Connection]:
        """Yield a connection as `writing` does, for statements that need no objects: a third of its time less."""
        with translated(), self._locked.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def add_missing(session: Session, model: type[SQLModel], rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert the rows whose unique keys are not on file yet and return how many those were."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    insert = _INSERTS[session.get_bind().dialect.name]
    statement = insert(table).on_conflict_do_nothing()
    return sum(session.connection().execute(statement, dict(row)).rowcount for row in rows)


def add_all(
    session: Session, model: type[SQLModel], rows: Sequence[Mapping[str, Any]], renewed: Sequence[str] = ()
) -> None:
    """Insert many rows at once; one whose keys are on file keeps its values, but for those of the `renewed` columns."""
    if not rows:
        return
    table: Table = model.__table__  # type: ignore[attr-defined]
    insert = _INSERTS[session.get_bind().dialect.name](table)
    if not renewed:
        statement = insert.on_conflict_do_nothing()
    else:
        new = {name: insert.excluded[name] for name in renewed}
        statement = insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)
    session.connection().execute(statement, [dict(row) for row in rows])


def read_payload(adapter: TypeAdapter[Any], payload: Mapping[str, Any], what: str) -> Any:
    """Return the value that a JSON payload holds. Raises Corrupt, naming the fields that do not hold."""
    try:
        return adapter.validate_python(payload)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise Corrupt(f"{what} does not hold in the database: {fields}", hint="Was it edited by hand?") from None


def inserted(connection: Connection, model: type[SQLModel], key: str, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert, in one statement, the rows whose unique keys are not on file yet; return the `key` of those."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    statement = _INSERTS[connection.dialect.name](table).on_conflict_do_nothing().returning(table.c[key])
    return set(connection.execute(statement, [dict(row) for row in rows]).scalars())


def by_repository(pulls: Collection[PullKey]) -> Iterable[tuple[tuple[str, int], list[int]]]:
    """Return the numbers of pull requests by (instance, repository id)."""
    found = defaultdict[tuple[str, int], list[int]](list)
    for pull in sorted(pulls, key=lambda pull: pull.number):
        found[pull.instance, pull.repository_id].append(pull.number)
    return found.items()


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces that are under SQLite's limit on bound variables."""
    return (values[start : start + _VARIABLES] for start in range(0, len(values), _VARIABLES))


@contextmanager
def translated() -> Iterator[None]:
    """Turn a database error into the error that says what to do next."""
    try:
        yield
    except IntegrityError as error:
        raise Corrupt(
            f"the database refuses a row: {error.orig}", hint="A row names another one that is not on file."
        ) from error
    except DatabaseError as error:
        raise _ours(error) from error


def _engine(url: str, busy_seconds: float) -> Engine:
    try:
        parsed = make_url(url)
        dialect = parsed.get_backend_name()
        if dialect not in _INSERTS:
            raise Misconfigured(f"database_url: {dialect} is not supported", hint="Use sqlite:///FILE or postgresql://")
        # A failing statement must not print its values: they are prompts and completions.
        options: dict[str, Any] = {"hide_parameters": True, "pool_pre_ping": dialect != "sqlite"}
        if dialect == "sqlite":
            options["connect_args"] = {"timeout": busy_seconds}
            _make_folder(parsed.database)
        else:
            options["isolation_level"] = "SERIALIZABLE"
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise Misconfigured(
            f"database_url: {error}", hint="For example sqlite:////var/lib/fleetssd/f.sqlite3"
        ) from None
    if dialect == "sqlite":
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _make_folder(database: str | None) -> None:
    if not database or database == ":memory:" or database.startswith("file:"):
        return  # a URI of SQLite's is no path: its folder is there, or it is in memory
    folder = Path(database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Misconfigured(
            f"cannot make {folder} for the database: {error.strerror}", hint="Set data_dir to a folder we may write."
        ) from error


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction control starts transactions late and unlocked; `_begin` does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    # A delivery is answered with 2xx once it is stored: it must survive a power cut, which WAL's NORMAL would not do.
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    # A deferred transaction that turns into a writer can fail at once, whatever the busy timeout says.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _ours(error: DBAPIError) -> FleetError:
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    text = f"database: {error.orig}"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupt(text, hint="Restore the database from its last backup.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return Misconfigured(text, hint="The database file and its folder must be writable by this user.")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return Misconfigured(text, hint="Free space on the disk that holds data_dir, or look at its health.")
    if name == "SQLITE_ERROR":
        return Misconfigured(
            text, hint="The schema is not ours or not up to date; start the daemon once to migrate it."
        )
    return Transient(text, hint="Another process holds the database; this will be tried again.")
