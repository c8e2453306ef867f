"""A night: its stages in order, each resumable; a stage's row is written last and proves that it is whole."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from fleetssd.admission import AGAIN, NotAdmittedError
from fleetssd.artefact import choose_road
from fleetssd.checkpoints import STAGES, Checkpoint, Night, Stage, StageRow
from fleetssd.config import Settings
from fleetssd.errors import Corrupt, Rejected, Transient
from fleetssd.fidelity import Witness, read_witnesses
from fleetssd.guards import Item
from fleetssd.operations import judge, learn, outlook
from fleetssd.operations.admission import Verifier
from fleetssd.operations.audit import ReadFolders, refuse_callers
from fleetssd.operations.capabilities import known
from fleetssd.operations.challenge import challenge
from fleetssd.operations.evaluate import (
    BASE,
    CANDIDATE,
    INCUMBENT,
    PROBED,
    TEACHER,
    TUNED,
    Arm,
    Examiner,
    pinned,
    tuning,
)
from fleetssd.operations.freeze import freeze
from fleetssd.operations.guarding import ask_guards, ask_harness, read_entropy
from fleetssd.operations.install import install
from fleetssd.operations.posing import pose
from fleetssd.operations.publish import Page, publish, read_night
from fleetssd.operations.references import ask_references
from fleetssd.ports import Builder, Clock, Engine, Grounds, Harness, Progress, Sampler, Sandbox, Store, Trainer
from fleetssd.problems import Problem
from fleetssd.recipe import NightPlan
from fleetssd.scoring import pass_at_k, tally
from fleetssd.surroundings import UNWALLED

log = structlog.get_logger()

TUNE_SAMPLES = 4
"""Samples an issue when a temperature is chosen: enough to rank a grid whose members lie 5 to 30 pp apart."""
PROBE_PROBLEMS = 60
"""Issues on which a baked candidate is asked again at the base's effective temperature."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a night works with: the ports, the run folder's root and where progress is shown.

    `page` renders a night's report; without it a night leaves its numbers and Markdown only. `guards` are the guard
    sets by name, `harness` asks benchmark tasks that are none of ours. `find_origins` looks, before a plan is frozen,
    for whose work the records hold.
    """

    settings: Settings
    store: Store
    engine: Engine
    sampler: Callable[[Path], AbstractContextManager[Sampler]]
    sandbox: Callable[[], AbstractContextManager[Sandbox]]
    grounds: Grounds
    trainer: Trainer
    builder: Builder
    clock: Clock
    folder: Path
    progress: Progress
    read_folders: ReadFolders
    page: Page | None = None
    guards: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    harness: Harness | None = None
    find_origins: Callable[[], int] = lambda: 0

    @property
    def base(self) -> learn.Base:
        """The base's files, where settings name them, else in the data folder."""
        return learn.Base.named(self.settings)


def tonight(shop: Workshop) -> Night:
    """Return the night that is still running, or freeze a new one."""
    running = [night for night in shop.store.nights() if night.state == "running"]
    if running:
        return running[0]
    refuse_callers(shop.settings, shop.read_folders)
    admitted = verifier(shop).verify()
    if admitted:
        log.info("held_out_verified", **Counter(admission.code for admission in admitted))
    shop.find_origins()
    return freeze(shop.settings, shop.store, shop.engine, shop.clock.now())


def verifier(shop: Workshop) -> Verifier:
    """Return what verifies the held-out records: before a plan is frozen, since only what was verified judges."""
    return Verifier(shop.settings, shop.store, shop.grounds, shop.sandbox, shop.clock.now, shop.progress)


