"""A challenger over fakes: kept out one night, asked fresh issues beside the next candidates, promoted, flipped to."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import STAGES, Checkpoint, Night
from fleetssd.cli import nights  # noqa: F401  the verbs register themselves
from fleetssd.cli.app import main
from fleetssd.gitea import PullKey
from fleetssd.operations import retention, swap
from fleetssd.operations.challenge import CHALLENGER, RIVAL, TUNED_RIVAL
from fleetssd.operations.night import run_night, tonight
from fleetssd.operations.publish import read_night
from fleetssd.operations.report import read_report
from fleetssd.ports import Completion, Prompt
from fleetssd.serving import pending
from tests.fakes import Killed
from tests.services.test_night import ALIAS, BASE_NAME, START, Scene, record, scene

__all__ = ["scene"]

GATE = {"challengers": 3}
SEEN = 1000
"""Issues below this number are there from the first night on; the challenger is a little better on them."""


def answers(better: Callable[[str, int, int], bool]) -> Callable[[str, Prompt], Completion]:
    """Return models of which the base is right for even seeds, and any other also where `better` (its name, ...)."""

    def answer(model: str, prompt: Prompt) -> Completion:
        number = int(prompt.text.removeprefix("Do ").removesuffix("."))
        right = prompt.seed % 2 == 0 or (model != BASE_NAME and better(model, number, prompt.seed))
        word = "right" if right else "wrong"
        return Completion(f"{word:5} {prompt.seed:010d} {model == BASE_NAME:d} {prompt.seed * 7:011d}", "stop", 5)

    return answer


def merge(scene: Scene, numbers: range, state: str) -> None:
    """Let the fleet have merged these."""
    for number in numbers:
        found = record(number, state)
        scene.store.put_pulls([(PullKey("http://forge", 1, number), "t", found)], START)
        scene.store.settle([found], START)


def first(scene: Scene, gate: dict[str, Any] | None = None) -> Checkpoint:
    """Run the first night, whose candidate is ahead and kept out, and return it; it alone is good at new issues."""
    scene.engine.answer = answers(lambda _model, _number, seed: seed % 32 == 1)
    night = scene.run(gate=GATE if gate is None else gate)
    assert night.verdict is not None
    assert (night.verdict.kind, night.verdict.evidence["lift"]["point"] > 0.0) == ("keep", True)
    made = next(point for point in scene.store.checkpoints() if point.night == 1)
    scene.engine.answer = answers(lambda model, number, _seed: model == made.model and number >= SEEN)
    return made


def later(scene: Scene, fresh: range, **tables: dict[str, Any]) -> Night:
    """Run a further night, another candidate's, after these issues were held out."""
    number = 9000 + len(scene.store.nights())
    merge(scene, range(number, number + 1), "train")
    merge(scene, fresh, "held_out")
    scene.clock.moment += timedelta(days=1)
    return scene.run(**{"gate": GATE, **tables})


def ruling(night: Night) -> dict[str, Any]:
    """Return what a night said of the challenger."""
    return next(row.result for row in night.stages if row.stage == "challenge")


def test_kept_carried_promoted_and_flipped_to(scene: Scene) -> None:
    """Three nights and a dawn: each night asks issues that are fresh, and the swap is the usual one."""
    made = first(scene)
    second = later(scene, range(1000, 1012))
    carried = ruling(second)
    assert (carried["kind"], carried["artefact"], carried["origin"]) == ("carry", made.digest, 1)
    assert 1.0 < carried["e_value"] < carried["needed"]
    assert second.verdict is not None
    assert second.verdict.evidence["budget"]["budget"] == 0.05 / 2  # the other half is the challengers'
    assert [row.stage for row in second.stages] == [*STAGES[:-1], "challenge", "decide"]
    assert pending(scene.store.nights(), scene.store.swaps(), scene.store.checkpoints()) is None
    settings = scene.shop(gate=GATE).settings
    told = read_report(settings, scene.store, START).status.challenger
    assert told is not None
    assert (told["digest"], told["e_value"], told["nights"]) == (made.digest, carried["e_value"], 1)
    retention.sweep(scene.store, scene.engine, settings, START)
    assert made.model in scene.engine.models
    assert not [p for p in scene.store.checkpoints() if p.night == 2 and p.model in scene.engine.models]

    third = later(scene, range(2000, 2040))
    won = ruling(third)
    assert (won["kind"], won["artefact"]) == ("promote", made.digest)
    assert won["e_value"] >= won["needed"]
    assert won["lift_k"] > 0.0
    assert third.verdict is not None
    assert (third.verdict.kind, third.verdict.artefact == made.digest) == ("keep", False)
    assert any(note.startswith("The challenger of night 1") and "promoted" in note for note in
               read_night(scene.store, 3).notes)  # fmt: skip
    asked = [{row.problem for row in scene.store.answers(number, CHALLENGER)} for number in (2, 3)]
    own = set(scene.store.nights()[0].plan["held_out"])
    assert not own & (asked[0] | asked[1])
    assert not asked[0] & asked[1]
    waits = pending(scene.store.nights(), scene.store.swaps(), scene.store.checkpoints())
    assert waits == made
    line = swap.flip(scene.store, scene.engine, settings, made, actor="dawn", now=scene.clock.now())
    assert (line.done, line.to_digest) == (True, made.digest)
    assert line.reason.startswith("night 3: challenger of night 1: e-value")
    assert scene.engine.adapter_of(ALIAS) == made.digest


