"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# An example that is slow on a busy machine is no failure; the suite's own time limit ends what hangs.
settings.register_profile("fleetssd", deadline=None)
settings.load_profile("fleetssd")
