"""What every process has: its log, its clock, the database and the environment of its children."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

import structlog
from structlog.typing import EventDict, Processor

from fleetssd.adapters.clock import SteeredClock, SystemClock
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.ports import Clock

if TYPE_CHECKING:
    from fleetssd.adapters.store import SqlStore


def configure_logging() -> None:
    """Write one JSON line an event to stderr, with the bound ids; libraries' warnings are such lines, too."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # It tells of every run that it skips because the last one goes on, which is how our jobs are meant to be.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def configure_talking() -> None:
    """Write warnings in words to stderr, for a person who waits; stdout is the answer's alone."""
    structlog.configure(
        processors=[_in_words],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _in_words(_logger: object, level: str, event: EventDict) -> str:
    """Render an event as one line; of a request that is asked again what matters is why, and how long it takes."""
    name = str(event.pop("event"))
    if name == "stamina.retry_scheduled":
        why = str(event["caused_by"]).partition("(")[2].removesuffix(")").strip("'\"")
        return f"asking again in {event['wait_for']:.1f} s: {why}"
    return " ".join([f"{level}: {name.replace('_', ' ')}", *(f"{key}={value}" for key, value in event.items())])


def listen(host: str, port: int, table: str) -> socket.socket:
    """Return a socket that listens already: nothing else is begun where the address is taken.

    Raises Misconfigured, which names the settings' table.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}",
            hint=f"Is it taken, by another fleetssd for example? Else set [{table}] host and port.",
        ) from None
    # asyncio sets this only on sockets that it made itself; without it every answer waits some 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


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
