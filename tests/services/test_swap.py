"""Flip, rollback, recovery and watch over a real database and an engine in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Answer, Checkpoint, Swap
from fleetssd.config import Settings, parse
from fleetssd.errors import Rejected, Transient
from fleetssd.gitea import PullKey
from fleetssd.operations.evaluate import CANDIDATE
from fleetssd.operations.swap import flip, recover, rollback
from fleetssd.operations.watch import watch_once
from fleetssd.ports import Completion, Prompt
from fleetssd.recipe import Lora, NightPlan, Sampling
from fleetssd.records import Record
from fleetssd.serving import served, watch_window
from tests.fakes import FakeEngine, FakeGrounds, FakeSandbox, Killed

DAWN = datetime(2026, 11, 22, 6, tzinfo=UTC)
ALIAS = "fleet-coder:latest"
RIGHT, WRONG = Completion("right", "stop", 1), Completion("wrong", "stop", 1)


@dataclass(frozen=True)
class Fleet:
    """A store, an engine and the settings that the operations are given."""

    store: SqlStore
    engine: FakeEngine
    settings: Settings

    def flip(self, to: Checkpoint, now: datetime = DAWN, **more: Any) -> Swap:
        """Flip as the dawn does."""
        return flip(self.store, self.engine, self.settings, to, actor="dawn", now=now, **more)

    def rollback(self, now: datetime = DAWN) -> Swap:
        """Roll back as an operator does."""
        return rollback(self.store, self.engine, self.settings, actor="operator", reason="by hand", now=now)

    def watch(self, minutes: float, sandbox: FakeSandbox | None = None) -> Swap | None:
        """Look once, so many minutes after dawn."""
        when = DAWN + timedelta(minutes=minutes)
        return watch_once(self.store, self.engine, sandbox or FakeSandbox(), FakeGrounds(), self.settings, when)

    def log(self) -> list[tuple[str, str, str, bool]]:
        """Return the swap log as (kind, actor, to, done)."""
        return [(swap.kind, swap.actor, swap.to_digest, swap.done) for swap in self.store.swaps()]

    def serves(self) -> str:
        """Return the digest that the alias serves, and check that the log says the same."""
        digest = self.engine.models[ALIAS][0]
        found = served(self.store.swaps(), self.store.checkpoints())
        assert found is not None
        assert found.served_digest == digest
        return found.digest


def checkpoint(name: str, night: int | None) -> Checkpoint:
    """Return a merged checkpoint, or the base where there is no night."""
    model, road = f"fleet-coder:{name}", "none" if night is None else "merged-create"
    created = DAWN + timedelta(hours=night or 0)
    return Checkpoint(name, "merged" if night else "base", model, f"served-{name}", night, road, 1.0, 1, created)  # type: ignore[arg-type]


BASE, ONE, TWO = checkpoint("base", None), checkpoint("one", 1), checkpoint("two", 2)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Yield a fleet that serves its base, with two candidates installed and on file."""
    table = {
        "data_dir": tmp_path,
        "forge": {"url": "http://forge", "token_file": tmp_path / "token"},
        "fleet": {"agents": ["bot-*"], "repositories": ["fleet/*"]},
        "watch": {"minutes": 60, "probes": 24, "min_calls": 20},
    }
    store, engine = SqlStore.open(f"sqlite:///{tmp_path / 'db.sqlite3'}"), FakeEngine()
    for point in (BASE, ONE, TWO):
        store.put_checkpoint(point)
        engine.models[point.model] = (point.served_digest, f"blob-{point.digest}", None)
    engine.models[ALIAS] = engine.models[BASE.model]
    engine.preload(ALIAS)
    yield Fleet(store, engine, parse(table))
    store.close()


