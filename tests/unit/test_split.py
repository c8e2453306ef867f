"""Which side each record stands on, and which twin stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fleetssd import config
from fleetssd.gitea import PullKey, PullRow
from fleetssd.records import Record, refused_row, side
from fleetssd.split import HELD, filed, settle

RULES = config.Records()
START = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = refused_row(PullRow(PullKey("f", 1, 0), "fleet/a", "", "", "agent-1", True, (), START, ""), ())
KEYS = [f"1#{number}" for number in range(30)]
OUT = next(key for key in KEYS if side([key], RULES) == "held_out")
IN, IN_2 = [key for key in KEYS if side([key], RULES) == "train"][:2]


def record(number: int, keys: tuple[str, ...], prompt: str = "", reasons: tuple[str, ...] = ()) -> Record:
    """Make a record as it is filed: its side by its own issues alone."""
    state = "refused" if reasons else side(keys, RULES)
    merged_at = START + timedelta(minutes=number)
    text = prompt or f"prompt {number}"
    return replace(
        EMPTY,
        id=f"{number:03}",
        pull=number,
        state=state,
        reasons=reasons,
        split_keys=keys,
        prompt=text,
        merged_at=merged_at,
    )


def settled(records: list[Record]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return every record's state and reasons after settling."""
    changed = {found.id: found for found in settle(records, RULES)}
    return {r.id: (changed.get(r.id, r).state, changed.get(r.id, r).reasons) for r in records}


def test_records_apart_stay_as_they_are() -> None:
    """Records that share nothing keep their own sides, and nothing is reported."""
    assert settle([record(1, (IN,)), record(2, (OUT,)), record(3, (IN_2,))], RULES) == []


def test_a_shared_issue_holds_out_both() -> None:
    """A record that closes a held-out issue pulls what shares its other issue to that side."""
    found = settled([record(1, (IN,)), record(2, (IN, OUT)), record(3, (IN_2,))])
    assert [state for state, _ in found.values()] == ["held_out", "held_out", "train"]


def test_of_twins_the_earliest_stays() -> None:
    """The same prompt, in other letters and spaces, is one record; the later ones are refused."""
    found = settled([record(2, (IN_2,), "Do  THIS"), record(1, (IN,), "do this")])
    assert found == {"002": ("refused", ("near_duplicate",)), "001": ("train", ())}


def test_twins_stand_on_one_side() -> None:
    """Where either twin's issue is held out, the one that stays is held out."""
    found = settled([record(1, (IN,), "same"), record(2, (OUT,), "same")])
    assert found == {"001": ("held_out", ()), "002": ("refused", ("near_duplicate",))}


def test_a_twin_of_a_refused_record_stays() -> None:
    """What is refused for its own reasons takes nobody's place, but its issues still tie."""
    found = settled([record(1, (IN, OUT), "same", ("secret",)), record(2, (IN,), "same")])
    assert found["002"] == ("held_out", ())
    assert found["001"] == ("refused", ("secret",))


def test_a_row_that_was_never_read_ties_nothing() -> None:
    """A refusal without split keys or prompt stands for itself."""
    assert settle([replace(EMPTY, reasons=("not_merged",)), record(1, (IN,))], RULES) == []


MANY = st.lists(
    st.tuples(
        st.lists(st.sampled_from(KEYS[:12]), min_size=1, max_size=2, unique=True),
        st.sampled_from(["a", "b", "c", "d", "e", "f"]),
        st.sampled_from([(), (), (), ("secret",)]),
    ),
    max_size=12,
)


@given(MANY, st.randoms())
def test_order_and_repetition_change_nothing(parts: list[tuple[list[str], str, tuple[str, ...]]], rng: object) -> None:
    """Settling in steps, in any order, ends where settling everything at once ends, and there it rests."""
    records = [record(n, tuple(keys), prompt, reasons) for n, (keys, prompt, reasons) in enumerate(parts)]
    at_once = settled(records)
    shuffled = list(records)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    known: dict[str, Record] = {}
    for new in shuffled:
        known[new.id] = new
        for changed in settle(list(known.values()), RULES):
            known[changed.id] = changed
    assert {r.id: (r.state, r.reasons) for r in known.values()} == at_once
    assert settle(list(known.values()), RULES) == []


