"""Canaries over a real database and an engine in memory: started, judged by calls, ended once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call
from fleetssd.checkpoints import Swap
from fleetssd.config import Settings, parse
from fleetssd.errors import Rejected
from fleetssd.operations import canary
from fleetssd.operations.origins import find_origins, merges
from fleetssd.operations.swap import flip
from fleetssd.operations.traffic import by_checkpoint, prune
from fleetssd.operations.watch import watch_once
from fleetssd.serving import served
from fleetssd.telemetry import MergeRate
from fleetssd.trials import Trial
from tests.contract.stores import file
from tests.fakes import FakeEngine, FakeGrounds, FakeSandbox
from tests.services.test_swap import ALIAS, BASE, DAWN, ONE, TWO, _plan

MINUTE = timedelta(minutes=1)
PLAN = _plan(())


def watch(fleet: Fleet, minutes: float) -> Swap | None:
    """Let the watch look once; there is no held-out issue to ask."""
    return watch_once(fleet.store, fleet.engine, FakeSandbox(), FakeGrounds(), fleet.settings, DAWN + minutes * MINUTE)


@dataclass
class Fleet:
    """A store, an engine and the settings; calls are put on file as the gateway does."""

    store: SqlStore
    engine: FakeEngine
    settings: Settings
    told: int = 0

    def start(self, minutes: float = 0.0, **more: Any) -> Trial:
        """Start a canary of ONE, so many minutes after dawn."""
        return canary.start(self.store, self.engine, self.settings, ONE, DAWN + minutes * MINUTE, **more)

    def look(self, minutes: float) -> Trial | None:
        """Let the daemon look once."""
        return canary.analyse(self.store, self.engine, self.settings, DAWN + minutes * MINUTE)

    def calls(self, digest: str, count: int, minutes: float = 1.0, **more: Any) -> None:
        """Let a checkpoint answer so many calls."""
        at = DAWN + minutes * MINUTE
        first, self.told = self.told, self.told + count
        self.store.add_calls(
            [
                replace(
                    Call(f"c{first + n}", at, "bot", "", "none", "/api/chat", ALIAS, "m", digest, 200, 10**9), **more
                )
                for n in range(count)
            ],
            None,
        )


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Yield a fleet that serves its base, with two candidates installed."""
    table = {
        "data_dir": tmp_path,
        "forge": {"url": "http://forge", "token_file": tmp_path / "token"},
        "fleet": {"agents": ["bot"], "repositories": ["fleet/*"]},
        "canary": {"minutes": 60, "cool_down_minutes": 30, "merge_hours": 1},
    }
    store, engine = SqlStore.open(f"sqlite:///{tmp_path / 'db.sqlite3'}"), FakeEngine()
    for point in (BASE, ONE, TWO):
        store.put_checkpoint(point)
        engine.models[point.model] = (point.served_digest, f"blob-{point.digest}", None)
    engine.models[ALIAS] = engine.models[BASE.model]
    yield Fleet(store, engine, parse(table))
    store.close()


def test_a_canary_starts_loaded_and_beside_what_serves(fleet: Fleet) -> None:
    """Its line names both digests, its share and its end; the alias stays where it is."""
    begun = fleet.start()
    assert (begun.canary.digest, begun.incumbent, begun.canary.share) == ("one", "base", 0.1)
    assert begun.canary.expires_at == DAWN + 60 * MINUTE
    assert f"preload {ONE.model}" in fleet.engine.calls
    assert fleet.store.canary() == begun.canary
    assert fleet.engine.models[ALIAS] == fleet.engine.models[BASE.model]


def test_what_cannot_be_tried_is_refused(fleet: Fleet) -> None:
    """Not what serves, not what the engine has not, and not a second one beside the first."""
    with pytest.raises(Rejected, match="serves everybody"):
        canary.start(fleet.store, fleet.engine, fleet.settings, BASE, DAWN)
    with pytest.raises(Rejected, match="does not have"):
        canary.start(fleet.store, fleet.engine, fleet.settings, replace(TWO, model="gone"), DAWN)
    fleet.start()
    with pytest.raises(Rejected, match="runs already"):
        canary.start(fleet.store, fleet.engine, fleet.settings, TWO, DAWN)


