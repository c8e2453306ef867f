"""Model names."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.names import fold_to_existing, parse_name

PART = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("coder", ("registry.ollama.ai", "library", "coder", "latest")),
        ("coder:v1", ("registry.ollama.ai", "library", "coder", "v1")),
        ("fleet/coder:v1", ("registry.ollama.ai", "fleet", "coder", "v1")),
        ("http://127.0.0.1:5000/fleet/coder:v3", ("127.0.0.1:5000", "fleet", "coder", "v3")),
        ("127.0.0.1:5000/fleet/coder", ("127.0.0.1:5000", "fleet", "coder", "latest")),
    ],
)
def test_missing_parts_have_defaults(text: str, parts: tuple[str, ...]) -> None:
    """A name is read from the right; what is absent is the public registry's library and `latest`."""
    name = parse_name(text)
    assert (name.parts, name.valid) == (parts, True)


@pytest.mark.parametrize(
    "text", ["", "bad name!", "a/b/c/d:e", ":v1", "-x", "a.b/c", "x:" + "t" * 81, "../x", "a/../b"]
)
def test_what_is_no_name_is_invalid(text: str) -> None:
    """Spaces, too many parts, empty or overlong ones, dots in a namespace and ways out of the folder are refused."""
    assert not parse_name(text).valid


@given(PART, PART, PART)
def test_the_shortest_spelling_means_the_same_name(namespace: str, model: str, tag: str) -> None:
    """Parsing what is displayed gives the name back."""
    name = parse_name(f"{namespace}/{model}:{tag}")
    assert parse_name(name.short) == name


@given(PART, PART)
def test_names_that_differ_in_case_alone_are_one(model: str, tag: str) -> None:
    """A stored spelling wins over the asked one."""
    stored = parse_name(f"{model}:{tag}")
    assert fold_to_existing(parse_name(f"{model.swapcase()}:{tag.swapcase()}"), [stored]) == stored


def test_the_scheme_is_kept_for_a_pull() -> None:
    """http:// and https:// are told apart although they name the same model."""
    assert [parse_name(f"{scheme}://h/n/m").scheme for scheme in ("http", "https")] == ["http", "https"]
