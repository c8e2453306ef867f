"""Non-inferiority on a guard set."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetssd.config import Gate
from fleetssd.guards import weigh, weigh_shares
from fleetssd.scoring import Scores

ITEMS, SAMPLES = 60, 4


def arm(*counts: int, items: int = ITEMS) -> Scores:
    """Return the passes of so many items; the counts repeat."""
    return Scores(
        tuple(f"i{number:02}" for number in range(items)),
        (SAMPLES,) * items,
        tuple(counts[number % len(counts)] for number in range(items)),
    )


def test_no_change_holds() -> None:
    """Equal passes hold, and the set says what drop it could have shown at the least."""
    found = weigh("shell", arm(2, 3, 4), arm(2, 3, 4), Gate())
    assert (found.state, found.change.point) == ("holds", 0.0)
    assert found.change.level == pytest.approx(0.90)
    assert found.sees == pytest.approx(1 - 0.05 ** (1 / ITEMS))
    assert found.sentence == "guard shell moved by +0.0 pp (90 % interval +0.0, +0.0), within the margin of 10.0 pp"


def test_a_drop_beyond_the_margin_is_shown() -> None:
    """The paper's loss on shell, 15.8 pp at 4B, is found."""
    found = weigh("shell", arm(3), arm(3, 3, 3, 2, 2, 1, 3, 2, 2), Gate())
    assert found.change.point < -0.15
    assert found.state == "drop"
    assert "beyond the margin of 10.0 pp" in found.sentence


def test_a_drop_within_the_margin_may_stay_open() -> None:
    """Where the interval reaches beyond the margin nothing is shown, and the set says what it could have shown."""
    found = weigh("shell", arm(2, 2, 4, 0), arm(4, 0, 0, 3), Gate())
    assert found.change.low < -0.10 < found.change.point < 0
    assert found.state == "open"
    assert f"its 60 items could show a drop of {100 * found.sees:.1f} pp" in found.sentence


def test_a_base_that_passes_nothing_shows_nothing() -> None:
    """0 against 0 is no evidence either way, and 0 against something is no harm."""
    for candidate in (arm(0), arm(1)):
        found = weigh("shell", arm(0), candidate, Gate())
        assert found.state == "blind"
        assert found.sentence == "guard shell shows nothing: the base passes 0.0 %, which cannot fall by 10.0 pp"


def test_what_is_less_than_the_margin_cannot_be_held_to_it() -> None:
    """A base that passes 8 % could lose all of it within a margin of 10 pp: that is no proof of anything."""
    few = arm(*(4,) * 5, *(0,) * 55)
    assert weigh("shell", few, few, Gate()).state == "blind"
    assert weigh("shell", few, few, Gate(guard_margin=0.05)).state == "holds"


def test_too_few_items_are_not_held_to_the_margin_but_still_show_harm() -> None:
    """A set below the least number says what it can see; a proven collapse rejects all the same."""
    noisy = weigh("own", arm(3, 2, items=8), arm(2, 3, items=8), Gate())
    assert noisy.state == "few"
    assert "its 8 items could show a drop of" in noisy.sentence
    assert noisy.sees > Gate().guard_margin
    assert weigh("own", arm(4, items=8), arm(0, items=8), Gate()).state == "drop"


@given(
    st.lists(st.integers(0, SAMPLES), min_size=30, max_size=30),
    st.lists(st.integers(0, SAMPLES), min_size=30, max_size=30),
    st.integers(0, 29),
)
@settings(max_examples=40, deadline=None)
def test_a_worse_candidate_never_comes_to_hold(base: list[int], candidate: list[int], place: int) -> None:
    """One pass less never leads to `holds`, and one more never to `drop`."""
    policy = Gate()
    worse = [count - (number == place and count > 0) for number, count in enumerate(candidate)]
    better, less = (weigh("g", arm(*base, items=30), arm(*counts, items=30), policy) for counts in (candidate, worse))
    assert not (less.state == "holds" and better.state != "holds")
    assert not (better.state == "drop" and less.state != "drop")


def test_shares_are_held_apart_by_their_errors() -> None:
    """Two shares with standard errors: far apart is a drop, equal and precise holds, equal and vague is open."""
    policy = Gate()
    assert weigh_shares("gsm8k", 200, (0.6, 0.03), (0.3, 0.03), policy).state == "drop"
    assert weigh_shares("gsm8k", 200, (0.6, 0.03), (0.6, 0.03), policy).state == "holds"
    assert weigh_shares("gsm8k", 40, (0.6, 0.08), (0.6, 0.08), policy).state == "open"
    assert weigh_shares("gsm8k", 10, (0.6, 0.16), (0.6, 0.16), policy).state == "few"
    blind = weigh_shares("gsm8k", 200, (0.0, 0.0), (0.0, 0.0), policy)
    assert (blind.state, blind.sees) == ("blind", pytest.approx(1 - 0.05 ** (1 / 200)))


def test_a_reading_is_what_json_knows() -> None:
    """Every number of it can be stored with the verdict."""
    found = weigh("shell", arm(2), arm(3), Gate())
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["change"]["problems"] == ITEMS