@given(MANY)
def test_no_issue_stands_on_both_sides(parts: list[tuple[list[str], str, tuple[str, ...]]]) -> None:
    """After settling, no issue and no prompt is both trained on and held out."""
    records = [record(n, tuple(keys), prompt, reasons) for n, (keys, prompt, reasons) in enumerate(parts)]
    found = settled(records)
    sides: dict[str, set[str]] = {}
    for r in records:
        if found[r.id][0] != "refused":
            for tie in (*r.split_keys, r.prompt):
                sides.setdefault(tie, set()).add(found[r.id][0])
    assert all(len(states) == 1 for states in sides.values())


TWINS = {"Add `keep(xs)`: give all over 5": "def keep(xs):\n    return [x for x in xs if x > 5]\n"}


def twin(number: int, key: str, name: str, **changes: object) -> Record:
    """Make one answer to one wish, with names of its own."""
    prompt, solution = (text.replace("keep", name).replace("xs", name[::-1]) for text in next(iter(TWINS.items())))
    made = replace(record(number, (key,), prompt), solution=solution, solution_path=f"src/{name}.py")
    return replace(made, ties=(77,), **changes)  # type: ignore[arg-type]


def test_a_renamed_twin_of_a_held_out_issue_never_teaches() -> None:
    """Whichever came first, the twin of the held-out record is refused; the held-out record stays."""
    for out, inside in ((1, 2), (2, 1)):
        found = settled([twin(out, OUT, "keep"), twin(inside, IN, "select")])
        assert found[f"{out:03}"] == ("held_out", ())
        assert found[f"{inside:03}"] == ("refused", ("near_duplicate",))


def test_renamed_twins_may_teach_together() -> None:
    """Near-duplicates that nobody examines stay, on the one side."""
    assert settle([twin(1, IN, "keep"), twin(2, IN_2, "select")], RULES) == []


def test_only_what_shares_a_tie_is_compared() -> None:
    """Records without a common bucket are not looked at, however alike they are."""
    assert settle([twin(1, OUT, "keep"), replace(twin(2, IN, "select"), ties=())], RULES) == []


def test_the_issue_of_a_twin_does_not_teach_either() -> None:
    """What shares an issue with a twin of a held-out record is refused with it."""
    found = settled([twin(1, OUT, "keep"), twin(2, IN, "select"), record(3, (IN,))])
    assert {state for state, _ in found.values()} == {"held_out", "refused"}


def test_an_issue_that_was_held_out_stays_so() -> None:
    """An issue of the list is held out, whatever its hash says now."""
    changed = settle([record(1, (IN,))], RULES, {IN})
    assert [found.state for found in changed] == ["held_out"]


def test_a_frozen_set_takes_nobody_in() -> None:
    """Another answer to a held-out issue is refused, also an earlier one with the same prompt; who was in stays."""
    member, late = record(5, (OUT,), "same"), [record(6, (OUT,), "other"), record(1, (OUT,), "same")]
    arrived = [replace(found, state="refused", reasons=(HELD,)) for found in late]
    changed = settle([member, *arrived], RULES, {OUT}, frozen=True)
    assert {found.id: found.reasons for found in changed} == {"001": ("near_duplicate",)}


def test_what_is_filed_keeps_to_the_held_out_issues() -> None:
    """A held-out issue is not filed to teach, and a frozen set lets a new issue teach instead of joining."""
    teaching, examining = record(1, (IN,)), record(2, (OUT,))
    assert filed(teaching, {IN}, frozen=False, member=False).reasons == (HELD,)
    assert filed(teaching, {OUT}, frozen=True, member=False) == teaching
    assert filed(examining, {OUT}, frozen=False, member=False) == examining
    assert filed(examining, {OUT}, frozen=True, member=True) == examining
    assert filed(examining, {OUT}, frozen=True, member=False).reasons == (HELD,)
    assert filed(examining, (), frozen=True, member=False).state == "train"
