"""Stage `freeze`: decide what tonight depends on before anything is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from fleetssd.admission import Admission, executed
from fleetssd.advice import ADVICE
from fleetssd.checkpoints import Checkpoint, Night
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.origins import counted
from fleetssd.ports import Engine, Store
from fleetssd.recipe import ORDERS, Lora, NightPlan, Sampling
from fleetssd.status import served


def freeze(settings: Settings, store: Store, engine: Engine, now: datetime) -> Night:
    """Freeze tonight's plan into a new night's row.

    Raises Misconfigured where there is nothing to learn from, too little to judge by, or nothing to serve.
    """
    base = base_checkpoint(settings, engine, now)
    store.put_checkpoint(base)
    incumbent = served(store.swaps(), store.checkpoints()) or base
    train = _train_ids(settings, store)
    weighed, admissions = store.held_out_ids(), store.admissions()
    tune, held_out = _split_held_out(settings, weighed, executed(admissions))
    number = max((night.number for night in store.nights()), default=0) + 1
    plan = NightPlan(
        night=number,
        arm=settings.recipe.arm,
        seed=settings.recipe.seed,
        train=train,
        held_out=held_out,
        tune=tune,
        sampling=_sampling(settings),
        lora=_lora(settings),
        decode=production_decode(settings),
        manage=settings.decode.manage,
        tau_grid=settings.decode.tau_grid,
        samples=settings.evaluation.samples,
        k=settings.evaluation.k,
        road=settings.engine.road,
        base=base.digest,
        incumbent=incumbent.digest,
        incumbent_model=incumbent.model,
        incumbent_tau=incumbent.tau,
        references=_references(settings, weighed, admissions),
        rounds=counted(train, store.origins(train)),
        teacher=settings.evaluation.teacher_decode and settings.recipe.arm != "merged",
        sandbox=settings.evaluation.sandbox,
    )
    if settings.gate.challengers:
        from fleetssd.operations.challenge import challenged  # noqa: PLC0415  numpy, which the daemon does without

        plan = challenged(plan, settings, store, engine, parted(settings, weighed, executed(admissions))[1])
    return store.open_night(plan.to_json(), plan.arm, now)


def base_checkpoint(settings: Settings, engine: Engine, now: datetime) -> Checkpoint:
    """Describe the frozen base as the engine serves it. Raises Misconfigured where base or alias is missing."""
    model, alias, told = settings.engine.base_model, settings.engine.alias, ADVICE[settings.engine.kind]
    digest = engine.digest_of(model)
    if digest is None:
        raise Misconfigured(
            f"the engine has no model {model}",
            hint=told.no_base.format(model=model),
        )
    if engine.digest_of(alias) is None:
        raise Misconfigured(f"the engine has no alias {alias}", hint=told.no_alias.format(model=model, alias=alias))
    if engine.adapter_of(model) is not None:
        raise Misconfigured(f"{model} has an adapter of its own", hint="Name the pristine base in [engine] base_model.")
    return Checkpoint(
        digest=engine.blob_of(model),
        kind="base",
        model=model,
        served_digest=digest,
        night=None,
        road="none",
        tau=1.0,
        bytes=0,
        created_at=now,
    )


def production_decode(settings: Settings) -> Sampling:
    """Return the decode that production really uses, in llama.cpp's order (temperature last)."""
    decode = settings.decode
    return Sampling(decode.temperature, decode.top_k, decode.top_p, decode.min_p, settings.evaluation.max_tokens)


def _sampling(settings: Settings) -> Sampling:
    recipe = settings.recipe
    return Sampling(recipe.t_train, recipe.top_k, recipe.top_p, recipe.min_p, recipe.max_tokens, ORDERS[recipe.sampler])


def _lora(settings: Settings) -> Lora:
    recipe = settings.recipe
    return Lora(
        rank=recipe.rank,
        alpha=recipe.alpha,
        targets=recipe.targets,
        learning_rate=recipe.learning_rate,
        batch=recipe.batch,
        micro_batch=recipe.micro_batch,
        epochs=recipe.epochs,
        warmup_steps=recipe.warmup_steps,
        max_length=recipe.max_length,
        rate_floor=recipe.rate_floor,
    )


def _train_ids(settings: Settings, store: Store) -> tuple[str, ...]:
    kept = store.window(settings.buffer.size, settings.buffer.per_repository)
    if not kept:
        raise Misconfigured(
            "no record may teach yet",
            hint="`fleetssd records` says why each pull request was refused; `fleetssd poll --once` looks again.",
        )
    return tuple(kept[: settings.recipe.prompts])


def _split_held_out(
    settings: Settings, held_out: Sequence[str], admitted: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of the records that choose a temperature tonight, and of those that judge."""
    tune, judge = parted(settings, held_out, admitted)
    judge = judge[: settings.evaluation.max_problems]
    if len(judge) < settings.gate.min_problems or not tune:
        raise Misconfigured(
            f"{len(judge)} held-out issues with tests that were verified are too few to judge by (gate.min_problems is "
            f"{settings.gate.min_problems})",
            hint="`fleetssd heldout show` says why others were refused. Let the fleet merge more work with tests, or "
            "raise records.held_out_share before the first poll.",
        )
    return tuple(sorted(tune)), tuple(judge)


def parted(settings: Settings, held_out: Sequence[str], admitted: Collection[str]) -> tuple[list[str], list[str]]:
    """Part the ids of admitted held-out records into (tune, judge) by a keyed hash: no record ever changes sides."""
    usable = [record for record in held_out if record in admitted]
    key = settings.records.split_key
    tune = [record for record in usable if _draw(key, record, "tune") < settings.evaluation.tune_share]
    judge = [record for record in usable if _draw(key, record, "tune") >= settings.evaluation.tune_share]
    judge.sort(key=lambda record: _draw(key, record, "order"))
    return tune, judge


def _references(settings: Settings, records: Sequence[str], admissions: Mapping[str, Admission]) -> tuple[str, ...]:
    """Return the ids of the records without tests that are asked beside, always the same ones first."""
    kind = {record: admission.kind for record, admission in admissions.items()}
    usable = [record for record in records if kind.get(record) == "reference"]
    usable.sort(key=lambda record: _draw(settings.records.split_key, record, "order"))
    return tuple(usable[: settings.evaluation.references])


def _draw(key: str, record: str, purpose: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{key}:{purpose}:{record}".encode()).digest()[:8]) / 2**64
