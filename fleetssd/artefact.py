"""What is built and served: names that carry a digest, the manifest as bytes, and the road into the engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date

from fleetssd.checkpoints import Road
from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.shown import ADAPTER, CONFIG, MODEL, Shown, config_bytes, own_layers, turns

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DIGITS = 12
"""Hex digits of the artefact's digest in a model's name: enough that two nights never meet."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What an engine can do, found by trying; `loads_adapters` is the word of one that came in and answered."""

    version: str
    pulls_from_loopback: bool = False
    creates_adapters: bool = False
    loads_adapters: bool = False
    creates_files: bool = False
    quantizes: bool = False
    logprobs: bool = False
    renders: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """Something in the engine's blob store: sha256 (hex) and size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as the bytes that are served; `digest` (hex) is what the engine will call the model.

    `blobs` are the small files that must be in the engine's store first: config, template, parameters.
    """

    body: bytes
    blobs: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """Sha256 (hex) over the very bytes."""
        return sha256(self.body)


def model_name(alias: str, digest: str, day: date) -> str:
    """Return the immutable name of an artefact: `<alias without tag>:v<yyyymmdd>-<12 hex>`."""
    return f"{split_tag(alias)[0]}:v{day:%Y%m%d}-{digest[:DIGITS]}"


def split_tag(name: str) -> tuple[str, str]:
    """Part an Ollama model name into (everything before the tag, tag); the tag is `latest` where none is written."""
    head, slash, tail = name.rpartition("/")
    base, _, tag = tail.partition(":")
    return head + slash + base, tag or "latest"


def same_name(one: str, other: str) -> bool:
    """Say whether two names mean the same model: case does not matter, no tag means `latest`."""
    return [part.lower() for part in split_tag(one)] == [part.lower() for part in split_tag(other)]


def elsewhere(name: str) -> bool:
    """Say whether a name sends its requests out of the house: Ollama runs what has a `cloud` tag on ollama.com."""
    tag = split_tag(name)[1].lower()
    return tag == "cloud" or tag.endswith("-cloud")


def manifest(base: Shown, model: Blob, adapter: Blob | None) -> Manifest:
    """Write the manifest of `base` with `model` as its GGUF (its own, a baked copy, a merged file) and an adapter.

    Raises Corrupt where the base has an adapter of its own, for the two would be added.
    """
    if base.adapters:
        raise Corrupt(
            "the base has an adapter already: a second one would be added to it", hint="Use the pristine base."
        )
    config = config_bytes(base)
    small = own_layers(base)
    layers = [_layer(MODEL, model)]
    layers += [_layer(kind, Blob(sha256(text), len(text))) for kind, text in small]
    layers += [_layer(ADAPTER, adapter)] if adapter else []
    table = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _layer(CONFIG, Blob(sha256(config), len(config))),
        "layers": layers,
    }
    return Manifest(json.dumps(table, separators=(",", ":")).encode(), (config, *(text for _, text in small)))


def carried(base: Shown) -> dict[str, object]:
    """Return what a create from files must be told of the base, for it inherits nothing.

    No template where the GGUF's own Jinja template rules: a file that we made has it too.
    """
    told: dict[str, object] = {
        "system": base.system,
        "template": base.template,
        "parameters": dict(base.parameters),
        "license": list(base.licenses),
        "renderer": base.renderer,
        "parser": base.parser,
        "messages": turns(base),
    }
    return {key: value for key, value in told.items() if value}


def own_size(base: Shown, total: int) -> int:
    """Return the size of the base's GGUF: what the server says the model takes, less its small layers (bytes)."""
    return max(0, total - len(config_bytes(base)) - sum(len(text) for _, text in own_layers(base)))


ROADS: tuple[Road, ...] = ("adapter-registry", "adapter-create", "merged-registry", "merged-create")
"""Best first: the small artefact before the large one, and no rewriting before the server's own create.

It is the order of room, too: on a disk that is too full for a road, none that comes after it fits.
"""


def choose_road(setting: str, probe: Probe) -> Road:
    """Return how tonight's artefact gets into the engine: the best road that the probe found open.

    A merged file by create is always open. Raises Misconfigured where the settings insist on a road that is closed.
    """
    taken = [road for road in ROADS if setting in ("auto", road) and _open(road, probe)]
    if not taken:
        raise Misconfigured(
            f"this engine is closed to the road {setting}",
            hint='Set [engine] road = "auto", or registry_host to an address of ours that the engine can reach.',
        )
    return taken[0]


def _open(road: Road, probe: Probe) -> bool:
    kind, way = road.split("-")
    comes = probe.pulls_from_loopback if way == "registry" else kind == "merged" or probe.creates_adapters
    return comes and (kind == "merged" or probe.loads_adapters)


def room_needed(road: Road, missing: int, size: int) -> int:
    """Return the free bytes that installing takes at most: `missing` are those that the server has not yet.

    Create may write a merged file (of `size`) once more while the first copy is there, and add a fifth to it.
    """
    return missing + int(size * 1.2) if road == "merged-create" else missing


def sha256(data: bytes) -> str:
    """Return the sha256 (hex) of some bytes."""
    return hashlib.sha256(data).hexdigest()


def _layer(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{blob.digest}", "size": blob.size}
