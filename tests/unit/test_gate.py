"""The gate's rules, one by one, and its laws."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetssd.config import Gate
from fleetssd.gate import Evidence, decide, decompose
from fleetssd.guards import Guard, weigh
from fleetssd.probes import ProbeReadings
from fleetssd.scoring import Scores, tally
from fleetssd.sequential import Design

READINGS = ProbeReadings(
    completions=320,
    repetition=0.1,
    distinct4=0.2,
    unique_of_k=0.9,
    length_median=80.0,
    length_p95=120.0,
    parse_rate=0.83,
)
PROBLEMS, K = 40, 8
BET = Design(effect=0.05, stake=0.6, alpha=0.03)
DESIGNS = st.sampled_from([None, BET])


def arm(*counts: int) -> Scores:
    """Return scores of PROBLEMS problems with K samples; the counts repeat; odd problems are the house's."""
    return Scores(
        ids=tuple(f"p{index:02}" for index in range(PROBLEMS)),
        n=(K,) * PROBLEMS,
        c=tuple(counts[index % len(counts)] for index in range(PROBLEMS)),
        slices=tuple(("house",) if index % 2 else ("plain",) for index in range(PROBLEMS)),
    )


def evidence(**changed: object) -> Evidence:
    """Return a night whose candidate is clearly better, with some fields changed."""
    good = Evidence(
        incumbent=arm(1, 2, 3),
        base=arm(1, 2, 3),
        candidate=arm(4, 5, 5),
        tuned_base=arm(2, 2, 3),
        base_probes=READINGS,
        candidate_probes=READINGS,
        k=K,
        samples=PROBLEMS * K,
        voids=0,
        overlap=0,
        base_digest="b" * 64,
        built_digest="c" * 64,
        evaluated_digest="c" * 64,
        manage="none",
        alpha=0.03,
        held_out="h1",
        consulted=1,
    )
    return replace(good, **changed)  # type: ignore[arg-type]


def test_a_clear_gain_is_promoted() -> None:
    """A gain whose interval lies above 0 at tonight's error share, with calm probes, is promoted."""
    verdict = decide(evidence(), Gate())
    assert verdict.kind == "promote"
    assert verdict.lift_tonight.low > 0
    assert verdict.digest == "c" * 64
    assert "no probe alarm" in verdict.reason


def test_the_promotion_interval_is_tonights() -> None:
    """The same gain that passes at 5 % is kept back when little of the error budget is left."""
    counts = (0, 0, 0, 0, 0, 0, 0, 0, 0, 5)
    slight = evidence(incumbent=arm(0), base=arm(0), candidate=arm(*counts))
    assert decide(replace(slight, alpha=0.05), Gate()).kind == "promote"
    assert decide(replace(slight, alpha=0.002), Gate()).kind == "keep"


def test_no_gain_is_a_normal_night() -> None:
    """Equal scores keep the incumbent and say what could have been seen."""
    verdict = decide(evidence(candidate=arm(2, 1, 3), incumbent=arm(1, 2, 3)), Gate())
    assert verdict.kind == "keep"
    assert f"the smallest detectable effect was {100 * verdict.detectable:.1f} pp" in verdict.reason


@pytest.mark.parametrize("passed", [0, K])
def test_a_night_in_which_nothing_differs_could_not_have_shown_everything(passed: int) -> None:
    """Two arms that always fail, or always pass, are kept apart by no gain of a few points: the reason says so."""
    verdict = decide(evidence(incumbent=arm(passed), candidate=arm(passed)), Gate())
    assert verdict.kind == "keep"
    assert verdict.detectable == pytest.approx(9.0704 / (PROBLEMS * K + 9.0704), abs=1e-4)
    assert "the smallest detectable effect was 2.8 pp" in verdict.reason


def test_a_shown_regression_is_rejected() -> None:
    """A lower pass@1 whose interval lies below 0 is rejected."""
    verdict = decide(evidence(candidate=arm(1, 1, 1)), Gate())
    assert verdict.kind == "reject"
    assert verdict.reason.startswith("pass@1 moved by -12.")


def test_a_gain_in_pass1_paid_with_passk_is_rejected() -> None:
    """The narrow night: pass@1 rises, pass@k falls beyond the margin."""
    narrow = arm(8, 8, 0)
    verdict = decide(evidence(candidate=narrow, incumbent=arm(3, 3, 2)), Gate())
    assert verdict.lift.point > 0.25
    assert verdict.kind == "reject"
    assert "pass@8 moved by" in verdict.reason


