"""What a person is told about an engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import pytest

from fleetssd.advice import ADVICE
from fleetssd.config import EngineKind


def test_every_kind_that_settings_know_has_advice() -> None:
    """A kind that can be configured never leaves a person without a hint."""
    assert {*ADVICE} == {*get_args(EngineKind)}


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_other_engines_are_not_told_of_ollama(kind: EngineKind) -> None:
    """Whoever runs no Ollama reads of none, and every hint is filled by the names that the settings give."""
    for hint in asdict(ADVICE[kind]).values():
        said = hint.format(model="fleet-base", alias="fleet-coder")
        assert said
        assert "ollama" not in said.lower()
