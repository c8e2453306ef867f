"""YAML, JSON and TOML to leaves with their lines; iterative, so that no nesting exhausts a stack."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from yaml import SafeLoader, YAMLError, events
from yaml import parse as parse_yaml

from fleetssd.audit.leaves import DEPTH, Broken, Leaf

ALIASES = 100
"""Aliases that are followed in a file; more of them would be a bomb, not a configuration."""


@dataclass(slots=True)
class _Level:
    """An open list or table: the next key or place in it."""

    table: bool
    key: str | None = None
    place: int = 0

    def step(self) -> str:
        """Return the name of the value that comes now, and be ready for the next."""
        if self.table:
            name, self.key = self.key or "", None
            return name
        self.place += 1
        return str(self.place - 1)


def yaml(text: str) -> Iterator[Leaf]:
    """Yield a YAML stream's leaves; an alias yields its anchor's leaves again, under its own name."""
    walk = _Yaml()
    try:
        for event in parse_yaml(text, Loader=SafeLoader):
            yield from walk.take(event)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Broken(mark.line + 1 if mark else walk.line, "not YAML") from None
    except (ValueError, OverflowError) as error:  # numbers and escapes that the scanner takes for granted
        raise Broken(walk.line, f"not YAML ({type(error).__name__})") from None
    yield from walk.aliased()


class _Yaml:
    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.names: list[str] = []
        self.leaves: list[Leaf] = []
        self.anchors: dict[str, tuple[str, ...]] = {}
        self.aliases: list[tuple[tuple[str, ...], str, int]] = []
        self.line = 1

    def take(self, event: events.Event) -> Iterator[Leaf]:
        self.line = event.start_mark.line + 1
        if isinstance(event, events.CollectionEndEvent):
            self.levels.pop()
            self.names = self.names[: max(len(self.levels) - 1, 0)]
        elif isinstance(event, events.DocumentStartEvent):
            self.levels, self.names = [], []
        elif isinstance(event, events.NodeEvent):
            yield from self._node(event)

    def _node(self, event: events.NodeEvent) -> Iterator[Leaf]:
        level = self.levels[-1] if self.levels else None
        if level and level.table and level.key is None:
            # A key that is a table itself names nothing; its end must find a level all the same.
            level.key = event.value if isinstance(event, events.ScalarEvent) else "?"
            if isinstance(event, events.CollectionStartEvent):
                self._open(event, "?")
            return
        name = level.step() if level else ""
        path = (*self.names, name) if level else ()
        if event.anchor and not isinstance(event, events.AliasEvent):
            self.anchors[event.anchor] = path
        if isinstance(event, events.CollectionStartEvent):
            self._open(event, name if level else None)
        elif isinstance(event, events.AliasEvent):
            if len(self.aliases) < ALIASES:
                self.aliases.append((path, event.anchor, self.line))
        else:
            leaf = Leaf(path, event.value, self.line)
            self.leaves.append(leaf)
            yield leaf

    def _open(self, event: events.CollectionStartEvent, name: str | None) -> None:
        if len(self.levels) == DEPTH:
            raise Broken(self.line, f"nested deeper than {DEPTH}")
        self.levels.append(_Level(isinstance(event, events.MappingStartEvent)))
        if name is not None:
            self.names.append(name)

    def aliased(self) -> Iterator[Leaf]:
        merged: list[Leaf] = []
        for path, anchor, line in self.aliases:
            there = self.anchors.get(anchor)
            if there is None:
                continue
            here = path[: path.index("<<")] if "<<" in path else path
            found = [
                Leaf(here + leaf.path[len(there) :], leaf.value, line)
                for leaf in self.leaves
                if leaf.path[: len(there)] == there
            ]
            if here != path:  # what a table says itself, or merged before, outranks what is merged into it
                own = {leaf.path[: len(here) + 1] for leaf in (*self.leaves, *merged)}
                found = [leaf for leaf in found if leaf.path[: len(here) + 1] not in own]
                merged += found
            yield from found


_JSON = re.compile(
    r'"(?P<string>[^"\\\n]*+(?:\\.[^"\\\n]*+)*+)"|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<mark>[{}\[\],:])|(?P<word>[^\s{}\[\],:"]+)',
    re.DOTALL,
)


def json(text: str) -> Iterator[Leaf]:
    """Yield a JSON document's leaves; comments and trailing commas are forgiven, as editors do."""
    breaks = [match.start() for match in re.finditer("\n", text)]
    walk = _Json()
    for token in _JSON.finditer(text):
        line = bisect.bisect_left(breaks, token.start()) + 1
        if token["mark"]:
            walk.mark(token["mark"], line)
        elif token["comment"] is None:
            yield from walk.scalar(token["word"] or token["string"] or "", line)
    if walk.levels:
        raise Broken(len(breaks) + 1, "not JSON: it ends too soon")


class _Json:
    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.names: list[str] = []

    def mark(self, mark: str, line: int) -> None:
        if mark in "{[":
            if len(self.levels) == DEPTH:
                raise Broken(line, f"nested deeper than {DEPTH}")
            if self.levels:
                self.names.append(self.levels[-1].step())
            self.levels.append(_Level(mark == "{"))
        elif mark in "}]":
            if not self.levels:
                raise Broken(line, "not JSON")
            self.levels.pop()
            self.names = self.names[: max(len(self.levels) - 1, 0)]

    def scalar(self, value: str, line: int) -> Iterator[Leaf]:
        level = self.levels[-1] if self.levels else None
        if level and level.table and level.key is None:
            level.key = value
        else:
            yield Leaf((*self.names, level.step()) if level else (), value, line)


_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$")
_PAIR = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=\s*(.*)$")
_INLINE = re.compile(r"([A-Za-z0-9_.\"'-]+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^,{}\[\]\s]+)")
_TOML_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'")


def toml(text: str) -> Iterator[Leaf]:
    """Yield a TOML document's leaves: tables, dotted keys, inline tables on one line; long strings are passed over."""
    table: tuple[str, ...] = ()
    quote = ""
    for number, full in enumerate(text.split("\n"), 1):
        line = full[:4_000]
        if quote:
            quote = "" if quote in line else quote
        elif match := _HEADER.match(line):
            table = _keys(match[1])
        elif (match := _PAIR.match(line)) and not line.lstrip().startswith("#"):
            path, value = (*table, *_keys(match[1])), match[2]
            quote = next((mark for mark in ('"""', "'''") if value.startswith(mark) and mark not in value[3:]), "")
            if value.startswith("{"):
                yield from (Leaf((*path, *_keys(name)), _bare(inner), number) for name, inner in _INLINE.findall(value))
            else:
                yield Leaf(path, _bare(value), number)


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _bare(value: str) -> str:
    """Return a value without its quotes and without the comment behind it."""
    match = _TOML_STRING.match(value)
    return match[0][1:-1] if match else value.partition("#")[0].strip()
