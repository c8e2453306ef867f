"""The sampler over a real llama.cpp child, on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.stats import chisquare

from fleetssd.adapters.samplers.llama_server import LlamaServerSampler, parameters
from fleetssd.adapters.samplers.vllm import VllmSampler
from fleetssd.errors import Corrupt, Misconfigured, Transient
from fleetssd.operations.engine_sampler import EngineSampler
from fleetssd.ports import Completion, Prompt
from fleetssd.recipe import ORDERS, TEMPERATURE_FIRST, Sampling
from tests.fakes import FakeEngine

MODEL = Path(__file__).parent.parent / "samples" / "ollama" / "files" / "base.gguf"
DECODE = Sampling(1.5, 20, 0.8, 0.0, 8, TEMPERATURE_FIRST)
DRAWS = 20_000
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
    said: set[str] = set()

    def heard(done: int, _total: int, what: str) -> None:
        seen.append(done)
        said.add(what.partition(",")[0] + what[what.rfind(" ") :])

    first = sampler.sample(prompts, DECODE, heard)
    again = [sampler.sample([prompt], DECODE, lambda *_: None)[0] for prompt in prompts]
    assert first == again
    assert len({answer.text for answer in first}) > 1
    assert seen == list(range(1, 9))
    assert said == {"samples tokens/s"}
    assert all(answer.finish in ("stop", "length") and 0 < answer.tokens <= 8 for answer in first)


def test_the_name_records_engine_version_and_order(sampler: LlamaServerSampler) -> None:
    """What drew a sample can be read from its row."""
    sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)
    assert "llama.cpp (xllamacpp 2" in sampler.name
    assert sampler.name.endswith("; temperature 1.5 > top_k 20 > top_p 0.8 > min_p 0")


def test_a_server_at_an_address_draws_the_same(sampler: LlamaServerSampler) -> None:
    """Over the URL of a llama.cpp server that runs already, the same seeds draw the same, and no child is started."""
    prompts = [Prompt("Write f.", seed) for seed in range(4)]
    with LlamaServerSampler(sampler.url, context=128, slots=4) as remote:
        assert remote.sample(prompts, DECODE, lambda *_: None) == sampler.sample(prompts, DECODE, lambda *_: None)
        assert remote.pid == 0
        name = remote.name
    assert name.startswith("llama.cpp b")
    assert name.endswith("; temperature 1.5 > top_k 20 > top_p 0.8 > min_p 0")


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(sampler: LlamaServerSampler) -> None:
    """One prompt that is too long for the context costs nothing but itself."""
    answers = sampler.sample([Prompt("word " * 500, 1), Prompt("x", 1)], DECODE, lambda *_: None)
    assert [answer.finish == "error" for answer in answers] == [True, False]


def test_first_tokens_follow_the_temperature_first_law(sampler: LlamaServerSampler) -> None:
    """20,000 first tokens fit the law that tempers before it truncates (chi-square), not the one that tempers last."""
    decode = Sampling(2.0, 20, 0.8, 0.0, 1, TEMPERATURE_FIRST)
    with httpx.Client(base_url=sampler.url, timeout=60) as http:
        told = http.post("/completion", json=parameters(decode, 1) | {"prompt": "def ", "n_probs": 60}).json()
        top = [(row["id"], row["logprob"]) for row in told["completion_probabilities"][0]["top_logprobs"]]
        body = {"prompt": "def ", "return_tokens": True, "cache_prompt": True}

        def draw(seed: int) -> int:
            return int(http.post("/completion", json=body | parameters(decode, seed)).json()["tokens"][0])

        with ThreadPoolExecutor(4) as pool:
            tokens = list(pool.map(draw, range(DRAWS)))
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
    command = [sys.executable, "-m", "fleetssd.adapters.samplers.llamacpp_child"]
    arguments = ["--model", str(MODEL), "--context", "64", "--slots", "1"]
    with subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert "http://127.0.0.1" in child.stdout.readline()
        child.stdin.close()
        assert child.wait(timeout=20) == 0


class VllmStandIn(ThreadingHTTPServer):
    """Speaks as much of vLLM's OpenAI-compatible server as a sampler asks; keeps every body, and may fail first."""

    def __init__(self, models: list[str], failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _VllmHandler)
        self.models, self.failures, self.bodies = models, failures, list[dict[str, Any]]()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """Return status and JSON."""
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path == "/version":
            return 200, {"version": "0.19.1"}
        assert body is not None
        text = body["messages"][0]["content"]
        if self.failures:
            self.failures -= 1
            return 503, {"error": {"message": "busy"}}
        if "too long" in text:
            return 400, {"error": {"message": "This model's maximum context length is 128 tokens"}}
        self.bodies.append(body)
        choice = {
            "message": {"content": f"{text} {body['seed']}"},
            "finish_reason": ["stop", "length"][body["seed"] % 2],
        }
        return 200, {"choices": [choice], "usage": {"completion_tokens": 3}}


