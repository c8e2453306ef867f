"""Which tasks a candidate gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.canary import Canary, meets, running

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)
CANARY = Canary("ab12cd", "fleet-coder:v2-ab12cd", "split", 0.2, AT, AT + timedelta(hours=4))
TASKS = [f"fleet/conveyor#{number}" for number in range(4000)]


def test_a_share_of_tasks_is_the_candidates() -> None:
    """A fifth of many tasks, within four standard deviations; none of them at 0 and all of them at 1."""
    met = sum(meets(CANARY, task) for task in TASKS)
    assert abs(met - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    assert not any(meets(replace(CANARY, share=0.0), task) for task in TASKS)
    assert all(meets(replace(CANARY, share=1.0), task) for task in TASKS)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_tasks(task: str, one: float, other: float) -> None:
    """Who met the candidate keeps meeting it while its share grows; any text is a task."""
    small, large = (replace(CANARY, share=share) for share in sorted((one, other)))
    assert meets(large, task) or not meets(small, task)


def test_the_next_candidate_meets_other_tasks() -> None:
    """Bad luck is spread: of the tasks of one candidate about a fifth are the next one's too."""
    again = [task for task in TASKS if meets(CANARY, task) and meets(replace(CANARY, digest="ef34"), task)]
    assert 100 < len(again) < 220


def test_a_canary_runs_from_its_start_to_its_end() -> None:
    """A stale candidate gets nothing, and no candidate is none."""
    assert running(CANARY, AT) is CANARY
    assert [running(CANARY, AT - timedelta(seconds=1)), running(CANARY, CANARY.expires_at), running(None, AT)] == [
        None
    ] * 3
