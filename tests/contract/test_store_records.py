"""One suite over every store: deliveries, cursors, pull requests, records, and the side that each is on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.admission import Admission
from fleetssd.buffer import window
from fleetssd.errors import Corrupt
from fleetssd.gitea import PullKey, unread
from fleetssd.origins import Origin
from fleetssd.ports import Store
from fleetssd.reverts import Claim
from fleetssd.twins import issue_tie
from tests.contract.stores import FORGE, FRESH, HOUR, NOW, delivery, file, key, keys, record


def test_delivery_is_kept_once(store: Store) -> None:
    """The same bytes are one delivery, whatever id the sender gives the second one."""
    assert store.add_deliveries([delivery("one", "sha")], NOW) == [True]
    assert store.add_deliveries([delivery("one", "sha")], NOW) == [False]
    assert store.add_deliveries([delivery("two", "sha")], NOW) == [False]
    assert store.open_deliveries() == [delivery("one", "sha")]


def test_deliveries_kept_together_are_answered_one_by_one(store: Store) -> None:
    """Of many deliveries in one write, each says whether its bytes were new, also within the write."""
    many = [delivery("one", "a"), delivery("two", "b"), delivery("three", "a")]
    assert store.add_deliveries(many, NOW) == [True, True, False]
    assert store.add_deliveries([delivery("four", "b"), delivery("five", "c")], NOW) == [False, True]
    assert [found.id for found in store.open_deliveries()] == ["one", "two", "five"]


def test_other_bytes_under_a_known_id_are_kept(store: Store) -> None:
    """The id of a delivery is not signed, so it cannot make a real delivery vanish."""
    assert store.add_deliveries([delivery("one", "sha")], NOW) == [True]
    assert store.add_deliveries([delivery("one", "other")], NOW) == [True]
    assert [found.body_sha256 for found in store.open_deliveries()] == ["sha", "other"]


def test_closed_delivery_is_not_open_and_not_new(store: Store) -> None:
    """What was handled is not handled again, also when it is sent again."""
    store.add_deliveries([delivery("one", "a")], NOW)
    store.add_deliveries([delivery("two", "b")], NOW)
    store.close_delivery("one", NOW, "polled")
    assert [found.id for found in store.open_deliveries()] == ["two"]
    assert store.add_deliveries([delivery("one", "a")], NOW) == [False]


def test_cursor_moves_by_instance(store: Store) -> None:
    """Each forge has its own cursor, and it is aware UTC whatever zone it came in."""
    assert store.cursor(FORGE) is None
    store.set_cursors([FORGE], NOW)
    store.set_cursors([FORGE], (NOW + HOUR).astimezone(timezone(HOUR * 5)))
    store.set_cursors(["https://other.example"], NOW)
    found = store.cursor(FORGE)
    assert found == NOW + HOUR
    assert found is not None
    assert found.utcoffset() == timedelta(0)


def test_origins_are_kept_beside_their_records(store: Store) -> None:
    """A record's origin comes back equal, a later one replaces it, and what nobody looked for is not there."""
    file(store, 1, 2, 3)
    first, other = Origin("r1", 1, "task", ("a", "b"), 4), Origin("r2", None, "none")
    store.put_origins([first, other])
    store.put_origins([replace(first, round=2)])
    assert store.origins(["r1", "r3"]) == {"r1": replace(first, round=2)}
    assert store.origins() == {"r1": replace(first, round=2), "r2": other}


def test_pull_is_filed_with_its_record(store: Store) -> None:
    """What was filed comes back equal, to the last field."""
    (made,) = file(store, 3)
    assert store.records() == [made]
    assert store.seen([key(3), key(4)]) == {key(3): "t"}
    assert store.seen([PullKey("https://other.example", 7, 3), PullKey(FORGE, 8, 3)]) == {}


def test_pull_without_a_record_is_seen(store: Store) -> None:
    """A pull request that was closed unmerged is not read again."""
    store.put_pulls([(key(3), "t", None)], NOW)
    assert store.seen([key(3)]) == {key(3): "t"}
    assert store.records() == []


def test_second_filing_keeps_the_record(store: Store) -> None:
    """A pull request read twice is one row with the newer text, and its record stays on its side of the split."""
    (made,) = file(store, 3)
    store.put_pulls([(key(3), "later", record(3, state="held_out"))], NOW + HOUR)
    assert store.records() == [made]
    assert store.seen([key(3)]) == {key(3): "later"}


