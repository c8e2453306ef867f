"""A stored model as the other rooms see it: its files, template, parameters and details, read from its manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from .metadata import Header, NotGguf, read_header
from .names import Name
from .replies import rfc3339
from .store import Manifest, Store, parse_manifest
from .template import CHATML, DEFAULT

KIND = "application/vnd.ollama.image."
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Model:
    """What a manifest's layers say. `digest` is the manifest's, bare hex; paths are None where there is no layer."""

    digest: str
    size: int
    path: Path | None
    parent: str
    adapters: tuple[Path, ...]
    template: str | None
    system: str
    parameters: dict[str, Any]
    messages: list[dict[str, Any]]
    licenses: tuple[str, ...]
    config: dict[str, Any]
    blobs: frozenset[str] = field(default=frozenset())

    @property
    def header(self) -> Header | None:
        """The GGUF header of the base file; None where it cannot be read."""
        try:
            return read_header(self.path) if self.path else None
        except (NotGguf, OSError):
            return None

    @property
    def uses_chatml(self) -> bool:
        """Whether its Go template is chatml."""
        return self.template is not None and self.template.strip() == CHATML.strip()

    @property
    def shown_template(self) -> str:
        """What /api/show calls the template: the Go text, else the file's Jinja, else the default."""
        if self.template is not None:
            return self.template
        header = self.header
        return (header.chat_template if header else "") or DEFAULT

    def details(self, *, lengths: bool = False) -> dict[str, Any]:
        """Describe the model as tags, ps and show do; `lengths` adds those that tags has."""
        config = self.config
        described = {
            "parent_model": self.parent,
            "format": config.get("model_format", ""),
            "family": config.get("model_family", ""),
            "families": config.get("model_families"),
            "parameter_size": config.get("model_type", ""),
            "quantization_level": config.get("file_type", ""),
        }
        header = self.header if lengths else None
        for key in ("context_length", "embedding_length") if header else ():
            if header and header.limit(key):
                described[key] = header.limit(key)
        return described

    @property
    def capabilities(self) -> list[str]:
        """What the model can do, as far as this server can do it."""
        return ["completion"] if self.path else []


def read_model(store: Store, name: Name) -> Model:
    """Resolve a name on disk, afresh. Raises FileNotFoundError, BadManifest."""
    return model_of(store, store.manifest(name))


def model_of(store: Store, manifest: Manifest) -> Model:
    """Read the small layers of a manifest; the result is kept by the manifest's bytes, which never change."""
    return _model_of(store, manifest.raw)


@lru_cache(maxsize=256)
def _model_of(store: Store, raw: bytes) -> Model:
    manifest = parse_manifest(raw)
    layers: dict[str, list[dict[str, Any]]] = {}
    for layer in manifest.layers:
        layers.setdefault(str(layer.get("mediaType", "")).removeprefix(KIND), []).append(layer)

    def texts(kind: str) -> list[str]:
        return [store.blob(layer["digest"]).read_text("utf-8") for layer in layers.get(kind, [])]

    base = layers.get("model", [])
    template, system = texts("template"), texts("system")
    config = json.loads(store.blob(manifest.config["digest"]).read_bytes()) if manifest.config.get("digest") else {}
    return Model(
        digest=manifest.digest,
        size=manifest.size,
        path=store.blob(base[0]["digest"]) if base else None,
        parent=str(base[0].get("from", "")) if base else "",
        adapters=tuple(store.blob(layer["digest"]) for layer in layers.get("adapter", [])),
        template=template[-1] if template else None,
        system=system[-1] if system else "",
        parameters={k: v for text in texts("params") for k, v in json.loads(text).items()},
        messages=[message for text in texts("messages") for message in json.loads(text)],
        licenses=tuple(texts("license")),
        config=config,
        blobs=frozenset(manifest.digests),
    )


def listing(store: Store) -> list[dict[str, Any]]:
    """List all readable models as /api/tags does, latest change first."""
    rows = []
    for name, manifest in store.readable():
        try:
            model = model_of(store, manifest)
        except (OSError, KeyError, ValueError):  # a blob is missing: not listed, as in the real server
            continue
        row = {
            "name": name.short,
            "model": name.short,
            "modified_at": rfc3339(manifest.modified_ns),
            "size": manifest.size,
            "digest": manifest.digest,
            "details": model.details(lengths=True),
            "capabilities": model.capabilities,
        }
        rows.append((manifest.modified_ns // 1_000_000_000, row))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
