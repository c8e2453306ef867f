"""Stage `evaluate`: ask every arm the same held-out issues, interleaved in time, and run the answers in the sandbox."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast

from fleetssd.checkpoints import Answer
from fleetssd.operations.learn import seed_of
from fleetssd.ports import Completion, Engine, Grade, Job, Progress, Prompt, Sandbox, Store
from fleetssd.problems import Change, Malformed, Outcome, Problem, combine
from fleetssd.recipe import Sampling
from fleetssd.references import same

if TYPE_CHECKING:
    from fleetssd.sequential import Decision  # numpy: the daemon's watch grades answers and needs none of it

BASE, TUNED, INCUMBENT, CANDIDATE, PROBED = "base", "tuned base", "incumbent", "candidate", "candidate at base's T"
TEACHER = "teacher decode"
"""The base at the decode of the training samples, in the engine's own order: what it gives without any learning."""
LOOKS = 12
"""Blocks where the evaluation may stop after each: small enough to stop soon, large enough to keep the engine busy."""
BLOCKS = 4
"""Arms take turns in this many blocks of problems: drift hits all alike, and a shared base is not reloaded per call."""
PART = 64
"""Answers that are asked, graded and kept together: more than an engine has slots, little to lose in a crash."""
AHEAD = 2
"""Parts that are asked at once: the second waits in the engine's queue and takes the slots that the first leaves."""


class Question(Protocol):
    """What can be asked: a held-out problem, or a guard task."""

    @property
    def id(self) -> str:
        """What the answer is filed under."""
        ...

    @property
    def prompt(self) -> str:
        """The user's text."""
        ...


Q = TypeVar("Q", bound=Question)
Stop: TypeAlias = "Callable[[Sequence[Problem]], Decision]"
"""Looks at what is on file of the problems asked so far."""
Mark: TypeAlias = "Callable[[Sequence[Any], Sequence[Completion], Sandbox], list[Outcome]]"
"""Grades answers to questions of one kind, in order."""
Known: TypeAlias = "MutableMapping[bytes, Outcome]"
"""How changes did that were run before, by `_key`."""


@dataclass(frozen=True, slots=True)
class Examined(Generic[Q]):
    """The problems that every arm was asked, and why no more: "continue" where there were no more."""

    problems: Sequence[Q]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the night's table: a name, the model asked and the decode it is asked with."""

    name: str
    model: str
    sampling: Sampling
    samples: int


