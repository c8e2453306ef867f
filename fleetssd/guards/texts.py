"""What an answer says, whatever it is wrapped in."""

from __future__ import annotations

import re

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:\n```|```|\Z)", re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\W*(?:(?:the )?(?:correct )?answer(?: is)?\W+)?\(?([A-Z])(?:[).:]|\W*$)", re.IGNORECASE)
_OPENING = 300  # characters in which a refusal declares itself
_DECLINING = re.compile(
    r"\bi(?:'m| am) (?:very |really )?sorry\b|^\W*sorry\b|\bas an ai\b"
    r"|\bi(?:'m| am) (?:unable|not able|not going) to\b|\bi must (?:decline|refuse)\b|\bi (?:refuse|decline) to\b"
    r"|\bi (?:can(?:'?t|not)|won'?t|will not|could not|couldn't) "
    r"(?:\w+ )?(?:help|assist|comply|provide|do|give|write|create|support|fulfil?l|share|explain|offer|participate)\b"
    r"|\b(?:cannot|can't) (?:help|assist|comply)\b",
    re.IGNORECASE,
)
_CURLY = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'"})
_WRAPPING = "`*_\"'\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK} "


def bare(answer: str) -> str:
    """Return an answer without fence, quotes, emphasis, full stop and needless space; the case stays."""
    text = code(answer).strip().strip(_WRAPPING).removesuffix(".")
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def code(answer: str) -> str:
    """Return what is in the answer's first fenced block, else the whole answer."""
    found = _FENCED.search(answer)
    return found.group(1) if found else answer


def command(answer: str) -> str | None:
    """Return the one command that an answer gives: fenced, as the only code span, or bare; None where it gives none."""
    text, spans = code(answer), _SPAN.findall(answer)
    if text is answer and len(spans) == 1:
        return str(spans[0]).strip()
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    return lines[0] if len(lines) == 1 else None


def last_number(answer: str) -> float | None:
    """Return the last number in an answer; commas group thousands."""
    found = _NUMBER.findall(answer)
    return float(found[-1].replace(",", "")) if found else None


def letter(answer: str) -> str | None:
    """Return the letter that an answer chooses, None where it does not begin with one."""
    found = _LETTER.match(answer.strip())
    return found.group(1).upper() if found else None


def declines(answer: str) -> bool:
    """Say whether an answer begins by refusing; a heuristic of English phrases, the same for every arm."""
    return _DECLINING.search(answer.strip()[:_OPENING].translate(_CURLY)) is not None
