"""Verifying held-out records over fakes: what a night takes, what it asks beside, and what an interruption leaves."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from fleetssd.errors import Transient
from fleetssd.gitea import PullKey
from fleetssd.operations.night import run_night, tonight, verifier
from fleetssd.operations.references import REFERENCE_BASE, REFERENCE_CANDIDATE
from fleetssd.ports import Ground
from fleetssd.recipe import NightPlan
from fleetssd.records import Record
from fleetssd.solutions import File, Whole
from tests.fakes import FakeGrounds, Killed
from tests.services.test_night import JUDGED, START, Scene, record, scene  # noqa: F401  a fixture


def file(scene: Scene, number: int, **changes: Any) -> Record:  # noqa: F811
    """File one more held-out record."""
    made = replace(record(number, "held_out"), **changes)
    scene.store.put_pulls([(PullKey("http://forge", 1, number), "t", made)], START)
    scene.store.settle([made], START)
    return made


def test_only_verified_records_judge(scene: Scene) -> None:  # noqa: F811
    """A record whose tests pass without the change, or cannot be had, is in no plan; the others are in one."""
    idle = file(scene, 200, tests=(("test_app.py", "right already"),))
    gone = file(scene, 201, solution_path="", solution="diff --git a/x b/x\n")
    plan = NightPlan.from_json(tonight(scene.shop()).plan)
    assert len({*plan.held_out, *plan.tune}) == JUDGED
    assert not {idle.id, gone.id} & {*plan.held_out, *plan.tune, *plan.references}
    codes = {one: scene.store.admissions()[one].code for one in (idle.id, gone.id)}
    assert codes == {idle.id: "passes_before", gone.id: "tree_gone"}


def test_issues_without_tests_move_no_evidence(scene: Scene) -> None:  # noqa: F811
    """They are asked under arms of their own and stand beside the verdict, which is the same without them."""
    first = scene.run(evaluation={"references": 0}).verdict
    beside = [file(scene, number, tests=()).id for number in (200, 201, 202)]
    night = scene.run(evaluation={"references": 2})
    assert first is not None
    assert night.verdict is not None
    asked = night.verdict.evidence["reference"]
    assert (asked["problems"], asked["base"]["point"], asked["candidate"]["point"]) == (2, 0.0, 0.0)
    plan = NightPlan.from_json(night.plan)
    assert set(plan.references) < set(beside)
    for arm in (REFERENCE_BASE, REFERENCE_CANDIDATE):
        assert {answer.problem for answer in scene.store.answers(night.number, arm)} == set(plan.references)
    others = {
        a.problem for a in scene.store.answers(night.number) if a.arm not in (REFERENCE_BASE, REFERENCE_CANDIDATE)
    }
    assert not others & set(beside)
    assert night.verdict.evidence["reference"] not in (None, first.evidence["reference"])


def test_an_interrupted_verification_goes_on_where_it_stood(scene: Scene) -> None:  # noqa: F811
    """Each result is on file at once: what was verified before a kill is not run again."""
    run, asked = scene.sandbox.run, []

    def dying(jobs: Any, progress: Any) -> Any:
        asked.append(len(jobs))
        if len(asked) == 4:
            raise Killed
        return run(jobs, progress)

    scene.sandbox.run = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        tonight(scene.shop())
    assert len(scene.store.admissions()) == 3
    tonight(scene.shop())
    assert (len(scene.store.admissions()), len(asked)) == (JUDGED, JUDGED + 1)


def test_a_faulty_sandbox_settles_nothing(scene: Scene) -> None:  # noqa: F811
    """What was refused for the sandbox's own failure is looked at again by the next run, and then counts."""
    scene.sandbox.faulty = True
    assert {one.code for one in verifier(scene.shop()).verify()} == {"sandbox_fault"}
    scene.sandbox.faulty = False
    assert {one.code for one in verifier(scene.shop()).verify()} == {"verified"}
    assert verifier(scene.shop()).verify() == []


def test_a_forge_that_is_away_puts_the_night_off(scene: Scene) -> None:  # noqa: F811
    """Nothing is refused because the forge could not be asked."""
    away = file(scene, 200, solution_path="", solution="diff --git a/x b/x\n")

    class Away(FakeGrounds):
        def at(self, record: Record, preparation: Any) -> Ground:
            raise Transient("the forge is away")

    shop = replace(scene.shop(), grounds=Away(), sandbox=lambda: nullcontext(scene.sandbox))
    with pytest.raises(Transient):
        tonight(shop)
    assert away.id not in scene.store.admissions()
    assert scene.store.nights() == []


def test_a_ground_that_is_lost_puts_the_night_off(scene: Scene, tmp_path: Any) -> None:  # noqa: F811
    """A record of another format stands on its ground; where that is gone after the plan was made, the night waits."""
    change = "--- a/app.py\n+++ b/app.py\n@@ -1 +1 @@\n-wrong\n+right\n"
    gold = (
        Whole("app.py", File("right\n")),
        Whole("tests/test_a.py", File("assert\n")),
        Whole("tests/data.txt", File("1\n")),
        Whole("tests/old.py", None),
    )
    ground = Ground({"app.py": File("wrong\n"), "tests/old.py": File("")}, tmp_path, None, gold)
    text = f"diff --git a/app.py b/app.py\n{change}"
    made = [file(scene, number, solution_path="", solution=text).id for number in range(200, 210)]
    grounds = FakeGrounds(dict.fromkeys(made, ground))
    shop = replace(scene.shop(evaluation={"tune_share": 0.3}), grounds=grounds)
    night = tonight(shop)
    assert {scene.store.admissions()[one].code for one in made} == {"verified"}
    assert set(made) & set(night.plan["tune"])
    grounds.ready.clear()
    with pytest.raises(Transient, match="tree_gone"):
        run_night(shop, night)
    assert scene.store.nights()[0].state == "running"
