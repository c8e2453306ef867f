"""The forges and stores under test, and what every test on one of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetssd import config
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.adapters.store import SqlStore
from tests.contract.forges import LIVE_TOKEN, LIVE_URL, Desk, Ground, embedded, live
from tests.contract.receivers import Receiver
from tests.fakes import MemoryStore

# The real server joins in where the environment names one.
KINDS = ["embedded", *([pytest.param("live", marks=pytest.mark.live)] if LIVE_URL and LIVE_TOKEN else [])]


@pytest.fixture(scope="module", params=KINDS)
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Give a forge: the embedded one, and the real one if there is one."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        with embedded(folder) as started:
            yield started
    else:
        made = live(folder)
        yield made
        made.clear_away()


@pytest.fixture
def desk(ground: Ground) -> Iterator[Desk]:
    """Make a repository with one commit on main; quirks that a test turns on are off again after it."""
    yield ground.repository()
    ground.calm()


@pytest.fixture
def forge(ground: Ground, tmp_path: Path) -> Iterator[GiteaForge]:
    """Open the adapter that the daemon reads a forge with, as the maintainer."""
    (tmp_path / "token").write_text(ground.maintainer.token)
    made = GiteaForge(config.Forge(url=ground.url, token_file=tmp_path / "token"), attempts=3, wait_seconds=0.01)
    yield made
    made.close()


@pytest.fixture
def receiver(ground: Ground) -> Iterator[Receiver]:
    """Run a webhook receiver; skips where the server may not call it, which its API does not tell."""
    made = Receiver()
    try:
        if not ground.calls(made):
            pytest.skip(f"the server calls nothing at {made.url}: see webhook.ALLOWED_HOST_LIST in its app.ini")
        yield made
    finally:
        made.close()


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Every implementation of the port, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    made = SqlStore.open(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield made
    made.close()
