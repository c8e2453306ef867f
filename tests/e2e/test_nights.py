"""Whole nights of real processes over a small world: to a verdict, through kills, and to a clear no."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fleetssd.checkpoints import STAGES
from fleetssd.operations.evaluate import CANDIDATE
from tests.e2e.conftest import Lived
from tests.e2e.small_world import (
    ALIAS,
    BASE,
    MERGED,
    SSD,
    Change,
    Running,
    SmallWorld,
    alive,
    outcome,
    wait_for,
    wait_until_gone,
)  # fmt: skip

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ARMS = [pytest.param("lived_ssd", SSD, id="ssd"), pytest.param("lived_merged", MERGED, id="merged")]


@pytest.mark.parametrize(("fixture", "arm"), ARMS)
def test_a_night_ends_with_a_verdict(fixture: str, arm: Change, request: pytest.FixtureRequest) -> None:
    """Exit code 0, every stage, an installed candidate, a verdict of that very artefact; the alias has not moved."""
    lived: Lived = request.getfixturevalue(fixture)
    night, made = lived.after.night(), outcome(lived.after)
    assert [row.stage for row in night.stages] == list(STAGES)
    assert night.state == "done"
    assert night.verdict is not None
    point = next(point for point in made["checkpoints"] if point["night"] == 1)
    assert (point["digest"], point["road"]) == (night.verdict.artefact, arm["engine"]["road"])
    assert (point["tau"] != 1.0) == ("decode" in arm)
    assert lived.after.models()[point["model"]] == point["served_digest"]
    assert lived.after.models()[ALIAS] == lived.after.models()[BASE]
    last = json.loads(lived.said.splitlines()[-1])
    assert (last["event"], last["verdict"]) == ("verdict", night.verdict.kind)


@pytest.mark.parametrize(("fixture", "arm"), ARMS)
def test_answers_are_complete_and_some_are_right(fixture: str, arm: Change, request: pytest.FixtureRequest) -> None:
    """Every arm answered every issue as often as planned; the sandbox passed some answers and failed others."""
    lived: Lived = request.getfixturevalue(fixture)
    plan, made = lived.after.night().plan, outcome(lived.after)
    wanted = {(problem, index) for problem in plan["held_out"] for index in range(plan["samples"])}
    for name in ("base", "tuned base", CANDIDATE):
        assert {(a["problem"], a["index"]) for a in made["answers"] if a["arm"] == name} == wanted
    assert not any(a["fault"] for a in made["answers"])
    assert {a["passed"] for a in made["answers"]} == {True, False}


@pytest.mark.parametrize(("fixture", "arm"), ARMS)
def test_no_record_teaches_twice_in_a_night(fixture: str, arm: Change, request: pytest.FixtureRequest) -> None:
    """What was trained on are the plan's records, each once; they are used and no held-out one is."""
    lived: Lived = request.getfixturevalue(fixture)
    plan, made = lived.after.night().plan, outcome(lived.after)
    rows = (lived.after.data / "nights" / "0001" / "rows.jsonl").read_text().splitlines()
    prompts = [json.loads(row)["prompt"] for row in rows]
    with lived.after.store() as store:
        known = {record.prompt for record in store.records_by_id(plan["train"])}
    assert len(prompts) == len(set(prompts))
    assert set(prompts) <= known
    assert made["used"] == dict.fromkeys(plan["train"], 1)
    assert not set(plan["train"]) & {*plan["held_out"], *plan["tune"]}


def test_a_night_killed_in_every_stage_ends_as_if_it_was_not(lived_ssd: Lived, elsewhere: str, tmp_path: Path) -> None:
    """Kill -9 in sample, train, build, install and evaluate: same bytes, same answers, same verdict, nobody is left."""
    world = lived_ssd.before.copy(tmp_path / "killed", SSD, url=elsewhere)
    struck = set()
    for stage, moment in _moments(world):
        process = world.start_night()
        left = process.kill_when(partial(moment, process), stage)
        # A busy machine may strike just after the stage's last write: a kill between two stages, which counts as none.
        struck |= {stage} - set(world.stages())
        wait_until_gone(left)
    assert struck >= {"sample", "train", "build", "evaluate"}
    code, log = world.run_night()
    assert code == 0, log[-3000:]
    assert outcome(world) == outcome(lived_ssd.after)
    assert sorted(world.stages()) == sorted(STAGES)


