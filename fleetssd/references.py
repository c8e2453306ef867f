"""Whether an answer is the merged change itself: weaker evidence than tests, a right one may be written otherwise."""

from __future__ import annotations

import ast
import warnings

from fleetssd.changes import Change


def same(answer: Change, gold: Change) -> bool:
    """Tell whether two changes leave the same files: Python by its syntax tree, the rest but for white space."""
    mine, theirs = dict(answer.written), dict(gold.written)
    if mine.keys() != theirs.keys() or set(answer.removed) != set(gold.removed):
        return False
    return all(_form(path, mine[path]) == _form(path, theirs[path]) for path in mine)


def _form(path: str, text: str) -> str:
    """Return a text without its layout and, in Python, without its comments."""
    if path.endswith((".py", ".pyi")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a model's odd escapes are no warning of ours
                return ast.dump(ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
