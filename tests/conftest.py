"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# An example that is slow on a busy machine is no failure; the suite's own time limit ends what hangs.
settings.register_profile("fleetssd", deadline=None)
settings.load_profile("fleetssd")


@pytest.fixture(autouse=True)
def _logs_go_where_this_test_reads() -> Iterator[None]:
    """Forget the logging that a verb set up: its stream was this test's own and closes with it."""
    yield
    structlog.reset_defaults()
