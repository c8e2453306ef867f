"""What repeated runs without and with the merged change come to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.admission import REASONS, Admission, NotAdmittedError, executed, fingerprint, format_of, ruled
from fleetssd.checks import checks_for
from fleetssd.config import Evaluation, Records
from fleetssd.problems import Outcome
from tests.services.test_night import record

PASS, FAIL, FAULT = Outcome(passed=True), Outcome(passed=False, detail="no"), Outcome(passed=False, fault=True)
OUTCOMES = st.lists(st.sampled_from([PASS, FAIL, FAULT]), min_size=2, max_size=5)


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ([FAIL, FAIL], [PASS, PASS], "verified"),
        ([PASS, PASS], [PASS, PASS], "passes_before"),
        ([FAIL, FAIL], [FAIL, FAIL], "gold_fails"),
        ([PASS, PASS], [FAIL, FAIL], "gold_fails"),
        ([FAIL, FAIL], [PASS, FAIL], "flaky"),
        ([FAIL, PASS], [PASS, PASS], "flaky"),
        ([FAIL, FAIL], [PASS, FAULT], "sandbox_fault"),
    ],
)
def test_a_record_is_verified_or_has_its_reason(before: list[Outcome], after: list[Outcome], code: str) -> None:
    """Fails before and passes after, every time; all else is refused by name."""
    assert ruled(before, after)[0] == code
    assert code in REASONS


@given(before=OUTCOMES, after=OUTCOMES)
def test_only_what_never_disagrees_is_verified(before: list[Outcome], after: list[Outcome]) -> None:
    """One run that says otherwise, or says nothing, is enough to refuse."""
    clean = all(o == FAIL for o in before) and all(o == PASS for o in after)
    assert (ruled(before, after)[0] == "verified") == clean


def test_what_the_verdict_depends_on_is_in_the_fingerprint() -> None:
    """Another check command, preparation, limit or change is verified again; another name of nothing is not."""
    one = record(1, "held_out")
    general = checks_for(Evaluation(), Records(), one.repository)
    known = fingerprint(one, general)
    assert known == fingerprint(replace(one, labels=("other",)), general)
    for changed in ({"check": "make"}, {"prepare": "make deps"}, {"wall_seconds": 99.0}, {"repeats": 5}):
        assert fingerprint(one, checks_for(Evaluation(**changed), Records(), one.repository)) != known  # type: ignore[arg-type]
    assert fingerprint(replace(one, solution="other"), general) != known


def test_the_format_is_read_off_the_record() -> None:
    """A record keeps the format it was filed in, whatever the setting is now."""
    one = record(1, "held_out")
    assert format_of(one) == "code"
    assert format_of(replace(one, solution_path="", solution="diff --git a/x b/x\n")) == "diff"
    assert format_of(replace(one, solution_path="", solution="### `x`\n")) == "files"


def test_a_refusal_says_what_its_code_means() -> None:
    """The hint of a refusal is the sentence of its code."""
    error = NotAdmittedError("prepare_failed", "exit status 1")
    assert (error.code, error.hint) == ("prepare_failed", REASONS["prepare_failed"])


def test_what_may_have_been_the_network_is_looked_into_again() -> None:
    """A tree that was gone is asked for again; tests that pass before the change say so for good."""
    one = Admission("r1", "refused", "tree_gone", "", "f", 0.0, datetime(2026, 11, 22, tzinfo=UTC))
    assert not one.settled
    assert replace(one, code="passes_before").settled


def test_only_what_is_judged_by_its_tests_may_be_read_by_a_gate() -> None:
    """References and refusals are not among the executed."""
    one = Admission("r1", "executed", "verified", "", "f", 1.0, datetime(2026, 11, 22, tzinfo=UTC))
    found = {"r1": one, "r2": replace(one, kind="reference"), "r3": replace(one, kind="refused")}
    assert executed(found) == {"r1"}
