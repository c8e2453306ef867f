"""Fixtures that cost seconds: one tiny base and one training run for all tests that need them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleetssd.adapters.trainer_process import ProcessTrainer
from fleetssd.training import TrainPlan, TrainResult, encode_rows
from tests.contract.servers import embedded_ollama
from tests.e2e import small_world, tiny
from tests.e2e.small_world import SmallWorld

PYTHON = Path(__file__).resolve().parents[2] / ".venv-backends" / "bin" / "python"


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
def backends() -> Path:
    """Return the Python that has Unsloth and MLX; a machine that should have it and has not fails."""
    if PYTHON.exists():
        return PYTHON
    if os.environ.get("FLEETSSD_TEST_BACKENDS") == "0":
        pytest.skip("FLEETSSD_TEST_BACKENDS=0 and there is no .venv-backends")
    pytest.fail("no .venv-backends: run `make venv-backends`, or set FLEETSSD_TEST_BACKENDS=0")


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


@dataclass(frozen=True, slots=True)
class Lived:
    """A night that nothing disturbed: the world before it, the world after it, and a copy from its middle."""

    before: SmallWorld
    after: SmallWorld
    installed: SmallWorld
    said: str

    @property
    def candidate(self) -> str:
        """The candidate's name in the engine."""
        return str(self.after.read("SELECT model FROM artefacts WHERE night = 1")[0][0])


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the small base once."""
    return small_world.build_base(tmp_path_factory.mktemp("small") / "base")


@pytest.fixture(scope="session")
def small(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """Yield a world in which nothing has happened yet; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("world")
    with embedded_ollama(folder / "ollama", "0.34.1", "--parallel", "1") as url:
        yield SmallWorld.make(folder / "world", small_base, url)


@pytest.fixture(scope="session")
def lived_ssd(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Live a night of arm `ssd` whose adapter travels by registry."""
    return _live(small, tmp_path_factory.mktemp("ssd"), small_world.SSD)


@pytest.fixture(scope="session")
def lived_merged(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Live a night of arm `merged` with a baked decode, whose merged file is created."""
    return _live(small, tmp_path_factory.mktemp("merged"), small_world.MERGED)


def _live(small: SmallWorld, folder: Path, arm: small_world.Change) -> Lived:
    world = small.copy(folder / "after", arm)
    process = world.start_night()
    small_world.wait_for(lambda: "install" in world.stages() or None, "install", process)
    installed = world.copy(folder / "installed", arm)
    assert process.wait() == 0, process.log()
    return Lived(small, world, installed, (world.root / "night.out").read_text())


@pytest.fixture
def elsewhere(small_base: Path, tmp_path: Path) -> Iterator[str]:
    """Yield the address of an engine of the test's own, which serves the base."""
    with ExitStack() as stack:
        url = stack.enter_context(embedded_ollama(tmp_path / "ollama", "0.34.1", "--parallel", "1"))
        SmallWorld(tmp_path, small_base, url).serve_base()
        yield url
