"""A held-out problem: its prompt, what counts as an answer, and how that answer is checked."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fleetssd.changes import Change, applied
from fleetssd.errors import Corrupt
from fleetssd.extraction import Extracted, Format, Malformed, extract
from fleetssd.solutions import File
from fleetssd.surroundings import BARE, Surroundings

__all__ = ["Change", "Extracted", "Format", "Malformed", "Outcome", "Problem", "combine", "extract"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One held-out issue with the hidden tests of the pull request that closed it.

    `tests` are (path, content); `check` is a shell-like command in which `{test}` stands for a test's path and
    `{tests}` for all of them, as far as they are `named` (none named: all). `tree` are the files that an answer is
    applied to, empty where an answer stands alone; `guards` are the globs of those that no answer changes. The merged
    change removed the tests in `removed` and made those in `executable` runnable. `slices` are labels the report
    groups by. A problem without tests is compared with `gold` instead, which is weaker evidence.
    Paths are relative to the work folder; others raise Corrupt.
    """

    id: str
    repository: str
    pull: int
    prompt: str
    solution_path: str
    tests: tuple[tuple[str, str], ...]
    check: str = "python {test}"
    slices: tuple[str, ...] = ()
    format: Format = "code"
    named: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    executable: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    tree: Mapping[str, File] = field(default_factory=dict, compare=False, repr=False)
    surroundings: Surroundings = BARE
    gold: Change | None = None

    def __post_init__(self) -> None:
        single = (self.solution_path,) if self.format == "code" else ()
        for path in (*single, *(path for path, _ in self.tests)):
            if not _inside(path):
                raise Corrupt(
                    f"problem {self.id}: {path!r} is no path inside the work folder",
                    hint="Refuse the record.",
                )
        if not self.tests and self.gold is None:
            raise Corrupt(f"problem {self.id} has no tests", hint="Only records with tests can examine a model.")

    def answer(self, completion: str) -> Change | Malformed:
        """Return what a completion does to the files, or why it is no answer; never raises."""
        found = extract(completion, self.format)
        if isinstance(found, Malformed):
            return found
        tests = [path for path, _ in self.tests]
        return applied(found.content, self.format, self.tree, guards=self.guards, tests=tests, path=self.solution_path)

    def files(self, change: Change) -> tuple[tuple[str, str], ...]:
        """Return (path, content) of everything a run needs; a test always wins over the answer's file."""
        return tuple((dict(change.written) | dict(self.tests)).items())

    def gone(self, change: Change) -> tuple[str, ...]:
        """Return the paths that are no more when the check runs."""
        return tuple(dict.fromkeys((*change.removed, *self.removed)))

    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Return the argument lists to run, all of which must pass: one a test, or one where `check` names none."""
        paths = self.named or tuple(path for path, _ in self.tests)
        words = [each for word in shlex.split(self.check) for each in (paths if word == "{tests}" else (word,))]
        if not any("{test}" in word for word in words):
            return (tuple(words),)
        return tuple(tuple(word.replace("{test}", path) for word in words) for path in paths)


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
