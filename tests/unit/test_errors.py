"""Errors: what their catchers read of them."""

from __future__ import annotations

import pytest

from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient


@pytest.mark.parametrize(("kind", "code"), [(Transient, 75), (Misconfigured, 78), (Rejected, 1), (Corrupt, 1)])
def test_the_kind_of_an_error_is_its_exit_code(kind: type[FleetError], code: int) -> None:
    """75 says try again, 78 says mend the settings, as sysexits.h has them; the message is the exception's text."""
    error = kind("no", hint="do this")
    assert (error.exit_code, str(error), error.hint) == (code, "no", "do this")


def test_an_error_carries_what_the_other_side_told() -> None:
    """The wait that a server asked for and its HTTP code are kept for whoever reacts to them."""
    assert Transient("busy", retry_after=2.5).retry_after == 2.5
    assert (Rejected("no", status=404).status, Misconfigured("no", status=401).status) == (404, 401)
