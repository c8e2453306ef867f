"""The smoke test of an installed name: it loads, prompts as the base does, answers, stops, and is what was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fleetssd.advice import ADVICE
from fleetssd.errors import Rejected, Transient
from fleetssd.fidelity import GREEDY_TOKENS, Fidelity, Witness, by_greedy, by_likelihoods, same_prompt
from fleetssd.ports import Completion, Engine, Prompt
from fleetssd.recipe import Sampling

TOKENS = 256
PROMPTS = ("Write a function that adds two numbers.", "Fix the off-by-one error in a loop.", "Reverse a list.")
"""Asked where the night has no issue of its own to ask."""
HINT = "The night's folder keeps the adapter and the training log."


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a model said: two prompts as rendered, the first witness's last; answers; the witnesses' first tokens.

    `greedy` is empty where `first` tells the likelihoods.
    """

    rendered: Sequence[str | None]
    answers: Sequence[Completion]
    first: Sequence[Mapping[str, float]]
    greedy: Sequence[str]


@dataclass(frozen=True, slots=True)
class Smoke:
    """What is asked, of which engine; `witnesses` is what the trainer's own model says."""

    engine: Engine
    base_model: str
    prompts: Sequence[str]
    witnesses: Sequence[Witness]
    decode: Sampling

    def test(self, model: str, adapter: str | None, tau: float) -> Fidelity | None:
        """Return how like the trainer's model this one is, None without witnesses; `tau` is what is baked into it.

        The base is asked first, as a whole: each alternation on one GGUF is a reload. Raises Rejected with the reason.
        """
        if self.engine.adapter_of(model) != adapter:
            raise Rejected(
                f"{model} has not exactly the adapter that was installed",
                hint="Does anything else write to the engine?",
            )
        self._carries(model)
        base = self._hear(self.base_model)
        self.engine.preload(model)
        found = self._hear(model)
        if found.rendered != base.rendered:
            raise Rejected(
                f"{model} renders the chat template differently from {self.base_model}",
                hint=ADVICE[self.engine.kind].compare,
            )
        fidelity = self._compare(base, found, tau) if self.witnesses else None
        told = fidelity is not None and fidelity.by == "likelihoods" and fidelity.effect > 0
        flaw = _flaw(base.answers, found.answers, changed=told)
        flaw = flaw or (fidelity.flaw if fidelity else "")
        if flaw:
            raise Rejected(f"{model} {flaw}", hint=HINT)
        return fidelity

    def _carries(self, model: str) -> None:
        base, found = self.engine.carried(self.base_model), self.engine.carried(model)
        lost = sorted(key for key in base.keys() | found.keys() if base.get(key) != found.get(key))
        if lost:
            raise Rejected(
                f"{model} has another {', '.join(lost)} than {self.base_model}",
                hint=ADVICE[self.engine.kind].compare,
            )

    def _hear(self, model: str) -> _Heard:
        asked = [witness.prompt for witness in self.witnesses]
        prompts = self.prompts or PROMPTS
        rendered = [self.engine.rendered(model, text) for text in (prompts[0], *asked[:1])]
        answers = self._ask(model, prompts, min(TOKENS, self.decode.max_tokens))
        first = self.engine.first_tokens(model, asked) if asked else []
        greedy = [] if all(first) else [answer.text for answer in self._ask(model, asked, GREEDY_TOKENS)]
        return _Heard(rendered, answers, first, greedy)

    def _ask(self, model: str, prompts: Sequence[str], tokens: int) -> list[Completion]:
        greedy = Sampling(0.0, 1, 1.0, 0.0, tokens)
        answers = self.engine.complete(model, [Prompt(text, 1) for text in prompts], greedy, lambda *_: None)
        if any(answer.finish == "error" for answer in answers):
            raise Transient(f"the engine failed on some of {len(prompts)} prompts to {model}", hint="Its log says why.")
        return answers

    def _compare(self, base: _Heard, found: _Heard, tau: float) -> Fidelity:
        if base.greedy and found.greedy:
            fidelity = by_greedy(self.witnesses, base.greedy, found.greedy)
        else:
            fidelity = by_likelihoods(self.witnesses, base.first, found.first, tau)
        return replace(fidelity, prompted=same_prompt(self.witnesses[0].rendered, base.rendered[-1]))


def _flaw(base: Sequence[Completion], candidate: Sequence[Completion], *, changed: bool) -> str:
    """Name what answers alone show; `changed` says that likelihoods tell whether the adapter does anything."""
    if not any(answer.text.strip() for answer in candidate):
        return "answers nothing"
    if not changed and [answer.text for answer in candidate] == [answer.text for answer in base]:
        return "gives the base's own answers: the adapter has no effect"
    if any(a.finish == "stop" for a in base) and not any(a.finish == "stop" for a in candidate):
        return "never stops where the base does"
    return ""
