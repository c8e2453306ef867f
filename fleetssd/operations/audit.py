"""The verb `audit`: read what there is to read, and say what it does; and the look before a night that bakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import structlog

from fleetssd.audit import Audit, Reading, World, callers, examine, filing
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.ports import Issues

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
    return World(
        decode.manage,
        decode.temperature,
        decode.top_p,
        tuple(sorted(ports)),
        settings.gateway.port,
        settings.engine.kind,
        decode.clamp,
    )


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
    if audit.skipped:  # a caller could be told there: a settings file is easily a link to one
        log.warning("callers_unread", files=[f"{each.file}: {each.reason}" for each in audit.skipped[:NAMED]])


@dataclass(frozen=True, slots=True)
class Filing:
    """What became of the audit's issue: created, updated or unchanged."""

    repository: str
    number: int
    did: str


def file_issue(forge: Issues, repository: str, labels: Sequence[str], text: str) -> Filing:
    """File an audit as one issue for ever: an earlier one of the same account is changed, and only if it differs.

    An issue that was closed stays so while the findings are the same. Raises Misconfigured for a label that is not
    there.
    """
    name = forge.full_name(repository)
    wanted = _ids(forge, name, labels) if labels else set()
    earlier = filing.ours(forge.written_by(name, forge.account()))
    if earlier is None:
        return Filing(name, forge.open(name, filing.TITLE, text, sorted(wanted)), "created")
    changed = (earlier.title, earlier.body.strip()) != (filing.TITLE, text.strip())
    if changed:
        forge.edit(name, earlier.number, filing.TITLE, text)
    missing = wanted - earlier.labels
    if missing:
        forge.label(name, earlier.number, sorted(missing))
    return Filing(name, earlier.number, "updated" if changed or missing else "unchanged")


def _ids(forge: Issues, repository: str, names: Sequence[str]) -> set[int]:
    known = forge.labels(repository)
    missing = [name for name in names if name not in known]
    if missing:
        have = ", ".join(sorted(known)[:20]) or "none"
        raise Misconfigured(f"{repository} has no label {missing[0]!r}", hint=f"Make it there first; it has: {have}.")
    return {known[name] for name in names}
