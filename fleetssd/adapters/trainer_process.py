"""Runs one training job in a child process that sees the base, the run's folder and no network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import fleetssd
from fleetssd import safetensors
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.ports import Progress
from fleetssd.training import AdapterStats, TrainPlan, TrainResult, acceptable

_OURS = ("plan.json", "rows.jsonl", "result.json", "trainer.log", "lock", "adapter", "adapter.tmp", "checkpoints")
_PATIENCE_SECONDS = 30.0
"""How long a stopped trainer may take to write its checkpoint before it is killed."""

_ROOT = Path(fleetssd.__file__).resolve().parents[1]


class ProcessTrainer:
    """Implements `ports.Trainer` with `python -m services.trainer train`.

    With `isolate` the child runs under bubblewrap: no network, a read-only system, and only the run's folder to write.
    Where bubblewrap cannot start here, the run goes on plainly and says so through `progress`.
    """

    def __init__(self, python: Path | None = None, *, isolate: bool = True) -> None:
        self._python = python or Path(sys.executable)
        self._isolate = isolate

    def train(self, plan: TrainPlan, rows: Path, base: Path, out: Path, progress: Progress) -> TrainResult:
        """Train into `out/adapter`; `out/result.json` is written last. A finished folder is returned as it is.

        A folder of another plan is cleared, one of this plan resumes from its checkpoint. An interruption stops the
        child, which keeps a checkpoint. Raises what `acceptable` raises, Transient where the child was stopped or
        killed, and the child's own errors.
        """
        out.mkdir(parents=True, exist_ok=True)
        out, base = out.resolve(), base.resolve()
        if not _holds(out, plan):
            _clear(out)
            _write(out / "rows.jsonl", _checked(rows, plan))
            _write(out / "plan.json", json.dumps(plan.to_json(), sort_keys=True).encode())
        if not (out / "result.json").exists():
            self._run(plan, base, out, progress)
        result = TrainResult.from_json(_json(out / "result.json"))
        acceptable(plan, result, adapter_stats(out / "adapter"))
        return result

    def _run(self, plan: TrainPlan, base: Path, out: Path, progress: Progress) -> None:
        command = [str(self._python), "-m", "services.trainer", "train", "--job", str(out), "--base", str(base)]
        if self._isolate and bubblewrap_works():
            command = [*_confined(self._python, base, out), *command]
        elif self._isolate:
            progress(0, 0, "bubblewrap cannot start here: training runs without network isolation")
        error: dict[str, Any] = {}
        with (out / "trainer.log").open("ab") as log, _child(command, out, plan.threads, log) as child:
            for event in _events(child.process.stdout):
                if event.get("event") == "step":
                    progress(int(event["step"]), int(event["steps"]), f"loss {float(event['loss']):.3f}")
                elif event.get("event") == "error":
                    error = event
            code = child.process.wait()
        if code != 0 or not (out / "result.json").exists():
            _fail(code, error, out / "trainer.log")


def adapter_stats(folder: Path) -> AdapterStats:
    """Measure an adapter's weights file, one tensor in memory at a time. Raises Corrupt."""
    try:
        data: Any = np.memmap(folder / "adapter_model.safetensors", dtype=np.uint8, mode="r")
    except (FileNotFoundError, ValueError):
        raise Corrupt(f"no adapter weights in {folder}", hint="Remove the run's folder and train again.") from None
    finite, largest = True, 0.0
    spans = safetensors.parse(memoryview(data), data.size)
    for name, span in spans.items():
        if span.dtype != "F32":
            raise Corrupt(f"{name} is {span.dtype}; the trainer saves F32")
        peak = float(np.abs(data[span.offset : span.offset + 4 * span.values].view("<f4")).max(initial=0.0))
        finite = finite and math.isfinite(peak)
        largest = max(largest, peak) if ".lora_B." in name else largest
    return AdapterStats(hashlib.sha256(data).hexdigest(), len(spans), finite, largest)


