"""What an audit says: one line a setting, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from fleetssd.audit.texts import Skipped

Layer: TypeAlias = Literal["train", "eval", "serve", "side-call", "mention"]
Effective: TypeAlias = Literal["yes", "masked", "inert", "unknown"]
NAMED = 6
"""Temperatures that a headline names."""
ORDER: tuple[Effective, ...] = ("yes", "masked", "inert", "unknown")


@dataclass(frozen=True, slots=True)
class Finding:
    """A sampling setting: where it stands, as what, and whether anybody obeys it.

    `effective` is yes, masked (would be obeyed, but something outranks it), inert (nobody reads it) or unknown; `by`
    names who. `caller` is True where requests to the fleet's engine carry the value.
    """

    file: str
    line: int
    key: str
    value: str
    setting: str
    layer: Layer
    effective: Effective
    by: str
    caller: bool = False


@dataclass(frozen=True, slots=True)
class Audit:
    """All findings, what takes effect first, what could not be read, and whether agents ask fleetssd's gateway."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    through_gateway: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain values."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "skipped": [asdict(each) for each in self.skipped],
            "effective": {word: sum(f.effective == word for f in self.findings) for word in ORDER},
            "callers": [f"{f.file}:{f.line}" for f in callers(self.findings)],
        }


def callers(findings: Sequence[Finding]) -> list[Finding]:
    """Return the temperatures that requests to the fleet's engine carry.

    1 is none: a checkpoint with τ baked into it answers T = 1 as τ, and every other T as T·τ.
    """
    return [f for f in findings if f.caller and f.effective == "yes" and f.key == "temperature" and not _one(f.value)]


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return what takes effect first, then by file and line."""
    return tuple(
        sorted(findings, key=lambda f: (ORDER.index(f.effective), f.layer == "mention", f.file, f.line, f.key))
    )


def headline(findings: Sequence[Finding]) -> str:
    """Say in a sentence at which temperatures the fleet is really served, as far as the findings tell."""
    told = [f for f in findings if f.layer == "serve" and f.key == "temperature"]
    effect = {f.value: f for f in reversed(told) if f.effective == "yes"}
    idle = sum(f.effective in ("masked", "inert") for f in told)
    plural = "temperatures for serving have" if idle != 1 else "temperature for serving has"
    tail = f" {idle} other {plural} no effect." if idle else ""
    if not effect:
        return f"No temperature was found that takes effect when the fleet is served.{tail}"
    named = [f"T = {f.value} ({f.file}:{f.line})" for f in reversed(effect.values())]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"The fleet is served at {', '.join(named[:NAMED])}{more}.{tail}"


def _one(value: str) -> bool:
    try:
        return float(value) == 1.0
    except ValueError:
        return False