def run_night(shop: Workshop, night: Night) -> Night:
    """Run the stages that are still open and return the decided night."""
    plan = NightPlan.from_json(night.plan)
    steps: dict[Stage, Callable[[], dict[str, Any]]] = {
        "sample": lambda: _sample(shop, plan),
        "train": lambda: _train(shop, plan),
        "build": lambda: _build(shop, plan),
        "install": lambda: _install(shop, plan),
        "evaluate": lambda: _evaluate(shop, plan),
    }
    done = {row.stage for row in night.stages}
    if shop.settings.evaluation.sandbox == "none":
        log.warning("no_sandbox", night=plan.night, warning=UNWALLED, hint="Set evaluation.sandbox to bubblewrap.")
    for stage in STAGES:
        if stage in steps and stage not in done:
            started = shop.clock.now()
            log.info("stage_started", night=plan.night, stage=stage)
            result = steps[stage]()
            shop.store.finish_stage(StageRow(plan.night, stage, result, started, shop.clock.now()))
    if "decide" not in done:
        _decide(shop, plan)
    return _reload(shop, plan.night)


def _sample(shop: Workshop, plan: NightPlan) -> dict[str, Any]:
    learn.same_base(plan, shop.base)  # before hours are spent on another model's samples
    with shop.sandbox() as sandbox:
        ahead = outlook.look_ahead(plan, shop.settings, _examiner(shop, plan, sandbox), _problems(shop, plan.tune))
    log.info("precondition", night=plan.night, advice=ahead["precondition"]["advice"],
             reason=ahead["precondition"]["reason"], power=ahead["precondition"]["power"]["sentence"])  # fmt: skip
    if plan.arm == "merged":
        return {"samples": 0, "engine": "none: merged solutions are the rows", **ahead}
    with shop.sampler(shop.base.gguf) as sampler:
        return {**learn.sample(plan, shop.store, sampler, shop.progress), **ahead}


def _train(shop: Workshop, plan: NightPlan) -> dict[str, Any]:
    recipe = shop.settings.recipe
    wanted = learn.Wanted(recipe.backend, recipe.device, recipe.qlora, recipe.threads, recipe.mix, recipe.mix_ratio)
    return learn.train(plan, shop.store, shop.trainer, shop.base, _folder(shop, plan), wanted, shop.progress)


def _build(shop: Workshop, plan: NightPlan) -> dict[str, Any]:
    """Choose the temperature on the tune slice, then build; with `decode.manage = "bake"` it goes into the weights."""
    best = _tune(shop, plan)
    tau = best / plan.decode.temperature if plan.manage == "bake" else 1.0
    road = choose_road(plan.road, known(shop.store, shop.engine, shop.settings.engine, shop.clock.now()))
    kind = shop.settings.base.adapter_type
    result = learn.build(plan, shop.builder, shop.base, _folder(shop, plan), tau, road, kind)
    return {**result, "tuned_temperature": best}


def _tune(shop: Workshop, plan: NightPlan) -> float:
    """Return the base's best temperature of the grid, measured on issues that the gate never judges.

    The production temperature stands for election too, by what was asked before the night: a tuned base below the
    base would sell as skill what is none. But where a temperature is to be baked in, the grid says which.
    """
    model = shop.settings.engine.base_model
    grid = [(t, Arm(tuning(t), model, pinned(plan.decode, t), TUNE_SAMPLES)) for t in plan.tau_grid]
    with shop.sandbox() as sandbox:
        _examiner(shop, plan, sandbox).examine([arm for _, arm in grid], _problems(shop, plan.tune))

    def score(arm: str) -> float:
        # A fault says nothing of a temperature; counted as failed, it would make the tuned base easier to beat.
        rows = [(a.problem, a.passed, a.fault) for a in shop.store.answers(plan.night, arm) if not a.fault]
        return float(pass_at_k(tally(rows, voids_pass=False), 1).mean()) if rows else -1.0

    named = {arm.name: temperature for temperature, arm in grid}
    if plan.manage != "bake":
        named[outlook.BEFORE] = plan.decode.temperature
    return named[max(named, key=score)]


