"""One adapter from its file to the alias and back, over a real database and the embedded engine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from fleetssd import wiring
from fleetssd.adapters.ollama_engine import OllamaEngine
from fleetssd.adapters.store import SqlStore
from fleetssd.checkpoints import Checkpoint, Road
from fleetssd.config import Settings, load
from fleetssd.operations.freeze import base_checkpoint
from fleetssd.operations.install import install
from fleetssd.operations.swap import flip, rollback
from fleetssd.ports import Prompt
from fleetssd.recipe import Lora, NightPlan, Sampling
from tests.contract.servers import embedded_ollama

FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
BASE, ALIAS = "fleet-base:latest", "fleet-coder:latest"
GREEDY = Sampling(0.0, 1, 1.0, 0.0, 8)
PLAN = NightPlan(
    1, "ssd", 1, (), (), (), GREEDY, Lora(4, 8.0, (), 1e-3, 4, 1, 1, 0, 64), GREEDY, "none", (0.2,), 4, 4, "auto", "0",
    "0", BASE, 1.0,
)  # fmt: skip

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class World:
    """What the test acts on."""

    config: Path
    settings: Settings
    store: SqlStore
    engine: OllamaEngine
    base: Checkpoint

    def install(self, road: Road) -> Checkpoint:
        """Install the sample by a road and put it on file."""
        name, file = ("adapter", "a1.gguf") if road.startswith("adapter") else ("merged", "m1.gguf")
        folder = self.settings.data_dir / "artefact"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.gguf").write_bytes((FILES / file).read_bytes())
        files = {name: hashlib.sha256((FILES / file).read_bytes()).hexdigest()}
        made = install(
            self.engine, plan=PLAN, base_model=BASE, alias=ALIAS, folder=folder, files=files, road=road, tau=1.0,
            prompts=["def f1(x", "def f2(y"], witnesses=(), now=NOW,
        ).checkpoint  # fmt: skip
        self.store.put_checkpoint(made)
        return made

    def answer(self) -> str:
        """Return what the fleet gets from its alias."""
        return self.engine.complete(ALIAS, [Prompt("def f1(x", 1)], GREEDY, lambda *_: None)[0].text


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a fleet that serves its base from the embedded engine."""
    with embedded_ollama(tmp_path / "ollama", "0.34.1") as url:
        config = tmp_path / "config.toml"
        config.write_text(
            f'data_dir = "{tmp_path}"\n[forge]\nurl = "http://127.0.0.1:1"\ntoken_file = "token"\n'
            f'[fleet]\nagents = ["bot"]\nrepositories = ["*"]\n'
            f'[engine]\nurl = "{url}"\nbase_model = "{BASE}"\nalias = "{ALIAS}"\n'
        )
        settings = load(config)
        with closing(wiring.open_store(settings)) as store, closing(wiring.open_engine(settings)) as engine:
            digest = engine.upload(FILES / "base.gguf")
            body = {
                "model": BASE,
                "files": {"m.gguf": f"sha256:{digest}"},
                "parameters": {"num_ctx": 512},
                "stream": False,
            }
            httpx.post(f"{url}/api/create", json=body, timeout=30).raise_for_status()
            engine.point(ALIAS, BASE)
            base = base_checkpoint(settings, engine, NOW)
            store.put_checkpoint(base)
            yield World(config, settings, store, engine, base)


@pytest.mark.parametrize("road", ["adapter-registry", "merged-registry", "merged-create"])
def test_a_checkpoint_goes_to_the_alias_and_back(world: World, road: Road) -> None:
    """The alias has the artefact's manifest after the flip and the base's after the rollback, and answers so."""
    before = world.answer()
    made = world.install(road)
    swap = flip(world.store, world.engine, world.settings, made, actor="dawn", now=NOW, reason="better")
    assert world.engine.digest_of(ALIAS) == made.served_digest == swap.evidence["alias_digest"]
    assert world.answer() != before
    rollback(world.store, world.engine, world.settings, actor="watch", reason="worse", now=NOW)
    assert world.engine.digest_of(ALIAS) == world.base.served_digest
    assert world.answer() == before


def test_the_operators_rollback_prints_its_line(world: World) -> None:
    """`fleetssd rollback --json` goes back and prints the proven line of the swap log, and nothing else."""
    flip(world.store, world.engine, world.settings, world.install("adapter-registry"), actor="dawn", now=NOW)
    command = [sys.executable, "-c", "from fleetssd.cli import main; main()", "--config", str(world.config)]
    done = subprocess.run([*command, "rollback", "--reason", "slow", "--json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["kind"], line["actor"], line["to"], line["reason"], line["done"]) == (
        "rollback", "operator", world.base.digest, "slow", True,
    )  # fmt: skip
    assert world.engine.digest_of(ALIAS) == world.base.served_digest
