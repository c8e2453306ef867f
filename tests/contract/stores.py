"""What the tests of a store file into it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from fleetssd.checkpoints import Answer, Checkpoint, VerdictRow
from fleetssd.gitea import Delivery, PullKey
from fleetssd.ports import Store
from fleetssd.records import Record

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
FORGE = "https://gitea.example"
HOUR = timedelta(hours=1)
FRESH = count(1000)
"""Names that no earlier example of a law used: the examples share one store."""


def record(number: int, **changes: Any) -> Record:
    """Return a record of pull request `number`."""
    made = Record(
        id=f"r{number}", instance=FORGE, repository_id=7, repository="fleet/app", pull=number, state="train",
        reasons=(), author="agent-1", merger="alice", base_commit="b" * 40, head_commit="h" * 40,
        merge_commit="m" * 40, issues=("fleet/app#1",), title="Add it", prompt="Do ☂ it", solution="x = 1\n",
        solution_path="x.py", tests=(("tests/test_x.py", "import x"),), labels=("house",), diff_sha256="d" * 64,
        changed_paths=("x.py", "tests/test_x.py"), merged_at=NOW + timedelta(minutes=number),
    )  # fmt: skip
    return replace(made, **changes)


def key(number: int) -> PullKey:
    """Return the key of pull request `number`."""
    return PullKey(FORGE, 7, number)


def keys(*numbers: int) -> list[PullKey]:
    """Return the keys of pull requests."""
    return [key(number) for number in numbers]


def file(store: Store, *numbers: int, **changes: Any) -> list[Record]:
    """File a record for each number."""
    made = [record(number, **changes) for number in numbers]
    for one in made:
        store.put_pulls([(key(one.pull), "t", one)], NOW)
    return made


def delivery(name: str, body: str) -> Delivery:
    """Return a delivery with this id over these bytes."""
    return Delivery(name, "pull_request", "fleet/app", 7, 3, body)


def verdict(night: int, kind: Any = "promote") -> VerdictRow:
    """Return a verdict with nested evidence."""
    return VerdictRow(night, kind, "better", "a" * 64, {"arms": [{"name": "base", "pass_1": 0.5}]}, NOW + HOUR)


def answer(arm: str, problem: str, index: int, **changes: Any) -> Answer:
    """Return an answer of night 1."""
    return replace(Answer(1, arm, problem, index, 5, "code", "stop", True, False, ""), **changes)


def checkpoint(digest: str, **changes: Any) -> Checkpoint:
    """Return a checkpoint."""
    return replace(Checkpoint(digest, "merged", f"m:{digest}", "s", 1, "merged-create", 0.4, 2**40, NOW), **changes)