def _install(shop: Workshop, plan: NightPlan) -> dict[str, Any]:
    built = _result(shop, plan, "build")
    try:
        installed = install(
            shop.engine,
            plan=plan,
            base_model=shop.settings.engine.base_model,
            alias=shop.settings.engine.alias,
            folder=_folder(shop, plan) / "artefact",
            files=built["files"],
            road=built["road"],
            tau=built["tau"],
            prompts=[problem.prompt for problem in _problems(shop, plan.tune)[:8]],
            witnesses=_witnesses(_folder(shop, plan) / "train" / "smoke.json"),
            now=shop.clock.now(),
        )
    except (Rejected, Corrupt):
        shop.store.forget_capabilities(shop.settings.engine.url)  # what it was seen to do may hold no more
        raise
    checkpoint, fidelity = installed.checkpoint, installed.fidelity
    shop.store.put_checkpoint(checkpoint)
    return {
        "digest": checkpoint.digest,
        "model": checkpoint.model,
        "served_digest": checkpoint.served_digest,
        "fidelity": asdict(fidelity) if fidelity else None,
    }


def _witnesses(path: Path) -> tuple[Witness, ...]:
    """Read what the trainer left of its model; a trainer that is not ours may have left nothing."""
    try:
        return read_witnesses(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ()
    except ValueError as error:
        raise Corrupt(f"{path} is not JSON: {error}", hint="Remove the night's folder and run it again.") from None


def _evaluate(shop: Workshop, plan: NightPlan) -> dict[str, Any]:
    """Ask all arms, then prove that every name asked still serves what the plan and the build say."""
    candidate = _checkpoint(shop, plan)
    with shop.sandbox() as sandbox:
        examiner = _examiner(shop, plan, sandbox)
        design = outlook.design_of(_result(shop, plan, "sample"))
        stop = outlook.stopper(plan, shop.store, shop.settings.gate, design) if design else None
        examined = examiner.examine(_arms(shop, plan, candidate), _problems(shop, plan.held_out), stop)
        if candidate.tau != 1.0:
            same = pinned(plan.decode, plan.decode.temperature / candidate.tau)
            examiner.examine([Arm(PROBED, candidate.model, same, plan.k)], examined.problems[:PROBE_PROBLEMS])
        beside = _beside(shop, plan, candidate, examiner, examined.problems)
    if changed := _changed(shop, plan, candidate):
        raise Corrupt(f"{changed} changed while it was evaluated", hint="Nothing but fleetssd may write these names.")
    stopped = {"problems": len(examined.problems), "of": len(plan.held_out), "decision": examined.decision}
    answers = len(shop.store.answers(plan.night))
    engine = f"{shop.settings.engine.kind} {shop.engine.version()}"
    return {"artefact": candidate.digest, "engine": engine, "answers": answers, "stopped": stopped, **beside}


def _changed(shop: Workshop, plan: NightPlan, candidate: Checkpoint) -> str:
    """Return the names that serve something else by now than was to be asked: a gain over another base is none."""
    base, points = shop.settings.engine.base_model, [candidate]
    if plan.incumbent != plan.base and (incumbent := shop.store.checkpoint(plan.incumbent)):
        points.append(incumbent)
    found = [point.model for point in points if shop.engine.digest_of(point.model) != point.served_digest]
    if shop.engine.digest_of(base) is None or shop.engine.blob_of(base) != plan.base or shop.engine.adapter_of(base):
        found.append(base)
    return ", ".join(found)


def _beside(
    shop: Workshop, plan: NightPlan, candidate: Checkpoint, examiner: Examiner, problems: Sequence[Problem]
) -> dict[str, Any]:
    """Ask what is not the fleet's own work: the guard sets, the harness, and how sure either model is of its tokens."""
    base = shop.settings.engine.base_model
    return {
        "guards": ask_guards(examiner, plan, shop.settings, candidate, shop.guards),
        "reference": ask_references(examiner, plan, base, candidate, _problems(shop, plan.references)),
        "entropy": read_entropy(shop.engine, plan, base, candidate, problems),
        "lm_eval": ask_harness(shop.harness, base, candidate, _folder(shop, plan) / "lm_eval"),
    }


def _arms(shop: Workshop, plan: NightPlan, candidate: Checkpoint) -> Sequence[Arm]:
    base, k = shop.settings.engine.base_model, plan.samples
    tuned = _result(shop, plan, "build")["tuned_temperature"]
    arms = [
        Arm(BASE, base, plan.decode, k),
        Arm(TUNED, base, pinned(plan.decode, tuned), k),
        Arm(CANDIDATE, candidate.model, plan.decode, k),
    ]
    if plan.incumbent != plan.base:
        arms.append(Arm(INCUMBENT, plan.incumbent_model, plan.decode, k))
    if plan.teacher:
        arms.append(Arm(TEACHER, base, plan.teacher_decode, k))
    return arms


def _decide(shop: Workshop, plan: NightPlan) -> None:
    started = shop.clock.now()
    candidate = _checkpoint(shop, plan)
    verdict = judge.judge(plan, shop.store, shop.settings, candidate.digest, candidate.tau, shop.clock.now())
    if plan.challenger:
        _challenge(shop, plan, promoted=verdict.kind == "promote")
    shop.store.decide(verdict, plan.train, started)
    log.info("night_decided", night=plan.night, verdict=verdict.kind, artefact=verdict.artefact, reason=verdict.reason)
    _report(shop, plan.night)


def _challenge(shop: Workshop, plan: NightPlan, *, promoted: bool) -> None:
    """Let the challenger have its round before the night closes; once its row is written it is not asked again."""
    if any(row.stage == "challenge" for row in _reload(shop, plan.night).stages):
        return
    with shop.sandbox() as sandbox:
        challenge(
            plan,
            _examiner(shop, plan, sandbox),
            shop.settings,
            partial(_problems, shop),
            promoted=promoted,
            started=shop.clock.now(),
            now=shop.clock.now,
        )


def _report(shop: Workshop, number: int) -> None:
    """Leave the night's report in its folder; the night is decided, and no report may undo that."""
    try:
        told = read_night(shop.store, number, shop.settings.prices)
        written = publish(told, shop.folder / f"{number:04d}", shop.page)
    except Exception as error:  # noqa: BLE001  a full disk or a missing font is no reason to fail a decided night
        log.warning("report_failed", night=number, error=f"{type(error).__name__}: {error}",
                    hint=f"`fleetssd nights report {number}` writes it again.")  # fmt: skip
    else:
        log.info("report_written", night=number, files=[str(path) for path in written])


def _checkpoint(shop: Workshop, plan: NightPlan) -> Checkpoint:
    digest = _result(shop, plan, "install")["digest"]
    checkpoint = shop.store.checkpoint(digest)
    if checkpoint is None:
        raise Corrupt(f"checkpoint {digest[:12]} is not on file", hint="Restore the database from a backup.")
    return checkpoint


def _examiner(shop: Workshop, plan: NightPlan, sandbox: Sandbox) -> Examiner:
    seed = int.from_bytes(hashlib.sha256(f"{shop.settings.evaluation.seed}:{plan.seed}".encode()).digest()[:4])
    return Examiner(plan.night, seed, shop.store, shop.engine, sandbox, shop.progress)


def _problems(shop: Workshop, ids: Sequence[str]) -> list[Problem]:
    """Pose what the plan names. A ground that was lost since is made again; where that fails, the night waits."""
    try:
        return [pose(record, shop.settings, shop.grounds) for record in shop.store.records_by_id(ids)]
    except NotAdmittedError as error:
        if error.code not in AGAIN:
            raise
        raise Transient(error.message, hint=error.hint) from None


def _folder(shop: Workshop, plan: NightPlan) -> Path:
    return shop.folder / f"{plan.night:04d}"


def _result(shop: Workshop, plan: NightPlan, stage: Stage) -> dict[str, Any]:
    return next(row.result for row in _reload(shop, plan.night).stages if row.stage == stage)


def _reload(shop: Workshop, number: int) -> Night:
    night = shop.store.night(number)
    if night is None:
        raise Corrupt(f"night {number} is not on file", hint="Restore the database from a backup.")
    return night
