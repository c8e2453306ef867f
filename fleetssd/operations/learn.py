"""Stages `sample`, `train` and `build`: from frozen records to the file that an engine can serve."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleetssd import files
from fleetssd.advice import ADVICE
from fleetssd.checkpoints import Sample
from fleetssd.config import EngineKind, Settings
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.placement import Choice, Placement
from fleetssd.ports import Builder, Progress, Prompt, Sampler, Store, Trainer
from fleetssd.recipe import NightPlan
from fleetssd.records import Record
from fleetssd.training import Row, TrainPlan, decode_rows, encode_rows, mixed, weights_digest

CHUNK = 96
"""Samples kept per transaction: a killed night redraws at most this many."""


@dataclass(frozen=True, slots=True)
class Base:
    """The frozen base on disk: Hugging Face folder and GGUF; `engine` is the kind that serves it."""

    weights: Path
    gguf: Path
    engine: EngineKind = "ollama"

    @classmethod
    def named(cls, settings: Settings) -> Base:
        """Return the files that settings name, else those in the data folder."""
        default = settings.data_dir / "base"
        files = settings.base.weights or default / "hf", settings.base.gguf or default / "base.gguf"
        return cls(*files, settings.engine.kind)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings say about where and with what a night trains; `mix` names a file of open data."""

    backend: str = "auto"
    device: str = "auto"
    qlora: bool = False
    threads: int = 1
    mix: Path | None = None
    mix_ratio: float = 0.25


def same_base(plan: NightPlan, base: Base) -> None:
    """Raise Misconfigured where the GGUF on disk is not the base that the engine serves."""
    if file_digest(base.gguf) != plan.base:
        raise Misconfigured(
            f"{base.gguf} is not the base that the engine serves",
            hint=ADVICE[base.engine].other_base,
        )


def sample(plan: NightPlan, store: Store, sampler: Sampler, progress: Progress) -> dict[str, Any]:
    """Draw one raw completion a prompt from the frozen base at T_train; what is on file already is not redrawn."""
    records = store.records_by_id(plan.train)
    have = {row.record for row in store.samples(plan.night)}
    open_ = [record for record in records if record.id not in have]
    for start in range(0, len(open_), CHUNK):
        chunk = open_[start : start + CHUNK]
        prompts = [Prompt(record.prompt, seed_of(plan.seed, record.id)) for record in chunk]
        done = len(have) + start
        answers = sampler.sample(prompts, plan.sampling, _further(progress, done, len(records)))
        store.add_samples(
            Sample(plan.night, r.id, p.text, a.text, p.seed, a.finish, sampler.name)
            for r, p, a in zip(chunk, prompts, answers, strict=True)
        )
        progress(done + len(chunk), len(records), "samples")
    rows = store.samples(plan.night)
    finish = dict(Counter(row.finish for row in rows))
    return {"samples": len(rows), "engine": sampler.name, "sampling": asdict(plan.sampling), "finish": finish}


def _further(progress: Progress, before: int, total: int) -> Progress:
    """Return progress within a chunk as progress of the whole."""
    return lambda done, _chunk, what: progress(before + done, total, what)


def training_rows(
    plan: NightPlan, records: Sequence[Record], samples: Sequence[Sample]
) -> tuple[list[Row], dict[str, int]]:
    """Return the pairs to train on and how many were dropped, by reason.

    `ssd` drops only empty answers, one-line stubs and length-capped rows; `merged` takes the merged solution as it is.
    """
    if plan.arm == "merged":
        return [Row(record.prompt, record.solution) for record in records], {}
    dropped: Counter[str] = Counter()
    rows = []
    for row in samples:
        reason = _unusable(row)
        if reason:
            dropped[reason] += 1
        else:
            rows.append(Row(row.prompt, row.completion))
    return rows, dict(dropped)


def train(
    plan: NightPlan, store: Store, trainer: Trainer, base: Base, folder: Path, wanted: Wanted, progress: Progress
) -> dict[str, Any]:
    """Train tonight's adapter from the base in a process of its own.

    Raises Rejected where no usable row is left.
    """
    rows, dropped = training_rows(plan, store.records_by_id(plan.train), store.samples(plan.night))
    if not rows:
        raise Rejected(
            "no sample is usable", hint=f"Dropped: {dropped}. Lower recipe.t_train or raise recipe.max_tokens."
        )
    rows, mix = mixed_in(rows, wanted, plan.seed)
    choice = _placed(folder, trainer, wanted)
    progress(0, 0, choice.because)
    text = encode_rows(rows)
    path = folder / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    job = TrainPlan(
        night=plan.night,
        base_digest=folder_digest(base.weights),
        rows_digest=hashlib.sha256(text).hexdigest(),
        rows=len(rows),
        lora=plan.lora,
        seed=plan.seed,
        threads=wanted.threads,
        placement=choice.placement,
    )
    result = trainer.train(job, path, base.weights, folder / "train", progress)
    where = {"placement": asdict(choice.placement), "because": choice.because}
    return {**asdict(result), "rows": len(rows), "dropped": dropped, **where, "mix": mix, "job": job.to_json()}


