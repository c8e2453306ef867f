"""A held-out problem: its prompt, what counts as an answer, and how that answer is checked."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from fleetssd.errors import Corrupt

Format: TypeAlias = Literal["code"]
"""The solution formats that can be run: `code` is the whole content of one file after the change."""

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One held-out issue with the hidden tests of the pull request that closed it.

    `tests` are (path, content); `check` is a shell-like command in which `{test}` stands for a test's path.
    `slices` are labels the report groups by. Paths are relative to the work folder; others raise Corrupt.
    """

    id: str
    repository: str
    pull: int
    prompt: str
    solution_path: str
    tests: tuple[tuple[str, str], ...]
    check: str = "python {test}"
    slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.solution_path, *(path for path, _ in self.tests)):
            if not _inside(path):
                raise Corrupt(
                    f"problem {self.id}: {path!r} is no path inside the work folder",
                    hint="Refuse the record.",
                )
        if not self.tests:
            raise Corrupt(f"problem {self.id} has no tests", hint="Only records with tests can examine a model.")

    def files(self, solution: str) -> tuple[tuple[str, str], ...]:
        """Return (path, content) of everything a run needs; a test always wins over the solution's file."""
        return tuple(({self.solution_path: solution} | dict(self.tests)).items())

    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Return the argument lists to run, all of which must pass: one a test, or one where `check` names none."""
        words = shlex.split(self.check)
        if not any("{test}" in word for word in words):
            return (tuple(words),)
        return tuple(tuple(word.replace("{test}", path) for word in words) for path, _ in self.tests)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The solution found in a completion: the content of the problem's `solution_path`."""

    content: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A completion without a usable solution: a failed answer, not an error."""

    reason: str


def extract(completion: str, solution_format: Format) -> Extracted | Malformed:
    """Find the solution in a completion.

    Format `code`: the longest fenced block where there is a Markdown fence (one that is never closed runs to the
    end), else the whole text. The content ends with one newline.
    """
    del solution_format  # one format can be run so far; the type keeps callers honest
    blocks = [match.group(2) for match in _FENCE.finditer(completion)]
    content = max(blocks, key=len) if blocks else completion
    content = content.strip("\n").rstrip()
    if not content.strip():
        return Malformed("empty answer")
    if "\0" in content:
        return Malformed("the answer contains a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in content):
        return Malformed("the answer is not valid Unicode")
    return Extracted(content + "\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer did. A `fault` is the sandbox's own failure: the answer is void, and never a pass."""

    passed: bool
    fault: bool = False
    detail: str = ""

    def __post_init__(self) -> None:
        if self.passed and self.fault:
            raise ValueError("a faulty run proves nothing, so it cannot have passed")


def combine(outcomes: tuple[Outcome, ...]) -> Outcome:
    """Fold the runs of one answer (one a test) into one: a failure decides, else a fault, else it passed."""
    failed = [outcome for outcome in outcomes if not outcome.passed and not outcome.fault]
    faulty = [outcome for outcome in outcomes if outcome.fault]
    return (failed + faulty or [Outcome(passed=bool(outcomes))])[0]


def _inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path
