"""What an audit of sampling settings reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetssd.audit import Reading


def read_folders(folders: Sequence[Path]) -> Reading:
    """Read what may hold sampling settings below these folders."""
    from fleetssd.adapters.folders import read_folders as read  # noqa: PLC0415

    return read(folders)


def read_parameters(url: str) -> Reading:
    """Read the parameters of an Ollama server's models."""
    from fleetssd.adapters.ollama_engine.parameters import read_parameters as read  # noqa: PLC0415

    return read(url)
