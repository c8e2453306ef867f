"""Stage `install`: put the artefact into the engine under a name that carries its digest, and prove what it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fleetssd.artefact import model_name, room_needed
from fleetssd.checkpoints import Checkpoint, Kind, Road
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.fidelity import Fidelity, Witness
from fleetssd.operations.smoke import Smoke
from fleetssd.ports import Engine
from fleetssd.recipe import NightPlan


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
    """Install tonight's artefact and return it as a checkpoint; doing it twice gives the same name.

    `files` are the digests that the build noted (`adapter`, and by road `merged` or `baked`) of `<name>.gguf` in
    `folder`, `witnesses` what the trainer's own model says. Raises Corrupt where a file changed since, Rejected with
    the reason where the smoke test fails; the name is removed then.
    """
    kind: Kind = "merged" if road.startswith("merged") else "adapter"
    model = model_name(alias, files[kind], now.date())
    # A baked base is a copy of the base with one tensor scaled; the adapter sits on it as on the base itself.
    sent = [name for name in (kind, "baked") if name in files]
    _check_room(engine, road, sum((folder / f"{name}.gguf").stat().st_size for name in sent))
    digest, *rest = [_uploaded(engine, folder, name, files) for name in sent]
    baked = rest[0] if rest else None
    blob, adapter = (digest, None) if kind == "merged" else (baked, digest)
    put = engine.pull if road.endswith("registry") else engine.create
    served = put(model, base_model, blob, adapter)
    try:
        fidelity = Smoke(engine, base_model, prompts, witnesses, plan.decode).test(model, adapter, tau)
    except (Rejected, Corrupt):
        engine.remove(model)
        raise
    size = (folder / f"{kind}.gguf").stat().st_size
    return Installed(Checkpoint(digest, kind, model, served, plan.night, road, tau, size, now), fidelity)


def _check_room(engine: Engine, road: Road, size: int) -> None:
    free, needed = engine.room(), room_needed(road, size)
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
