"""Measure what a backfill holds: the most memory of a process that reads a history, and one four times as long.

Each history is read by a process of its own, with the real client and the real database, from a server on loopback
that makes pull requests up; the diffs are made up too, since git is not what is measured. Windows are small, so that
even the short history has several.

usage: python -m benchmarks.ingest_memory [--pulls 1500]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.diffs import PullDiff
from fleetssd.gitea import MergedPull, stamp
from fleetssd.operations.ingest import poll_once

WINDOW, TIMES, GOAL = 250, 4, 1.25
ROOT = Path(__file__).parents[1]
TEXT = "The conveyor stops when its belt is empty, and nobody is told. " * 40


class MadeUp:
    """Diffs of one added line, with a file that is large enough to be seen."""

    def diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Return a diff for each."""
        return {pull.key.number: _diff(pull.key.number) for pull in pulls}

    def contained(self, pull: MergedPull, commits: Sequence[str]) -> bool:
        """Contain nothing."""
        return False

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


def _diff(n: int) -> PullDiff:
    text = f"diff --git a/{n} b/{n}\nindex 1..2 100644\n--- a/{n}\n+++ b/{n}\n@@ -0,0 +1 @@\n+{n}\n".encode()
    return PullDiff("b" * 40, f"{n:040}", text, (f"{n}",), ((f"{n}", f"{n}\n" + TEXT),), ("p" * 40,))


def row(number: int) -> dict[str, Any]:
    """Return a pull request as lists and details show it."""
    at = stamp(datetime.now(UTC) - timedelta(days=4000) + timedelta(hours=number))
    place = {"id": number % 50 + 1, "full_name": f"fleet/r{number % 50}"}
    return {
        "number": number, "title": f"Mend part {number} of the belt", "body": f"{number} {TEXT}", "updated_at": at,
        "closed_at": at, "user": {"login": "agent-1"}, "pull_request": {"merged": True}, "repository": place,
        "merged": True, "merged_by": {"login": "maintainer"}, "merge_commit_sha": f"{number:040}",
        "merge_base": "b" * 40, "base": {"repo": place, "ref": "main"},
    }  # fmt: skip


@contextmanager
def server(pulls: int) -> Iterator[str]:
    """Serve a history."""
    rows = [row(number) for number in range(pulls)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", 1 << 16  # an answer in one write: two would wait for each other

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

        def do_GET(self) -> None:
            """Answer a search or a detail."""
            address = urlsplit(self.path)
            query, headers, body = dict(parse_qsl(address.query)), {}, None
            if address.path.endswith("/search"):
                since, before = query.get("since", ""), query.get("before", "9")
                found = [each for each in reversed(rows) if since <= each["updated_at"] <= before]
                page, limit = int(query["page"]), int(query["limit"])
                body, headers = found[(page - 1) * limit : page * limit], {"X-Total-Count": str(len(found))}
            elif "/pulls/" in address.path:
                body = rows[int(address.path.rpartition("/")[2])]
            elif address.path.endswith("/settings/api"):
                body = {"max_response_items": 50}
            data = json.dumps(body).encode()
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def child(url: str, folder: Path) -> None:
    """Backfill once and print the records on file and the most megabytes ever held."""
    (folder / "token").write_text("t0ken")
    table = {"data_dir": str(folder), "forge": {"url": url, "token_file": str(folder / "token")}}
    settings = parse({**table, "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]}})
    forge, store = GiteaForge(settings.forge, settings.fleet, window=WINDOW), SqlStore.open(settings.database)
    found = poll_once(settings, forge, MadeUp(), store, lambda text: (text, 0), datetime.now(UTC), lambda *_: None)
    print(found.read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak(pulls: int) -> float:
    """Return the most megabytes that a backfill of so many pull requests holds."""
    with tempfile.TemporaryDirectory() as folder, server(pulls) as url:
        command = [sys.executable, "-m", "benchmarks.ingest_memory", "--child", url, "--folder", folder]
        said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert int(said[0]) == pulls, said
    return float(said[1])


def growth(pulls: int) -> tuple[float, float]:
    """Return the peak of a history, and of one `TIMES` as long."""
    return peak(pulls), peak(pulls * TIMES)


def main() -> int:
    """Measure, or be the process that is measured."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--pulls", type=int, default=1500)
    options.add_argument("--child", default="", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, default=Path(), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        child(given.child, given.folder)
        return 0
    small, large = growth(given.pulls)
    print(f"peak memory: {small:.0f} MB for {given.pulls} pull requests, {large:.0f} MB for {given.pulls * TIMES}")
    claim = f"a history {TIMES} times as long takes no more memory: ratio of the peaks"
    print(json.dumps({"claim": claim, "value": round(large / small, 3), "goal": GOAL, "holds": large / small <= GOAL}))
    return 0 if large / small <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
