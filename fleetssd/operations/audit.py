"""The verb `audit`: read what there is to read, and say what it does; and the look before a night that bakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import structlog

from fleetssd.audit import Audit, Reading, World, callers, examine
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured

log = structlog.get_logger()

ReadFolders: TypeAlias = Callable[[Sequence[Path]], Reading]
"""Reads what may hold settings below some folders; raises Misconfigured where one is missing."""
NAMED = 3
"""Places that a refusal names; the audit names them all."""


def take_stock(readings: Sequence[Reading], settings: Settings | None) -> Audit:
    """Examine everything that was read, knowing the fleet by its settings where there are some."""
    sources = [source for reading in readings for source in reading.sources]
    return examine(sources, world(settings), [each for reading in readings for each in reading.skipped])


def world(settings: Settings | None) -> World:
    """Return what the settings tell of the fleet: who manages its decode, and where its engine is asked."""
    if settings is None:
        return World()
    decode, engine = settings.decode, urlsplit(settings.engine.url).port
    ports = {*World().ports, settings.gateway.port, *([engine] if engine else [])}
    return World(decode.manage, decode.temperature, decode.top_p, tuple(sorted(ports)), settings.gateway.port)


def refuse_callers(settings: Settings, read: ReadFolders) -> None:
    """Look before a night whose temperature goes into the weights. Raises Misconfigured for a caller with its own.

    Only a caller that says nothing, or 1, gets τ from a baked checkpoint; one that says T gets T·τ.
    """
    folders = settings.decode.audit_folders
    if settings.decode.manage != "bake" or not folders:
        return
    audit = take_stock([read(folders)], settings)
    found = callers(audit.findings)
    if found:
        named = ", ".join(f"{each.file}:{each.line} ({each.setting} = {each.value})" for each in found[:NAMED])
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise Misconfigured(
            f'decode.manage is "bake", and callers set a temperature of their own: {named}{more}',
            hint='Take it out there (a baked checkpoint would answer at T·τ), or set decode.manage to "gateway" or '
            '"none". `fleetssd audit` shows every place.',
        )
    unsure = [each for each in audit.findings if each.key == "temperature" and each.effective == "unknown"]
    log.info("callers_audited", folders=len(folders), unsure=len(unsure), skipped=len(audit.skipped))
