"""Grading over a real store: what a night has run once it does not run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.operations.evaluate import BASE, CANDIDATE, Arm, Examiner, grade
from fleetssd.ports import Completion, Grade, Job, Progress
from fleetssd.problems import Outcome, Problem
from fleetssd.recipe import Sampling
from tests.fakes import FakeEngine, FakeSandbox

DECODE = Sampling(1.0, 40, 1.0, 0.0, 16)
PROBLEM = Problem("p", "fleet/metrics", 1, "Do it.", "src/it.py", (("tests/test_it.py", "check()\n"),))
RIGHT, WRONG = Completion("```python\nright = 1\n```", "stop", 4), Completion("```python\nlost = 1\n```", "stop", 4)


class Counting(FakeSandbox):
    """Passes what contains the word `right`, and keeps what it was asked to run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Job] = []

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Grade]:
        """Grade by one word."""
        self.ran += jobs
        return super().run(jobs, progress)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Yield a store in which night 1 is open."""
    with closing(SqlStore.open(f"sqlite:///{tmp_path}/fleet.sqlite3")) as opened:
        opened.open_night({"night": 1}, "ssd", datetime(2026, 1, 1, tzinfo=UTC))
        yield opened


def arms(*names: str) -> list[Arm]:
    """Return arms that ask the same model the same way."""
    return [Arm(name, "base:latest", DECODE, 8) for name in names]


def examine(store: SqlStore, sandbox: Counting, *asked: Arm) -> None:
    """Let every arm answer rightly, but for odd seeds."""
    engine = FakeEngine()
    engine.answer = lambda _model, prompt: WRONG if prompt.seed % 2 else RIGHT
    Examiner(1, 7, store, engine, sandbox, lambda *_: None).examine(asked, [PROBLEM])


def test_equal_answers_of_two_arms_are_run_once(store: SqlStore) -> None:
    """Sixteen answers of two arms, of two kinds, cost two runs, and each has its own kind's grade."""
    sandbox = Counting()
    examine(store, sandbox, *arms(BASE, CANDIDATE))
    assert len(sandbox.ran) == 2
    kept = store.answers(1)
    assert len(kept) == 16
    assert all(row.passed == (row.completion == RIGHT.text) for row in kept)


def test_what_is_on_file_is_not_run_again_after_an_interruption(store: SqlStore) -> None:
    """A new examiner takes the grades of equal answers from the night's rows."""
    examine(store, Counting(), *arms(BASE))
    again = Counting()
    examine(store, again, *arms(BASE, CANDIDATE))
    assert not again.ran
    assert len(store.answers(1, CANDIDATE)) == 8


def test_a_fault_is_no_grade_and_is_run_again(store: SqlStore) -> None:
    """Where the sandbox itself failed, the next equal answer gets a run of its own."""
    known: dict[bytes, Outcome] = {}
    sandbox = Counting()
    sandbox.faulty = True
    assert [each.fault for each in grade([PROBLEM] * 2, [RIGHT] * 2, sandbox, known)] == [True, True]
    sandbox.faulty = False
    assert [each.passed for each in grade([PROBLEM], [RIGHT], sandbox, known)] == [True]
    assert len(sandbox.ran) == 2


def test_an_answer_that_the_engine_broke_off_is_void_and_not_run() -> None:
    """A completion that ended in an error is a fault, whatever text there is, and costs no run."""
    sandbox = Counting()
    found = grade([PROBLEM], [replace(RIGHT, finish="error")], sandbox)
    assert (found[0].passed, found[0].fault, sandbox.ran) == (False, True, [])
