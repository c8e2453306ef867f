"""/api/create: a new name from a stored model or from uploaded GGUF files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .metadata import MAGIC, Header, NotGguf, copy_rewritten, human_number, parse_header
from .models import CONFIG_TYPE, KIND, MANIFEST_TYPE, model_of
from .names import Name, parse_name
from .profiles import Profile
from .replies import JSON_PLAIN, ApiError, Json, go_dumps
from .store import BadManifest, Manifest, Store
from .template import CHATML, CHATML_STOPS, go_template_error, is_chatml

NO_ADAPTERS = "LoRA adapters are no longer supported"
_NO_QUANTIZE = (
    "create-time quantization is only supported for safetensors imports; quantize GGUF models with llama.cpp tools "
    "before importing"
)
_NOT_COPIED = (
    "failed to validate GGUF with llama-quantize without compatibility patches: llama-quantize failed: exit status 1"
)
_NO_QUANTIZER = "quantization is not supported by this server"
_CONFIG_KEYS = ("model_format", "model_family", "model_families", "model_type", "file_type")


@dataclass(frozen=True, slots=True)
class Layer:
    """A manifest entry, and the status line that tells of it."""

    kind: str
    digest: str
    size: int
    status: str
    source: str = ""
    header: Header | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The entry as the manifest has it."""
        entry = {"mediaType": KIND + self.kind, "digest": self.digest, "size": self.size}
        return entry | {"from": self.source} if self.source else entry


def _refused(status: int, message: str) -> ApiError:
    return ApiError(status, message, content_type=JSON_PLAIN)


def refuse_early(profile: Profile, request: Mapping[str, Any]) -> Name:
    """Check what is checked before anything is streamed; return the name to make. Raises ApiError 400."""
    for field in ("files", "adapters"):
        for digest in (request.get(field) or {}).values():
            if not digest:
                raise ApiError(400, "invalid digest format")
    if request.get("adapters") and not profile.creates_adapters:
        raise ApiError(400, NO_ADAPTERS)
    name = parse_name(str(request.get("model") or request.get("name") or ""))
    if not name.valid:
        raise ApiError(400, "invalid model name")
    if request.get("quantize") and not profile.creates_adapters:
        raise ApiError(400, _NO_QUANTIZE)
    return name


async def create(store: Store, profile: Profile, name: Name, request: Mapping[str, Any]) -> AsyncIterator[Json]:
    """Make the model, yielding status lines. Raises ApiError; the name changes only at `writing manifest`."""
    old = stored_before(store, name)
    layers: list[Layer] = []
    config: dict[str, Any] = {}
    for step in _base_steps(store, profile, request):
        if isinstance(step, Layer):
            layers.append(step)
        elif "status" in step:
            yield step
        else:
            config = step
    for step in _adapter_steps(store, profile, request.get("adapters") or {}):
        if isinstance(step, Layer):
            layers.append(step)
        else:
            yield step
    if request.get("quantize"):
        raise _refused(500, _NO_QUANTIZER)
    layers = _with_texts(store, layers, request)
    raw = _manifest(store, layers, _config(config, layers, request))
    for layer in layers:
        yield {"status": layer.status}
    yield {"status": "writing manifest"}
    store.write_manifest(name, raw)
    store.sweep(old.digests if old else ())
    yield {"status": "success"}


def stored_before(store: Store, name: Name) -> Manifest | None:
    """Read what the name means so far; None where it means nothing, or nothing that can be read."""
    try:
        return store.manifest(name)
    except (FileNotFoundError, BadManifest):
        return None


def _base_steps(store: Store, profile: Profile, request: Mapping[str, Any]) -> Iterator[Json | Layer]:
    """Yield status lines, layers, and (for `from`) the base's config as an object without `status`."""
    if request.get("from"):
        yield from _from_steps(store, str(request["from"]))
        return
    files = request.get("files")
    if files is None:
        raise _refused(400, "neither 'from' or 'files' was specified")
    if not files:
        raise _refused(400, "unknown type")
    found: list[Layer] = []
    for file, digest in sorted(files.items()):
        for step in _gguf_steps(store, profile, file, digest, bad=500):
            if isinstance(step, Layer):
                found.append(step)
            yield step
    yield from _detected_template(store, found)


def _from_steps(store: Store, text: str) -> Iterator[Json | Layer]:
    name = parse_name(text)
    if not name.valid:
        raise _refused(400, "invalid model name")
    name = store.existing(name)
    try:
        manifest = store.manifest(name)
    except FileNotFoundError as error:
        yield {"status": "pulling manifest"}  # the real server would now fetch it from the internet
        raise _refused(500, no_network(name)) from error
    except BadManifest as error:
        raise _refused(500, str(error)) from error
    yield dict(model_of(store, manifest).config)
    for entry in manifest.layers:
        kind = str(entry["mediaType"]).removeprefix(KIND)
        status = f"using existing layer {entry['digest']}"
        yield Layer(kind, entry["digest"], int(entry["size"]), status, name.short)


def no_network(name: Name) -> str:
    """Say that a registry which is not on loopback is not asked."""
    url = f"https://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    return f'pull model manifest: Get "{url}": dial tcp: lookup {name.host}: this server reaches loopback alone'


