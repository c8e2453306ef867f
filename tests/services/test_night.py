"""A night over fakes: which stages run, what is dropped, where a temperature goes, what is held against a candidate."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fleetssd import budget
from fleetssd.audit import Reading, Skipped, Source
from fleetssd.checkpoints import STAGES, Checkpoint, Night, StageRow, VerdictRow
from fleetssd.config import parse
from fleetssd.errors import Corrupt, Misconfigured, Rejected
from fleetssd.gitea import PullKey
from fleetssd.operations.audit import ReadFolders, refuse_callers
from fleetssd.operations.evaluate import BASE, CANDIDATE, INCUMBENT, PROBED, TUNED
from fleetssd.operations.learn import CHUNK
from fleetssd.operations.night import Workshop, run_night, tonight
from fleetssd.operations.publish import read_night
from fleetssd.operations.report import read_report
from fleetssd.ports import Completion, Prompt
from fleetssd.records import Record
from fleetssd.surroundings import UNWALLED
from tests.fakes import (
    FakeBuilder,
    FakeClock,
    FakeEngine,
    FakeGrounds,
    FakeSampler,
    FakeSandbox,
    FakeTrainer,
    Killed,
    MemoryStore,
)

START = datetime(2026, 12, 1, 2, tzinfo=UTC)
BASE_NAME, ALIAS = "fleet-base:latest", "fleet-coder:latest"
GGUF = b"the base's own file"
TRAINED, JUDGED = 6, 40


@dataclass
class Scene:
    """The fakes of a night and its folder."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    engine: FakeEngine = field(default_factory=FakeEngine)
    sampler: FakeSampler = field(default_factory=FakeSampler)
    sandbox: FakeSandbox = field(default_factory=FakeSandbox)
    trainer: FakeTrainer = field(default_factory=FakeTrainer)
    builder: FakeBuilder = field(default_factory=FakeBuilder)
    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    read: ReadFolders = field(default=lambda _folders: Reading(()))

    def shop(self, **tables: dict[str, Any]) -> Workshop:
        """Return a workshop of these fakes, with changed settings."""
        data = self.folder / "data"
        table: dict[str, Any] = {
            "data_dir": data,
            "forge": {"url": "http://forge", "token_file": data / "token"},
            "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
            "engine": {"base_model": BASE_NAME, "alias": ALIAS},
            "evaluation": {"samples": 2, "k": 2},
        }
        for name, changes in tables.items():
            table[name] = {**table.get(name, {}), **changes}
        return Workshop(
            settings=parse(table),
            store=self.store,
            engine=self.engine,
            sampler=lambda _gguf: self.sampler,
            sandbox=lambda: nullcontext(self.sandbox),
            grounds=FakeGrounds(),
            trainer=self.trainer,
            builder=self.builder,
            clock=self.clock,
            folder=data / "nights",
            progress=lambda *_: None,
            read_folders=self.read,
        )

    def run(self, **tables: dict[str, Any]) -> Night:
        """Run tonight to its end."""
        shop = self.shop(**tables)
        return run_night(shop, tonight(shop))

    def result(self, stage: str, number: int = 1) -> dict[str, Any]:
        """Return what a stage left on file."""
        night = self.store.night(number)
        assert night is not None
        return next(row.result for row in night.stages if row.stage == stage)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Return a fleet whose base is half right and whose candidates are always right."""
    scene = Scene(tmp_path)
    base = tmp_path / "data" / "base"
    (base / "hf").mkdir(parents=True)
    (base / "hf" / "model.safetensors").write_bytes(b"weights")
    (base / "base.gguf").write_bytes(GGUF)
    digest = hashlib.sha256(GGUF).hexdigest()
    scene.engine.models[BASE_NAME] = scene.engine.models[ALIAS] = ("served-base", digest, None)
    scene.engine.answer = answer
    for number in range(TRAINED + JUDGED):
        found = record(number, "train" if number < TRAINED else "held_out")
        scene.store.put_pulls([(PullKey("http://forge", 1, number), "t", found)], START)
        scene.store.settle([found], START)
    return scene


def record(number: int, state: Any) -> Record:
    """Return a record with a prompt and an issue of its own."""
    return Record(
        id=f"r{number:03d}", instance="http://forge", repository_id=1, repository="fleet/app", pull=number, state=state,
        reasons=(), author="agent-a", merger="ann", base_commit="a", head_commit="b", merge_commit="c",
        issues=(f"fleet/app#{number + 500}",), title="t", prompt=f"Do {number}.", solution=f"right {number}\n",
        solution_path="app.py", tests=(("test_app.py", "import app"),), labels=("plain",), diff_sha256="d",
        changed_paths=("app.py",), merged_at=START,
    )  # fmt: skip


def answer(model: str, prompt: Prompt) -> Completion:
    """Answer as this model does: the base is right for even seeds, and no answer equals another."""
    word = "wrong" if model == BASE_NAME and prompt.seed % 2 else "right"
    return Completion(f"{word:5} {prompt.seed:010d} {model == BASE_NAME:d} {prompt.seed * 7:011d}", "stop", 5)


def always_right(model: str, prompt: Prompt) -> Completion:
    """Answer right whoever is asked; the base still answers otherwise than a candidate."""
    return Completion(f"right {model == BASE_NAME:d} {prompt.text} {prompt.seed:010d}", "stop", 5)


def test_a_better_candidate_is_promoted_and_its_records_are_used(scene: Scene) -> None:
    """The night runs every stage once; the verdict is bound to the built artefact; the records are used by it alone."""
    night = scene.run()
    assert night.state == "done"
    assert [row.stage for row in night.stages] == list(STAGES)
    assert night.verdict is not None
    assert (night.verdict.kind, night.verdict.artefact) == ("promote", scene.result("build")["files"]["adapter"])
    assert scene.store.used_records() == {f"r{number:03d}": 1 for number in range(TRAINED)}


def test_a_night_without_a_sandbox_warns_and_says_so_in_its_plan(scene: Scene) -> None:
    """Kind none is logged as a warning every night, stands in the plan, and opens the report's notes."""
    bare = {"sandbox": "none", "allow_no_sandbox": True}
    with capture_logs() as logs:
        night = scene.run(evaluation=bare)
    warned = [line for line in logs if line["event"] == "no_sandbox"]
    assert [(line["log_level"], line["night"], line["warning"]) for line in warned] == [("warning", 1, UNWALLED)]
    assert night.plan["sandbox"] == "none"
    assert read_night(scene.store, 1).notes[0] == UNWALLED
    assert read_report(scene.shop(evaluation=bare).settings, scene.store, START).status.warnings == (UNWALLED,)


