"""Which settings take effect, and what outranks them: the rules of Hermes, Ollama, llama-server and fleetssd itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from fleetssd.audit import keys
from fleetssd.audit.findings import Audit, Effective, Finding, Layer, ordered
from fleetssd.audit.hermes import Endpoints, endpoints
from fleetssd.audit.leaves import Leaf
from fleetssd.audit.repeats import after_drop_ins, last_said
from fleetssd.audit.texts import COPIES, Document, Skipped, Source, parse

Role: TypeAlias = Literal[
    "copy", "skill", "model", "hermes", "fleetssd", "weights", "job", "tool", "settings", "command", "text"
]
Rule: TypeAlias = Callable[[Leaf, str, "Scene"], "Effect"]
EFFECT_OF_V1 = "Ollama's /v1, which sends 1.0 where the caller sends none; the native /api/chat obeys it"


@dataclass(frozen=True, slots=True)
class World:
    """What is known of the fleet beside the files: who manages the decode and at which T, where engine and gateway are.

    `ports` are those at which the fleet's engine, or the gateway before it, is asked. `engine` is what serves: ollama,
    llama-server or vllm. `clamp` says that the gateway holds callers to the decode, whatever they ask for.
    """

    manage: str = "none"
    temperature: float = 1.0
    top_p: float = 1.0
    ports: tuple[int, ...] = (11434, 11435)
    gateway: int | None = None
    engine: str = "ollama"
    clamp: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """Layer, effect and reason of one setting."""

    layer: Layer
    effective: Effective
    by: str
    caller: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """A document with what its rules look at: its role, whom it talks to, and the fleet around it."""

    document: Document
    role: Role
    endpoints: Endpoints
    world: World

    @classmethod
    def of(cls, document: Document, world: World) -> Scene:
        """Look at a document once, for all of its leaves."""
        role = role_of(document)
        return cls(document, role, endpoints(document.leaves if role == "hermes" else ()), world)

    @property
    def base_name(self) -> str:
        """The file's name without its folder."""
        return PurePosixPath(self.document.name).name


def examine(sources: Sequence[Source], world: World, skipped: Sequence[Skipped] = ()) -> Audit:
    """Parse every source and say of every sampling setting whether it takes effect; never raises."""
    scenes = [Scene.of(parse(source), world) for source in sources]
    broken = [Skipped(scene.document.name, scene.document.problem) for scene in scenes if scene.document.problem]
    found = after_drop_ins([finding for scene in scenes for finding in _findings(scene)])
    through = any(endpoint.port == world.gateway is not None for scene in scenes for endpoint in scene.endpoints)
    return Audit(ordered(list(dict.fromkeys(found))), (*skipped, *broken), through)


def _findings(scene: Scene) -> Iterator[Finding]:
    last = last_said(scene.document) if scene.role not in ("settings", "skill", "copy") else {}
    for leaf in scene.document.leaves:
        key = keys.canonical(leaf.path, leaf.value) or _origin(leaf, scene.role)
        if key is not None:
            effect = _RULES[_rule_of(leaf, scene)](leaf, key, scene)
            yield _finding(scene.document, leaf, key, _outranked(leaf, effect, last.get(leaf.path)))
    yield from _filled_in(scene)


def _outranked(leaf: Leaf, effect: Effect, last: Leaf | None) -> Effect:
    if effect.effective != "yes" or last is None or last is leaf:
        return effect
    return replace(effect, effective="masked", by=f"line {last.line} of this file, which says it again", caller=False)


def _finding(document: Document, leaf: Leaf, key: str, effect: Effect) -> Finding:
    value = keys.shown(leaf.value, private=document.form in ("env", "plist", "unit"))
    name = ".".join(part for part in leaf.path if part)
    return Finding(document.name, leaf.line, key, value, name, effect.layer, effect.effective, effect.by, effect.caller)


def role_of(document: Document) -> Role:
    """Say what a document is, by its name and by what stands in it."""
    path = PurePosixPath(document.name.lower())
    if path.name.endswith(COPIES):
        return "copy"
    if {"skills", "optional-skills"} & set(path.parts):
        return "skill"
    if document.form in ("modelfile", "show"):
        return "model"
    if document.form in ("env", "plist", "unit", "script"):
        return "command"
    if document.form == "text":
        return "text"
    return _by_content(document, path)


