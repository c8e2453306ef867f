"""The safetensors header, against the reference implementation and against damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fleetssd import safetensors
from fleetssd.errors import Corrupt

SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), SHAPES, max_size=5))
def test_tensors_lie_where_the_reference_puts_them(shapes: dict[str, tuple[int, ...]]) -> None:
    """Every tensor that the reference writes is found with its shape, and its bytes are at its offset."""
    arrays = {
        name: np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) + index
        for index, (name, shape) in enumerate(shapes.items())
    }
    data = save(arrays, metadata={"format": "pt"})
    spans = safetensors.parse(data, len(data))
    assert spans.keys() == arrays.keys()
    for name, span in spans.items():
        assert span.shape == arrays[name].shape
        assert data[span.offset : span.offset + 4 * span.values] == arrays[name].tobytes()


def header(table: object) -> bytes:
    """Return a file of this header and 16 bytes of data."""
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        header([]),
        header({"a": {"dtype": "F32", "shape": [4]}}),
        header({"a": {"dtype": "I8", "shape": [16], "data_offsets": [0, 16]}}),
        header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}),
        header({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}),
        header({"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}}),
    ],
    ids=["empty", "length", "list", "no offsets", "type", "shape", "outside", "no shape"],
)
def test_damage_is_corrupt(data: bytes) -> None:
    """A header that lies about its file raises Corrupt, never another error."""
    with pytest.raises(Corrupt):
        safetensors.parse(data, len(data))


@given(st.binary(max_size=80))
def test_noise_is_corrupt_or_empty(noise: bytes) -> None:
    """Random bytes raise Corrupt; they never name a tensor."""
    try:
        found = safetensors.parse(noise, len(noise))
    except Corrupt:
        return
    assert found == {}
