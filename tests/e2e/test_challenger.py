"""A challenger on a real engine: kept out one night, asked fresh issues the next, flipped to once it is promoted."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fleetssd.checkpoints import STAGES, Answer
from fleetssd.operations.challenge import CHALLENGER, RIVAL, TUNED_RIVAL
from tests.e2e.small_world import ALIAS, HELD_OUT, MERGED, TRAIN, Change, SmallWorld, fabricated, wait_for
from tests.e2e.test_daemon import daemon, end

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FRESH = 24
"""Issues that are held out after the first night."""
CARRY: Change = {
    **MERGED,
    # Baking T = 0.2 lifts a base that is asked at T = 1 far over itself, and not over the base at T = 0.2: kept out.
    "decode": {"temperature": 1.0, "tau_grid": [0.2], "manage": "bake"},
    "recipe": {"arm": "merged", "prompts": 8, "epochs": 1, "learning_rate": 1e-3},
    # What no probe may decide here; each has its own tests.
    "gate": {
        "challengers": 3, "min_problems": 8, "parse_drop": 1.0, "self_bleu_rise": 9.0, "repetition_rise": 9.0,
        "length_drift": 9.0, "length_tail": 99.0, "unique_ratio": 0.01, "distinct_low": 0.01, "distinct_high": 99.0,
    },
}  # fmt: skip


def test_a_kept_candidate_is_carried_on_a_real_engine_and_flipped_to(
    small: SmallWorld, elsewhere: str, tmp_path: Path
) -> None:
    """Two nights of real processes, then a dawn: fresh issues alone add to its e-value, and the alias goes to it."""
    world = small.copy(tmp_path / "world", CARRY, url=elsewhere)
    live(world)
    first = world.night()
    assert first.verdict is not None
    assert (first.verdict.kind, first.verdict.evidence["lift"]["point"] > 0.2) == ("keep", True), first.verdict.reason

    world.fill(FRESH)
    world.set_clock(2, days=1)
    world.write_config(CARRY, {"recipe": {**CARRY["recipe"], "learning_rate": 2e-3}})  # or it would be the same file
    live(world)
    second = world.night(2)
    assert [row.stage for row in second.stages] == [*STAGES[:-1], "challenge", "decide"]
    told = next(row.result for row in second.stages if row.stage == "challenge")
    assert (told["kind"], told["artefact"], told["origin"]) == ("carry", first.verdict.artefact, 1), told["reason"]
    asked = set(told["round"]["problems"])
    assert asked <= {record.id for record in fabricated(TRAIN, HELD_OUT + FRESH)[-FRESH:]}
    assert asked.isdisjoint(first.plan["held_out"])
    over_incumbent, over_tuned = told["round"]["gains"]
    assert over_incumbent > 1.0 > over_tuned  # nats: the lift is real, and retuning the base gives it for free
    assert told["e_value"] == pytest.approx(math.exp(over_tuned))
    with world.store() as store:
        answers = {arm: store.answers(2, arm) for arm in (CHALLENGER, RIVAL, TUNED_RIVAL)}
    assert all({row.problem for row in rows} == asked and len(rows) == 2 * len(asked) for rows in answers.values())
    assert passed(answers[CHALLENGER]) > passed(answers[RIVAL])

    promote(world)
    model, served = world.read("SELECT model, served_digest FROM artefacts WHERE digest = ?", told["artefact"])[0]
    assert (told["model"], world.models()[model]) == (model, served)
    world.set_clock(6, days=1)
    with daemon(world) as running:
        wait_for(lambda: ("flip", told["artefact"], True) in world.swaps() or None, "the flip", running)
        end(running)
    assert world.models()[ALIAS] == served


def live(world: SmallWorld) -> None:
    """Run a night to its verdict."""
    code, log = world.run_night()
    assert code == 0, log[-3000:]


def passed(rows: list[Answer]) -> int:
    """Return how many answers are right."""
    return sum(row.passed for row in rows)


def promote(world: SmallWorld) -> None:
    """Turn the ruling on file into a promotion: what a dawn does is not what a night decides."""
    with closing(sqlite3.connect(world.data / "fleetssd.sqlite3")) as found, found:
        found.execute("UPDATE stages SET result = json_set(result, '$.kind', 'promote') WHERE stage = 'challenge'")
