"""Pages, caps and moments of an API request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from fleetssd.embedded.forge.access import Caller
from fleetssd.embedded.forge.call import CAP, Call, Refusal
from fleetssd.embedded.forge.quirks import Quirks
from fleetssd.embedded.forge.state import State


def asked(query: str) -> Call:
    """Make a request with a query; its state has what pages look at, and no folder."""
    state = State.__new__(State)
    state.quirks, state.root_url = Quirks(), "http://git.fleet.test"
    path = "/api/v1/repos/issues/search"
    return Call(state, Caller(), "GET", path, QueryParams(query), {}, b"", "http://127.0.0.1:3000")


@given(limit=st.integers(1, 200), total=st.integers(0, 300))
def test_walking_by_total_count_sees_every_row_once(limit: int, total: int) -> None:
    """Asking on until page times the effective limit reaches the total gives every row exactly once."""
    rows, effective, seen, page = list(range(total)), min(limit, CAP), [], 1
    while True:
        seen += asked(f"page={page}&limit={limit}").page(rows)
        if page * effective >= total:
            break
        page += 1
    assert seen == rows


def test_links_are_sorted_and_name_the_root() -> None:
    """The Link header is as recorded: next, last, first, prev, joined by a bare comma, query sorted."""
    call = asked("type=pulls&state=closed&limit=10&page=3")
    link = call.paged(list(range(66)), [], cap=0).headers["Link"]
    base = "<http://git.fleet.test/api/v1/repos/issues/search?limit=10&page={}&state=closed&type=pulls>"
    expected = ((4, "next"), (7, "last"), (1, "first"), (2, "prev"))
    assert link == ",".join(f'{base.format(page)}; rel="{name}"' for page, name in expected)


def test_past_the_end_only_first_and_prev_are_linked() -> None:
    """Page 99 of two links back to page 1, as recorded."""
    call = asked("limit=50&page=99")
    link = call.paged(list(range(57)), [], cap=0).headers["Link"]
    assert [part.split("; ")[1] for part in link.split(",")] == ['rel="first"', 'rel="prev"']
    assert link.count("page=1>") == 2


def test_a_moment_with_an_offset_is_read() -> None:
    """Offsets are honoured; anything but RFC 3339 is 422 in the server's words."""
    assert asked("since=1970-01-01T01%3A00%3A10%2B01%3A00").moment("since") == 10
    with pytest.raises(Refusal, match=r"cannot parse \"yesterday\" as \"2006\"") as caught:
        asked("since=yesterday").moment("since")
    assert caught.value.status == 422
