"""What repeated runs without and with the merged change come to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.admission import REASONS, NotAdmittedError, fingerprint, format_of, ruled
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