def mixed_in(rows: list[Row], wanted: Wanted, seed: int) -> tuple[list[Row], dict[str, Any] | None]:
    """Return the rows with open data mixed in, and what it was: its digest, its ratio and how many rows came of it."""
    if wanted.mix is None:
        return rows, None
    digest = file_digest(wanted.mix)
    both = mixed(rows, decode_rows(wanted.mix.read_bytes()), wanted.mix_ratio, seed)
    return both, {"digest": digest, "ratio": wanted.mix_ratio, "rows": len(both) - len(rows)}


def _placed(folder: Path, trainer: Trainer, wanted: Wanted) -> Choice:
    """Choose once a night: a start after a stop keeps to the first choice, or fails where its device is gone.

    Only a person who changes the settings changes the choice.
    """
    path, asked = folder / "placement.json", [wanted.backend, wanted.device, wanted.qlora]
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["asked"] == asked:
            return Choice(Placement(**table["placement"]), table["because"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} is no placement: {error}", hint="Remove it; the night chooses again.") from None
    choice = trainer.place(wanted.backend, wanted.device, qlora=wanted.qlora)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps({"asked": asked, **asdict(choice)}))
    return choice


def build(
    plan: NightPlan, builder: Builder, base: Base, folder: Path, tau: float, road: str, adapter_type: str
) -> dict[str, Any]:
    """Build the artefact that will really be served: the GGUF LoRA, and by road the merged file or a baked base.

    `adapter_type` (F16 or F32) is the type of the GGUF LoRA's matrices; a merge reads the trained ones.
    Raises Misconfigured where the GGUF on disk is not the base that the engine serves.
    """
    same_base(plan, base)
    adapter, out = folder / "train" / "adapter", folder / "artefact"
    out.mkdir(parents=True, exist_ok=True)
    link = out / "peft"  # the same matrices for engines that read no GGUF
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / "train" / "adapter")
    retyped: dict[str, int] = {}
    files = {"adapter": builder.adapter(adapter, base.gguf, out / "adapter.gguf", adapter_type)}
    if road.startswith("merged"):
        files["merged"] = builder.merged(adapter, base.gguf, out / "merged.gguf", tau)
        retyped = builder.retyped(base.gguf, out / "merged.gguf")
    elif tau != 1.0:
        files["baked"] = _baked(plan, builder, base, folder, tau)
    return {"files": files, "adapter_type": adapter_type, "tau": tau, "road": road, "retyped": retyped}


def _baked(plan: NightPlan, builder: Builder, base: Base, folder: Path, tau: float) -> str:
    """Bake τ into a copy of the base, once for all nights that want this one, link to it and return its sha256 (hex).

    A night then costs its adapter only. A copy that is not what was noted beside it is made again.
    """
    kept = folder.parent / "baked" / f"{plan.base[:12]}-{tau:g}.gguf"
    note, link = kept.with_name(f"{kept.name}.sha256"), folder / "artefact" / "baked.gguf"
    kept.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path("../..") / "baked" / kept.name)
    if kept.exists() and note.exists() and note.read_text(encoding="utf-8") == file_digest(kept):
        return note.read_text(encoding="utf-8")
    digest = builder.baked(base.gguf, kept, tau)
    note.write_text(digest, encoding="utf-8")
    return digest


def seed_of(seed: int, *parts: object) -> int:
    """Derive a 31-bit sampling seed from the night's seed and what is sampled, the same on every run."""
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file. Raises Misconfigured where it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise Misconfigured(f"no file at {path}", hint="Set [base] weights and gguf.") from None


def folder_digest(folder: Path) -> str:
    """Return the digest of a base's weights. Raises Misconfigured where the folder has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Misconfigured(
            f"no safetensors in {folder}", hint="Point [base] weights to the base's Hugging Face folder."
        )
    return weights_digest({file.name: file_digest(file) for file in files})


def _unusable(row: Sample) -> str:
    text = row.completion.strip()
    if not text:
        return "empty"
    if row.finish == "length":
        return "length_capped"
    if row.finish == "error":
        return "error"
    return "stub" if "\n" not in text else ""
