"""A night as a report: its numbers, its curves and what it cost, and the same as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import gate
from fleetssd.checkpoints import STAGES, Answer, Night, StageRow, VerdictRow
from fleetssd.config import Gate, Prices
from fleetssd.night_markdown import amount, between, guard_word, markdown, plain
from fleetssd.night_report import Answered, NightReport, compose
from fleetssd.surroundings import UNWALLED
from tests.unit.test_gate import READINGS, evidence, guard

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
TRAIN: dict[str, Any] = {
    "losses": [0.5, 0.1], "steps": 2, "tokens": 12345, "gpu_seconds": 1800.0, "cpu_seconds": 3600.0,
    "energy_joules": 3.6e6,
}  # fmt: skip
EXTRA: dict[str, Any] = {
    "tau": 1.0,
    "tuned_temperature": 0.4,
    "slice_tests": {"house": {"p": 0.01, "holm": 0.02, "lift": {"point": 0.3, "low": 0.1, "high": 0.5}}},
}


def night(number: int = 2, hours: float = 1.0, train: dict[str, Any] | None = None, **changed: Any) -> Night:
    """Return a decided night that learned for that long, with some of the verdict's numbers changed."""
    fields = {name: value for name, value in changed.items() if name not in ("reason", *_NUMBERS)}
    verdict = gate.decide(evidence(**fields), Gate())
    numbers = {**asdict(verdict), **EXTRA, **{name: changed[name] for name in _NUMBERS if name in changed}}
    row = VerdictRow(number, verdict.kind, changed.get("reason", verdict.reason), verdict.digest, numbers, NOW)  # type: ignore[arg-type]
    results: dict[str, dict[str, Any]] = {"train": TRAIN if train is None else train}
    took = {"train": timedelta(hours=hours)}
    stages = tuple(
        StageRow(number, stage, results.get(stage, {}), NOW, NOW + took.get(stage, timedelta(0))) for stage in STAGES
    )
    plan = {"train": ["a"], "k": 8, "decode": {"temperature": 1.0}}
    return Night(number, "done", "merged", plan, NOW, NOW, "", stages, row)


_NUMBERS = ("precondition", "stopped", "tau", "e_value", "splits", "budget", "engine", "reference")


def answers(arm: str, passed: dict[str, list[bool]], text: str = "a b") -> list[Answer]:
    """Return one answer for each grade, of growing length."""
    return [
        Answer(2, arm, problem, index, 0, text * (index + 1), "stop", good, fault=False, detail="")
        for problem, grades in passed.items()
        for index, good in enumerate(grades)
    ]


BASE = answers("base", {"p1": [True, False], "p2": [True, True], "p3": [False, False]})
CANDIDATE = answers("candidate", {"p1": [True, True], "p2": [False, False], "p4": [True, True]})
ASKED = Answered(BASE, BASE, CANDIDATE, CANDIDATE, {0.7: BASE, 0.4: CANDIDATE, 0.2: []}, {"p1": "fleet/app 7"})


def composed(of: Night | None = None, *before: Night, answered: Answered = ASKED) -> NightReport:
    """Return the report of a night after those before it."""
    of = of or night()
    return compose(of, [*before, of], answered)


def test_the_report_is_what_json_knows() -> None:
    """A report goes through JSON and back without a change."""
    told = json.loads(json.dumps(asdict(composed()), allow_nan=False))
    assert told["gain"]["low"] <= told["gain"]["point"] <= told["gain"]["high"]
    assert [arm["temperature"] for arm in told["arms"]] == [1.0, 1.0, 0.4, 1.0]
    assert told["losses"] == [0.5, 0.1]


@pytest.mark.parametrize(
    ("candidate", "words"),
    [({}, "Night 2 is promoted: "), ({"overlap": 3}, "Night 2 is invalid: 3 held-out issues overlap")],
)
def test_a_verdict_is_one_sentence(candidate: dict[str, Any], words: str) -> None:
    """The sentence says what became of the night and why."""
    assert composed(night(**candidate)).sentence.startswith(words)


