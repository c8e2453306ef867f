"""Which task a request belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.gateway import read
from fleetssd.tasks import LENGTH, task_key

USER = {"role": "user", "content": "mend the conveyor"}


def key(header: str = "", path: str = "/v1/chat/completions", **fields: Any) -> tuple[str, str]:
    """Return the task of a request."""
    asked = read(path, json.dumps({"model": "m", **fields}).encode())
    assert asked is not None
    return task_key(header, asked)


def test_what_the_caller_says_comes_first() -> None:
    """The header, then `user`, then a session in `metadata`, then the key of its prompt cache."""
    said = {"user": "u", "metadata": {"trace": "7", "session_id": "s"}, "prompt_cache_key": "c", "messages": [USER]}
    assert key(" fleet/conveyor#12 ", **said) == ("fleet/conveyor#12", "header")
    found = []
    for name in ("user", "metadata", "prompt_cache_key"):
        found.append(key(**said))
        said.pop(name)
    assert found == [("u", "body"), ("s", "body"), ("c", "body")]
    assert key(metadata={"user_id": 7}) == ("7", "body")


@pytest.mark.parametrize(
    ("path", "fields", "later"),
    [
        ("/api/chat", {"messages": [{"role": "system", "content": "s"}, USER]}, "messages"),
        ("/v1/messages", {"system": "s", "messages": [USER]}, "messages"),
        ("/v1/responses", {"input": [USER]}, "input"),
    ],
)
def test_a_conversation_is_one_task_however_long_it_grows(path: str, fields: dict[str, Any], later: str) -> None:
    """Turns are added at its end; another beginning is another task."""
    begun = key(path=path, **fields)
    longer = {**fields, later: [*fields[later], {"role": "assistant", "content": "x"}, USER], "temperature": 1}
    other = {**fields, later: [{**USER, "content": "something else"}]}
    assert begun[1] == "conversation"
    assert key(path=path, **longer) == begun != key(path=path, **other)


def test_a_prompt_is_its_beginning() -> None:
    """A completion that grows stays the same task."""
    begun = key(path="/api/generate", prompt="p" * 1000)
    assert key(path="/api/generate", prompt="p" * 1000 + "more") == begun != key(path="/api/generate", prompt="q")
    assert key(path="/api/generate") == ("", "none")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(st.text(), st.dictionaries(st.sampled_from(["user", "metadata", "messages", "input", "prompt", "system"]), JSON))
def test_a_key_is_short_and_can_be_printed(header: str, fields: dict[str, Any]) -> None:
    """Whatever is said: it ends in a database and on a terminal."""
    found, source = key(header, **fields)
    assert len(found) <= LENGTH
    assert found.isprintable()
    assert bool(found) == (source != "none")
