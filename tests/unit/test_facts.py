"""Merged pull requests as facts, and what a memory server's answers mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import facts
from fleetssd.facts import Written
from fleetssd.gitea import PullKey, PullRow
from fleetssd.records import refused_row

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
ROW = PullRow(PullKey("f", 1, 12), "fleet/app", "SECRET TITLE", "", "agent-1", True, (), NOW, "")
RECORD = replace(refused_row(ROW, ()), merge_commit="c" * 40, issues=("fleet/app#9", "fleet/app#10"))


def test_a_fact_is_one_sentence() -> None:
    """The number, the repository, the first issue and the whole commit, and no more than one full stop."""
    assert facts.sentence(RECORD) == (
        f"Pull request number 12 of fleet/app resolving issue number 9 was merged at commit {'c' * 40}."
    )
    assert facts.sentence(replace(RECORD, issues=())) == (
        f"Pull request number 12 of fleet/app was merged at commit {'c' * 40}."
    )


def test_the_body_names_and_tells_nothing() -> None:
    """Names, numbers and the commit; the task's name only in the scope that has tasks."""
    body = facts.body(RECORD, "fleetssd", "PROJECT")
    assert (body["scope_target"], "task_id" in body) == ("PROJECT", False)
    assert body["entity_mentions"] == ["fleet/app", "PR 12", "c" * 12]
    assert body["metadata"]["issues"] == ["fleet/app#9", "fleet/app#10"]
    assert "SECRET" not in repr(body)
    long = facts.body(replace(RECORD, repository="o/" + "r" * 200), "fleetssd", "TASK")
    assert (len(long["task_id"]), long["task_id"][-3:]) == (128, "#12")


def test_a_key_is_of_its_scope() -> None:
    """The same write has the same key; in the other scope it is another write."""
    assert facts.key(RECORD, "PROJECT") == f"fleet/app#12@{'c' * 40}"
    assert facts.key(RECORD, "TASK") == f"fleet/app#12@{'c' * 40}/task"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"memory_id": "m", "write_outcome": "merged"}, Written("m", "merged")),
        ({"memory": {"id": "m"}}, Written("m", "created")),
        ({"id": 7, "memory": "text"}, Written("7", "created")),
        ({"write_outcome": "dropped"}, Written("", "dropped")),
    ],
)
def test_an_answer_is_read_in_every_shape(answer: dict[str, Any], expected: Written) -> None:
    """The id stands flat or nested; what was dropped has none."""
    assert facts.written(answer) == expected


def test_an_answer_without_a_memory_is_none() -> None:
    """What is said to be written and has no id cannot be read back."""
    with pytest.raises(KeyError):
        facts.written({"write_outcome": "created"})


def test_a_memory_says_what_was_written() -> None:
    """Nested or flat; another text is another memory."""
    assert facts.says({"memory": {"content": "x"}}, "x")
    assert facts.says({"content": "x", "memory": "m"}, "x")
    assert not facts.says({"memory": {"content": "y"}}, "x")


@given(st.integers(1, 10**6))
def test_the_pause_doubles_up_to_an_hour(attempts: int) -> None:
    """It never shrinks, starts at half a minute and ends at an hour."""
    pause = facts.next_try(attempts, NOW) - NOW
    assert facts.next_try(1, NOW) - NOW == facts.FIRST_WAIT
    assert facts.FIRST_WAIT <= pause <= min(2 * pause, facts.LONGEST_WAIT)
    assert facts.next_try(attempts + 1, NOW) - NOW in (2 * pause, facts.LONGEST_WAIT)
    assert facts.next_try(10**6, NOW) == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("url", "leaves"),
    [
        ("http://127.0.0.1:3000", False),
        ("http://[::1]:3000", False),
        ("http://localhost", False),
        ("http://memory.localhost", False),
        ("http://10.0.0.8", True),
        ("https://api.retaindb.example", True),
        ("http://localhost.example", True),
        ("nonsense", True),
    ],
)
def test_only_loopback_is_this_machine(url: str, leaves: bool) -> None:
    """A name other than localhost may be anybody's."""
    assert facts.leaves_machine(url) is leaves


def test_the_warning_says_what_leaves_and_how() -> None:
    """An unencrypted connection is said to be one."""
    assert "not encrypted" in facts.warning("http://memory.example")
    assert "leave this machine." in facts.warning("https://memory.example")
    assert "not encrypted" not in facts.warning("https://memory.example")