def test_the_alias_is_never_asked_and_never_moved(scene: Scene) -> None:
    """A night decides about a candidate; what the fleet is served is none of its business."""
    before = scene.engine.models[ALIAS]
    scene.run()
    assert scene.engine.models[ALIAS] == before
    assert not [call for call in scene.engine.calls if ALIAS in call or call.startswith("point")]


@pytest.mark.parametrize("last", STAGES[1:])
def test_a_stage_that_is_done_is_not_run_again(scene: Scene, last: str) -> None:
    """Killed when a stage's row is about to be written, the night runs that stage again and no earlier one."""
    calm = Scene(scene.folder / "calm")
    _same(scene, calm)
    whole = calm.run()
    scene.store = _Dying(scene.store, last)
    with pytest.raises(Killed):
        scene.run()
    before = [row.stage for row in scene.store.nights()[0].stages]
    assert before == list(STAGES[: STAGES.index(last)])
    scene.store = MemoryStore(**{name: getattr(scene.store, name) for name in MemoryStore.__dataclass_fields__})
    night = scene.run()
    assert [row.stage for row in night.stages] == list(STAGES)
    assert night.verdict is not None
    assert whole.verdict is not None
    assert (night.verdict.kind, night.verdict.artefact) == (whole.verdict.kind, whole.verdict.artefact)
    assert scene.store.answers(1) == calm.store.answers(1)
    assert scene.store.samples(1) == calm.store.samples(1)
    assert len(scene.sampler.drawn) == TRAINED
    assert len(scene.trainer.plans) == 1 + (last == "train")
    assert len(scene.builder.built) == 1 + (last == "build")