def test_without_the_setting_nothing_is_asked_and_no_plan_says_so(scene: Scene) -> None:
    """At 0, the default, a kept candidate is gone: plan, arms, stages and share of alpha are those of other nights."""
    first(scene, gate={})
    night = later(scene, range(1000, 1012), gate={})
    assert {"challenger", "fresh"}.isdisjoint(night.plan)
    assert [row.stage for row in night.stages] == list(STAGES)
    assert not {CHALLENGER, RIVAL, TUNED_RIVAL} & {row.arm for row in scene.store.answers(2)}
    assert night.verdict is not None
    assert night.verdict.evidence["budget"]["budget"] == 0.05
    assert read_report(scene.shop().settings, scene.store, START).status.challenger is None


def test_a_challenger_leaves_the_nights_own_verdict_alone(scene: Scene) -> None:
    """The night's own arms are asked what they always are, and nothing of the challenger is among them."""
    first(scene)
    night = later(scene, range(1000, 1012))
    assert night.verdict is not None
    own = {row.arm for row in scene.store.answers(2)} - {CHALLENGER, RIVAL}
    assert {row.arm for row in scene.store.answers(1)} == own
    assert len(scene.store.answers(2, "base")) == 2 * len(night.plan["held_out"])


def test_a_new_promotion_drops_the_challenger_unasked(scene: Scene) -> None:
    """Tonight's candidate is promoted: nothing more is spent on the old one, and the row says why."""
    first(scene)
    scene.engine.answer = answers(lambda _model, _number, _seed: True)
    night = later(scene, range(1000, 1012))
    assert night.verdict is not None
    assert night.verdict.kind == "promote"
    assert (ruling(night)["kind"], ruling(night)["round"]) == ("drop", None)
    assert scene.store.answers(2, CHALLENGER) == []
    waits = pending(scene.store.nights(), scene.store.swaps(), scene.store.checkpoints())
    assert waits is not None
    assert waits.night == 2


def test_without_fresh_issues_it_waits(scene: Scene) -> None:
    """A night that has nothing new to ask plans no challenge; the challenger is still there the night after."""
    made = first(scene)
    assert "challenger" not in later(scene, range(0)).plan
    assert ruling(later(scene, range(1000, 1012)))["artefact"] == made.digest


def test_it_is_not_asked_what_taught_it(scene: Scene) -> None:
    """An issue that its own night was trained on and that is held out since is not fresh to it."""
    first(scene)
    taught = scene.store.nights()[0].plan["train"][0]
    moved = scene.store.records_by_id([taught])[0]
    scene.store.hold(moved.split_keys, START)
    plan = later(scene, range(1000, 1012)).plan
    assert plan["fresh"]
    assert taught not in plan["fresh"]


def test_a_name_that_serves_something_else_is_not_asked(scene: Scene) -> None:
    """Evidence is bound to the artefact: a model that was replaced in the engine is none of it."""
    made = first(scene)
    scene.engine.models[made.model] = ("other", "other", None)
    assert "challenger" not in later(scene, range(1000, 1012)).plan


def test_a_managed_decode_must_be_beaten_too(scene: Scene) -> None:
    """Where retuning is free, the base at its best temperature is a rival with an e-value of its own."""
    managed = {"decode": {"manage": "gateway", "tau_grid": [0.7]}}
    scene.engine.answer = answers(lambda _model, _number, seed: seed % 32 == 1)
    scene.run(gate=GATE, **managed)
    night = later(scene, range(1000, 1012), **managed)
    assert len(ruling(night)["round"]["gains"]) == 2
    assert scene.store.answers(2, TUNED_RIVAL)


