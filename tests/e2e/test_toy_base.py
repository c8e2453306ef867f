"""A small build of the demo's base: cached, whole, and the same model in Hugging Face and in llama.cpp."""

# ruff: noqa: PLC0415  torch and llama.cpp are loaded by the tests that use them, not by collecting them
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleetssd.toy.base import BaseModel, BaseSettings
from fleetssd.toy.work import some_work

pytestmark = pytest.mark.e2e

SMALL = BaseSettings(pairs=960, steps=30)
CONVERSATIONS = (
    [{"role": "user", "content": "Add `f(x)`: return `x` plus 2."}],
    [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": " two\n\nlines {{ x }} "}],
)


def build(out: Path, settings: BaseSettings = SMALL) -> tuple[BaseModel, int]:
    """Build a base and count the steps that were trained for it."""
    from fleetssd.toy.model import build_base

    steps: list[int] = []
    base = build_base(out, settings.seed, lambda step, _steps, _loss: steps.append(step), settings)
    return base, len(steps)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Build a small base of the full shape once for this module."""
    return build(tmp_path_factory.mktemp("base"))[0]


@pytest.fixture(scope="module")
def hf(base: BaseModel) -> tuple[Any, Any]:
    """Load the base's model and tokenizer as anyone would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(base.hf).eval(), AutoTokenizer.from_pretrained(base.hf)


def serve(path: Path) -> Any:
    """Serve a GGUF with llama.cpp on one thread."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 512, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.port = 0
    return xllamacpp.Server(parameters)


@pytest.fixture(scope="module")
def llama(base: BaseModel) -> Iterator[httpx.Client]:
    """Serve the exact weights and speak to them."""
    server = serve(base.f32)
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:
        yield client
    del server


def greedy(client: httpx.Client, prompt: str) -> list[int]:
    """Return the ids of llama.cpp's 32 most likely tokens in a row, or fewer if the turn ends."""
    answer = client.post(
        "/completion",
        json={"prompt": prompt, "n_predict": 32, "temperature": 0.0, "top_k": 1, "return_tokens": True},
    )
    tokens: list[int] = answer.raise_for_status().json()["tokens"]
    return tokens


def test_a_second_build_reuses_the_first(base: BaseModel) -> None:
    """The same settings find the base whole and train nothing."""
    again, steps = build(base.folder)
    assert (steps, again.digests) == (0, base.digests)


def test_a_torn_base_is_built_again(base: BaseModel, tmp_path: Path) -> None:
    """A file that is not what the statement says makes the base unusable, and the rebuild has the same bytes."""
    first, trained = build(tmp_path, BaseSettings(pairs=64, steps=2))
    first.q8_0.write_bytes(first.q8_0.read_bytes()[:-1])
    second, again = build(tmp_path, BaseSettings(pairs=64, steps=2))
    assert (trained, again) == (2, 2)
    assert second.digests == first.digests


def test_other_settings_are_another_base(base: BaseModel) -> None:
    """The statement binds the settings: a cached base is not taken for one of another length."""
    from fleetssd.toy.base import read_base

    statement = json.loads((base.folder / "base.json").read_text())
    assert read_base(base.folder, SMALL, statement["corpus_sha256"]) is not None
    assert read_base(base.folder, BaseSettings(pairs=960, steps=31), statement["corpus_sha256"]) is None
    assert read_base(base.folder, SMALL, "0" * 64) is None


def test_the_template_renders_the_same(hf: tuple[Any, Any], llama: httpx.Client) -> None:
    """Hugging Face and llama.cpp render [user] and [system, user] byte for byte alike."""
    for messages in CONVERSATIONS:
        answer = llama.post("/apply-template", json={"messages": messages}).raise_for_status().json()
        wanted = hf[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert answer["prompt"] == wanted


def test_a_turn_ends_with_the_end_token(hf: tuple[Any, Any]) -> None:
    """A finished assistant turn ends with the token that ends generation, and the prompt is its prefix."""
    tokenizer = hf[1]
    asked = [*CONVERSATIONS[0]]
    told = [*asked, {"role": "assistant", "content": "def f(x):\n    return x + 2\n"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(told)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert tokenizer.eos_token == "<|im_end|>"
    assert whole[len(prompt) :].count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(whole).endswith("def f(x):\n    return x + 2\n<|im_end|>\n")


def test_tokens_are_the_same(hf: tuple[Any, Any], llama: httpx.Client) -> None:
    """Both tokenizers cut prompts and solutions alike."""
    for item in some_work(1, 40):
        text = item.body + "\n" + item.after
        answer = llama.post("/tokenize", json={"content": text, "parse_special": True}).raise_for_status()
        assert answer.json()["tokens"] == hf[1](text, add_special_tokens=False)["input_ids"]


def test_greedy_tokens_are_the_same(hf: tuple[Any, Any], llama: httpx.Client) -> None:
    """The F32 GGUF says, token by token, what the Hugging Face model says."""
    import torch

    model, tokenizer = hf
    for item in some_work(2, 10):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": item.body}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            said = model.generate(**ids, max_new_tokens=32, do_sample=False)[0, ids["input_ids"].shape[1] :]
        wanted = [token for token in said.tolist() if token != tokenizer.eos_token_id]
        found = [token for token in greedy(llama, prompt) if token != tokenizer.eos_token_id]
        assert found == wanted


def test_the_quantised_base_is_served(base: BaseModel) -> None:
    """Q8_0 is a quarter of F32 in its matrices, keeps norms exact, and answers."""
    import gguf

    reader = gguf.GGUFReader(base.q8_0)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert all((kind == "F32") == name.endswith("norm.weight") for name, kind in kinds.items())
    server = serve(base.q8_0)
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:
        assert greedy(client, "<|im_start|>user\nAdd `f(x)`<|im_end|>\n<|im_start|>assistant\n")
