"""Shell commands as values, so that two spellings of one command are equal."""

from __future__ import annotations

import re
import shlex
from typing import TypeAlias

Part: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Program, its flags in order of the alphabet, and the other words."""

_CONTROL = frozenset({"|", "||", "&&", ";", "&"})
_WORDY = frozenset({"find", "test", "openssl"})
"""Programs whose `-name` is one flag, not four."""
_LETTERS = re.compile(r"-[A-Za-z]{2,}")
_GLUED = re.compile(r"(-[A-Za-z])([^A-Za-z].*)", re.DOTALL)


def canonical(text: str) -> tuple[Part | str, ...] | None:
    """Return a command line with flags apart and sorted; None where the shell could not read it.

    `head -n5 f` is `head -n 5 f`, `ls -al` is `ls -l -a`. Whether a flag takes a value is not known here: values
    stand among the words, in order.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError:
        return None
    parts: list[Part | str] = []
    simple: list[str] = []
    for token in [*tokens, ""]:
        if token and token not in _CONTROL:
            simple.append(token)
            continue
        parts += [_part(simple)] if simple else []
        parts += [token] if token else []
        simple = []
    return tuple(parts)


def _part(tokens: list[str]) -> Part:
    program, flags, words = tokens[0], [], []
    for token in tokens[1:]:
        found, more = _flags(token, split=program not in _WORDY)
        flags += found
        words += more
    plain = [word.removeprefix("./").rstrip("/") or word for word in words]
    return program, tuple(sorted(set(flags))), tuple(sorted(plain) if program == "find" else plain)


def _flags(word: str, *, split: bool) -> tuple[list[str], list[str]]:
    """Return the flags and the words that one of them holds."""
    if not word.startswith("-") or word == "-":
        return [], [word]
    if word.startswith("--") or not split:
        name, equals, value = word.partition("=")
        return [name], [value] if equals else []
    if _LETTERS.fullmatch(word):
        return [f"-{each}" for each in word[1:]], []
    if glued := _GLUED.fullmatch(word):
        return [glued.group(1)], [glued.group(2)]
    return [word], []