def test_a_failed_night_says_why_and_an_open_one_that_it_is_open() -> None:
    """A night without a verdict has a sentence, and neither gain nor curves."""
    failed = Night(4, "failed", "ssd", {}, NOW, NOW, "no disk")
    told = composed(failed, answered=Answered())
    assert told.sentence == "Night 4 failed: no disk."
    assert (told.gain, told.lengths, told.issues, told.by_night, told.losses) == (None, None, [], [], [])
    assert composed(replace(failed, state="running"), answered=Answered()).sentence == "Night 4 is not decided yet."
    assert "Night 4 failed: no disk." in markdown(told)


def test_what_an_interval_does_not_say_is_noted() -> None:
    """What was foreseen, an early stop, the e-value and a baked temperature each leave a note."""
    ahead = {"advice": "GO-SSD", "reason": "headroom", "power": {"sentence": "40 issues can show it"}}
    stopped = {"problems": 20, "of": 40, "decision": "promote"}
    notes = composed(night(precondition=ahead, stopped=stopped, e_value=50.0, tau=0.2)).notes
    assert [note.split()[0] for note in notes] == ["Before", "40", "The", "The", "A"]
    assert "after 20 of 40" in notes[2]
    assert "intervals and p-value only describe" in notes[3]
    assert "one that may stop shows less" in notes[3]
    assert composed(night(stopped={**stopped, "decision": "continue"})).notes == ()


def test_issues_without_tests_are_weaker_evidence_beside_the_verdict() -> None:
    """How often base and candidate write the merged change itself is noted, as what decides nothing."""
    beside = {"problems": 12, "base": {"point": 0.05}, "candidate": {"point": 0.25}}
    (note,) = composed(night(reference=beside)).notes
    assert "decides nothing: on 12 issues without tests the base in 5.0 % and the candidate in 25.0 %" in note


@pytest.mark.parametrize(
    ("kind", "words"), [("promote", "is promoted"), ("carry", "is carried on"), ("drop", "is dropped")]
)
def test_a_challenger_that_was_asked_beside_is_noted(kind: str, words: str) -> None:
    """The night that carried it, its artefact and its ruling stand in one note."""
    of, ruling = night(), {"kind": kind, "origin": 1, "artefact": "c" * 64, "reason": "e-value 3 of 40 needed"}
    ruling |= {"e_value": 3.0, "needed": 40.0, "issues": 25}
    told = composed(replace(of, stages=(*of.stages, StageRow(2, "challenge", ruling, NOW, NOW))))
    assert told.notes[-1] == f"The challenger of night 1 (cccccccccccc) {words}: e-value 3 of 40 needed."


def test_a_night_without_a_sandbox_says_so_first() -> None:
    """A plan that ran answers unsandboxed puts that before every other note, in the report as in its Markdown."""
    bare = night(tau=0.2)
    report = composed(replace(bare, plan={**bare.plan, "sandbox": "none"}))
    assert report.notes[0] == UNWALLED
    assert len(report.notes) == 2


def test_slices_carry_the_split_and_the_adjusted_p() -> None:
    """Every slice has gain, decoding and skill; p and the gain that it tests stand where the slice was tested."""
    report = composed()
    slices = report.slices
    assert [part["gain"] for part in slices] == [report.gain, {"point": 0.3, "low": 0.1, "high": 0.5}, None]
    assert [(part["slice"], part["holm"]) for part in slices] == [("all", None), ("house", 0.02), ("plain", None)]
    assert slices[0]["problems"] == 40
    for part in slices:
        assert part["decoding"]["point"] + part["skill"]["point"] == pytest.approx(part["total"]["point"])