def test_a_flip_is_a_proven_line_with_its_evidence(fleet: Fleet) -> None:
    """The alias serves the candidate; the line names both digests, reason, evidence and proof."""
    swap = fleet.flip(ONE, reason="better", evidence={"verdict": 1})
    assert fleet.serves() == "one"
    assert (swap.kind, swap.from_digest, swap.to_digest, swap.to_model, swap.night) == (
        "flip", "base", "one", ONE.model, 1,
    )  # fmt: skip
    assert swap.done
    assert swap.reason == "better"
    assert swap.evidence["verdict"] == 1
    assert swap.evidence["alias_digest"] == "served-one"
    assert swap.evidence["loaded"]


def test_a_candidate_with_its_own_file_is_loaded_before_the_alias_moves(fleet: Fleet) -> None:
    """The incumbent stays loaded beside it, so that going back costs nothing."""
    fleet.engine.calls.clear()
    swap = fleet.flip(ONE)
    assert fleet.engine.calls[:2] == [f"preload {ONE.model}", f"point {ONE.model}"]
    assert swap.evidence["previous_stays_loaded"]


def test_an_adapter_on_the_incumbents_file_is_loaded_after(fleet: Fleet) -> None:
    """Loading it first would take the incumbent away from the fleet."""
    adapter = replace(ONE, digest="lora", kind="adapter", model="fleet-coder:lora", served_digest="served-lora")
    fleet.store.put_checkpoint(adapter)
    fleet.engine.models[adapter.model] = ("served-lora", "blob-base", "lora")
    fleet.engine.calls.clear()
    fleet.flip(adapter)
    assert fleet.engine.calls == [f"quiet {BASE.model}", f"point {adapter.model}", f"preload {adapter.model}"]


def test_where_two_do_not_fit_the_alias_moves_first(fleet: Fleet) -> None:
    """A flip that put the incumbent out of memory is remembered: the next one waits for a quiet moment instead."""

    def one_place(call: str) -> None:
        if call.startswith("preload"):
            fleet.engine.running.clear()

    fleet.engine.before = one_place
    first = fleet.flip(ONE)
    assert (first.evidence["beside"], first.evidence["previous_stays_loaded"]) == (True, False)
    fleet.engine.calls.clear()
    second = fleet.flip(TWO)
    assert fleet.engine.calls == [f"quiet {ONE.model}", f"point {TWO.model}", f"preload {TWO.model}"]
    assert (second.evidence["beside"], second.evidence["quiet"], second.evidence["alias_copies"]) == (False, True, 1)


def test_what_went_wrong_leaves_memory(fleet: Fleet) -> None:
    """After a rollback only what serves is loaded; what was rolled back stays on disk."""
    fleet.flip(ONE)
    assert set(fleet.engine.loaded().values()) == {"served-base", "served-one"}
    fleet.rollback()
    assert set(fleet.engine.loaded().values()) == {"served-base"}
    assert ONE.model in fleet.engine.models


def test_an_engine_that_cannot_release_fails_no_rollback(fleet: Fleet) -> None:
    """The alias is back and proven; that memory is not free yet is a warning."""
    fleet.flip(ONE)

    def away(call: str) -> None:
        if call.startswith("release"):
            raise Transient("no engine answers")

    fleet.engine.before = away
    assert fleet.rollback().done
    assert fleet.serves() == "base"


def test_rolling_back_twice_goes_back_two_steps(fleet: Fleet) -> None:
    """Each rollback takes one flip back; at the base there is nothing to go back to."""
    fleet.flip(ONE)
    fleet.flip(TWO)
    assert fleet.rollback().to_digest == "one"
    assert fleet.rollback().to_digest == "base"
    assert fleet.serves() == "base"
    with pytest.raises(Rejected, match="nothing to go back to"):
        fleet.rollback()


def test_a_rollback_moves_the_alias_before_anything_is_loaded(fleet: Fleet) -> None:
    """The first thing that a rollback does to the engine is the copy."""
    fleet.flip(ONE)
    fleet.engine.calls.clear()
    fleet.rollback()
    assert fleet.engine.calls[0] == f"point {BASE.model}"


CALLS = (f"preload {ONE.model}", f"point {ONE.model}", f"point {BASE.model}", f"preload {BASE.model}")


