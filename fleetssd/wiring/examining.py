"""What answers are run in and graded by."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from fleetssd.config import Settings
from fleetssd.cores import spare
from fleetssd.ports import Grounds, Harness, Preparer, Sandbox
from fleetssd.surroundings import Limits

if TYPE_CHECKING:
    from fleetssd.guards import Item

_MOST_WORKERS = 8
"""Runs at once where the settings name no number: an engine gives no more answers a second than they grade."""


def open_sandbox(settings: Settings) -> Sandbox:
    """Return what model-written code runs in. Raises Misconfigured where the settings' kind cannot be had here."""
    from fleetssd.adapters import sandboxes  # noqa: PLC0415

    e = settings.evaluation
    workers = e.sandbox_workers or spare(_MOST_WORKERS)
    limits = Limits(
        wall_seconds=e.wall_seconds,
        cpu_seconds=e.cpu_seconds,
        memory_bytes=e.memory_mb << 20,
        processes=e.processes,
        disk_bytes=e.disk_mb << 20,
    )
    if e.sandbox == "none":
        return sandboxes.BareSandbox(limits, workers=workers)
    if e.sandbox == "bubblewrap":
        return sandboxes.BubblewrapSandbox(limits, workers=workers)
    return sandboxes.ContainerSandbox(e.sandbox, e.sandbox_image, limits, workers=workers)


def lent_sandbox(settings: Settings) -> AbstractContextManager[Sandbox]:
    """Open the sandbox, and close it with the block."""
    return closing(open_sandbox(settings))


def open_grounds(settings: Settings) -> Grounds:
    """Return the commits of held-out problems, checked out and prepared in the data folder.

    What was prepared in an image is of no use outside of it: every image has a folder of its own.
    """
    from fleetssd.adapters.git_mirror import GitMirror  # noqa: PLC0415
    from fleetssd.adapters.grounds import GroundFolder  # noqa: PLC0415

    e, mirror = settings.evaluation, GitMirror(settings.data_dir / "mirrors", settings.forge)
    folder = settings.data_dir / "grounds"
    if e.sandbox in ("podman", "docker"):
        folder = folder / "images" / hashlib.sha256(e.sandbox_image.encode()).hexdigest()[:16]
    return GroundFolder(folder, e.environments_mb << 20, mirror.check_out, mirror.gold, _open_preparer(settings))


def _open_preparer(settings: Settings) -> Preparer:
    from fleetssd.adapters import sandboxes  # noqa: PLC0415

    e = settings.evaluation
    if e.sandbox == "none":
        return sandboxes.NoPreparer()
    if e.sandbox == "bubblewrap":
        return sandboxes.BubblewrapPreparer(os.environ)
    return sandboxes.ContainerPreparer(e.sandbox, e.sandbox_image, os.environ)


def open_guards(settings: Settings) -> dict[str, tuple[Item, ...]]:
    """Return the guard sets that the settings name."""
    from fleetssd.adapters.guard_sets import read_guards  # noqa: PLC0415

    return read_guards(settings.guards.sets, settings.guards.files)


def read_guard_file(path: Path) -> tuple[Item, ...]:
    """Read one file of guard items."""
    from fleetssd.adapters.guard_sets import read_guard_file as read  # noqa: PLC0415

    return read(path)


def open_harness(settings: Settings) -> Harness | None:
    """Return the lm-evaluation-harness; None where no task of it is named."""
    guards = settings.guards
    if not guards.lm_eval_tasks:
        return None
    from fleetssd.adapters.lm_eval import LmEval  # noqa: PLC0415

    return LmEval(
        guards.lm_eval_command,
        settings.engine.url,
        guards.lm_eval_tasks,
        limit=guards.lm_eval_limit,
        concurrency=settings.engine.concurrency,
    )
