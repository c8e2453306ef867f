"""Which held-out records examine: verified on the merged change itself before any model is asked, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from fleetssd.checks import Checks
from fleetssd.errors import Rejected
from fleetssd.extraction import Format
from fleetssd.problems import Outcome
from fleetssd.records import Record

Kind: TypeAlias = Literal["executed", "reference", "refused"]
"""Judged by its tests; compared with the merged change, which no gate reads; or asked nothing."""

RULE = 1
"""Counts up when admission itself changes: what was verified by an older rule is verified again."""

REASONS = {
    "verified": "Its tests fail before the merged change and pass after it, every time.",
    "no_tests": "Its pull request changes no test; answers are compared with the merged change, as weaker evidence.",
    "only_tests": "Its pull request changes nothing but tests.",
    "passes_before": "Its tests pass before the change already: they say nothing of an answer.",
    "gold_fails": "Its tests fail on the merged change itself.",
    "gold_malformed": "The merged change, as the solution format writes it, cannot be applied to the commit it is of.",
    "flaky": "Its tests do not say the same every time.",
    "prepare_failed": "The command that prepares its commit failed.",
    "no_room": "Its prepared environment does not fit into evaluation.environments_mb beside those in use.",
    "tree_gone": "Its base commit cannot be had from the forge any more.",
    "tree_unsafe": "Its base commit holds paths that must not be checked out.",
    "tree_too_large": "Its base commit is larger than a sandbox can hold.",
    "sandbox_fault": "The sandbox itself failed, so nothing is proven; it is verified again.",
}
"""Codes never change their meaning; new ones are added."""
AGAIN = frozenset({"prepare_failed", "no_room", "tree_gone", "sandbox_fault"})
"""Refusals that the next night looks into again: what failed may have been the network, or a full disk."""


class NotAdmittedError(Rejected):
    """A held-out record cannot be put before a model; `code` is one of REASONS."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}", hint=REASONS[code])
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Admission:
    """What came of verifying a held-out record; `fingerprint` is of everything that the answer depends on.

    `seconds` is what one run of its tests on the merged change took, with the wait for the sandbox.
    """

    record: str
    kind: Kind
    code: str
    detail: str
    fingerprint: str
    seconds: float
    at: datetime

    @property
    def settled(self) -> bool:
        """Tell whether the answer stands until its checks change."""
        return self.code not in AGAIN


def executed(admissions: Mapping[str, Admission]) -> frozenset[str]:
    """Return the records that are judged by their tests: the only ones that a gate may read."""
    return frozenset(record for record, admission in admissions.items() if admission.kind == "executed")


def fingerprint(record: Record, checks: Checks) -> str:
    """Return sha256 (hex, 16 digits) over the change, how it is checked, and the rule of admission."""
    told = [RULE, record.id, record.base_commit, record.head_commit, record.solution_path, record.solution]
    text = json.dumps([told, asdict(checks)], default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def format_of(record: Record) -> Format:
    """Return the format that a record's solution is written in."""
    if record.solution_path:
        return "code"
    return "diff" if record.solution.startswith("diff --git ") else "files"


def ruled(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[str, str]:
    """Return the code of REASONS, and the detail, that repeated runs without and with the merged change come to.

    A fault proves nothing, so one is enough to look again.
    """
    if faults := [outcome for outcome in (*before, *after) if outcome.fault]:
        return "sandbox_fault", faults[0].detail
    failures = [outcome for outcome in after if not outcome.passed]
    passes = sum(outcome.passed for outcome in before)
    if len(failures) == len(after):
        return "gold_fails", failures[0].detail
    if failures:
        return "flaky", f"{len(failures)} of {len(after)} runs on the merged change fail: {failures[0].detail}"
    if passes == len(before):
        return "passes_before", ""
    if passes:
        return "flaky", f"{passes} of {len(before)} runs before the change pass"
    return "verified", ""