@pytest.mark.parametrize("killed_in", CALLS[:2])
@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_in_a_flip_is_finished_by_the_next_start(fleet: Fleet, killed_in: str, torn: bool) -> None:
    """Dead in any step, with the alias whole or torn: recovery ends where the flip without a kill ends."""
    _kill_in(fleet, killed_in, lambda: fleet.flip(ONE))
    if torn and killed_in.startswith("point"):
        del fleet.engine.models[ALIAS]
    recovered = recover(fleet.store, fleet.engine, fleet.settings, DAWN + timedelta(seconds=1))
    assert recovered is not None
    assert recovered.done
    assert fleet.serves() == "one"
    assert fleet.log() == [("flip", "dawn", "one", True)]


@pytest.mark.parametrize("killed_in", CALLS[2:])
def test_a_kill_in_a_rollback_is_finished_by_the_next_start(fleet: Fleet, killed_in: str) -> None:
    """A rollback that died has the alias at the old checkpoint after recovery; the daemon need not wait for a lease."""
    fleet.flip(ONE)
    _kill_in(fleet, killed_in, lambda: rollback(
        fleet.store, fleet.engine, fleet.settings, actor="watch", reason="bad", now=DAWN
    ))  # fmt: skip
    recover(fleet.store, fleet.engine, fleet.settings, DAWN + timedelta(seconds=1))
    assert fleet.serves() == "base"
    assert fleet.log()[-1] == ("rollback", "watch", "base", True)


def test_a_kill_after_the_last_step_only_needs_the_proof(fleet: Fleet) -> None:
    """The second preload is the last call: dead there, the alias is right already and stays right."""
    loads = []

    def second(call: str) -> None:
        loads.append(call)
        if loads.count(f"preload {ONE.model}") == 2:
            raise Killed

    fleet.engine.before = second
    with pytest.raises(Killed):
        fleet.flip(ONE)
    fleet.engine.before = lambda _call: None
    recover(fleet.store, fleet.engine, fleet.settings, DAWN)
    assert fleet.serves() == "one"


def test_recovery_without_the_candidate_ends_at_the_incumbent(fleet: Fleet) -> None:
    """A candidate that is gone cannot be flipped to: the alias is put back and a refusal says so."""
    _kill_in(fleet, f"preload {ONE.model}", lambda: fleet.flip(ONE))
    del fleet.engine.models[ONE.model]
    recover(fleet.store, fleet.engine, fleet.settings, DAWN)
    assert fleet.serves() == "base"
    assert fleet.log() == [("flip", "dawn", "one", False), ("refused", "dawn", "one", True)]
    assert recover(fleet.store, fleet.engine, fleet.settings, DAWN) is None


def test_nothing_half_done_is_nothing_to_recover(fleet: Fleet) -> None:
    """A clean start does nothing."""
    fleet.flip(ONE)
    assert recover(fleet.store, fleet.engine, fleet.settings, DAWN) is None
    assert len(fleet.log()) == 1


def test_a_step_that_cannot_succeed_is_undone(fleet: Fleet) -> None:
    """A candidate that does not load leaves the incumbent serving, and a refusal with the engine's words."""

    def broken(call: str) -> None:
        if call == f"preload {ONE.model}":
            raise Rejected("llama-server process has terminated")

    fleet.engine.before = broken
    with pytest.raises(Rejected, match="terminated"):
        fleet.flip(ONE)
    assert fleet.serves() == "base"
    assert fleet.store.swaps()[-1].kind == "refused"
    assert "terminated" in fleet.store.swaps()[-1].reason


def test_an_engine_that_is_away_leaves_the_line_open(fleet: Fleet) -> None:
    """Nothing is refused because of an outage: the next try finishes the same line."""

    def away(call: str) -> None:
        if call.startswith("point"):
            raise Transient("no engine answers")

    fleet.engine.before = away
    with pytest.raises(Transient):
        fleet.flip(ONE)
    assert fleet.log() == [("flip", "dawn", "one", False)]
    fleet.engine.before = lambda _call: None
    recover(fleet.store, fleet.engine, fleet.settings, DAWN)
    assert fleet.log() == [("flip", "dawn", "one", True)]