@dataclass(frozen=True, slots=True)
class Examiner:
    """Asks and grades; what is on file already is neither asked nor graded again.

    `mark` grades the answers; without one they are run against their problems' hidden tests, equal answers to one
    problem once a night, whichever arm gives them: what is `known` is not run again.
    """

    night: int
    seed: int
    store: Store
    engine: Engine
    sandbox: Sandbox
    progress: Progress
    mark: Mark | None = None
    known: Known = field(default_factory=dict)

    def examine(
        self, arms: Sequence[Arm], problems: Sequence[Q], stop: Callable[[Sequence[Q]], Decision] | None = None
    ) -> Examined[Q]:
        """Ask every arm every problem `samples` times; the answers of a few problems are one transaction.

        With `stop` the answers are looked at after each block. A block on file is not asked again but looked at
        again, so a night that was interrupted stops where it would have stopped.
        """
        total = sum(arm.samples for arm in arms) * len(problems)
        rows = {arm.name: self.store.answers(self.night, arm.name) for arm in arms}
        have = {name: {(row.problem, row.index) for row in kept} for name, kept in rows.items()}
        if self.mark is None:
            self._remember((row for kept in rows.values() for row in kept), cast("Sequence[Problem]", problems))
        del rows  # every answer's text
        with _Line(total, self.progress, self._files({arm.model for arm in arms})) as line:
            seen = 0
            for block in blocks(problems, LOOKS if stop else BLOCKS):
                for arm in arms:
                    for part in blocks(block, -(-len(block) * arm.samples // PART)):
                        line.put(arm, arm.samples * len(part), partial(self._ask, arm, part, have[arm.name]))
                seen += len(block)
                if stop:
                    line.drain()
                    if (decision := stop(problems[:seen])) != "continue":
                        return Examined(problems[:seen], decision)
            line.drain()
        return Examined(problems, "continue")

    def _files(self, models: Set[str]) -> dict[str, str]:
        """Return the file of each model, '' where it is gone: whoever asked it is told so when all is asked."""
        return {model: self.engine.blob_of(model) if self.engine.digest_of(model) else "" for model in models}

    def _remember(self, rows: Iterable[Answer], problems: Sequence[Problem]) -> None:
        """Learn from the answers on file how their changes did."""
        asked = {problem.id: problem for problem in problems}
        for row in rows:
            if row.problem in asked and not row.fault:
                change = asked[row.problem].answer(row.completion)
                if isinstance(change, Change):
                    self.known.setdefault(_key(asked[row.problem], change), Outcome(row.passed, detail=row.detail))

    def _ask(self, arm: Arm, part: Sequence[Question], have: Set[tuple[str, int]]) -> Callable[[], None]:
        """Ask what is not on file yet and return the work that is left: to grade the answers and keep them."""
        open_ = [(p, i) for p in part for i in range(arm.samples) if (p.id, i) not in have]
        # One seed for (problem, index) in every arm: the arms' noise is shared, so their difference is less noisy.
        prompts = [Prompt(problem.prompt, seed_of(self.seed, problem.id, index)) for problem, index in open_]
        completions = self.engine.complete(arm.model, prompts, arm.sampling, lambda *_: None) if prompts else []
        return lambda: self._keep(arm, open_, prompts, completions)

    def _keep(
        self,
        arm: Arm,
        asked: Sequence[tuple[Question, int]],
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
    ) -> None:
        mark: Mark = self.mark or partial(grade, known=self.known)
        outcomes = mark([problem for problem, _ in asked], completions, self.sandbox)
        self.store.add_answers(
            Answer(
                night=self.night,
                arm=arm.name,
                problem=problem.id,
                index=index,
                seed=prompt.seed,
                completion=completion.text,
                finish=completion.finish,
                passed=outcome.passed,
                fault=outcome.fault,
                detail=outcome.detail[:200],
            )
            for (problem, index), prompt, completion, outcome in zip(asked, prompts, completions, outcomes, strict=True)
        )


class _Line:
    """Asks parts in order, grades them in order behind, and reports; neither waits for the other.

    An error of either ends the block with it; what was not begun by then is dropped.
    """

    def __init__(self, total: int, progress: Progress, files: Mapping[str, str]) -> None:
        self._total, self._progress, self._done, self._files = total, progress, 0, files
        self._askers = ThreadPoolExecutor(AHEAD, thread_name_prefix="ask")
        self._grader = ThreadPoolExecutor(1, thread_name_prefix="grade")
        self._asking: deque[tuple[Future[Callable[[], None]], int, Arm]] = deque()
        self._grading: deque[Future[None]] = deque()

    def put(self, arm: Arm, answers: int, ask: Callable[[], Callable[[], None]]) -> None:
        """Ask a part as soon as fewer than AHEAD are being asked, and none whose model this one would evict."""
        while len(self._asking) >= AHEAD or (self._asking and self._evicts(self._asking[-1][2].model, arm.model)):
            self._answered()
        self._asking.append((self._askers.submit(ask), answers, arm))

    def drain(self) -> None:
        """Wait until everything is asked, graded and kept."""
        while self._asking:
            self._answered()
        while self._grading:
            self._grading.popleft().result()

    def _evicts(self, one: str, other: str) -> bool:
        """Tell whether two models are one file with different adapters: an Ollama has but one of these loaded."""
        return one != other and self._files[one] == self._files[other]

    def _answered(self) -> None:
        future, answers, arm = self._asking.popleft()
        self._grading.append(self._grader.submit(future.result()))
        while self._grading and self._grading[0].done():
            self._grading.popleft().result()
        self._done += answers
        self._progress(self._done, self._total, f"answers of {arm.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._askers.shutdown(cancel_futures=True)
        self._grader.shutdown(cancel_futures=True)


def grade(
    problems: Sequence[Problem], completions: Sequence[Completion], sandbox: Sandbox, known: Known | None = None
) -> list[Outcome]:
    """Run every answer against its problem's hidden tests; equal answers to one problem are run once.

    What is `known` is not run, and what was run is added to it unless the sandbox failed. An answer to a problem
    without tests is compared with the merged change instead.
    """
    known = {} if known is None else known
    found = [problem.answer(completion.text) for problem, completion in zip(problems, completions, strict=True)]
    runs: dict[bytes, tuple[Job, ...]] = {}
    for problem, change, completion in zip(problems, found, completions, strict=True):
        if isinstance(change, Change) and problem.gold is None and completion.finish != "error":
            key = _key(problem, change)
            if key not in known and key not in runs:
                runs[key] = jobs(str(len(runs)), problem, change)
    grades = {g.id: g for g in sandbox.run([job for each in runs.values() for job in each], lambda *_: None)}
    fresh = {key: outcome([grades[job.id] for job in each]) for key, each in runs.items()}
    known.update((key, each) for key, each in fresh.items() if not each.fault)
    out = []
    for problem, completion, change in zip(problems, completions, found, strict=True):
        if completion.finish == "error":
            # The engine failed, not the model: the pair is void, and a void is held against the candidate.
            out.append(Outcome(passed=False, fault=True, detail="the engine gave no answer"))
        elif isinstance(change, Malformed):
            out.append(Outcome(passed=False, detail=change.reason))
        elif problem.gold is not None:
            out.append(Outcome(passed=same(change, problem.gold)))
        else:
            key = _key(problem, change)
            out.append(fresh[key] if key in fresh else known[key])
    return out


def _key(problem: Problem, change: Change) -> bytes:
    """Return what tells a change from every other in a night; a digest, since files may be large."""
    return hashlib.sha256(repr((problem.id, change)).encode()).digest()


def jobs(name: str, problem: Problem, change: Change) -> tuple[Job, ...]:
    """Return the runs that check a change, their ids beginning with `name`."""
    files = problem.files(change)
    written = {path for path, _ in files}
    return tuple(
        Job(
            f"{name}.{number}",
            files,
            command,
            removed=tuple(path for path in problem.gone(change) if path not in written),
            executable=tuple(path for path in (*change.executable, *problem.executable) if path in written),
            surroundings=problem.surroundings,
        )
        for number, command in enumerate(problem.commands())
    )


def outcome(grades: Sequence[Grade]) -> Outcome:
    """Fold the runs of one answer into how it did."""
    return combine(tuple(Outcome(g.passed, g.fault, g.detail) for g in grades))


def blocks(items: Sequence[Q], count: int) -> Iterable[Sequence[Q]]:
    """Cut a sequence into at most `count` parts of nearly equal length."""
    size = max(1, -(-len(items) // count))
    return [items[start : start + size] for start in range(0, len(items), size)]


def tuning(temperature: float) -> str:
    """Return the name of the arm that asks the base at one temperature of the grid."""
    return f"tune T={temperature:g}"


def pinned(sampling: Sampling, temperature: float) -> Sampling:
    """Return the decode at another temperature, all else equal."""
    return replace(sampling, temperature=temperature)
