"""Grading over a real store: what a night has run once it does not run again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.operations.evaluate import BASE, CANDIDATE, Arm, Examiner, grade
from fleetssd.ports import Completion, Grade, Job, Progress, Prompt
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


class Watched(FakeEngine):
    """Two models, each asked once; the first answers when the second is asked too, or when none comes."""

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__()
        self.models = {f"m{at}": (f"digest {at}", file, None) for at, file in enumerate(files)}
        self.both = threading.Barrier(2)
        self.together: list[bool] = []

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Note whether another model is being asked too."""
        try:
            self.both.wait(30.0 if self.models["m0"][1] != self.models["m1"][1] else 0.2)
        except threading.BrokenBarrierError:
            self.together.append(False)
        else:
            self.together.append(True)
        return [RIGHT] * len(prompts)


@pytest.mark.parametrize("files", [("one", "other"), ("one", "one")], ids=["two files", "one file"])
def test_models_that_would_evict_each_other_are_not_asked_together(store: SqlStore, files: tuple[str, str]) -> None:
    """An adapter and its base are one file, and an engine has one of them loaded; others leave it no idle slot."""
    engine = Watched(files)
    asked = [Arm(name, model, DECODE, 8) for name, model in zip((BASE, CANDIDATE), engine.models, strict=True)]
    Examiner(1, 7, store, engine, Counting(), lambda *_: None).examine(asked, [PROBLEM])
    assert engine.together == [files[0] != files[1]] * 2


def test_arms_take_turns(store: SqlStore) -> None:
    """Every arm is asked a quarter of the issues before any is asked the next quarter, so drift hits all alike."""
    engine, order = FakeEngine(), list[tuple[str, int]]()
    engine.models = {name: (name, "one file", None) for name in ("m0", "m1")}
    complete = engine.complete

    def noted(model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        order.append((model, len(prompts)))
        return complete(model, prompts, sampling, progress)

    engine.complete = noted  # type: ignore[method-assign]
    engine.answer = lambda _model, _prompt: RIGHT
    asked = [Arm(name, model, DECODE, 8) for name, model in zip((BASE, CANDIDATE), engine.models, strict=True)]
    problems = [replace(PROBLEM, id=f"p{number}") for number in range(8)]
    Examiner(1, 7, store, engine, Counting(), lambda *_: None).examine(asked, problems)
    assert order == [("m0", 16), ("m1", 16)] * 4


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
