"""How the answers to one repository's problems are prepared for and checked: the settings, as they hold for it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fleetssd import config
from fleetssd.diffs import matches
from fleetssd.surroundings import Limits


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is run once before the checks of a commit; an empty command is nothing. See [evaluation] for the rest."""

    command: str = ""
    seconds: float = 900.0
    network: bool = True
    environment: tuple[str, ...] = ()
    only_binds: tuple[Path, ...] = ()
    binds: tuple[Path, ...] = ()
    lock_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """How one repository's answers are checked; `guards` are the globs of what no answer can change, tests included.

    `sandbox` is what they run in: a kind, and its image where it has one.
    """

    check: str
    tests: tuple[str, ...]
    guards: tuple[str, ...]
    repeats: int
    limits: Limits
    preparation: Preparation
    sandbox: str


def checks_for(evaluation: config.Evaluation, records: config.Records, repository: str) -> Checks:
    """Resolve the settings for a repository (`owner/name`): those of the first glob that matches, else the general."""
    own = next((one for one in evaluation.repositories if fnmatchcase(repository.lower(), one.match.lower())), None)
    changed = own.model_dump(exclude_none=True, exclude={"match", "test_globs"}) if own else {}
    rules = evaluation.model_copy(update=changed)
    tests = records.test_globs if own is None or own.test_globs is None else own.test_globs
    return Checks(
        check=rules.check,
        tests=tests,
        guards=tuple(dict.fromkeys((*tests, *rules.guard_globs))),
        repeats=rules.repeats,
        limits=Limits(
            wall_seconds=rules.wall_seconds,
            cpu_seconds=rules.cpu_seconds,
            memory_bytes=rules.memory_mb << 20,
            processes=rules.processes,
            disk_bytes=rules.disk_mb << 20,
        ),
        preparation=Preparation(
            command=rules.prepare,
            seconds=rules.prepare_seconds,
            network=rules.prepare_network,
            environment=rules.prepare_environment,
            only_binds=rules.prepare_binds,
            binds=rules.binds,
            lock_files=rules.lock_files,
        ),
        sandbox=f"{rules.sandbox} {rules.sandbox_image}" if rules.sandbox in ("podman", "docker") else rules.sandbox,
    )


def named_tests(paths: tuple[str, ...], globs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the test files that a check command names: those that a glob of names matches, not one of a folder.

    What lies below tests/ is also data and helpers, which nothing can run. Where no name says test, all are named.
    """
    by_name = tuple(glob for glob in globs if not glob.endswith("/**"))
    return tuple(path for path in paths if matches(path, by_name)) or paths
