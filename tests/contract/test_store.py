"""One suite over every store: the database that the product uses, and the fake that other tests use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.adapters.store import SqlStore
from fleetssd.admission import Admission
from fleetssd.artefact import Probe
from fleetssd.buffer import window
from fleetssd.checkpoints import Answer, Checkpoint, Sample, StageRow, Swap, VerdictRow
from fleetssd.errors import Corrupt
from fleetssd.gitea import Delivery, PullKey, unread
from fleetssd.origins import Origin
from fleetssd.ports import Store
from fleetssd.records import Record
from fleetssd.reverts import Claim
from fleetssd.twins import issue_tie
from tests.fakes import MemoryStore

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
FORGE = "https://gitea.example"
HOUR = timedelta(hours=1)
FRESH = count(1000)
"""Names that no earlier example of a law used: the examples share one store."""


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Every implementation of the port, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    made = SqlStore.open(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield made
    made.close()


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


FLIP = Swap(0, "flip", "dawn", "base", "new", "m:new", 1, "promoted", {"lift": 0.1})


# --- deliveries, cursors, pull requests, records


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


# --- nights


def test_night_opens_with_its_plan_frozen(store: Store) -> None:
    """Opening a night closes its first stage in the same transaction; the plan comes back as JSON says it."""
    night = store.open_night({"night": 1, "train": ("r1", "r2"), "lora": {"rank": 8}}, "ssd", NOW)
    assert (night.number, night.state, night.arm, night.started_at) == (1, "running", "ssd", NOW)
    assert night.plan == {"night": 1, "train": ["r1", "r2"], "lora": {"rank": 8}}
    assert [(row.stage, row.result["train"]) for row in night.stages] == [("freeze", 2)]
    assert store.night(1) == night


def test_night_opens_once(store: Store) -> None:
    """A restarted night is the night that it was, with the plan that it had."""
    first = store.open_night({"night": 1, "train": []}, "ssd", NOW)
    assert store.open_night({"night": 1, "train": ["r9"]}, "merged", NOW + HOUR) == first
    assert store.nights() == [first]


def test_unknown_night_is_none(store: Store) -> None:
    """A night that never was is none."""
    assert store.night(4) is None
    assert store.nights() == []


def test_nights_come_oldest_first(store: Store) -> None:
    """The order is by number."""
    for number in (2, 10, 1):
        store.open_night({"night": number}, "ssd", NOW)
    assert [night.number for night in store.nights()] == [1, 2, 10]


def test_stage_is_written_once(store: Store) -> None:
    """The first row of a stage is its truth; stages come in the night's order."""
    store.open_night({"night": 1}, "ssd", NOW)
    train = StageRow(1, "train", {"losses": [1.5, 0.25]}, NOW, NOW + HOUR)
    sample = StageRow(1, "sample", {"samples": 3}, NOW, NOW)
    store.finish_stage(train)
    store.finish_stage(sample)
    store.finish_stage(replace(train, result={"losses": []}))
    night = store.night(1)
    assert night is not None
    assert night.stages[1:] == (sample, train)


def test_a_challengers_row_comes_before_the_nights_own(store: Store) -> None:
    """A night that carries a challenger has one more stage, between the evaluation and the verdict."""
    store.open_night({"night": 1}, "ssd", NOW)
    rows = {name: StageRow(1, name, {}, NOW, NOW) for name in ("decide", "challenge", "evaluate")}  # type: ignore[arg-type]
    for row in rows.values():
        store.finish_stage(row)
    night = store.night(1)
    assert night is not None
    assert [row.stage for row in night.stages] == ["freeze", "evaluate", "challenge", "decide"]


def test_stage_of_an_unknown_night_is_corrupt(store: Store) -> None:
    """A stage belongs to a night."""
    with pytest.raises(Corrupt):
        store.finish_stage(StageRow(1, "train", {}, NOW, NOW))


def test_failed_night_says_why(store: Store) -> None:
    """A night that failed is closed with its reason."""
    store.open_night({"night": 1}, "ssd", NOW)
    store.fail_night(1, "no disk", NOW + HOUR)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.failure, night.finished_at) == ("failed", "no disk", NOW + HOUR)


def test_decided_night_cannot_fail(store: Store) -> None:
    """A verdict stands, whatever happens to the process afterwards."""
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), [], NOW)
    store.fail_night(1, "killed", NOW)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.failure) == ("done", "")


