"""Where sampling settings live, and which of them take effect."""

from fleetssd.audit.effects import World, examine
from fleetssd.audit.findings import Audit, Finding, callers
from fleetssd.audit.texts import Reading, Skipped, Source, form_of, parse

__all__ = [
    "Audit",
    "Finding",
    "Reading",
    "Skipped",
    "Source",
    "World",
    "callers",
    "examine",
    "form_of",
    "parse",
]