def test_many_pulls_are_filed_together(store: Store) -> None:
    """One write files what one call each would have; what is on file keeps its record, and takes the newer text."""
    (old,) = file(store, 1)
    new = record(2)
    many = [(key(1), "later", record(1, title="other")), (key(2), "t", new), (key(3), "gone", None)]
    store.put_pulls([*many, (key(2), "last", replace(new, title="twice"))], NOW)
    assert store.seen(keys(1, 2, 3)) == {key(1): "later", key(2): "last", key(3): "gone"}
    assert store.records_of(keys(1, 2, 3, 4)) == {key(1): old, key(2): new}
    with pytest.raises(Corrupt):
        store.put_pulls([(key(5), "t", record(5)), (key(6), "t", record(9))], NOW)
    assert store.seen(keys(5, 6)) == {}


def test_an_issue_held_out_in_a_write_is_held_out_in_the_rest_of_it(store: Store) -> None:
    """Of two pull requests for one issue, filed together, none teaches once the other examines."""
    first, second = record(1, state="held_out", split_keys=("7#1",)), record(2, split_keys=("7#1",))
    store.put_pulls([(key(1), "t", first), (key(2), "t", second)], NOW)
    assert {found.pull: found.state for found in store.records()} == {1: "held_out", 2: "refused"}


def test_more_pulls_than_one_query_can_name(store: Store) -> None:
    """As many as a window has are asked for at once."""
    store.put_pulls([(key(number), "t", None) for number in range(1200)], NOW)
    assert len(store.seen(keys(*range(1300)))) == 1200


def test_what_could_not_be_read_is_found(store: Store) -> None:
    """Only what could not be read, of one forge, and no more than asked for."""
    texts = ["2026-11-22T05:00:00Z", unread(1, NOW), unread(12, NOW), "gone", "again"]
    store.put_pulls([(key(number), text, None) for number, text in enumerate(texts)], NOW)
    assert store.unread(FORGE, 10) == {key(1): texts[1], key(2): texts[2]}
    assert len(store.unread(FORGE, 1)) == 1
    assert store.unread("https://other.example", 10) == {}


def test_records_come_in_pieces(store: Store) -> None:
    """Piece by piece, in the order of their ids, everything comes once."""
    file(store, 1, 2, 3)
    file(store, 4, state="held_out")
    assert [found.id for found in store.records_after("", 2)] == ["r1", "r2"]
    assert [found.id for found in store.records_after("r2", 9)] == ["r3", "r4"]
    assert [found.id for found in store.records_after("", 9, "held_out")] == ["r4"]
    assert store.records_after("r4", 9) == []


def test_only_settled_held_out_records_may_examine(store: Store) -> None:
    """Newest merge first; what was not weighed against the others yet waits."""
    (first,), (second,) = file(store, 1, state="held_out"), file(store, 2, state="held_out", split_keys=("7#9",))
    file(store, 3)
    assert store.held_out_ids() == []
    store.settle([first, second, *store.records("train")], NOW)
    assert store.held_out_ids() == ["r2", "r1"]


def test_claims_add_up(store: Store) -> None:
    """What reverts say of a repository is one claim; said twice it is the same."""
    one, two = Claim(7, frozenset({"ab" * 20}), frozenset({3})), Claim(7, frozenset(), frozenset({3, 4}))
    store.note_claims(FORGE, [one, two, Claim(8, frozenset(), frozenset({5}))])
    store.note_claims(FORGE, [two])
    assert store.claims(FORGE, 7) == Claim(7, frozenset({"ab" * 20}), frozenset({3, 4}))
    assert store.claims("https://other.example", 7) == Claim(7, frozenset(), frozenset())


def test_a_claim_finds_its_records(store: Store) -> None:
    """By number, by the start of a merge commit or of a head commit; another repository's are none of it."""
    file(store, 1)
    file(store, 2, merge_commit="c" * 40)
    file(store, 3, head_commit="e" * 40)
    store.put_pulls([(PullKey(FORGE, 9, 1), "t", record(1, id="other", repository_id=9, merge_commit="c" * 40))], NOW)
    found = store.records_named(FORGE, Claim(7, frozenset({"c" * 7, "e" * 40}), frozenset({1})))
    assert sorted(record.id for record in found) == ["r1", "r2", "r3"]
    assert store.records_named(FORGE, Claim(7, frozenset(), frozenset())) == []


def test_replaced_record_keeps_its_id(store: Store) -> None:
    """A revert takes a record out of the buffer without losing it."""
    file(store, 3)
    refused = record(3, state="refused", reasons=("reverted",))
    store.replace_record(refused, NOW)
    assert store.records() == [refused]
    assert store.records("train") == []


