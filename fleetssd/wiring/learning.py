"""What draws samples, trains and builds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from fleetssd.config import Settings
from fleetssd.ports import Builder, Sampler, Trainer
from fleetssd.wiring.engine import open_engine

PROMPT_TOKENS = 2048
"""What a prompt may take of a slot's context where recipe.max_length is 0."""

SAMPLER_SLOTS = 16
"""Completions drawn at once; one thread serves them all."""


def open_sampler(settings: Settings, gguf: Path) -> AbstractContextManager[Sampler]:
    """Return what draws the training samples from the frozen base: a child of ours, or a server at an address."""
    from fleetssd.adapters import samplers  # noqa: PLC0415

    recipe, context = settings.recipe, _row_tokens(settings)
    if recipe.sampler == "ollama":
        return _engine_sampler(settings)
    if recipe.sampler == "vllm":
        assert recipe.sampler_url is not None  # noqa: S101  the settings ask for it
        return samplers.VllmSampler(recipe.sampler_url)
    if recipe.sampler in ("transformers", "unsloth"):
        from fleetssd.operations.learn import Base  # noqa: PLC0415

        weights = Base.named(settings).weights
        return samplers.TransformersSampler(
            weights,
            context=context,
            python=recipe.python,
            at_once=SAMPLER_SLOTS,
            threads=recipe.threads,
            unsloth=recipe.sampler == "unsloth",
        )
    return samplers.LlamaServerSampler(recipe.sampler_url or gguf, context=context, slots=SAMPLER_SLOTS)


@contextmanager
def _engine_sampler(settings: Settings) -> Iterator[Sampler]:
    """Open the engine, or the other Ollama that the settings name, as a sampler."""
    from fleetssd.operations.engine_sampler import EngineSampler  # noqa: PLC0415

    url = settings.recipe.sampler_url or settings.engine.url
    other = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": "ollama", "url": url})})
    with closing(open_engine(other)) as engine, EngineSampler(engine, settings.engine.base_model) as sampler:
        yield sampler


def _row_tokens(settings: Settings) -> int:
    """Return the tokens of prompt and answer that a slot must hold; where rows set their length, a guess at prompts."""
    return settings.recipe.max_length or settings.recipe.max_tokens + PROMPT_TOKENS


def open_trainer(settings: Settings) -> Trainer:
    """Return the trainer, a process of its own without network, database or token."""
    from fleetssd.adapters.trainer_process import ProcessTrainer  # noqa: PLC0415

    return ProcessTrainer(settings.recipe.python or Path(sys.executable))


def open_builder(settings: Settings) -> Builder:
    """Return what makes the files that are served."""
    from fleetssd.adapters.gguf_builder import GgufBuilder, llama_quantize  # noqa: PLC0415

    return GgufBuilder(settings.base.fallback_type, llama_quantize.find(settings.base.llama_quantize))
