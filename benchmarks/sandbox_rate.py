"""Runs a second of trivial checks in the prepared sandbox, against one fresh bwrap and interpreter a run."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from fleetssd.adapters.sandboxes import BubblewrapSandbox
from fleetssd.ports import Job

GOAL = 50.0
RUNS, PEER_RUNS, WORKERS = 2_000, 60, 2
SCRIPT = "assert sum(range(10)) == 45\n"
FRESH = (
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--ro-bind", "/", "/",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "python3", "-I", "-c", SCRIPT,  # noqa: S108
)  # fmt: skip


def prepared() -> float:
    """Return runs a second of the sandbox, started before the clock."""
    jobs = [Job(str(number), (("t.py", SCRIPT),), ("python", "t.py")) for number in range(RUNS)]
    with BubblewrapSandbox(workers=WORKERS) as sandbox:
        began = time.perf_counter()
        grades = sandbox.run(jobs, lambda done, total, what: None)
        seconds = time.perf_counter() - began
    assert all(grade.passed for grade in grades)
    return RUNS / seconds


def fresh() -> float:
    """Return runs a second where every run starts its own bwrap and interpreter, as many at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda _: subprocess.run(FRESH, check=True), range(PEER_RUNS)))
    return PEER_RUNS / (time.perf_counter() - began)


def main() -> None:
    """Print both rates and, last, the claim as one JSON object."""
    peer, value = fresh(), prepared()
    print(f"fresh bwrap + python: {peer:.0f} runs/s; prepared: {value:.0f} runs/s ({value / peer:.1f} times)")
    result = {
        "claim": "sandboxed runs a second",
        "value": round(value, 1),
        "goal": GOAL,
        "holds": value >= GOAL,
    }
    print(json.dumps(result | {"peer": {"name": "one bwrap and interpreter a run", "value": round(peer, 1)}}))


if __name__ == "__main__":
    main()