def test_a_drop_of_passk_beyond_the_margin_that_is_not_shown_keeps() -> None:
    """Too much lost in pass@k to promote, too uncertain to call it collapse."""
    gains = (5,) * 18 + (0, 0)
    losers = (2,) * 17 + (0, 2, 2)
    verdict = decide(evidence(candidate=arm(*gains), incumbent=arm(*losers)), Gate(pass_k_margin=0.04))
    assert verdict.lift_tonight.low > 0
    assert verdict.lift_k.point == pytest.approx(-0.05)
    assert verdict.lift_k.high >= 0
    assert verdict.kind == "keep"
    assert "beyond the margin of 4.0 pp" in verdict.reason


def test_a_drop_of_passk_within_the_margin_is_no_obstacle() -> None:
    """A pass@k that is lower by exactly the margin does not stop a promotion."""
    gains = (5,) * 18 + (0, 0)
    losers = (2,) * 17 + (0, 2, 2)
    assert decide(evidence(candidate=arm(*gains), incumbent=arm(*losers)), Gate()).kind == "promote"


def test_a_probe_alarm_rejects() -> None:
    """Collapse shown by a probe rejects whatever pass@1 says, and the probe is named."""
    verdict = decide(evidence(candidate_probes=replace(READINGS, distinct4=0.1)), Gate())
    assert verdict.kind == "reject"
    assert "distinct-4 0.1 is below 0.12" in verdict.reason
    assert verdict.alarms[0].probe == "distinct-4"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"evaluated_digest": "d" * 64}, "is not the one that was built"),
        ({"overlap": 2}, "2 held-out issues overlap"),
        ({"voids": 17}, "sandbox faults"),
        ({"samples": 0}, "sandbox faults"),
        ({"other_voids": 17}, "5.3% of the runs that it is compared with were sandbox faults"),
    ],
)
def test_a_flawed_night_is_invalid(changed: dict[str, object], words: str) -> None:
    """Another artefact, a leak or too many faults: the numbers are worth nothing."""
    verdict = decide(evidence(**changed), Gate())
    assert verdict.kind == "invalid"
    assert words in verdict.reason


def test_too_few_problems_promote_nothing() -> None:
    """Below the policy's minimum even a clear gain is kept back."""
    verdict = decide(evidence(), Gate(min_problems=41))
    assert verdict.kind == "keep"
    assert "40 held-out problems are too few" in verdict.reason


@pytest.mark.parametrize("manage", ["gateway", "bake"])
def test_where_the_decode_is_managed_the_tuned_base_must_be_beaten_too(manage: str) -> None:
    """Retuning the base is free there, so a gain that it would give too promotes nothing."""
    assert decide(evidence(manage=manage), Gate()).kind == "promote"
    verdict = decide(evidence(manage=manage, tuned_base=arm(4, 5, 5)), Gate())
    assert verdict.kind == "keep"
    assert "retuning the base would be free" in verdict.reason


def test_a_managed_decode_needs_the_tuned_base_measured() -> None:
    """Without the tuned base's line there is nothing to hold a managed candidate against."""
    verdict = decide(evidence(manage="bake", tuned_base=None), Gate())
    assert verdict.kind == "keep"
    assert "was not measured" in verdict.reason
    assert (verdict.over_tuned, verdict.splits, len(verdict.arms)) == (None, (), 3)


def test_the_verdict_carries_every_arm() -> None:
    """One line an arm, each with pass@1 and pass@k."""
    arms = {each.name: each for each in decide(evidence(), Gate()).arms}
    assert list(arms) == ["incumbent", "base", "tuned base", "candidate"]
    assert arms["candidate"].pass_1.point == pytest.approx(186 / 320)
    assert arms["candidate"].pass_k.point == 1.0


def test_the_gain_is_told_by_bca_too() -> None:
    """Beside the percentile interval stands BCa's, at the same level, with the same middle."""
    found = decide(evidence(), Gate())
    assert (found.lift_bca.point, found.lift_bca.level) == (found.lift.point, found.lift.level)
    assert found.lift_bca.low == pytest.approx(found.lift.low, abs=0.02)


def test_a_verdict_is_json() -> None:
    """Every number of a verdict can be stored as JSON."""
    alarmed = evidence(candidate_probes=replace(READINGS, distinct4=0.9, parse_rate=0.1))
    stored = json.loads(json.dumps(asdict(decide(alarmed, Gate())), allow_nan=False))
    assert [alarm["high"] for alarm in stored["alarms"]] == [pytest.approx(0.3), None]
    assert stored["lift"]["problems"] == PROBLEMS


