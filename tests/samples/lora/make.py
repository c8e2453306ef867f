"""Makes this folder anew: a tiny adapter of every family, and what llama.cpp's own converter says of it.

    python tests/samples/lora/make.py path/to/llama.cpp

Needs torch and transformers for the converter. Nothing of fleetssd is used, so that what is expected is not ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD, WIDE, LAYERS, RANK, ALPHA = 32, 4, 2, 8, 48, 2, 2, 6
Q, KV = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
ATTENTION = {
    "self_attn.q_proj": (Q, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, Q),
}
DENSE = {"mlp.gate_proj": (WIDE, HIDDEN), "mlp.up_proj": (WIDE, HIDDEN), "mlp.down_proj": (HIDDEN, WIDE)}
FUSED = {
    "self_attn.qkv_proj": (Q + 2 * KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, Q),
    "mlp.gate_up_proj": (2 * WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}
SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HEAD, "vocab_size": 64, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "torch_dtype": "float32",
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
PHI = {"original_max_position_embeddings": 64, "partial_rotary_factor": 1.0, "rope_scaling": None}
GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 16, "hidden_activation": "gelu_pytorch_tanh"}
PLAIN = "model.layers"
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, int]], str]] = {
    "llama": ("LlamaForCausalLM", {}, ATTENTION | DENSE, PLAIN),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}, ATTENTION | DENSE, PLAIN),
    "qwen2": ("Qwen2ForCausalLM", {}, ATTENTION | DENSE, PLAIN),
    "qwen3": ("Qwen3ForCausalLM", {}, ATTENTION | DENSE, PLAIN),
    "qwen3moe": ("Qwen3MoeForCausalLM", MOE, ATTENTION | {"mlp.gate": (4, HIDDEN)}, PLAIN),
    "gemma2": ("Gemma2ForCausalLM", GEMMA, ATTENTION | DENSE, PLAIN),
    "gemma3": ("Gemma3ForCausalLM", GEMMA, ATTENTION | DENSE, PLAIN),
    "gemma3-wrapped": ("Gemma3ForConditionalGeneration", GEMMA, ATTENTION | DENSE, "model.language_model.layers"),
    "phi3": ("Phi3ForCausalLM", PHI, FUSED, PLAIN),
}
TYPES = {"qwen3moe": "qwen3_moe", "gemma3": "gemma3_text", "gemma3-wrapped": "gemma3"}


def make_base(folder: Path, name: str) -> None:
    """Write the config.json that the converter reads of a base."""
    architecture, own, _, _ = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPE | own
    if name == "gemma3-wrapped":  # a model that sees, too, keeps the language model's shape a level deeper
        shape = {"text_config": shape | {"model_type": "gemma3_text"}}
    table = {"architectures": [architecture], "model_type": TYPES.get(name, name), **shape}
    (folder / "config.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def make_adapter(folder: Path, name: str) -> None:
    """Write a random adapter on every linear layer, as PEFT spells it."""
    _, _, modules, prefix = FAMILIES[name]
    rng, tensors = np.random.default_rng(7), {}
    for layer in range(LAYERS):
        for module, (rows, width) in modules.items():
            key = f"base_model.model.{prefix}.{layer}.{module}.lora_"
            tensors[f"{key}A.weight"] = rng.standard_normal((RANK, width), np.float32)
            tensors[f"{key}B.weight"] = rng.standard_normal((rows, RANK), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted(module.rpartition(".")[2] for module in modules)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def main() -> None:
    """Make every family's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path, help="a checkout of llama.cpp")
    converter = parser.parse_args().llama_cpp / "convert_lora_to_gguf.py"
    for name in FAMILIES:
        folder = HERE / name
        make_base(folder, name)
        make_adapter(folder, name)
        for kind in ("f16", "f32"):
            out = ["--outtype", kind, "--outfile", str(folder / f"reference-{kind}.gguf")]
            subprocess.run([sys.executable, str(converter), "--base", str(folder), *out, str(folder)], check=True)


if __name__ == "__main__":
    main()
