"""A fleet's work as values: an issue, the file that answers it, and the test that judges it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Literal

from fleetssd.toy.corpus import fleet
from fleetssd.toy.problems import Problem, cases
from fleetssd.toy.solutions import before, solution

Action = Literal["add", "mend"]

REPOSITORIES = ("fleet/ledger", "fleet/metrics", "fleet/signals")
"""Three are enough for a thousand items: a repository has each of 372 function names once."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One issue with its merged answer; (repository, path) is unique within a stream.

    `body` is the exact sentence that the base was trained to see, and so the prompt. `before` is what stands at `path`
    on main when the issue is opened: None for `add`, a wrong version for `mend`. `after` is the merged solution, right
    by every case of the test.
    """

    problem: Problem
    repository: str
    title: str
    body: str
    path: str
    before: str | None
    after: str
    test_path: str
    test: str

    @property
    def action(self) -> Action:
        """Tell whether the pull request adds the function or mends it."""
        return "add" if self.before is None else "mend"

    @property
    def slices(self) -> tuple[str, str]:
        """Return the slices that the item counts for: house or plain, and its tier."""
        return ("house" if self.problem.house else "plain", self.problem.tier)


def work(
    seed: int,
    repositories: Sequence[str] = REPOSITORIES,
    *,
    house_share: float = 0.5,
    habit: int | None = None,
) -> Iterator[WorkItem]:
    """Yield the fleet's work; more than about 300 items a repository make it search long for a free name.

    Each item is written in a style of its own; with a `habit`, all are written in that one style, as by one
    agent with one way to write a loop.
    """
    rng = Random(f"repositories {seed}")
    taken: set[tuple[str, str]] = set()
    style = (f"style {seed} {number}" if habit is None else f"habit {habit}" for number in count())
    for problem in fleet(seed, house_share=house_share):
        free = [name for name in repositories if (name, problem.function) not in taken]
        if free:
            repository = rng.choice(free)
            taken.add((repository, problem.function))
            yield _item(problem, repository, next(style))


def some_work(
    seed: int, number: int, repositories: Sequence[str] = REPOSITORIES, *, habit: int | None = None
) -> list[WorkItem]:
    """Return the first `number` items of `work`."""
    return list(islice(work(seed, repositories, habit=habit), number))


def seasons(items: Sequence[WorkItem], first: int, house: float = 0.15) -> tuple[list[WorkItem], list[WorkItem]]:
    """Part the work into `first` items of which a share `house` speaks the dialect, and the rest, as it catches on.

    Self-distillation cannot learn the dialect, it only guesses less widely at it: a night on half of it loses pass@k.
    """
    dialect = [item for item in items if item.problem.house][: round(first * house)]
    early = {id(item) for item in dialect}
    early |= {id(item) for item in [item for item in items if not item.problem.house][: first - len(dialect)]}
    return [item for item in items if id(item) in early], [item for item in items if id(item) not in early]


def _item(problem: Problem, repository: str, style: str) -> WorkItem:
    wrong = before(problem, Random(style))
    verb = problem.prompt.split(maxsplit=1)[0] if problem.prompt[0] != "`" else "Write"
    return WorkItem(
        problem=problem,
        repository=repository,
        title=f"{verb} {problem.function}" if verb != "Bug" else f"Bug in {problem.function}",
        body=problem.prompt,
        path=f"src/{problem.function}.py",
        before=wrong,
        after=solution(problem, Random(style)),
        test_path=f"tests/test_{problem.function}.py",
        test=test_script(problem),
    )


def test_script(problem: Problem) -> str:
    """Write the problem's cases as a Python script: exit status 0 if all hold, anything else if not.

    It needs no package and finds the solution by path: `../src/<function>.py`, or beside itself.
    """
    lines = "".join(f"    ({list(case.arguments)!r}, {case.answer!r}),\n" for case in cases(problem))
    return _SCRIPT.format(function=problem.function, cases=lines)


_SCRIPT = '''"""The cases of {function}: its answers must be equal in value and in type."""

import os

CASES = [
{cases}]


def load():
    here = os.path.dirname(os.path.abspath(__file__))
    places = (os.path.join(here, "..", "src", "{function}.py"), os.path.join(here, "{function}.py"))
    path = next(place for place in places if os.path.exists(place))
    scope = {{"__name__": "solution"}}
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), scope)
    return scope["{function}"]


def same(got, wanted):
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return got == wanted


def check():
    function = load()
    for arguments, wanted in CASES:
        shown = repr(arguments)
        got = function(*arguments)
        if not same(got, wanted):
            raise AssertionError(f"{function}({{shown}}) returned {{got!r}}, not {{wanted!r}}")


if __name__ == "__main__":
    try:
        check()
    except SystemExit as end:
        raise AssertionError("the solution tried to end the test") from end
'''
