"""Asks a PyTorch model which token comes next: one text after another, or all at once and on from where they were."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleetssd.adapters.backends.smoke import NextTokens, one_by_one


def plainly(torch: Any, model: Any) -> NextTokens:
    """Ask for one text at a time and keep nothing: what any backend's model, with its own kernels, can do."""

    def ask(ids: Sequence[int], with_adapter: bool) -> Any:
        return _said(torch, model, with_adapter, input_ids=_on(torch, model, [list(ids)]), use_cache=False)[1][0]

    return one_by_one(ask)


def batched(torch: Any, model: Any) -> NextTokens:
    """Ask for all texts in one pass, and where each has grown by one token only, for that token alone.

    It spares most of what a witness costs. For models of transformers as they are: texts are padded on the left.
    """
    kept: dict[bool, _Kept] = {}

    def ask(texts: Sequence[Sequence[int]], with_adapter: bool) -> Any:
        before = kept.get(with_adapter)
        if before is None or [list(ids[:-1]) for ids in texts] != before.texts:
            width = max(map(len, texts))
            ids = _on(torch, model, [[0] * (width - len(text)) + list(text) for text in texts])
            mask = _on(torch, model, [[0] * (width - len(text)) + [1] * len(text) for text in texts])
            cache = None
        else:
            ids = _on(torch, model, [[text[-1]] for text in texts])
            mask, cache = torch.cat([before.mask, torch.ones_like(ids)], dim=-1), before.cache
        cache, values = _said(
            torch,
            model,
            with_adapter,
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        kept[with_adapter] = _Kept([list(text) for text in texts], mask, cache)
        return values

    return ask


@dataclass(frozen=True, slots=True)
class _Kept:
    """The texts of a call, which of their columns are text, and the keys and values of all of them."""

    texts: list[list[int]]
    mask: Any
    cache: Any


def _on(torch: Any, model: Any, numbers: list[list[int]]) -> Any:
    return torch.tensor(numbers, device=next(model.parameters()).device)


def _said(torch: Any, model: Any, with_adapter: bool, **inputs: Any) -> tuple[Any, Any]:
    """Return the cache and the last column's log-probabilities, a float32 row a text."""
    model.eval()
    with torch.no_grad(), contextlib.nullcontext() if with_adapter else model.disable_adapter():
        said = model(**inputs)
    return said.past_key_values, said.logits[:, -1].float().log_softmax(-1).cpu().numpy()
