"""Many chat requests at once over /v1/chat/completions, every sampling parameter stated, order kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from fleetssd.adapters.shelf_engines.wire import Wire
from fleetssd.in_flight import InFlight, attempts
from fleetssd.ports import Completion, Places, Progress, Prompt
from fleetssd.recipe import Sampling

TOP = 20
"""The most tokens a place that vLLM lists by default."""
Said: TypeAlias = Callable[[Sampling, int], Mapping[str, Any]]
"""The engine's own words for a decode and its seed."""


class Asker:
    """Asks one server, up to `concurrency` requests in flight over all callers."""

    def __init__(self, wire: Wire, concurrency: int, said: Said) -> None:
        self._wire, self._said = wire, said
        self._flight = InFlight(concurrency)

    def close(self) -> None:
        """Wait for what is in flight and drop the rest."""
        self._flight.close()

    def complete(
        self, whose: Mapping[str, Any], prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Return one completion a prompt, in order; `whose` is what of the body says which model answers.

        One that failed after its retries is `finish="error"`. Raises Transient where the server is gone altogether.
        """
        return self._flight.completions(
            lambda prompt: _completion(self._reply(whose, prompt, sampling)), prompts, progress
        )

    def likelihoods(self, whose: Mapping[str, Any], prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Return, place by place of each answer, the log-probabilities of the `TOP` likeliest tokens."""

        def one(prompt: Prompt) -> Places:
            return [[logprob for _, logprob in place] for place in self._places(whose, prompt, sampling)]

        return self._flight.map(one, prompts)

    def first_tokens(self, whose: Mapping[str, Any], prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens, by their text; empty where untold."""

        def one(text: str) -> dict[str, float]:
            first = next(iter(self._places(whose, Prompt(text, 1), _ONE_TOKEN)), [])
            return dict(reversed(first))  # of tokens that are spelt alike the likeliest counts

        return self._flight.map(one, prompts)

    def _places(self, whose: Mapping[str, Any], prompt: Prompt, sampling: Sampling) -> list[list[tuple[str, float]]]:
        """Return for each place its likeliest tokens, likeliest first."""
        asked = {**whose, "logprobs": True, "top_logprobs": TOP}
        told = self._reply(asked, prompt, sampling)["choices"][0].get("logprobs") or {}
        tops = [place["top_logprobs"] for place in told.get("content") or ()]
        pairs = [[(str(token["token"]), float(token["logprob"])) for token in top] for top in tops]
        return [sorted(place, key=lambda pair: -pair[1]) for place in pairs]

    def _reply(self, whose: Mapping[str, Any], prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        body = {
            "messages": [{"role": "user", "content": prompt.text}],
            "n": 1,
            "stream": False,
            **self._said(sampling, prompt.seed),
            **whose,
        }
        for attempt in attempts():
            with attempt:
                reply: dict[str, Any] = self._wire.json("POST", "/v1/chat/completions", body)
                return reply
        raise AssertionError  # the last attempt returns or raises


def _completion(reply: Mapping[str, Any]) -> Completion:
    choice = reply["choices"][0]
    finish = str(choice.get("finish_reason"))
    tokens = int((reply.get("usage") or {}).get("completion_tokens", 0))
    text = str(choice["message"].get("content") or "")
    return Completion(text, finish if finish in ("stop", "length") else "error", tokens)


_ONE_TOKEN = Sampling(1.0, 0, 1.0, 0.0, 1)