def test_the_teachers_decode_is_a_line_of_its_own() -> None:
    """Where the base was asked at the teacher's decode, arm, gain, slices and a note say so, in both renderings."""
    of = night(teacher=evidence().tuned_base)
    told = composed(replace(of, plan=of.plan | {"sampling": {"temperature": 1.5, "top_k": 20, "top_p": 0.8}}))
    assert told.over_teacher == told.over_tuned
    assert {arm["arm"]: arm["temperature"] for arm in told.arms}["teacher decode"] == 1.5
    assert told.slices[1]["teacher"] == told.slices[1]["decoding"]
    assert "the base at temperature 1.5, top_k 20, top_p 0.8" in told.notes[-1]
    text = markdown(told)
    assert "Gain over the base at the teacher's decode" in text
    assert "Gain over the base at the teacher's decode" not in markdown(composed())


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((3,), "holds within 10 pp"),
        ((0,), "DROPPED by more than 10 pp"),
        ((4, 4, 0), "not shown to hold within 10 pp; could show a drop of"),
    ],
)
def test_guards_stand_in_the_report(counts: tuple[int, ...], words: str) -> None:
    """Every set has its shares, its change and what became of it, in numbers and in words."""
    told = composed(night(guards=(guard(*counts),)))
    (shown,) = told.guards
    assert (shown["name"], shown["items"], shown["base"]["point"]) == ("shell", 60, 0.75)
    assert words in markdown(told)
    assert "Guard tasks" not in markdown(composed())


def test_what_guards_cannot_show_is_said() -> None:
    """A base that passes next to nothing is no evidence, and a set of few items says what it could show."""
    assert guard_word({"state": "blind", "margin": 0.1, "sees": 0.1}) == "no evidence: the base passes too little"
    few = guard_word({"state": "few", "margin": 0.1, "sees": 0.31})
    assert few == "too few items for 10 pp; could show a drop of 31 pp"


def test_an_alarm_stands_at_its_probe_with_its_bounds() -> None:
    """The probe that alarmed is marked, whichever way its name is spelled; the others are not."""
    probes = composed(night(candidate_probes=replace(READINGS, distinct4=0.1, parse_rate=0.1))).probes
    marked = {probe["probe"]: probe["low"] for probe in probes if probe["alarm"]}
    assert set(marked) == {"distinct4", "parse rate"}
    assert marked["distinct4"] == pytest.approx(0.12)


def test_pass1_by_temperature_marks_the_chosen_one() -> None:
    """The grid stands in order, what was not asked is left out, and the temperature that was chosen is marked."""
    grid = composed().by_temperature
    assert [(point["temperature"], point["chosen"]) for point in grid] == [(0.4, True), (0.7, False)]
    assert grid[1]["pass_1"]["point"] == pytest.approx(0.5)


def test_issues_are_compared_where_both_were_asked_the_worst_first() -> None:
    """An issue's gain is the candidate's pass@1 minus the incumbent's, by name where it has one."""
    issues = composed().issues
    assert [(issue["name"], issue["delta"]) for issue in issues] == [("p2", -1.0), ("fleet/app 7", 0.5)]


def test_distributions_hold_every_answer_of_both_to_the_same_issues() -> None:
    """Shares of base and candidate each sum to one over the same edges; only issues that both were asked count."""
    told = composed()
    for found in (told.lengths, told.repetition):
        assert found is not None
        assert sum(found["base"]) == pytest.approx(1.0)
        assert sum(found["candidate"]) == pytest.approx(1.0)
        assert len(found["edges"]) == len(found["base"]) + 1
    assert composed(answered=replace(ASKED, probed=())).lengths is None


def test_cost_counts_hours_and_gain_for_each() -> None:
    """Hours follow from the stages and the ledger, and the gain over the base is divided by each."""
    told = composed(night(hours=2.0))
    gain = 100 * told.slices[0]["total"]["point"]
    assert told.cost["hours"] == told.cost["learning_hours"] == 2.0
    assert (told.cost["gpu_hours"], told.cost["cpu_hours"], told.cost["energy_kwh"]) == (0.5, 1.0, 1.0)
    assert told.cost["pp_per_learning_hour"] == pytest.approx(gain / 2.0)
    assert told.cost["pp_per_gpu_hour"] == pytest.approx(gain / 0.5)