def test_answers_that_are_on_file_are_not_asked_again(scene: Scene) -> None:
    """Killed between two blocks of answers, the night asks only for what is missing."""
    asked: list[str] = []

    def die_late(call: str) -> None:
        asked.extend([call] if call.startswith("complete fleet-coder:v") else [])
        if len(asked) < 2 or not call.startswith("complete fleet-coder:v"):
            return
        end = time.monotonic() + 2  # answers are asked ahead of those that are graded and kept
        while not scene.store.answers(1, CANDIDATE) and time.monotonic() < end:
            time.sleep(0.01)
        if scene.store.answers(1, CANDIDATE):
            raise Killed

    scene.engine.before = die_late
    with pytest.raises(Killed):
        scene.run()
    have = {(a.arm, a.problem, a.index) for a in scene.store.answers(1)}
    assert have
    scene.engine.before = lambda _call: None
    seen: list[tuple[str, str]] = []

    def note(model: str, prompt: Prompt) -> Completion:
        seen.append((model, prompt.text))
        return answer(model, prompt)

    scene.engine.answer = note
    scene.run()
    all_ = {(a.arm, a.problem, a.index) for a in scene.store.answers(1)}
    assert have < all_
    assert len(seen) == len(all_ - have)


def test_rows_are_dropped_by_reason_and_counted(scene: Scene) -> None:
    """Empty answers, one-line stubs, answers that hit the limit and failed ones teach nothing; the rest do, raw."""
    texts = {
        "Do 0.": Completion("  \n", "stop", 1),
        "Do 1.": Completion("pass", "stop", 1),
        "Do 2.": Completion("a\nb", "length", 9),
        "Do 3.": Completion("", "error", 0),
    }
    scene.sampler.answer = lambda prompt: texts.get(prompt.text, Completion(" raw\n answer \n", "stop", 3))
    scene.run()
    result = scene.result("train")
    assert result["dropped"] == {"empty": 2, "stub": 1, "length_capped": 1}
    assert result["rows"] == 2
    assert [(row.prompt, row.completion) for row in scene.trainer.rows] == [
        ("Do 4.", " raw\n answer \n"),
        ("Do 5.", " raw\n answer \n"),
    ]


def test_without_a_usable_row_the_night_is_refused(scene: Scene) -> None:
    """Nothing is trained, and the hint says what was dropped."""
    scene.sampler.answer = lambda _prompt: Completion("x\ny", "length", 9)
    with pytest.raises(Rejected, match="no sample is usable") as refused:
        scene.run()
    assert "length_capped" in refused.value.hint
    assert scene.trainer.plans == []


def test_the_merged_arm_draws_nothing_and_learns_the_merged_work(scene: Scene) -> None:
    """Its rows are the records' own solutions, as they were merged."""
    scene.run(recipe={"arm": "merged"})
    assert scene.sampler.drawn == []
    assert {row.completion for row in scene.trainer.rows} == {f"right {number}\n" for number in range(TRAINED)}


def test_samples_are_kept_in_chunks(scene: Scene) -> None:
    """Killed while the second chunk is drawn, the night keeps the first and draws each of the rest once."""
    for number in range(1000, 1000 + CHUNK):
        scene.store.put_pulls([(PullKey("http://forge", 1, number), "t", record(number, "train"))], START)
        scene.store.settle([record(number, "train")], START)
    total = TRAINED + CHUNK

    def die(prompt: Prompt) -> Completion:
        if len(scene.store.drawn) and len(scene.sampler.drawn) == total:
            raise Killed
        return Completion(f"{prompt.text}\nright\n", "stop", 2)

    scene.sampler.answer = die
    with pytest.raises(Killed):
        scene.run()
    assert len(scene.store.samples(1)) == CHUNK
    scene.sampler = FakeSampler()
    scene.run()
    assert len(scene.sampler.drawn) == total - CHUNK
    assert len(scene.store.samples(1)) == total


@pytest.mark.parametrize("kind", ["ollama", "llama-server", "vllm"])
def test_a_night_speaks_of_the_engine_that_is_configured(scene: Scene, kind: str) -> None:
    """What a person is to do about a missing alias, or about another file, is said in that engine's words."""
    more = {} if kind == "ollama" else {"adapters_dir": "adapters"}
    (scene.folder / "data" / "base" / "base.gguf").write_bytes(b"another")
    hints = []
    for _ in range(2):
        with pytest.raises(Misconfigured) as caught:
            scene.run(engine={"kind": kind, **more})
        hints.append(caught.value.hint)
        scene.engine.models.pop(ALIAS, None)
        scene.store = MemoryStore()
    assert "[base] gguf" in hints[0]
    assert all(kind in hint.lower() for hint in hints)


