"""What the engine may forget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from fleetssd.checkpoints import Checkpoint, Night, Swap, VerdictRow
from fleetssd.retention import expendable, orphans

START = datetime(2026, 11, 1, 2, 0, tzinfo=UTC)
BASE = Checkpoint("base", "base", "base:1", "s-base", None, "none", 1.0, 1, START)


def made(night: int) -> Checkpoint:
    """Return the checkpoint of a night."""
    name, at = f"n{night}", START + timedelta(night)
    return Checkpoint(name, "adapter", f"m:{name}", f"s-{name}", night, "adapter-registry", 1.0, 1, at)


def decided(night: int, kind: Literal["promote", "reject"] = "promote", incumbent: str = "base") -> Night:
    """Return a night that decided about its checkpoint."""
    verdict = VerdictRow(night, kind, "", f"n{night}", {}, START)
    return Night(night, "done", "ssd", {"incumbent": incumbent}, START, verdict=verdict)


def flips(*nights: int) -> list[Swap]:
    """Return a log in which these nights' checkpoints served one after the other."""
    names = ["base", *(f"n{night}" for night in nights)]
    return [
        Swap(index + 1, "flip", "dawn", names[index], name, f"m:{name}", nights[index], "", {}, START, done=True)
        for index, name in enumerate(names[1:])
    ]


def gone(nights: list[Night], swaps: list[Swap], count: int, history: int) -> list[str]:
    """Return the digests that may go of the base and `count` nights' checkpoints."""
    checkpoints = [BASE, *(made(night) for night in range(1, count + 1))]
    return [one.digest for one in expendable(nights, swaps, checkpoints, history)]


@pytest.mark.parametrize(("history", "left"), [(0, ["n1", "n2", "n3"]), (2, ["n1"]), (9, [])])
def test_what_serves_what_served_before_and_a_history_stay(history: int, left: list[str]) -> None:
    """Of five that served in turn the last two stay, and as many of the newest others as the settings say."""
    nights = [decided(night, incumbent=f"n{night - 1}" if night > 1 else "base") for night in range(1, 6)]
    assert gone(nights, flips(1, 2, 3, 4, 5), 5, history) == left


def test_a_rejected_checkpoint_goes_at_once() -> None:
    """It never served, so no history keeps it."""
    assert gone([decided(1), decided(2, "reject", "n1")], flips(1), 2, 9) == ["n2"]


def test_what_waits_for_dawn_stays() -> None:
    """A promoted checkpoint that was not flipped to yet is not history."""
    assert gone([decided(1)], [], 1, 0) == []


def test_a_running_night_keeps_its_checkpoint() -> None:
    """It is being evaluated; a failed night has no use for its own."""
    running = Night(1, "running", "ssd", {}, START)
    failed = Night(1, "failed", "ssd", {}, START)
    assert (gone([running], [], 1, 0), gone([failed], [], 1, 0)) == ([], ["n1"])


def test_nothing_goes_during_a_swap() -> None:
    """A line without its proof may still need either side."""
    (flip,) = flips(1)
    begun = Swap(2, "flip", "dawn", "n1", "n2", "m:n2", 2, "")
    assert gone([decided(1), decided(2, "reject")], [flip, begun], 3, 0) == []


def test_orphans_are_built_files_that_no_kept_checkpoint_is_made_of() -> None:
    """Each digest is named once; a kept artefact is none."""
    built = [{"adapter": "n1", "baked": "b"}, {"adapter": "n2", "baked": "b"}]
    assert orphans(built, [BASE, made(2)]) == ("n1", "b")
