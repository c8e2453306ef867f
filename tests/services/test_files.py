"""Files are whole or not there, and as private as they must be."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from fleetssd import files


@pytest.mark.parametrize("data", ["Grüße\n", b"\x00\xff", ""])
def test_a_file_is_what_was_written(tmp_path: Path, data: str | bytes) -> None:
    """Text is UTF-8, bytes are bytes; a file of before is replaced and no draft is left."""
    path = tmp_path / "note.json"
    path.write_text("old and longer than what comes")
    assert files.write(path, data) == path
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [found.name for found in tmp_path.iterdir()] == ["note.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    """A disk that takes only a part of it costs nothing that was there."""
    path = tmp_path / "note.json"
    files.write(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["note.json"]


def test_a_draft_of_a_killed_writer_is_no_hindrance(tmp_path: Path) -> None:
    """Not even one that links elsewhere, or that others may read."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / ".key.partial").symlink_to(elsewhere)
    files.write(tmp_path / "key", "secret", mode=0o600)
    assert not elsewhere.exists()
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
