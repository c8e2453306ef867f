"""Bring a database up to the schema of this version."""

from __future__ import annotations

from pathlib import Path
from time import sleep

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from fleetssd.adapters.store.engine import Database, translated
from fleetssd.errors import Misconfigured

HEAD = "0007"
"""The newest revision. Kept here so that an up-to-date database never loads Alembic."""
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Apply the missing revisions, holding the write lock, so that a second process waits and finds nothing to do.

    Raises Misconfigured where the database is of a newer version.
    """
    with translated():
        with database.engine.connect() as connection:
            if revision(connection) == HEAD:
                return
        if database.engine.dialect.name == "sqlite":
            _write_ahead(database)
        with database.engine.execution_options(immediate=True).begin() as connection:
            _upgrade(connection)


def revision(connection: Connection) -> str | None:
    """Return the revision that a database is at, or None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  only a migration pays for this import
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    at = revision(connection)
    if at is not None and at not in known:
        raise Misconfigured(f"the database is at revision {at}, newer than this fleetssd", hint="Upgrade fleetssd.")
    command.upgrade(config, "head")


def _write_ahead(database: Database) -> None:
    # The journal mode is a property of the file and cannot change inside a transaction. Unlike any other statement
    # it does not wait for a lock, so two first starts at once need a second try.
    for attempt in range(50):
        raw = database.engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
        except Exception as error:
            if attempt == 49 or getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY":
                raise OperationalError("PRAGMA journal_mode", None, error) from error
        else:
            return
        finally:
            raw.close()
        sleep(0.1)
