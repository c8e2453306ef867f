"""Many chat requests at once, every sampling parameter stated, order kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ollama

from fleetssd.adapters.ollama_engine.wire import NOT_OLLAMA, Wire
from fleetssd.errors import Corrupt
from fleetssd.in_flight import FAILED, InFlight, attempts
from fleetssd.ports import Completion, Places, Progress, Prompt
from fleetssd.recipe import Sampling

TOP = 20
"""The most tokens a place that Ollama lists."""


def options(sampling: Sampling, seed: int, num_ctx: int | None) -> dict[str, Any]:
    """Return Ollama's options for a decode: nothing is left to the server's or the model's defaults.

    Load-time options stay out (a different one reloads the model) except a context that the settings pin.
    """
    return {**sampling.llama_cpp(seed), "num_predict": sampling.max_tokens, **({"num_ctx": num_ctx} if num_ctx else {})}


class Chat:
    """Asks models many prompts, up to `concurrency` in flight."""

    def __init__(self, wire: Wire, concurrency: int, num_ctx: int | None) -> None:
        self._wire = wire
        self._flight = InFlight(concurrency)
        self._num_ctx = num_ctx

    def close(self) -> None:
        """Wait for what is in flight and drop the rest."""
        self._flight.close()

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Return one completion a prompt, in order; one that failed after its retries is `finish="error"`.

        Raises Transient where the server is gone altogether.
        """
        return self._flight.completions(lambda prompt: self._ask(model, prompt, sampling), prompts, progress)

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Return, place by place of each answer, the log-probabilities of the `TOP` likeliest tokens.

        Ollama has them since 0.12.11; an older server leaves them out of its reply, and no place is returned.
        """

        def one(prompt: Prompt) -> Places:
            reply = self._reply(model, prompt, sampling, TOP)
            return [[float(token.logprob) for token in place.top_logprobs or ()] for place in reply.logprobs or ()]

        return self._flight.map(one, prompts)

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens, by their text; empty where untold."""

        def one(text: str) -> dict[str, float]:
            reply = self._reply(model, Prompt(text, 1), _ONE_TOKEN, TOP)
            listed = (reply.logprobs[0].top_logprobs or ()) if reply.logprobs else ()
            # Likeliest first: of tokens that are spelt alike the likeliest counts.
            return {str(token.token): float(token.logprob) for token in reversed(listed)}

        return self._flight.map(one, prompts)

    def _ask(self, model: str, prompt: Prompt, sampling: Sampling) -> Completion:
        """Ask without the client's models: of thousands of replies, three fields are wanted."""
        body: dict[str, Any] = {"model": model, "messages": _turn(prompt), "stream": False}
        body["options"] = options(sampling, prompt.seed, self._num_ctx)
        for attempt in attempts():
            with attempt:
                reply = self._wire.ask("/api/chat", body)
        if not reply.get("done"):
            return FAILED  # the server gave up half-way and said nothing
        finish = "length" if reply.get("done_reason") == "length" else "stop"
        message = reply.get("message")
        if not isinstance(message, dict):
            raise Corrupt(f"the engine at {self._wire.url} answered without a message", hint=NOT_OLLAMA)
        return Completion(str(message.get("content") or ""), finish, int(reply.get("eval_count") or 0))

    def _reply(self, model: str, prompt: Prompt, sampling: Sampling, top: int = 0) -> ollama.ChatResponse:
        for attempt in attempts():
            with attempt, self._wire.told():
                reply = self._wire.client.chat(
                    model,
                    _turn(prompt),
                    stream=False,
                    options=options(sampling, prompt.seed, self._num_ctx),
                    logprobs=True if top else None,
                    top_logprobs=top or None,
                )
        return reply


def _turn(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.text}]


_ONE_TOKEN = Sampling(0.0, 1, 1.0, 0.0, 1)
