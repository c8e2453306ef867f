"""What the trained model itself says to a few of its prompts, for the engine that will serve it to be held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fleetssd.adapters.backends.rows import question_ids
from fleetssd.fidelity import GREEDY_TOKENS, TOP, Said, Witness
from fleetssd.training import Row

PROMPTS = 6
"""The shortest of a night: enough tokens to compare, and seconds on any machine."""

NextToken: TypeAlias = Callable[[Sequence[int], bool], Any]
"""(token ids, with the adapter?) to the log-probabilities (nats) of every next token, a float32 vector."""


def witness(next_token: NextToken, tokenizer: Any, rows: Sequence[Row]) -> tuple[Witness, ...]:
    """Ask a trained model with and without its adapter for its first tokens and for a greedy answer's start."""
    prompts = sorted({row.prompt for row in rows}, key=lambda text: (len(text), text))[:PROMPTS]
    return tuple(_one(next_token, tokenizer, prompt) for prompt in prompts)


def _one(next_token: NextToken, tokenizer: Any, prompt: str) -> Witness:
    ids = question_ids(tokenizer, prompt)
    plain, adapted = (next_token(ids, with_adapter) for with_adapter in (False, True))
    # The tokens that either finds likely: an engine lists its own twenty of each.
    likely = {int(token) for values in (plain, adapted) for token in np.argsort(values)[-TOP:]}
    texts = _texts(tokenizer, ids[-1], likely)
    said = (
        Said({text: float(values[token]) for text, token in texts.items() if np.isfinite(values[token])}, greedy)
        for values, greedy in (
            (plain, _greedy(next_token, tokenizer, ids, plain, with_adapter=False)),
            (adapted, _greedy(next_token, tokenizer, ids, adapted, with_adapter=True)),
        )
    )
    return Witness(prompt, *said)


def _texts(tokenizer: Any, before: int, tokens: set[int]) -> dict[str, int]:
    """Name tokens by what they add to a text, as engines do; what is no whole character, or two tokens', is left out.

    A token by itself would lose the space before it in SentencePiece's way of writing.
    """
    start = tokenizer.decode([before], clean_up_tokenization_spaces=False)
    named: dict[str, list[int]] = {}
    for token in sorted(tokens):
        text = tokenizer.decode([before, token], clean_up_tokenization_spaces=False)
        if text.startswith(start) and text != start and "\ufffd" not in text:
            named.setdefault(text[len(start) :], []).append(token)
    return {text: found[0] for text, found in named.items() if len(found) == 1}


def _greedy(next_token: NextToken, tokenizer: Any, ids: Sequence[int], first: Any, *, with_adapter: bool) -> str:
    answer: list[int] = []
    values = first
    while True:
        token = int(values.argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
        if len(answer) == GREEDY_TOKENS:
            break
        values = next_token([*ids, *answer], with_adapter)
    return str(tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False))
