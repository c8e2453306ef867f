"""The clocks: aware UTC, and steered by a file where one is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetssd.adapters.clock import SteeredClock, SystemClock
from fleetssd.errors import Misconfigured


def test_system_clock_is_aware_utc() -> None:
    """Now lies between two looks at the machine's clock, in UTC."""
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_unsteered_clock_is_the_machines(tmp_path: Path) -> None:
    """Without the file a steered clock tells the machine's time."""
    before = datetime.now(UTC)
    assert before <= SteeredClock(tmp_path / "clock").now() <= datetime.now(UTC)


def test_steered_clock_follows_its_file(tmp_path: Path) -> None:
    """Whoever steers the file moves every clock that reads it, and can move it again."""
    mine, theirs = SteeredClock(tmp_path / "clock"), SteeredClock(tmp_path / "clock")
    for days in (3, -2.5):
        mine.steer(days * 86400)
        before = datetime.now(UTC) + timedelta(days=days)
        assert before <= theirs.now() <= datetime.now(UTC) + timedelta(days=days)
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


@pytest.mark.parametrize("text", ["soon", "", "nan", "inf"])
def test_file_without_a_number_is_misconfigured(tmp_path: Path, text: str) -> None:
    """A file that holds anything else than seconds is named, not taken for zero."""
    (tmp_path / "clock").write_text(text)
    with pytest.raises(Misconfigured, match="no number of seconds"):
        SteeredClock(tmp_path / "clock").now()
