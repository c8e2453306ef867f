"""A caller's body is held to the limit, whichever way its pieces come."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Rejected
from fleetssd.web.caller import Caller

LIMIT = 40


def read(pieces: list[bytes]) -> bytes:
    """Return the body of a request whose server hands on these pieces, and then an empty last one."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "path": "/api/chat", "method": "POST", "headers": [], "client": None}
    return asyncio.run(Caller(scope, receive, send).body(LIMIT))


@given(size=st.integers(0, 2 * LIMIT), cuts=st.lists(st.integers(0, 2 * LIMIT), max_size=3))
def test_a_body_is_whole_or_refused(size: int, cuts: list[int]) -> None:
    """Up to the limit the body arrives as it was sent; a byte beyond it is refused, also where all came at once."""
    body = bytes(range(size))
    marks = sorted({0, size, *(cut for cut in cuts if cut < size)})
    pieces = [body[begin:end] for begin, end in pairwise(marks)]
    if size <= LIMIT:
        assert read(pieces) == body
    else:
        with pytest.raises(Rejected, match=f"larger than {LIMIT} bytes"):
            read(pieces)
