"""The log of canaries: what runs, what rests, and what only an operator may bring back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleetssd import config
from fleetssd.canary import Canary
from fleetssd.trials import Outcome, Trial, held_back, margins, open_trial, resting

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RUNS = Trial(1, Canary("one", "m:1", "split", 0.1, NOW, NOW + HOUR), "base", "operator")
STOPPED = replace(RUNS, outcome="aborted", ended_by="watch", ended_at=NOW)


def test_only_the_last_one_can_be_open() -> None:
    """The last line runs until somebody ended it."""
    assert open_trial([]) is None
    assert open_trial([STOPPED, replace(RUNS, id=2)]) == replace(RUNS, id=2)
    assert open_trial([STOPPED]) is None


def test_what_the_watch_aborted_rests() -> None:
    """For the cool-down a candidate that was aborted by itself rests; another one, or an operator's abort, does not."""
    assert resting([STOPPED], "one", NOW + 0.9 * HOUR, HOUR)
    assert not resting([STOPPED], "one", NOW + HOUR, HOUR)
    assert not resting([STOPPED], "two", NOW, HOUR)
    assert not resting([replace(STOPPED, ended_by="operator")], "one", NOW, HOUR)


@pytest.mark.parametrize(
    ("outcome", "held"), [("", True), ("aborted", True), ("expired", False), ("promoted", False), ("superseded", False)]
)
def test_the_last_trial_decides_what_dawn_may_do(outcome: Outcome, *, held: bool) -> None:
    """What runs or was aborted is no automatic flip's; what nobody decided is as it was before."""
    assert held_back([STOPPED, replace(RUNS, outcome=outcome)], "one") == held
    assert not held_back([STOPPED], "two")


def test_margins_are_the_settings() -> None:
    """What a candidate may be worse by is what an operator wrote, each number in its place."""
    rules = config.Canary(max_error_rise=0.01, max_empty_rise=0.02, max_capped_rise=0.03, max_slowdown=0.04)
    found = margins(rules)
    assert (found.error_rise, found.empty_rise, found.capped_rise, found.slowdown) == (0.01, 0.02, 0.03, 0.04)
    assert (found.merge_drop, found.false_alarm) == (rules.max_merge_drop, rules.false_alarm)
    assert (found.min_calls, found.min_tasks) == (rules.min_calls, rules.min_tasks)
