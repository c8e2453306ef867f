"""The files that an engine serves, against Hugging Face and PEFT on one side and llama.cpp on the other."""

# ruff: noqa: PLC0415  torch and llama.cpp are loaded by the tests that use them, not by collecting them
from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fleetssd import gguf_header
from fleetssd.adapters.gguf_builder import GgufBuilder, quants
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected
from fleetssd.operations import learn
from tests.e2e import tiny
from tests.e2e.conftest import Trained
from tests.services.test_learn import PLAN

pytestmark = pytest.mark.e2e
KINDS = ("F16", "F32")
"""The types that an adapter's matrices are written in."""


@pytest.fixture(scope="module")
def builder() -> GgufBuilder:
    """Make a builder; it keeps no state."""
    return GgufBuilder()


@pytest.fixture(scope="module")
def greedy(tiny_model: tiny.Tiny, trained: Trained) -> list[list[int]]:
    """Decode greedily with Hugging Face and PEFT, once."""
    return tiny.hf_greedy(tiny_model, trained.folder / "adapter")


@pytest.fixture(scope="module")
def baked(builder: GgufBuilder, tiny_model: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bake a temperature of one half into the base, once."""
    path = tmp_path_factory.mktemp("baked") / "baked.gguf"
    builder.baked(tiny_model.f32, path, 0.5)
    return path


def random_adapter(folder: Path, model: tiny.Tiny, **options: Any) -> Any:
    """Save a PEFT adapter with random A and B, strong enough to change tokens, and return the PEFT model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": list(tiny.TARGETS), "task_type": "CAUSAL_LM", **options}
    )
    base = AutoModelForCausalLM.from_pretrained(model.hf, dtype=torch.float32)
    peft = get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.05)
    peft.save_pretrained(folder)
    return peft


def merged_by_peft(peft: Any) -> dict[str, Any]:
    """Return Hugging Face's names and merged matrices."""
    state = peft.merge_and_unload().state_dict()
    return {name: weight.numpy() for name, weight in state.items()}


def matrices(path: Path) -> dict[str, Any]:
    """Read every tensor of a GGUF as float32, with the gguf package's own reader."""
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def raw(path: Path) -> dict[str, bytes]:
    """Read every tensor's bytes."""
    return {t.name: t.data.tobytes() for t in gguf.GGUFReader(path).tensors}


def keys(path: Path) -> dict[str, list[bytes]]:
    """Read every key's bytes."""
    return {name: [part.tobytes() for part in f.parts] for name, f in gguf.GGUFReader(path).fields.items()}


