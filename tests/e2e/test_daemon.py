"""The daemon as a real process: its page, its clock, its dawns, and its deaths at the worst moments."""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Lived
from tests.e2e.small_world import (
    ALIAS,
    BASE,
    MERGED,
    ROOT,
    SSD,
    Change,
    Running,
    SmallWorld,
    alive,
    environment,
    outcome,
    wait_for,
    wait_until_gone,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_WHOLE_CLI = """import importlib, pkgutil, fleetssd.cli as cli
for module in pkgutil.walk_packages(cli.__path__, "fleetssd.cli."):
    importlib.import_module(module.name)
"""
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "xllamacpp"}


@contextmanager
def daemon(world: SmallWorld, **more: str) -> Iterator[Running]:
    """Run the daemon until the block ends; whatever is left of it then is killed."""
    running = world.start_daemon(**more)
    try:
        wait_for(lambda: page(world, "/healthz"), "/healthz", running)
        yield running
    finally:
        left = running.family()
        running.process.kill()
        running.process.wait()
        for pid, _ in alive(left):
            subprocess.run(["kill", "-9", str(pid)], check=False)


def page(world: SmallWorld, path: str) -> httpx.Response | None:
    """Return a page of the daemon, or None while it does not answer."""
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{world.port}{path}", timeout=30)
    return None


def end(running: Running) -> None:
    """Ask the daemon to end, and see that it does, with everything it started."""
    left = running.family()
    running.process.send_signal(signal.SIGTERM)
    assert running.wait() == 0, running.log()[-3000:]
    assert not alive(left)


@pytest.fixture
def dawn(lived_merged: Lived, tmp_path: Path) -> Iterator[SmallWorld]:
    """Yield a world before dawn in which a promoted candidate is installed and waits."""
    world = lived_merged.after.copy(tmp_path / "dawn", MERGED)
    world.promote()
    world.set_clock(5, 30)
    yield world
    world.reset_alias()


def candidate(world: SmallWorld) -> tuple[str, str, str]:
    """Return the candidate's artefact digest, its name and its digest in the engine."""
    digest, model, served = world.read("SELECT digest, model, served_digest FROM artefacts WHERE night = 1")[0]
    return str(digest), str(model), str(served)