def test_a_name_that_changed_since_the_evaluation_is_refused(fleet: Fleet) -> None:
    """What would be served must be what was evaluated, digest for digest."""
    fleet.engine.models[ONE.model] = ("something else", "blob-x", None)
    with pytest.raises(Rejected, match="not what was evaluated"):
        fleet.flip(ONE)
    assert fleet.serves() == "base"
    assert fleet.log() == [("refused", "dawn", "one", True)]


def test_what_was_rolled_back_comes_back_only_by_hand(fleet: Fleet) -> None:
    """The dawn is refused; an operator is not."""
    fleet.flip(ONE)
    fleet.rollback()
    with pytest.raises(Rejected, match="rolled back before"):
        fleet.flip(ONE)
    flip(fleet.store, fleet.engine, fleet.settings, ONE, actor="operator", now=DAWN)
    assert fleet.serves() == "one"


def test_the_served_checkpoint_is_not_flipped_to(fleet: Fleet) -> None:
    """A flip to what is served is a mistake, and no line."""
    with pytest.raises(Rejected, match="served already"):
        fleet.flip(BASE)
    assert fleet.log() == []


def test_one_swap_at_a_time_across_processes(fleet: Fleet) -> None:
    """While another owner holds the lease nothing moves; after it expired all goes on."""
    assert fleet.store.claim("swap", "somebody", DAWN + timedelta(minutes=1), DAWN)
    with pytest.raises(Transient, match="another swap"):
        fleet.flip(ONE)
    assert fleet.serves() == "base"
    fleet.flip(ONE, now=DAWN + timedelta(minutes=2))
    assert fleet.serves() == "one"


def test_a_checkpoint_that_went_wrong_is_rolled_back_exactly_once(fleet: Fleet) -> None:
    """Answers go wrong, the watch goes back with its numbers, and after that it does nothing more."""
    _under_watch(fleet)
    fleet.engine.answer = lambda _model, _prompt: WRONG
    back = fleet.watch(5)
    assert back is not None
    assert (back.kind, back.actor, back.from_digest, back.to_digest) == ("rollback", "watch", "one", "base")
    assert "0 of 24 probes pass" in back.reason
    assert back.evidence["readings"][0]["passed"] == 0
    assert [fleet.watch(minutes) for minutes in (6, 30, 90)] == [None, None, None]
    assert fleet.serves() == "base"
    assert [kind for kind, *_ in fleet.log()] == ["flip", "rollback"]


def test_after_an_automatic_rollback_nothing_moves_by_itself_for_a_while(fleet: Fleet) -> None:
    """The cool-down holds back the dawn, as a Transient, and is over after the watch's minutes."""
    _under_watch(fleet)
    fleet.engine.answer = lambda _model, _prompt: WRONG
    fleet.watch(5)
    with pytest.raises(Transient, match="cool-down"):
        fleet.flip(TWO, DAWN + timedelta(minutes=30))
    fleet.flip(TWO, DAWN + timedelta(minutes=66))
    assert fleet.serves() == "two"


def test_a_healthy_checkpoint_settles_when_its_window_ends(fleet: Fleet) -> None:
    """Looks that pass write no line; the end of the window writes one."""
    _under_watch(fleet)
    fleet.engine.answer = _half_right
    assert [fleet.watch(minutes) for minutes in (1, 2, 3)] == [None, None, None]
    settled = fleet.watch(61)
    assert settled is not None
    assert (settled.kind, settled.to_digest, settled.done) == ("settle", "one", True)
    assert set(fleet.engine.loaded().values()) == {"served-one"}
    assert fleet.watch(62) is None
    assert watch_window(fleet.store.swaps(), 60).state == "settled"
    assert fleet.serves() == "one"