class _VllmHandler(BaseHTTPRequestHandler):
    server: VllmStandIn

    def do_GET(self) -> None:
        """Answer a question without a body."""
        self._send(None)

    def do_POST(self) -> None:
        """Answer a request."""
        self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, body: dict[str, Any] | None) -> None:
        status, table = self.server.answer(self.path, body)
        data = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in() -> Iterator[Callable[..., VllmStandIn]]:
    """Yield what starts a stand-in for a vLLM server."""
    running: list[VllmStandIn] = []

    def start(models: list[str], failures: int = 0) -> VllmStandIn:
        server = VllmStandIn(models, failures)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


VLLM = Sampling(1.5, 20, 0.8, 0.0, 8, ORDERS["vllm"])


def test_vllm_is_told_every_parameter(stand_in: Callable[..., VllmStandIn]) -> None:
    """Model, seed, decode and no penalty go out with every request; answers keep their order through a busy server."""
    server = stand_in(["base"], failures=2)
    prompts = [Prompt(f"p{seed}", seed) for seed in range(20)]
    with VllmSampler(server.url, at_once=5) as sampler:
        answers = sampler.sample(prompts, VLLM, lambda *_: None)
        name = sampler.name
    finishes = ("stop", "length")
    assert answers == [Completion(f"p{seed} {seed}", finishes[seed % 2], 3) for seed in range(20)]
    assert name == "vllm 0.19.1, base; temperature 1.5 > min_p 0 > top_k 20 > top_p 0.8"
    body = min(server.bodies, key=lambda body: int(body["seed"]))
    del body["messages"]
    assert body == {
        "model": "base", "temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 0, "max_tokens": 8, "n": 1, "stream": False,
    }  # fmt: skip


def test_vllm_loses_one_prompt_that_does_not_fit(stand_in: Callable[..., VllmStandIn]) -> None:
    """A refused prompt costs nothing but itself, and top_k 0 is said as vLLM says it."""
    server = stand_in(["base"])
    with VllmSampler(server.url) as sampler:
        open_ = Sampling(1.0, 0, 1.0, 0.0, 8, ORDERS["vllm"])
        answers = sampler.sample([Prompt("too long", 1), Prompt("x", 2)], open_, lambda *_: None)
    assert [answer.finish for answer in answers] == ["error", "stop"]
    assert server.bodies[0]["top_k"] == -1


@pytest.mark.parametrize("models", [[], ["base", "adapter"]])
def test_vllm_must_serve_the_base_alone(stand_in: Callable[..., VllmStandIn], models: list[str]) -> None:
    """Where it is not clear whose samples these would be, none is drawn."""
    with pytest.raises(Misconfigured, match="serves"), VllmSampler(stand_in(models).url):
        pass


def test_vllm_away_puts_the_night_off(stand_in: Callable[..., VllmStandIn]) -> None:
    """A server that is gone in the midst is Transient."""
    server = stand_in(["base"])
    with VllmSampler(server.url) as sampler:
        server.failures = 99
        with pytest.raises(Transient, match="503"):
            sampler.sample([Prompt("x", 1)], VLLM, lambda *_: None)


def test_no_sampler_claims_an_order_that_is_not_its_own(stand_in: Callable[..., VllmStandIn]) -> None:
    """Neither vLLM nor ollama draws a plan that was frozen for another order."""
    engine = FakeEngine()
    engine.models["base"] = ("d", "b" * 64, None)
    with VllmSampler(stand_in(["base"]).url) as vllm, EngineSampler(engine, "base") as ollama:
        for sampler in (vllm, ollama):
            with pytest.raises(Misconfigured, match="samples by"):
                sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)


def test_ollama_says_that_its_temperature_is_last() -> None:
    """Samples of the engine carry its version, its model, the base's digest and the label."""
    engine = FakeEngine()
    engine.models["base"] = ("d", "b" * 64, None)
    with EngineSampler(engine, "base") as sampler:
        answers = sampler.sample([Prompt("x", 1)], Sampling(1.5, 20, 0.8, 0.0, 8, ORDERS["ollama"]), lambda *_: None)
    assert [answer.text for answer in answers] == ["ok"]
    decode = "top_k 20 > top_p 0.8 > min_p 0 > temperature 1.5 (temperature last)"
    assert sampler.name == f"ollama fake, base ({'b' * 12}); {decode}"


def test_an_engine_whose_base_is_adapted_draws_nothing() -> None:
    """Samples come from the pristine base alone."""
    engine = FakeEngine()
    engine.models["base"] = ("d", "b" * 64, "a" * 64)
    with pytest.raises(Misconfigured, match="has an adapter"), EngineSampler(engine, "base"):
        pass
