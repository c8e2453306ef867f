"""A settings file read totally and early; an unknown key names its nearest neighbour."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from fleetssd.config.section import Section
from fleetssd.config.settings import Settings
from fleetssd.errors import Misconfigured


def parse(table: Mapping[str, Any]) -> Settings:
    """Turn a parsed TOML table into settings.

    Raises Misconfigured, naming every wrong key and, for an unknown one, its nearest neighbour.
    """
    try:
        return Settings.model_validate(dict(table))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise Misconfigured("settings: " + "; ".join(lines), hint=_EXAMPLE) from None


def load(path: Path) -> Settings:
    """Read a TOML settings file; relative paths in it are relative to the file.

    Raises Misconfigured where the file is missing or not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"no settings file at {path}", hint=_EXAMPLE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}", hint="Mend the line it names.") from None
    return _absolute(parse(table), path.resolve().parent)


_EXAMPLE = "config.example.toml has every key with its default; `fleetssd config check` reads yours."


def _explain(problem: Any) -> str:
    where = [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        return f"{'.'.join(where)}: {problem['msg'].removeprefix('Value error, ')}"
    near = difflib.get_close_matches(where[-1], _keys(where[:-1]), n=1)
    return f"{'.'.join(where)}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")


def _keys(path: list[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        if not part.isdigit():  # the number of a table in an array of tables
            model = model.model_fields[part].annotation
        model = next(iter(get_args(model)), model)
    return list(model.model_fields)


def _absolute(settings: Settings, root: Path) -> Settings:
    """Resolve every path against the folder of the settings file."""

    def moved(value: Any) -> Any:
        if isinstance(value, Section):
            return walk(value)
        return root / value.expanduser() if isinstance(value, Path) else value

    def walk(model: Section) -> Section:
        changed: dict[str, Any] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, (Section, Path)):
                changed[name] = moved(value)
            elif isinstance(value, tuple):
                changed[name] = tuple(moved(v) for v in value)
        return model.model_copy(update=changed)

    resolved = walk(settings)
    assert isinstance(resolved, Settings)  # noqa: S101  walk keeps the class; this tells the type checker so
    return resolved