def test_two_that_do_not_fit_are_no_canary(fleet: Fleet) -> None:
    """Where loading the candidate sends the incumbent away it is refused and undone, unless somebody insists."""
    fleet.engine.models[ONE.model] = (ONE.served_digest, "blob-base", "lora")
    fleet.engine.preload(BASE.model)
    with pytest.raises(Rejected, match="at once"):
        fleet.start()
    assert BASE.served_digest in fleet.engine.loaded().values()
    assert fleet.store.canary() is None
    assert fleet.start(crowded=True).canary.digest == "one"


def test_a_candidate_that_fails_is_aborted_once(fleet: Fleet) -> None:
    """Failures beyond the limit end it by themselves; its line keeps both sides' numbers and why."""
    fleet.start()
    fleet.calls("base", 200)
    fleet.calls("one", 20, fault="engine", status=500)
    ended = fleet.look(2)
    assert ended is not None
    assert (ended.outcome, ended.ended_by, ended.reason) == (
        "aborted", "watch", "failed calls 100.0 % against 0.0 %",
    )  # fmt: skip
    assert ended.evidence["candidate"]["errors"] == 20
    assert fleet.store.canary() is None
    assert fleet.engine.calls[-1] == f"release {ONE.model}"
    assert fleet.look(3) is None
    found = served(fleet.store.swaps(), fleet.store.checkpoints())
    assert found == BASE


@pytest.mark.parametrize("sides", [{}, {"one": 19, "base": 200}, {"one": 200, "base": 19}, {"one": 200}])
def test_missing_data_never_fires(fleet: Fleet, sides: dict[str, int]) -> None:
    """However badly one side does, too few calls on either leave the canary as it is."""
    fleet.start()
    for digest, count in sides.items():
        fault: Any = {"fault": "engine", "status": 500} if digest == "one" else {}
        fleet.calls(digest, count, **fault)
    assert fleet.look(2) is None


def test_a_good_candidate_is_never_promoted_by_itself(fleet: Fleet) -> None:
    """Equal calls change nothing; at the end of its time it goes back to nothing, and dawn is free again."""
    fleet.start()
    for digest in ("base", "one"):
        fleet.calls(digest, 300)
    assert fleet.look(59) is None
    ended = fleet.look(60)
    assert ended is not None
    assert (ended.outcome, ended.ended_by) == ("expired", "watch")
    assert fleet.store.swaps() == []


def test_an_aborted_candidate_rests(fleet: Fleet) -> None:
    """For the cool-down it starts only again where a person insists."""
    fleet.start()
    fleet.calls("base", 200)
    fleet.calls("one", 20, fault="cut")
    fleet.look(2)
    with pytest.raises(Rejected, match="short while ago"):
        fleet.start(31)
    assert fleet.start(31, again=True).id == 2


def test_old_calls_are_not_the_new_canarys(fleet: Fleet) -> None:
    """A second trial is judged by its own window alone."""
    fleet.start()
    fleet.calls("base", 200)
    fleet.calls("one", 20, fault="cut")
    fleet.look(2)
    fleet.start(40)
    assert fleet.look(41) is None


def test_promoting_flips_with_the_canarys_evidence(fleet: Fleet) -> None:
    """The alias serves the candidate by an operator's line, which names the canary and its numbers."""
    begun = fleet.start()
    fleet.calls("one", 3)
    ended, line = canary.promote(fleet.store, fleet.engine, fleet.settings, DAWN + 5 * MINUTE, "looks good")
    assert (ended.outcome, ended.ended_by, line.kind, line.actor) == ("promoted", "operator", "flip", "operator")
    assert (line.evidence["canary"], line.evidence["candidate"]["calls"]) == (begun.id, 3)
    assert fleet.engine.models[ALIAS][0] == ONE.served_digest