def test_a_refused_install_has_the_engine_tried_again(scene: Scene) -> None:
    """Where a candidate is not what was trained, what the engine was seen to do is forgotten with it."""
    scene.engine.answer = lambda _model, prompt: Completion(f"right {prompt.text} {prompt.seed}", "stop", 5)
    with pytest.raises(Rejected, match="no effect"):
        scene.run()
    assert scene.engine.calls.count("probe") == 1
    assert scene.store.capability("http://127.0.0.1:11434", scene.engine.version(), "served-base") is None


def test_the_adapter_is_written_in_the_type_that_settings_name(scene: Scene) -> None:
    """`[base] adapter_type` reaches the builder, and the night notes it for a replay."""
    scene.run(base={"adapter_type": "F32"})
    assert scene.builder.built == [("adapter F32", 1.0)]
    assert scene.result("build")["adapter_type"] == "F32"


@pytest.mark.parametrize(
    ("manage", "road", "built"),
    [
        ("none", "adapter-registry", [("adapter F16", 1.0)]),
        ("none", "merged-create", [("adapter F16", 1.0), ("merged", 1.0)]),
        ("bake", "adapter-registry", [("adapter F16", 1.0), ("baked", 0.4)]),
        ("bake", "merged-create", [("adapter F16", 1.0), ("merged", 0.4)]),
    ],
)
def test_a_temperature_is_baked_in_only_where_that_is_asked_for(
    scene: Scene, manage: str, road: str, built: list[tuple[str, float]]
) -> None:
    """With `bake` the tuned temperature over the production's goes into the file that is served, and nowhere else."""
    scene.run(decode={"manage": manage, "tau_grid": [0.4]}, engine={"road": road})
    assert scene.builder.built == built
    point = next(point for point in scene.store.checkpoints() if point.night == 1)
    assert point.tau == built[-1][1]
    assert bool(scene.store.answers(1, PROBED)) == (manage == "bake")


def test_probes_compare_at_one_effective_temperature(scene: Scene) -> None:
    """A candidate with τ baked in is asked again at T/τ, and that is what the gate holds against the base's answers."""
    complete = scene.engine.complete

    def spied(model: str, prompts: Any, sampling: Any, progress: Any) -> list[Completion]:
        done = complete(model, prompts, sampling, progress)
        return [replace(each, text=f"{each.text} again") for each in done] if sampling.temperature == 2.5 else done

    scene.engine.complete = spied  # type: ignore[method-assign]
    verdict = scene.run(decode={"manage": "bake", "tau_grid": [0.4]}, engine={"road": "merged-create"}).verdict
    assert verdict is not None
    probed = scene.store.answers(1, PROBED)
    assert probed
    assert all(row.completion.endswith(" again") for row in probed)
    base, candidate = verdict.evidence["base_probes"], verdict.evidence["candidate_probes"]
    assert base["completions"] == candidate["completions"] == len(probed)
    assert candidate["length_median"] == base["length_median"] + len(" again")


def test_the_best_temperature_is_chosen_on_issues_that_the_gate_never_sees(scene: Scene) -> None:
    """The grid is asked the tune slice alone, and the temperature with most right answers wins."""
    temperatures: list[float] = []
    complete = scene.engine.complete

    def spied(model: str, prompts: Any, sampling: Any, progress: Any) -> list[Completion]:
        temperatures.append(sampling.temperature)
        done = complete(model, prompts, sampling, progress)
        return (
            [Completion(f"right {n}", "stop", 1) for n, _ in enumerate(done)] if sampling.temperature == 0.7 else done
        )

    scene.engine.complete = spied  # type: ignore[method-assign]
    scene.run(decode={"tau_grid": [0.2, 0.7, 0.9]})
    assert scene.result("build")["tuned_temperature"] == 0.7
    assert {0.2, 0.7, 0.9, 1.0} <= set(temperatures)
    tuned = {a.problem for a in scene.store.answers(1) if a.arm.startswith("tune ")}
    judged = {a.problem for a in scene.store.answers(1) if a.arm in (BASE, TUNED, CANDIDATE)}
    plan = scene.store.nights()[0].plan
    assert tuned == set(plan["tune"])
    assert judged == set(plan["held_out"])
    assert not tuned & judged


