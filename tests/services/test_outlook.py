"""What a night says before it spends, and an evaluation that may stop early, over fakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from fleetssd import budget
from fleetssd.checkpoints import Answer, Night
from fleetssd.errors import Rejected
from fleetssd.operations.evaluate import BASE, CANDIDATE, TUNED
from fleetssd.operations.night import Workshop, run_night, tonight
from fleetssd.operations.outlook import BEFORE
from fleetssd.ports import Completion, Prompt
from tests.fakes import Killed, MemoryStore
from tests.services.test_night import BASE_NAME, Scene, always_right, answer, scene

__all__ = ["scene"]
SEQUENTIAL = {"samples": 2, "k": 2, "stopping": "sequential"}
LARGE = {"effect": 0.2}


def evidence(night: Night) -> dict[str, Any]:
    """Return what the verdict stored."""
    assert night.verdict is not None
    return night.verdict.evidence


def mostly_wrong(model: str, prompt: Prompt) -> Completion:
    """Answer right once in four times, whoever is asked."""
    word = "right" if int(sha256(str(prompt.seed).encode()).hexdigest(), 16) % 4 == 0 else "wrong"
    return Completion(f"{word} {model == BASE_NAME:d} {prompt.text} {prompt.seed:010d}", "stop", 5)


def turned(model: str, prompt: Prompt) -> Completion:
    """Answer as the usual base where the candidate is asked, and always right where the base is."""
    return answer(BASE_NAME, prompt) if model != BASE_NAME else always_right(model, prompt)


def answers(scene: Scene, arm: str) -> list[Answer]:
    """Return the answers of an arm in the first night."""
    return scene.store.answers(1, arm)


def test_the_precondition_is_stored_with_the_verdict(scene: Scene) -> None:
    """Headroom, advice and power stand in the verdict, read from issues that did not judge, at tonight's share."""
    found = evidence(scene.run())["precondition"]
    assert found["advice"] == "GO-SSD"
    assert found["gap"] == pytest.approx(found["pass_k"]["point"] - found["pass_1"]["point"])
    assert found["power"]["alpha"] == budget.lord(1, [], 0.05)
    assert "cannot show +5 pp" in found["power"]["sentence"]
    asked = {row.problem for row in answers(scene, BEFORE)}
    assert asked
    assert not asked & {row.problem for row in answers(scene, CANDIDATE)}


def test_advice_alone_stops_no_night(scene: Scene) -> None:
    """By default a base without headroom is told so and the night goes on."""
    scene.engine.answer = always_right
    night = scene.run()
    assert evidence(night)["precondition"]["other"] == "harder issues"
    assert night.state == "done"


def test_an_enforced_precondition_ends_the_night_before_it_costs(scene: Scene) -> None:
    """With `enforce` nothing is sampled and nothing trained where the advice is against tonight's arm."""
    scene.engine.answer = mostly_wrong
    with pytest.raises(Rejected, match=r"precondition: GO-VERIFIED, not arm ssd: .* mostly wrong"):
        scene.run(gate={"precondition": "enforce"}, evaluation={"samples": 8, "k": 8})
    assert [row.stage for row in scene.store.nights()[0].stages] == ["freeze"]
    assert not scene.store.samples(1)


def test_an_enforced_precondition_lets_a_fitting_night_pass(scene: Scene) -> None:
    """Where the base has headroom, enforcing changes nothing."""
    assert scene.run(gate={"precondition": "enforce"}).state == "done"


def test_a_shown_gain_stops_the_evaluation(scene: Scene) -> None:
    """The evaluation ends with the block that shows the gain; every arm answered the same issues; it is promoted."""
    night = scene.run(gate=LARGE, evaluation=SEQUENTIAL)
    stopped = evidence(night)["stopped"]
    assert stopped["decision"] == "promote"
    assert 20 <= stopped["problems"] < stopped["of"]
    asked = [{(row.problem, row.index) for row in answers(scene, arm)} for arm in (BASE, TUNED, CANDIDATE)]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) == 2 * stopped["problems"]
    assert night.verdict is not None
    assert night.verdict.kind == "promote"
    assert evidence(night)["e_value"] > 1 / budget.lord(1, [], 0.05)


def test_a_hopeless_candidate_stops_the_evaluation(scene: Scene) -> None:
    """A candidate that is worse is given up as soon as there are enough issues, and promotes nothing."""
    scene.engine.answer = turned
    night = scene.run(gate=LARGE, evaluation=SEQUENTIAL)
    stopped = evidence(night)["stopped"]
    assert stopped["decision"] == "futile"
    assert stopped["problems"] < stopped["of"]
    assert night.verdict is not None
    assert night.verdict.kind != "promote"


