"""The paper's comparison, as small as it can be, through the product's own trainer, sampler and sandbox."""

# ruff: noqa: PLC0415  torch is loaded by the test that uses it, not by collecting it
from __future__ import annotations

import json
from pathlib import Path

import pytest

from fleetssd.cli import main
from fleetssd.demo.reproduction import Reproduction, Size, lines, reading
from fleetssd.toy.base import BaseSettings

pytestmark = pytest.mark.e2e

SMALLEST = Size(issues=3, records=8, tune=2, samples=2, epochs=1, grid=(0.2,))


def test_a_seed_is_measured_once_and_told_honestly(tmp_path: Path) -> None:
    """One seed trains and judges an arm, says why another has nothing to learn from, and is not measured again."""
    from fleetssd.toy.model import build_base

    build_base(tmp_path / "base", 0, lambda *_: None, BaseSettings(pairs=320, steps=5, layers=2))
    told: list[str] = []
    experiment = Reproduction(tmp_path / "base", tmp_path, SMALLEST, lambda _done, _total, what: told.append(what))
    # A base of five steps solves nothing, and what it writes may end nowhere: only merged work is sure to be trainable.
    measured = experiment.run([1], ("verified", "merged"))
    assert "seed 1: training merged" in told
    assert measured[0]["arms"]["merged"] == {"rows": 8, "plain": [0, 0, 0], "tuned": [0, 0, 0]}
    assert measured[0]["arms"]["verified"] == {"rows": 0, "failed": "no sample passed: nothing to train on"}
    table = lines(measured, SMALLEST.samples)
    assert [line.arm for line in table if line.note] == ["verified", "verified"]
    assert reading(table) == [
        "verified: not trained in every seed.",
        "merged does not beat the tuned base: +0.0 [+0.0, +0.0] pp, p = 1, best at T = 1.",
    ]
    told.clear()
    assert experiment.run([1], ("verified", "merged")) == measured
    assert told == []


def test_the_simulation_alone_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    """With --simulation-only the verb prints six rows of the simulation as JSON and nothing of a model."""
    main(["reproduce", "toy", "--simulation-only", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["simulation"]
    assert [row["top_p"] for row in found["simulation"]] == [0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
