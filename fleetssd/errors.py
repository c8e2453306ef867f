"""Errors named for the reaction of whoever catches them; rendered in one place (`fleetssd.cli`)."""

from __future__ import annotations


class FleetError(Exception):
    """Something went wrong, and the hint says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Transient(FleetError):
    """Try again later: the other side is busy, away or slow. `retry_after` is in seconds, if it was told."""

    exit_code = 75

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Rejected(FleetError):
    """The other side understood and said no; the same request will be refused again. `status` is its HTTP code."""

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Misconfigured(FleetError):
    """A person must change a setting, a file or the machine before this can work. `status` is an HTTP code, if any."""

    exit_code = 78

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Corrupt(FleetError):
    """Bytes are not what their name, digest or format promises; nothing built on them may be used."""
