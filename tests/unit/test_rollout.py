"""Swaps as steps, restarts at any point, and the watch's verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.checkpoints import Actor, Checkpoint, Kind, Swap, SwapKind
from fleetssd.rollout import (
    GoBack,
    Limits,
    Point,
    Preload,
    Prove,
    Quiet,
    Reading,
    Stay,
    at_most,
    cooling,
    crowded,
    plan_flip,
    plan_return,
    resume,
    rolled_back,
    watch_verdict,
    watched,
)

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
LIMITS = Limits(min_calls=20, max_drop=0.25, max_error_rate=0.2)


def checkpoint(name: str, kind: Kind = "merged") -> Checkpoint:
    """Return a checkpoint whose digests are made from its name."""
    return Checkpoint(name, kind, f"fleet:{name}", f"served-{name}", 1, "merged-create", 1.0, 1, NOW)


def line(
    kind: SwapKind, to: str, *, origin: str = "base", actor: Actor = "dawn", done: bool = True, at: datetime = NOW
) -> Swap:
    """Return a line of the swap log."""
    return Swap(1, kind, actor, origin, to, f"fleet:{to}", 1, "", at=at, done=done)


def test_a_candidate_with_its_own_file_is_loaded_first() -> None:
    """Nobody waits for a load: it happens beside the incumbent, before the alias moves."""
    steps = plan_flip(checkpoint("c"), checkpoint("b"), beside=True)
    assert [type(step) for step in steps] == [Preload, Point, Prove, Preload]


def test_a_candidate_on_the_shared_file_is_loaded_after() -> None:
    """Loading it first would evict the incumbent, so in a quiet moment the alias moves first."""
    steps = plan_flip(checkpoint("c", "adapter"), checkpoint("b"), beside=False)
    assert steps == (Quiet("fleet:b"), Point("fleet:c"), Prove("served-c", "c"), Preload("fleet:c"))


@pytest.mark.parametrize(
    ("seen", "one_file", "expected"),
    [([], False, False), ([False], False, True), ([True], False, False), ([None], False, False),
     ([False, None], False, True), ([False, True], False, False), ([False], True, False)],
)  # fmt: skip
def test_an_engine_is_crowded_where_the_last_flip_put_the_incumbent_out(
    seen: list[bool | None], one_file: bool, expected: bool
) -> None:
    """The newest flip of two files that could tell decides; one file has one place in any case."""
    swaps = [replace(line("flip", "c"), evidence={"previous_stays_loaded": one, "one_file": one_file}) for one in seen]
    assert crowded(swaps) is expected


def test_going_back_moves_the_alias_first() -> None:
    """The fleet waits for nothing but the copy; a checkpoint without adapter is proven to have none."""
    assert plan_return(checkpoint("b", "base"))[:2] == (Point("fleet:b"), Prove("served-b", None))


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("torn", [True, False])
def test_a_kill_at_any_step_ends_at_candidate_or_incumbent(kind: Kind, shared: bool, torn: bool) -> None:
    """Replaying a restart after each step, with the copy whole or torn, always ends proven, at one of the two."""
    candidate = checkpoint("c", kind)
    steps = plan_flip(candidate, checkpoint("b"), beside=not shared)
    for killed_at in range(len(steps) + 1):
        for target_digest in ("served-c", None, "something else"):
            alias: str | None = "served-base"
            for step in steps[:killed_at]:
                alias = "served-c" if isinstance(step, Point) else alias
            if torn and killed_at < len(steps) and isinstance(steps[killed_at], Point):
                alias = None
            way = resume(target_digest, "served-c", alias)
            ends = {"finish": alias, "redo": target_digest, "undo": "served-base"}[way]
            assert ends == ("served-c" if target_digest == "served-c" else "served-base")


def test_a_swap_that_arrived_is_only_finished() -> None:
    """The alias serves the target already: nothing is left but the proof."""
    assert resume("d", "d", "d") == "finish"


def test_only_a_proven_rollback_counts_against_an_artefact() -> None:
    """What was rolled back is known by its digest; an open line proves nothing."""
    log = [line("flip", "c"), line("rollback", "base", origin="c", done=False)]
    assert not rolled_back(log, "c")
    assert rolled_back([*log, line("rollback", "base", origin="c")], "c")


def test_the_cool_down_belongs_to_the_watch() -> None:
    """A rollback by the watch cools down for a while; one by an operator does not."""
    hour = timedelta(hours=1)
    by_watch = [line("rollback", "base", origin="c", actor="watch")]
    assert cooling(by_watch, NOW + timedelta(minutes=59), hour)
    assert not cooling(by_watch, NOW + hour, hour)
    assert not cooling([line("rollback", "base", origin="c", actor="operator")], NOW, hour)


def test_only_a_flip_that_nothing_followed_is_watched() -> None:
    """Refusals and open lines do not end a watch; a settle and a rollback do."""
    flip = line("flip", "c")
    assert watched([]) is None
    assert watched([flip, line("refused", "d"), line("rollback", "base", done=False)]) is flip
    assert watched([flip, line("settle", "c")]) is None
    assert watched([flip, line("rollback", "base")]) is None


def test_too_few_calls_never_fire() -> None:
    """Missing data is no evidence, however bad the little that there is."""
    for readings in ([], [Reading(19, 19, 0, 0, None)]):
        assert isinstance(watch_verdict(readings, LIMITS), Stay)


def test_failing_calls_fire() -> None:
    """More failed calls than allowed are a reason of their own; exactly as many are not."""
    assert isinstance(watch_verdict([Reading(20, 5, 15, 15, 0.5)], LIMITS), GoBack)
    assert isinstance(watch_verdict([Reading(20, 4, 16, 16, 0.5)], LIMITS), Stay)


def test_without_expectation_the_pass_rate_never_fires() -> None:
    """Answers that nothing can be compared with are missing data."""
    verdict = watch_verdict([Reading(24, 0, 24, 0, None)], LIMITS)
    assert isinstance(verdict, Stay)
    assert "compared" in verdict.reason


def test_ungraded_answers_never_fire() -> None:
    """A sandbox that failed says nothing about the checkpoint."""
    assert isinstance(watch_verdict([Reading(24, 0, 3, 0, 0.9)], LIMITS), Stay)


def test_garbage_fires_at_the_first_full_look() -> None:
    """No probe passes where 29 % did: one look of 24 is enough."""
    verdict = watch_verdict([Reading(24, 0, 24, 0, 0.29)], LIMITS)
    assert isinstance(verdict, GoBack)
    assert verdict.reason == "0 of 24 probes pass, 29% did in the evaluation"


def test_old_good_looks_do_not_hide_a_new_bad_one() -> None:
    """Only the newest readings that make up the minimum are judged."""
    good, bad = Reading(24, 0, 24, 14, 0.5), Reading(24, 0, 24, 0, 0.5)
    assert isinstance(watch_verdict([good] * 10 + [bad], LIMITS), GoBack)
    assert isinstance(watch_verdict([bad, good], LIMITS), Stay)


def test_small_looks_are_pooled() -> None:
    """Looks below the minimum are joined until they reach it."""
    assert isinstance(watch_verdict([Reading(8, 0, 8, 0, 0.6)] * 3, LIMITS), GoBack)


@given(st.floats(0.0, 1.0), st.integers(20, 60))
def test_a_checkpoint_as_good_as_expected_stays(expected: float, calls: int) -> None:
    """Passing at the expected rate, rounded up, never goes back."""
    passed = min(calls, int(expected * calls) + 1)
    assert isinstance(watch_verdict([Reading(calls, 0, calls, passed, expected)], LIMITS), Stay)


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.01, 0.99))
def test_tail_is_the_binomial_sum(successes: int, trials: int, rate: float) -> None:
    """The running product equals the sum of the binomial terms."""
    successes = min(successes, trials)
    exact = sum(comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(successes + 1))
    assert at_most(successes, trials, rate) == pytest.approx(exact, abs=1e-9)


def test_tail_at_the_ends() -> None:
    """A rate of nothing allows everything; a sure thing allows no failure."""
    assert at_most(0, 10, 0.0) == 1.0
    assert at_most(10, 10, 1.0) == 1.0
    assert at_most(9, 10, 1.0) == 0.0
