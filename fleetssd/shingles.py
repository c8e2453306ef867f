"""A wish and its answer as sets of token runs that a rename, a new layout or a translated comment leaves as they are.

Numbers, operators, keywords and what libraries are called stay: a problem with another constant or another `max` is
another problem.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from fleetssd.records import Record

Shingles: TypeAlias = frozenset[str]

WORDS, TOKENS = 3, 4
"""Length of a shingle, in words of a wish and in tokens of an answer."""
_NAME, _EDGE = "name", "|"


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYWORDS = _listed(
    "and as assert async await break case catch class const continue def default defer del do elif else end enum "
    "except export extends extern final finally fn for foreach from func function global go goto if impl implements "
    "import in instanceof interface is lambda let loop match mod module mut namespace new nil none nonlocal not null "
    "or package pass private protected pub public raise return select self static struct super switch then this throw "
    "throws trait true false try type typeof unless until use using var void when where while with yield"
)
PYTHON = _listed(
    "and as assert async await break class continue def del elif else except false finally for from global if import "
    "in is lambda none nonlocal not or pass raise return self true try while with yield"
)
"""Python's keywords: elsewhere `end`, `match` or `fn` is one, and here a name like any other."""
LIBRARY = _listed(
    "abs all any append bool bytes ceil chr clear close contains copy count dict divmod enumerate exp extend filter "
    "find float floor format frozenset get hash hex index insert int isinstance items iter join keys len length list "
    "log lower map max min next open ord pop pow print push put range read remove replace reverse reversed round set "
    "slice sort sorted split sqrt startswith endswith str strip sum tuple update upper values write zip"
)
"""Names that stay where they are called: a rename cannot touch them."""
_DEFINES = _listed("def class fn func function struct interface trait")
_SLASHES = _listed(
    "c h cc cpp cxx hpp cs java js jsx mjs ts tsx go rs kt swift scala php dart css scss proto zig groovy"
)
_DASHES = _listed("sql lua hs elm ada adb")
_COMMENTS = {"#": r"\#[^\n]*", "/": r"//[^\n]*|/\*.*?\*/", "-": r"--[^\n]*|/\*.*?\*/"}
_CODE = (
    r"|(?P<docstring>(?i:[rbuf]{0,2})(?:\"\"\".*?\"\"\"|'''.*?'''))"
    r"|(?P<string>(?i:[rbuf]{0,2})(?:\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'))"
    r"|(?P<number>0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?)"
    r"|(?P<word>[^\W\d]\w*)"
    r"|(?P<layout>[;,()])"  # a semicolon, a trailing comma and brackets round a condition come and go
    r"|(?P<sign>[<>=!+*/%&|^-]=|\*\*|&&|\|\||->|=>|[^\s\w])"
)
_LEXERS = {style: re.compile(f"(?P<comment>{comment}){_CODE}", re.DOTALL) for style, comment in _COMMENTS.items()}
_WISH = re.compile(
    r"`+(?P<code>[^`]+)`+|(?P<reference>[#!]\d+)|(?P<number>\d[\d.,]*)"
    r"|(?P<word>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d]\w*)(?P<call>\()?"
)
_BACKSLASHES = re.compile(r"\\+")
_CAMEL = re.compile(r"[a-z\d][A-Z]|[a-z]\d")


class _Token(NamedTuple):
    """A token of code; `name` is what stands there where the text is that of all names."""

    text: str
    name: str = ""
    defined: bool = False


@dataclass(frozen=True, slots=True)
class Looks:
    """What a record is compared by: the words of what was asked, the names in what answered it, and its shingles."""

    words: tuple[str, ...]
    names: frozenset[str]
    answer: Shingles

    def wish(self, names: Collection[str]) -> Shingles:
        """Return the shingles of what was asked, with the words that are among `names` taken for names."""
        return _runs([_NAME if word in names else word for word in self.words], WORDS)


def looks(record: Record) -> Looks:
    """Return what a record's prompt and its solution (a whole file, or a unified diff) are compared by."""
    if record.solution_path:
        parts = [("", _tokens(record.solution, record.solution_path))]
    else:
        parts = [(sign, _tokens(text, path)) for sign, path, text in _changes(record.solution)]
    answer = frozenset(sign + run for sign, found in parts for run in _runs([token.text for token in found], TOKENS))
    defined = {token.name for _, found in parts for token in found if token.defined}
    names = frozenset(token.name.casefold() for _, found in parts for token in found if token.name)
    return Looks(tuple(_words(record.prompt, defined)), names, answer)


