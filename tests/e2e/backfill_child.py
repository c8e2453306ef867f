"""A poll in a process of its own, for a test that kills it: its arguments are an address, a folder and a window."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.operations.ingest import poll_once
from tests.fakes import FakeMirror


def main(url: str, folder: Path, window: int) -> None:
    """Poll until a sweep is whole."""
    forge = {"url": url, "token_file": str(folder / "token"), "overlap_seconds": 0}
    fleet = {"agents": ["agent-*"], "repositories": ["fleet/*"]}
    settings = parse({"data_dir": str(folder), "forge": forge, "fleet": fleet})
    there, store = GiteaForge(settings.forge, settings.fleet, window=window), SqlStore.open(settings.database)
    redact = lambda text: (text, 0)  # noqa: E731
    while not poll_once(settings, there, FakeMirror(), store, redact, datetime.now(UTC), lambda *_: None).complete:
        pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
