"""Tonight's plan as a value."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt
from fleetssd.recipe import TEMPERATURE_FIRST, Lora, NightPlan, Sampling

share = st.floats(0.01, 1.0)
ids = st.lists(st.text("0123456789abcdef", min_size=4, max_size=8), max_size=4, unique=True).map(tuple)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2.0),
    top_k=st.integers(0, 100),
    top_p=share,
    min_p=share,
    max_tokens=st.integers(1, 4096),
    order=st.permutations(TEMPERATURE_FIRST).map(tuple),
)
loras = st.builds(
    Lora,
    rank=st.integers(1, 64),
    alpha=share,
    targets=st.lists(st.sampled_from(["q_proj", "k_proj", "v_proj"]), unique=True).map(tuple),
    learning_rate=share,
    batch=st.integers(1, 64),
    micro_batch=st.integers(1, 64),
    epochs=st.integers(1, 9),
    warmup_steps=st.none() | st.integers(0, 9),
    max_length=st.integers(1, 4096),
    rate_floor=share,
)
plans = st.builds(
    NightPlan,
    arm=st.sampled_from(["ssd", "merged"]),
    manage=st.sampled_from(["none", "gateway", "bake"]),
    train=ids,
    held_out=ids,
    tune=ids,
    sampling=samplings,
    decode=samplings,
    lora=loras,
    tau_grid=st.lists(share, max_size=3).map(tuple),
    incumbent_tau=share,
)


@given(plans)
def test_a_plan_survives_the_database(plan: NightPlan) -> None:
    """A round trip through JSON gives the same value, and the same digest."""
    again = NightPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest == plan.digest


@given(plans, st.integers(0, 2**31))
def test_plans_that_differ_have_different_digests(plan: NightPlan, seed: int) -> None:
    """The digest sees the seed and the order of the records."""
    other = replace(plan, seed=seed)
    assert (other.digest == plan.digest) == (seed == plan.seed)
    turned = replace(plan, train=plan.train[::-1])
    assert (turned.digest == plan.digest) == (turned.train == plan.train)


@given(samplings, st.floats(0.1, 2.0))
def test_another_temperature_changes_nothing_else(sampling: Sampling, temperature: float) -> None:
    """`at` keeps truncation, limits and order."""
    moved = sampling.at(temperature)
    assert moved.temperature == temperature
    assert replace(moved, temperature=sampling.temperature) == sampling


def test_production_tempers_last_and_the_recipe_first() -> None:
    """llama.cpp's own order tempers last; the paper's tempers, then truncates."""
    assert Sampling(1.0, 40, 1.0, 0.0, 64).order[-1] == "temperature"
    assert TEMPERATURE_FIRST[0] == "temperature"


def test_a_decode_is_told_in_the_order_of_its_use() -> None:
    """Each parameter with its value; an engine that tempers last says so."""
    last = Sampling(1.5, 20, 0.8, 0.0, 64)
    assert last.described == "top_k 20 > top_p 0.8 > min_p 0 > temperature 1.5 (temperature last)"
    assert replace(last, order=TEMPERATURE_FIRST).described.startswith("temperature 1.5 > top_k 20")


@given(plans)
def test_the_teachers_decode_is_served_as_an_engine_serves(plan: NightPlan) -> None:
    """The training's temperature and truncation, in the engine's order and at the length of an answer."""
    found = plan.teacher_decode
    assert (found.max_tokens, found.order) == (plan.decode.max_tokens, plan.decode.order)
    assert replace(found, max_tokens=plan.sampling.max_tokens, order=plan.sampling.order) == plan.sampling


@given(plans, st.sampled_from(["k", "sampling", "lora", "seed"]))
def test_a_plan_of_another_version_is_said_to_be_one(plan: NightPlan, name: str) -> None:
    """What lacks a key of ours is Corrupt with the night's number, never a traceback."""
    table = {key: value for key, value in plan.to_json().items() if key != name}
    with pytest.raises(Corrupt, match=f"the plan of night {plan.night} was made by another version"):
        NightPlan.from_json(table)


@given(samplings, st.integers(0, 2**31))
def test_no_server_is_left_a_default_of_its_own(sampling: Sampling, seed: int) -> None:
    """llama.cpp and vLLM are told every parameter in their own words; vLLM spells "all tokens" as -1."""
    llama, vllm = sampling.llama_cpp(seed), sampling.vllm(seed)
    both = {"temperature", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty"}
    assert {name: llama[name] for name in both} == {name: vllm[name] for name in both}
    assert llama.keys() - both == {"top_k", "typical_p", "repeat_penalty"}
    assert vllm.keys() - both == {"top_k", "repetition_penalty", "max_tokens"}
    assert (llama["top_k"], vllm["top_k"]) == (sampling.top_k, sampling.top_k or -1)
