"""Verify held-out records on their own merged change, each once: what a night is judged by was proven to judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from fleetssd.admission import Admission, Kind, NotAdmittedError, fingerprint, ruled
from fleetssd.changes import Change
from fleetssd.checks import Checks, checks_for
from fleetssd.config import Settings
from fleetssd.errors import Corrupt
from fleetssd.operations.evaluate import jobs, outcome
from fleetssd.operations.posing import gold_of, pose
from fleetssd.ports import Grounds, Job, Progress, Sandbox, Store
from fleetssd.problems import Outcome, Problem
from fleetssd.records import Record

NOTHING = Change(())
DETAIL = 1_000
"""Characters that are kept of what a run or a preparation said."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What verifying needs; the sandbox is opened only where there is something to run."""

    settings: Settings
    store: Store
    grounds: Grounds
    sandbox: Callable[[], AbstractContextManager[Sandbox]]
    now: Callable[[], datetime]
    progress: Progress

    def verify(self, *, again: bool = False) -> list[Admission]:
        """Verify every held-out record whose checks changed, or that could not be settled; return what was verified.

        Each result is a row of its own, so an interrupted run goes on where it stood. `again` verifies all of them.
        """
        held_out = self.store.records("held_out")
        due = self._due(held_out, again=again)
        for record in held_out:
            if record not in due:
                self.grounds.keep(record, self._checks(record).preparation)
        found: list[Admission] = []
        if due:
            with self.sandbox() as sandbox:
                for record in due:
                    found.append(self._admit(record, sandbox))
                    self.store.put_admission(found[-1])
                    self.progress(len(found), len(due), "held-out problems verified")
        return found

    def _due(self, held_out: Sequence[Record], *, again: bool) -> list[Record]:
        known = self.store.admissions()
        return [
            record
            for record in held_out
            if again
            or record.id not in known
            or not known[record.id].settled
            or known[record.id].fingerprint != fingerprint(record, self._checks(record))
        ]

    def _checks(self, record: Record) -> Checks:
        return checks_for(self.settings.evaluation, self.settings.records, record.repository)

    def _admit(self, record: Record, sandbox: Sandbox) -> Admission:
        checks = self._checks(record)
        kind: Kind = "refused"
        seconds = 0.0
        try:
            problem = pose(record, self.settings, self.grounds)
            if problem.gold is not None:
                kind, code, detail = "reference", "no_tests", ""
            else:
                code, detail, seconds = _run(problem, gold_of(problem, record), checks.repeats, sandbox)
                kind = "executed" if code == "verified" else "refused"
        except NotAdmittedError as error:
            code, detail = error.code, error.detail
        except Corrupt as error:  # a path of the record itself leaves the work folder
            code, detail = "tree_unsafe", error.message
        return Admission(record.id, kind, code, detail[:DETAIL], fingerprint(record, checks), seconds, self.now())


def _run(problem: Problem, gold: Change, repeats: int, sandbox: Sandbox) -> tuple[str, str, float]:
    """Run the tests without and with the merged change; return the code, the detail and the seconds a run took."""
    before = [jobs(f"before {number}", problem, NOTHING) for number in range(repeats)]
    after = [jobs(f"after {number}", problem, gold) for number in range(repeats)]
    started = monotonic()
    grades = sandbox.run([job for run in (*before, *after) for job in run], lambda *_: None)
    seconds = (monotonic() - started) / (2 * repeats)
    by_id = {grade.id: grade for grade in grades}

    def outcomes(runs: Sequence[tuple[Job, ...]]) -> list[Outcome]:
        return [outcome([by_id[job.id] for job in run]) for run in runs]

    return *ruled(outcomes(before), outcomes(after)), round(seconds, 3)
