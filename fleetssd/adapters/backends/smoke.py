"""What the trained model itself says to a few of its prompts, for the engine that will serve it to be held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fleetssd.adapters.backends.rows import question_ids, question_text
from fleetssd.fidelity import GREEDY_TOKENS, TOP, Said, Witness
from fleetssd.training import Row

PROMPTS = 6
"""The shortest of a night: enough tokens to compare, and seconds on any machine."""

NextTokens: TypeAlias = Callable[[Sequence[Sequence[int]], bool], Any]
"""(texts as token ids, with the adapter?) to each one's log-probabilities (nats) of every next token.

A float32 matrix, a row a text. Called again with the same texts and one more token each, it may go on where it was.
"""


def one_by_one(next_token: Callable[[Sequence[int], bool], Any]) -> NextTokens:
    """Ask a model that takes one text at a time."""
    return lambda texts, with_adapter: np.stack([next_token(ids, with_adapter) for ids in texts])


def witness(next_tokens: NextTokens, tokenizer: Any, rows: Sequence[Row]) -> tuple[Witness, ...]:
    """Ask a trained model with and without its adapter for its first tokens and for a greedy answer's start."""
    prompts = sorted({row.prompt for row in rows}, key=lambda text: (len(text), text))[:PROMPTS]
    asked = [question_ids(tokenizer, prompt) for prompt in prompts]
    (plain, plain_answers), (adapted, answers) = (
        _heard(next_tokens, tokenizer, asked, with_adapter=with_adapter) for with_adapter in (False, True)
    )
    return tuple(
        _one(tokenizer, prompt, ids, (plain[at], plain_answers[at]), (adapted[at], answers[at]))
        for at, (prompt, ids) in enumerate(zip(prompts, asked, strict=True))
    )


def _one(tokenizer: Any, prompt: str, ids: Sequence[int], plain: tuple[Any, str], adapted: tuple[Any, str]) -> Witness:
    # The tokens that either finds likely: an engine lists its own twenty of each.
    likely = {int(token) for values, _ in (plain, adapted) for token in np.argsort(values)[-TOP:]}
    texts = _texts(tokenizer, ids[-1], likely)
    base, trained = (
        Said({text: float(values[token]) for text, token in texts.items() if np.isfinite(values[token])}, greedy)
        for values, greedy in (plain, adapted)
    )
    return Witness(prompt, base, trained, question_text(tokenizer, prompt))


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


def _heard(
    next_tokens: NextTokens, tokenizer: Any, asked: Sequence[Sequence[int]], *, with_adapter: bool
) -> tuple[Any, list[str]]:
    """Return the log-probabilities of first tokens, and how each text goes on greedily.

    All texts go on in step, past an end too, so that they stay one batch; what follows an end is cut off.
    """
    first = next_tokens(asked, with_adapter)
    texts, values, answers = [list(ids) for ids in asked], first, [list[int]() for _ in asked]
    while True:
        for ids, answer, row in zip(texts, answers, values, strict=True):
            token = int(row.argmax())
            ids.append(token)
            answer.append(token)
        if len(answers[0]) == GREEDY_TOKENS or all(tokenizer.eos_token_id in answer for answer in answers):
            break
        values = next_tokens(texts, with_adapter)
    whole = [_whole(tokenizer, answer) for answer in answers]
    said = [str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for ids in whole]
    return first, said


def _whole(tokenizer: Any, answer: list[int]) -> list[int]:
    return answer[: answer.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in answer else answer
