"""A fork that touches little: every page that a child writes to is a page that the kernel copies."""

from __future__ import annotations

import ctypes
import os

_FORK = ctypes.PyDLL(None, use_errno=True).fork


def fork() -> int:
    """Fork by the C library, without what Python does around it; only for a process of one thread.

    Python would renew its locks and what it knows of its threads, and call what modules asked for: in a child that
    goes on as the one thread that it was nothing of that has changed, and it costs more than the fork. What `random`
    draws from is the one thing left to renew, and that costs less before the fork.
    """
    child: int = _FORK()
    if child < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return child
