"""A sandbox whose owner dies while it starts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

OWNER = """
import sys
from fleetssd.adapters.sandboxes.confinement import Shape
from fleetssd.adapters.sandboxes.worker import start
from fleetssd.surroundings import Limits
start(sys.argv[1], Shape(as_root=False, own_users=True, proc=True, filter=b""), Limits())
"""
DYING = """
import os, subprocess, time
class Dying(subprocess.Popen):
    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        if sys.argv[1] in args[0]:
            time.sleep(1.0)
            os.kill(os.getpid(), 9)
subprocess.Popen = Dying
"""
"""An owner that is killed as soon as it has made the process of the sandbox."""
STUCK = """#!/bin/sh
sleep 1000 &
echo "$!" > "$(dirname "$0")/child.new"
mv "$(dirname "$0")/child.new" "$(dirname "$0")/child"
wait
"""
"""A bwrap whose child waits for a word of its parent, as a real one's does until its namespace has users."""


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_outlives_an_owner_that_is_killed_before_the_sandbox_is_up(tmp_path: Path) -> None:
    """Kill -9 leaves neither bwrap nor the child that would have waited for it for ever."""
    bwrap, said = tmp_path / "bwrap", tmp_path / "child"
    bwrap.write_text(STUCK)
    bwrap.chmod(0o755)
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", OWNER, str(bwrap)]) as owner:
        while not said.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int(said.read_text())
        assert alive(child)
        owner.kill()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def test_nothing_outlives_an_owner_that_is_killed_as_it_makes_the_sandbox(tmp_path: Path) -> None:
    """No bwrap begins before there is somebody who would end it."""
    bwrap, said = tmp_path / "bwrap", tmp_path / "child"
    bwrap.write_text(STUCK)
    bwrap.chmod(0o755)
    before, rest = OWNER.split("start(", 1)
    done = subprocess.run([sys.executable, "-c", f"{before}{DYING}start({rest}", str(bwrap)], check=False, timeout=60)
    assert done.returncode == -9
    assert not said.exists()