def test_samples_come_in_the_order_of_the_plan(store: Store) -> None:
    """One sample a record; the first one stays; the plan's order is the order of training."""
    file(store, 1, 2, 3)
    store.open_night({"night": 1, "train": ["r3", "r1", "r2"]}, "ssd", NOW)
    made = {name: Sample(1, name, "p", f"c {name}", 2**31 - 1, "stop", "engine") for name in ("r1", "r2", "r3")}
    store.add_samples([made["r1"], made["r2"]])
    store.add_samples([replace(made["r1"], completion="again"), made["r3"]])
    assert store.samples(1) == [made["r3"], made["r1"], made["r2"]]
    assert store.samples(2) == []


def test_samples_are_kept_together_or_not_at_all(store: Store) -> None:
    """A chunk with one impossible row leaves nothing."""
    file(store, 1)
    store.open_night({"night": 1, "train": ["r1"]}, "ssd", NOW)
    good = Sample(1, "r1", "p", "c", 1, "stop", "engine")
    with pytest.raises(Corrupt):
        store.add_samples([good, replace(good, record="lost")])
    assert store.samples(1) == []


def test_answers_are_kept_once_and_in_order(store: Store) -> None:
    """One answer a (night, arm, problem, index), the first one stays, ordered by those."""
    store.open_night({"night": 1}, "ssd", NOW)
    made = [answer("candidate", "p2", 0), answer("base", "p1", 10), answer("base", "p1", 2)]
    store.add_answers(made)
    store.add_answers([replace(made[0], passed=False), answer("base", "p0", 0, fault=True, detail="oom")])
    found = store.answers(1)
    assert [(row.arm, row.problem, row.index) for row in found] == [
        ("base", "p0", 0), ("base", "p1", 2), ("base", "p1", 10), ("candidate", "p2", 0),
    ]  # fmt: skip
    assert store.answers(1, "candidate") == [made[0]]
    assert store.answers(2) == []
    assert found[0].fault is True


def test_verdict_closes_the_night_and_uses_its_records(store: Store) -> None:
    """Verdict, used records, stage and state are one write."""
    file(store, 1, 2)
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), ["r1", "r2"], NOW)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.verdict, night.finished_at) == ("done", verdict(1), NOW + HOUR)
    assert (night.stages[-1].stage, night.stages[-1].started_at) == ("decide", NOW)
    assert store.used_records() == {"r1": 1, "r2": 1}


def test_second_verdict_changes_nothing(store: Store) -> None:
    """A night decides once: a repeated decision uses no record twice and changes no mind."""
    file(store, 1, 2)
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), ["r1"], NOW)
    before = store.night(1)
    store.decide(verdict(1, "reject"), ["r2"], NOW + HOUR)
    assert store.night(1) == before
    assert store.used_records() == {"r1": 1}


def test_refused_verdict_leaves_nothing(store: Store) -> None:
    """A verdict that names a lost record is not half written."""
    file(store, 1)
    store.open_night({"night": 1}, "ssd", NOW)
    before = store.night(1)
    with pytest.raises(Corrupt):
        store.decide(verdict(1), ["r1", "lost"], NOW)
    assert store.night(1) == before
    assert store.used_records() == {}


def test_first_use_of_a_record_is_remembered(store: Store) -> None:
    """Every night trains from the base, so a record may teach again; its first night stays known."""
    file(store, 1)
    for number in (2, 3):
        store.open_night({"night": number}, "ssd", NOW)
        store.decide(verdict(number), ["r1"], NOW)
    assert store.used_records() == {"r1": 2}


# --- serving


def test_checkpoint_is_kept_once(store: Store) -> None:
    """A digest is one artefact, and what was first said of it stays."""
    store.put_checkpoint(checkpoint("d1"))
    store.put_checkpoint(checkpoint("d1", model="m:other"))
    store.put_checkpoint(checkpoint("d0", kind="base", night=None, tau=1.0, created_at=NOW + HOUR))
    assert [found.digest for found in store.checkpoints()] == ["d1", "d0"]
    assert store.checkpoint("d1") == checkpoint("d1")
    assert store.checkpoint("lost") is None