def test_faults_elect_no_temperature(scene: Scene) -> None:
    """The engine fails on most answers at the best temperature: what it did answer elects it, and the report agrees."""
    complete = scene.engine.complete

    def spied(model: str, prompts: Any, sampling: Any, progress: Any) -> list[Completion]:
        done = complete(model, prompts, sampling, progress)
        if sampling.temperature == 0.9:
            return [Completion("", "error", 0) for _ in done]
        if sampling.temperature != 0.7:
            return done
        return [
            Completion("", "error", 0) if n % 4 else Completion(f"right {n}", "stop", 1) for n, _ in enumerate(done)
        ]

    scene.engine.complete = spied  # type: ignore[method-assign]
    scene.run(decode={"tau_grid": [0.2, 0.7, 0.9]})
    assert scene.result("build")["tuned_temperature"] == 0.7
    shown = {row["temperature"]: row["pass_1"]["point"] for row in read_night(scene.store, 1).by_temperature}
    assert shown[0.7] == 1.0
    assert 0.9 not in shown


def test_the_production_temperature_stands_for_election_too(scene: Scene) -> None:
    """Where no temperature of the grid is as good, the tuned base is the base as it is, and the report shows both."""
    complete = scene.engine.complete

    def spied(model: str, prompts: Any, sampling: Any, progress: Any) -> list[Completion]:
        done = complete(model, prompts, sampling, progress)
        cool = sampling.temperature in (0.2, 0.7)
        return [Completion(f"wrong {n}", "stop", 1) for n, _ in enumerate(done)] if cool else done

    scene.engine.complete = spied  # type: ignore[method-assign]
    verdict = scene.run(decode={"tau_grid": [0.2, 0.7]}, evaluation={"teacher_decode": False}).verdict
    assert verdict is not None
    assert verdict.evidence["tuned_temperature"] == 1.0
    assert verdict.evidence["splits"][0]["decoding"]["point"] == 0.0
    grid = read_night(scene.store, 1).by_temperature
    assert [(point["temperature"], point["chosen"]) for point in grid] == [(0.2, False), (0.7, False), (1.0, True)]


@pytest.mark.parametrize("change", ["issue", "prompt"])
def test_what_leaked_into_training_makes_the_night_invalid(scene: Scene, change: str) -> None:
    """A held-out record that shares an issue, or its prompt but for case and spaces, with a trained one voids it."""
    plan = tonight(scene.shop()).plan
    leaked = scene.store.by_id[plan["held_out"][0]]
    issues = ("fleet/app#500",) if change == "issue" else leaked.issues
    prompt = "do   0." if change == "prompt" else leaked.prompt
    scene.store.by_id[leaked.id] = replace(leaked, issues=issues, prompt=prompt)
    verdict = scene.run().verdict
    assert verdict is not None
    assert verdict.kind == "invalid"
    assert verdict.evidence["overlap"] == 1
    assert "overlap" in verdict.reason


def test_voids_count_against_the_candidate_alone(scene: Scene) -> None:
    """Where the sandbox fails on every fifth answer, the candidate's count as wrong and the incumbent's as right."""
    run = scene.sandbox.run

    def flaky(jobs: Any, progress: Any) -> Any:
        return [
            replace(grade, passed=False, fault=True) if number % 5 == 0 else grade
            for number, grade in enumerate(run(jobs, progress))
        ]

    shop = scene.shop(gate={"max_void_share": 0.9})
    night = tonight(shop)  # the problems were verified while it was well
    scene.sandbox.run = flaky  # type: ignore[method-assign]
    scene.engine.answer = always_right
    verdict = run_night(shop, night).verdict
    assert verdict is not None
    arms = {arm["name"]: arm["pass_1"]["point"] for arm in verdict.evidence["arms"]}
    assert arms["base"] == arms["incumbent"] == arms["tuned base"] == 1.0
    assert arms["candidate"] == pytest.approx(1.0 - verdict.evidence["void_share"])
    assert verdict.evidence["void_share"] > 0.1
    assert verdict.kind != "promote"