def test_a_gain_splits_into_decoding_and_skill() -> None:
    """Total is decoding plus skill, overall and in every slice."""
    overall, house, plain = decompose(arm(1, 2), arm(3, 2), arm(3, 6))
    assert [each.slice for each in (overall, house, plain)] == ["", "house", "plain"]
    assert (house.decoding.point, house.skill.point) == (0.0, 0.5)
    assert (plain.decoding.point, plain.skill.point) == (0.25, 0.0)
    assert overall.total.point == pytest.approx(overall.decoding.point + overall.skill.point)
    assert overall.teacher is None


def test_the_teachers_decode_stands_beside_the_split() -> None:
    """What the base gains at the teacher's decode is told overall and by slice, and the candidate's gain over it."""
    found = decide(evidence(teacher=arm(3, 2)), Gate())
    assert [round(part.teacher.point, 3) for part in found.splits if part.teacher] == [0.066, 0.006, 0.125]
    assert found.over_teacher is not None
    assert found.over_teacher.point == pytest.approx(found.splits[0].total.point - 0.0656, abs=1e-3)
    assert [each.name for each in found.arms] == ["incumbent", "base", "tuned base", "teacher decode", "candidate"]
    assert decide(evidence(), Gate()).over_teacher is None


GUARDED = Scores(tuple(f"i{number:02}" for number in range(60)), (4,) * 60, (3,) * 60)


def guard(*counts: int) -> Guard:
    """Return a guard set of 60 items with 4 answers each, of which the base passes 3; the counts repeat."""
    candidate = replace(GUARDED, c=tuple(counts[number % len(counts)] for number in range(60)))
    return weigh("shell", GUARDED, candidate, Gate())


def test_a_guard_that_holds_is_named_in_the_promotion() -> None:
    """A candidate that forgot nothing is promoted, and the reason says what it was held against."""
    verdict = decide(evidence(guards=(guard(3),)), Gate())
    assert (verdict.kind, verdict.guards[0].state) == ("promote", "holds")
    assert verdict.reason.endswith("guards hold: shell")


def test_a_guard_that_drops_rejects() -> None:
    """Whoever solves more issues and forgets the shell is rejected."""
    verdict = decide(evidence(guards=(guard(3), guard(2))), Gate())
    assert verdict.kind == "reject"
    assert "guard shell moved by -25.0 pp" in verdict.reason


def test_a_guard_that_is_not_shown_to_hold_keeps() -> None:
    """What may have been forgotten is not promoted."""
    verdict = decide(evidence(guards=(guard(4, 4, 0),)), Gate())
    assert verdict.kind == "keep"
    assert "not shown to stay within the margin" in verdict.reason


def test_a_guard_that_shows_nothing_does_not_block() -> None:
    """0 against 0 is no evidence: the night is promoted, and the guard does not stand among those that hold."""
    nothing = replace(GUARDED, c=(0,) * 60)
    verdict = decide(evidence(guards=(weigh("shell", nothing, nothing, Gate()),)), Gate())
    assert verdict.kind == "promote"
    assert "guards hold" not in verdict.reason
    assert verdict.guards[0].state == "blind"


def test_style_may_move_where_merged_work_teaches_it() -> None:
    """A candidate that no longer fences its answers alarms, but for the arm that learned just that."""
    bare = {"base_probes": replace(READINGS, fenced=1.0), "candidate_probes": replace(READINGS, fenced=0.0)}
    assert "fenced 0 is below 0.5" in decide(evidence(**bare), Gate()).reason
    assert decide(evidence(**bare, style_may_move=True), Gate()).kind == "promote"


def test_where_the_evaluation_could_stop_the_e_value_decides() -> None:
    """The same gain whose interval lies above 0 is kept back until the capital has grown enough; both are stored."""
    slight = evidence(incumbent=arm(0), base=arm(0), candidate=arm(0, 0, 0, 0, 0, 0, 0, 0, 0, 5), alpha=0.05)
    assert decide(slight, Gate()).kind == "promote"
    waiting = decide(replace(slight, design=BET), Gate())
    assert waiting.kind == "keep"
    assert waiting.e_value is not None
    assert waiting.e_value < 1 / 0.03
    assert waiting.reason.startswith(f"no gain shown: e-value {waiting.e_value:.3g} of {1 / BET.alpha:.3g} needed, ")
    grown = decide(evidence(design=BET), Gate())
    assert grown.kind == "promote"
    assert grown.e_value is not None
    assert grown.e_value >= 1 / 0.03
    assert f", e-value {grown.e_value:.3g} of {1 / BET.alpha:.3g} needed; pass@" in grown.reason
    assert decide(slight, Gate()).e_value is None


