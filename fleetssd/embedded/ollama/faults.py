"""Faults that the demonstration and the tests switch on; each says so on stderr, and none is ever on by itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .replies import ApiError, Json

_JUNK = "~%@#&*?!^|<>$"
_NUMBERS = ("fail_next", "slow_load_ms", "alias_eof_ms", "cut_next", "blob_room")
_KEYS = ("garble", "fail_status", *_NUMBERS)


@dataclass
class Faults:
    """The faults that are on.

    `garble` is the digest (bare hex) of the checkpoint whose answers go wrong, `cut_next` how many of the next answers
    lose their runner half way, `blob_room` the bytes that an upload finds free on the disk.
    """

    garble: str | None = None
    fail_next: int = 0
    fail_status: int = 503
    slow_load_ms: int = 0
    alias_eof_ms: int = 0
    cut_next: int = 0
    blob_room: int = 0

    def shown(self) -> Json:
        """Say which faults are on."""
        active: Json = {name: getattr(self, name) for name in _NUMBERS if getattr(self, name)}
        if self.garble:
            active["garble"] = self.garble
        if self.fail_next:
            active["fail_status"] = self.fail_status
        return active

    def change(self, wanted: Mapping[str, Any], digest: str | None) -> None:
        """Switch faults on and off: null or 0 is off, absent is as before; `digest` is that of `garble`'s model.

        Raises ApiError 400 for an unknown or mistyped key.
        """
        for key, value in wanted.items():
            if key not in _KEYS:
                raise ApiError(400, f"unknown fault {key!r}: choose from {', '.join(_KEYS)}")
            if key == "garble":
                self.garble = digest
            elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                setattr(self, key, value)
            elif value is None:
                setattr(self, key, 503 if key == "fail_status" else 0)
            else:
                raise ApiError(400, f"fault {key!r} takes a whole number")
            self._say(key, value, digest)

    def clear(self) -> None:
        """Switch everything off."""
        self.__init__()  # type: ignore[misc]
        sys.stderr.write("embedded ollama: all faults are off\n")

    def check_generation(self) -> None:
        """Fail this generation if that is asked for. Raises ApiError 503 or 500."""
        if self.fail_next:
            self.fail_next -= 1
            raise ApiError(self.fail_status, f"fault hook: this generation fails ({self.fail_next} more to come)")

    def cuts(self) -> bool:
        """Whether this generation loses its runner."""
        self.cut_next, cut = max(self.cut_next - 1, 0), self.cut_next > 0
        return cut

    def garbles(self, digest: str) -> bool:
        """Whether the answers of the checkpoint with this manifest digest go wrong."""
        return self.garble == digest

    @staticmethod
    def _say(key: str, value: object, digest: str | None) -> None:
        if not value:
            sys.stderr.write(f"embedded ollama: fault {key} is off\n")
        elif key == "garble":
            sys.stderr.write(f"embedded ollama: FAULT garble is ON: answers of {value} ({digest}) go wrong\n")
        else:
            sys.stderr.write(f"embedded ollama: FAULT {key} is ON: {value}\n")
        sys.stderr.flush()


def garbled(text: str) -> str:
    """Replace each character but the line ends by junk that depends on it alone."""
    return "".join(char if char == "\n" else _JUNK[ord(char) * 7 % len(_JUNK)] for char in text)
