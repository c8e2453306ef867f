"""The toy's weights and tokenizer as GGUF, written with the gguf package alone; F32 or Q8_0.

In Q8_0 every matrix is quantised in blocks of 32 along its rows (all widths are multiples of 32) and norms stay F32,
as llama.cpp's own quantiser leaves them. The output head is tied to the embedding, so the file has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

NAME = "fleetssd-toy"


def write_gguf(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path, *, quantised: bool) -> None:
    """Write `model` to `path`; `quantised` asks for Q8_0 instead of F32. The file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    _write_shape(writer, model.config, quantised=quantised)
    _write_tokenizer(writer, model.config.vocab_size, tokenizer)
    _write_tensors(writer, model, quantised=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _write_shape(writer: gguf.GGUFWriter, config: Any, *, quantised: bool) -> None:
    writer.add_name(NAME)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer: gguf.GGUFWriter, size: int, tokenizer: PreTrainedTokenizerFast) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    by_id = {number: text for text, number in description["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in description["added_tokens"]}
    tokens = [special.get(number) or by_id[number] for number in range(size)]
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in description["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _write_tensors(writer: gguf.GGUFWriter, model: Qwen3ForCausalLM, *, quantised: bool) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = weight.to(torch.float32).numpy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, array.astype(np.float32))
