"""The transformers sampler: a real child with torch, over a tiny model."""

# ruff: noqa: PLC0415  torch is loaded by the test that uses it, not by collecting it
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from fleetssd.adapters.samplers import TransformersSampler
from fleetssd.errors import Misconfigured, Transient
from fleetssd.ports import Prompt
from fleetssd.recipe import ORDERS, TEMPERATURE_FIRST, Sampling
from tests.e2e import tiny

pytestmark = pytest.mark.e2e

DECODE = Sampling(1.5, 20, 0.9, 0.0, 12, TEMPERATURE_FIRST)
DRAWS = 20_000


@pytest.fixture(scope="module")
def sampler(tiny_model: tiny.Tiny) -> Iterator[TransformersSampler]:
    """Yield a sampler over the tiny base."""
    with TransformersSampler(tiny_model.hf, context=96, at_once=500) as sampler:
        yield sampler


def test_a_sample_is_its_seeds_alone(sampler: TransformersSampler) -> None:
    """One completion a prompt, in order; the same prompt and seed draw the same among any neighbours."""
    prompts = [Prompt("Write `f(x)`." + " More." * (seed % 3), seed) for seed in range(6)]
    done: list[int] = []
    first = sampler.sample(prompts, DECODE, lambda at, _total, _what: done.append(at))
    again = [sampler.sample([prompt], DECODE, lambda *_: None)[0] for prompt in reversed(prompts)]
    assert first == again[::-1]
    assert len({answer.text for answer in first}) > 1
    assert done == [1, 2, 3, 4, 5, 6]
    assert all(answer.finish in ("stop", "length") and 0 < answer.tokens <= 12 for answer in first)
    assert "transformers 5" in sampler.name
    assert sampler.name.endswith("; temperature 1.5 > top_k 20 > top_p 0.9 > min_p 0")


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(sampler: TransformersSampler) -> None:
    """One prompt that is too long for the context costs nothing but itself."""
    answers = sampler.sample([Prompt("word " * 200, 1), Prompt("x", 1)], DECODE, lambda *_: None)
    assert [answer.finish == "error" for answer in answers] == [True, False]


@pytest.mark.parametrize("engine", ["transformers", "ollama"])
def test_first_tokens_follow_the_law_that_is_asked_for(
    sampler: TransformersSampler, tiny_model: tiny.Tiny, engine: str
) -> None:
    """20,000 first tokens fit the law of the order asked for (chi-square) and not the other one's."""
    decode = Sampling(2.0, 12, 0.8, 0.0, 1, ORDERS[engine])
    answers = sampler.sample([Prompt(tiny.ROWS[0].prompt, seed) for seed in range(DRAWS)], decode, lambda *_: None)
    counts = Counter(answer.text if answer.finish == "length" else None for answer in answers)
    right, wrong = (laws(tiny_model, decode, order) for order in (decode.order, _other(decode.order)))
    assert fits(counts, right) > 1e-3
    assert fits(counts, wrong) < 1e-6


def _other(order: tuple[str, ...]) -> tuple[str, ...]:
    return ORDERS["ollama"] if order == TEMPERATURE_FIRST else TEMPERATURE_FIRST


def laws(model: tiny.Tiny, decode: Sampling, order: tuple[str, ...]) -> dict[str | None, float]:
    """Return the probability of each first text by this order; None is the end of the turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.hf)
    base = AutoModelForCausalLM.from_pretrained(model.hf, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = base(torch.tensor([tiny.prompts(model, 1)[0]])).logits[0, -1].numpy().astype(float)
    for step in order:
        if step == "temperature":
            logits = logits / decode.temperature
        elif step == "top_k":
            logits = np.where(logits >= np.sort(logits)[-decode.top_k], logits, -np.inf)
        elif step == "top_p":
            likely = np.argsort(-logits)
            shares = softmax(logits)[likely]
            logits[likely[np.cumsum(shares) - shares >= decode.top_p]] = -np.inf
    law: dict[str | None, float] = Counter()
    for token in np.flatnonzero(np.isfinite(logits)):
        text = None if token == tokenizer.eos_token_id else tokenizer.decode([token], skip_special_tokens=True)
        law[text] += softmax(logits)[token]
    return dict(law)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def fits(counts: Counter[str | None], law: dict[str | None, float]) -> float:
    """Return the chi-square p-value; a text that the law forbids and that was drawn anyway gives 0."""
    if set(counts) - set(law):
        return 0.0
    expected = np.array(list(law.values()))
    return float(chisquare([counts[text] for text in law], expected * counts.total()).pvalue)


def test_unsloth_draws_what_transformers_draws(
    sampler: TransformersSampler, tiny_model: tiny.Tiny, backends: Path
) -> None:
    """On the CPU Unsloth's generate gives the same samples by the same seeds, and says who drew them in which order."""
    prompts = [Prompt(row.prompt, seed) for seed, row in enumerate(tiny.ROWS)]
    with TransformersSampler(tiny_model.hf, context=96, python=backends, unsloth=True) as fast:
        answers = fast.sample(prompts, DECODE, lambda *_: None)
        name = fast.name
    assert answers == sampler.sample(prompts, DECODE, lambda *_: None)
    assert name.startswith("unsloth 2026")
    assert "transformers 5" in name
    assert name.endswith("; temperature 1.5 > top_k 20 > top_p 0.9 > min_p 0")


def test_a_folder_that_is_no_model_is_misconfigured(tmp_path: Path) -> None:
    """A broken base is told at the start, not prompt by prompt."""
    with pytest.raises(Misconfigured, match="does not load"), TransformersSampler(tmp_path, context=64):
        pass


def test_a_sampler_that_died_puts_the_night_off(tiny_model: tiny.Tiny) -> None:
    """When the child is gone the draw is Transient: nothing is stored as an empty sample."""
    with TransformersSampler(tiny_model.hf, context=64) as sampler:
        os.kill(sampler.pid, 9)
        with pytest.raises(Transient, match="gone"):
            sampler.sample([Prompt("x", 1)], DECODE, lambda *_: None)


def test_a_child_that_cannot_begin_is_heard(tmp_path: Path) -> None:
    """The last line of what it wrote to stderr is the reason that is given."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho 'No module named torch' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(Misconfigured, match="No module named torch"):
        TransformersSampler(tmp_path, context=64, python=python).__enter__()
