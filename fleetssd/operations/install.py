"""Stage `install`: put the artefact into the engine under a name that carries its digest, and prove what it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from fleetssd.artefact import model_name, room_needed
from fleetssd.checkpoints import Checkpoint, Kind, Road
from fleetssd.errors import Corrupt, Misconfigured, Rejected, Transient
from fleetssd.ports import Completion, Engine, Prompt
from fleetssd.recipe import NightPlan, Sampling

SMOKE_TOKENS = 256
SMOKE_PROMPTS = ("Write a function that adds two numbers.", "Fix the off-by-one error in a loop.", "Reverse a list.")
"""Asked where the night has no issue of its own to ask."""


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
    now: datetime,
) -> Checkpoint:
    """Install tonight's artefact and return it as a checkpoint; doing it twice gives the same name.

    `files` are the digests that the build noted (`adapter`, and by road `merged` or `baked`) of `<name>.gguf` in
    `folder`. Raises Corrupt where a file changed since, Rejected with the reason where the smoke test fails; the
    name is removed then.
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
        smoke(engine, model, base_model, adapter=adapter, prompts=prompts or SMOKE_PROMPTS, decode=plan.decode)
    except (Rejected, Corrupt):
        engine.remove(model)
        raise
    size = (folder / f"{kind}.gguf").stat().st_size
    return Checkpoint(digest, kind, model, served, plan.night, road, tau, size, now)


def smoke(
    engine: Engine, model: str, base_model: str, *, adapter: str | None, prompts: Sequence[str], decode: Sampling
) -> None:
    """Prove that a new name loads, renders prompts as the base does, answers, stops, and is not the base.

    The base is asked first, as a whole: each alternation on one GGUF is a reload. Raises Rejected with the reason.
    """
    if engine.adapter_of(model) != adapter:
        raise Rejected(
            f"{model} has not exactly the adapter that was installed", hint="Does anything else write to the engine?"
        )
    greedy = Sampling(0.0, 1, 1.0, 0.0, min(SMOKE_TOKENS, decode.max_tokens))
    base_prompt, base_answers = engine.rendered(base_model, prompts[0]), _ask(engine, base_model, prompts, greedy)
    engine.preload(model)
    if engine.rendered(model, prompts[0]) != base_prompt:
        raise Rejected(
            f"{model} renders the chat template differently from {base_model}", hint="Compare `ollama show` of both."
        )
    flaw = _flaw(base_answers, _ask(engine, model, prompts, greedy))
    if flaw:
        raise Rejected(f"{model} {flaw}", hint="The night's folder keeps the adapter and the training log.")


def _flaw(base: Sequence[Completion], candidate: Sequence[Completion]) -> str:
    if not any(answer.text.strip() for answer in candidate):
        return "answers nothing"
    if [answer.text for answer in candidate] == [answer.text for answer in base]:
        return "gives the base's own answers: the adapter has no effect"
    if any(a.finish == "stop" for a in base) and not any(a.finish == "stop" for a in candidate):
        return "never stops where the base does"
    return ""


def _ask(engine: Engine, model: str, prompts: Sequence[str], greedy: Sampling) -> list[Completion]:
    answers = engine.complete(model, [Prompt(text, 1) for text in prompts], greedy, lambda *_: None)
    if any(answer.finish == "error" for answer in answers):
        raise Transient(f"the engine failed on some of {len(prompts)} prompts to {model}", hint="Its log says why.")
    return answers


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
