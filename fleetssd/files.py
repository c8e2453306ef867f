"""Files that are whole or not there: what one process leaves for another, or for its own next start."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, data: str | bytes, *, mode: int = 0o666) -> Path:
    """Write a file beside its place and onto the disk, then rename it into place; the umask cuts `mode`.

    A reader finds the old file or the new one, after a kill too. There is one writer at a time: the draft of one that
    was killed is thrown away. Raises OSError, with the old file untouched.
    """
    draft = path.with_name(f".{path.name}.partial")
    draft.unlink(missing_ok=True)
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        return draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
