"""When an answer is the merged change itself."""

from __future__ import annotations

import pytest

from fleetssd.changes import Change
from fleetssd.references import same

GOLD = Change((("a.py", "x = [1, 2]\n"), ("b.txt", "one  two\n\nthree\n")), ("c.py",))


@pytest.mark.parametrize(
    ("written", "removed", "equal"),
    [
        ({"a.py": "# why\nx = [\n    1,\n    2,\n]\n", "b.txt": "one two\nthree"}, ("c.py",), True),
        ({"a.py": "x = [2, 1]\n", "b.txt": "one two\nthree\n"}, ("c.py",), False),
        ({"a.py": "x = [1, 2]\n", "b.txt": "one two three\n"}, ("c.py",), False),
        ({"a.py": "x = [1, 2]\n"}, ("c.py",), False),
        ({"a.py": "x = [1, 2]\n", "b.txt": "one two\nthree\n"}, (), False),
        ({"a.py": "x = [1,\n", "b.txt": "one two\nthree\n"}, ("c.py",), False),
    ],
)
def test_layout_and_comments_do_not_count(written: dict[str, str], removed: tuple[str, ...], equal: bool) -> None:
    """The same files with the same syntax trees are the same change; anything else is not."""
    assert same(Change(tuple(written.items()), removed), GOLD) is equal
