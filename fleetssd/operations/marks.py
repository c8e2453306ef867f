"""How far the polling has come, and by whose settings what is on file was judged."""

from __future__ import annotations

from datetime import datetime

from fleetssd.config import Settings
from fleetssd.ports import Store
from fleetssd.records import fingerprint
from fleetssd.sweeps import window_start


class Marks:
    """Up to when everything is on file: of the whole forge, and of the lists of a sweep that was cut short.

    The cursor of the forge and that of the fleet's settings move together; where they differ, what is on file was
    judged by other settings.
    """

    def __init__(self, settings: Settings, store: Store, now: datetime) -> None:
        self.store, self.now, self.overlap = store, now, settings.forge.overlap_seconds
        self.forge, self.fleet = settings.forge.url, f"{settings.forge.url} {fingerprint(settings.fleet)}"
        self.cursor = store.cursor(self.fleet)
        whole = store.cursor(self.forge)
        self.stale = whole is not None and self.cursor != whole

    def since(self, place: str) -> datetime | None:
        """Return where to go on in a list."""
        known = [self.cursor, self.store.cursor(f"{self.fleet} {place}") if place else None]
        return window_start(max((mark for mark in known if mark is not None), default=None), self.overlap)

    def move(self, place: str, upto: datetime | None) -> None:
        """Note up to when a list is on file; a server that tells no time is taken to have ours."""
        self.store.set_cursors([f"{self.fleet} {place}"] if place else [self.fleet, self.forge], upto or self.now)
