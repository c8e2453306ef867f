"""Every family's adapter GGUF, tensor by tensor, against llama.cpp's converter and against its rules, written out here.

What the converter made is in tests/samples/lora. The rules (convert_hf_to_gguf.py, convert_lora_to_gguf.py) are stated
again by hand for the merge: neither the gguf package's map of names nor the builder's own permutation makes what is
expected. Bases have two layers with random matrices and no vocabulary: nothing is run, only bytes are compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fleetssd.adapters.gguf_builder import GgufBuilder
from fleetssd.errors import Misconfigured, Rejected

pytestmark = pytest.mark.e2e

HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD, WIDE, RANK, ALPHA = 64, 4, 2, 16, 96, 8, 16
Q, KV = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
_ATTENTION = {
    "self_attn.q_proj": ("attn_q", (Q, HIDDEN)),
    "self_attn.k_proj": ("attn_k", (KV, HIDDEN)),
    "self_attn.v_proj": ("attn_v", (KV, HIDDEN)),
    "self_attn.o_proj": ("attn_output", (HIDDEN, Q)),
}
_MLP = {
    "mlp.gate_proj": ("ffn_gate", (WIDE, HIDDEN)),
    "mlp.up_proj": ("ffn_up", (WIDE, HIDDEN)),
    "mlp.down_proj": ("ffn_down", (HIDDEN, WIDE)),
}


@dataclass(frozen=True)
class Family:
    """An architecture's linear layers: Hugging Face's name to GGUF's name and shape."""

    architecture: str
    modules: dict[str, tuple[str, tuple[int, int]]]
    prefix: str = "model.layers"
    rotated: bool = False


FAMILIES = {
    "llama": Family("llama", _ATTENTION | _MLP, rotated=True),
    "mistral": Family("llama", _ATTENTION | _MLP, rotated=True),
    "qwen2": Family("qwen2", _ATTENTION | _MLP),
    "qwen3": Family("qwen3", _ATTENTION | _MLP),
    "qwen3moe": Family("qwen3moe", _ATTENTION | {"mlp.gate": ("ffn_gate_inp", (8, HIDDEN))}),
    "gemma2": Family("gemma2", _ATTENTION | _MLP),
    "gemma3": Family("gemma3", _ATTENTION | _MLP, prefix="model.language_model.layers"),
    "phi3": Family(
        "phi3",
        {
            "self_attn.qkv_proj": ("attn_qkv", (Q + 2 * KV, HIDDEN)),
            "self_attn.o_proj": ("attn_output", (HIDDEN, Q)),
            "mlp.gate_up_proj": ("ffn_up", (2 * WIDE, HIDDEN)),
            "mlp.down_proj": ("ffn_down", (HIDDEN, WIDE)),
        },
    ),
}


def base(path: Path, family: Family) -> dict[str, np.ndarray]:
    """Write a base with this family's linear layers and return them by name."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, family.architecture)
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    made = {}
    for layer in range(2):
        for name, shape in family.modules.values():
            made[f"blk.{layer}.{name}.weight"] = rng.standard_normal(shape, np.float32)
    for name, array in made.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def adapter(folder: Path, family: Family) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write a PEFT adapter on all of it and return (A, B) by GGUF name, as PEFT has them."""
    rng = np.random.default_rng(2)
    tensors, pairs = {}, {}
    for layer in range(2):
        for module, (name, (rows, width)) in family.modules.items():
            a, b = rng.standard_normal((RANK, width), np.float32), rng.standard_normal((rows, RANK), np.float32)
            key = f"base_model.model.{family.prefix}.{layer}.{module}.lora_"
            tensors |= {f"{key}A.weight": a, f"{key}B.weight": b}
            pairs[f"blk.{layer}.{name}.weight"] = (a, b)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return pairs