def test_missing_data_never_fires(fleet: Fleet) -> None:
    """A sandbox that fails grades nothing, an engine that is away answers nothing: the checkpoint stays."""
    _under_watch(fleet)
    broken = FakeSandbox()
    broken.faulty = True
    assert [fleet.watch(minute, broken) for minute in range(1, 6)] == [None] * 5

    def away(call: str) -> None:
        raise Transient("no engine answers")

    fleet.engine.before = away
    with pytest.raises(Transient):
        fleet.watch(7)
    assert fleet.serves() == "one"


def test_failing_calls_are_seen(fleet: Fleet) -> None:
    """Answers that are errors count as failed calls and go back without any graded answer."""
    _under_watch(fleet)
    fleet.engine.answer = lambda _model, _prompt: Completion("", "error", 0)
    back = fleet.watch(5)
    assert back is not None
    assert "24 of 24 calls failed" in back.reason


def test_a_restart_forgets_no_reading(fleet: Fleet) -> None:
    """Looks are kept as answers, each with issues and seeds of its own, and pooled until they are enough."""
    _under_watch(fleet)
    few = Fleet(fleet.store, fleet.engine, _with_probes(fleet.settings, 8))
    few.engine.answer = lambda _model, _prompt: WRONG
    assert [few.watch(minute) for minute in (1, 2)] == [None, None]
    back = few.watch(3)
    assert back is not None
    assert len(back.evidence["readings"]) == 3
    seeds = [answer.seed for answer in fleet.store.answers(1, "watch 1")]
    assert len(set(seeds)) == len(seeds) == 24


def test_nothing_is_watched_before_the_first_flip(fleet: Fleet) -> None:
    """A fleet that serves its base asks nothing."""
    fleet.engine.calls.clear()
    assert fleet.watch(1) is None
    assert fleet.engine.calls == []


def _kill_in(fleet: Fleet, call: str, act: Any) -> None:
    def kill(now: str) -> None:
        if now == call:
            raise Killed

    fleet.engine.before = kill
    with pytest.raises(Killed):
        act()
    fleet.engine.before = lambda _call: None


def _with_probes(settings: Settings, probes: int) -> Settings:
    return settings.model_copy(update={"watch": settings.watch.model_copy(update={"probes": probes})})


def _half_right(_model: str, prompt: Prompt) -> Completion:
    return RIGHT if prompt.seed % 2 else WRONG


def _under_watch(fleet: Fleet) -> None:
    """Flip to night 1's checkpoint, which passed half of 30 held-out issues when it was evaluated."""
    ids = tuple(f"r{number}" for number in range(30))
    for number, id_ in enumerate(ids):
        fleet.store.put_pulls([(PullKey("http://forge", 1, number), "t", _record(id_, number))], DAWN)
    fleet.store.open_night(_plan(ids).to_json(), "ssd", DAWN)
    fleet.store.add_answers(
        Answer(1, CANDIDATE, id_, index, index, "", "stop", index % 2 == 0, False, "")
        for id_ in ids
        for index in range(4)
    )
    fleet.flip(ONE)


def _plan(held_out: tuple[str, ...]) -> NightPlan:
    decode = Sampling(1.0, 40, 1.0, 0.0, 64)
    lora = Lora(4, 8.0, ("q_proj",), 1e-3, 4, 1, 1, 0, 64)
    return NightPlan(
        1, "ssd", 1, (), held_out, (), decode, lora, decode, "none", (0.2,), 4, 4, "auto", "base", "base",
        BASE.model, 1.0,
    )  # fmt: skip


def _record(id_: str, number: int) -> Record:
    return Record(
        id=id_, instance="http://forge", repository_id=1, repository="fleet/app", pull=number, state="held_out",
        reasons=(), author="bot-a", merger="ann", base_commit="a", head_commit="b", merge_commit="c",
        issues=(f"fleet/app#{number}",), title="t", prompt=f"Do {number}.", solution="right", solution_path="app.py",
        tests=(("test_app.py", "import app"),), labels=(), diff_sha256="d", changed_paths=("app.py",), merged_at=DAWN,
    )  # fmt: skip