def test_a_managed_decode_needs_capital_over_the_tuned_base_too() -> None:
    """Sequential or not, what retuning the base would give promotes nothing."""
    night = evidence(design=BET, manage="bake", tuned_base=arm(3, 5, 5))
    assert decide(night, Gate()).kind == "keep"
    assert decide(replace(night, tuned_base=arm(1, 2, 2)), Gate()).kind == "promote"


def test_the_gain_is_over_what_serves_whatever_the_base_does() -> None:
    """Lift, its tests and what could be seen are the incumbent's; only the split and the arms know the base."""
    one, other = (decide(evidence(base=arm(*base), design=BET), Gate()) for base in ((1, 2, 3), (0, 8, 4)))
    names = ("kind", "lift", "lift_tonight", "lift_bca", "lift_k", "p_value", "e_value", "detectable", "over_tuned")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert one.splits[0].total != other.splits[0].total


counts = st.lists(st.integers(0, K), min_size=PROBLEMS, max_size=PROBLEMS)


@settings(max_examples=25, deadline=None)
@given(
    counts,
    st.lists(st.integers(0, K), min_size=PROBLEMS, max_size=PROBLEMS),
    st.sampled_from(["none", "bake"]),
    DESIGNS,
)
def test_a_worse_score_never_promotes(better: list[int], losses: list[int], manage: str, design: Design | None) -> None:
    """Law: where a candidate is promoted, it still is with any problem's count raised; so a worse one never is."""
    worse = [max(0, count - loss) for count, loss in zip(better, losses, strict=True)]
    night = evidence(manage=manage, tuned_base=arm(1, 2, 2), design=design)
    low = decide(replace(night, candidate=arm(*worse)), Gate()).kind
    high = decide(replace(night, candidate=arm(*better)), Gate()).kind
    assert low != "promote" or high == "promote"


@settings(max_examples=25, deadline=None)
@given(st.data(), DESIGNS)
def test_a_candidate_that_is_nowhere_better_is_never_promoted(data: st.DataObject, design: Design | None) -> None:
    """Law: no candidate at or below the incumbent on every problem is promoted."""
    ceiling = evidence().incumbent.c
    worse = [data.draw(st.integers(0, count)) for count in ceiling]
    assert decide(evidence(candidate=arm(*worse), design=design), Gate()).kind != "promote"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.booleans(), min_size=PROBLEMS * K, max_size=PROBLEMS * K),
    st.sets(st.integers(0, PROBLEMS * K - 1)),
    st.sampled_from([2, 3]),
    DESIGNS,
)
def test_voids_never_help(passed: list[bool], void: set[int], every: int, design: Design | None) -> None:
    """Law: turning any of the candidate's or the incumbent's runs into faults never makes a promotion."""
    rows = [(f"p{index // K:02}", ok, False) for index, ok in enumerate(passed)]
    voided = [(problem, ok, index in void) for index, (problem, ok, _) in enumerate(rows)]
    other = [(f"p{index // K:02}", index % every == 0, index in void) for index in range(PROBLEMS * K)]
    clean = evidence(
        candidate=tally(rows, voids_pass=False),
        incumbent=tally([(problem, ok, False) for problem, ok, _ in other], voids_pass=True),
        design=design,
    )
    faulty = evidence(
        candidate=tally(voided, voids_pass=False),
        incumbent=tally(other, voids_pass=True),
        voids=len(void),
        design=design,
    )
    assert decide(faulty, Gate(max_void_share=1.0)).kind != "promote" or decide(clean, Gate()).kind == "promote"


@settings(max_examples=10, deadline=None)
@given(
    counts,
    st.lists(st.integers(-2, 4), min_size=PROBLEMS, max_size=PROBLEMS),
    st.integers(2, 4),
    DESIGNS,
)
def test_more_evidence_for_the_same_effect_never_turns_promote_into_reject(
    others: list[int], gains: list[int], times: int, design: Design | None
) -> None:
    """Law: what is promoted is not rejected where the same issues are seen several times over."""
    mine = [min(K, max(0, count + gain)) for count, gain in zip(others, gains, strict=True)]
    night = evidence(candidate=arm(*mine), incumbent=arm(*others), base=arm(*others), design=design)
    names = ("candidate", "incumbent", "base", "tuned_base")
    more = replace(night, **{name: _times(getattr(night, name), times) for name in names})  # type: ignore[arg-type]
    before, after = decide(night, Gate()).kind, decide(more, Gate()).kind
    assert (before, after) != ("promote", "reject")
    assert design is None or before != "promote" or after == "promote"


