"""What the swap log says is served, and what may come next."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.checkpoints import Checkpoint, Night, Swap, VerdictRow
from fleetssd.errors import Corrupt
from fleetssd.serving import WatchWindow, last_move, pending, rollback_target, served, unproven, watch_window

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)


def checkpoint(digest: str, **changes: Any) -> Checkpoint:
    """Return a checkpoint with this digest."""
    return replace(
        Checkpoint(digest, "merged", f"m:{digest}", f"s{digest}", 1, "merged-create", 1.0, 1, NOW), **changes
    )


BASE = checkpoint("base", kind="base", night=None)
ONE, TWO = checkpoint("one"), checkpoint("two", night=2)
ALL = [BASE, ONE, TWO]


def move(number: int, kind: Any, origin: str, target: str, **changes: Any) -> Swap:
    """Return a proven line of the swap log."""
    at = NOW + timedelta(hours=number)
    return replace(Swap(number, kind, "dawn", origin, target, f"m:{target}", 1, "", {}, at, done=True), **changes)


FLIP_ONE = move(1, "flip", "base", "one")
BACK = move(2, "rollback", "one", "base")
FLIP_TWO = move(3, "flip", "base", "two", night=2)
STORY = [FLIP_ONE, BACK, FLIP_TWO]


def night(number: int, digest: str, kind: Any = "promote", incumbent: str = "base") -> Night:
    """Return a decided night."""
    verdict = VerdictRow(number, kind, "", digest, {}, NOW)
    return Night(number, "done", "ssd", {"incumbent": incumbent}, NOW, NOW, verdict=verdict)


# --- served


def test_nothing_serves_before_a_base_is_known() -> None:
    """Before the first night nothing is known to serve."""
    assert served([], []) is None
    assert served([], [ONE]) is None


def test_base_serves_until_the_first_flip() -> None:
    """Without a move the newest base serves."""
    newer = checkpoint("base 2", kind="base", created_at=NOW + timedelta(days=1))
    assert served([], [newer, *ALL]) == newer
    assert served([], ALL) == BASE


def test_last_proven_move_decides() -> None:
    """Flip, rollback, flip: each time its target serves."""
    assert served(STORY[:1], ALL) == ONE
    assert served(STORY[:2], ALL) == BASE
    assert served(STORY, ALL) == TWO


@pytest.mark.parametrize("kind", ["settle", "refused"])
def test_other_lines_move_nothing(kind: str) -> None:
    """A settlement and a refusal leave what serves as it was."""
    assert served([FLIP_ONE, move(2, kind, "one", "two")], ALL) == ONE


def test_unproven_intent_moves_nothing() -> None:
    """An intent without its proof has not happened."""
    intent = replace(FLIP_TWO, done=False)
    assert served([FLIP_ONE, BACK, intent], ALL) == BASE
    assert last_move([intent]) is None


def test_lost_checkpoint_is_corrupt() -> None:
    """A log that names what is not on file is not guessed around."""
    with pytest.raises(Corrupt, match="one"):
        served([FLIP_ONE], [BASE])


# --- rollback


def test_rollback_goes_to_what_served_before() -> None:
    """From night 2 the way goes back to night 1 where that settled."""
    assert rollback_target([FLIP_ONE, move(2, "flip", "one", "two")], ALL) == ONE


def test_detour_that_was_undone_is_no_target() -> None:
    """After base, one, back, two the way goes back to the base, not to one."""
    assert rollback_target(STORY, ALL) == BASE


def test_there_is_nothing_behind_the_base() -> None:
    """Neither before the first flip nor after the way back is there a target."""
    assert rollback_target([], ALL) is None
    assert rollback_target(STORY[:2], ALL) is None


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.integers(0, 12))
def test_rolling_back_always_ends_at_the_first(flips: list[str], times: int) -> None:
    """However the fleet got somewhere, going back never repeats a checkpoint and ends at the base."""
    files = [BASE, *map(checkpoint, "abcd")]
    log: list[Swap] = []
    at = "base"
    for digest in flips:
        log.append(move(len(log) + 1, "flip", at, digest))
        at = digest
    visited = [at]
    for _ in range(len(flips) + times):
        target = rollback_target(log, files)
        if target is None:
            break
        log.append(move(len(log) + 1, "rollback", at, target.digest))
        at = target.digest
        visited.append(at)
    assert at == "base"
    assert len(set(visited)) == len(visited)


# --- pending


def test_promoted_checkpoint_waits() -> None:
    """A promotion waits until its flip is proven."""
    assert pending([night(1, "one")], [], ALL) == ONE
    assert pending([night(1, "one")], [replace(FLIP_ONE, done=False)], ALL) == ONE
    assert pending([night(1, "one")], [FLIP_ONE], ALL) is None


def test_nothing_waits_without_a_promotion() -> None:
    """Keep, reject, a running night and no night at all leave nothing to wait for."""
    running = Night(2, "running", "ssd", {}, NOW)
    assert pending([], [], ALL) is None
    assert pending([night(1, "one", "keep"), running], [], ALL) is None


def test_rolled_back_checkpoint_does_not_wait_again() -> None:
    """What was served and undone is not promoted by the same evidence."""
    assert pending([night(1, "one")], [FLIP_ONE, BACK], ALL) is None


def test_refused_checkpoint_does_not_wait() -> None:
    """A flip that was refused is not tried for ever."""
    assert pending([night(1, "one")], [move(1, "refused", "base", "one")], ALL) is None


def test_later_night_without_gain_leaves_it_waiting() -> None:
    """A later keep says nothing against an earlier promotion."""
    assert pending([night(1, "one"), night(2, "two", "keep")], [], ALL) == ONE


def test_newest_promotion_wins() -> None:
    """Of two promotions the newest waits."""
    assert pending([night(1, "one"), night(2, "two")], [], ALL) == TWO


def test_evidence_against_another_incumbent_is_void() -> None:
    """A checkpoint that beat night 1 is not flipped to once night 1 was rolled back."""
    judged = night(2, "two", incumbent="one")
    assert pending([judged], [FLIP_ONE], ALL) == TWO
    assert pending([judged], [FLIP_ONE, BACK], ALL) is None


# --- unproven, watch


def test_open_move_is_found_at_the_end_alone() -> None:
    """A begun move at the end of the log must be finished; one that a line followed was dealt with."""
    intent = replace(FLIP_ONE, done=False)
    assert unproven([]) is None
    assert unproven([FLIP_ONE]) is None
    assert unproven([intent]) == intent
    assert unproven([intent, move(2, "refused", "base", "one")]) is None
    assert unproven([replace(move(1, "settle", "one", "one"), done=False)]) is None


def test_watch_follows_the_last_move() -> None:
    """A flip opens a window, a settlement closes it, a rollback ends it, a new flip opens the next."""
    settled = move(2, "settle", "one", "one")
    until = NOW + timedelta(hours=2)
    assert watch_window([], 60) == WatchWindow("idle", None, None)
    assert watch_window([FLIP_ONE], 60) == WatchWindow("watching", FLIP_ONE.at, until)
    assert watch_window([FLIP_ONE, settled], 60) == WatchWindow("settled", FLIP_ONE.at, None)
    assert watch_window([FLIP_ONE, replace(settled, done=False)], 60).state == "watching"
    assert watch_window([FLIP_ONE, BACK], 60) == WatchWindow("rolled back", BACK.at, None)
    assert watch_window([FLIP_ONE, settled, move(3, "flip", "one", "two")], 60).state == "watching"
    assert watch_window([replace(FLIP_ONE, at=None)], 60) == WatchWindow("watching", None, None)