def test_a_managed_night_goes_on_until_the_tuned_base_is_beaten(scene: Scene) -> None:
    """A gain that the tuned base has too does not stop the evaluation where the decode is managed."""
    asked: set[Prompt] = set()

    def tuned(model: str, prompt: Prompt) -> Completion:
        again = model == BASE_NAME and prompt in asked  # the base answers as such first, then at its best temperature
        asked.add(prompt)
        return always_right(model, prompt) if again else answer(model, prompt)

    scene.engine.answer = tuned
    stopped = evidence(scene.run(gate=LARGE, evaluation=SEQUENTIAL, decode={"manage": "gateway"}))["stopped"]
    assert stopped["decision"] == "continue"
    assert stopped["problems"] == stopped["of"]


def test_a_gain_that_costs_pass_at_k_does_not_stop_the_evaluation(scene: Scene) -> None:
    """Surer of most issues and lost on the others: the e-value is enough, but pass@k fell, and the gate would keep."""
    asked: dict[tuple[str, str], int] = {}

    def narrow(model: str, prompt: Prompt) -> Completion:
        turn = asked[model, prompt.text] = asked.get((model, prompt.text), 0) + 1
        right = turn % 2 if model == BASE_NAME else int(prompt.text.removeprefix("Do ").removesuffix(".")) % 5
        return Completion(f"{'right' if right else 'wrong'} {model} {prompt.seed:010d}", "stop", 5)

    scene.engine.answer = narrow
    found = evidence(scene.run(gate=LARGE, evaluation=SEQUENTIAL))
    assert found["e_value"] > 1 / budget.lord(1, [], 0.05)
    assert found["lift_k"]["point"] < -0.05
    assert found["stopped"]["decision"] == "continue"


def test_without_the_setting_every_issue_is_asked(scene: Scene) -> None:
    """Fixed is the default: all issues, tonight's interval, no e-value."""
    found = evidence(scene.run())
    assert found["stopped"]["problems"] == found["stopped"]["of"]
    assert found["e_value"] is None


def killed(scene: Scene, shop: Workshop, dying: Callable[[str, Prompt], Completion]) -> None:
    """Run tonight until an answer of the engine kills it; the engine answers as before then."""
    scene.engine.answer = dying
    with pytest.raises(Killed):
        run_night(shop, tonight(shop))
    scene.engine.answer = answer


def test_an_interrupted_evaluation_stops_where_it_would_have(scene: Scene) -> None:
    """Killed in the third block, the night looks again at what is on file and ends with the same verdict."""
    shop = scene.shop(gate=LARGE, evaluation=SEQUENTIAL)
    whole = replace(scene.store)
    calls = 0

    def dying(model: str, prompt: Prompt) -> Completion:
        nonlocal calls
        calls += model != BASE_NAME
        if calls == 30:
            raise Killed
        return answer(model, prompt)

    killed(scene, shop, dying)
    # The rule of tonight is frozen with its first stage: a setting that changes meanwhile is for tomorrow.
    fixed = replace(shop, settings=scene.shop(gate=LARGE).settings)
    again = evidence(run_night(fixed, tonight(fixed)))
    scene.store = MemoryStore(pulls=whole.pulls, by_id=whole.by_id, settled=whole.settled)
    calm = evidence(scene.run(gate=LARGE, evaluation=SEQUENTIAL))
    assert again["stopped"]["decision"] == "promote"
    assert (again["stopped"], again["e_value"]) == (calm["stopped"], calm["e_value"])


@pytest.mark.parametrize("stopping", ["fixed", "sequential"])
def test_a_budget_that_changes_in_a_night_is_for_tomorrow(scene: Scene, stopping: str) -> None:
    """Killed while it evaluates and begun again at a tenfold alpha, the night spends what it had set out to spend."""
    shop = scene.shop(evaluation={"stopping": stopping})

    def dying(model: str, prompt: Prompt) -> Completion:
        if [row.stage for row in scene.store.nights()[0].stages][-1:] == ["install"]:
            raise Killed
        return answer(model, prompt)

    killed(scene, shop, dying)
    found = evidence(scene.run(gate={"alpha": 0.5}))
    assert found["alpha"] == found["budget"]["alpha"] == budget.lord(1, [], 0.05)
    assert found["budget"]["budget"] == 0.05
    later = evidence(scene.run(gate={"alpha": 0.5}))
    assert later["budget"]["changed"] == "since night 1 the error budget changed from lord 0.05 to lord 0.5"
