"""Texts to leaves: every parser is total, remembers lines, and takes from hostile text what it can."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from fleetssd.audit import structured
from fleetssd.audit.leaves import Broken, Leaf

Form: TypeAlias = Literal["yaml", "json", "toml", "env", "modelfile", "show", "unit", "plist", "script", "text"]
MAX_LEAVES = 20_000
_SUFFIXES: dict[str, Form] = {
    ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".jsonc": "json", ".json5": "json", ".toml": "toml",
    ".env": "env", ".modelfile": "modelfile", ".service": "unit", ".conf": "unit", ".ini": "unit", ".cfg": "unit",
    ".plist": "plist", ".sh": "script", ".bash": "script", ".zsh": "script", ".fish": "script",
    ".py": "text", ".md": "text", ".js": "text", ".ts": "text", ".mjs": "text",
}  # fmt: skip
COPIES = (".example", ".sample", ".template", ".bak", ".orig")
"""A file so named is a model or a copy of one; nobody reads it."""
PRIVATE = ("auth.json",)
"""Holds nothing but secrets."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text to look at: the name that findings give it, and its form."""

    name: str
    form: Form
    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not read, or not to its end, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a look into folders found."""

    sources: tuple[Source, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed source. `problem` says where parsing had to end; what stands before is in `leaves`."""

    name: str
    form: Form
    leaves: tuple[Leaf, ...]
    problem: str = ""


def form_of(name: str) -> Form | None:
    """Tell by its name what a file is; None for what holds no settings."""
    base = PurePosixPath(name).name.lower()
    for copy in COPIES:
        base = base.removesuffix(copy)
    if base in PRIVATE:
        return None
    if base.startswith("modelfile"):
        return "modelfile"
    if base.startswith(".env"):
        return "env"
    return _SUFFIXES.get(PurePosixPath(base).suffix)


def parse(source: Source) -> Document:
    """Parse a source; never raises."""
    leaves: list[Leaf] = []
    problem = ""
    try:
        for leaf in _PARSERS[source.form](source.text):
            leaves.append(leaf)
            if len(leaves) == MAX_LEAVES:
                raise Broken(leaf.line, f"more than {MAX_LEAVES} values")  # noqa: TRY301  it ends like other breaks
    except Broken as broken:
        problem = f"line {broken.line}: {broken.reason}; what follows was not read"
    return Document(source.name, source.form, tuple(leaves), problem)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield numbered lines, none longer than a person would write."""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line[:4_000].rstrip("\r")


def modelfile(text: str) -> Iterator[Leaf]:
    """Yield PARAMETER, FROM and ADAPTER of a Modelfile; what stands in quoted texts is no instruction."""
    quote = ""
    for number, line in lines_of(text):
        if quote:
            quote = "" if quote in line else quote
            continue
        word, rest = _first(line)
        if word.upper() == "PARAMETER":
            name, value = _first(rest)
            yield Leaf(("PARAMETER", name), value.strip('"'), number)
        elif word.upper() in ("FROM", "ADAPTER"):
            yield Leaf((word.upper(),), rest.strip('"'), number)
        elif word.upper() in ("TEMPLATE", "SYSTEM", "LICENSE", "MESSAGE"):
            quote = _left_open(rest)


def shown(text: str) -> Iterator[Leaf]:
    """Yield the parameters that Ollama's show lists, one a line: the key, blanks, the value."""
    for number, line in lines_of(text):
        name, value = _first(line)
        if name:
            yield Leaf(("PARAMETER", name), value.strip('"'), number)


def environment(text: str) -> Iterator[Leaf]:
    """Yield the assignments of an environment file."""
    for number, line in lines_of(text):
        if match := _ASSIGNED.match(line):
            yield Leaf((match[1],), match[2].partition(" #")[0].strip().strip("\"'"), number)


def unit(text: str) -> Iterator[Leaf]:
    """Yield the environment and the flags of a systemd unit or another INI file, and its plain keys."""
    section = ""
    for number, line, whole in _logical(text):
        if match := _SECTION.match(line):
            section = match[1]
        elif not line.lstrip().startswith(("#", ";")):
            yield from command(line, number, (section,), whole)
            if (match := _ASSIGNED.match(line)) and match[1] not in ("Environment", "ExecStart"):
                yield Leaf((section, match[1]), match[2].strip(), number)


def script(text: str) -> Iterator[Leaf]:
    """Yield what a shell script assigns to environment variables and passes as flags, and the bodies that it sends."""
    for number, line, whole in _logical(text):
        if not line.lstrip().startswith("#"):
            yield from command(line, number, (), whole)
            yield from _mentioned(line, number)


def mentions(text: str) -> Iterator[Leaf]:
    """Yield what looks like a sampling setting in prose or in a program."""
    for number, line in lines_of(text):
        yield from _mentioned(line, number)
        yield from command(line, number, (), line)


