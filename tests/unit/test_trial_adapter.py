"""The trial adapter, read back by two readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.gguf_header import parse
from fleetssd.trial_adapter import blank, for_model


@given(st.integers(1, 300), st.integers(1, 300))
def test_header_and_size_fit_any_shape(inputs: int, outputs: int) -> None:
    """Both tensors lie inside the file, aligned, in the shapes that llama.cpp wants."""
    data = blank("qwen3", "blk.0.attn_q.weight", inputs, outputs)
    header = parse(data, len(data))
    a, b = (header.tensors[f"blk.0.attn_q.weight.lora_{side}"] for side in "ab")
    assert (a.shape, b.shape) == ((1, inputs), (outputs, 1))
    assert a.offset % 32 == b.offset % 32 == 0
    assert a.offset + 2 * inputs <= b.offset
    assert b.offset + 2 * outputs <= len(data)


def test_the_gguf_package_reads_an_adapter_of_zeros(tmp_path: Path) -> None:
    """Type and kind are those of a LoRA, every matrix is F16 as a night's are, and every value is zero."""
    path = tmp_path / "trial.gguf"
    path.write_bytes(blank("qwen3", "blk.0.attn_q.weight", 64, 48))
    reader = GGUFReader(path)
    told = [reader.fields[key].contents() for key in ("general.architecture", "general.type", "adapter.type")]
    assert told == ["qwen3", "adapter", "lora"]
    assert [tensor.tensor_type for tensor in reader.tensors] == [GGMLQuantizationType.F16] * 2
    assert all(not np.any(tensor.data) for tensor in reader.tensors)


@pytest.mark.parametrize(
    "show",
    [
        {},
        {"model_info": {"general.architecture": "qwen3"}},
        {
            "model_info": {"general.architecture": "qwen3"},
            "tensors": [{"name": "blk.0.attn_norm.weight", "shape": [64]}],
        },
        {"model_info": None, "tensors": [{"name": "blk.0.attn_q.weight", "shape": [64, 64]}]},
    ],
)
def test_without_a_matrix_there_is_no_trial(show: dict[str, object]) -> None:
    """A reply that names no matrix, or no architecture, gives nothing to try."""
    assert for_model(show) is None


def test_the_first_matrix_of_the_first_block_is_tried() -> None:
    """Norms are passed over; inputs and outputs are in the order that show lists them."""
    rows = [{"name": "blk.0.attn_norm.weight", "shape": [64]}, {"name": "blk.0.attn_k.weight", "shape": [64, 32]}]
    show = {"model_info": {"general.architecture": "qwen3"}, "tensors": rows}
    assert for_model(show) == blank("qwen3", "blk.0.attn_k.weight", 64, 32)
