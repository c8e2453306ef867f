"""Rows as token ids: one rendering for every backend, so that all of them learn from the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.training import Row, length_limit

MASKED = -100
"""The label of a token that carries no loss, in PyTorch as in MLX."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as token ids with labels (-100 on the prompt), how many did not fit, and into how many tokens."""

    rows: tuple[dict[str, list[int]], ...]
    too_long: int
    limit: int

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of one epoch."""
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that fits."""
        return max((len(row["input_ids"]) for row in self.rows), default=0)


def encode(tokenizer: Any, rows: Iterable[Row], max_length: int, context: int) -> Encoded:
    """Render each row through the chat template; rows above `max_length` tokens are left out and counted.

    With `max_length` 0 the rows' own lengths set it, within the base's context. A cut completion would teach the
    model never to stop. Raises Corrupt where the rendered prompt is not a token prefix of prompt and completion: the
    labels would be shifted.
    """
    whole_rows = []
    for row in rows:
        answer = {"role": "assistant", "content": row.completion}
        prompt = question_ids(tokenizer, row.prompt)
        whole = _ids(tokenizer, [*_question(row.prompt), answer])
        if whole[: len(prompt)] != prompt or tokenizer.eos_token_id not in whole[len(prompt) :]:
            raise Corrupt(
                "the chat template does not render the prompt as a prefix, or does not end the answer's turn",
                hint="Use a base whose template keeps the prompt and whose eos token ends the assistant's turn.",
            )
        whole_rows.append({"input_ids": whole, "labels": [MASKED] * len(prompt) + whole[len(prompt) :]})
    lengths = [len(row["input_ids"]) for row in whole_rows]
    limit = min(max_length or length_limit(lengths), context)
    kept = tuple(row for row, length in zip(whole_rows, lengths, strict=True) if length <= limit)
    return Encoded(kept, len(whole_rows) - len(kept), limit)


def question_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Render a prompt up to where the answer begins."""
    return _ids(tokenizer, _question(prompt), add_generation_prompt=True)


def question_text(tokenizer: Any, prompt: str) -> str:
    """Render a prompt up to where the answer begins, as text."""
    return str(tokenizer.apply_chat_template(_question(prompt), tokenize=False, add_generation_prompt=True))


def load_tokenizer(transformers: Any, base: Path) -> Any:
    """Read the base's tokenizer. Raises Misconfigured."""
    try:
        return transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(error) from error


def context(base: Path) -> int:
    """Return how many tokens the base can attend to, from its config.json. Raises Misconfigured."""
    try:
        table = json.loads((base / "config.json").read_text(encoding="utf-8"))
        return int((table.get("text_config") or table)["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cannot_load(error) from error


def cannot_load(error: Exception) -> Misconfigured:
    """Say that the base's folder cannot be read."""
    return Misconfigured(
        f"cannot load the base: {(str(error) or type(error).__name__).splitlines()[0]}",
        hint="base.weights names a folder with config.json, safetensors and a tokenizer.",
    )


def _question(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    return list(rendered["input_ids"])
