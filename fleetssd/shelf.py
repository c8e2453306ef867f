"""Adapters for engines that have no names of their own, as values: entries of a folder, digests, scales."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fleetssd.artefact import same_name, sha256
from fleetssd.errors import Corrupt, Misconfigured

ADAPTER = "adapter.gguf"
"""The GGUF LoRA of an entry; its sha256 is what the entry is known by, whichever of its files an engine reads."""
PEFT = ("adapter_config.json", "adapter_model.safetensors")
"""The same matrices as the trainer wrote them, for engines that read no GGUF. A tokenizer is never brought along."""
_PLACE = re.compile(r"\d{3}@")
_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,160}")


@dataclass(frozen=True, slots=True)
class Applied:
    """One adapter that llama-server holds: its id there, its entry's name (None: not of our folder) and its scale."""

    id: int
    name: str | None
    scale: float


def entry(model: str) -> str:
    """Return the folder of a model's files: its very name. Raises Misconfigured where that is no plain file name."""
    if not _ENTRY.fullmatch(model):
        raise Misconfigured(
            f"{model!r} cannot name a folder", hint="Letters, digits, dots, dashes and one colon in [engine] alias."
        )
    return model


def served_digest(base: str, adapter: str | None, template: str) -> str:
    """Return what stands for an engine's own digest: the sha256 (hex) over base, adapter and chat template."""
    return sha256(json.dumps([base, adapter, template]).encode())


def read_applied(rows: Any) -> tuple[Applied, ...]:
    """Read the reply of GET /lora-adapters. Raises Corrupt where it is none."""
    try:
        return tuple(Applied(int(row["id"]), _name(str(row["path"])), float(row["scale"])) for row in rows)
    except (TypeError, KeyError, ValueError):
        raise Corrupt(
            "GET /lora-adapters answered something else", hint="Does [engine] url name a llama-server?"
        ) from None


def scales(held: Sequence[Applied], adapter: str | None) -> list[dict[str, Any]]:
    """Return the `lora` list that applies one entry alone (None: the base), every other adapter named with scale 0.

    An empty list would mean the server's own setting, and an id that it does not know would switch everything off in
    silence, so the list names what the server said that it holds.
    """
    return [{"id": one.id, "scale": float(adapter is not None and one.name == adapter)} for one in held]


def active(held: Sequence[Applied]) -> Applied | None:
    """Return the adapter that requests get which name none; None where they get the base.

    Raises Misconfigured where several are added up, or one is applied in part, as a start without
    --lora-init-without-apply does.
    """
    on = [one for one in held if one.scale]
    if not on:
        return None
    if len(on) > 1 or on[0].scale != 1.0 or on[0].name is None:
        raise Misconfigured(
            f"llama-server applies {len(on)} adapters at once, or one in part, or one that is not ours",
            hint="Start it with --lora-init-without-apply and with no --lora outside [engine] adapters_dir.",
        )
    return on[0]


def aimed(aliases: Mapping[str, str], model: str) -> str:
    """Follow an alias to the model that it was pointed to; another name is its own."""
    return next((target for alias, target in aliases.items() if same_name(alias, model)), model)


def named_by(folder: str) -> str | None:
    """Return the name that a folder stands for, with or without the number of its place; None for any other folder."""
    name = _PLACE.sub("", folder, count=1)
    return name if _ENTRY.fullmatch(name) else None


def _name(path: str) -> str | None:
    file = PurePath(path)
    return named_by(file.parent.name) if file.name == ADAPTER else None
