"""Make a problem of a held-out record: its tree, its hidden tests and what its answers are checked in."""

from __future__ import annotations

from collections.abc import Mapping

from fleetssd.admission import NotAdmittedError, format_of
from fleetssd.changes import LINK, Change, applied
from fleetssd.checks import Checks, checks_for, named_tests
from fleetssd.config import Settings
from fleetssd.diffs import matches
from fleetssd.extraction import Malformed, extract
from fleetssd.ports import Ground, Grounds
from fleetssd.problems import Problem
from fleetssd.records import Record
from fleetssd.solutions import EXECUTABLE, File
from fleetssd.surroundings import BARE, Surroundings


def pose(record: Record, settings: Settings, grounds: Grounds) -> Problem:
    """Return a held-out record as a problem; its base commit is checked out and prepared where that is not done.

    A record of format `code` stands alone, its answer beside its tests and nothing else, unless its repository has a
    `prepare` command. Raises NotAdmittedError where it cannot be posed, Transient where the forge is away, Corrupt
    where the record leaves the work folder.
    """
    checks = checks_for(settings.evaluation, settings.records, record.repository)
    if alone(record, checks):
        return _alone(record, settings, checks)
    return _standing(record, checks, grounds.at(record, checks.preparation))


def alone(record: Record, checks: Checks) -> bool:
    """Tell whether a record's answers are checked without the rest of its repository."""
    return format_of(record) == "code" and not checks.preparation.command


def gold_of(problem: Problem, record: Record) -> Change:
    """Return what the merged solution does, found as a model's would be. Raises NotAdmittedError where that fails."""
    change = problem.answer(record.solution)
    if isinstance(change, Malformed):
        raise _misfit(change)
    return change


def _misfit(change: Malformed) -> NotAdmittedError:
    only_tests = change.reason == "it changes nothing but tests"
    return NotAdmittedError("only_tests" if only_tests else "gold_malformed", change.reason)


def _alone(record: Record, settings: Settings, checks: Checks) -> Problem:
    general = checks_for(settings.evaluation.model_copy(update={"repositories": ()}), settings.records, "")
    limits = None if checks.limits == general.limits else checks.limits
    binds = checks.preparation.binds
    return Problem(
        id=record.id,
        repository=record.repository,
        pull=record.pull,
        prompt=record.prompt,
        solution_path=record.solution_path,
        tests=record.tests,
        check=checks.check,
        slices=record.labels,
        surroundings=Surroundings(binds=binds, limits=limits) if binds or limits else BARE,
        gold=None if record.tests else _gold(record, {}, checks),
    )


def _standing(record: Record, checks: Checks, ground: Ground) -> Problem:
    hidden = [whole for whole in ground.gold if matches(whole.path, checks.guards)]
    kept = [(whole.path, whole.file) for whole in hidden if whole.file is not None and whole.file.mode != LINK]
    judging = tuple(path for path, _ in kept if matches(path, checks.tests))
    return Problem(
        id=record.id,
        repository=record.repository,
        pull=record.pull,
        prompt=record.prompt,
        solution_path=record.solution_path,
        tests=tuple((path, file.text) for path, file in kept) if judging else (),
        check=checks.check,
        slices=record.labels,
        format=format_of(record),
        named=named_tests(judging, checks.tests),
        removed=tuple(whole.path for whole in hidden if whole.file is None),
        executable=tuple(path for path, file in kept if file.mode == EXECUTABLE),
        guards=checks.guards,
        tree=ground.files,
        surroundings=Surroundings(ground.work, ground.environment, checks.preparation.binds, checks.limits),
        gold=None if judging else _gold(record, ground.files, checks),
    )


def _gold(record: Record, tree: Mapping[str, File], checks: Checks) -> Change:
    """Return the merged change that answers are compared with."""
    solution_format = format_of(record)
    found = extract(record.solution, solution_format)
    if isinstance(found, Malformed):
        raise _misfit(found)
    change = applied(found.content, solution_format, tree, guards=checks.guards, path=record.solution_path)
    if isinstance(change, Malformed):
        raise _misfit(change)
    return change
