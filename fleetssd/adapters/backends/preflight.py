"""What this machine has left, before a run starts to use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fleetssd import capacity
from fleetssd.adapters.backends.rows import cannot_load
from fleetssd.training import TrainPlan


def preflight(plan: TrainPlan, base: Path, out: Path, longest: int) -> None:
    """Raise Misconfigured where the run cannot fit. A resumed run's own files count as room."""
    beside = sum(path.stat().st_size for path in base.glob("*.json"))
    need = capacity.needs(plan, shapes(base), longest, beside)
    ours = sum(path.stat().st_size for path in (out / "checkpoints").rglob("*") if path.is_file())
    capacity.check(need, shutil.disk_usage(out).free + ours, free_memory(plan.placement.kind))


def shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a base, from the headers of its safetensors. Raises Misconfigured."""
    try:
        return {name: tuple(entry["shape"]) for path in base.glob("*.safetensors") for name, entry in _header(path)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cannot_load(error) from error


def _header(path: Path) -> Iterator[tuple[str, dict[str, list[int]]]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(min(length, path.stat().st_size)))
    return ((name, entry) for name, entry in table.items() if name != "__metadata__")


def free_memory(kind: str) -> int | None:
    """Return the bytes that are free on a device, within the process's cgroup; None where nobody tells."""
    if kind in ("cuda", "xpu"):
        import torch  # noqa: PLC0415  loaded by the backend already

        return int(getattr(torch, kind).mem_get_info()[0])
    if kind == "metal":
        return None  # unified memory: macOS makes room as it is asked
    limits = [limit for limit in (_available(), _cgroup()) if limit is not None]
    return min(limits, default=None)


def _available() -> int | None:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return None


def _cgroup() -> int | None:
    root = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no limit
        inactive = next(
            int(line.split()[1])
            for line in (root / "memory.stat").read_text(encoding="ascii").splitlines()
            if line.startswith("inactive_file ")
        )
        used = int((root / "memory.current").read_text(encoding="ascii")) - inactive
        return int((root / "memory.max").read_text(encoding="ascii")) - used
    return None
