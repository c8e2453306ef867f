"""The audit against the embedded engine: what its models carry, and which temperature answers better."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.servers import embedded_ollama
from tests.e2e.small_world import ROOT, SmallWorld, environment

pytestmark = pytest.mark.e2e
FILES = Path(__file__).parent.parent / "samples" / "ollama" / "files"


def audit(*words: str, code: int = 0) -> Any:
    """Run the verb as a process of its own and return the JSON it printed."""
    command = [sys.executable, "-c", "from fleetssd.cli import main; main()", *words, "--json"]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return json.loads(done.stdout) if done.stdout else None


def test_the_parameters_of_a_live_engines_models_are_found(tmp_path: Path) -> None:
    """Every model's parameters are findings under its name: temperature masked by /v1, the rest obeyed."""
    with embedded_ollama(tmp_path / "ollama", "0.34.1") as url, httpx.Client(base_url=url, timeout=30) as engine:
        blob = (FILES / "base.gguf").read_bytes()
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        engine.post(f"/api/blobs/{digest}", content=blob).raise_for_status()
        for name, parameters in (("hot", {"temperature": 0.9, "top_k": 7, "stop": ["END", "HALT"]}), ("plain", {})):
            body = {"model": name, "files": {"m.gguf": digest}, "parameters": parameters, "stream": False}
            engine.post("/api/create", json=body).raise_for_status()
        told = audit("audit", "--ollama", url)
    hot = [f for f in told["findings"] if f["file"] == "hot:latest (ollama show)"]
    assert sorted((f["key"], f["value"], f["effective"]) for f in hot) == [
        ("stop", "END", "yes"),
        ("stop", "HALT", "yes"),
        ("temperature", "0.9", "masked"),
        ("top_k", "7", "yes"),
    ]
    assert {f["key"] for f in told["findings"] if f not in hot} <= {"stop"}


def test_an_engine_that_is_away_is_tried_again() -> None:
    """Exit code 75 where nobody listens."""
    assert audit("audit", "--ollama", "http://127.0.0.1:9", code=75) is None


def test_temperatures_are_compared_on_solved_issues(small: SmallWorld, tmp_path: Path) -> None:
    """The alias answers each issue at each temperature, the sandbox grades, and the advice follows the numbers."""
    world = small.copy(tmp_path / "world", {"decode": {"temperature": 1.4, "tau_grid": [0.2]}})
    (world.root / "agents").mkdir()
    (world.root / "agents" / "config.yaml").write_text("model: {base_url: 'http://127.0.0.1:11434/v1'}\nagent: {}\n")
    words = ("--config", str(world.config), "audit", str(world.root / "agents"), "--ab", "--samples", "2")
    told = audit(*words)["ab"]
    assert [line["temperature"] for line in told["lines"]] == [1.4, 0.7, 0.3, 0.2]
    assert (told["issues"], told["samples"]) == (20, 2)
    assert told["judged"] < 20
    assert told["lines"][0]["delta"] is None
    gains = [line["delta"] for line in told["lines"][1:]]
    assert all(gain["low"] <= gain["point"] <= gain["high"] and gain["problems"] == 20 for gain in gains)
    assert len({line["score"]["point"] for line in told["lines"]}) > 1
    shown = any(line["delta"]["low"] > 0 and line["p"] <= 0.05 for line in told["lines"][1:])
    assert told["advice"]["manage"] == ("bake" if shown else "leave")
    assert world.read("SELECT * FROM nights") == []


def test_too_few_issues_compare_nothing(small: SmallWorld, tmp_path: Path) -> None:
    """Exit code 78 before anything is asked."""
    world = small.copy(tmp_path / "world")
    assert audit("--config", str(world.config), "audit", "--ab", "--issues", "99", code=78) is None
