"""What a trained model says comes next, asked for in one pass or text by text."""

# ruff: noqa: PLC0415  the training stack is loaded by the tests that use it, not by collecting them
from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tests.e2e import tiny

pytestmark = pytest.mark.e2e


def test_texts_asked_at_once_and_one_by_one_are_told_the_same(tiny_model: tiny.Tiny) -> None:
    """Of any length, with and without the adapter, grown by a token or not: no log-probability differs by 1e-4."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from fleetssd.adapters.backends.asking import batched, plainly

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model.hf, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=list(tiny.TARGETS), init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    drawn, words = Random(0), model.config.vocab_size
    texts = [[drawn.randrange(words) for _ in range(length)] for length in (3, 17, 8)]
    at_once, one_by_one = batched(torch, model), plainly(torch, model)
    for _ in range(4):
        plain, adapted = (at_once(texts, with_adapter) for with_adapter in (False, True))
        assert np.abs(plain - one_by_one(texts, False)).max() < 1e-4
        assert np.abs(adapted - one_by_one(texts, True)).max() < 1e-4
        assert np.abs(plain - adapted).max() > 0.1
        texts = [[*ids, drawn.randrange(words)] for ids in texts]
    others = [[5, 6, 7], [8]]
    assert np.abs(at_once(others, True) - one_by_one(others, True)).max() < 1e-4