def test_too_many_voids_make_the_night_invalid(scene: Scene) -> None:
    """A sandbox that fails on everything proves nothing about anybody."""
    shop = scene.shop()
    night = tonight(shop)  # the problems were verified while it was well
    scene.sandbox.faulty = True
    verdict = run_night(shop, night).verdict
    assert verdict is not None
    assert verdict.kind == "invalid"
    assert "sandbox faults" in verdict.reason


def test_faults_of_other_arms_are_no_harm_done_by_the_candidate(scene: Scene) -> None:
    """They count as passed, so a candidate that is right half of the time would seem to lose: the night is invalid."""
    shop, half = scene.shop(), scene.engine.answer
    night = tonight(shop)
    judging = {record.prompt for record in scene.store.records_by_id(night.plan["held_out"])}

    def failing(model: str, prompt: Prompt) -> Completion:
        if model == BASE_NAME and prompt.text in judging:
            return Completion("", "error", 0)
        told = half(BASE_NAME, prompt)
        return told if model == BASE_NAME else replace(told, text=f"{told.text} candidate")

    scene.engine.answer = failing
    verdict = run_night(shop, night).verdict
    assert verdict is not None
    assert verdict.evidence["lift"]["high"] < 0.0
    assert verdict.kind == "invalid"
    assert "of the runs that it is compared with" in verdict.reason


def test_a_served_incumbent_is_asked_too(scene: Scene) -> None:
    """After a flip the next night trains from the base again and judges against what is served."""
    point = served(scene)
    second = scene.run()
    assert (second.number, second.plan["incumbent"], second.plan["base"]) == (
        2, point.digest, hashlib.sha256(GGUF).hexdigest(),
    )  # fmt: skip
    assert {a.arm for a in scene.store.answers(2)} >= {BASE, TUNED, INCUMBENT, CANDIDATE}
    assert {plan.base_digest for plan in scene.trainer.plans} == {scene.trainer.plans[0].base_digest}
    assert second.verdict is not None
    assert second.verdict.kind == "keep"


def served(scene: Scene) -> Checkpoint:
    """Run a night and flip to its candidate; the next night's candidate will be another. Return what serves."""
    first = scene.run().verdict
    assert isinstance(first, VerdictRow)
    point = scene.store.checkpoint(first.artefact)
    assert point is not None
    swap = scene.store.begin_swap(_flip(scene, point.digest, point.model), START)
    scene.store.finish_swap(swap.id, START, {})
    scene.clock.moment = START.replace(day=2)
    scene.engine.answer = always_right
    scene.sampler.answer = lambda prompt: Completion(f"{prompt.text}\nbetter\n", "stop", 2)
    return point


def test_an_incumbent_that_changes_while_it_is_asked_is_corrupt(scene: Scene) -> None:
    """What serves was evaluated under its name: a gain over something else is none over it."""
    point = served(scene)

    def meddle(call: str) -> None:
        if call == f"complete {point.model}":
            scene.engine.models[point.model] = ("something else", "blob", None)

    scene.engine.before = meddle
    with pytest.raises(Corrupt, match=f"{point.model} changed while it was evaluated"):
        scene.run()


def test_a_name_that_changes_while_it_is_asked_is_corrupt(scene: Scene) -> None:
    """What was evaluated must be what was installed, or the answers say nothing."""

    def meddle(call: str) -> None:
        name = call.removeprefix("complete ")
        if name in {checkpoint.model for checkpoint in scene.store.checkpoints()}:  # it is installed and proven
            scene.engine.models[name] = ("something else", "blob", None)

    scene.engine.before = meddle
    with pytest.raises(Corrupt, match="changed while it was evaluated"):
        scene.run()


