"""Giving the engine its room back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleetssd.checkpoints import Checkpoint, StageRow
from fleetssd.config import parse
from fleetssd.errors import Transient
from fleetssd.operations.retention import Swept, sweep
from tests.fakes import FakeEngine, MemoryStore

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
SETTINGS = parse(
    {
        "data_dir": "data",
        "forge": {"url": "http://forge", "token_file": "token"},
        "fleet": {"agents": ["bot-*"], "repositories": ["fleet/*"]},
    }
)
BASE = SETTINGS.engine.base_model


@pytest.fixture
def engine() -> FakeEngine:
    """Return an engine that rewrote an uploaded file when it made a model of it."""
    made = FakeEngine()
    made.models = {BASE: ("s0", "base", None), "m:1": ("s1", "rewritten", None)}
    made.blobs = {"base", "rewritten", "merged"}
    return made


@pytest.fixture
def store() -> MemoryStore:
    """Return a base that serves and a night that failed after it had installed that model."""
    made = MemoryStore()
    made.put_checkpoint(Checkpoint("base", "base", BASE, "s0", None, "none", 1.0, 1, NOW))
    made.put_checkpoint(Checkpoint("merged", "merged", "m:1", "s1", 1, "merged-create", 1.0, 1, NOW))
    night = made.open_night({"night": 1}, "ssd", NOW)
    made.finish_stage(StageRow(night.number, "build", {"files": {"adapter": "adapter", "merged": "merged"}}, NOW, NOW))
    return made


def test_a_failed_nights_name_and_files_leave_the_engine(store: MemoryStore, engine: FakeEngine) -> None:
    """The name goes, and so does the upload that the server had written once more; the base stays."""
    store.fail_night(1, "x", NOW)
    assert sweep(store, engine, SETTINGS, NOW) == Swept(("m:1",), ("merged",))
    assert (set(engine.models), "base" in engine.blobs) == ({BASE}, True)
    assert sweep(store, engine, SETTINGS, NOW) == Swept((), ())


def test_while_a_night_runs_nothing_goes(store: MemoryStore, engine: FakeEngine) -> None:
    """It may be installing right now."""
    assert sweep(store, engine, SETTINGS, NOW) == Swept((), ())


def test_an_engine_that_others_use_too_can_be_left_alone(store: MemoryStore, engine: FakeEngine) -> None:
    """With a history of -1 nothing is removed: another database may know what this one has no use for."""
    store.fail_night(1, "x", NOW)
    kept = SETTINGS.model_copy(update={"engine": SETTINGS.engine.model_copy(update={"history": -1})})
    assert sweep(store, engine, kept, NOW) == Swept((), ())


def test_while_a_swap_runs_nothing_goes(store: MemoryStore, engine: FakeEngine) -> None:
    """The lease is another's: deleting beside a copy could take what only the alias refers to."""
    store.fail_night(1, "x", NOW)
    store.claim("swap", "operator-1", NOW + timedelta(minutes=1), NOW)
    with pytest.raises(Transient):
        sweep(store, engine, SETTINGS, NOW)
    assert "m:1" in engine.models


def test_a_name_that_serves_something_else_is_left_alone(store: MemoryStore, engine: FakeEngine) -> None:
    """Somebody put another model there; it is not ours to delete."""
    store.fail_night(1, "x", NOW)
    engine.models["m:1"] = ("another", "theirs", None)
    assert sweep(store, engine, SETTINGS, NOW).models == ()
