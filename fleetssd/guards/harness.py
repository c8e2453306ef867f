"""What the lm-evaluation-harness says of a model: one share a task, with its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetssd.config import Gate as Policy
from fleetssd.errors import Corrupt
from fleetssd.guards.margins import Guard, weigh_shares

_FIRST = ("exact_match", "acc_norm", "acc", "prompt_level_strict_acc", "pass@1", "em", "f1")
"""Which of a task's metrics is read, where it has several."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A task's metric over `items` items: a share and its standard error."""

    task: str
    metric: str
    items: int
    share: float
    error: float


def parse_results(table: Mapping[str, Any], tasks: Sequence[str]) -> tuple[TaskScore, ...]:
    """Read the harness's results (lm_eval 0.4, `results_*.json`) for these tasks or groups.

    Raises Corrupt where one is missing, or has no metric with a standard error of which more is better.
    """
    return tuple(_score(table, task) for task in tasks)


def weigh_tasks(base: Sequence[TaskScore], candidate: Sequence[TaskScore], policy: Policy) -> tuple[Guard, ...]:
    """Hold the candidate's tasks against the base's, in the base's order. Other tasks or metrics raise ValueError."""
    return tuple(
        weigh_shares(f"{one.task} ({one.metric})", one.items, (one.share, one.error), (two.share, two.error), policy)
        for one, two in zip(base, candidate, strict=True)
        if _same(one, two)
    )


def _same(one: TaskScore, two: TaskScore) -> bool:
    if (one.task, one.metric, one.items) != (two.task, two.metric, two.items):
        raise ValueError(f"{one.task} and {two.task} were not asked alike")
    return True


def _score(table: Mapping[str, Any], task: str) -> TaskScore:
    numbers: Mapping[str, Any] = (table.get("groups") or {}).get(task) or (table.get("results") or {}).get(task) or {}
    found = [name for name in numbers if _usable(table, task, name, numbers)]
    if not found:
        hint = "Choose a task that has one (`lm_eval ls tasks`), or take it out of [guards] lm_eval_tasks."
        raise Corrupt(f"lm_eval told no metric with a standard error of {task}", hint=hint)
    name = min(found, key=lambda name: (_rank(name), found.index(name)))
    items = _items(table, task)
    return TaskScore(task, name.removesuffix(",none"), items, float(numbers[name]), float(numbers[_error(name)]))


def _usable(table: Mapping[str, Any], task: str, name: str, numbers: Mapping[str, Any]) -> bool:
    """Say whether a name is a share (0 to 1) with a standard error, of which more is better."""
    better = ((table.get("higher_is_better") or {}).get(task) or {}).get(name.partition(",")[0])
    both = (numbers[name], numbers.get(_error(name)))
    numeric = all(isinstance(number, int | float) and not isinstance(number, bool) for number in both)
    return "," in name and better is not False and numeric and 0.0 <= float(numbers[name]) <= 1.0


def _error(name: str) -> str:
    metric, _, filtered = name.partition(",")
    return f"{metric}_stderr,{filtered}"


def _rank(name: str) -> int:
    metric = name.partition(",")[0]
    return _FIRST.index(metric) if metric in _FIRST else len(_FIRST)


def _items(table: Mapping[str, Any], task: str) -> int:
    """Return how many items were asked; a group's are those of its tasks."""
    counts = table.get("n-samples") or {}
    if task in counts:
        return max(1, int(counts[task]["effective"]))
    return max(1, sum(_items(table, part) for part in (table.get("group_subtasks") or {}).get(task) or ()))