def test_what_an_engine_can_do_is_kept_by_host_version_and_base(store: Store) -> None:
    """A later trial replaces an earlier one, an upgrade or another base is unknown, and a host can be forgotten."""
    store.keep_capability("http://one", "base", Probe("1", pulls_from_loopback=True), NOW)
    store.keep_capability("http://one", "base", Probe("1", loads_adapters=True), NOW + HOUR)
    store.keep_capability("http://two", "base", Probe("1"), NOW)
    assert store.capability("http://one", "1", "base") == Probe("1", loads_adapters=True)
    assert (store.capability("http://one", "2", "base"), store.capability("http://one", "1", "other")) == (None, None)
    store.forget_capabilities("http://one")
    assert store.capability("http://one", "1", "base") is None
    assert store.capability("http://two", "1", "base") == Probe("1")


def test_swap_is_an_intent_and_then_a_proof(store: Store) -> None:
    """A swap is written before it happens and proven after; the evidence of both stays."""
    begun = store.begin_swap(FLIP, NOW)
    assert (begun.done, begun.at) == (False, NOW)
    assert store.swaps() == [begun]
    store.finish_swap(begun.id, NOW + HOUR, {"served": "sha"})
    assert store.swaps() == [replace(begun, done=True, evidence={"lift": 0.1, "served": "sha"})]


def test_swap_is_proven_once(store: Store) -> None:
    """A second proof of one swap is ignored."""
    begun = store.begin_swap(FLIP, NOW)
    store.finish_swap(begun.id, NOW, {"served": "sha"})
    store.finish_swap(begun.id, NOW, {"served": "other"})
    assert store.swaps()[0].evidence["served"] == "sha"


def test_unknown_swap_is_corrupt(store: Store) -> None:
    """Nothing is proven that was not intended."""
    with pytest.raises(Corrupt):
        store.finish_swap(4, NOW, {})


def test_restarted_intent_is_one_line(store: Store) -> None:
    """A process that died between intent and proof finds its own line again."""
    begun = store.begin_swap(FLIP, NOW)
    assert store.begin_swap(FLIP, NOW + HOUR) == begun
    assert len(store.swaps()) == 1


def test_new_try_after_a_refusal_is_a_new_line(store: Store) -> None:
    """An intent that something followed is over: the same wish later is a line of its own."""
    first = store.begin_swap(FLIP, NOW)
    refusal = store.begin_swap(replace(FLIP, kind="refused"), NOW)
    store.finish_swap(refusal.id, NOW, {})
    again = store.begin_swap(FLIP, NOW + HOUR)
    assert [swap.id for swap in store.swaps()] == [first.id, refusal.id, again.id]
    assert first.id < refusal.id < again.id


# --- leases


def test_lease_has_one_owner(store: Store) -> None:
    """A lease that is held is refused to others and renewed for its owner."""
    assert store.claim("night", "one", NOW + HOUR, NOW)
    assert not store.claim("night", "two", NOW + HOUR, NOW)
    assert store.claim("night", "one", NOW + 2 * HOUR, NOW)
    assert store.claim("swap", "two", NOW + HOUR, NOW)


def test_lease_ends(store: Store) -> None:
    """A dead owner's lease is free once its time is over, to the instant."""
    assert store.claim("night", "one", NOW + HOUR, NOW)
    assert not store.claim("night", "two", NOW + 2 * HOUR, NOW + HOUR - timedelta(microseconds=1))
    assert store.claim("night", "two", NOW + 2 * HOUR, NOW + HOUR)


def test_lease_is_given_back_by_its_owner_alone(store: Store) -> None:
    """Another's release changes nothing."""
    store.claim("night", "one", NOW + HOUR, NOW)
    store.release("night", "two")
    assert not store.claim("night", "two", NOW + HOUR, NOW)
    store.release("night", "one")
    store.release("night", "one")
    assert store.claim("night", "two", NOW + HOUR, NOW)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["claim", "release"]), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5)),
        max_size=20,
    )
)
def test_two_owners_never_hold_one_lease(store: Store, moves: list[tuple[str, str, int, int]]) -> None:
    """Whatever is claimed and released when, two claims that overlap in time never both succeed for two owners."""
    now, holder, end, name = NOW, "", NOW, f"lease {next(FRESH)}"
    for verb, owner, wait, length in moves:
        now += wait * HOUR
        if verb == "release":
            store.release(name, owner)
            holder = "" if holder == owner else holder
        else:
            expected = holder in ("", owner) or end <= now
            assert store.claim(name, owner, now + length * HOUR, now) is expected
            holder, end = (owner, now + length * HOUR) if expected else (holder, end)


def _conforms(maker: Callable[[], Store]) -> None:
    """Let the type checker hold both implementations to the port."""


_conforms(MemoryStore)
_conforms(lambda: SqlStore("sqlite://"))


# --- sides and the window


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
