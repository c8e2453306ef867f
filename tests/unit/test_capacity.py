"""What a run needs at least."""

from __future__ import annotations

import dataclasses

import pytest

from fleetssd.capacity import Needs, check, lora_values, needs
from fleetssd.errors import Misconfigured
from fleetssd.placement import Placement
from fleetssd.recipe import Lora
from fleetssd.training import TrainPlan

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYER = {
    "self_attn.q_proj": (4096, 2560), "self_attn.k_proj": (1024, 2560), "self_attn.v_proj": (1024, 2560),
    "self_attn.o_proj": (2560, 4096), "mlp.gate_proj": (9728, 2560), "mlp.up_proj": (9728, 2560),
    "mlp.down_proj": (2560, 9728), "input_layernorm": (2560,), "post_attention_layernorm": (2560,),
}  # fmt: skip
QWEN3_4B = {f"model.layers.{n}.{name}.weight": shape for n in range(36) for name, shape in LAYER.items()} | {
    "model.embed_tokens.weight": (151_936, 2560)
}
LORA = Lora(16, 16.0, TARGETS, 5e-5, 16, 1, 2, 2, 0)
PLAN = TrainPlan(1, "b", "r", 500, LORA, seed=1, threads=1, placement=Placement("unsloth", "cuda", "bfloat16"))


@pytest.mark.parametrize(("rank", "millions"), [(16, 33.0), (64, 132.1)])
def test_a_known_model_has_its_known_number_of_trained_values(rank: int, millions: float) -> None:
    """Qwen3-4B trains 33.0 million values at rank 16 and 132 at rank 64 over all linear layers."""
    assert lora_values(QWEN3_4B, rank, TARGETS) / 1e6 == pytest.approx(millions, abs=0.1)


def test_memory_is_base_adapter_and_a_row_of_logits() -> None:
    """In bfloat16 that is 8.0 GB of base, half a GB of adapter with its moments, and the logits of the longest row."""
    need = needs(PLAN, QWEN3_4B, longest=2048, beside=0)
    assert need.memory == pytest.approx(8.05e9 + 16 * 33.0e6 + 4 * 2048 * 151_936, rel=0.01)
    assert need.disk == pytest.approx((4 + 36) * 33.0e6, rel=0.01)


def test_four_bits_need_less_and_more_rank_needs_more() -> None:
    """What the hints propose really helps."""
    small = dataclasses.replace(PLAN, placement=dataclasses.replace(PLAN.placement, qlora=True))
    large = dataclasses.replace(PLAN, lora=dataclasses.replace(LORA, rank=64))
    middle = needs(PLAN, QWEN3_4B, 2048, 0)
    assert needs(small, QWEN3_4B, 2048, 0).memory < middle.memory < needs(PLAN, QWEN3_4B, 4096, 0).memory
    assert middle.disk < needs(large, QWEN3_4B, 2048, 0).disk


@pytest.mark.parametrize(("disk", "memory", "words"), [(9, 100, "of disk"), (100, 9, "of memory")])
def test_too_little_is_refused_with_a_way_out(disk: int, memory: int, words: str) -> None:
    """The sentence names what is missing, the hint a setting."""
    with pytest.raises(Misconfigured, match=words) as caught:
        check(Needs(disk=10, memory=10), disk, memory)
    assert "recipe." in caught.value.hint


def test_enough_is_enough_and_unknown_memory_is_no_reason() -> None:
    """A device that does not tell its memory is tried."""
    check(Needs(disk=10, memory=10), 10, 10)
    check(Needs(disk=10, memory=10), 10, None)