def test_records_are_counted_without_being_read(store: Store) -> None:
    """Each state once, and the refused ones by all the reasons that they have."""
    assert store.record_groups() == []
    file(store, 1, 2, 3, 4)
    file(store, 5, state="held_out")
    for number, reasons in ((2, ("binary", "licence")), (3, ("binary",)), (4, ("binary",))):
        store.replace_record(record(number, state="refused", reasons=reasons), NOW)
    assert sorted(store.record_groups()) == [
        ("held_out", (), 1),
        ("refused", ("binary",), 2),
        ("refused", ("binary", "licence"), 1),
        ("train", (), 1),
    ]


def test_replacing_an_unknown_record_is_corrupt(store: Store) -> None:
    """Nothing is changed that is not there."""
    with pytest.raises(Corrupt):
        store.replace_record(record(3), NOW)


def test_records_come_newest_merge_first(store: Store) -> None:
    """The order is by the time of the merge, in any zone, and a state picks among them."""
    file(store, 2, 9, 5)
    file(store, 4, state="held_out", merged_at=(NOW + 9 * HOUR).astimezone(timezone(-9 * HOUR)))
    assert [found.pull for found in store.records()] == [4, 9, 5, 2]
    assert [found.pull for found in store.records("train")] == [9, 5, 2]


def test_records_by_id_keep_the_order_asked(store: Store) -> None:
    """A plan's order is the order of its records, with more ids than one query could name."""
    file(store, *range(3))
    ids = ["r2", "r0", "r1"] * 700
    assert [found.id for found in store.records_by_id(ids)] == ids
    assert store.records_by_id([]) == []


def test_unknown_record_is_corrupt(store: Store) -> None:
    """A plan that names a lost record must not run on the rest."""
    file(store, 1)
    with pytest.raises(Corrupt):
        store.records_by_id(["r1", "lost"])


def test_record_of_a_pull_not_on_file_is_corrupt(store: Store) -> None:
    """A record belongs to a pull request on file, and a refused write leaves nothing."""
    with pytest.raises(Corrupt):
        store.put_pulls([(key(1), "t", record(2))], NOW)
    assert store.records() == []
    assert store.seen([key(1), key(2)]) == {}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(codec="utf-8")),
    tests=st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))),
    merged_at=st.datetimes(timezones=st.timezones(), min_value=datetime(1990, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001
    repository=st.integers(1, 2**53),
)
def test_any_record_survives(
    store: Store, text: str, tests: list[tuple[str, str]], merged_at: datetime, repository: int
) -> None:
    """Whatever text, moment and number a record holds, it comes back equal."""
    made = record(
        next(FRESH), repository_id=repository, prompt=text, solution=text, tests=tuple(tests), merged_at=merged_at
    )
    store.put_pulls([(PullKey(FORGE, repository, made.pull), "t", made)], NOW)
    assert store.records_by_id([made.id]) == [replace(made, merged_at=merged_at.astimezone(UTC))]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.booleans()), max_size=30),
    st.integers(1, 12),
    st.integers(1, 6),
)
def test_the_window_is_the_one_of_the_domain(
    store: Store, parts: list[tuple[int, int, bool]], size: int, share: int
) -> None:
    """What an index picks is what the pure rule picks from all records, ties of time included."""
    for minute, repository, teaches in parts:
        number = next(FRESH)
        at, state = NOW + timedelta(minutes=minute), "train" if teaches else "refused"
        made = record(number, id=f"w{number}", repository_id=repository, merged_at=at, state=state)
        store.put_pulls([(made.key, "t", made)], NOW)
        store.settle([made], NOW)
    expected = [found.id for found in window(store.records("train"), size, share)]
    assert store.window(size, share) == expected


def test_new_and_changed_records_are_unsettled(store: Store) -> None:
    """What was filed or changed waits to be settled, the oldest merge first; settled, it can be found by its ties."""
    file(store, 3, 1, 2, split_keys=())
    assert [found.pull for found in store.unsettled(2)] == [1, 2]
    store.settle([record(number, split_keys=(), ties=(number, -9)) for number in (1, 2)], NOW)
    assert [found.pull for found in store.unsettled(9)] == [3]
    assert {found.pull for found in store.tied([-9, 3])} == {1, 2}
    store.replace_record(record(1, split_keys=(), state="refused"), NOW)
    assert [found.pull for found in store.unsettled(9)] == [1, 3]
    assert [found.pull for found in store.tied([-9])] == [2]
    assert store.window(9, 9) == ["r2"]
    store.settle([record(1, split_keys=(), ties=(5,))], NOW)
    assert (store.tied([1]), [found.pull for found in store.tied([5])]) == ([], [1])


