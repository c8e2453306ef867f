"""The tiny Qwen3 of the demo, trained from scratch on one thread; this module imports torch.

Cross-entropy on the completion alone: learning to predict prompts as well takes about twice as long to the same skill.
Muon moves the hidden matrices and AdamW the rest: with AdamW alone the model has not learned to copy a function's name
in this time.
"""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from fleetssd.toy import corpus
from fleetssd.toy.base import BaseModel, BaseSettings, file_digests, read_base, state_base
from fleetssd.toy.export import write_gguf
from fleetssd.toy.tokenizer import prompt_text, train_tokenizer

Progress = Callable[[int, int, float], None]
"""Told (step, steps, loss) after every step."""

Encoded = tuple[list[int], list[int]]
"""The token ids of a prompt and of its completion, end of turn included."""

_TOKENIZER_PAIRS = 6000
_IGNORED = -100


def build_base(out: Path, seed: int, progress: Progress, settings: BaseSettings | None = None) -> BaseModel:
    """Return the base in `out`, building it unless a whole one with the same settings and corpus is there.

    The same seed gives the same bytes on the same machine and versions. A build that is interrupted leaves nothing
    that a later one would take for a base.
    """
    settings = settings or BaseSettings(seed=seed)
    pairs = corpus.pretraining(seed, settings.pairs, noise=settings.noise)
    corpus_digest = corpus.digest(pairs)
    if known := read_base(out, settings, corpus_digest):
        return known
    started = time.monotonic()
    tokenizer = train_tokenizer(prompt_text(pair.prompt) + pair.completion for pair in pairs[:_TOKENIZER_PAIRS])
    model = _new_model(settings, tokenizer)
    with _one_thread():
        loss = _train(model, tokenizer, _encode(tokenizer, pairs), settings, progress)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "hf")
    tokenizer.save_pretrained(out / "hf")
    write_gguf(model, tokenizer, out / "base-f32.gguf", quantised=False)
    write_gguf(model, tokenizer, out / "base-q8_0.gguf", quantised=True)
    base = BaseModel(out, file_digests(out), loss, round(time.monotonic() - started, 1))
    state_base(base, settings, corpus_digest, _versions())
    return base


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: two that spin for each other's work are tens of times slower on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _new_model(settings: BaseSettings, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(settings.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            intermediate_size=settings.feed_forward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.key_value_heads,
            head_dim=settings.head_width,
            max_position_embeddings=settings.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _encode(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[corpus.Pair]) -> list[Encoded]:
    prompts = tokenizer([prompt_text(pair.prompt) for pair in pairs], add_special_tokens=False).input_ids
    completions = tokenizer([pair.completion for pair in pairs], add_special_tokens=False).input_ids
    end = [tokenizer.eos_token_id]
    return [(prompt, completion + end) for prompt, completion in zip(prompts, completions, strict=True)]


def _batches(rows: Sequence[Encoded], settings: BaseSettings) -> Iterator[list[Encoded]]:
    """Yield `steps` batches of rows of like length, in random order, over as many epochs as that takes."""
    rng = random.Random(settings.seed)
    left = settings.steps
    while left > 0:
        order = list(rows)
        rng.shuffle(order)
        window = settings.batch * 20
        for start in range(0, len(order), window):
            near = sorted(order[start : start + window], key=lambda row: len(row[0]) + len(row[1]))
            batches = [near[at : at + settings.batch] for at in range(0, len(near), settings.batch)]
            rng.shuffle(batches)
            yield from batches[:left]
            left -= len(batches)
            if left <= 0:
                return


def _train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Encoded],
    settings: BaseSettings,
    progress: Progress,
) -> float:
    """Train in place; return the mean loss of the last ten steps, in nats a token."""
    optimizers = _optimizers(model, settings)
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(_batches(rows, settings)):
        _set_rates(optimizers, _rate(step, settings))
        loss = _loss(model, batch, tokenizer.pad_token_id)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        progress(step + 1, settings.steps, losses[-1])
    model.eval()
    tail = losses[-10:]
    return sum(tail) / len(tail)


def _optimizers(model: Qwen3ForCausalLM, settings: BaseSettings) -> list[Any]:
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _rate(step: int, settings: BaseSettings) -> float:
    """Return the factor of the learning rates at `step`: linear warm-up times a cosine down to `final`."""
    warm = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps))
    fall = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return warm * (settings.final + (1 - settings.final) * fall)


def _set_rates(optimizers: Sequence[Any], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
            group["lr"] = group["peak"] * factor


def _loss(model: Qwen3ForCausalLM, batch: Sequence[Encoded], pad: int) -> Any:
    """Return the mean cross-entropy of the completions; the head runs on their positions only."""
    width = max(len(prompt) + len(completion) for prompt, completion in batch)
    tokens = torch.full((len(batch), width), pad)
    targets = torch.full((len(batch), width), _IGNORED)
    for row, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        targets[row, len(prompt) : end] = torch.tensor(completion)
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    counted = wanted != _IGNORED
    return cross_entropy(model.lm_head(hidden[counted]), wanted[counted])


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "gguf", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
