"""Starts the trainer's process, confined where asked, and stops it so that it keeps its checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fleetssd
from fleetssd.placement import Placement

_PATIENCE_SECONDS = 30
"""How long a stopped trainer may take to write its checkpoint before it is killed."""

_WALLS = (
    *("bwrap", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent"),
    *("--unshare-pid", "--as-pid-1"),  # /proc/PID/root of another process would lead around every wall
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108  the child's own, gone with it
)

_ROOT = Path(fleetssd.__file__).resolve().parents[1]
"""The folder that `fleetssd` and `services` are imported from."""


def bubblewrap_works() -> bool:
    """Tell whether bubblewrap is installed and may make namespaces here."""
    try:
        probe = [*_WALLS[:1], "--ro-bind", "/", "/", *_WALLS[1:], "true"]
        return subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


@dataclass(slots=True)
class Child:
    """A running trainer. `pid` is the trainer's own, which under bubblewrap is not the child we started."""

    process: subprocess.Popen[bytes]
    pid: int


@contextlib.contextmanager
def running(command: Sequence[str], out: Path, surroundings: dict[str, str], log: Any) -> Iterator[Child]:
    """Start the trainer; leaving the block early, by whatever exception, stops it and waits for its checkpoint."""
    read_end, write_end = os.pipe()
    walled = command[0] == "bwrap"
    with open(read_end, "rb") as told:  # noqa: PTH123  a pipe has no path
        try:
            process = subprocess.Popen(
                [command[0], "--info-fd", str(write_end), *command[1:]] if walled else list(command),
                cwd=out,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(write_end,) if walled else (),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        child = Child(process, process.pid)
        try:
            if walled:
                child.pid = _inner_pid(told.read(), process.pid)
            yield child
        finally:
            _stop(child)


def _inner_pid(told: bytes, otherwise: int) -> int:
    """Return the confined trainer's pid: a signal to bubblewrap itself would end it without a checkpoint."""
    try:
        return int(json.loads(told)["child-pid"])
    except (ValueError, KeyError):  # bubblewrap ended before it could say so
        return otherwise


def _stop(child: Child) -> None:
    process = child.process
    for _ in range(_PATIENCE_SECONDS):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)  # and again: one that has no handler yet, the kernel keeps from a pid 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1.0)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout:
        process.stdout.close()


def environment(out: Path, threads: int, placement: Placement | None = None) -> dict[str, str]:
    """Return the child's whole environment: nothing of ours leaks in, and OpenMP does not spin on busy cores.

    Without a placement (a probe) every device is seen; with one, its device alone.
    """
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(out),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the numbers that the driver's own tools and meters use
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_AUTO_INSTALL": "0",
        "UNSLOTH_AUTO_DEVICE_MAP": "0",
        "UNSLOTH_COMPILE_LOCATION": str(out / "compiled"),
        "TRITON_CACHE_DIR": str(out / "compiled" / "triton"),
        **(_visible(placement) if placement else {}),
    }


def _visible(placement: Placement) -> dict[str, str]:
    """Show one device and no other; a run that is planned for one may not fall back to the CPU."""
    if placement.kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "UNSLOTH_CPU_BF16": "0"}
    index = placement.device.partition(":")[2] or "0"
    mask = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}.get(placement.kind)
    return {"UNSLOTH_DISABLE_CPU_FALLBACK": "1", **({mask: index} if mask else {})}


def confined(python: Path, base: Path, out: Path, kind: str = "cpu") -> list[str]:
    """Return bubblewrap's argv: the system, this Python and the base read-only, the run's folder writable.

    A device other than the CPU is shown by its nodes and by /sys.
    """
    home = python.absolute().parent.parent
    real = python.resolve().parent.parent
    system = [
        Path(p) for p in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
    ]
    argv = list(_WALLS)
    linked = [path.resolve() for path in base.iterdir() if path.is_symlink()]  # a Hugging Face cache is made of links
    for path in (*system, home, real, *_pointed_to(home), _ROOT / "fleetssd", _ROOT / "services", base, *linked):
        argv += ["--ro-bind-try", str(path), str(path)]
    if kind != "cpu":
        nodes = [*Path("/dev").glob("nvidia*"), Path("/dev/dri"), Path("/dev/kfd")]
        argv += [word for node in nodes for word in ("--dev-bind-try", str(node), str(node))]
        argv += [word for path in ("/sys", "/opt/rocm") for word in ("--ro-bind-try", path, path)]
    return [*argv, "--bind", str(out), str(out), "--chdir", str(out), "--"]


def _pointed_to(venv: Path) -> list[Path]:
    """Return the folders that a venv reads beside its own, by lines of its .pth files."""
    lines = [line for path in venv.glob("lib/python*/site-packages/*.pth") for line in path.read_text().splitlines()]
    return [Path(line) for line in lines if line.startswith("/")]