def rotated(name: str, matrix: np.ndarray) -> np.ndarray:
    """Move rows as llama.cpp does for `llama`: of a head, row i of half j comes to 2 i + j. Other layers stay."""
    if ".attn_q." not in name and ".attn_k." not in name:
        return matrix
    out = np.empty_like(matrix)
    for row in range(len(matrix)):
        head, within = divmod(row, HEAD)
        half, at = divmod(within, HEAD // 2)
        out[head * HEAD + 2 * at + half] = matrix[row]
    return out


SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "lora"
REFERENCES = sorted((path.parent.name, path.stem[-3:].upper()) for path in SAMPLES.glob("*/reference-f??.gguf"))
COSMETIC = {"general.name", "general.tags", "general.base_model.count", "general.quantization_version"}
"""What the converter writes of its own, and no reader needs."""


def base_of(path: Path, reference: gguf.GGUFReader) -> None:
    """Write a base that has just the tensors the converter's adapter is for."""
    shapes: dict[str, list[int]] = {}
    for tensor in reference.tensors:
        name, side = tensor.name.rsplit(".lora_", 1)
        shapes.setdefault(name, [0, 0])[side == "a"] = tensor.data.shape[side == "a"]
    writer = gguf.GGUFWriter(path, reference.fields["general.architecture"].contents())
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def told(reader: gguf.GGUFReader) -> dict[str, object]:
    """Return a file's keys and values."""
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def test_every_family_has_a_reference() -> None:
    """No promised family lacks the converter's files of both types; a vision model's wrapped Gemma 3 is one more."""
    assert {*REFERENCES} == {(name, kind) for name in (*FAMILIES, "gemma3-wrapped") for kind in ("F16", "F32")}


@pytest.mark.parametrize(("name", "kind"), REFERENCES)
def test_an_adapter_equals_the_converters(name: str, kind: str, tmp_path: Path) -> None:
    """Names, shapes, types and bytes of all tensors, and the keys that readers need, are the converter's."""
    reference = gguf.GGUFReader(SAMPLES / name / f"reference-{kind.lower()}.gguf")
    base_of(tmp_path / "base.gguf", reference)
    GgufBuilder().adapter(SAMPLES / name, tmp_path / "base.gguf", tmp_path / "out.gguf", kind)
    ours, theirs = (
        {tensor.name: (tensor.tensor_type, tensor.data.shape, tensor.data.tobytes()) for tensor in reader.tensors}
        for reader in (gguf.GGUFReader(tmp_path / "out.gguf"), reference)
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    expected = {key: value for key, value in told(reference).items() if key not in COSMETIC}
    assert told(gguf.GGUFReader(tmp_path / "out.gguf")) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merge_adds_to_the_right_rows(name: str, tmp_path: Path) -> None:
    """Every merged matrix is W + alpha / r · B @ A, with B's rows where the base keeps them."""
    family = FAMILIES[name]
    weights = base(tmp_path / "base.gguf", family)
    pairs = adapter(tmp_path / "adapter", family)
    GgufBuilder().merged(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "out.gguf", 1.0)
    for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors:
        a, b = pairs[tensor.name]
        moved = rotated(tensor.name, b) if family.rotated else b
        expected = weights[tensor.name].astype(np.float64) + ALPHA / RANK * moved.astype(np.float64) @ a
        np.testing.assert_allclose(tensor.data, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "value"), [("F16", 7e4), ("F16", -7e4), ("F16", np.nan), ("F32", np.inf)])
def test_a_value_out_of_range_is_refused(kind: str, value: float, tmp_path: Path) -> None:
    """One number that its type cannot hold refuses the whole file, by the module's name; no infinity is ever served."""
    family = FAMILIES["qwen3"]
    base(tmp_path / "base.gguf", family)
    adapter(tmp_path / "adapter", family)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][5, 3] = value
    save_file(tensors, weights)
    with pytest.raises(Rejected, match=r"layers\.1\.mlp\.up_proj.*range of float") as caught:
        GgufBuilder().adapter(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "out.gguf", kind)
    assert "adapter_type" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base.gguf"]


def test_half_precision_holds_what_its_largest_number_does(tmp_path: Path) -> None:
    """A value at the end of the range is written, and one beyond it as float32."""
    family = FAMILIES["qwen3"]
    base(tmp_path / "base.gguf", family)
    adapter(tmp_path / "adapter", family)
    weights, key = tmp_path / "adapter" / "adapter_model.safetensors", "base_model.model.model.layers.0.mlp.up_proj"
    for kind, value in (("F16", 65504.0), ("F32", 7e4)):
        tensors = load_file(weights)
        tensors[f"{key}.lora_A.weight"][0, 0] = value
        save_file(tensors, weights)
        GgufBuilder().adapter(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "out.gguf", kind)
        read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
        assert read["blk.0.ffn_up.weight.lora_a"][0, 0] == value


def test_experts_are_refused(tmp_path: Path) -> None:
    """Experts are stacked in a GGUF, where a LoRA of one of them has no name: Misconfigured, with what can be done."""
    family = FAMILIES["qwen3moe"]
    base(tmp_path / "base.gguf", family)
    expert = {"mlp.experts.0.gate_proj": ("ffn_gate", (WIDE, HIDDEN))}
    adapter(tmp_path / "adapter", Family("qwen3moe", expert))
    with pytest.raises(Misconfigured, match="experts") as caught:
        GgufBuilder().adapter(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "out.gguf", "F16")
    assert "attention" in caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    """Where rows might be moved in a way that nobody checked, nothing is built: the hint lists what is known."""
    family = Family("falcon", _ATTENTION)
    base(tmp_path / "base.gguf", family)
    adapter(tmp_path / "adapter", family)
    with pytest.raises(Misconfigured, match="falcon") as caught:
        GgufBuilder().adapter(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "out.gguf", "F16")
    assert "qwen3moe" in caught.value.hint
