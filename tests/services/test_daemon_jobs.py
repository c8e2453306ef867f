"""The daemon's jobs around calls and canaries, over a real database; forge and engine are away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetssd.canary import Canary
from fleetssd.checkpoints import Checkpoint, VerdictRow
from fleetssd.errors import Transient
from fleetssd.telemetry import Filter
from fleetssd.trials import Trial
from services.daemon import Daemon
from tests.contract.stores import file
from tests.services.test_hint import daemon
from tests.services.test_traffic import CALL

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
BASE, ONE = "b" * 64, "1" * 64


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Daemon]:
    """Make a daemon that serves its base and whose night promoted another checkpoint."""
    one = daemon(tmp_path)
    store = one.parts.store
    for digest, kind, night in ((BASE, "base", None), (ONE, "merged", 1)):
        store.put_checkpoint(Checkpoint(digest, kind, f"m:{kind}", "s", night, "none", 1.0, 1, NOW))  # type: ignore[arg-type]
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(VerdictRow(1, "promote", "better", ONE, {}, NOW), [], NOW)
    yield one
    one.parts.close()


def tried(made: Daemon) -> Trial:
    """Start a canary of what waits for dawn."""
    line = Trial(0, Canary(ONE, "m:merged", "split", 0.1, NOW - HOUR, NOW + 9 * HOUR), BASE, "operator")
    begun = made.parts.store.begin_trial(line)
    assert begun is not None
    return begun


def test_a_bad_canary_ends_while_the_engine_is_away(made: Daemon) -> None:
    """The look needs the database alone: a candidate that fails loses its share at once."""
    begun = tried(made)
    sides = ((BASE, "", 200), (ONE, "away", 0))
    calls = [
        replace(CALL, id=f"{digest[0]}{n}", at=begun.canary.started_at, checkpoint=digest, fault=fault, status=status)  # type: ignore[arg-type]
        for digest, fault, status in sides
        for n in range(40)
    ]
    made.parts.store.add_calls(calls, None)
    made._job(made._canary)
    (ended,) = made.parts.store.trials()
    assert (ended.outcome, ended.ended_by) == ("aborted", "watch")
    made._job(made._canary)
    assert made.parts.store.trials() == [ended]


def test_dawn_leaves_alone_what_is_on_trial_or_was_aborted(made: Daemon) -> None:
    """What waits for dawn is flipped to as before only where no canary of it runs or failed."""
    with pytest.raises(Transient):
        made._dawn()
    begun = tried(made)
    made._dawn()
    made.parts.store.end_trial(begun.id, "aborted", "watch", "slow", NOW, {})
    made._dawn()
    again = tried(made)
    made.parts.store.end_trial(again.id, "expired", "watch", "late", NOW, {})
    with pytest.raises(Transient):
        made._dawn()


def test_a_poll_finds_whose_work_its_records_hold(made: Daemon) -> None:
    """Also where the forge is away: what is on file has its origin before the next night."""
    file(made.parts.store, 1)
    with pytest.raises(Transient):
        made._poll_once()
    assert made.parts.store.origins()["r1"].round == 0


def test_old_calls_go(made: Daemon) -> None:
    """Calls that are older than the settings keep them are removed, younger ones stay."""
    old = NOW - timedelta(days=made.settings.telemetry.keep_days + 1)
    made.parts.store.add_calls([replace(CALL, id="old", at=old), replace(CALL, id="new", at=NOW)], None)
    made._prune()
    assert [call.id for call in made.parts.store.calls(Filter(), 9)] == ["new"]
