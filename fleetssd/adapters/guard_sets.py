"""Guard sets as files: those that ship with fleetssd, and an operator's own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fleetssd.errors import Misconfigured
from fleetssd.guards import Item, parse_items


def read_guards(shipped: Sequence[str], own: Sequence[Path]) -> dict[str, tuple[Item, ...]]:
    """Return guard sets by name, an own one by its file's name without suffix.

    Raises Misconfigured where a file is missing, is no guard set, or has the name of another.
    """
    folder = files("fleetssd.guards")
    found = {name: parse_items((folder / f"{name}.jsonl").read_text(encoding="utf-8"), name) for name in shipped}
    for path in own:
        if path.stem in found:
            raise Misconfigured(f"two guard sets are named {path.stem}", hint=f"Rename {path}.")
        found[path.stem] = read_guard_file(path)
    return found


def read_guard_file(path: Path) -> tuple[Item, ...]:
    """Read one file of guard items. Raises Misconfigured where it is missing or is no guard set."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Misconfigured(f"cannot read the guard set {path}: {why}", hint="See [guards] files.") from None
    return parse_items(text, path.stem)
