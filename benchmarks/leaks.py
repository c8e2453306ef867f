"""Plant twins of held-out records in the training set and count how many the contamination check finds.

A twin is a held-out record in disguise: every name that its answer defines is another, the layout is what a formatter
makes of it, indentation is by tabs, docstrings and comments are in another language, half of the twins' wishes follow
the new names through the prose and half keep the old words, and a third are diffs. The check is production's: ties by
MinHash, then likeness at the default threshold. Two corpora: the toy fleet's issues, which are templated and so easily
taken for each other, and functions of the standard library under their own docstrings.

usage: python -m benchmarks.leaks [--twins 50] [--seed 1]
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from fleetssd.adapters.minhash import buckets
from fleetssd.config import Records
from fleetssd.gitea import PullKey, PullRow
from fleetssd.operations.judge import overlap
from fleetssd.records import Record, refused_row
from fleetssd.shingles import likeness, looks
from fleetssd.toy.work import some_work
from fleetssd.twins import ties

GOAL = 0.95
THRESHOLD = Records().near_duplicate
ROW = PullRow(PullKey("f", 1, 0), "fleet/a", "", "", "agent-1", True, (), datetime(2026, 1, 1, tzinfo=UTC), "")
MODULES = (
    "argparse ast base64 bdb bisect calendar cmd codecs colorsys configparser contextlib copy csv datetime difflib dis "
    "doctest email.utils fileinput filecmp fnmatch fractions ftplib functools gettext glob heapq html http.cookies "
    "inspect ipaddress json.decoder linecache locale logging mailbox mimetypes ntpath numbers operator optparse "
    "os pathlib pdb pickle pickletools pkgutil platform plistlib posixpath pprint profile pstats quopri random sched "
    "shelve shlex shutil smtplib socket statistics string stringprep tabnanny tarfile tempfile textwrap timeit token "
    "tokenize trace traceback types typing unittest.case unittest.util urllib.parse urllib.request uuid warnings wave "
    "weakref webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile"
)
FOREIGN = (  # noqa: SIM905  sentences read better than lists
    "zuerst werden alle Einträge gelesen danach sortiert und schließlich ohne Wiederholung zurückgegeben wobei leere "
    "Zeilen nicht zählen weil sonst das Ergebnis vom Zufall abhängt siehe auch die Hinweise im Handbuch unter Grenzen"
).split()
SYLLABLES = ("ba", "do", "fe", "gi", "ka", "lo", "mu", "ne", "pi", "ra", "so", "ti", "vu", "wa", "xe", "zo")


def library() -> Iterator[tuple[str, str]]:
    """Yield (wish, answer) for the documented functions of the standard library with more than a line of code."""
    seen: set[str] = set()
    for name in MODULES.split():
        module = importlib.import_module(name)
        holders = [module, *(each for each in vars(module).values() if inspect.isclass(each))]
        functions = [each for holder in holders for each in vars(holder).values() if inspect.isfunction(each)]
        for function in functions:
            says = inspect.getdoc(function) or ""
            if function.__module__ != name or len(says.split()) < 8 or function.__qualname__ in seen:
                continue
            seen.add(function.__qualname__)
            try:
                source = textwrap.dedent(inspect.getsource(function))
                [tree] = ast.parse(source).body
            except (OSError, SyntaxError):  # made at run time, or cut out of a string of several lines
                continue
            if isinstance(tree, ast.FunctionDef) and sum(len(ast.unparse(each)) for each in tree.body[1:]) > 120:
                yield f"Add `{function.__name__}`\n\n{says}", source


def toy(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (wish, answer) for distinct issues of the toy fleet; renamed copies among them are dropped."""
    seen: set[tuple[object, object]] = set()
    for item in some_work(seed, 800):
        shape = looks(_record(item.body, item.after))
        key = (shape.wish(shape.names), shape.answer)
        if key not in seen:
            seen.add(key)
            yield item.body, item.after


