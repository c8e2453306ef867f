"""Many chat requests at once, every sampling parameter stated, order kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ollama
import stamina

from fleetssd.adapters.ollama_engine.wire import NOT_OLLAMA, Away, Wire
from fleetssd.cores import leave_one
from fleetssd.errors import Corrupt, FleetError, Transient
from fleetssd.ports import Completion, Places, Progress, Prompt
from fleetssd.recipe import Sampling

ATTEMPTS = 4
TOP = 20
"""The most tokens a place that Ollama lists."""
GONE = 8
"""After this many requests in a row that found nobody there, the rest are not tried."""


def options(sampling: Sampling, seed: int, num_ctx: int | None) -> dict[str, Any]:
    """Return Ollama's options for a decode: nothing is left to the server's or the model's defaults.

    Load-time options stay out (a different one reloads the model) except a context that the settings pin.
    """
    return {**sampling.llama_cpp(seed), "num_predict": sampling.max_tokens, **({"num_ctx": num_ctx} if num_ctx else {})}


class Chat:
    """Asks models many prompts, up to `concurrency` in flight over all callers, first come first served.

    Whoever asks next while the last answers of another are on their way gets the slots that these leave.
    """

    def __init__(self, wire: Wire, concurrency: int, num_ctx: int | None) -> None:
        self._wire = wire
        self._pool = ThreadPoolExecutor(concurrency, "chat", leave_one)
        self._num_ctx = num_ctx

    def close(self) -> None:
        """Wait for what is in flight and drop the rest."""
        self._pool.shutdown(cancel_futures=True)

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Return one completion a prompt, in order; one that failed after its retries is `finish="error"`.

        Raises Transient where the server is gone altogether, so that a night is put off and not spoilt.
        """
        count, lock = _Count(len(prompts)), threading.Lock()

        def one(prompt: Prompt) -> Completion:
            if count.gone >= GONE:
                return _FAILED
            try:
                answer, gone = self._ask(model, prompt, sampling), 0
            except Away:
                answer, gone = _FAILED, count.gone + 1
            except FleetError:
                answer, gone = _FAILED, 0
            with lock:
                count.gone = gone
                count.done += 1
                progress(count.done, count.total, "completions")
            return answer

        answers = list(self._pool.map(one, prompts))
        if count.gone >= min(GONE, max(1, count.total)):
            raise Away(f"no engine answers at {self._wire.url}", hint="Is Ollama running? `ollama serve`")
        return answers

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Return, place by place of each answer, the log-probabilities of the `TOP` likeliest tokens.

        Ollama has them since 0.12.11; an older server leaves them out of its reply, and no place is returned.
        """

        def one(prompt: Prompt) -> Places:
            reply = self._reply(model, prompt, sampling, TOP)
            return [[float(token.logprob) for token in place.top_logprobs or ()] for place in reply.logprobs or ()]

        return list(self._pool.map(one, prompts))

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens, by their text; empty where untold."""

        def one(text: str) -> dict[str, float]:
            reply = self._reply(model, Prompt(text, 1), _ONE_TOKEN, TOP)
            listed = (reply.logprobs[0].top_logprobs or ()) if reply.logprobs else ()
            # Likeliest first: of tokens that are spelt alike the likeliest counts.
            return {str(token.token): float(token.logprob) for token in reversed(listed)}

        return list(self._pool.map(one, prompts))

    def _ask(self, model: str, prompt: Prompt, sampling: Sampling) -> Completion:
        """Ask without the client's models: of thousands of replies, three fields are wanted."""
        body: dict[str, Any] = {"model": model, "messages": _turn(prompt), "stream": False}
        body["options"] = options(sampling, prompt.seed, self._num_ctx)
        for attempt in _attempts():
            with attempt:
                reply = self._wire.ask("/api/chat", body)
        if not reply.get("done"):
            return _FAILED  # the server gave up half-way and said nothing
        finish = "length" if reply.get("done_reason") == "length" else "stop"
        message = reply.get("message")
        if not isinstance(message, dict):
            raise Corrupt(f"the engine at {self._wire.url} answered without a message", hint=NOT_OLLAMA)
        return Completion(str(message.get("content") or ""), finish, int(reply.get("eval_count") or 0))

    def _reply(self, model: str, prompt: Prompt, sampling: Sampling, top: int = 0) -> ollama.ChatResponse:
        for attempt in _attempts():
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


def _attempts() -> Iterable[stamina.Attempt]:
    return stamina.retry_context(on=Transient, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0)


def _turn(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.text}]


class _Count:
    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.gone = 0


_FAILED = Completion("", "error", 0)
_ONE_TOKEN = Sampling(0.0, 1, 1.0, 0.0, 1)