def _moments(world: SmallWorld) -> list[tuple[str, Callable[[Running], bool]]]:
    """Return what is to be seen in the midst of each stage."""

    def after(stage: str) -> bool:
        return stage in world.stages()

    def candidate() -> bool:
        return any(name.startswith("fleet-coder:v") for name in world.models())

    return [
        ("sample", lambda night: after("freeze") and len(night.family()) > 1),
        ("train", lambda night: night.progress("loss") >= 3),
        ("build", lambda _: after("train") and world.count("tune%") > 0),
        ("build", lambda _: (world.data / "nights" / "0001" / "artefact").exists()),
        ("install", lambda _: after("build") and candidate()),
        ("evaluate", lambda _: after("install") and world.count(CANDIDATE) > 0),
    ]


def test_a_merged_night_that_is_asked_to_stop_goes_on_where_it_was(
    lived_merged: Lived, elsewhere: str, tmp_path: Path
) -> None:
    """SIGTERM while it trains ends with 75 and a checkpoint; kill -9 while it builds and installs; then as unbroken."""
    world = lived_merged.before.copy(tmp_path / "stopped", MERGED, url=elsewhere)
    process = world.start_night()
    left = process.kill_when(lambda: process.progress("loss") >= 4, "train", signal.SIGTERM)
    assert process.process.returncode == 75
    assert not alive(left)
    assert list((world.data / "nights" / "0001" / "train" / "checkpoints").glob("*/whole"))
    moments = dict(_moments(world))
    for stage in ("install", "evaluate"):
        again = world.start_night()
        left = again.kill_when(partial(moments[stage], again), stage)
        wait_until_gone(left)
    assert "evaluate" not in world.stages()
    code, log = world.run_night()
    assert code == 0, log[-3000:]
    assert outcome(world) == outcome(lived_merged.after)


def test_one_night_at_a_time_and_a_stopped_one_continues(lived_ssd: Lived, tmp_path: Path) -> None:
    """A second process beside the first ends with 75; SIGTERM ends the first with 75; the third finishes."""
    world = lived_ssd.installed.copy(tmp_path / "world", SSD)
    first = world.start_night()
    wait_for(lambda: world.count("base") or None, "first answers", first)
    os.kill(first.process.pid, signal.SIGSTOP)  # or it may be done before the second one has begun
    code, log = world.run_night()
    os.kill(first.process.pid, signal.SIGCONT)
    assert code == 75
    assert "another night is running" in log
    left = first.kill_when(lambda: True, "evaluate", signal.SIGTERM)
    assert first.process.returncode == 75, first.log()[-3000:]
    assert not alive(left)
    assert "evaluate" not in world.stages()
    assert world.run_night()[0] == 0
    assert outcome(world) == outcome(lived_ssd.after)


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        ({"base": {"gguf": "other.gguf"}}, "is not the base that the engine serves", "[base] gguf"),
        ({"engine": {"alias": "nobody:latest"}}, "no alias nobody:latest", "ollama cp"),
        ({"engine": {"base_model": "nobody:latest"}}, "no model nobody:latest", "[engine] base_model"),
        ({"gate": {"min_problems": 99}}, "too few to judge by", "held_out_share"),
    ],
    ids=["another base", "no alias", "no base", "too few issues"],
)
def test_what_a_person_must_mend_ends_with_78_and_a_hint(
    small: SmallWorld, tmp_path: Path, change: Change, says: str, hint: str
) -> None:
    """The night says what is wrong and how to mend it, before anything is sampled."""
    world = small.copy(tmp_path / "world", change)
    (world.root / "other.gguf").write_bytes((small.base / "base-f32.gguf").read_bytes())
    code, log = world.run_night()
    assert code == 78
    line = json.loads(log.splitlines()[-1])
    assert says in line["error"]
    assert hint in line["hint"]
    assert not {"sample", "train"} & set(world.stages())


def test_an_engine_that_is_away_is_tried_again(small: SmallWorld, tmp_path: Path) -> None:
    """Exit code 75 and no night on file."""
    world = small.copy(tmp_path / "world", {"engine": {"url": "http://127.0.0.1:9"}})
    code, log = world.run_night()
    assert code == 75, log[-2000:]
    assert world.read("SELECT * FROM nights") == []


def test_a_night_that_cannot_succeed_fails_for_good(small: SmallWorld, tmp_path: Path) -> None:
    """Where every sample hits the limit nothing can be trained on: exit code 1, a failed night, its reason, no use."""
    world = small.copy(tmp_path / "world", SSD, {"recipe": {**SSD["recipe"], "max_tokens": 1}})
    code, log = world.run_night()
    assert code == 1, log[-2000:]
    night = world.night()
    assert (night.state, night.verdict) == ("failed", None)
    assert "no sample is usable" in night.failure
    assert world.read("SELECT * FROM record_uses") == []
