"""What is said twice: whoever reads a file takes the last, and systemd takes a unit's drop-ins after the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from fleetssd.audit.findings import Finding
from fleetssd.audit.leaves import Leaf
from fleetssd.audit.texts import Document

_FORMS = ("yaml", "json", "env", "modelfile")
"""TOML knows no repetition, and the commands of a script need not be one command."""
_PILED_UP = (("PARAMETER", "stop"), ("FROM",), ("ADAPTER",))
"""What a Modelfile may say more than once."""


def last_said(document: Document) -> dict[tuple[str, ...], Leaf]:
    """Return by its path the leaf that counts, where the document's form lets the last one count."""
    if document.form not in _FORMS:
        return {}
    said = (leaf for leaf in document.leaves if leaf.path not in _PILED_UP)
    return {leaf.path: leaf for leaf in sorted(said, key=lambda leaf: leaf.line)}


def after_drop_ins(findings: Sequence[Finding]) -> list[Finding]:
    """Mask what a systemd unit says and a drop-in in the folder beside it says again."""
    last = {(unit_of(f.file), f.setting): f for f in sorted(findings, key=lambda f: (f.file, f.line))}
    return [_masked(f, last[unit_of(f.file), f.setting]) if unit_of(f.file) else f for f in findings]


def unit_of(name: str) -> str:
    """Name the unit that a file is or adds to; empty where it is none."""
    path = PurePosixPath(name)
    if path.suffix == ".conf" and path.parent.name.endswith(".service.d"):
        return str(path.parent).removesuffix(".d")
    return name if path.suffix == ".service" else ""


def _masked(finding: Finding, last: Finding) -> Finding:
    if finding.effective != "yes" or (finding.file, finding.line) == (last.file, last.line):
        return finding
    return replace(finding, effective="masked", by=f"{last.file}:{last.line}, which says it again and comes later")
