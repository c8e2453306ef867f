"""Messages over two pipes: four bytes of length, then JSON."""

from __future__ import annotations

import json
import os
import select
from typing import Any


def receive(pipe: int, seconds: float | None = None) -> dict[str, Any] | None:
    """Read one message; None at the pipe's end, or where none comes for so long.

    The other side never sends ahead, so nothing of a next message is read with this one.
    """
    if seconds is not None and not select.select([pipe], [], [], seconds)[0]:
        return None
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        if not (more := os.read(pipe, 1 << 16)):
            return None
        data += more
    return dict(json.loads(data[4:]))


def send(pipe: int, message: dict[str, Any]) -> None:
    """Write one message."""
    body = json.dumps(message).encode()
    data = len(body).to_bytes(4, "big") + body
    while data:
        data = data[os.write(pipe, data) :]