@pytest.mark.parametrize("now", [("manifest", "another", None), ("manifest", "", "adapter"), None])
def test_a_base_that_changes_while_it_is_asked_is_corrupt(
    scene: Scene, now: tuple[str, str, str | None] | None
) -> None:
    """Replaced, given an adapter or removed: what the candidate gains over another model is no gain."""

    def meddle(call: str) -> None:
        if call != f"complete {BASE_NAME}" and call.startswith("complete") and BASE_NAME in scene.engine.models:
            _, blob, _ = scene.engine.models.pop(BASE_NAME)
            if now:
                scene.engine.models[BASE_NAME] = (now[0], now[1] or blob, now[2])

    scene.engine.before = meddle
    with pytest.raises(Corrupt, match=f"{BASE_NAME} changed while it was evaluated"):
        scene.run()


@pytest.mark.parametrize("arm", ["ssd", "merged"])
def test_another_bases_file_is_refused_before_anything_is_drawn(scene: Scene, arm: str) -> None:
    """Samples of another model would be trained on for hours before the build found out."""
    (scene.folder / "data" / "base" / "base.gguf").write_bytes(b"another file")
    with pytest.raises(Misconfigured, match="not the base that the engine serves"):
        scene.run(recipe={"arm": arm})
    assert scene.sampler.drawn == []
    assert scene.trainer.plans == []


def test_an_open_night_goes_on_with_its_own_plan(scene: Scene) -> None:
    """Settings that change after the freeze are tomorrow's: tonight's plan is frozen."""
    plan = tonight(scene.shop()).plan
    scene.store.put_pulls([(PullKey("http://forge", 1, 900), "t", record(900, "train"))], START)
    scene.store.settle([record(900, "train")], START)
    night = scene.run(recipe={"seed": 99}, evaluation={"samples": 4})
    assert night.number == 1
    assert night.plan == plan
    assert json.dumps(night.plan, sort_keys=True) == json.dumps(plan, sort_keys=True)
    assert "r900" not in scene.store.used_records()


class _Dying(MemoryStore):
    """A store that dies as the row of one stage is about to be written."""

    def __init__(self, store: MemoryStore, stage: str) -> None:
        super().__init__(**{name: getattr(store, name) for name in MemoryStore.__dataclass_fields__})
        self.stage = stage

    def finish_stage(self, row: StageRow) -> None:
        """Die, or write."""
        if row.stage == self.stage:
            raise Killed
        super().finish_stage(row)

    def decide(self, verdict: VerdictRow, used: Any, started_at: datetime) -> None:
        """Die, or decide: one transaction, so nothing of it is on file."""
        if self.stage == "decide":
            raise Killed
        super().decide(verdict, used, started_at)


def _same(scene: Scene, other: Scene) -> None:
    """Give another scene the same base, engine and records."""
    base, to = scene.folder / "data" / "base", other.folder / "data" / "base"
    (to / "hf").mkdir(parents=True)
    for name in ("hf/model.safetensors", "base.gguf"):
        (to / name).write_bytes((base / name).read_bytes())
    other.engine.models, other.engine.answer = dict(scene.engine.models), scene.engine.answer
    other.store.pulls, other.store.by_id = dict(scene.store.pulls), dict(scene.store.by_id)
    other.store.settled = set(scene.store.settled)


def _flip(scene: Scene, digest: str, model: str) -> Any:
    from fleetssd.checkpoints import Swap  # noqa: PLC0415

    return Swap(0, "flip", "dawn", hashlib.sha256(GGUF).hexdigest(), digest, model, 1, "better")


def test_a_night_spends_what_the_verdicts_on_file_leave(scene: Scene) -> None:
    """The first night spends the rule's first share, the night after a promotion more than it could without."""
    first, second = scene.run(), scene.run()
    shares = [night.verdict.evidence["budget"] for night in (first, second) if night.verdict]
    assert [share["look"] for share in shares] == [1, 2]
    assert [share["alpha"] for share in shares] == [budget.lord(1, [], 0.05), budget.lord(2, [1], 0.05)]
    assert shares[1]["spent"] == shares[0]["alpha"]
    changed = scene.run(gate={"budget": "spending"}).verdict
    assert changed is not None
    assert changed.evidence["alpha"] == budget.spend(3, 0.05)
    assert "from lord 0.05 to spending 0.05" in changed.evidence["budget"]["changed"]


CALLER = Source("config.yaml", "yaml", "providers: {ollama: {extra_body: {temperature: 0.3}}}")


