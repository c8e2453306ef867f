"""How prompts and solutions are written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleetssd import config
from fleetssd.diffs import PullDiff
from fleetssd.gitea import Comment, IssueText
from fleetssd.rendering import prompt, solution
from tests.unit.test_records import FLEET, PULL

AT = datetime(2026, 11, 21, tzinfo=UTC)
DIFF = b"diff --git a/a.py b/a.py\nindex 1..2 100644\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-A = 1\n+A = 2\n"
CHANGE = PullDiff(
    "b" * 40,
    "h" * 40,
    DIFF,
    ("a.py",),
    (("a.py", "A = 2\n"),),
    before=(("a.py", "A = 1\n"), ("tests/test_a.py", "x\n")),
)
ISSUE = IssueText("fleet/a", 1, "Count", "To two.", author="ann")
ISSUE = replace(
    ISSUE,
    comments=(
        Comment("ann", "Soon.", AT),
        Comment("bob", "Why?", AT),
        Comment("agent-2", "Me!", AT),
        Comment("ann", "Done by A = 2.", AT + timedelta(days=2)),
    ),
)
OPENED = replace(PULL, opened_at=AT + timedelta(days=1))


def written(**rules: Any) -> str:
    """Write the prompt of one issue under some settings."""
    return prompt(OPENED, [ISSUE], CHANGE, FLEET, config.Records(**rules))


def test_by_default_the_issue_is_all() -> None:
    """Title and body."""
    assert written() == "Count\n\nTo two."


@pytest.mark.parametrize(("who", "shown"), [("author", ["Soon."]), ("people", ["Soon.", "Why?"])])
def test_comments_are_chosen(who: str, shown: list[str]) -> None:
    """The issue's author, or people; no agent, and nothing younger than the pull request."""
    text = written(comments=who)
    assert [word for word in ("Soon.", "Why?", "Me!", "Done") if word in text] == shown
    assert prompt(replace(OPENED, opened_at=None), [ISSUE], CHANGE, FLEET, config.Records(comments=who)) == written()


def test_files_are_shown_as_they_were_within_the_budget() -> None:
    """Touched files before the change, tests left out; one that does not fit is left out whole."""
    assert written(context_tokens=100).endswith("\n\n### `a.py`\n```\nA = 1\n```\n")
    assert "test_a" not in written(context_tokens=100)
    assert written(context_tokens=2) == written()


def test_places_of_the_template_are_used() -> None:
    """A named place takes its text; the system prompt stands before everything."""
    text = written(
        system_prompt="You mend.", prompt_template="{files}---{title}", context_tokens=100, comments="author"
    )
    assert text.startswith("You mend.\n\n### `a.py`")
    assert "---Count\n\nComment by ann:" in text


def test_a_secret_of_several_lines_leaves_no_diff() -> None:
    """Lines that redaction takes out of a hunk break it: refused, not taught broken."""
    rules = config.Records()
    assert solution(CHANGE, rules, lambda text: text.replace("A = 1", "<redacted>")).refusals == []
    assert solution(CHANGE, rules, lambda text: text.replace("-A = 1\n", "")).refusals == ["secret"]


def test_whole_files_need_every_file() -> None:
    """A file that was not read as text cannot be written."""
    rules = config.Records(solution_format="files")
    assert solution(CHANGE, rules, str).text == "### `a.py`\n```\nA = 2\n```\n"
    assert solution(replace(CHANGE, files=()), rules, str).refusals == ["format_files"]
    assert solution(replace(CHANGE, diff=b"<html>"), rules, str).refusals == ["format_files"]
