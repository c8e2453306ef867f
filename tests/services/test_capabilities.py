"""What the engine can do is tried once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fleetssd.artefact import Probe
from fleetssd.config import Engine
from fleetssd.errors import Misconfigured
from fleetssd.operations.capabilities import known
from tests.fakes import FakeEngine, MemoryStore

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
TOLD = Engine(base_model="base:1")


@pytest.fixture
def engine() -> FakeEngine:
    """Return an engine with a base."""
    made = FakeEngine()
    made.models["base:1"] = ("served-base", "blob-base", None)
    return made


def test_an_engine_is_tried_once(engine: FakeEngine) -> None:
    """The second time it is read from the database, unless a fresh trial is asked for."""
    store = MemoryStore()
    first = known(store, engine, TOLD, NOW)
    assert known(store, engine, TOLD, NOW) == first
    assert engine.calls == ["probe"]
    known(store, engine, TOLD, NOW, fresh=True)
    assert engine.calls == ["probe", "probe"]


def test_another_base_is_tried_anew(engine: FakeEngine) -> None:
    """Whether an adapter loads depends on the base's architecture."""
    store = MemoryStore()
    known(store, engine, TOLD, NOW)
    engine.models["base:1"] = ("another", "blob-other", None)
    known(store, engine, TOLD, NOW)
    assert engine.calls == ["probe", "probe"]


def test_another_version_or_another_host_is_tried_anew(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one server did says nothing of its next release, nor of the one beside it; going back is known."""
    store, beside = MemoryStore(), TOLD.model_copy(update={"url": "http://beside:11434"})
    for version, told, times in (("1", TOLD, 1), ("2", TOLD, 2), ("2", beside, 3), ("1", TOLD, 3), ("2", TOLD, 3)):
        monkeypatch.setattr(engine, "version", lambda version=version: version)
        monkeypatch.setattr(engine, "probe", lambda version=version: engine.calls.append("probe") or Probe(version))
        assert known(store, engine, told, NOW).version == version
        assert len(engine.calls) == times


def test_an_engine_without_the_base_is_misconfigured() -> None:
    """There is nothing to try."""
    with pytest.raises(Misconfigured, match="no model"):
        known(MemoryStore(), FakeEngine(), TOLD, NOW)