def _mentioned(line: str, number: int) -> Iterator[Leaf]:
    for match in _MENTION.finditer(line):
        yield Leaf((match[1],), match[2], number)


def plist(text: str) -> Iterator[Leaf]:
    """Yield the environment and the flags of a launchd property list: each value follows its key or flag."""
    numbered = [(number, tag, value.strip()) for number, line in lines_of(text) for tag, value in _TAG.findall(line)]
    program = program_of(" ".join(value for _, _, value in numbered))
    for (_, tag, name), (number, _, value) in itertools.pairwise(numbered):
        if tag == "key":
            yield Leaf((name,), value, number)
        elif name.startswith("--"):
            yield Leaf((program, name), value, number)


def command(line: str, number: int, path: tuple[str, ...], whole: str) -> Iterator[Leaf]:
    """Yield the flags and assignments within a line of a command; `whole` is the command, which names the program."""
    for match in _FLAG.finditer(line):
        yield Leaf((*path, program_of(whole), match[1]), match[2], number)
    for match in _VARIABLE.finditer(line):
        yield Leaf((*path, match[1]), match[2], number)


def program_of(text: str) -> str:
    """Name the inference server that a command starts, if one."""
    match = _PROGRAM.search(text)
    return match[0].replace("_", "-").replace(".", "-") if match else ""


_ASSIGNED = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=(.*)")
_SECTION = re.compile(r"\s*\[([^\]]*)\]\s*$")
_FLAG = re.compile(
    r"(?<![\w-])(--(?:temp(?:erature)?|top[-_][kp]|min[-_]p|repeat[-_]penalty|samplers|seed|ctx-size))(?:\s+|=)"
    r"[\"']?([^\s\"',;\\`]+)"
)
_VARIABLE = re.compile(
    r"(?<![A-Za-z0-9_])((?:[A-Z][A-Z0-9]*_){1,8}(?:TEMP|TEMPERATURE|TOP_[KP]|MIN_P|REPEAT_PENALTY|CONTEXT_LENGTH))"
    r"\s*[=:]\s*[\"']?([^\s\"',;\\`]+)"
)
_MENTION = re.compile(
    r"(?<![\w.-])[\"']?(temperature|top_[pk]|top[PK]|min_p|minP|(?:repeat|repetition|frequency|presence)_penalty)[\"']?"
    r"\s*[:=]\s*[\"']?(-?(?:\d+(?:\.\d+)?|\.\d+))"
)
_TAG = re.compile(r"<(key|string|integer|real)>([^<]*)</")
_PROGRAM = re.compile(r"llama-server|mlx_lm\.server|vllm|ollama")


def _first(line: str) -> tuple[str, str]:
    """Return a line's first word and the rest, apart by blanks or tabs."""
    word, rest, *_ = *line.split(maxsplit=1), "", ""
    return word, rest.strip()


def _left_open(text: str) -> str:
    """Return the quote that a text opens and does not close."""
    for quote in ('"""', '"'):
        if text.partition(" ")[2].startswith(quote) and text.startswith(("user", "system", "assistant")):
            text = text.partition(" ")[2]  # MESSAGE names a role first
        if text.startswith(quote):
            return "" if quote in text[len(quote) :] else quote
    return ""


def _logical(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield every line with the whole command that it is part of, over continued lines."""
    held: list[tuple[int, str]] = []
    for number, line in lines_of(text):
        held.append((number, line))
        if line.endswith("\\") and len(held) < 200:
            continue
        whole = " ".join(part for _, part in held)
        yield from ((at, part, whole) for at, part in held)
        held = []
    whole = " ".join(part for _, part in held)
    yield from ((at, part, whole) for at, part in held)


def _deep(parser: Callable[[str], Iterator[Leaf]]) -> Callable[[str], Iterator[Leaf]]:
    """Let a parser of structured text also look into its strings, which may be commands or environments."""

    def parse_deep(text: str) -> Iterator[Leaf]:
        before, whole = Leaf((), "", 0), ""
        for leaf in parser(text):
            yield leaf
            said = leaf.value[:4_000]
            if _follows(leaf, before):  # a command may be a list of its words: a flag, then its value
                whole = f"{whole} {said}"[:4_000]
                said = f"{before.value} {said}" if before.value.startswith("--") else said
            else:
                whole = said
            before = leaf
            yield from command(said, leaf.line, leaf.path, whole)

    return parse_deep


def _follows(leaf: Leaf, before: Leaf) -> bool:
    return bool(leaf.path) and leaf.path[-1].isdigit() and leaf.path[:-1] == before.path[:-1]


_PARSERS: dict[Form, Callable[[str], Iterator[Leaf]]] = {
    "yaml": _deep(structured.yaml), "json": _deep(structured.json), "toml": _deep(structured.toml),
    "env": environment, "modelfile": modelfile, "show": shown, "unit": unit, "plist": plist, "script": script,
    "text": mentions,
}  # fmt: skip
