"""API keys, as they are made, kept and compared."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Misconfigured, Rejected
from fleetssd.keys import SECRET_BYTES, mint, read_keys, whose, written

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)
KEY, TEXT = mint("agent-7", bytes(range(SECRET_BYTES)), AT)
KEYS = {KEY.id: KEY}


def test_a_key_names_its_agent() -> None:
    """And nothing that differs from it in a character does."""
    assert whose(KEYS, TEXT) == "agent-7"
    others = ["", TEXT[:-1], TEXT + "A", TEXT.upper(), TEXT.replace("_", ""), f"fleetssd_{KEY.id}_"]
    assert [whose(KEYS, other) for other in others] == [None] * len(others)


@given(st.text())
def test_no_noise_is_a_key(text: str) -> None:
    """Nor does it break anything."""
    assert whose(KEYS, text) is None
    assert whose(KEYS, f"fleetssd_{KEY.id}_{text}") is None


def test_a_key_file_holds_no_key() -> None:
    """It is read as it was written, and what is in it opens nothing."""
    text = written(KEYS.values())
    assert read_keys(text) == KEYS
    assert TEXT.rpartition("_")[2] not in text
    assert whose(KEYS, KEY.sha256) is None


@pytest.mark.parametrize("line", [TEXT, f"{KEY.id} {KEY.sha256} agent-7 yesterday", "a b c d"])
def test_a_broken_line_is_named_and_not_shown(line: str) -> None:
    """A key that somebody pasted there must not reach a log."""
    with pytest.raises(Misconfigured, match="line 2") as caught:
        read_keys(f"# keys\n{line}\n")
    assert line not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\n", "é", "a" * 65])
def test_an_agent_has_a_name_that_fits_a_line(name: str) -> None:
    """Letters, digits and a few marks."""
    with pytest.raises(Rejected):
        mint(name, bytes(SECRET_BYTES), AT)