@pytest.mark.parametrize("changed", [{"train": {}, "hours": 0.0}, {"splits": [], "train": {}}])
def test_what_was_not_measured_is_null(changed: dict[str, Any]) -> None:
    """Without an accelerator, a clock or a gain there is no number made up."""
    cost = composed(night(**changed)).cost
    assert cost["gpu_hours"] is cost["cpu_hours"] is cost["energy_kwh"] is None
    assert cost["pp_per_learning_hour"] is cost["pp_per_gpu_hour"] is None


@pytest.mark.parametrize(
    ("prices", "train", "price"),
    [
        ({"machine_hour": 3.0, "gpu_hour": 2.0, "kwh": 0.5}, TRAIN, 6.0 + 1.0 + 0.5),
        ({"machine_hour": 3.0}, {}, 6.0),
        ({}, TRAIN, None),
        ({"machine_hour": 3.0, "gpu_hour": 2.0}, {}, None),
    ],
)
def test_a_night_has_a_price_where_all_that_costs_was_measured(
    prices: dict[str, Any], train: dict[str, Any], price: float | None
) -> None:
    """Hours of the machine, of the accelerator and energy are added up; what was not metered is never guessed."""
    of = night(hours=2.0, train=train)
    told = compose(of, [of], ASKED, Prices(currency="CHF", **prices))
    assert told.cost["price"] == price
    if price is not None:
        assert told.cost["pp_per_price"] == pytest.approx(100 * told.slices[0]["total"]["point"] / price)
    assert f"| price of the night, CHF | {amount(price)} |" in markdown(told)


def test_intervals_name_their_levels() -> None:
    """The night's own level stands once, the gain at tonight's share of the budget and the guards name theirs."""
    told = composed(night(guards=(guard(3),)))
    assert (told.level, told.gain_tonight and told.gain_tonight["level"]) == (pytest.approx(0.95), pytest.approx(0.97))
    text = markdown(told)
    assert "share of the error budget: 97 % interval" in text
    assert "Intervals are at 95 % by issue" in text
    assert "## Guard tasks, 90 % intervals" in text


def test_a_verdict_of_before_the_error_budget_has_one_interval() -> None:
    """An older version kept no interval at tonight's share: Markdown leaves its line out and keeps the other."""
    of = night()
    assert of.verdict is not None
    old = replace(of, verdict=replace(of.verdict, evidence={**of.verdict.evidence, "lift_tonight": None}))
    text = markdown(composed(old))
    assert "tonight's share" not in text
    assert "Gain in pass@1 over the incumbent" in text


def test_the_error_budget_is_told_and_a_changed_rule_is_never_silent() -> None:
    """A note says what tonight could spend and what looks without a budget would do; a changed rule has its own."""
    share = {"alpha": 0.004, "rule": "lord", "budget": 0.05, "look": 5, "promotions": 1, "spent": 0.02,
             "changed": "since night 1 the error budget changed from spending 0.05 to lord 0.05"}  # fmt: skip
    notes = composed(night(budget=share)).notes
    assert notes[0].startswith(
        "Look 5, promotions before: 1; of an error budget of 5 % tonight could spend 0.4 points (lord)"
    )
    assert notes[0].endswith("of up to 23%.")
    assert notes[1] == "Note: since night 1 the error budget changed from spending 0.05 to lord 0.05."
    assert len(composed(night(budget={**share, "look": 1, "changed": ""})).notes) == 1


def test_a_report_names_what_it_is_bound_to() -> None:
    """Artefact, base and hold-out stand beside the moments, which are written for people."""
    text = markdown(composed())
    assert "Started 2026-11-22 02:00 UTC, finished 2026-11-22 02:00 UTC." in text
    assert f"Artefact {'c' * 64}; base {'b' * 64}, held-out h1." in text
    of = night(engine="ollama 0.9.1")
    assert "seed 7, engine ollama 0.9.1." in markdown(composed(replace(of, plan=of.plan | {"seed": 7})))


