"""What a text refers to, held against sixty forms that two real servers answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.forge.references import CLOSE, Reference, combined, in_body, in_title

SAMPLES = Path(__file__).parents[3] / "samples"
ROOT = "http://git.fleet.test/"


def forms(server: str) -> list[Any]:
    """Read the recorded forms of one server."""
    return list(json.loads((SAMPLES / server / "closing_keywords.json").read_text()))


def rows(text: str, *, links_close: bool) -> list[list[str]]:
    """Return the timeline rows that a pull request body leaves on fleet/links#12."""
    found = in_body(text, root_url=ROOT, links_close=links_close)
    own = [("", ""), ("fleet", "links")]
    return [["pull_ref", r.action] for r in found if (r.owner, r.name) in own and r.number == 12]


@pytest.mark.parametrize("case", forms("gitea"), ids=lambda case: repr(case["form"]))
def test_a_form_is_read_as_1_26_reads_it(case: dict[str, Any]) -> None:
    """Each recorded form leaves the recorded rows on 1.26.1."""
    assert rows(case["form"].replace("{n}", "12"), links_close=True) == case["timeline"]


@pytest.mark.parametrize("case", forms("gitea-1.22"), ids=lambda case: repr(case["form"]))
def test_a_form_is_read_as_1_22_reads_it(case: dict[str, Any]) -> None:
    """Each recorded form leaves the recorded rows on 1.22.3, where an address only mentions."""
    assert rows(case["form"].replace("{n}", "12"), links_close=False) == case["timeline"]


def test_a_keyword_binds_one_reference() -> None:
    """`Fixes #1, #2` closes the first alone; `fixes #1, fixes #2` closes both."""
    assert [r.action for r in in_body("Fixes #1, #2")] == ["closes", "none"]
    assert [r.action for r in in_body("Fixes #1, fixes #2")] == ["closes", "closes"]


def test_neighbours_share_the_space_between_them() -> None:
    """Two references with one space between them are both seen."""
    assert [r.number for r in in_title("#1 #2 !3")] == [1, 2, 3]


def test_title_and_body_are_joined_by_the_stronger_action() -> None:
    """A mention in the title does not weaken the body's keyword."""
    assert combined([in_title("See #4"), in_body("Fixes #4")]) == [Reference("", "", 4, "closes")]


def test_carriage_returns_do_not_matter() -> None:
    """A body with CRLF line ends reads like one with LF."""
    assert in_body("Why:\r\n\r\nFixes #3\r\n") == [Reference("", "", 3, "closes")]


def test_another_host_is_no_reference() -> None:
    """The address of an issue on another host refers to nothing."""
    assert in_body("Fixes http://elsewhere.test/fleet/links/issues/3", root_url=ROOT) == []


@given(st.sampled_from(CLOSE), st.integers(1, 10**6), st.sampled_from(["", "Why:\n\n", "- ", "> ", "("]))
def test_every_keyword_closes_at_the_start_of_a_run(word: str, number: int, before: str) -> None:
    """Whatever the keyword and the number, a run that starts with them closes."""
    assert Reference("", "", number, "closes") in in_body(f"{before}{word} #{number}")


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    """No text makes the reader fail, and what stands in code is no reference."""
    assert all(r.number >= 0 for r in in_body(text, root_url=ROOT))
    assert in_body(f"```\n{text.replace('`', '').replace('~', '')} #1\n```") == []
