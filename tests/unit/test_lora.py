"""A PEFT adapter as values: pairs, strengths, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import lora
from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.safetensors import Span

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.10.mlp.up_proj"


def tensors(*modules: str, rank: int = 4) -> dict[str, Span]:
    """Name both halves of each module as PEFT does."""
    spans = {"A": Span("F32", (rank, 8), 0), "B": Span("F32", (16, rank), 128)}
    return {f"base_model.model.{module}.lora_{side}.weight": spans[side] for module in modules for side in "BA"}


def config(**options: Any) -> dict[str, Any]:
    """Write an adapter_config.json's plain fields."""
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **options}


def test_pairs_come_sorted_with_their_strength() -> None:
    """Each module is one pair, whatever the file's order, at alpha / r."""
    adapter = lora.parse(config(), tensors(UP, Q))
    assert [pair.module for pair in adapter.pairs] == [Q, UP]
    assert {pair.scale for pair in adapter.pairs} == {2.0}
    assert (adapter.alpha, adapter.pairs[0].rank) == (8.0, 4)


def test_a_wrapped_language_model_loses_its_wrapper() -> None:
    """Multimodal classes put `language_model.` into the path; the GGUF names know only the model."""
    wrapped = "model.language_model.layers.0.self_attn.q_proj"
    assert lora.parse(config(), tensors(wrapped)).pairs[0].module == Q


@given(
    rank=st.integers(1, 64),
    own=st.integers(1, 64),
    alpha=st.integers(1, 128),
    own_alpha=st.integers(1, 128),
    rslora=st.booleans(),
)
def test_folding_gives_each_pair_its_own_strength(
    rank: int, own: int, alpha: int, own_alpha: int, rslora: bool
) -> None:
    """Alpha / r as a GGUF reader applies it, times the folded factor, is PEFT's strength for the module."""
    table = config(r=rank, lora_alpha=alpha, use_rslora=rslora, alpha_pattern={"q_proj": own_alpha})
    adapter = lora.parse(table, tensors(Q, rank=own))
    (pair,) = adapter.pairs
    expected = own_alpha / (math.sqrt(own) if rslora else own)
    assert math.isclose(pair.scale, expected)
    assert math.isclose(adapter.alpha / pair.rank * adapter.fold(pair), expected)


def test_patterns_match_whole_names_at_the_end() -> None:
    """`0.mlp.up_proj` is layer 0's, not layer 10's; `up_proj` is every layer's; a plain name never matches inside."""
    table = config(alpha_pattern={"0.mlp.up_proj": 1, "proj": 2})
    assert {pair.scale for pair in lora.parse(table, tensors(Q, UP)).pairs} == {2.0}
    table = config(alpha_pattern={"10.mlp.up_proj": 1, "q_proj": 16})
    assert [pair.scale for pair in lora.parse(table, tensors(Q, UP)).pairs] == [4.0, 0.25]


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "IA3"},
        {"bias": "lora_only"},
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [1]}},
        {"layer_replication": [[0, 2]]},
        {"lora_bias": True},
        {"target_parameters": ["experts"]},
        {"fan_in_fan_out": True},
        {"alora_invocation_tokens": [5, 6]},
        {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}},
        {"arrow_config": {"top_k": 1}},
        {"kasa_config": {"beta": 1e-4}},
        {"monteclora_config": {"samples": 4}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_no_plain_lora_is_refused(options: dict[str, Any]) -> None:
    """Each option that a GGUF LoRA cannot say raises Misconfigured and says how to train instead."""
    with pytest.raises(Misconfigured) as caught:
        lora.parse(config(**options), tensors(Q))
    assert "plain LoRA" in caught.value.hint


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_a_start_that_changes_the_base_is_refused(start: str) -> None:
    """What began from a base that was changed first does not fit the base that is served."""
    with pytest.raises(Misconfigured, match="another base"):
        lora.parse(config(init_lora_weights=start), tensors(Q))


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", None])
def test_a_start_that_leaves_the_base_is_taken(start: object) -> None:
    """Where only A and B began otherwise, the adapter is a plain one."""
    assert lora.parse(config(init_lora_weights=start), tensors(Q)).pairs


def test_other_tensors_are_refused() -> None:
    """A tensor that is no LoRA half means that something else was trained too."""
    extra = {"base_model.model.lm_head.weight": Span("F32", (2, 2), 0)}
    with pytest.raises(Misconfigured, match="lm_head"):
        lora.parse(config(), {**tensors(Q), **extra})


def test_halves_without_their_half_are_corrupt() -> None:
    """A missing half, halves that do not chain, and an empty file raise Corrupt."""
    whole = tensors(Q)
    half = {name: span for name, span in whole.items() if "lora_A" in name}
    crossed = {name: Span("F32", (16, 5), 0) if "lora_B" in name else span for name, span in whole.items()}
    for broken in (half, crossed, {}):
        with pytest.raises(Corrupt):
            lora.parse(config(), broken)