def test_it_serves_its_page_and_ends_on_sigterm(small: SmallWorld, tmp_path: Path) -> None:
    """/healthz is 200, / is the status page, an unreachable forge is no obstacle; unvisited, it takes 90 MB at most."""
    world = small.copy(tmp_path / "world")
    world.set_clock(12)
    with daemon(world) as running:
        health = page(world, "/healthz")
        assert health is not None
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        wait_for(lambda: "job_failed" in running.log() or None, "a poll that found no forge", running)
        table = Path(f"/proc/{running.process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in table.splitlines() if line.startswith("VmRSS:"))
        assert resident <= 90 * 1024, f"{resident / 1024:.1f} MB"
        status = page(world, "/")
        assert status is not None
        assert status.status_code == 200
        assert status.headers["content-type"].startswith("text/html")
        assert "No swap yet" in status.text
        end(running)
    assert world.swaps() == []


def test_what_serves_is_known_before_the_first_night(small: SmallWorld, tmp_path: Path) -> None:
    """Without any night the daemon files the base from the engine, so that /healthz names the served digest."""
    world = small.copy(tmp_path / "world")
    world.set_clock(12)

    def served() -> str | None:
        health = page(world, "/healthz")
        return health.json()["served"] if health is not None else None

    with daemon(world) as running:
        digest = wait_for(served, "the served digest", running)
        assert [(digest,)] == world.read("SELECT digest FROM artefacts WHERE kind = 'base'")
        end(running)


def test_it_is_ready_for_systemd_and_feeds_the_watchdog(small: SmallWorld, tmp_path: Path) -> None:
    """READY=1 arrives on NOTIFY_SOCKET once the page is served, then WATCHDOG=1 again and again."""
    world = small.copy(tmp_path / "world")
    world.set_clock(12)
    address = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(120)
        with daemon(world, NOTIFY_SOCKET=address, WATCHDOG_USEC="400000") as running:
            told = [heard.recv(100) for _ in range(3)]
            end(running)
    assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_it_starts_the_night_when_the_clock_says_so(small: SmallWorld, tmp_path: Path) -> None:
    """Nothing starts at noon; at two a night does; SIGTERM ends both, and the night stays open."""
    world = small.copy(tmp_path / "world", SSD)
    world.set_clock(12)
    with daemon(world) as running:
        wait_for(lambda: "polled" in running.log() or "job_failed" in running.log() or None, "a first poll", running)
        time.sleep(1)  # five ticks in which nothing may happen
        assert "night_started" not in running.log()
        world.set_clock(2, days=1)
        wait_for(lambda: world.read("SELECT state FROM nights") or None, "a night", running)
        end(running)
    assert world.read("SELECT number, state FROM nights") == [(1, "running")]


def test_a_daemon_killed_beside_its_night_does_nothing_twice(lived_ssd: Lived, tmp_path: Path) -> None:
    """The night outlives the daemon; the next daemon starts it not twice, and it ends as if nothing had happened."""
    world = lived_ssd.installed.copy(tmp_path / "world", SSD)
    world.set_clock(2, 30)
    with daemon(world) as running:
        running.kill_when(lambda: world.count("base") > 0, "the night's first answers")
        with daemon(world) as again:
            wait_for(lambda: world.read("SELECT kind FROM verdicts") or None, "a verdict", again)
            wait_for(lambda: "decide" in world.stages() or None, "the end", again)
            end(again)
    assert outcome(world) == outcome(lived_ssd.after)


def test_at_dawn_it_flips_and_the_window_settles(dawn: SmallWorld) -> None:
    """Before dawn the base serves; at dawn the candidate does, proven; when the window ends it settles."""
    digest, _, served = candidate(dawn)
    with daemon(dawn) as running:
        time.sleep(1)  # five ticks in which nothing may happen
        assert dawn.swaps() == []
        assert dawn.models()[ALIAS] == dawn.models()[BASE]
        dawn.set_clock(6)
        wait_for(lambda: ("flip", digest, True) in dawn.swaps() or None, "the flip", running)
        assert dawn.models()[ALIAS] == served
        wait_for(lambda: dawn.count("watch%") >= 24 or None, "two looks", running)
        dawn.set_clock(8)
        wait_for(lambda: ("settle", digest, True) in dawn.swaps() or None, "the end of the window", running)
        end(running)
    assert dawn.swaps() == [("flip", digest, True), ("settle", digest, True)]
    assert dawn.models()[ALIAS] == served


def test_a_checkpoint_that_goes_wrong_is_rolled_back_once(dawn: SmallWorld) -> None:
    """The engine garbles the candidate's answers; the watch goes back to the base, and stays there over a restart."""
    digest, model, _ = candidate(dawn)
    base = str(dawn.read("SELECT digest FROM artefacts WHERE kind = 'base'")[0][0])
    dawn.set_clock(6)
    httpx.post(f"{dawn.url}/embedded/faults", json={"garble": model}, timeout=30).raise_for_status()
    try:
        with daemon(dawn) as running:
            wait_for(lambda: ("rollback", base, True) in dawn.swaps() or None, "the rollback", running)
            end(running)
    finally:
        httpx.post(f"{dawn.url}/embedded/faults", json={"garble": None}, timeout=30)
    assert dawn.models()[ALIAS] == dawn.models()[BASE]
    with daemon(dawn) as running:
        time.sleep(1)  # five ticks in which nothing may happen
        end(running)
    assert dawn.swaps() == [("flip", digest, True), ("rollback", base, True)]
    assert dawn.models()[ALIAS] == dawn.models()[BASE]


@pytest.mark.parametrize(
    ("fixture", "moment"), [("lived_ssd", "begun"), ("lived_ssd", "pointed"), ("lived_merged", "begun")]
)
def test_killed_at_dawn_it_finishes_the_flip_when_it_is_back(
    fixture: str, moment: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Kill -9 between intent and proof; after the restart the alias serves the candidate by one proven line."""
    lived: Lived = request.getfixturevalue(fixture)
    digest, _, served = candidate(lived.after)
    arm: Change = SSD if fixture == "lived_ssd" else MERGED
    try:
        world = _half_flipped(lived, arm, moment, tmp_path)
        with daemon(world) as again:
            wait_for(lambda: ("flip", digest, True) in world.swaps() or None, "the proof", again)
            end(again)
        assert world.swaps() == [("flip", digest, True)]
        assert world.models()[ALIAS] == served
    finally:
        lived.after.reset_alias()


def _half_flipped(lived: Lived, arm: Change, moment: str, folder: Path) -> SmallWorld:
    """Return a world whose daemon died with a flip begun, and with the alias moved if that is the moment."""
    digest, _, served = candidate(lived.after)
    for attempt in range(8):  # the daemon may be faster than the one who watches it
        world = lived.after.copy(folder / f"dawn{attempt}", arm)
        world.promote()
        world.set_clock(6)
        _unload(world)  # so that the engine has something to load and the flip takes a while
        httpx.post(f"{world.url}/embedded/faults", json={"slow_load_ms": 3000}, timeout=30)
        running = world.start_daemon()
        seen = partial(_begun if moment == "begun" else _pointed, world, served)
        left = running.kill_when(seen, moment)
        wait_until_gone(left)
        httpx.post(f"{world.url}/embedded/faults", json={"slow_load_ms": 0}, timeout=30)
        if world.swaps() == [("flip", digest, False)]:
            return world
        world.reset_alias()
    raise AssertionError("every flip was proven before the kill")


def _begun(world: SmallWorld, _served: str) -> bool:
    return bool(world.swaps())


def _pointed(world: SmallWorld, served: str) -> bool:
    return world.models()[ALIAS] == served


def test_killed_at_any_instant_it_ends_in_the_same_state(dawn: SmallWorld) -> None:
    """Kill -9 again and again around the flip, at random instants; the last start leaves one proven flip."""
    digest, _, served = candidate(dawn)
    dawn.set_clock(6)
    rng = random.Random(6)
    _unload(dawn)
    for _ in range(3):
        running = dawn.start_daemon()
        wait_for(lambda running=running: "daemon_started" in running.log() or None, "its start", running)  # type: ignore[misc]
        time.sleep(rng.random() * 0.6)
        running.process.kill()
        running.process.wait()
        (dawn.root / "daemon.err").unlink()
    with daemon(dawn) as running:
        wait_for(lambda: ("flip", digest, True) in dawn.swaps() or None, "the proof", running)
        end(running)
    assert dawn.swaps() == [("flip", digest, True)]
    assert dawn.models()[ALIAS] == served


def _unload(world: SmallWorld) -> None:
    for row in httpx.get(f"{world.url}/api/ps", timeout=30).json()["models"]:
        httpx.post(f"{world.url}/api/generate", json={"model": row["name"], "keep_alive": 0}, timeout=30)


@pytest.mark.parametrize(
    "statement",
    [
        "import services.daemon, fleetssd.wiring, fleetssd.web.app, fleetssd.web.webhook",
        "import services.night, fleetssd.operations.night",
        _WHOLE_CLI,
    ],
    ids=["daemon", "night", "cli"],
)
def test_importing_it_loads_no_training_stack(statement: str) -> None:
    """`-X importtime` names every module that is loaded: none of torch, transformers, trl, peft, datasets."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "fleetssd.config" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_a_running_daemon_has_loaded_no_training_stack(dawn: SmallWorld) -> None:
    """After a poll, a dawn and a watch no library of the training stack is mapped into the process."""
    dawn.set_clock(6)
    with daemon(dawn) as running:
        wait_for(lambda: dawn.count("watch%") or None, "a look", running)
        maps = Path(f"/proc/{running.process.pid}/maps").read_text()
        end(running)
    assert "/site-packages/" in maps
    assert not [name for name in HEAVY if f"/site-packages/{name}/" in maps]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "systemd").iterdir()))
def test_the_unit_is_clean(tmp_path: Path, name: str) -> None:
    """`systemd-analyze verify` has nothing to say of a unit, and its documentation is where it says."""
    text = (ROOT / "systemd" / name).read_text()
    (told,) = re.findall(r"^Documentation=file:///opt/fleetssd/(\S+)$", text, re.MULTILINE)
    assert (ROOT / told).is_file()
    unit = tmp_path / name
    unit.write_text(text.replace("/opt/fleetssd/.venv/bin/python", sys.executable))
    assert unit.read_text() != text
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