def test_a_held_out_issue_never_teaches_again(store: Store) -> None:
    """Once a record of an issue was held out, no record of it is written as one that teaches, by no road."""
    file(store, 1, state="held_out", split_keys=("7#1",))
    file(store, 2, split_keys=("7#2", "7#1"))
    file(store, 3, split_keys=("7#3",))
    assert store.held_among(["7#1", "7#2"]) == {"7#1"}
    store.replace_record(record(1, split_keys=("7#1",)), NOW)
    store.settle([record(3, split_keys=("7#3", "7#1"))], NOW)
    assert {found.reasons for found in store.records()} == {("held_out_issue",)}
    assert store.window(9, 9) == []


def test_what_is_held_by_hand_leaves_the_window(store: Store) -> None:
    """Holding an issue out moves its records at once, settled or not, and waits for their twins to be looked for."""
    file(store, 1, 2, split_keys=("7#1",))
    file(store, 3, split_keys=("7#3",))
    store.settle([record(1, split_keys=("7#1",)), record(3, split_keys=("7#3",))], NOW)
    moved = store.hold(["7#1", "7#9"], NOW)
    assert {(found.pull, found.state) for found in moved} == {(1, "held_out"), (2, "held_out")}
    assert store.window(9, 9) == ["r3"]
    assert [found.id for found in store.tied([issue_tie("7#3")])] == ["r3"]
    assert {found.pull for found in store.unsettled(9)} == {1, 2}
    assert store.held_among(["7#1", "7#3", "7#9"]) == {"7#1", "7#9"}


def test_an_admission_stands_until_the_next_one(store: Store) -> None:
    """What came of verifying a record is kept once a record, the newest; a record that is not on file has none."""
    file(store, 1, 2, state="held_out")
    first = Admission("r1", "refused", "prepare_failed", "exit status 1 ☂", "f1", 0.0, NOW)
    then = Admission("r1", "executed", "verified", "", "f2", 0.25, NOW + HOUR)
    other = Admission("r2", "reference", "no_tests", "", "f1", 0.0, NOW.astimezone(timezone(HOUR)))
    for admission in (first, other, then, then):
        store.put_admission(admission)
    assert store.admissions() == {"r1": then, "r2": other}
    with pytest.raises(Corrupt):
        store.put_admission(replace(first, record="r9"))


def test_a_frozen_set_takes_nobody_in(store: Store) -> None:
    """After the freeze an issue that would have examined teaches; what is inside stays, and a hand can still add."""
    file(store, 1, state="held_out", split_keys=("7#1",))
    assert store.held_out_frozen() is None
    assert store.freeze_held_out(NOW) == 1
    file(store, 2, state="held_out", split_keys=("7#2",))
    file(store, 3, state="held_out", split_keys=("7#1",))
    assert store.freeze_held_out(NOW + HOUR) == 1
    assert store.held_out_frozen() == NOW
    assert [found.state for found in store.records()] == ["refused", "train", "held_out"]
    store.settle([record(1, state="held_out", split_keys=("7#1",))], NOW)
    store.hold(["7#2"], NOW)
    store.settle([record(2, state="held_out", split_keys=("7#2",))], NOW)
    assert [found.pull for found in store.records("held_out")] == [2, 1]


STATES = st.sampled_from(["train", "held_out", "refused"])
KEYS = st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True)
WRITES = st.lists(
    st.tuples(st.sampled_from(["file", "change", "settle", "hold", "freeze"]), st.integers(0, 5), KEYS, STATES),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WRITES)
def test_no_write_brings_a_held_out_issue_back(store: Store, writes: list[tuple[str, int, list[int], Any]]) -> None:
    """Whatever is written in whatever order, nothing is written as teaching once its issue was held out."""
    base, ever = next(FRESH) * 10, set[str]()
    for verb, number, wanted, state in writes:
        keys = tuple(f"{base}#{key}" for key in wanted)
        one = record(base + number, state=state, split_keys=keys)
        known = {found.id for found in store.records()}
        if verb == "file":
            store.put_pulls([(key(one.pull), "t", one)], NOW)
        elif verb == "hold":
            store.hold(keys, NOW)
        elif verb == "freeze" and number == 0:
            store.freeze_held_out(NOW)
        elif one.id in known:
            store.replace_record(one, NOW) if verb == "change" else store.settle([one], NOW)
        on_file = {found.id: found for found in store.records()}
        if one.id in on_file and (verb in ("change", "settle", "hold") or one.id not in known):
            assert on_file[one.id].state != "train" or not ever & set(on_file[one.id].split_keys)
        ever |= {name for found in on_file.values() if found.state == "held_out" for name in found.split_keys}
        ever |= set(keys) if verb == "hold" else set()
    for found in store.records("train"):
        store.replace_record(found, NOW)
    assert not any(ever & set(found.split_keys) for found in store.records("train"))
