"""What a run costs: processor seconds of the child, and energy where the machine tells it (RAPL, NVML).

A line a start of the trainer is kept in the run's folder, so that a run that was stopped and resumed is counted whole.
Energy is the machine's, while the trainer ran: its share of a busy machine cannot be told.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FILE = "meter.jsonl"


@dataclass(frozen=True, slots=True)
class Meters:
    """Where a machine tells its energy: the kernel's folder of RAPL counters, and NVIDIA's library by its name."""

    rapl: Path = Path("/sys/class/powercap")
    nvml: str = "libnvidia-ml.so.1"


_HERE = Meters()


@contextlib.contextmanager
def metered(out: Path, device: str, meters: Meters = _HERE) -> Iterator[None]:
    """Measure the block, in which one trainer starts and ends, and note it in the run's folder."""
    began, cpu = time.monotonic(), _children()
    zones, gpu = _zones(meters.rapl), _gpu_joules(device, meters.nvml)
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        after, gpu_after = _zones(meters.rapl), _gpu_joules(device, meters.nvml)
        known = [_used(zone, zones[zone], after[zone]) for zone in sorted(zones.keys() & after.keys())]
        if gpu is not None and gpu_after is not None:
            known.append(gpu_after - gpu)
        row = {
            "cpu_seconds": _children() - cpu,
            "gpu_seconds": 0.0 if device == "cpu" else seconds,
            "energy_joules": sum(known) if known else None,
        }
        with (out / _FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def spent(out: Path) -> dict[str, float | None]:
    """Return the sums over all starts of a run that were seen to end; what one of them could not read is None."""
    try:
        lines = (out / _FILE).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):
        rows = []
    return {name: _sum([row.get(name) for row in rows]) for name in ("cpu_seconds", "gpu_seconds", "energy_joules")}


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known and len(known) == len(values) else None


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _zones(rapl: Path) -> dict[Path, int]:
    """Return the energy counters of processor packages and of memory, in microjoules; by default only root reads them.

    Cores and graphics are parts of their package, and a platform's zone (psys) holds all of them.
    """
    found = {}
    for folder in rapl.glob("intel-rapl:*"):
        with contextlib.suppress(OSError, ValueError):
            name = (folder / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                found[folder] = int((folder / "energy_uj").read_text())
    return found


def _used(zone: Path, before: int, after: int) -> float:
    """Return joules between two readings of a counter that starts again at its range."""
    if after < before:
        with contextlib.suppress(OSError, ValueError):
            after += int((zone / "max_energy_range_uj").read_text())
    return max(0, after - before) / 1e6


def _gpu_joules(device: str, library: str) -> float | None:
    """Return what an NVIDIA device has used since its driver was loaded; None where nobody can tell."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    try:
        nvml = ctypes.CDLL(library)
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        failed = (
            nvml.nvmlInit_v2()
            or nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(number or 0)), ctypes.byref(handle))
            or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        )
    except (OSError, AttributeError, ValueError):
        return None
    return None if failed else millijoules.value / 1000