def _by_content(document: Document, path: PurePosixPath) -> Role:
    tops = {leaf.path[0] for leaf in document.leaves if leaf.path}
    by_name: Role | None = None
    if path.name == "generation_config.json":
        by_name = "weights"
    elif any(part.startswith(("datagen", "environments", "batch", "trajectory")) for part in path.parts):
        by_name = "job"
    elif path.name.startswith((".aider", "aider", "opencode")) or ".continue" in path.parts:
        by_name = "tool"
    if {"forge", "fleet", "data_dir"} <= tops:
        return "fleetssd"
    return by_name or ("hermes" if _is_hermes(tops, path) else "settings")


def _is_hermes(tops: set[str], path: PurePosixPath) -> bool:
    if tops & {"providers", "custom_providers", "moa", "auxiliary", "fallback_providers"}:
        return True
    return "model" in tops and bool(tops & {"agent", "memory", "skills", "delegation"} or path.name == "config.yaml")


def _origin(leaf: Leaf, role: Role) -> str | None:
    """Return the key of what a Modelfile builds upon; it decides what all the other lines apply to."""
    return leaf.path[0] if role == "model" and leaf.path[0] in ("FROM", "ADAPTER") else None


def _rule_of(leaf: Leaf, scene: Scene) -> Role:
    """Say by which rule a leaf is judged: a flag or a variable is one in whatever file it stands."""
    loud = leaf.path[-1].startswith("--") or (leaf.path[-1].isupper() and "_" in leaf.path[-1])
    if scene.document.form == "script" and scene.role == "command":
        return "command" if loud else "text"
    return "command" if loud and scene.role in ("hermes", "settings", "tool", "job") else scene.role


def _copy(_leaf: Leaf, _key: str, _scene: Scene) -> Effect:
    return Effect("mention", "inert", "nobody: a file of this name is an example or a copy")


def _mention(_leaf: Leaf, _key: str, scene: Scene) -> Effect:
    what = "the skill's code" if scene.role == "skill" else "this code"
    return Effect("mention", "unknown", f"takes effect only where {what} is run")


def _model(_leaf: Leaf, key: str, scene: Scene) -> Effect:
    if scene.world.engine != "ollama":
        return Effect(
            "serve", "inert", f"nobody: the fleet is served by {scene.world.engine}, which reads no Modelfile"
        )
    if key in ("temperature", "top_p"):
        by = EFFECT_OF_V1
        if scene.world.manage == "gateway":
            by = f"fleetssd's gateway, which sends {_managed(key, scene.world)} where the caller sends none"
        return Effect("serve", "masked", by)
    if key in ("FROM", "ADAPTER"):
        return Effect("serve", "yes", "Ollama loads it")
    return Effect("serve", "yes", "Ollama, unless a request to its native API says otherwise")


def _hermes(leaf: Leaf, key: str, scene: Scene) -> Effect:
    path = leaf.path
    if path[0] in ("providers", "custom_providers") and "extra_body" in path:
        return _extra_body(leaf, key, scene)
    if path[0] == "auxiliary" and "extra_body" in path:
        return Effect("side-call", "yes", "Hermes' side tasks alone send it", caller=True)
    if path[0] == "moa" and path[-1] in ("reference_temperature", "aggregator_temperature"):
        return Effect("side-call", "yes", "Hermes' mixture of agents alone sends it", caller=True)
    if path == ("model", "ollama_num_ctx"):
        return Effect("serve", "inert", "nobody: Hermes sends it as options.num_ctx, which Ollama's /v1 drops")
    if path[0] in ("model", "agent"):
        return Effect("serve", "inert", "nobody: Hermes sends only what stands in providers.NAME.extra_body")
    return Effect("serve", "unknown", f"no known reader of {path[0]}.* in Hermes' configuration")


def _extra_body(leaf: Leaf, key: str, scene: Scene) -> Effect:
    endpoint = scene.endpoints.of(leaf.path[:2])
    ours = endpoint.ours(scene.world.ports)
    if ours is False:
        return Effect("serve", "yes", f"sent to {endpoint.host}, which is not the fleet's engine")
    if key in keys.ON_V1 and _clamped(key, endpoint.port, scene.world):
        return Effect("serve", "masked", f"fleetssd's gateway, which clamps it to {_managed(key, scene.world)}")
    if ours and scene.world.engine != "ollama":
        return _sent_on(leaf, scene.world.engine)
    if key in keys.ON_V1 and "options" not in leaf.path:
        return Effect(
            "serve", "yes", "Hermes sends it with every request, and a request outranks all else", caller=True
        )
    if ours:
        return Effect("serve", "inert", "nobody: Ollama's /v1 has no such field and drops it")
    return Effect("serve", "unknown", "Hermes sends it; llama-server obeys it, Ollama's /v1 drops it")


