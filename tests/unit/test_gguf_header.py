"""The GGUF header read by hand: values of every type, alignment, damage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import gguf_header
from fleetssd.errors import Corrupt, Misconfigured


def text(value: str) -> bytes:
    """Spell a GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, data: bytes) -> bytes:
    """Spell a key and its value."""
    return text(name) + struct.pack("<I", kind) + data


KEYS = (
    key("general.architecture", 8, text("qwen3")),
    key("qwen3.block_count", 4, struct.pack("<I", 2)),
    key("tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
    key("scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
    key("flag", 7, b"\x01"),
    key("qwen3.attention.head_count", 9, struct.pack("<IQ", 4, 2) + bytes(8)),
)
TENSORS = (
    text("x.weight") + struct.pack("<IQQIQ", 2, 3, 5, 0, 0),
    text("y.weight") + struct.pack("<IQIQ", 1, 4, 1, 64),
)


def whole(keys: tuple[bytes, ...] = KEYS, version: int = 3, magic: bytes = b"GGUF", data: int = 128) -> bytes:
    """Spell a file: header, padding to 32, data."""
    head = struct.pack("<4sIQQ", magic, version, len(TENSORS), len(keys)) + b"".join(keys) + b"".join(TENSORS)
    return head + bytes(-len(head) % 32) + bytes(data)


def test_a_header_is_read() -> None:
    """Scalars and strings come with their values, arrays with their length, shapes row-major."""
    file = whole()
    header = gguf_header.parse(file, len(file))
    start = len(file) - 128
    assert dict(header.keys) == {
        "general.architecture": "qwen3",
        "qwen3.block_count": 2,
        "tokens": (2,),
        "scores": (3,),
        "flag": True,
        "qwen3.attention.head_count": (2,),
    }
    assert header.tensors["x.weight"] == gguf_header.Tensor(0, (5, 3), start)
    assert header.tensors["y.weight"] == gguf_header.Tensor(1, (4,), start + 64)
    assert (header.architecture, header.number("block_count")) == ("qwen3", 2)


def test_alignment_is_the_files_own() -> None:
    """general.alignment moves the start of the data."""
    file = whole((*KEYS, key("general.alignment", 4, struct.pack("<I", 64))), data=256)
    header = gguf_header.parse(file, len(file))
    assert header.tensors["x.weight"].offset % 64 == 0


def test_a_number_that_varies_by_layer_is_misconfigured() -> None:
    """An array where one number is needed names a base that cannot be used; a missing key is Corrupt."""
    file = whole()
    header = gguf_header.parse(file, len(file))
    with pytest.raises(Misconfigured, match="head_count"):
        header.number("attention.head_count")
    with pytest.raises(Corrupt, match="embedding_length"):
        header.number("embedding_length")


@pytest.mark.parametrize(
    "file",
    [whole(magic=b"FUGG"), whole(version=1), whole((key("k", 99, b""),)), whole(data=0), b"", b"GGUF"],
    ids=["magic", "version", "type", "no data", "empty", "stub"],
)
def test_what_is_no_gguf_is_corrupt(file: bytes) -> None:
    """Another magic, an old version, an unknown type or missing data raise Corrupt."""
    with pytest.raises(Corrupt):
        gguf_header.parse(file, len(file))


@given(st.integers(0, len(whole()) - 129))
def test_every_cut_is_corrupt(cut: int) -> None:
    """A header cut anywhere raises Corrupt."""
    with pytest.raises(Corrupt):
        gguf_header.parse(whole()[:cut], cut)


@given(st.binary(min_size=1, max_size=12), st.integers(8, len(whole()) - 140))
def test_damage_never_raises_another_error(noise: bytes, at: int) -> None:
    """Overwritten bytes give a header or Corrupt, nothing else."""
    file = bytearray(whole())
    file[at : at + len(noise)] = noise
    try:
        header = gguf_header.parse(bytes(file), len(file))
    except Corrupt:
        return
    assert all(tensor.offset < len(file) for tensor in header.tensors.values())


def test_an_alignment_below_one_is_corrupt() -> None:
    """Nothing can be padded to a multiple of zero."""
    file = whole((*KEYS, key("general.alignment", 4, struct.pack("<I", 0))))
    with pytest.raises(Corrupt, match="alignment"):
        gguf_header.parse(file, len(file))


def test_a_written_table_is_the_one_that_was_read() -> None:
    """Names, types, shapes and offsets come out in the bytes that a file has them in."""
    file = whole()
    header = gguf_header.parse(file, len(file))
    rows = {name: (each.type, each.shape, each.offset - header.start) for name, each in header.tensors.items()}
    assert gguf_header.write_table(rows) == b"".join(TENSORS)
