"""The ledger of a night, from its stages alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.checkpoints import Night, Stage, StageRow
from fleetssd.ledger import ledger, ledger_lines, spark

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def night(**results: dict[str, Any]) -> Night:
    """Make a night with these stages."""
    names: list[Stage] = ["sample", "train", "build"]
    rows = tuple(StageRow(1, name, results[name], NOW, NOW) for name in names if name in results)
    return Night(1, "running", "ssd", {"base": "b"}, NOW, stages=rows)


def test_a_night_that_has_not_trained_has_none() -> None:
    """Before stage `train` there is no ledger."""
    assert ledger(night(sample={"engine": "x"})) is None


def test_what_was_not_measured_is_null() -> None:
    """A night of an older version has a ledger too: every name is there, and what is not on file is null."""
    found = ledger(night(train={"seconds": 2.5, "losses": [2.0, 1.0], "adapter_digest": "a"}))
    assert found is not None
    assert found["cost"]["seconds"] == 2.5
    assert found["cost"]["energy_joules"] is None
    assert found["losses"] == [2.0, 1.0]
    assert found["plan"] is None
    assert found["digests"] == {"base_weights": None, "base_gguf": "b", "rows": None, "adapter": "a", "files": None}


def test_sampler_and_build_are_in_it() -> None:
    """What drew the samples, and which types changed, stand beside the cost."""
    sample = {"engine": "llama.cpp; temperature 1.5"}
    build = {"files": {"merged": "m"}, "adapter_type": "F16", "retyped": {"Q4_K > Q8_0": 7}}
    found = ledger(night(sample=sample, train={}, build=build))
    assert found is not None
    assert found["sampler"]["engine"] == "llama.cpp; temperature 1.5"
    assert (found["digests"]["files"], found["retyped"]) == ({"merged": "m"}, {"Q4_K > Q8_0": 7})
    assert found["adapter_type"] == "F16"


def test_a_person_reads_every_part_of_it() -> None:
    """Cost, reason, mix, every hyperparameter, versions and digests are lines; what is not on file is a dash."""
    job = {"lora": {"rank": 32, "alpha": 32.0, "targets": ["q_proj", "v_proj"]}, "seed": 7, "threads": 2}
    train = {
        "backend": "trl-cpu", "because": "trl on cpu: no accelerator", "versions": {"torch": "2.13.0"}, "job": job,
        "settings": {"optim": "adamw_torch", "adam_beta2": 0.95, "lr_scheduler_kwargs": {"min_lr_rate": 0.2}},
        "dropped": {"empty": 3, "stub": 1}, "peak_rss_mb": 830.0, "peak_gpu_mb": 7000.0,
        "cpu_seconds": 12.5, "energy_joules": 5000.0,
        "losses": [2.0, 1.0], "mix": {"rows": 5, "ratio": 0.25, "digest": "m"}, "rows_digest": "r",
    }  # fmt: skip
    found = ledger(night(train=train, build={"files": {"merged": "f"}, "retyped": {"Q4_K > Q8_0": 7}}))
    assert found is not None
    lines = dict(ledger_lines(found))
    assert lines["trained by"] == "trl-cpu: torch 2.13.0"
    assert lines["because"] == "trl on cpu: no accelerator"
    assert lines["seconds"] == "- wall, 12.5 processor, - accelerator"
    assert lines["energy"] == "5,000 J of the machine"
    assert lines["mixed in"] == "5 rows, 0.25 for each of ours, sha256 m"
    assert lines["loss"] == "2.000 █▁ 1.000"
    assert lines["hyperparameters"] == (
        "rank 32, alpha 32, targets q_proj+v_proj, optim adamw_torch, adam_beta2 0.95, "
        "lr_scheduler_kwargs min_lr_rate 0.2"
    )
    assert lines["rows"].endswith("dropped empty 3, stub 1")
    assert lines["peak memory"] == "830 MiB, accelerator 7,000 MiB"
    assert lines["seed, threads"] == "7, 2"
    assert (lines["rows sha256"], lines["base gguf sha256"], lines["merged.gguf sha256"]) == ("r", "b", "f")
    assert lines["other types"] == "Q4_K > Q8_0: 7"
    assert (lines["adapter.gguf type"], lines["sampled by"]) == ("-", "-")


@pytest.mark.parametrize(
    ("values", "bars"), [((), ""), ((1.0,), "▁"), ((2.0, 2.0), "▁▁"), ((8.0, 1.0), "█▁"), ((0.0, 3.5, 7.0), "▁▅█")]
)
def test_a_curve_is_bars(values: tuple[float, ...], bars: str) -> None:
    """The lowest value is the shortest bar and the highest the tallest."""
    assert spark(values) == bars


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(1, 60))
def test_a_curve_is_never_wider_than_asked(values: list[float], width: int) -> None:
    """Long curves are averaged into the width, short ones keep every value."""
    assert len(spark(values, width)) == min(width, len(values))
