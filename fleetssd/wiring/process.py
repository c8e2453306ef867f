"""What every process has: its log, its clock, the database and the environment of its children."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import structlog

from fleetssd.adapters.clock import SteeredClock, SystemClock
from fleetssd.config import Settings
from fleetssd.ports import Clock

if TYPE_CHECKING:
    from fleetssd.adapters.store import SqlStore


def configure_logging() -> None:
    """Write one JSON line an event to stderr, with the bound ids."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def open_clock(settings: Settings) -> Clock:
    """Return the machine's clock, or the one that a file steers."""
    offset = settings.schedule.clock_offset_file
    return SystemClock() if offset is None else SteeredClock(offset)


def open_store(settings: Settings) -> SqlStore:
    """Open the database and bring its schema up to date."""
    from fleetssd.adapters.store import SqlStore  # noqa: PLC0415

    store = SqlStore.open(settings.database)  # first, because it says what is wrong with its folder
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return store


def night_environment() -> dict[str, str]:
    """Return a night's environment: its threads each multiply for themselves, so the library must not have its own."""
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}
