"""One core is left to the engine: by what asks it and by what runs answers, and by nothing else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleetssd.adapters.sandboxes import BareSandbox, BubblewrapSandbox
from fleetssd.cores import leave_one, spare
from fleetssd.ports import Job

GIVEN = sorted(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(len(GIVEN) < 2, reason="a machine of one core has none to leave")


def seen(wanted: int, times: int = 1) -> set[int]:
    """Return the cores of a thread that left one so many times."""

    def leave() -> None:
        for _ in range(times):
            leave_one(wanted)

    with ThreadPoolExecutor(1, initializer=leave) as pool:
        return pool.submit(os.sched_getaffinity, 0).result()


@pytest.mark.parametrize("times", [1, 2])
def test_a_thread_leaves_one_core_however_often_it_is_told(times: int) -> None:
    """The first core is left, and only that one; the process itself keeps them all."""
    assert seen(1, times) == {*GIVEN[1:]}
    assert sorted(os.sched_getaffinity(0)) == GIVEN


def test_a_thread_below_one_that_left_a_core_leaves_no_other() -> None:
    """What is left is counted from what the process was given, not from what a thread above has left of it."""
    with ThreadPoolExecutor(1, initializer=leave_one) as pool:
        assert pool.submit(seen, 1).result() == {*GIVEN[1:]}


def test_who_wants_every_core_gets_every_core() -> None:
    """As many threads as there are cores leave none."""
    assert seen(len(GIVEN)) == {*GIVEN}


def test_spare_cores_are_all_but_one() -> None:
    """So many runs at once leave one core; a limit lowers them, and one is the least."""
    assert spare(1_000) == len(GIVEN) - 1
    assert spare(1) == 1


@pytest.mark.parametrize("kind", [BubblewrapSandbox, BareSandbox])
@pytest.mark.parametrize("workers", [1, len(GIVEN)])
def test_a_run_has_the_cores_that_its_sandbox_left(kind: type[BubblewrapSandbox | BareSandbox], workers: int) -> None:
    """Runs keep off the engine's core, unless as many are wanted at once as there are cores."""
    cores = GIVEN[1:] if workers < len(GIVEN) else GIVEN
    told = f"import os\nassert sorted(os.sched_getaffinity(0)) == {cores}, os.sched_getaffinity(0)\n"
    with kind(workers=workers) as sandbox:
        (grade,) = sandbox.run([Job("1", (("t.py", told),), ("python", "t.py"))], lambda *_: None)
    assert (grade.passed, grade.detail) == (True, "")
