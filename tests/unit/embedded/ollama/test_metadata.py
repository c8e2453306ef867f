"""GGUF headers."""

from __future__ import annotations

import pytest

from fleetssd.embedded.ollama.metadata import NotGguf, human_number, parse_header


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (106_880, "107K"),
        (886_272, "886K"),
        (751_632_384, "751.63M"),
        (8_190_735_360, "8.2B"),
        (7_000_000_000, "7B"),
    ],
)
def test_parameter_counts_are_written_as_ollama_writes_them(count: int, text: str) -> None:
    """Thousands have no decimals, millions two, billions one."""
    assert human_number(count) == text


@pytest.mark.parametrize("data", [b"", b"GGUF", b"hello world, I am no model", b"GGUF\x03\0\0\0" + b"\x01" * 40])
def test_what_is_no_gguf_is_refused(data: bytes) -> None:
    """Neither another file nor a cut header is read."""
    with pytest.raises(NotGguf):
        parse_header(data)
