"""A value with its place: what every parser yields."""

from __future__ import annotations

from dataclasses import dataclass

DEPTH = 64
"""No settings file nests deeper; a hostile one may."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar: the keys that lead to it (list places as numbers), its text, and its line, counted from 1."""

    path: tuple[str, ...]
    value: str
    line: int


class Broken(Exception):
    """A text does not go on as its form demands; what was read before stands."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