def test_the_best_of_a_grid_is_told_to_flatter_itself() -> None:
    """The winner's curse in points, from the noise of differences alone; only where the same issues were asked."""
    grades = {f"p{number:02}": [number % 3 > 0, number % 2 == 0] for number in range(30)}
    other = {name: [passed[1], number % 5 > 0] for number, (name, passed) in enumerate(grades.items())}
    base, moved = answers("base", grades), answers("base", other)
    told = composed(answered=replace(ASKED, tune={0.4: base, 0.7: moved}))
    gaps = np.array([(sum(other[name]) - sum(passed)) / 2 for name, passed in grades.items()])
    assert told.flattered == pytest.approx(0.5642 * gaps.std(ddof=1) / np.sqrt(30) / np.sqrt(2), rel=1e-3)
    assert "The best of 2 equals would seem" in markdown(told)
    assert composed(answered=replace(ASKED, tune={0.4: base, 0.7: base})).flattered == 0.0
    for tune in ({0.4: base}, ASKED.tune):
        told = composed(answered=replace(ASKED, tune=tune))
        assert (told.flattered, "equals would seem" in markdown(told)) == (None, False)


def test_the_front_holds_what_nothing_beats() -> None:
    """A night that learned longer for the same gain is off the front, and so is the base below its tuned self."""
    points = composed(night(2, hours=2.0), night(1, hours=1.0)).pareto
    assert {point["name"]: point["front"] for point in points} == {
        "base": False, "night 1, merged": True, "night 2, merged": False, "tuned base": True,
    }  # fmt: skip


def test_nights_that_come_later_are_left_out() -> None:
    """A report written again says what was known in its night."""
    told = compose(night(2), [night(1), night(2), night(3)], ASKED)
    assert [line["number"] for line in told.by_night] == [1, 2]


def test_markdown_has_every_part() -> None:
    """The Markdown twin has the sentence, the interval first and a table for each part."""
    text = markdown(composed(night(2), night(1)))
    for part in ("Arms", "Where the gain comes from", "Probes", "Tests", "pass@1 by temperature", "By night",
                 "Issues that moved most", "Loss", "Cost", "Gain over the base against hours"):  # fmt: skip
        assert f"## {part}" in text
    assert "+" in text.split("over the incumbent: **")[1][:1]
    assert "| fleet/app 7 | +50 |" in text


def test_markdown_lists_both_ends_of_many_issues() -> None:
    """Of many issues the five worst and the five best are listed."""
    many = {f"p{index:02}": [index % 2 == 0] for index in range(30)}
    asked = Answered(BASE, answers("base", {name: [False] for name in many}), answers("candidate", many))
    part = markdown(composed(answered=asked)).split("## Issues")[1].split("##")[0]
    assert part.count("\n| p") == 10


@given(st.text(alphabet="ab@#*_`[]()<>|!~&\\ \n\r", max_size=40))
def test_foreign_text_cannot_leave_its_cell(text: str) -> None:
    """Whatever a reason holds, it stays on one line and opens neither a tag, a cell, a mention nor a link."""
    safe = plain(text)
    assert "\n" not in safe
    assert "\r" not in safe
    bare = safe.replace("\\\\", "")
    for index, letter in enumerate(bare):
        if letter in "<>|[]`*":
            assert bare[index - 1] == "\\"


def test_a_mention_is_not_made_of_a_reason() -> None:
    """`@` calls nobody, and pass@1 stays as it is."""
    assert plain("@ann pass@1") == "\\@ann pass@1"


def test_numbers_are_short_and_what_is_missing_is_a_dash() -> None:
    """Whole and large numbers have no decimals, others three digits."""
    assert [amount(value) for value in (None, 0.0, 2, 12345.6, 0.01234)] == ["-", "0", "2", "12,346", "0.0123"]
    assert between(None) == "-"
    assert between({"point": 0.1, "low": -0.05, "high": 0.2}, signed=True) == "-5.0 to +20.0 (middle +10.0)"