def _sent_on(leaf: Leaf, engine: str) -> Effect:
    """Judge what Hermes sends to an engine whose /v1 takes every sampling field by its name."""
    if "options" in leaf.path:
        return Effect("serve", "inert", "nobody: options are Ollama's, and of its native API alone")
    return Effect(
        "serve", "yes", f"{engine} obeys what a request says, and Hermes sends it with every one", caller=True
    )


def _clamped(key: str, port: int | None, world: World) -> bool:
    return world.clamp and port is not None and port == world.gateway and key in ("temperature", "top_p")


def _fleetssd(leaf: Leaf, _key: str, scene: Scene) -> Effect:
    if leaf.path[0] == "recipe":
        return Effect("train", "yes", "fleetssd's training samples")
    if leaf.path[0] != "decode":
        return Effect("eval", "unknown", f"fleetssd reads no sampling setting in [{leaf.path[0]}]")
    if scene.world.manage == "gateway":
        return Effect("serve", "yes", "fleetssd's gateway fills it in where a caller sends none")
    return Effect("eval", "yes", "candidates are judged at it; it changes no caller")


def _weights(_leaf: Leaf, _key: str, scene: Scene) -> Effect:
    if scene.world.engine == "vllm":
        return Effect("serve", "yes", "vllm takes it for what a request leaves out, unless started to ignore it")
    return Effect("serve", "inert", "Ollama does not read it; vLLM, Transformers and MLX servers do")


def _job(_leaf: Leaf, _key: str, _scene: Scene) -> Effect:
    return Effect("train", "yes", "that job alone")


def _tool(_leaf: Leaf, _key: str, scene: Scene) -> Effect:
    return Effect("serve", "yes", f"the tool that reads {scene.base_name} sends it", caller=True)


def _settings(_leaf: Leaf, _key: str, scene: Scene) -> Effect:
    return Effect("serve", "unknown", f"no known reader of {scene.base_name}")


def _command(leaf: Leaf, key: str, _scene: Scene) -> Effect:
    name, programs = leaf.path[-1], set(leaf.path[:-1])
    if name.startswith("LLAMA_ARG_") or (name.startswith("--") and "llama-server" in programs):
        return Effect("serve", "yes", "llama-server, unless a request says otherwise")
    if name.startswith("--") and "mlx-lm-server" in programs:
        return Effect("serve", "yes", "mlx_lm.server, unless a request says otherwise")
    if name.startswith("OLLAMA_"):
        if key == "num_ctx":
            return Effect("serve", "yes", "Ollama, unless the model or a request says otherwise")
        return Effect("serve", "inert", "nobody: Ollama takes no sampling from its environment")
    return Effect("serve", "unknown", f"no known reader of {name}")


_RULES: dict[Role, Rule] = {
    "copy": _copy, "skill": _mention, "text": _mention, "model": _model, "hermes": _hermes, "fleetssd": _fleetssd,
    "weights": _weights, "job": _job, "tool": _tool, "settings": _settings, "command": _command,
}  # fmt: skip


def _filled_in(scene: Scene) -> Iterator[Finding]:
    """Yield what is sent although nobody wrote it down: /v1 fills in both where Hermes leaves them out."""
    for endpoint in scene.endpoints:
        if not endpoint.ours(scene.world.ports) or endpoint.leaf is None:
            continue
        through = scene.world.manage == "gateway" and endpoint.port == scene.world.gateway
        if not through and scene.world.engine != "ollama":
            continue  # what others fill in depends on how they were started
        who = "fleetssd's gateway" if through else "Ollama's /v1"
        for key in ("temperature", "top_p"):
            if key in endpoint.sends:
                continue
            value = _managed(key, scene.world) if through else "1.0"
            effect = Effect("serve", "yes", f"{who} fills it in: Hermes sends none, and a request outranks a Modelfile")
            # What is filled in equals what a baked checkpoint wants: it is the engine's doing, not a caller's.
            yield _finding(scene.document, replace(endpoint.leaf, value=value), key, effect)


def _managed(key: str, world: World) -> str:
    return f"{world.temperature if key == 'temperature' else world.top_p:g}"