def test_the_merged_gguf_speaks_as_peft_does(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, greedy: list[list[int]], tmp_path: Path
) -> None:
    """Greedy tokens of the merged F32 file in llama.cpp equal Hugging Face's with PEFT; the base's differ."""
    builder.merged(trained.folder / "adapter", tiny_model.f32, tmp_path / "merged.gguf", 1.0)
    assert tiny.llama_greedy(tiny_model, tmp_path / "merged.gguf") == greedy
    base = tiny.llama_greedy(tiny_model, tiny_model.f32)
    assert base == tiny.hf_greedy(tiny_model, None)
    assert all(mine != theirs for mine, theirs in zip(greedy, base, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_gguf_speaks_as_peft_does(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, greedy: list[list[int]], kind: str, tmp_path: Path
) -> None:
    """Greedy tokens of the base with the GGUF LoRA of either type in llama.cpp equal Hugging Face's with PEFT."""
    builder.adapter(trained.folder / "adapter", tiny_model.f32, tmp_path / "adapter.gguf", kind)
    assert tiny.llama_greedy(tiny_model, tiny_model.f32, tmp_path / "adapter.gguf") == greedy


def test_the_quantised_merge_speaks_as_peft_does(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, greedy: list[list[int]], tmp_path: Path
) -> None:
    """Merged into the Q8_0 base, the trained adapter still gives the full-precision greedy tokens."""
    builder.merged(trained.folder / "adapter", tiny_model.q8_0, tmp_path / "merged.gguf", 1.0)
    assert tiny.llama_greedy(tiny_model, tmp_path / "merged.gguf") == greedy


def test_merged_logits_are_pefts(builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path) -> None:
    """Log-probabilities of all tokens, merged in F32 and by GGUF LoRA, lie by Hugging Face's with PEFT.

    Within 1e-3 in F32; an adapter in F16 within 1e-2, a fifth of what the fidelity test allows at least.
    """
    adapter, merged = trained.folder / "adapter", tmp_path / "merged.gguf"
    builder.merged(adapter, tiny_model.f32, merged, 1.0)
    expected = tiny.hf_logprobs(tiny_model, adapter)
    found = {1e-3: [tiny.llama_logprobs(tiny_model, merged)], 1e-2: []}
    for kind, bound in zip(KINDS, (1e-2, 1e-3), strict=True):
        builder.adapter(adapter, tiny_model.f32, tmp_path / "adapter.gguf", kind)
        found[bound].append(tiny.llama_logprobs(tiny_model, tiny_model.f32, tmp_path / "adapter.gguf"))
    for bound, answers in [(bound, one) for bound, each in found.items() for one in each]:
        for ours, theirs in zip(answers, expected, strict=True):
            assert len(ours) == len(theirs)
            assert max(abs(ours[token] - theirs[token]) for token in ours) < bound


def test_llama_rows_are_interleaved(builder: GgufBuilder, tmp_path: Path) -> None:
    """For `llama`, whose q and k rows are reordered, merged file and adapters of both types give PEFT's tokens."""
    model = tiny.make(tmp_path, "llama")
    adapter = tmp_path / "adapter"
    random_adapter(adapter, model)
    builder.merged(adapter, model.f32, tmp_path / "merged.gguf", 1.0)
    expected = tiny.hf_greedy(model, adapter)
    assert tiny.llama_greedy(model, tmp_path / "merged.gguf") == expected
    for kind in KINDS:
        builder.adapter(adapter, model.f32, tmp_path / "adapter.gguf", kind)
        assert tiny.llama_greedy(model, model.f32, tmp_path / "adapter.gguf") == expected


def test_a_baked_temperature_is_the_callers_temperature(tiny_model: tiny.Tiny, baked: Path) -> None:
    """T = 1 on the baked file draws what T = τ draws on the plain one, seed by seed, and not what T = 1 draws there."""
    asked = [{"prompt": ids, "n_predict": 24, "seed": seed} for ids in tiny.prompts(tiny_model, 3) for seed in range(4)]
    plain = tiny.llama_answers(tiny_model.f32, [{**ask, "temperature": t} for t in (0.5, 1.0) for ask in asked])
    sharp = tiny.llama_answers(baked, [{**ask, "temperature": 1.0} for ask in asked])
    assert sharp == plain[: len(asked)]
    assert sharp != plain[len(asked) :]


def test_a_base_is_baked_once(builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path) -> None:
    """Nights at one τ share one copy of the base; another τ has its own, and a damaged copy is made again."""
    base = learn.Base(tiny_model.hf, tiny_model.f32)
    plan = replace(PLAN, base=learn.file_digest(tiny_model.f32))

    def night(number: int, tau: float) -> tuple[str, Path]:
        folder = tmp_path / f"{number:04d}"
        shutil.copytree(trained.folder / "adapter", folder / "train" / "adapter")
        built = learn.build(plan, builder, base, folder, tau, "adapter-registry", "F16")
        path = folder / "artefact" / "baked.gguf"
        assert learn.file_digest(path) == built["files"]["baked"]
        return built["files"]["baked"], path.resolve()

    digest, kept = night(1, 0.5)
    made = kept.stat().st_ino, kept.stat().st_mtime_ns
    assert night(2, 0.5) == (digest, kept)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == made
    assert night(3, 0.7)[1] != kept
    kept.write_bytes(kept.read_bytes()[:-1])
    assert night(4, 0.5) == (digest, kept)


def test_baking_touches_one_tensor(tiny_model: tiny.Tiny, baked: Path) -> None:
    """A baked file differs from the base in output_norm.weight alone, which is doubled at τ = 1/2."""
    before, after = raw(tiny_model.f32), raw(baked)
    assert {name for name in before if before[name] != after[name]} == {"output_norm.weight"}
    assert keys(baked) == keys(tiny_model.f32)
    norm = "output_norm.weight"
    assert np.array_equal(matrices(baked)[norm], 2 * matrices(tiny_model.f32)[norm])


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_merging_touches_the_targets_alone(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, kind: str, tmp_path: Path
) -> None:
    """Keys, types and every tensor that is no target stay byte for byte; τ adds the final norm."""
    base = getattr(tiny_model, kind)
    builder.merged(trained.folder / "adapter", base, tmp_path / "merged.gguf", 0.25)
    before, after = raw(base), raw(tmp_path / "merged.gguf")
    changed = {name for name in before if before[name] != after[name]}
    linear = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert changed == {f"blk.{n}.{part}.weight" for n in range(2) for part in linear} | {"output_norm.weight"}
    assert list(before) == list(after)
    assert keys(tmp_path / "merged.gguf") == keys(base)
    assert base.stat().st_size == (tmp_path / "merged.gguf").stat().st_size


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 8, "1.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 32, "down_proj": 1}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.o_proj": 3}},
    ],
    ids=["plain", "rslora", "patterns", "rslora and patterns"],
)
def test_every_strength_is_pefts(
    builder: GgufBuilder, tiny_model: tiny.Tiny, options: Mapping[str, Any], tmp_path: Path
) -> None:
    """Merged matrices equal PEFT's own merge, and the GGUF LoRA's alpha / r · B @ A gives the same, at any strength."""
    peft = random_adapter(tmp_path / "adapter", tiny_model, **options)
    builder.merged(tmp_path / "adapter", tiny_model.f32, tmp_path / "merged.gguf", 1.0)
    builder.adapter(tmp_path / "adapter", tiny_model.f32, tmp_path / "adapter.gguf", "F32")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 2)
    base, merged, lora = (
        matrices(path) for path in (tiny_model.f32, tmp_path / "merged.gguf", tmp_path / "adapter.gguf")
    )
    alpha = gguf.GGUFReader(tmp_path / "adapter.gguf").fields["adapter.lora.alpha"].contents()
    for name, expected in merged_by_peft(peft).items():
        ours = names.get_name(name, try_suffixes=(".weight",))
        if ours not in merged:
            continue  # the tied head is no tensor of its own
        np.testing.assert_allclose(merged[ours], expected, rtol=0, atol=1e-6)
        if f"{ours}.lora_b" in lora:
            a, b = lora[f"{ours}.lora_a"], lora[f"{ours}.lora_b"]
            np.testing.assert_allclose(base[ours] + alpha / b.shape[1] * (b @ a), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_merging_keeps_a_tensors_type(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, kind: str, tmp_path: Path
) -> None:
    """A target of any type that can be written is requantised to that type from the sum in float32."""
    number = gguf.GGMLQuantizationType[kind]
    requantised(tiny_model.f32, tmp_path / "base.gguf", number)
    builder.merged(trained.folder / "adapter", tmp_path / "base.gguf", tmp_path / "merged.gguf", 1.0)
    builder.adapter(trained.folder / "adapter", tiny_model.f32, tmp_path / "adapter.gguf", "F32")
    base, lora = matrices(tmp_path / "base.gguf"), matrices(tmp_path / "adapter.gguf")
    merged = {t.name: t for t in gguf.GGUFReader(tmp_path / "merged.gguf").tensors}
    name = "blk.1.ffn_down.weight"
    whole = base[name] + (np.float32(2.0) * lora[f"{name}.lora_b"]) @ lora[f"{name}.lora_a"]
    assert merged[name].tensor_type == number
    assert merged[name].data.tobytes() == gguf.quantize(whole, number).tobytes()


def requantised(source: Path, out: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Write a bare GGUF of the same tensors, the layers' matrices in another type."""
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_block_count(2)
    for name, array in matrices(source).items():
        own = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(array, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_same_input_gives_the_same_file(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path
) -> None:
    """Each verb returns its file's sha256, twice the same, and leaves no other file."""
    adapter = trained.folder / "adapter"
    for out in (tmp_path / "one", tmp_path / "two"):
        out.mkdir()
        digests = (
            builder.adapter(adapter, tiny_model.q8_0, out / "adapter.gguf", "F16"),
            builder.merged(adapter, tiny_model.q8_0, out / "merged.gguf", 0.2),
            builder.baked(tiny_model.q8_0, out / "baked.gguf", 0.2),
        )
        files = [sha256((out / f"{name}.gguf").read_bytes()).hexdigest() for name in ("adapter", "merged", "baked")]
        assert list(digests) == files
        assert len(list(out.iterdir())) == 3
    assert (tmp_path / "one/merged.gguf").read_bytes() == (tmp_path / "two/merged.gguf").read_bytes()
    assert (tmp_path / "one/adapter.gguf").read_bytes() == (tmp_path / "two/adapter.gguf").read_bytes()


def edited(trained: Trained, folder: Path, **changes: Any) -> Path:
    """Copy the trained adapter with another configuration."""
    shutil.copytree(trained.folder / "adapter", folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"peft_type": "LOHA"},
        {"trainable_token_indices": [1]},
        {"layer_replication": [[0, 1]]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_gguf_can_say_is_refused(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, changes: dict[str, Any], tmp_path: Path
) -> None:
    """DoRA, saved modules, biases and the like raise Misconfigured with a hint, and leave no file."""
    adapter = edited(trained, tmp_path / "adapter", **changes)
    with pytest.raises(Misconfigured) as caught:
        builder.merged(adapter, tiny_model.f32, tmp_path / "merged.gguf", 1.0)
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"]])
def test_tied_embeddings_are_refused(
    builder: GgufBuilder, tiny_model: tiny.Tiny, targets: list[str], tmp_path: Path
) -> None:
    """An adapter on the embedding or on a tied head raises Misconfigured."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says as much when it saves one
        random_adapter_of(tmp_path / "adapter", targets)
    with pytest.raises(Misconfigured):
        builder.adapter(tmp_path / "adapter", tiny_model.f32, tmp_path / "adapter.gguf", "F32")


def random_adapter_of(folder: Path, modules: list[str]) -> None:
    """Write a LoRA on these modules as PEFT spells it, without PEFT."""
    from safetensors.numpy import save_file

    paths = {"q_proj": "model.layers.0.self_attn.q_proj", "embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
    rows = {"q_proj": 128, "embed_tokens": 64, "lm_head": 300}
    tensors = {}
    for module in modules:
        tensors[f"base_model.model.{paths[module]}.lora_A.weight"] = np.ones((4, 64), np.float32)
        tensors[f"base_model.model.{paths[module]}.lora_B.weight"] = np.ones((rows[module], 4), np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_of_another_base_is_refused(builder: GgufBuilder, tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """Matrices whose shape is not the base tensor's raise Corrupt before anything is written."""
    random_adapter_of(tmp_path / "adapter", ["q_proj"])
    config = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": np.ones((4, 32), np.float32), f"{name}.lora_B.weight": np.ones((128, 4), np.float32)},
        config,
    )
    with pytest.raises(Corrupt, match=r"blk\.0\.attn_q\.weight"):
        builder.adapter(tmp_path / "adapter", tiny_model.f32, tmp_path / "adapter.gguf", "F32")
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_damaged_files_are_refused(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, cut: int, tmp_path: Path
) -> None:
    """A truncated adapter or base raises one of our errors and leaves no output."""
    adapter = edited(trained, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    base = tmp_path / "base.gguf"
    base.write_bytes(tiny_model.f32.read_bytes()[:cut])
    for folder, gguf_file in ((adapter, tiny_model.f32), (trained.folder / "adapter", base)):
        with pytest.raises(FleetError):
            builder.merged(folder, gguf_file, tmp_path / "merged.gguf", 1.0)
    assert not (tmp_path / "merged.gguf").exists()


def k_quantised(source: Path, out: Path, kind: gguf.GGMLQuantizationType, name: str) -> None:
    """Write the same tensors with one matrix made of random blocks of a type that the package can only read."""
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_block_count(2)
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    for tensor in gguf.GGUFReader(source).tensors:
        if tensor.name != name:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        rows, width = tensor.data.shape
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.random.default_rng(5).integers(0, 64, (rows, width // block * size), np.uint8)
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def wide_base(path: Path) -> Path:
    """Write a GGUF of three tensors whose rows are as wide as a K-quant's block; the adapted one is in the middle."""
    writer = gguf.GGUFWriter(path, "qwen3")
    rng = np.random.default_rng(2)
    for name, shape in (("blk.0.attn_k.weight", (33, 256)), ("blk.0.attn_q.weight", (64, 256)), ("a.bias", (7,))):
        writer.add_tensor(name, rng.standard_normal(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def adapter_on(folder: Path, module: str, shape: tuple[int, int]) -> Path:
    """Write a LoRA of ones on one module: rank 4, strength 1, so that it adds 4 everywhere."""
    from safetensors.numpy import save_file

    folder.mkdir()
    key = f"base_model.model.{module}.lora_"
    sides = {"A": np.ones((4, shape[1]), np.float32), "B": np.ones((shape[0], 4), np.float32)}
    save_file({f"{key}{side}.weight": value for side, value in sides.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    return folder


@pytest.mark.parametrize("fallback", ["Q8_0", "F16", "Q5_1"])
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q2_K", "IQ4_XS"])
def test_k_quants_get_the_fallback_type(kind: str, fallback: str, tmp_path: Path) -> None:
    """A target that can only be read gets the fallback type; keys and all other tensors stay, and it is told."""
    name, base, made = "blk.0.attn_q.weight", tmp_path / "base.gguf", tmp_path / "merged.gguf"
    k_quantised(wide_base(tmp_path / "wide.gguf"), base, gguf.GGMLQuantizationType[kind], name)
    adapter = adapter_on(tmp_path / "adapter", "model.layers.0.self_attn.q_proj", (64, 256))
    builder = GgufBuilder(fallback)
    digest = builder.merged(adapter, base, made, 1.0)
    whole = matrices(base)[name] + np.full((64, 256), 4.0, np.float32)
    assert raw(made)[name] == gguf.quantize(whole, gguf.GGMLQuantizationType[fallback]).tobytes()
    assert {n: d for n, d in raw(made).items() if n != name} == {n: d for n, d in raw(base).items() if n != name}
    assert keys(made) == keys(base)
    assert builder.retyped(base, made) == {f"{kind} > {fallback}": 1}
    assert digest == sha256(made.read_bytes()).hexdigest()


def test_types_that_cannot_be_read_are_refused_with_a_way_out(
    builder: GgufBuilder, tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path
) -> None:
    """A target of a type that nobody here can read raises Misconfigured: the hint names what can be done."""
    data = bytearray(tiny_model.f32.read_bytes())
    name = b"blk.0.attn_q.weight"
    kind_at = data.index(name) + len(name) + 4 + 2 * 8
    struct.pack_into("<I", data, kind_at, int(gguf.GGMLQuantizationType.Q8_1))
    (tmp_path / "base.gguf").write_bytes(data)
    with pytest.raises(Misconfigured, match="Q8_1") as caught:
        builder.merged(trained.folder / "adapter", tmp_path / "base.gguf", tmp_path / "merged.gguf", 1.0)
    assert "Q8_0" in caught.value.hint


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(1, 32), (3, 4096 + 32), (70, 2048)])
def test_q8_0_is_quantised_as_the_package_does(shape: tuple[int, int], seed: int) -> None:
    """The fast sum of Q8_0 rows equals the gguf package's dequantise, add, quantise bit for bit, ties and zeros too."""
    rng = np.random.default_rng(seed)
    kind, height = gguf.GGMLQuantizationType.Q8_0, shape[0]
    packed = gguf.quantize(rng.standard_normal(shape, np.float32), kind)
    whole = gguf.dequantize(packed, kind)
    delta = rng.choice([0.0, 1e-3, 1.0], shape).astype(np.float32) * rng.standard_normal(shape, np.float32)
    delta[0, :32] = -whole[0, :32]  # a block of zeros
    delta[-1, -32:] = np.arange(32) * np.float32(0.5) - whole[-1, -32:]  # halves of the scale: ties
    a = quants.laid_out(delta, kind, kind)  # B is the identity: B @ A is exactly the matrix we want to add
    got = quants.add(packed.tobytes(), kind, np.eye(height, dtype=np.float32), a, kind)
    assert got is not None
    assert got.tobytes() == gguf.quantize(whole + delta, kind).tobytes()


@pytest.mark.parametrize("value", [1e9, float("inf"), float("nan")])
def test_a_scale_out_of_range_is_told(value: float) -> None:
    """A block whose scale float16 cannot hold, or that is no number, gives None instead of bytes."""
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quantize(np.ones((2, 64), np.float32), kind)
    delta = np.zeros((1, 64), np.float32)
    delta[0, 40] = value
    with np.errstate(invalid="ignore"):
        a, b = quants.laid_out(delta, kind, kind), np.ones((2, 1), np.float32)
        assert quants.add(packed.tobytes(), kind, b, a, kind) is None


def bare(path: Path, architecture: str, **keys_: float) -> Path:
    """Write a GGUF with a final norm and these keys, nothing else."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys_.items():
        writer.add_float32(f"{architecture}.{key}", value)
    writer.add_tensor("output_norm.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "keys_"),
    [
        ("gemma2", {}),
        ("gemma3", {"final_logit_softcapping": 30.0}),
        ("command-r", {"logit_scale": 0.0625}),
        ("granite", {}),
        ("llama", {"logit_scale": 8.0}),
    ],
)
def test_heads_that_cap_or_scale_are_not_baked(
    builder: GgufBuilder, architecture: str, keys_: dict[str, float], tmp_path: Path
) -> None:
    """Where logits are capped or scaled after the head, a scaled norm is no temperature: Misconfigured."""
    base = bare(tmp_path / "base.gguf", architecture, **keys_)
    with pytest.raises(Misconfigured, match="cannot be baked"):
        builder.baked(base, tmp_path / "baked.gguf", 0.5)
    assert not (tmp_path / "baked.gguf").exists()


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_a_positive_number(
    builder: GgufBuilder, tiny_model: tiny.Tiny, tau: float, tmp_path: Path
) -> None:
    """τ must be finite and above zero."""
    with pytest.raises(Misconfigured):
        builder.baked(tiny_model.f32, tmp_path / "baked.gguf", tau)


def test_a_merge_that_leaves_the_numbers_is_rejected(
    builder: GgufBuilder, tiny_model: tiny.Tiny, tmp_path: Path
) -> None:
    """An adapter so strong that a Q8_0 tensor cannot hold the sum raises Rejected."""
    from safetensors.numpy import load_file, save_file

    random_adapter_of(tmp_path / "adapter", ["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: 1e4 * value for name, value in load_file(path).items()}, path)
    with pytest.raises(Rejected, match="leaves the range"):
        builder.merged(tmp_path / "adapter", tiny_model.q8_0, tmp_path / "merged.gguf", 1.0)


def test_our_header_reader_agrees_with_the_package(tiny_model: tiny.Tiny) -> None:
    """Names, types, shapes, offsets and scalar keys are those the gguf package reads."""
    data = tiny_model.q8_0.read_bytes()
    header = gguf_header.parse(data, len(data))
    reader = gguf.GGUFReader(tiny_model.q8_0)
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        shape = tuple(int(n) for n in tensor.shape[::-1])
        assert (ours.type, ours.shape, ours.offset) == (tensor.tensor_type, shape, tensor.data_offset)
    assert len(header.tensors) == len(reader.tensors)
    for name, value in header.keys.items():
        theirs = reader.fields[name].contents()
        assert value == ((len(theirs),) if isinstance(theirs, list) else theirs)


def test_building_never_loads_torch(tiny_model: tiny.Tiny, trained: Trained, tmp_path: Path) -> None:
    """All three verbs run in a process that holds no torch, no transformers and no safetensors package."""
    code = (
        "import sys; from pathlib import Path\n"
        "from fleetssd.adapters.gguf_builder import GgufBuilder\n"
        "import fleetssd.adapters.trainer_process\n"
        "adapter, base, out = map(Path, sys.argv[1:])\n"
        "builder = GgufBuilder()\n"
        "builder.adapter(adapter, base, out / 'a.gguf', 'F16'); builder.merged(adapter, base, out / 'm.gguf', .5)\n"
        "builder.baked(base, out / 'b.gguf', .5)\n"
        "heavy = ('torch', 'transformers', 'peft', 'trl', 'datasets', 'safetensors')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    arguments = [str(trained.folder / "adapter"), str(tiny_model.q8_0), str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
