"""Recipes by model family."""

from __future__ import annotations

from typing import Any

import pytest

from fleetssd.config import Recipe, parse
from fleetssd.errors import Misconfigured
from fleetssd.presets import PRESETS

MINIMAL: dict[str, Any] = {
    "data_dir": "/var/lib/fleetssd",
    "forge": {"url": "https://gitea.example", "token_file": "/etc/fleetssd/forge-token"},
    "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
}


def recipe(**given: Any) -> Recipe:
    """Return the recipe that these settings make."""
    return parse({**MINIMAL, "recipe": given}).recipe


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_whole_recipe(name: str) -> None:
    """Each preset parses, and everything that it says is in the settings."""
    found = recipe(preset=name)
    assert {key: getattr(found, key) for key in PRESETS[name]} == PRESETS[name]
    assert found.batch % found.micro_batch == 0
    assert found.rank <= found.alpha <= 2 * found.rank


def test_what_is_set_comes_before_the_preset() -> None:
    """A preset fills only what the settings leave open."""
    found = recipe(preset="coder-4b", learning_rate=1e-4, max_length=1024)
    assert (found.learning_rate, found.max_length, found.t_train) == (1e-4, 1024, 1.6)


def test_without_a_preset_the_defaults_stand() -> None:
    """An empty name is no preset."""
    assert recipe(preset="") == recipe() == Recipe()


def test_the_defaults_are_a_4b_coders() -> None:
    """Rank 32 on all linear layers, alpha as large, 5e-5 by a cosine to a fifth, 16 rows a step by accumulation."""
    found = Recipe()
    assert (found.rank, found.alpha, found.learning_rate, found.rate_floor) == (32, 32.0, 5e-5, 0.2)
    assert set(found.targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (found.batch, found.micro_batch, found.epochs, found.max_length, found.warmup_steps) == (16, 1, 2, 0, None)


def test_an_unknown_preset_names_those_there_are() -> None:
    """A slip is refused with the list."""
    with pytest.raises(Misconfigured, match=r"no preset 'coder-5b'.*coder-4b"):
        recipe(preset="coder-5b")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0", ""])
def test_a_device_is_written_one_way(device: str) -> None:
    """What is no device is refused where it is read."""
    with pytest.raises(Misconfigured, match=r"recipe\.device"):
        recipe(device=device)
