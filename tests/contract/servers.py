"""Start the stand-in servers as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def embedded_ollama(data: Path, profile: str, *more: str) -> Iterator[str]:
    """Run the embedded Ollama on a free port; yields its URL."""
    command = [
        sys.executable,
        "-m",
        "services.embedded_ollama",
        "--port",
        "0",
        "--data",
        str(data),
        "--profile",
        profile,
    ]
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            process.wait(timeout=30)
