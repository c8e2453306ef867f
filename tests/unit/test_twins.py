"""What ties records together, and which of those that are tied belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleetssd.gitea import PullKey, PullRow
from fleetssd.records import Record, refused_row
from fleetssd.shingles import Shingles, looks
from fleetssd.twins import Cache, issue_tie, number, related, ties, unsketched


def record(name: str, prompt: str = "", solution: str = "", issue: str = "") -> Record:
    """Make a record of an issue; by default it is its own."""
    row = PullRow(PullKey("f", 1, len(name)), "fleet/a", "", "", "agent-1", True, (), None, "")
    made = replace(refused_row(row, ()), id=name, prompt=prompt, solution=solution, solution_path="a.py")
    return replace(made, split_keys=(issue or f"1!{name}",))


def tied(one: Record, tie: int = 7) -> Record:
    """Give a record a tie beside its exact ones."""
    return replace(one, ties=(tie,))


def found(one: Record, other: Record, threshold: float = 0.8, cache: Cache | None = None) -> dict[str, str]:
    """Return who of `one` belongs to `other`."""
    return related([one], [other], threshold, {} if cache is None else cache)


CODE = "def {0}(values):\n    total = 0\n    for value in values:\n        total += value * 3\n    return total\n"
ONE = record("one", "Add the numbers times three", CODE.format("add"))
TWIN = record("twin", "Add the numbers  times three!", CODE.format("sum_up"))


def test_numbers_are_the_same_everywhere() -> None:
    """A tie is on disk, so it never changes and fits into 64 bits with a sign."""
    assert number(b"issue 1#2") == issue_tie("1#2") == -9178813983048633423
    assert -(2**63) <= number(b"") < 2**63


def test_a_record_is_tied_by_issue_prompt_and_buckets() -> None:
    """The sketch sees the wish and the answer, told apart; without texts only the issue ties."""
    seen: list[Shingles] = []

    def sketch(shingles: Shingles) -> tuple[int, ...]:
        seen.append(shingles)
        return (1, 2)

    both = ties(ONE, sketch)
    assert both[0] == issue_tie("1!one")
    assert both[2:] == (1, 2)
    assert {piece[:2] for piece in seen[0]} == {"w ", "a "}
    assert ties(record("x"), sketch) == (issue_tie("1!x"),)
    assert len(ties(ONE, unsketched)) == 2


def test_one_issue_belongs_together() -> None:
    """Texts do not matter, nor do their ties on file."""
    assert found(record("a", issue="1#3"), record("b", issue="1#3")) == {"a": "b"}


def test_one_prompt_belongs_together() -> None:
    """Letter case and spaces do not tell two prompts apart."""
    assert found(record("a", "Add  It"), record("b", "add it")) == {"a": "b"}


def test_what_is_alike_belongs_together_where_a_tie_makes_them_meet() -> None:
    """Twins share a bucket; without one they are never compared, and below the threshold they are strangers."""
    assert found(tied(ONE), tied(TWIN)) == {"one": "twin"}
    assert found(ONE, TWIN) == {}
    stranger = record("other", "Paint the fence blue before noon", "print('blue')\n")
    assert found(tied(ONE), tied(stranger)) == {}


def test_nobody_is_related_to_itself_or_to_a_record_without_texts() -> None:
    """A refused record has no prompt; a bucket that it kept from before proves nothing."""
    assert found(ONE, ONE) == {}
    assert found(tied(ONE), tied(record("bare"))) == {}
    assert found(tied(record("bare")), tied(ONE)) == {}


@pytest.mark.parametrize("known", [False, True])
def test_looks_are_taken_once(known: bool) -> None:
    """The caller's cache is used where it holds a record, and filled where it does not."""
    cache = {"one": looks(ONE)} if known else {}
    before = cache.get("one")
    found(tied(ONE), tied(TWIN), cache=cache)
    assert set(cache) == {"one", "twin"}
    assert before is None or cache["one"] is before