def test_a_night_that_bakes_refuses_callers_with_a_temperature_of_their_own(scene: Scene) -> None:
    """Such a caller would get T·τ: the freeze names the place and nothing is on file; other nights do not look."""
    scene.read = lambda folders: Reading((CALLER,) * len(folders))
    table = {"manage": "bake", "audit_folders": ["/fleet"]}
    with pytest.raises(Misconfigured, match=r"config\.yaml:1 \(providers\.ollama\.extra_body\.temperature = 0\.3\)"):
        scene.run(decode=table)
    assert scene.store.nights() == []
    for quiet in ({"manage": "gateway", "audit_folders": ["/fleet"]}, {"manage": "bake"}):
        refuse_callers(scene.shop(decode=quiet).settings, scene.read)
    scene.read = lambda _folders: Reading((replace(CALLER, text=CALLER.text.replace("0.3", "1.0")),))
    assert tonight(scene.shop(decode=table)).state == "running"


def test_a_refusal_names_the_first_callers_and_counts_the_others(scene: Scene) -> None:
    """A long list of callers is cut."""
    many = "".join(f"- {{base_url: 'http://h{n}:11434', extra_body: {{temperature: 0.{n}}}}}\n" for n in range(1, 6))
    scene.read = lambda _folders: Reading((Source("c.yaml", "yaml", f"custom_providers:\n{many}"),))
    with pytest.raises(Misconfigured, match=r"c\.yaml:4 .*, and 2 more"):
        scene.run(decode={"manage": "bake", "audit_folders": ["/fleet"]})


def test_a_night_that_bakes_names_what_it_could_not_read(scene: Scene) -> None:
    """A caller may hide behind a link, so a look that passed one by warns of it, and the night goes on."""
    scene.read = lambda _folders: Reading((), (Skipped("config.yaml", "a link"),))
    with capture_logs() as logs:
        scene.run(decode={"manage": "bake", "audit_folders": ["/fleet"], "tau_grid": [0.5]})
    [warned] = [row for row in logs if row["event"] == "callers_unread"]
    assert (warned["log_level"], warned["files"]) == ("warning", ["config.yaml: a link"])


def test_slices_are_tested_together(scene: Scene) -> None:
    """Each slice, label or difficulty, has its gain over the incumbent and a p-value, raw and adjusted for how many."""
    verdict = scene.run().verdict
    assert verdict is not None
    tests = verdict.evidence["slice_tests"]
    assert set(tests) >= {"plain", "difficulty: hard"}
    assert all(0 < test["p"] <= test["holm"] <= 1 for test in tests.values())
    arms = verdict.evidence["slices"]
    gained = {label: arms[label]["candidate"]["point"] - arms[label]["incumbent"]["point"] for label in tests}
    assert {label: test["lift"]["point"] for label, test in tests.items()} == pytest.approx(gained)
    assert tests["plain"]["holm"] > tests["plain"]["p"]


def test_the_base_is_asked_at_the_teachers_decode_where_it_teaches(scene: Scene) -> None:
    """An arm that samples has the line, at its own temperature and truncation; the merged arm has none."""
    asked: list[Any] = []
    complete = scene.engine.complete

    def spied(model: str, prompts: Any, sampling: Any, progress: Any) -> list[Completion]:
        asked.append(sampling)
        return complete(model, prompts, sampling, progress)

    scene.engine.complete = spied  # type: ignore[method-assign]
    verdict = scene.run(recipe={"t_train": 1.3, "top_k": 7, "top_p": 0.85}).verdict
    assert verdict is not None
    assert {(s.temperature, s.top_k, s.top_p, s.min_p, s.max_tokens) for s in asked} >= {(1.3, 7, 0.85, 0.0, 1024)}
    assert verdict.evidence["over_teacher"]["problems"] == len(scene.store.nights()[0].plan["held_out"])
    assert all(part["teacher"] for part in verdict.evidence["splits"])
    for changed in ({"recipe": {"arm": "merged"}}, {"evaluation": {"teacher_decode": False}}):
        asked.clear()
        later = scene.run(**changed).verdict
        assert later is not None
        assert later.evidence["over_teacher"] is None
        assert later.evidence["splits"][0]["teacher"] is None
        assert {s.top_k for s in asked} == {40, 1}  # 1: the greedy smoke test