class Renamer(ast.NodeTransformer):
    """Calls every name that the code defines by another, and every docstring and comment something else."""

    def __init__(self, rng: Random, tree: ast.AST) -> None:
        self.rng = rng
        self.names: dict[str, str] = {}
        for node in ast.walk(tree):
            for name in _defined(node):
                if not name.startswith("__") and name not in ("self", "cls"):
                    self.names.setdefault(name, "".join(rng.choices(SYLLABLES, k=3)) + str(len(self.names)))

    def visit_Name(self, node: ast.Name) -> ast.Name:  # noqa: D102
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:  # noqa: D102
        node.arg = self.names.get(node.arg, node.arg)
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: D102
        node.name = self.names.get(node.name, node.name)
        if ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant(self.words(12)))
        self.generic_visit(node)
        return node

    def words(self, number: int) -> str:
        """Return some words of another language."""
        return " ".join(self.rng.choices(FOREIGN, k=number))


def _defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id


def disguised(wish: str, answer: str, rng: Random, *, prose: bool) -> tuple[str, str]:
    """Return the twin of a wish and its answer; with `prose` the new names go through the whole wish."""
    tree = ast.parse(answer)
    renamer = Renamer(rng, tree)
    lines = ast.unparse(renamer.visit(tree)).splitlines()
    code = "\n".join(
        line.replace("    ", "\t") + (f"  # {renamer.words(5)}" if rng.random() < 0.3 and _whole(line) else "")
        for line in lines
    )
    named = renamer.names if prose else {name: new for name, new in renamer.names.items() if f"`{name}" in wish}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, named)) + r")\b") if named else None
    return (pattern.sub(lambda found: named[found[0]], wish) if pattern else wish), f"{code}\n"


def _whole(line: str) -> bool:
    """Tell whether a comment may follow: not within a string of several lines."""
    return line.count('"""') == 0 and line.rstrip().endswith((":", ")"))


def _record(wish: str, answer: str, name: str = "r", *, diff: bool = False) -> Record:
    if diff:
        added = "".join(f"+{line}\n" for line in answer.splitlines())
        answer = f"diff --git a/{name}.py b/{name}.py\n--- /dev/null\n+++ b/{name}.py\n@@ -0,0 +1,9 @@\n{added}"
    made = replace(refused_row(ROW, ()), id=name, prompt=wish, solution=answer, split_keys=(f"1!{name}",))
    made = replace(made, solution_path="" if diff else f"src/{name}.py")
    return replace(made, ties=ties(made, buckets))


def measure(corpus: Sequence[tuple[str, str]], twins: int, seed: int) -> tuple[list[float], int, list[str], int]:
    """Return each planted twin's likeness, how many were found, and which of the strangers were taken for twins."""
    rng = Random(seed)
    drawn = rng.sample(list(corpus), min(len(corpus), 2 * twins + 300))
    held = [_record(wish, answer, f"h{n}", diff=n % 3 == 0) for n, (wish, answer) in enumerate(drawn[: 2 * twins])]
    planted = [
        _record(*disguised(wish, answer, rng, prose=n % 2 == 0), f"t{n}", diff=n % 3 == 0)
        for n, (wish, answer) in enumerate(drawn[:twins])
    ]
    others = [_record(wish, answer, f"o{n}", diff=n % 3 == 0) for n, (wish, answer) in enumerate(drawn[2 * twins :])]
    found = overlap([*others, *planted], held, THRESHOLD)
    alike = [likeness(looks(one), looks(twin)) for one, twin in zip(held, planted, strict=False)]
    hits = sum(f"h{n}" in found for n in range(twins))
    false = [f"{one} = {other}" for one, other in found.items() if one not in {f"h{n}" for n in range(twins)}]
    return alike, hits, false, len(held) - twins


def main() -> None:
    """Print both corpora and, last, the lower recall as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twins", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    recalls, wrong = {}, {}
    for name, corpus in {"toy issues": list(toy(options.seed)), "standard library": list(library())}.items():
        alike, hits, false, strangers = measure(corpus, options.twins, options.seed)
        recalls[name], wrong[name] = hits / options.twins, len(false) / strangers
        print(
            f"{name} ({len(corpus)} to draw from): {hits} of {options.twins} planted twins found"
            f" (likeness {min(alike):.2f} to {max(alike):.2f}); {len(false)} of {strangers} strangers taken for one"
        )
        for each in false:
            print(f"  {each}")
    value = min(recalls.values())
    result = {"claim": "recall of planted twins", "value": value, "goal": GOAL, "holds": value >= GOAL}
    print(json.dumps(result | {"false_positives": wrong}))


if __name__ == "__main__":
    main()
