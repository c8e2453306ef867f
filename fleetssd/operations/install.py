"""Stage `install`: put the artefact into the engine under a name that carries its digest, and prove what it serves.

`install.json` beside the artefact says how far it came: under which name, and what the engine then called it. A start
after a kill believes it as far as the engine says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog

from fleetssd.artefact import model_name, room_needed
from fleetssd.checkpoints import Checkpoint, Kind, Road
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.fidelity import Fidelity, Witness
from fleetssd.files import write
from fleetssd.operations.smoke import Smoke
from fleetssd.ports import Engine
from fleetssd.recipe import NightPlan

log = structlog.get_logger()
_JOURNAL = "install.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """A checkpoint that passed its smoke test, and how like the trainer's own model it is (None: not compared)."""

    checkpoint: Checkpoint
    fidelity: Fidelity | None


def install(
    engine: Engine,
    *,
    plan: NightPlan,
    base_model: str,
    alias: str,
    folder: Path,
    files: Mapping[str, str],
    road: Road,
    tau: float,
    prompts: Sequence[str],
    witnesses: Sequence[Witness],
    now: datetime,
) -> Installed:
    """Install tonight's artefact and return it as a checkpoint; doing it twice gives the same name, and sends nothing.

    `files` are the digests that the build noted (`adapter`, and by road `merged` or `baked`) of `<name>.gguf` in
    `folder`, `witnesses` what the trainer's own model says. Raises Corrupt where a file changed since, Rejected with
    the reason where the smoke test fails; the name is removed then.
    """
    kind: Kind = "merged" if road.startswith("merged") else "adapter"
    journal = _read(folder, alias, files[kind]) or _Journal(
        alias, files[kind], model_name(alias, files[kind], now.date())
    )
    if not _stands(engine, journal):
        journal = replace(journal, served="")
        _write(folder, journal)
        served = _put(engine, journal.model, base_model, folder, files, kind, road)
        journal = replace(journal, served=served)
        _write(folder, journal)
    model, adapter = journal.model, None if kind == "merged" else files[kind]
    try:
        fidelity = Smoke(engine, base_model, prompts, witnesses, plan.decode).test(model, adapter, tau)
    except (Rejected, Corrupt):
        engine.remove(model)
        raise
    size = (folder / f"{kind}.gguf").stat().st_size
    return Installed(Checkpoint(files[kind], kind, model, journal.served, plan.night, road, tau, size, now), fidelity)


@dataclass(frozen=True, slots=True)
class _Journal:
    """The name that an artefact (sha256) gets, kept over midnight; `served` is the engine's digest once it is there."""

    alias: str
    digest: str
    model: str
    served: str = ""


def _read(folder: Path, alias: str, digest: str) -> _Journal | None:
    """Return what was noted of this artefact; what cannot be read, or is of another, says nothing."""
    try:
        found = _Journal(**json.loads((folder / _JOURNAL).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if (found.alias, found.digest) == (alias, digest) else None


def _write(folder: Path, journal: _Journal) -> None:
    write(folder / _JOURNAL, json.dumps(asdict(journal)))
    log.info("install_step", model=journal.model, step="installed" if journal.served else "begun")


def _stands(engine: Engine, journal: _Journal) -> bool:
    """Say whether the engine still has what was noted; create would write gigabytes anew for nothing."""
    return bool(journal.served) and engine.digest_of(journal.model) == journal.served


def _put(
    engine: Engine, model: str, base_model: str, folder: Path, files: Mapping[str, str], kind: Kind, road: Road
) -> str:
    """Send what the engine lacks, give it its name and return the engine's digest of it."""
    # A baked base is a copy of the base with one tensor scaled; the adapter sits on it as on the base itself.
    sent = [name for name in (kind, "baked") if name in files]
    sizes = {name: (folder / f"{name}.gguf").stat().st_size for name in sent}
    missing = sum(size for name, size in sizes.items() if not engine.holds(files[name]))
    _check_room(engine, road, missing, sizes[kind])
    digest, *rest = [_uploaded(engine, folder, name, files) for name in sent]
    baked = rest[0] if rest else None
    blob, adapter = (digest, None) if kind == "merged" else (baked, digest)
    put = engine.pull if road.endswith("registry") else engine.create
    return put(model, base_model, blob, adapter)


def _check_room(engine: Engine, road: Road, missing: int, size: int) -> None:
    free, needed = engine.room(), room_needed(road, missing, size)
    if free is not None and free < needed:
        raise Misconfigured(
            f"the engine's disk has {free >> 20} MiB free; installing by {road} takes up to {needed >> 20}",
            hint="Make room, lower [engine] history, or choose another [engine] road.",
        )


def _uploaded(engine: Engine, folder: Path, name: str, files: Mapping[str, str]) -> str:
    digest = engine.upload(folder / f"{name}.gguf")
    if digest != files[name]:
        raise Corrupt(f"{name}.gguf is not the file that was built", hint="Remove the night's folder and run it again.")
    return digest
