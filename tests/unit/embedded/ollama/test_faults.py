"""Fault hooks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.faults import Faults, garbled
from fleetssd.embedded.ollama.replies import ApiError


def test_no_fault_is_on_by_itself() -> None:
    """A fresh server fails nothing and garbles nothing."""
    faults = Faults()
    faults.check_generation()
    assert (faults.shown(), faults.garbles("d")) == ({}, False)


def test_the_next_generations_fail_and_no_more() -> None:
    """After n failures all is well again."""
    faults = Faults()
    faults.change({"fail_next": 2, "fail_status": 500}, None)
    for _ in range(2):
        with pytest.raises(ApiError) as error:
            faults.check_generation()
        assert error.value.status == 500
    faults.check_generation()


def test_switching_one_on_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody mistakes a fault of the demonstration for a real one."""
    Faults().change({"garble": "fleet:latest"}, "abc")
    assert "FAULT garble is ON: answers of fleet:latest (abc)" in capsys.readouterr().err


def test_null_switches_off_and_absence_does_not() -> None:
    """Only what is named changes."""
    faults = Faults()
    faults.change({"garble": "x", "slow_load_ms": 5}, "abc")
    faults.change({"garble": None}, None)
    assert faults.shown() == {"slow_load_ms": 5}


def test_an_unknown_fault_is_refused() -> None:
    """A typing error does not pass silently."""
    with pytest.raises(ApiError, match="unknown fault 'grable'"):
        Faults().change({"grable": "x"}, None)


@given(st.text())
def test_garbage_depends_on_the_text_alone(text: str) -> None:
    """The same answer goes wrong the same way, keeps its lines, and no letter survives."""
    junk = garbled(text)
    assert junk == garbled(text)
    assert [char == "\n" for char in junk] == [char == "\n" for char in text]
    assert not any(char.isalnum() for char in junk)