def test_faults_never_help(scene: Scene) -> None:
    """Where the engine gives the challenger no answers, its capital falls."""
    made = first(scene)
    whole = scene.engine.answer
    scene.engine.answer = lambda model, prompt: (
        Completion("", "error", 0) if model == made.model else whole(model, prompt)
    )
    told = ruling(later(scene, range(1000, 1012)))
    assert told["e_value"] < 1.0
    assert told["round"]["voids"] == told["round"]["samples"]


def test_faults_of_its_rival_never_help(scene: Scene) -> None:
    """Where the engine gives the incumbent no answers, a challenger that is always right gains nothing by it."""
    first(scene)
    whole = scene.engine.answer
    scene.engine.answer = lambda model, prompt: (
        Completion("", "error", 0)
        if model == BASE_NAME and prompt.text in {f"Do {number}." for number in range(1000, 1012)}
        else whole(model, prompt)
    )
    merge(scene, range(1000, 1012), "held_out")
    told = ruling(later(scene, range(0)))
    assert len(told["round"]["problems"]) > 0
    assert told["e_value"] <= 1.0


def test_a_challenger_that_is_worse_is_given_up(scene: Scene) -> None:
    """Always wrong on fresh issues: the bet against the planned gain grows, and it is dropped as hopeless."""
    made = first(scene)
    whole = scene.engine.answer
    scene.engine.answer = lambda model, prompt: (
        replace(whole(BASE_NAME, prompt), text=f"wrong {prompt.seed:010d}") if model == made.model
        else whole(model, prompt)
    )  # fmt: skip
    told = ruling(later(scene, range(1000, 1060)))
    assert told["kind"] == "drop"
    assert told["reason"].startswith("futile")


def test_a_night_that_was_killed_asks_on(scene: Scene) -> None:
    """Killed while the challenger is asked, the night asks only for what is missing and rules as it would have."""
    made = first(scene)

    begun = itertools.count(1)

    def die(call: str) -> None:
        if call == f"complete {made.model}" and next(begun) == 2:
            while not scene.store.answers(2, CHALLENGER):  # the first part is kept beside this one, sooner or later
                time.sleep(0.01)
            raise Killed

    scene.engine.before = die
    with pytest.raises(Killed):
        later(scene, range(1000, 1012))
    have = len(scene.store.answers(2, CHALLENGER))
    scene.engine.before = lambda _call: None
    night = scene.run(gate=GATE)
    assert night.number == 2
    assert 0 < have < len(scene.store.answers(2, CHALLENGER))
    assert ruling(night)["kind"] == "carry"


@pytest.mark.parametrize(
    ("changed", "why"), [({"effect": 0.1}, "changed since its own night: gate"), ({"challengers": 0}, "switched off")]
)
def test_settings_that_change_in_a_night_drop_it(scene: Scene, changed: dict[str, Any], why: str) -> None:
    """The plan was frozen with a challenger; it is not asked by another rule, nor once challengers are off."""
    first(scene)
    merge(scene, range(1000, 1012), "held_out")
    merge(scene, range(9001, 9002), "train")
    night = tonight(scene.shop(gate=GATE))
    told = ruling(run_night(scene.shop(gate={**GATE, **changed}), night))
    assert (told["kind"], told["round"]) == ("drop", None)
    assert why in told["reason"]


def test_a_database_remembers_it_and_the_verbs_show_it(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a real database the same two nights carry the same challenger, and a person reads its e-value."""
    data = tmp_path / "data"
    real = SqlStore.open(f"sqlite:///{data / 'fleetssd.sqlite3'}")
    remembered = scene.store
    scene.store = real  # type: ignore[assignment]
    for found in remembered.records():
        real.put_pulls([(PullKey("http://forge", 1, found.pull), "t", found)], START)
        real.settle([found], START)
    made = first(scene)
    told = ruling(later(scene, range(1000, 1012)))
    real.close()
    assert (told["kind"], told["artefact"]) == ("carry", made.digest)
    (tmp_path / "f.toml").write_text(
        f'data_dir = "{data}"\n[forge]\nurl = "http://forge"\ntoken_file = "token"\n'
        '[fleet]\nagents = ["agent-*"]\nrepositories = ["fleet/*"]\n'
    )
    for verb in (["status"], ["nights", "show", "2"]):
        main(["--config", str(tmp_path / "f.toml"), *verb])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"{made.digest[:12]} of night 1" in shown
        assert f"e-value {told['e_value']:.3g} of {told['needed']:.3g} needed" in shown
