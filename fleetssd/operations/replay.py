"""The verb `replay`: make a night's adapter again from what is on file, and say whether it is the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetssd.checkpoints import Night
from fleetssd.errors import Rejected
from fleetssd.operations import learn
from fleetssd.ports import Builder, Progress, Store, Trainer
from fleetssd.recipe import NightPlan
from fleetssd.training import TrainPlan, TrainResult, encode_rows


@dataclass(frozen=True, slots=True)
class Replay:
    """How a replay ended. `differs` names the first thing that is not as it was, "" where nothing is."""

    night: int
    differs: str
    reason: str
    expected: str
    found: str

    @property
    def same(self) -> bool:
        """The adapter was made again, byte for byte."""
        return not self.differs


def replay(
    number: int,
    *,
    store: Store,
    trainer: Trainer,
    builder: Builder,
    base: learn.Base,
    mix: Path | None,
    folder: Path,
    progress: Progress,
) -> Replay:
    """Rebuild night N's adapter in `folder` and compare digests, the cheap ones first: records, rows, base, adapter.

    Samples are those on file: they are not drawn again. Raises Rejected where that night has not trained.
    """
    night, trained = _trained(store, number)
    plan = NightPlan.from_json(night.plan)
    said = _records(plan, store)
    if said:
        return Replay(number, "records", said, "", "")
    rows, _ = learn.training_rows(plan, store.records_by_id(plan.train), store.samples(number))
    rows = _mixed(rows, trained, mix, plan.seed)
    text = encode_rows(rows)
    digest = hashlib.sha256(text).hexdigest()
    if digest != trained["rows_digest"]:
        why = f"the records and samples on file make {len(rows)} other rows than were trained on"
        return Replay(number, "rows", why, trained["rows_digest"], digest)
    weights = learn.folder_digest(base.weights)
    if weights != trained["base_digest"]:
        why = f"{base.weights} is not the base that was trained on"
        return Replay(number, "base", why, trained["base_digest"], weights)
    (folder / "rows.jsonl").write_bytes(text)
    job = TrainPlan.from_json(trained["job"])
    result = trainer.train(job, folder / "rows.jsonl", base.weights, folder / "train", progress)
    if result.adapter_digest != trained["adapter_digest"]:
        why = _why_other_weights(trained, result)
        return Replay(number, "adapter", why, trained["adapter_digest"], result.adapter_digest)
    return _built(night, builder, base, folder)


def _trained(store: Store, number: int) -> tuple[Night, Mapping[str, Any]]:
    night = store.night(number)
    if night is None:
        raise Rejected(f"there is no night {number}", hint="`fleetssd nights` lists them.")
    result = _result(night, "train")
    if not result or "job" not in result:
        raise Rejected(
            f"night {number} has no training plan on file",
            hint="It did not come so far, or an older version ran it.",
        )
    return night, result


def _result(night: Night, stage: str) -> Mapping[str, Any]:
    return next((row.result for row in night.stages if row.stage == stage), {})


def _records(plan: NightPlan, store: Store) -> str:
    """Say which record is not what its sample was drawn for; "" where all are."""
    prompts = {record.id: record.prompt for record in store.records_by_id(plan.train)}
    changed = [row.record[:12] for row in store.samples(plan.night) if prompts.get(row.record) != row.prompt]
    return f"the prompt of record {', '.join(changed)} is not the one that was sampled" if changed else ""


def _mixed(rows: list[Any], trained: Mapping[str, Any], mix: Path | None, seed: int) -> list[Any]:
    said = trained.get("mix")
    if not said:
        return rows
    if mix is None or learn.file_digest(mix) != said["digest"]:
        raise Rejected(
            f"the night mixed in a file that recipe.mix does not name now ({said['digest'][:12]})",
            hint="Point [recipe] mix to that very file.",
        )
    return learn.mixed_in(rows, learn.Wanted(mix=mix, mix_ratio=said["ratio"]), seed)[0]


def _why_other_weights(trained: Mapping[str, Any], result: TrainResult) -> str:
    then, now = trained.get("versions", {}), result.versions
    changed = [
        f"{name} {then.get(name)} > {now.get(name)}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if changed:
        return f"the same rows gave another adapter: {', '.join(changed)}"
    return f"the same rows gave another adapter, on {result.backend} with the same packages: another processor?"


def _built(night: Night, builder: Builder, base: learn.Base, folder: Path) -> Replay:
    """Compare the file that was served, too, where the night came so far."""
    built = _result(night, "build")
    expected = built.get("files", {}).get("adapter")
    if expected is None:
        return Replay(night.number, "", "the adapter is the same, byte for byte", "", "")
    learn.same_base(NightPlan.from_json(night.plan), base)
    kind = built.get("adapter_type", "F32")  # the only one before nights noted it
    found = builder.adapter(folder / "train" / "adapter", base.gguf, folder / "adapter.gguf", kind)
    if found != expected:
        return Replay(
            night.number, "file", "the same adapter gave another GGUF: another version builds it", expected, found
        )
    return Replay(night.number, "", "adapter and GGUF are the same, byte for byte", expected, found)
