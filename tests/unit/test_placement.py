"""What trains, chosen from what a probe saw."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt, Misconfigured
from fleetssd.placement import EXTRAS, NEEDS, Found, Placement, choose

ALL = {name: "1" for names in NEEDS.values() for name in names} | {"bitsandbytes": "1"}
CPU = Found(packages=ALL)
CUDA = Found("cuda", "a GPU", bf16=True, packages=ALL)
OLD = Found("cuda", "an old GPU", bf16=False, packages=ALL)
XPU = Found("xpu", "an Arc", bf16=True, packages=ALL)
MAC = Found("metal", "Apple Silicon", bf16=True, packages=ALL)


def without(found: Found, *names: str) -> Found:
    """Return the same machine without these packages."""
    left = {name: version for name, version in found.packages.items() if name not in names}
    return Found(found.accelerator, found.name, found.bf16, left)


@pytest.mark.parametrize(
    ("backend", "device", "found", "placement"),
    [
        ("auto", "auto", CPU, Placement("trl", "cpu", "float32")),
        ("auto", "auto", CUDA, Placement("unsloth", "cuda", "bfloat16")),
        ("auto", "auto", without(CUDA, "unsloth"), Placement("trl", "cuda", "bfloat16")),
        ("auto", "auto", OLD, Placement("unsloth", "cuda", "float16")),
        ("auto", "auto", XPU, Placement("unsloth", "xpu", "bfloat16")),
        ("auto", "auto", MAC, Placement("unsloth-mlx", "metal", "bfloat16")),
        ("auto", "cpu", CUDA, Placement("trl", "cpu", "float32")),
        ("auto", "cuda:1", CUDA, Placement("unsloth", "cuda:1", "bfloat16")),
        ("trl", "auto", CUDA, Placement("trl", "cuda", "bfloat16")),
        ("unsloth", "auto", CPU, Placement("unsloth", "cpu", "float32")),
        ("unsloth", "cpu", CUDA, Placement("unsloth", "cpu", "float32")),
        ("trl", "metal", MAC, Placement("trl", "metal", "bfloat16")),
    ],
)
def test_a_machine_gets_what_it_can_train_with(backend: str, device: str, found: Found, placement: Placement) -> None:
    """What is asked for is taken; "auto" takes Unsloth where there is an accelerator, else TRL."""
    choice = choose(backend, device, False, found)
    assert choice.placement == placement
    assert placement.backend in choice.because
    assert placement.kind in choice.because or found.name in choice.because


@pytest.mark.parametrize(
    ("backend", "device", "qlora", "found", "words"),
    [
        ("auto", "cuda", False, CPU, "no accelerator"),
        ("auto", "xpu", False, CUDA, "sees cuda"),
        ("unsloth", "auto", False, without(CUDA, "unsloth"), "needs unsloth"),
        ("trl", "auto", False, without(CPU, "trl", "peft"), "trl, peft"),
        ("unsloth-mlx", "auto", False, CUDA, "device is cuda"),
        ("unsloth-mlx", "auto", False, without(MAC, "mlx"), "needs mlx"),
        ("unsloth", "auto", False, MAC, "device is metal"),
        ("auto", "auto", True, CPU, "qlora"),
        ("auto", "auto", True, without(CUDA, "bitsandbytes"), "qlora"),
        ("jax", "auto", False, CPU, "no backend"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_way_out(
    backend: str, device: str, qlora: bool, found: Found, words: str
) -> None:
    """A device or a package that is not there is never replaced by another in silence."""
    with pytest.raises(Misconfigured, match=words) as caught:
        choose(backend, device, qlora, found)
    assert caught.value.hint


@given(
    st.sampled_from(["auto", *NEEDS]),
    st.sampled_from(["cpu", "cuda", "cuda:3", "xpu", "metal"]),
    st.sampled_from([CPU, CUDA, OLD, XPU, MAC]),
)
def test_a_named_device_is_kept_or_refused(backend: str, device: str, found: Found) -> None:
    """Whatever the machine has, a run never moves from the device that the settings name."""
    try:
        choice = choose(backend, device, False, found)
    except Misconfigured:
        return
    assert choice.placement.device == device


def test_four_bits_stand_in_the_plan() -> None:
    """QLoRA is part of the placement, on a GPU by bitsandbytes and on Apple Silicon by MLX itself."""
    assert choose("auto", "auto", True, CUDA).placement.qlora
    assert choose("auto", "auto", True, without(MAC, "bitsandbytes")).placement.qlora


def test_a_probe_survives_json() -> None:
    """What a child prints is read back equal; anything else is Corrupt."""
    assert Found.from_json(json.loads(json.dumps(asdict(CUDA)))) == CUDA
    with pytest.raises(Corrupt):
        Found.from_json({"gpu": True})


def test_every_backend_names_its_extra() -> None:
    """A missing package always has an extra to install."""
    assert EXTRAS.keys() == NEEDS.keys()
