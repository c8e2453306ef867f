"""The alias of an engine that forgets it with its process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.config import parse
from fleetssd.errors import Transient
from fleetssd.operations.keep import keep
from tests.fakes import FakeEngine, MemoryStore

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
SETTINGS = parse(
    {
        "data_dir": "data",
        "forge": {"url": "http://forge", "token_file": "token"},
        "fleet": {"agents": ["bot-*"], "repositories": ["fleet/*"]},
        "engine": {"kind": "llama-server", "adapters_dir": "adapters"},
    }
)
BASE, ALIAS = SETTINGS.engine.base_model, SETTINGS.engine.alias


@pytest.fixture
def engine() -> FakeEngine:
    """Return an engine that came back with its alias on the base."""
    made = FakeEngine()
    made.models = {BASE: ("s0", "base", None), "m:1": ("s1", "base", "a1"), ALIAS: ("s0", "base", None)}
    return made


@pytest.fixture
def store() -> MemoryStore:
    """Return a log by which night 1's adapter serves."""
    made = MemoryStore()
    made.put_checkpoint(Checkpoint("base", "base", BASE, "s0", None, "none", 1.0, 1, NOW))
    made.put_checkpoint(Checkpoint("a1", "adapter", "m:1", "s1", 1, "adapter-create", 1.0, 1, NOW))
    line = made.begin_swap(Swap(0, "flip", "dawn", "base", "a1", "m:1", 1, "better"), NOW)
    made.finish_swap(line.id, NOW, {})
    return made


def test_an_alias_that_was_forgotten_is_put_back_once(store: MemoryStore, engine: FakeEngine) -> None:
    """What the log says serves is served again, without a line in the log; a second look finds nothing to do."""
    lines = len(store.swaps())
    assert [keep(store, engine, SETTINGS, NOW) for _ in range(2)] == [True, False]
    assert engine.digest_of(ALIAS) == "s1"
    assert len(store.swaps()) == lines


def test_a_swap_under_way_is_left_alone(store: MemoryStore, engine: FakeEngine) -> None:
    """Between the intent and the proof of a swap the alias may be elsewhere."""
    store.begin_swap(Swap(0, "rollback", "watch", "a1", "base", BASE, 1, "worse"), NOW)
    assert not keep(store, engine, SETTINGS, NOW)
    assert engine.digest_of(ALIAS) == "s0"


def test_it_waits_for_the_lease(store: MemoryStore, engine: FakeEngine) -> None:
    """While another hand moves the alias this one does not."""
    assert store.claim("swap", "operator-1", NOW + timedelta(minutes=1), NOW)
    with pytest.raises(Transient, match="another swap"):
        keep(store, engine, SETTINGS, NOW)
    assert engine.digest_of(ALIAS) == "s0"


def test_before_the_first_checkpoint_nothing_is_kept(engine: FakeEngine) -> None:
    """An empty log says nothing of the alias."""
    assert not keep(MemoryStore(), engine, SETTINGS, NOW)
