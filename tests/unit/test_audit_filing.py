"""The audit's issue: the same findings give the same text, and it is never too long."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.audit import Audit, Skipped, Source, World, examine
from fleetssd.audit.advice import Advice
from fleetssd.audit.filing import MARK, ROWS, Filed, body, ours, parse

ROW: dict[str, Any] = {
    "number": 3, "user": {"login": "bot"}, "title": "t", "body": "a\r\nb", "state": "closed", "labels": [{"id": 7}],
}  # fmt: skip


def test_a_row_of_the_forge_is_read() -> None:
    """Line ends are made one kind; what a deleted account left has no author."""
    assert parse(ROW) == Filed(3, "bot", "t", "a\nb", closed=True, labels=frozenset({7}))
    assert parse({**ROW, "user": None, "labels": None, "body": None}).author == ""


def test_the_oldest_issue_with_the_mark_is_ours() -> None:
    """Of two, the first; a mark in the midst of a text is no mark."""
    rows = [parse({**ROW, "number": n, "body": text}) for n, text in ((1, f"see {MARK}"), (2, MARK), (3, MARK))]
    assert ours(rows) == rows[1]
    assert ours(rows[:1]) is None


def test_the_text_tells_findings_advice_and_what_was_not_read() -> None:
    """It begins with the mark and has a row a finding."""
    audit = examine([Source("M", "modelfile", "PARAMETER temperature 0.3")], World(), [Skipped("x.yaml", "binary")])
    text = body(audit, Advice("bake", 0.3, "T = 0.3 gains +5.0 pp [+1.0, +9.0]"))
    assert text.startswith(MARK)
    assert "| masked | `temperature` | `0.3` | `PARAMETER.temperature` | `M:1` | serve |" in text
    assert "**bake** at T = 0.3: T = 0.3 gains +5.0 pp \\[+1.0, +9.0\\]" in text
    assert "- `x.yaml`: binary" in text
    assert body(audit) == body(audit)


def test_a_sentence_keeps_its_names_and_refers_to_nobody() -> None:
    """Underscores and asterisks are shown as they are; a mention, an issue's number and a tag are taken apart."""
    found = examine([Source(".env", "env", "OLLAMA_TEMPERATURE=0.2")], World(), [Skipped("x", "@me #1 !2 <b> a_b *")])
    assert "- `x`: ·me ·1 ·2 ·b· a\\_b \\*" in body(found)


def test_no_findings_are_told_too() -> None:
    """An empty audit has no table."""
    assert "Nothing was found." in body(Audit(()))
    assert "|" not in body(Audit(()))


def test_a_long_table_is_cut() -> None:
    """More findings than a page can show are counted; an empty value is an empty cell."""
    text = body(examine([Source("M", "modelfile", "PARAMETER stop\n" * (ROWS + 2))], World()))
    assert text.count("| yes |") == ROWS
    assert "| `stop` |  | `PARAMETER.stop` | `M:1` |" in text
    assert "and 2 more" in text


@given(st.text(), st.text())
def test_no_value_breaks_out_of_its_cell(name: str, value: str) -> None:
    """Whatever files are named and hold, every row has as many cells as the head."""
    text = body(examine([Source(name, "toml", f"temperature = '{value}'")], World()))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.count("|") == 8 for row in rows)
