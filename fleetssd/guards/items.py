"""A guard set: questions, how each is graded, and an answer of either side that proves its check."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleetssd.errors import Misconfigured
from fleetssd.guards.checks import Check


class Item(BaseModel):
    """One question of a set. `good` passes its check and `bad` does not, so a check is known to tell them apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[\w.-]+$")
    prompt: str = Field(min_length=1)
    check: Check
    good: str
    bad: str


def parse_items(text: str, name: str) -> tuple[Item, ...]:
    """Read a set from JSON Lines.

    Raises Misconfigured, naming the line, where one is no item, repeats an id, or its check is proven wrong by the
    item's own answers.
    """
    items: dict[str, Item] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = Item.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise _wrong(name, number, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if item.id in items:
            raise _wrong(name, number, f"the id {item.id} occurs twice")
        if not item.check.passes(item.good):
            raise _wrong(name, number, f"its own good answer {item.good!r} fails")
        if item.check.passes(item.bad):
            raise _wrong(name, number, f"its own bad answer {item.bad!r} passes")
        items[item.id] = item
    if not items:
        raise Misconfigured(f"guard set {name} has no items", hint="Write one JSON object a line.")
    return tuple(items.values())


def _wrong(name: str, number: int, what: str) -> Misconfigured:
    hint = "Each line: id, prompt, check (with its kind), a good answer that passes and a bad one that fails."
    return Misconfigured(f"guard set {name}, line {number}: {what}", hint=hint)
