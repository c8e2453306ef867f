"""BubblewrapSandbox: a place is a bwrap, confined as tightly as this machine allows."""

from __future__ import annotations

import shutil

from fleetssd.adapters.sandboxes.confinement import Shape, hint, shapes
from fleetssd.adapters.sandboxes.worker import DeadError, Zygote, start
from fleetssd.adapters.sandboxes.zygotes import ZygoteSandbox
from fleetssd.errors import Misconfigured
from fleetssd.surroundings import Limits, Surroundings


class BubblewrapSandbox(ZygoteSandbox):
    """Grades jobs under bubblewrap. Raises Misconfigured where it is missing or may not make namespaces."""

    def __init__(self, limits: Limits | None = None, *, workers: int = 2) -> None:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise Misconfigured(
                "bubblewrap (bwrap) is not installed, and nothing runs unsandboxed",
                hint="Install it: apt-get install bubblewrap",
            )
        self._bwrap = bwrap
        self._shape: Shape
        super().__init__(limits, workers=workers)

    def _first(self, limits: Limits) -> Zygote:
        """Try the ways this machine may allow, the tightest first, and keep the first that starts."""
        failures = []
        for self._shape in shapes():
            try:
                return start(self._bwrap, self._shape, limits)
            except DeadError as death:
                failures.append(str(death))
        raise Misconfigured(f"bubblewrap cannot make a sandbox here: {failures[0]}", hint=hint(failures))

    def _start(self, limits: Limits, around: Surroundings) -> Zygote:
        return start(self._bwrap, self._shape, limits, around)
