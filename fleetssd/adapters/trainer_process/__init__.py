"""Runs one training job in a child process that sees the base, the run's folder and no network."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fleetssd import files, safetensors
from fleetssd.adapters.trainer_process.child import bubblewrap_works, confined, environment, running
from fleetssd.adapters.trainer_process.meter import metered, spent
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.placement import Choice, Found, Placement, choose
from fleetssd.ports import Progress
from fleetssd.training import AdapterStats, TrainPlan, TrainResult, acceptable

_OURS = (
    "plan.json",
    "rows.jsonl",
    "result.json",
    "smoke.json",
    "trainer.log",
    "lock",
    "adapter",
    "adapter.tmp",
    "checkpoints",
    "compiled",
    "meter.jsonl",
)


_PROBE_SECONDS = 300.0
"""Importing torch from a cold disk takes minutes on a small machine."""


class ProcessTrainer:
    """Implements `ports.Trainer` with `python -m services.trainer train`.

    With `isolate` the child runs under bubblewrap: no network, a read-only system, and only the run's folder to write.
    Where bubblewrap cannot start here, the run goes on plainly and says so through `progress`.
    """

    def __init__(self, python: Path | None = None, *, isolate: bool = True) -> None:
        self._python = python or Path(sys.executable)
        self._isolate = isolate

    def place(self, backend: str, device: str, *, qlora: bool) -> Choice:
        """Return what trains here: a child imports torch and looks, except where settings leave nothing to find.

        Raises Misconfigured where the settings ask for what the trainer's Python has not.
        """
        if (backend, device, qlora) == ("trl", "cpu", False):
            return Choice(Placement(), "trl on cpu: asked for by recipe.backend and recipe.device")
        return choose(backend, device, qlora, self._found())

    def _found(self) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [str(self._python), "-P", "-m", "services.trainer", "probe"],
                env=environment(Path(folder), 1),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        answers = [event for event in _events(done.stdout.splitlines()) if event.pop("event", "") == "found"]
        if not answers:
            tail = " ".join(done.stderr.strip().splitlines()[-1:])
            raise Misconfigured(
                f"{self._python} cannot probe: {tail or f'exit code {done.returncode}'}",
                hint="recipe.python names a Python in which `fleetssd[train]` is installed.",
            )
        return Found.from_json(answers[-1])

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
            files.write(out / "rows.jsonl", _checked(rows, plan))
            files.write(out / "plan.json", json.dumps(plan.to_json(), sort_keys=True))
        if not (out / "result.json").exists():
            self._run(plan, base, out, progress)
        result = TrainResult.from_json(_json(out / "result.json"))
        acceptable(plan, result, adapter_stats(out / "adapter"))
        used = spent(out)
        return replace(
            result,
            cpu_seconds=used["cpu_seconds"],
            gpu_seconds=used["gpu_seconds"],
            energy_joules=used["energy_joules"],
        )

    def _run(self, plan: TrainPlan, base: Path, out: Path, progress: Progress) -> None:
        command = [str(self._python), "-P", "-m", "services.trainer", "train", "--job", str(out), "--base", str(base)]
        if self._isolate and bubblewrap_works():
            command = [*confined(self._python, base, out, plan.placement.kind), *command]
        elif self._isolate:
            progress(0, 0, "bubblewrap cannot start here: training runs without network isolation")
        error: dict[str, Any] = {}
        surroundings = environment(out, plan.threads, plan.placement)
        with (
            (out / "trainer.log").open("ab") as log,
            metered(out, plan.placement.device),
            running(command, out, surroundings, log) as child,
        ):
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
