"""What is found in a completion: a solution in one of three formats, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleetssd.errors import Corrupt
from fleetssd.solutions import parse_diff, parse_files

Format: TypeAlias = Literal["code", "diff", "files"]
"""What a completion is: the whole content of one file after the change, a unified diff, or every changed file whole."""

_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair
# Nothing of a fence is given back (`+` after a count): a row of marks without an end would be tried at every length.
_FENCE = re.compile(r"^[ \t]*(`{3,}+|~{3,}+)[^\n]*+\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# A diff's own lines start with a sign or a blank, so only a fence at the very start of a line can be the answer's.
_DIFF_FENCE = re.compile(r"^(`{3,}+|~{3,}+)[^\n]*+\n(.*?)(?:^\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_DIFF_START = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The solution found in a completion, as its format writes it."""

    content: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A completion without a usable solution: a failed answer, not an error."""

    reason: str


def extract(completion: str, solution_format: Format) -> Extracted | Malformed:
    """Find the solution in a completion.

    Format `code`: the longest fenced block where there is a Markdown fence (one that is never closed runs to the
    end), else the whole text; the content ends with one newline. `diff`: the fenced blocks that are diffs, in order,
    else the text from its first `diff --git` or `---` line on. `files`: every heading with its fence. What is found
    is well-formed; whether it fits the files it is about is for `changes.applied` to say.
    """
    if "\0" in completion:
        return Malformed("the answer contains a NUL character")
    if _HALF.search(completion):
        return Malformed("the answer is not valid Unicode")
    if not completion.strip():
        return Malformed("empty answer")
    try:
        return _FINDERS[solution_format](completion)
    except Corrupt as error:
        return Malformed(f"bad {solution_format}: {error.message}")
    except ValueError as error:  # numbers of absurd size, escapes that name no byte
        return Malformed(f"bad {solution_format}: {error}")


def _code(completion: str) -> Extracted | Malformed:
    blocks = [match.group(2) for match in _FENCE.finditer(completion)]
    content = (max(blocks, key=len) if blocks else completion).strip("\n").rstrip()
    return Extracted(content + "\n") if content.strip() else Malformed("empty answer")


def _diff(completion: str) -> Extracted | Malformed:
    blocks = [match.group(2) for match in _DIFF_FENCE.finditer(completion)]
    content = "".join(block for block in blocks if _DIFF_START.match(block.lstrip("\n")))
    start = _DIFF_START.search(completion)
    if not content and start is not None:
        content = completion[start.start() :]
    if not content:
        return Malformed("no diff in the answer")
    parse_diff(content)
    return Extracted(content)


def _files(completion: str) -> Extracted | Malformed:
    return Extracted(completion) if parse_files(completion) else Malformed("no file in the answer")


_FINDERS = {"code": _code, "diff": _diff, "files": _files}
