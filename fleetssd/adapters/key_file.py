"""The file of the gateway's API keys: hashes alone, for nobody else to read."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from pathlib import Path

from fleetssd import files
from fleetssd.errors import Misconfigured
from fleetssd.keys import Key, read_keys, written


class KeyFile:
    """Read again only where it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def read(self) -> Mapping[str, Key]:
        """Return the keys by id; a file that is not there has none. Raises Misconfigured."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._keys, self._stamp = read_keys(self._path.read_text(encoding="utf-8")), stamp
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"the key file {self._path} cannot be read: {error}", hint="Look at it.") from None
        return self._keys

    def change(self, edit: Callable[[dict[str, Key]], None]) -> None:
        """Edit the keys and write them at once, by a temporary file; two who do so wait for each other.

        Raises Misconfigured.
        """
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / f".{self._path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = dict(self.read())
                edit(keys)
                files.write(self._path, written(keys.values()), mode=0o600)
        except OSError as error:
            raise Misconfigured(f"the key file {self._path} cannot be written: {error}", hint="May you?") from None
