"""Training samples from a vLLM server, through its OpenAI-compatible chat."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from fleetssd.adapters.samplers.drawing import Wire, draw_all
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.ports import Completion, Progress, Prompt
from fleetssd.recipe import ORDERS, Sampling


class VllmSampler:
    """Draws completions through /v1/chat/completions of the one model that the server serves; a context manager.

    vLLM tempers first and lets nobody change its order (vllm/v1/sample/sampler.py).
    """

    def __init__(self, url: str, *, at_once: int = 64, transport: httpx.BaseTransport | None = None) -> None:
        self.name = "vllm"
        self._url = url
        self._wire = Wire(url, transport)
        self._at_once = at_once
        self._model = ""

    def __enter__(self) -> VllmSampler:
        """Find out what is served there. Raises Misconfigured where it is not one model."""
        models = [str(row["id"]) for row in self._wire.json("GET", "/v1/models").get("data", ())]
        if len(models) != 1:
            raise Misconfigured(
                f"{self._url} serves {models or 'no model'}",
                hint="Serve the frozen base alone: no adapters, one served model name.",
            )
        self._model = models[0]
        version = self._wire.json("GET", "/version").get("version", "unknown version")
        self._engine = self.name = f"vllm {version}, {self._model}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._wire.close()

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order; a prompt that the server refuses is `finish="error"`.

        Raises Transient where the server is gone, Misconfigured for an order that is not its own.
        """
        if sampling.order != ORDERS["vllm"]:
            raise Misconfigured(
                f"vLLM samples by {' > '.join(ORDERS['vllm'])}, not {' > '.join(sampling.order)}",
                hint="Freeze another night with this sampler.",
            )
        self.name = f"{self._engine}; {sampling.described}"
        return draw_all(prompts, lambda prompt: self._draw(prompt, sampling), self._at_once, progress)

    def _draw(self, prompt: Prompt, sampling: Sampling) -> Completion:
        messages = [{"role": "user", "content": prompt.text}]
        body = {"model": self._model, "messages": messages, **parameters(sampling, prompt.seed)}
        try:
            reply = self._wire.json("POST", "/v1/chat/completions", body)
        except Rejected:
            return Completion("", "error", 0)
        choice = reply["choices"][0]
        finish = str(choice.get("finish_reason"))
        tokens = int(reply.get("usage", {}).get("completion_tokens", 0))
        text = str(choice["message"].get("content") or "")
        return Completion(text, finish if finish in {"stop", "length"} else "error", tokens)


def parameters(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Return vLLM's parameters for a decode: all of them stated."""
    return {**sampling.vllm(seed), "n": 1, "stream": False}
