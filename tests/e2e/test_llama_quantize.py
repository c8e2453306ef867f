"""K-quants by llama.cpp's own program: a stand-in that keeps its contract, and the real one where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from fleetssd.adapters.gguf_builder import GgufBuilder, llama_quantize
from fleetssd.errors import Misconfigured

pytestmark = pytest.mark.e2e

REAL = shutil.which(os.environ.get("FLEETSSD_LLAMA_QUANTIZE", "llama-quantize"))
WIDTH = 256
SHAPES = {
    "attn_q": ("self_attn.q_proj", (WIDTH, WIDTH)),
    "attn_k": ("self_attn.k_proj", (WIDTH // 2, WIDTH)),
    "attn_v": ("self_attn.v_proj", (WIDTH // 2, WIDTH)),
    "ffn_down": ("mlp.down_proj", (WIDTH, 2 * WIDTH)),
}
KINDS = {"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "ffn_down": "Q8_0"}
STAND_IN = '''#!{python}
"""Quantises as llama-quantize does, but to blocks that only say what they were made of: the first row's mean."""
import sys
import gguf, numpy as np
option, given, made, kind, threads = sys.argv[1:]
assert option == "--pure" and int(threads) > 0
kind, reader = gguf.GGMLQuantizationType[{kind}], gguf.GGUFReader(given)
writer = gguf.GGUFWriter(made, reader.fields["general.architecture"].contents())
block, size = gguf.GGML_QUANT_SIZES[kind]
for tensor in reader.tensors:
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.data.shape[1] % block == 0
    rows, width = tensor.data.shape
    told = np.full((rows, width // block * size), round(float(tensor.data[0].mean())), np.uint8)
    writer.add_tensor(tensor.name, told, raw_dtype=kind)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
{last}
'''


def program(path: Path, kind: str = "kind", last: str = "") -> Path:
    """Write the stand-in as an executable; `kind` and `last` make it do something else than was asked."""
    path.write_text(STAND_IN.replace("{python}", sys.executable).replace("{kind}", kind).replace("{last}", last))
    path.chmod(0o755)
    return path


def written(path: Path, tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]) -> Path:
    """Write a GGUF that says of itself what llama.cpp wants to know of a qwen3."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Write an adapter of ones, rank 2 and strength 1, on all four matrices: it adds 2 everywhere."""
    folder, tensors = tmp_path / "adapter", {}
    folder.mkdir()
    for module, (rows, width) in SHAPES.values():
        key = f"base_model.model.model.layers.0.{module}.lora_"
        tensors |= {f"{key}A.weight": np.ones((2, width), np.float32), f"{key}B.weight": np.ones((rows, 2), np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write a base of K-quants and one Q8_0: blocks of zeros, which dequantise to zeros."""
    made = {}
    for name, kind in KINDS.items():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        rows, width = SHAPES[name][1]
        zeros = np.zeros((rows, width // block * size), np.uint8)
        made[f"blk.0.{name}.weight"] = (zeros, gguf.GGMLQuantizationType[kind])
    return written(tmp_path / "base.gguf", made)


def kinds(path: Path) -> dict[str, str]:
    """Return the type of every tensor."""
    return {tensor.name.split(".")[2]: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def test_k_quants_keep_their_type(adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the program every target keeps its type, in however many runs, and the file its size; nothing is left."""
    monkeypatch.setattr(llama_quantize, "_BATCH", 4 * WIDTH * WIDTH)  # two matrices of Q4_K do not fit one run
    before = {*tmp_path.iterdir()}
    builder = GgufBuilder("F16", program(tmp_path / "llama-quantize"))
    made = tmp_path / "made" / "merged.gguf"
    made.parent.mkdir()
    builder.merged(adapter, base, made, 1.0)
    assert kinds(made) == KINDS
    assert builder.retyped(base, made) == {}
    assert made.stat().st_size == base.stat().st_size
    assert [path.name for path in made.parent.iterdir()] == ["merged.gguf"]
    assert {*tmp_path.iterdir()} - before == {made.parent, tmp_path / "llama-quantize"}
    found = {tensor.name.split(".")[2]: tensor for tensor in gguf.GGUFReader(made).tensors}
    assert all((found[name].data == 2).all() for name in ("attn_q", "attn_k", "attn_v"))
    assert np.allclose(gguf.dequantize(found["ffn_down"].data, gguf.GGMLQuantizationType.Q8_0), 2, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "last", "said"),
    [
        ("kind", "sys.exit('no such model')", "no such model"),
        ("'Q5_K'", "", "not as Q4_K"),
        ("kind", "open(made, 'wb').close()", "cannot be read"),
        ("kind", "import os; os.kill(os.getpid(), 9)", "exit -9"),
    ],
    ids=["says no", "another type", "no file", "killed"],
)
def test_a_program_that_fails_leaves_no_artefact(
    kind: str, last: str, said: str, adapter: Path, base: Path, tmp_path: Path
) -> None:
    """A program that refuses, dies or makes something else raises Misconfigured with its words and a way out."""
    builder = GgufBuilder("Q8_0", program(tmp_path / "llama-quantize", kind, last))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Misconfigured, match=said) as caught:
        builder.merged(adapter, base, out / "merged.gguf", 1.0)
    assert "llama_quantize" in caught.value.hint
    assert not list(out.iterdir())


def test_a_program_that_is_not_there_is_told(adapter: Path, base: Path, tmp_path: Path) -> None:
    """A path to nothing raises Misconfigured, not a traceback of the system's."""
    with pytest.raises(Misconfigured, match="No such file"):
        GgufBuilder("Q8_0", tmp_path / "nothing").merged(adapter, base, tmp_path / "merged.gguf", 1.0)


def test_the_program_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is taken as it is, "auto" finds what is on PATH or nothing, and "never" means what it says."""
    monkeypatch.setattr(llama_quantize, "_ENGINES", (str(tmp_path / "engine"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert llama_quantize.find("auto") is None
    (tmp_path / "engine").mkdir()
    beside = program(tmp_path / "engine" / "llama-quantize")
    assert llama_quantize.find("auto") == beside
    found = program(tmp_path / "llama-quantize")
    assert llama_quantize.find("auto") == found
    assert llama_quantize.find("never") is None
    assert llama_quantize.find("/opt/llama-quantize") == Path("/opt/llama-quantize")


@pytest.mark.skipif(not REAL, reason="needs llama-quantize on PATH or in FLEETSSD_LLAMA_QUANTIZE")
@pytest.mark.parametrize("kind", sorted(kind.name for kind in llama_quantize.TYPES))
def test_the_real_program_agrees(kind: str, adapter: Path, tmp_path: Path) -> None:
    """Targets merged into a base that llama.cpp quantised are the bytes it makes of the sum itself."""
    assert REAL
    rng, plain = np.random.default_rng(4), gguf.GGMLQuantizationType.F32
    sums = {f"blk.0.{name}.weight": rng.standard_normal(shape, np.float32) for name, (_, shape) in SHAPES.items()}

    def quantised(values: dict[str, np.ndarray], to: str) -> Path:
        given = written(tmp_path / f"{to}.f32.gguf", {name: (array, plain) for name, array in values.items()})
        command = [REAL, "--pure", str(given), str(tmp_path / f"{to}.gguf"), kind, "1"]
        subprocess.run(command, check=True, capture_output=True)
        return tmp_path / f"{to}.gguf"

    base = quantised(sums, "base")
    whole = {t.name: gguf.dequantize(t.data, t.tensor_type) + 2 for t in gguf.GGUFReader(base).tensors}
    expected = {t.name: t.data.tobytes() for t in gguf.GGUFReader(quantised(whole, "expected")).tensors}
    GgufBuilder("Q8_0", Path(REAL)).merged(adapter, base, tmp_path / "merged.gguf", 1.0)
    merged = gguf.GGUFReader(tmp_path / "merged.gguf").tensors
    assert {tensor.tensor_type.name for tensor in merged} == {kind}
    assert {tensor.name: tensor.data.tobytes() for tensor in merged} == expected