def _gguf_steps(store: Store, profile: Profile, file: str, digest: str, *, bad: int) -> Iterator[Json | Layer]:
    """Yield the status lines of one uploaded file, then its layer; `bad` is the status of what is wrong with it."""
    path = store.blob(digest)
    _check_kind(file, path, bad)
    yield {"status": "parsing GGUF"}
    data, header = _opened(path, bad)
    if header.is_adapter and not profile.creates_adapters:
        raise _refused(400, f"{NO_ADAPTERS}: {file} is a LoRA adapter")
    if header.is_adapter or not profile.rewrites_files:
        digest = digest.replace("-", ":")
        kind = "adapter" if header.is_adapter else "model"
        yield Layer(kind, digest, len(data), f"using existing layer {digest}", file, header)
        return
    yield {"status": "validating GGUF model", "digest": "0" * 19, "total": len(data), "completed": len(data)}
    try:
        rewritten = copy_rewritten(data)
    except NotGguf as error:
        raise _refused(500, _NOT_COPIED) from error
    yield {"status": "verifying conversion"}
    yield replace(_stored(store, "model", rewritten), header=parse_header(rewritten))


def _check_kind(file: str, path: Path, bad: int) -> None:
    """Tell a GGUF by its name, else by its first bytes. Raises ApiError for anything else."""
    parts = PurePosixPath(file).parts
    if not parts or ".." in parts or PurePosixPath(file).is_absolute():
        raise _refused(400, f"file path must be relative: {file}")
    if file.endswith(".safetensors"):
        raise _refused(bad, "unsupported architecture")
    if file.endswith(".gguf"):
        return
    if not path.exists() or path.read_bytes()[:4] != MAGIC:
        raise _refused(400, "unknown type")


def _opened(path: Path, bad: int) -> tuple[bytes, Header]:
    if not path.exists():
        raise _refused(bad, f"open {path}: no such file or directory")
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise _refused(400, "supplied file was not in GGUF format")
    try:
        return data, parse_header(data)
    except NotGguf as error:
        raise _refused(bad, str(error)) from error


def _adapter_steps(store: Store, profile: Profile, adapters: Mapping[str, str]) -> Iterator[Json | Layer]:
    if len(adapters) > 1:
        raise _refused(400, "only one adapter is currently supported")
    for file, digest in adapters.items():
        yield from _gguf_steps(store, profile, file, digest, bad=400)


def _stored(store: Store, kind: str, data: bytes) -> Layer:
    digest, new = store.put(data)
    status = f"{'creating new' if new else 'using existing'} layer {digest}"
    return Layer(kind, digest, len(data), status)


def _detected_template(store: Store, layers: list[Layer]) -> list[Layer]:
    if not any(layer.header and is_chatml(layer.header.chat_template) for layer in layers):
        return []
    template = replace(_stored(store, "template", CHATML.encode()), status="using autodetected template chatml")
    return [template, _stored(store, "params", go_dumps({"stop": list(CHATML_STOPS)}))]


def _with_texts(store: Store, layers: list[Layer], request: Mapping[str, Any]) -> list[Layer]:
    """Put the request's template, system, licences, parameters and messages over the layers, in that order."""
    template, system, license_ = request.get("template"), request.get("system"), request.get("license")
    if template:
        if wrong := go_template_error(template):
            raise _refused(400, wrong)
        layers = [*_without(layers, "template"), _stored(store, "template", template.encode())]
    if system:
        layers = [*_without(layers, "system"), _stored(store, "system", system.encode())]
    for text in [license_] if isinstance(license_, str) else license_ or []:
        layers = [*layers, _stored(store, "license", text.encode())]
    parameters = _merged_parameters(store, layers, request.get("parameters") or {})
    if parameters:
        layers = [*_without(layers, "params"), _stored(store, "params", go_dumps(parameters))]
    if request.get("messages"):
        messages = [{"role": m["role"], "content": m["content"]} for m in request["messages"]]
        layers = [*_without(layers, "messages"), _stored(store, "messages", go_dumps(messages))]
    return layers


def _without(layers: list[Layer], kind: str) -> list[Layer]:
    return [layer for layer in layers if layer.kind != kind]


def _merged_parameters(store: Store, layers: list[Layer], wanted: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(wanted)
    for layer in layers:
        if layer.kind == "params":
            merged = json.loads(store.blob(layer.digest).read_bytes()) | merged
    return dict(sorted(merged.items()))  # Go writes the keys of a map in order


def _config(inherited: dict[str, Any], layers: list[Layer], request: Mapping[str, Any]) -> dict[str, Any]:
    config = dict.fromkeys(_CONFIG_KEYS, "") | {"model_families": None} | inherited
    for layer in layers:
        if layer.kind != "model" or layer.header is None:
            continue
        family = layer.header.architecture
        config["model_format"] = config["model_format"] or "gguf"
        config["model_family"] = config["model_family"] or family
        config["model_families"] = [*dict.fromkeys([*(config["model_families"] or []), family])]
        config["model_type"] = config["model_type"] or human_number(layer.header.parameter_count)
        config["file_type"] = config["file_type"] or layer.header.file_type
    optional = {key: request.get(key) or config.get(key) for key in ("renderer", "parser", "requires")}
    return (
        {key: config[key] for key in _CONFIG_KEYS}
        | {key: value for key, value in optional.items() if value}
        | {"architecture": "amd64", "os": "linux"}
    )


def _manifest(store: Store, layers: list[Layer], config: dict[str, Any]) -> bytes:
    raw = go_dumps(config)
    digest, _ = store.put(raw)
    return go_dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest, "size": len(raw)},
            "layers": [layer.entry for layer in layers],
        }
    )
