"""Quirks are parsed totally, and faults count what they take."""

from __future__ import annotations

import pytest

from fleetssd.embedded.forge.quirks import Fault, parse
from fleetssd.errors import Misconfigured


def test_a_fault_skips_takes_and_lets_go() -> None:
    """`skip` requests pass, then `times` are taken, then none; other paths never count."""
    fault = Fault("/api/v1/repos/*/pulls/*", times=2, skip=1)
    assert not fault.takes("GET", "/api/v1/version")
    assert [fault.takes("GET", "/api/v1/repos/a/b/pulls/1") for _ in range(4)] == [False, True, True, False]


@pytest.mark.parametrize("values", [{"zone_minute": 60}, {"zone_minutes": "60"}])
def test_a_wrong_quirk_is_misconfigured(values: dict[str, object]) -> None:
    """Unknown names and values of another type are refused."""
    with pytest.raises(Misconfigured):
        parse(values)


def test_faults_come_as_objects() -> None:
    """A list of objects becomes faults."""
    assert parse({"faults": [{"path": "*", "status": 502}]}).faults == [Fault("*", status=502)]
