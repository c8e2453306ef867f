"""A file written from pieces: its bytes, its digest, and what a disk that refuses leaves behind."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from fleetssd.adapters.gguf_builder import pieces
from fleetssd.errors import Misconfigured


def cut(data: bytes, size: int) -> Iterator[pieces.Piece]:
    """Cut bytes into pieces of uneven size, some of them empty."""
    yield partial(bytes, 0)
    for at in range(0, len(data), size):
        yield partial(bytes, data[at : at + size])
        yield partial(bytes, 0)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, (1 << 23) - 1, 1 << 23, (3 << 23) + 4097])
def test_the_file_is_its_pieces_in_order(size: int, tmp_path: Path) -> None:
    """Whatever the length, next to a sector or a buffer or several, the file and its digest are those of the bytes."""
    data = os.urandom(size)
    digest = pieces.write(tmp_path / "out", cut(data, 700_001))
    assert (tmp_path / "out").read_bytes() == data
    assert digest == sha256(data).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("size", [10, (4 << 23) + 10])
def test_a_full_disk_leaves_no_artefact(size: int, tmp_path: Path) -> None:
    """Where the kernel says that nothing is left on the device, at once or on the way, no file stays or appears."""
    (tmp_path / ".out.partial").symlink_to("/dev/full")
    with pytest.raises(Misconfigured, match="no room") as caught:
        pieces.write(tmp_path / "out", cut(bytes(size), 1 << 20))
    assert "Make room" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_piece_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """An error in a piece comes out as it is, an older file of the name stays, and nothing else is left."""
    (tmp_path / "out").write_bytes(b"older")

    def broken() -> bytes:
        raise ValueError("no such rows")

    with pytest.raises(ValueError, match="no such rows"):
        pieces.write(tmp_path / "out", [partial(bytes, b"good"), broken, partial(bytes, b"good")])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_cores_are_counted_where_nobody_assigns_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without sched_getaffinity, such as macOS, has all of its processors, and at least one."""
    assert pieces.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert pieces.cores() == os.cpu_count()


def test_a_disk_that_refuses_direct_writes_gets_plain_ones(tmp_path: Path) -> None:
    """A direct write whose place in memory the kernel refuses is written through the page cache instead, all of it."""
    memory = mmap.mmap(-1, 3 * 4096)
    memory.write(bytes(range(256)) * 48)
    file = pieces._open(tmp_path / "out")
    pieces._put(file, memoryview(memory)[1 : 1 + 5000], 3)
    os.close(file)
    assert (tmp_path / "out").read_bytes() == bytes(3) + (bytes(range(256)) * 48)[1 : 1 + 5000]
