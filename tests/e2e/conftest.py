"""Fixtures that cost seconds: one tiny base and one training run for all tests that need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.training import TrainPlan, TrainResult, encode_rows
from tests.e2e import tiny


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: its plan, its rows file, its folder, its result and what it reported."""

    plan: TrainPlan
    rows: Path
    folder: Path
    result: TrainResult
    progress: tuple[tuple[int, int, str], ...]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """Make the tiny Qwen3 once."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained(tiny_model: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train the tiny Qwen3 once, confined where bubblewrap works."""
    folder = tmp_path_factory.mktemp("trained")
    rows = folder / "rows.jsonl"
    rows.write_bytes(encode_rows(tiny.ROWS))
    plan = tiny.plan_for(tiny_model.hf)
    seen: list[tuple[int, int, str]] = []
    result = ProcessTrainer(isolate=True).train(
        plan, rows, tiny_model.hf, folder / "run", lambda *event: seen.append(event)
    )
    return Trained(plan, rows, folder / "run", result, tuple(seen))