GUARD_COUNTS = st.lists(st.integers(0, 4), min_size=6, max_size=12)


def guarded(items: int, base: list[int], candidate: list[int], policy: Gate) -> Guard:
    """Return a guard set of so many items with 4 answers each; the counts repeat."""
    ids = tuple(f"i{number:03}" for number in range(items))
    cycled = [tuple(counts[number % len(counts)] for number in range(items)) for counts in (base, candidate)]
    first, second = (Scores(ids, (4,) * items, counts) for counts in cycled)
    return weigh("shell", first, second, policy)


@settings(max_examples=20, deadline=None)
@given(GUARD_COUNTS, GUARD_COUNTS, GUARD_COUNTS, st.sampled_from([0.05, 0.3]), st.sampled_from([12, 60]))
def test_a_worse_guard_never_promotes(
    base: list[int], better: list[int], losses: list[int], margin: float, needed: int
) -> None:
    """Law: what guards hold back is not promoted where the candidate passes fewer of their items."""
    policy = Gate(guard_margin=margin, guard_items=needed)
    size = min(len(base), len(better), len(losses))
    worse = [max(0, count - loss) for count, loss in zip(better[:size], losses[:size], strict=True)]
    kinds = [
        decide(evidence(guards=(guarded(24, base[:size], counts, policy),)), policy).kind
        for counts in (worse, better[:size])
    ]
    assert kinds[0] != "promote" or kinds[1] == "promote"


@settings(max_examples=20, deadline=None)
@given(GUARD_COUNTS, GUARD_COUNTS, st.integers(2, 6), st.sampled_from([0.05, 0.3]), st.sampled_from([12, 60]))
def test_more_items_of_the_same_kind_never_turn_promote_into_reject(
    base: list[int], candidate: list[int], times: int, margin: float, needed: int
) -> None:
    """Law: a small guard set that lets a night pass does not reject it where there are more items that moved alike."""
    policy = Gate(guard_margin=margin, guard_items=needed)
    size = min(len(base), len(candidate))
    kinds = [
        decide(evidence(guards=(guarded(items, base[:size], candidate[:size], policy),)), policy).kind
        for items in (size, size * times)
    ]
    assert kinds != ["promote", "reject"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=48, max_size=48), st.sets(st.integers(0, 47)), st.sampled_from([6, 60]))
def test_voids_in_a_guard_set_never_help(passed: list[bool], void: set[int], needed: int) -> None:
    """Law: turning answers of either arm to a guard set into faults never makes a promotion."""
    policy = Gate(guard_items=needed)
    rows = [(f"i{number // 4:02}", ok) for number, ok in enumerate(passed)]
    kinds = []
    for faults in (void, set()):
        mine = tally([(item, ok, n in faults) for n, (item, ok) in enumerate(rows)], voids_pass=False)
        other = tally([(item, n % 3 > 0, n in faults) for n, (item, _) in enumerate(rows)], voids_pass=True)
        kinds.append(decide(evidence(guards=(weigh("shell", other, mine, policy),)), policy).kind)
    assert kinds[0] != "promote" or kinds[1] == "promote"


@settings(max_examples=15, deadline=None)
@given(counts, counts, st.sampled_from(["none", "gateway", "bake"]), DESIGNS)
def test_the_teachers_decode_never_changes_a_verdict(
    candidate: list[int], teacher: list[int], manage: str, design: Design | None
) -> None:
    """Law: the base at the teacher's decode stands beside the evidence and neither makes nor costs a promotion."""
    night = evidence(candidate=arm(*candidate), manage=manage, design=design)
    beside = decide(replace(night, teacher=arm(*teacher)), Gate())
    assert (beside.kind, beside.reason) == (decide(night, Gate()).kind, decide(night, Gate()).reason)


def _times(scores: Scores, times: int) -> Scores:
    """Return the same issues several times over."""
    ids = tuple(f"{problem}.{turn}" for turn in range(times) for problem in scores.ids)
    return Scores(ids, scores.n * times, scores.c * times, scores.slices * times)