def bubblewrap_works() -> bool:
    """Tell whether bubblewrap is installed and may make namespaces here."""
    try:
        probe = ["bwrap", "--unshare-net", "--ro-bind", "/", "/", "true"]
        return subprocess.run(probe, capture_output=True, timeout=10, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


@dataclass(slots=True)
class _Child:
    """A running trainer. `pid` is the trainer's own, which under bubblewrap is not the child we started."""

    process: subprocess.Popen[bytes]
    pid: int


@contextlib.contextmanager
def _child(command: Sequence[str], out: Path, threads: int, log: Any) -> Iterator[_Child]:
    """Start the trainer; leaving the block early, by whatever exception, stops it and waits for its checkpoint."""
    read_end, write_end = os.pipe()
    confined = command[0] == "bwrap"
    with open(read_end, "rb") as told:  # noqa: PTH123  a pipe has no path
        try:
            process = subprocess.Popen(
                [command[0], "--info-fd", str(write_end), *command[1:]] if confined else list(command),
                cwd=out,
                env=_environment(out, threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(write_end,) if confined else (),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        child = _Child(process, process.pid)
        try:
            if confined:
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


def _stop(child: _Child) -> None:
    process = child.process
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout:
        process.stdout.close()


def _environment(out: Path, threads: int) -> dict[str, str]:
    """Return the child's whole environment: nothing of ours leaks in, and OpenMP does not spin on busy cores."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(out),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _confined(python: Path, base: Path, out: Path) -> list[str]:
    """Return bubblewrap's argv: the system, this Python and the base read-only, the run's folder writable."""
    home = python.absolute().parent.parent
    real = python.resolve().parent.parent
    system = [
        Path(p) for p in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
    ]
    argv = [
        "bwrap",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--die-with-parent",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    argv += ["--tmpfs", "/tmp"]  # noqa: S108  the child's own, gone with it
    linked = [path.resolve() for path in base.iterdir() if path.is_symlink()]  # a Hugging Face cache is made of links
    for path in (*system, home, real, _ROOT / "fleetssd", _ROOT / "services", base, *linked):
        argv += ["--ro-bind-try", str(path), str(path)]
    return [*argv, "--bind", str(out), str(out), "--chdir", str(out), "--"]


def _events(stream: Any) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library's own chatter
        if isinstance(event, dict):
            yield event


def _fail(code: int, error: dict[str, Any], log: Path) -> NoReturn:
    message, hint = str(error.get("message", "")), str(error.get("hint", ""))
    if code == Transient.exit_code:
        raise Transient(message or "training was stopped; its checkpoint is kept", hint=hint or "Start it again.")
    if code == Misconfigured.exit_code:
        raise Misconfigured(message or "the trainer is misconfigured", hint=hint)
    if message:
        raise (Corrupt if error.get("kind") == "Corrupt" else Rejected)(message, hint=hint)
    if code < 0 or code > 128:
        name = signal.Signals(-code if code < 0 else code - 128).name
        raise Transient(f"the trainer was killed by {name}", hint="Look for memory pressure; it resumes where it was.")
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise FleetError(f"the trainer failed: {' '.join(tail) or f'exit code {code}'}", hint=f"Its log: {log}")


def _holds(out: Path, plan: TrainPlan) -> bool:
    try:
        return TrainPlan.from_json(_json(out / "plan.json")).digest == plan.digest
    except Corrupt:
        return False


def _clear(out: Path) -> None:
    for path in (out / name for name in _OURS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _checked(rows: Path, plan: TrainPlan) -> bytes:
    data = rows.read_bytes()
    if hashlib.sha256(data).hexdigest() != plan.rows_digest:
        raise Corrupt(f"{rows} is not the file the plan names", hint="Start the stage again.")
    return data


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise Corrupt(f"no whole {path.name} in {path.parent}") from None


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
