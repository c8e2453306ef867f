"""What goes over the wire."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.replies import go_dumps, rfc3339

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_go_escapes_what_html_minds() -> None:
    """The digest of a params layer depends on these bytes."""
    assert go_dumps({"num_ctx": 512.0, "stop": ["<|im_end|>"]}) == (
        b'{"num_ctx":512,"stop":["\\u003c|im_end|\\u003e"]}\n'
    )


@given(VALUES)
def test_go_json_means_what_json_means(value: object) -> None:
    """Escaping changes the bytes alone."""
    assert json.loads(go_dumps(value)) == value


def test_times_have_nanoseconds_without_trailing_zeros() -> None:
    """Go leaves zeros at the end of the fraction out."""
    assert rfc3339(1_795_304_066_120_000_000) == "2026-11-21T23:34:26.12Z"
    assert rfc3339(1_795_304_066_000_000_001) == "2026-11-21T23:34:26.000000001Z"
    assert rfc3339(1_795_304_066_000_000_000) == "2026-11-21T23:34:26Z"
