"""What a rename, a layout and a comment leave of a wish and its answer, and what a constant changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.gitea import PullKey, PullRow
from fleetssd.records import Record, refused_row
from fleetssd.shingles import likeness, looks
from fleetssd.toy.work import some_work

ROW = PullRow(PullKey("f", 1, 0), "fleet/a", "", "", "agent-1", True, (), datetime(2026, 1, 1, tzinfo=UTC), "")
EMPTY = refused_row(ROW, ())

WISH = "Add discount\n\nWrite `discount(prices, limit)`: return the sum of the prices over 30, less 5 percent."
ANSWER = '''def discount(prices, limit):
    """Take five percent off."""
    total = 0
    for price in prices:
        if price > 30:  # only the dear ones
            total += price * 0.95
    return min(total, limit)
'''
RENAMED_WISH = "Add rebate\n\nWrite `rebate(amounts, cap)`: return the sum of the prices over 30, less 5 percent."
RENAMED = '''def rebate(amounts, cap):
    """Zieht fünf Prozent ab."""
    acc = 0

    for amount in amounts:
        if (amount > 30):  # nur die teuren
            acc += amount * 0.95

    return min(acc, cap)
'''
SCRIPT = "// adds up\nfunction sum(xs) {\n  let out = 0; /* start */\n  for (const x of xs) out += x\n  return out\n}\n"
SCRIPT_TWIN = "function addUp(list) {\n  let n = 0;\n  for (const i of list)\n    out += i;\n  return n;\n}\n"


def record(prompt: str, solution: str, path: str = "src/a.py") -> Record:
    """Make a record of these texts."""
    return replace(EMPTY, prompt=prompt, solution=solution, solution_path=path)


def alike(one: Record, other: Record) -> float:
    """Return how alike two records are."""
    return likeness(looks(one), looks(other))


def diff(code: str, path: str) -> str:
    """Make a unified diff that adds a file."""
    added = "".join(f"+{line}\n" for line in code.splitlines())
    return f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,9 @@\n{added}"


def test_names_layout_and_comments_do_not_count() -> None:
    """A renamed, reformatted copy with translated comments is the same, whether its prose was renamed or not."""
    assert alike(record(WISH, ANSWER), record(RENAMED_WISH, RENAMED, "lib/b.py")) >= 0.8
    through = RENAMED_WISH.replace("the prices", "the amounts")
    assert alike(record(WISH, ANSWER), record(through, RENAMED, "lib/b.py")) == 1


def test_diffs_are_compared_by_what_they_change() -> None:
    """The same holds of diffs, whatever the file is called and wherever the change lies in it."""
    one, other = record(WISH, diff(ANSWER, "src/a.py"), ""), record(RENAMED_WISH, diff(RENAMED, "lib/deep/b.py"), "")
    assert alike(one, other) >= 0.8
    taken_away = replace(one, solution=one.solution.replace("\n+", "\n-"))
    assert alike(one, taken_away) < 0.2


@pytest.mark.parametrize(("before", "after"), [("30", "31"), (">", "<"), ("min", "max"), ("+=", "-="), ("*", "/")])
def test_a_constant_or_an_operator_makes_another_problem(before: str, after: str) -> None:
    """What computes something else is not the same answer, though everything around it is."""
    assert alike(record(WISH, ANSWER), record(WISH, ANSWER.replace(before, after))) < 1


def test_a_short_problem_with_another_constant_is_far_away() -> None:
    """One number of a short problem is much of it."""
    one = record("Add `keep(xs)`: return the values over 5.", "def keep(xs):\n    return [x for x in xs if x > 5]\n")
    other = record("Add `pick(ns)`: return the values over 7.", "def pick(ns):\n    return [n for n in ns if n > 7]\n")
    assert alike(one, other) < 0.7


def test_both_the_wish_and_the_answer_must_agree() -> None:
    """Two changes of one large file are not twins, nor are two answers to the same template."""
    assert alike(record(WISH, ANSWER), record("Something else altogether, please", ANSWER)) < 0.1
    assert alike(record(WISH, ANSWER), record(WISH, "x = 1\n")) < 0.1


def test_comments_are_of_their_language() -> None:
    """Two slashes begin a comment in JavaScript and divide in Python."""
    script = SCRIPT_TWIN.replace("out +=", "n +=")
    assert alike(record("Sum", SCRIPT, "a.js"), record("Sum", script, "b.ts")) >= 0.8
    assert alike(record("Halve", "return x // 2", "a.py"), record("Halve", "return x // 3", "a.py")) < 1
    assert alike(record("Drop", "SELECT a -- all\nFROM t", "a.sql"), record("Drop", "SELECT a\nFROM t", "b.sql")) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mask = flags & 0xff", "mask = flags & 255"),
        ("raise E('one two '\n    'three')", 'raise E("one two three")'),
        (r"find(r'\d+\n', b'x')", r"find('\\d+\\n', b'x')"),
        ("end = fn(match)", "stop = run(found)"),
    ],
    ids=["number", "parted string", "raw string", "another language's keywords"],
)
def test_one_thing_written_in_two_ways_is_the_same(before: str, after: str) -> None:
    """A number counts, a string reads, and only Python's own keywords are more than names in Python."""
    assert alike(record("Wish", f"x = 1\n{before}\n"), record("Wish", f"x = 1\n{after}\n")) == 1


def test_two_strings_are_not_one() -> None:
    """A comma between strings keeps them apart."""
    assert alike(record("Wish", "f('a', 'b')\n"), record("Wish", "f('ab')\n")) < 1


def test_prose_without_spaces_has_words() -> None:
    """A script that does not part its words is compared sign by sign."""
    one, other = (
        record("把列表里的数字加起来然后返回结果", "x = 1"),
        record("把列表里的数字加起来然后返回总数", "x = 1"),
    )
    assert 0.5 < alike(one, other) < 1


def test_the_toys_problems_stay_apart() -> None:
    """Of 800 toy problems, which differ in constants, operators and names, only renamed copies are near-duplicates."""
    found = [looks(record(item.body, item.after, item.path)) for item in some_work(1, 800)]
    twins = [
        (a, b)
        for number, a in enumerate(found)
        for b in found[:number]
        if len(a.answer & b.answer) * 2 > len(a.answer) and likeness(a, b) >= 0.7
    ]
    assert len(twins) < 60
    assert all(likeness(a, b) == 1 for a, b in twins if likeness(a, b) >= 0.8)


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from(["a.py", "a.c", "a.sql", ""]))
def test_any_text_can_be_looked_at(prompt: str, solution: str, path: str) -> None:
    """Every record is as alike to itself as can be, and likeness is the same both ways."""
    one, other = record(prompt, solution, path), record(solution, prompt, path)
    assert alike(one, one) == 1
    assert alike(one, other) == alike(other, one)


def test_the_number_of_an_issue_is_no_word_of_a_wish() -> None:
    """What a wish refers to says nothing of what it wishes for; a plain number does."""
    wished = looks(record("Add the sum of 30", ANSWER)).words
    assert looks(record("Add the sum #12 of !7 30", ANSWER)).words == wished
    assert looks(record("Add the sum of 31", ANSWER)).words != wished
