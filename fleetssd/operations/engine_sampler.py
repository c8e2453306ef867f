"""Samples from the serving engine itself: no second copy of the base in memory, but its temperature comes last."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from fleetssd.errors import Misconfigured
from fleetssd.ports import Completion, Engine, Progress, Prompt
from fleetssd.recipe import ORDERS, Sampling


class EngineSampler:
    """Implements `ports.Sampler` over the pristine base in an engine; a context manager that opens nothing."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model
        self.name = "ollama"

    def __enter__(self) -> EngineSampler:
        """Find out what would be asked. Raises Misconfigured where it is no pristine base."""
        if self._engine.adapter_of(self._model) is not None:
            raise Misconfigured(f"{self._model} has an adapter", hint="Training samples come from the base alone.")
        version, blob = self._engine.version(), self._engine.blob_of(self._model)
        self._who = self.name = f"ollama {version}, {self._model} ({blob[:12]})"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the engine as it is."""

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order. Raises Misconfigured for an order that is not the engine's own."""
        if sampling.order != ORDERS["ollama"]:
            raise Misconfigured(
                f"ollama samples by {' > '.join(ORDERS['ollama'])}, not {' > '.join(sampling.order)}",
                hint='Set [recipe] sampler = "llama-server", which tempers first.',
            )
        self.name = f"{self._who}; {sampling.described}"
        return self._engine.complete(self._model, prompts, sampling, progress)
