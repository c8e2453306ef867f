"""What the lm-evaluation-harness writes, read as shares with errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleetssd.config import Gate
from fleetssd.errors import Corrupt
from fleetssd.guards.harness import TaskScore, parse_results, weigh_tasks

RECORDED = json.loads((Path(__file__).parents[2] / "samples" / "lm_eval" / "results.json").read_text())


def table(**numbers: Any) -> dict[str, Any]:
    """Return results of one task, with 50 items."""
    return {
        "results": {"t": {"alias": "t", **{name.replace("__", ","): value for name, value in numbers.items()}}},
        "higher_is_better": {"t": {"perplexity": False, "acc": True, "exact_match": True}},
        "n-samples": {"t": {"original": 90, "effective": 50}},
    }


def test_a_recorded_run_is_read() -> None:
    """What lm_eval 0.4.13 wrote of a model that was asked ten items: metric, items, share and error."""
    (found,) = parse_results(RECORDED, ["fleet_tiny"])
    assert found == TaskScore("fleet_tiny", "exact_match", 10, 0.0, 0.0)


def test_one_metric_is_chosen_where_there_are_several() -> None:
    """An exact match goes before accuracy, a filter other than none is named, and the first of equals is taken."""
    both = {"acc__none": 0.5, "acc_stderr__none": 0.05}
    (found,) = parse_results(table(**both, exact_match__strict=0.4, exact_match_stderr__strict=0.04), ["t"])
    assert (found.metric, found.share, found.error, found.items) == ("exact_match,strict", 0.4, 0.04, 50)
    (odd,) = parse_results(table(own__none=0.3, own_stderr__none=0.1, other__none=0.9, other_stderr__none=0.1), ["t"])
    assert odd.metric == "own"


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"acc__none": 0.5, "acc_stderr__none": "N/A"},
        {"acc__none": 0.5},
        {"perplexity__none": 0.9, "perplexity_stderr__none": 0.1},
        {"acc__none": 31.0, "acc_stderr__none": 1.0},
        {"acc__none": True, "acc_stderr__none": 0.1},
    ],
)
def test_what_cannot_be_held_to_a_margin_is_refused(numbers: dict[str, Any]) -> None:
    """No error, less is better, no share: there is nothing to compare."""
    with pytest.raises(Corrupt, match="no metric with a standard error of t") as refused:
        parse_results(table(**numbers), ["t"])
    assert "lm_eval_tasks" in refused.value.hint
    with pytest.raises(Corrupt):
        parse_results({}, ["t"])


def test_a_group_has_the_items_of_its_tasks() -> None:
    """A group's share stands among the groups; its items are counted task by task."""
    results = {
        "groups": {"g": {"acc,none": 0.5, "acc_stderr,none": 0.02}},
        "group_subtasks": {"g": ["a", "h"], "h": ["b"], "a": []},
        "n-samples": {"a": {"original": 9, "effective": 7}, "b": {"original": 9, "effective": 4}},
    }
    (found,) = parse_results(results, ["g"])
    assert (found.items, found.share) == (11, 0.5)


def test_tasks_are_held_to_the_margin_one_by_one() -> None:
    """The paper's loss on shell is a drop; equal shares over many items hold; others than asked are an error."""
    base = [TaskScore("shell", "pass@1", 600, 0.475, 0.02), TaskScore("mmlu", "acc", 2000, 0.706, 0.01)]
    candidate = [TaskScore("shell", "pass@1", 600, 0.317, 0.019), TaskScore("mmlu", "acc", 2000, 0.700, 0.01)]
    assert [guard.state for guard in weigh_tasks(base, candidate, Gate())] == ["drop", "holds"]
    assert weigh_tasks((), (), Gate()) == ()
    with pytest.raises(ValueError, match="not asked alike"):
        weigh_tasks(base, list(reversed(candidate)), Gate())
