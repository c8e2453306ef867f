"""An audit as an issue on the forge: its text, and how an earlier one of ours is known again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fleetssd.audit.findings import ORDER, Audit, Finding, headline

if TYPE_CHECKING:
    from fleetssd.audit.advice import Advice  # its statistics need numpy, and an issue does not

TITLE = "Sampling settings that do not do what they say"
MARK = "<!-- fleetssd: audit of sampling settings -->"
ROWS = 300
"""A forge shows no longer table with pleasure; the first rows are what takes effect."""


@dataclass(frozen=True, slots=True)
class Filed:
    """An issue as the forge shows it."""

    number: int
    author: str
    title: str
    body: str
    closed: bool
    labels: frozenset[int]


def parse(row: Mapping[str, Any]) -> Filed:
    """Read an issue's row. Raises KeyError, TypeError or ValueError where it is none."""
    return Filed(
        number=int(row["number"]),
        author=str((row.get("user") or {}).get("login", "")),
        title=str(row["title"]),
        body=str(row.get("body") or "").replace("\r\n", "\n"),
        closed=row["state"] == "closed",
        labels=frozenset(int(label["id"]) for label in row.get("labels") or ()),
    )


def ours(issues: Sequence[Filed]) -> Filed | None:
    """Return the oldest issue that begins with our mark; quoted or pasted further below it is somebody's remark."""
    return next((issue for issue in issues if issue.body.startswith(MARK)), None)


def body(audit: Audit, advice: Advice | None = None) -> str:
    """Return the issue's text: the same findings give the same bytes.

    What comes from files stands in code spans, so that it mentions nobody and closes nothing.
    """
    counts = {word: sum(f.effective == word for f in audit.findings) for word in ORDER}
    lines = [MARK, "", _prose(headline(audit.findings)), ""]
    lines += [", ".join(f"{count} {word}" for word, count in counts.items() if count) or "Nothing was found.", ""]
    if advice is not None:
        lines += [f"**{advice.manage}** at T = {advice.temperature:g}: {_prose(advice.reason)}", ""]
    if audit.findings:
        lines += ["| effective | key | value | setting | where | layer | by whom |", "|---|---|---|---|---|---|---|"]
    for f in audit.findings[:ROWS]:
        lines.append(f"| {' | '.join(_cells(f))} |")
    if len(audit.findings) > ROWS:
        lines += ["", f"and {len(audit.findings) - ROWS} more: `fleetssd audit` shows them all."]
    if audit.skipped:
        lines += ["", "Not read:", *(f"- {_code(each.file)}: {_prose(each.reason)}" for each in audit.skipped[:ROWS])]
    return "\n".join([*lines, ""])


def _cells(f: Finding) -> tuple[str, ...]:
    """Return a finding's row; one setting may decide several keys, so both are named."""
    where = _code(f"{f.file}:{f.line}")
    return f.effective, _code(f.key), _code(f.value), _code(f.setting), where, f.layer, _prose(f.by)


def _code(text: str) -> str:
    """Return a text as a code span in a table's cell: neither a backtick nor a bar may end it."""
    clean = _printable(text).replace("`", "'").replace("|", "¦")
    return f"`{clean}`" if clean.strip() else ""


def _prose(text: str) -> str:
    """Return a sentence of ours that may name files: without what a forge takes for a reference or a tag.

    A forge looks for references after it has read the Markdown, so that no backslash keeps it from them; one does keep
    the marks of emphasis and links what they are, and a name of a setting readable.
    """
    return re.sub(r"[@#<>|`!]", "·", re.sub(r"([\\*_\[\]~])", r"\\\1", _printable(text)))


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())
