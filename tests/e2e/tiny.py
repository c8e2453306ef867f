"""A model of two layers, small enough that training it takes seconds: made at random, then trained by the tests."""

# ruff: noqa: PLC0415  torch and llama.cpp are loaded by the tests that use them, not by collecting them
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from fleetssd.recipe import Lora
from fleetssd.training import Row, TrainPlan, encode_rows, weights_digest

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS = tuple(
    Row(f"Write `{name}(x)`: return x {word} {n}.", f"def {name}(x):\n    return x {sign} {n}\n")
    for n in range(2, 5)
    for name, word, sign in (
        ("raise_by", "plus", "+"),
        ("lower_by", "minus", "-"),
        ("scale", "times", "*"),
        ("share", "over", "/"),
    )
)
LORA = Lora(
    rank=8,
    alpha=16.0,
    targets=TARGETS,
    learning_rate=1e-2,
    batch=4,
    micro_batch=2,
    epochs=30,
    warmup_steps=2,
    max_length=128,
)


@dataclass(frozen=True, slots=True)
class Tiny:
    """The tiny base: a Hugging Face folder and its GGUFs."""

    hf: Path
    f32: Path
    q8_0: Path


def make(folder: Path, architecture: str = "qwen3", seed: int = 3) -> Tiny:
    """Make a random model of this architecture with a tokenizer and a chat template, and write its GGUFs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from fleetssd.toy.tokenizer import train_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(f"{row.prompt}\n{row.completion}" for row in ROWS)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,  # far enough from zero that greedy tokens have no ties
    }
    model = (
        LlamaForCausalLM(LlamaConfig(**shape)) if architecture == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
    )
    tiny = Tiny(folder / "hf", folder / "f32.gguf", folder / "q8_0.gguf")
    model.save_pretrained(tiny.hf)
    tokenizer.save_pretrained(tiny.hf)
    for path, quantised in ((tiny.f32, False), (tiny.q8_0, True)):
        write_gguf(model, tokenizer, path, architecture, quantised=quantised)
    return tiny


def write_gguf(model: Any, tokenizer: Any, path: Path, architecture: str, *, quantised: bool) -> None:
    """Write a model as llama.cpp's converter does: for `llama`, rows of q and k interleave the halves of a head."""
    import gguf

    from fleetssd.toy import export

    writer = gguf.GGUFWriter(path, architecture)
    export._write_shape(writer, model.config, quantised=quantised)
    writer.add_rope_dimension_count(model.config.head_dim)
    export._write_tokenizer(writer, model.config.vocab_size, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = weight.float().numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = len(array) // model.config.head_dim
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and array.ndim == 2 else gguf.GGMLQuantizationType.F32
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(target, gguf.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def plan_for(base: Path, rows: Sequence[Row] = ROWS, lora: Lora = LORA, seed: int = 1) -> TrainPlan:
    """State the run of these rows on this base."""
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in base.glob("*.safetensors")}
    digest = sha256(encode_rows(rows)).hexdigest()
    return TrainPlan(1, weights_digest(digests), digest, len(rows), lora, seed, threads=1)


def prompts(tiny: Tiny, count: int = 6) -> list[list[int]]:
    """Return token ids of the first rows' prompts, as the chat template renders them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.hf)
    messages = [[{"role": "user", "content": row.prompt}] for row in ROWS[:count]]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return [list(ids) for ids in rendered["input_ids"]]


def hf_greedy(tiny: Tiny, adapter: Path | None, tokens: int = 24) -> list[list[int]]:
    """Decode greedily with Hugging Face, and PEFT where an adapter is given; the end of a turn ends an answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.hf, dtype=torch.float32).eval()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    end = model.config.eos_token_id

    @torch.no_grad()
    def answer(ids: list[int]) -> list[int]:
        found: list[int] = []
        while len(found) < tokens:
            found.append(int(model(torch.tensor([ids + found])).logits[0, -1].argmax()))
            if found[-1] == end:
                break
        return found

    return [answer(ids) for ids in prompts(tiny)]


def llama_answers(model: Path, requests: Sequence[dict[str, Any]], adapter: Path | None = None) -> list[list[int]]:
    """Ask llama.cpp, in a process of its own, for the tokens of each request."""
    return [list(map(int, ids)) for ids in _llama(model, requests, adapter)]


def llama_logprobs(tiny: Tiny, model: Path, adapter: Path | None = None) -> list[dict[int, float]]:
    """Return llama.cpp's log-probabilities of every first token, by token id, for each prompt."""
    asked = [{"prompt": ids, "temperature": 0.0, "n_predict": 1, "n_probs": 1000} for ids in prompts(tiny)]
    return [{int(token): float(logprob) for token, logprob in rows} for rows in _llama(model, asked, adapter)]


def _llama(model: Path, requests: Sequence[dict[str, Any]], adapter: Path | None) -> list[Any]:
    job = {"model": str(model), "adapter": str(adapter) if adapter else None, "requests": list(requests)}
    child = [sys.executable, "-m", "tests.e2e.llama_child"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        child, input=json.dumps(job), cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def hf_logprobs(tiny: Tiny, adapter: Path | None) -> list[list[float]]:
    """Return Hugging Face's log-probabilities of every first token, with PEFT where an adapter is given."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.hf, dtype=torch.float32).eval()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        rows = [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).tolist() for ids in prompts(tiny)]
    return [list(map(float, row)) for row in rows]


def llama_greedy(tiny: Tiny, model: Path, adapter: Path | None = None, tokens: int = 24) -> list[list[int]]:
    """Decode greedily with llama.cpp, as `hf_greedy` does with Hugging Face."""
    return llama_answers(
        model, [{"prompt": ids, "temperature": 0.0, "n_predict": tokens} for ids in prompts(tiny)], adapter
    )


Make = Callable[[str], Tiny]
