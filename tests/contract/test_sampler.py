"""The sampler over a real llama.cpp child, on a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.stats import chisquare

from fleetssd.adapters.llamacpp_sampler import LlamaServerSampler, parameters
from fleetssd.errors import Corrupt, Misconfigured, Transient
from fleetssd.ports import Prompt
from fleetssd.recipe import TEMPERATURE_FIRST, Sampling

MODEL = Path(__file__).parent.parent / "samples" / "ollama" / "files" / "base.gguf"
DECODE = Sampling(1.5, 20, 0.8, 0.0, 8, TEMPERATURE_FIRST)
DRAWS = 2000
LAST = ("top_k", "top_p", "min_p", "temperature")


@pytest.fixture(scope="module")
def sampler() -> Iterator[LlamaServerSampler]:
    """Yield a sampler over the sample model."""
    with LlamaServerSampler(MODEL, context=128, slots=4) as sampler:
        yield sampler


def test_samples_keep_their_order_and_repeat_by_seed(sampler: LlamaServerSampler) -> None:
    """One completion a prompt, in the order asked; the same seeds draw the same, others draw others."""
    prompts = [Prompt("Write f.", seed) for seed in range(8)]
    seen: list[int] = []
    first = sampler.sample(prompts, DECODE, lambda done, _total, _what: seen.append(done))
    again = [sampler.sample([prompt], DECODE, lambda *_: None)[0] for prompt in prompts]
    assert first == again
    assert len({answer.text for answer in first}) > 1
    assert seen == list(range(1, 9))
    assert all(answer.finish in ("stop", "length") and 0 < answer.tokens <= 8 for answer in first)


def test_the_name_records_engine_version_and_order(sampler: LlamaServerSampler) -> None:
    """What drew a sample can be read from its row."""
    sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)
    assert "llama.cpp (xllamacpp 2" in sampler.name
    assert sampler.name.endswith("temperature > top_k > top_p > min_p")


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(sampler: LlamaServerSampler) -> None:
    """One prompt that is too long for the context costs nothing but itself."""
    answers = sampler.sample([Prompt("word " * 500, 1), Prompt("x", 1)], DECODE, lambda *_: None)
    assert [answer.finish == "error" for answer in answers] == [True, False]


def test_first_tokens_follow_the_temperature_first_law(sampler: LlamaServerSampler) -> None:
    """Tempering before truncation: the counts fit that law (chi-square), and do not fit the one that tempers last."""
    decode = Sampling(2.0, 20, 0.8, 0.0, 1, TEMPERATURE_FIRST)
    with httpx.Client(base_url=sampler.url, timeout=60) as http:
        told = http.post("/completion", json=parameters(decode, 1) | {"prompt": "def ", "n_probs": 60}).json()
        top = [(row["id"], row["logprob"]) for row in told["completion_probabilities"][0]["top_logprobs"]]
        body = {"prompt": "def ", "return_tokens": True, "cache_prompt": True}
        tokens = [
            http.post("/completion", json=body | parameters(decode, seed)).json()["tokens"][0] for seed in range(DRAWS)
        ]
    ids = [token for token, _ in top]
    counts = np.array([tokens.count(token) for token in ids])
    logits = np.array([logprob for _, logprob in top])
    first, last = _law(logits, decode, TEMPERATURE_FIRST), _law(logits, decode, LAST)
    assert counts.sum() == DRAWS
    assert _fits(counts, first) > 1e-3
    assert _fits(counts, last) < 1e-6


def _law(logits: np.ndarray, decode: Sampling, order: tuple[str, ...]) -> np.ndarray:
    """Return the probabilities of tokens (most likely first) after these samplers, applied one by one."""
    kept = logits.astype(float).copy()
    for step in order:
        if step == "temperature":
            kept = kept / decode.temperature
        elif step == "top_k":
            kept[decode.top_k :] = -np.inf
        elif step == "top_p":
            before = np.cumsum(_softmax(kept)) - _softmax(kept)
            kept[before >= decode.top_p] = -np.inf
    return _softmax(kept)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _fits(counts: np.ndarray, law: np.ndarray) -> float:
    """Return the chi-square p-value; a token that the law forbids and that was drawn anyway gives 0."""
    if counts[law == 0].sum():
        return 0.0
    allowed = law > 0
    return float(chisquare(counts[allowed], law[allowed] * counts.sum()).pvalue)


def test_an_engine_that_ignores_the_order_is_found_out() -> None:
    """A server that says that it used other samplers gives no sample."""

    def answer(request: httpx.Request) -> httpx.Response:
        settings = {"samplers": list(LAST)}
        table = {"build_info": "b1", "prompt": "p", "content": "x", "generation_settings": settings}
        return httpx.Response(200, json=table)

    told = LlamaServerSampler("http://sampler", context=128, transport=httpx.MockTransport(answer))
    with told as sampler, pytest.raises(Corrupt, match="sampler used"):
        sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)


def test_a_file_that_is_no_model_is_misconfigured(tmp_path: Path) -> None:
    """A broken GGUF is told at the start, not prompt by prompt."""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but not really")
    with pytest.raises(Misconfigured, match="does not load"), LlamaServerSampler(tmp_path / "broken.gguf", context=64):
        pass


def test_a_sampler_that_died_puts_the_night_off() -> None:
    """When the child is gone the draw is Transient: nothing is stored as an empty sample."""
    with LlamaServerSampler(MODEL, context=128, slots=1) as sampler:
        os.kill(sampler.pid, 9)
        with pytest.raises(Transient):
            sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)


def test_the_child_ends_with_its_parents_pipe() -> None:
    """However the parent went, the end of the pipe ends the child."""
    command = [sys.executable, "-m", "fleetssd.adapters.llamacpp_child"]
    arguments = ["--model", str(MODEL), "--context", "64", "--slots", "1"]
    with subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert "http://127.0.0.1" in child.stdout.readline()
        child.stdin.close()
        assert child.wait(timeout=20) == 0
