"""A night of real processes made again by the command line: equal as it is, another one where a record was changed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Lived
from tests.e2e.small_world import MERGED, ROOT, SSD, SmallWorld, environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def fleetssd(world: SmallWorld, *arguments: str) -> tuple[int, Any]:
    """Run a verb with --json in a process of its own; return its exit code and what it printed."""
    command = [sys.executable, "-c", "from fleetssd.cli import main; main()", "--config", str(world.config)]
    done = subprocess.run(
        [*command, *arguments, "--json"], env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def tampered(lived: Lived, folder: Path, arm: Any, statement: str) -> SmallWorld:
    """Return a copy of a lived world whose database was written to by hand."""
    world = lived.after.copy(folder, arm)
    with closing(sqlite3.connect(world.data / "fleetssd.sqlite3")) as found, found:
        assert found.execute(statement).rowcount > 0
    return world


@pytest.mark.parametrize(("fixture", "arm"), [("lived_ssd", SSD), ("lived_merged", MERGED)], ids=["ssd", "merged"])
def test_a_night_is_made_again(fixture: str, arm: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From the database alone come the same adapter and the same GGUF, byte for byte; nothing is left behind."""
    lived: Lived = request.getfixturevalue(fixture)
    world = lived.after.copy(tmp_path / "world", arm)
    (night,) = (world.data / "nights").glob("0001")
    for path in sorted(night.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    code, said = fleetssd(world, "nights", "replay", "1")
    assert (code, said["same"], said["differs"]) == (0, True, ""), said
    result = next(row.result for row in world.night().stages if row.stage == "build")
    assert said["found"] == said["expected"] == result["files"]["adapter"]
    assert not list(world.data.glob("replay-*"))


def test_a_changed_sample_makes_another_night(lived_ssd: Lived, tmp_path: Path) -> None:
    """A completion that was written over gives other rows: exit code 1 and both digests."""
    change = (
        "UPDATE samples SET completion = completion || '\nx = 1\n' WHERE record = (SELECT min(record) FROM samples)"
    )
    code, said = fleetssd(tampered(lived_ssd, tmp_path / "world", SSD, change), "nights", "replay", "1")
    assert (code, said["same"], said["differs"]) == (1, False, "rows"), said
    assert said["expected"] != said["found"]


def test_a_changed_seed_makes_another_adapter(lived_merged: Lived, tmp_path: Path) -> None:
    """The plan on file is what is trained by: another seed in it gives another adapter, and exit code 1."""
    change = "UPDATE stages SET result = json_set(result, '$.job.seed', 77) WHERE stage = 'train'"
    code, said = fleetssd(tampered(lived_merged, tmp_path / "world", MERGED, change), "nights", "replay", "1")
    assert (code, said["same"], said["differs"]) == (1, False, "adapter"), said


def test_the_ledger_is_whole(lived_ssd: Lived) -> None:
    """What `nights show` tells of a real night: its cost, its curve, its plan, its versions and its digests."""
    code, line = fleetssd(lived_ssd.after, "nights", "show", "1")
    assert code == 0
    found = line["ledger"]
    cost = found["cost"]
    assert cost["cpu_seconds"] > 0
    assert cost["gpu_seconds"] == 0
    assert cost["peak_rss_mb"] > 50
    assert cost["tokens"] > 0
    assert len(found["losses"]) == cost["steps"]
    assert {"torch", "transformers", "peft"} <= set(found["versions"])
    assert found["plan"]["lora"]["rank"] == 4
    assert "temperature 0.5 > top_k 10 > top_p 0.95 > min_p 0" in found["sampler"]["engine"]
    assert found["sampler"]["sampling"]["order"] == ["temperature", "top_k", "top_p", "min_p"]
    assert all(len(found["digests"][name]) == 64 for name in ("base_weights", "base_gguf", "rows", "adapter"))