def test_a_flip_without_its_row_is_found(fleet: Fleet) -> None:
    """Death between the flip and the canary's row is mended by the next look."""
    fleet.start()
    flip(fleet.store, fleet.engine, fleet.settings, ONE, actor="operator", now=DAWN + MINUTE)
    ended = fleet.look(2)
    assert ended is not None
    assert ended.outcome == "promoted"


def test_a_canary_beside_what_no_longer_serves_ends(fleet: Fleet) -> None:
    """What it was compared with is gone, so nothing more can be said of it."""
    fleet.start()
    flip(fleet.store, fleet.engine, fleet.settings, TWO, actor="operator", now=DAWN + MINUTE)
    ended = fleet.look(2)
    assert ended is not None
    assert ended.outcome == "superseded"


def test_an_abort_by_hand_is_timed(fleet: Fleet) -> None:
    """The seconds until the candidate got its last call are known from the calls on file."""
    fleet.start()
    ended = canary.abort(fleet.store, fleet.engine, fleet.settings, DAWN + 5 * MINUTE, "no")
    assert (ended.outcome, ended.ended_by) == ("aborted", "operator")
    fleet.calls("one", 1, minutes=5 + 0.7 / 60)
    standing = canary.look(fleet.store, fleet.settings, DAWN + 9 * MINUTE, ended)
    assert standing.lag == pytest.approx(0.7)
    with pytest.raises(Rejected, match="no canary runs"):
        canary.abort(fleet.store, fleet.engine, fleet.settings, DAWN, "no")


def test_merges_are_attributed_through_named_tasks(fleet: Fleet) -> None:
    """A merged record's task counts for the checkpoint that answered it, a task without one against it."""
    file(fleet.store, 7, merged_at=DAWN + 30 * MINUTE, issues=("fleet/app#1",), author="bot")
    for task in ("fleet/app#1", "fleet/app#2"):
        fleet.calls("one", 2, task=task, task_source="header")
    assert merges(fleet.store, fleet.settings, DAWN, DAWN + 59 * MINUTE) == {}
    assert merges(fleet.store, fleet.settings, DAWN, DAWN + 61 * MINUTE) == {"one": MergeRate(2, 1)}


def test_origins_are_found_once_and_stay(fleet: Fleet) -> None:
    """A record gets the round of what answered its task; one before any flip is the base's."""
    file(fleet.store, 7, merged_at=DAWN + 30 * MINUTE, issues=("fleet/app#1",), author="bot")
    file(fleet.store, 8, merged_at=DAWN - 30 * MINUTE, author="bot")
    fleet.calls("one", 2, task="fleet/app#1", task_source="header")
    assert find_origins(fleet.store, fleet.settings) == 2
    assert find_origins(fleet.store, fleet.settings) == 0
    found = {name: (one.round, one.basis) for name, one in fleet.store.origins().items()}
    assert found == {"r7": (1, "task"), "r8": (0, "swaps")}


def test_the_watch_goes_back_by_the_fleets_own_calls(fleet: Fleet) -> None:
    """Calls that fail after a flip, where those of the day before at the same hour did not, roll it back."""
    fleet.store.open_night(PLAN.to_json(), "ssd", DAWN)
    line = flip(fleet.store, fleet.engine, fleet.settings, ONE, actor="dawn", now=DAWN)
    fleet.calls("one", 30, fault="engine", status=500)
    assert watch(fleet, 10) is None
    fleet.calls("base", 100, minutes=1 - 24 * 60)
    back = watch(fleet, 11)
    assert back is not None
    assert (back.kind, back.actor, back.from_digest) == ("rollback", "watch", line.to_digest)
    assert back.reason == "failed calls 100.0 % against 0.0 %"
    assert back.evidence["traffic"]["incumbent"]["calls"] == 100


def test_old_calls_leave_by_age(fleet: Fleet) -> None:
    """What is older than the settings keep it goes; the rest stays."""
    fleet.calls("base", 3, minutes=-91 * 24 * 60)
    fleet.calls("base", 2)
    assert prune(fleet.store, fleet.settings, DAWN) == 3
    assert by_checkpoint(fleet.store, fleet.settings, DAWN - timedelta(days=99), DAWN + 2 * MINUTE)["base"].calls == 2