def likeness(one: Looks, other: Looks) -> float:
    """Return the smaller of two Jaccard indices in [0, 1], of the wishes and of the answers.

    Both must agree: templated wishes have different answers, and two changes of one large file different wishes. A
    rename may go through the prose or stop at the code, so what either answer has for a name is one in both wishes.
    """
    answers = _jaccard(one.answer, other.answer)
    names = one.names | other.names
    return min(_jaccard(one.wish(names), other.wish(names)), answers) if answers else 0.0


def _tokens(text: str, path: str, own: Collection[str] = ()) -> list[_Token]:
    """Cut code into tokens without comments and docstrings; names that it defines or that are `own` have one text."""
    suffix = path.rpartition(".")[2].lower()
    lexer = _LEXERS["/" if suffix in _SLASHES else "-" if suffix in _DASHES else "#"]
    keywords = PYTHON if suffix in ("py", "pyi") else KEYWORDS
    found: list[_Token] = []
    beside = False
    for match in lexer.finditer(text):
        kind, piece = match.lastgroup, match[0]
        if kind == "word":
            defined = bool(found) and found[-1].text in _DEFINES
            called = text[match.end() : match.end() + 1] == "("
            known = piece.lower() in keywords or (called and piece in LIBRARY)
            kept = known and not defined and piece not in own
            found.append(_Token(piece.lower()) if kept else _Token(_NAME, piece, defined))
        elif kind == "string":
            before = found.pop().text if beside else ""  # strings side by side are one, however lines part them
            found.append(_Token(f"'{before[1:-1]}{_string(piece)}'"))
        elif kind == "number":
            found.append(_Token(_number(piece)))
        elif kind == "sign":
            found.append(_Token(piece))
        beside = kind == "string" or (beside and kind == "comment")
    return found


def _string(piece: str) -> str:
    """Return a string as it reads: without its prefix, in no quotes, raw or escaped."""
    return _BACKSLASHES.sub("/", piece.lstrip("rRbBuUfF")[1:-1]).casefold()


def _number(piece: str) -> str:
    """Return a number as it counts: 0xFF is 255, and 1_000 is 1000."""
    bare = piece.replace("_", "").lower()
    try:
        return str(int(bare, 0))
    except ValueError:  # a fraction, or longer than an int may be printed
        return bare


def _changes(diff: str) -> Iterator[tuple[str, str, str]]:
    """Yield (sign, file, its lines) for what a unified diff takes away from each file and adds to it."""
    path, lines = "", dict[str, list[str]]()
    for line in [*diff.splitlines(), "diff --git"]:
        if line.startswith("diff --git"):
            yield from ((sign, path, "\n".join(texts)) for sign, texts in lines.items())
            path, lines = line, {}
        elif line[:1] in ("+", "-") and not line.startswith(("+++ ", "--- ")):
            lines.setdefault(line[0], []).append(line[1:])


def _words(text: str, own: Collection[str]) -> list[str]:
    """Cut prose into words; code in it, whatever looks like a name and the answer's `own` names become names."""
    found: list[str] = []
    for match in _WISH.finditer(text):
        word = match["word"]
        if match["code"]:
            found += [token.text for token in _tokens(match["code"], "", own)]
        elif match["number"]:
            found.append(match["number"].rstrip(".,"))
        elif word and (match["call"] or word in own or "_" in word.strip("_") or _CAMEL.search(word)):
            found.append(_NAME)
        elif word:
            found.append(word.casefold())
    return found


def _runs(tokens: Sequence[str], length: int) -> Shingles:
    """Return all runs of `length` tokens, with edges so that the first and the last token are in as many as others."""
    if not tokens:
        return frozenset()
    edge = [_EDGE] * (length - 1)
    padded = [*edge, *tokens, *edge]
    return frozenset(" ".join(padded[at : at + length]) for at in range(len(padded) - length + 1))


def _jaccard(one: Shingles, other: Shingles) -> float:
    both = len(one & other)
    whole = len(one) + len(other) - both
    return both / whole if whole else 1.0
