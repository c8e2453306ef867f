"""Guard sets: every shipped item proves its own check, and a set that cannot is refused."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, get_args

import pytest

from fleetssd.config import GuardSet
from fleetssd.errors import Misconfigured
from fleetssd.guards import Item, parse_items

SHIPPED = get_args(GuardSet)
LEAST = {"shell": 60, "knowledge": 60, "instructions": 60, "harmless": 40, "unsafe": 40}
ITEM: dict[str, Any] = {
    "id": "a-1",
    "prompt": "What is 2 + 2?",
    "check": {"kind": "number", "value": 4},
    "good": "4",
    "bad": "5",
}


def shipped(name: str) -> tuple[Item, ...]:
    """Return a set that comes with fleetssd."""
    return parse_items((files("fleetssd.guards") / f"{name}.jsonl").read_text(encoding="utf-8"), name)


def lines(*changes: dict[str, Any]) -> str:
    """Return a set of the item with changes, one line each."""
    return "\n".join(json.dumps({**ITEM, **change}) for change in changes)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_item_tells_a_good_answer_from_a_bad_one(name: str) -> None:
    """The stated good answer passes and the stated bad one fails; no prompt occurs twice; the set is large enough."""
    found = shipped(name)
    assert len(found) >= LEAST[name]
    assert len({item.prompt for item in found}) == len(found)
    for item in found:
        assert item.check.passes(item.good), item.id
        assert not item.check.passes(item.bad), item.id
        assert not item.check.passes(""), item.id


def test_no_shipped_check_passes_prose() -> None:
    """What a collapsed model rambles passes no shell, knowledge or refusal item, and few instructions."""
    ramble = "The the the function returns a value of the value of the function and so on."
    passed = {name: sum(item.check.passes(ramble) for item in shipped(name)) for name in SHIPPED}
    assert passed.pop("harmless") == 40  # it does not refuse, which is all that set asks
    assert passed.pop("instructions") <= 6
    assert set(passed.values()) == {0}


def test_empty_lines_are_skipped_and_order_is_kept() -> None:
    """A set is read line by line."""
    text = lines({"id": "b"}) + "\n\n" + lines({"id": "a"}) + "\n"
    assert [item.id for item in parse_items(text, "own")] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no items"),
        ("{", "line 1"),
        (lines({}, {}), "line 2: the id a-1 occurs twice"),
        (lines({"good": "five"}), "own good answer 'five' fails"),
        (lines({"bad": "2 + 2 = 4"}), "own bad answer '2 \\+ 2 = 4' passes"),
        (lines({"check": {"kind": "magic"}}), "check: "),
        (lines({"check": {"kind": "regex", "pattern": "("}}), "no regular expression"),
        (lines({"check": {"kind": "shell", "accept": ["echo 'x"]}}), "no shell command"),
        (lines({"surprise": 1}), "surprise: "),
    ],
)
def test_what_is_no_set_is_refused_with_its_line(text: str, words: str) -> None:
    """A wrong line is named with what is wrong about it."""
    with pytest.raises(Misconfigured, match=words) as refused:
        parse_items(text, "own")
    assert "guard set own" in refused.value.message
    assert refused.value.hint
