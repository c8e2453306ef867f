"""A backfill that is killed goes on where it was, while the forge's lists go on moving."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from tests.services.test_gitea_http import Answer, Script, script
from tests.services.test_gitea_windows import NOW, History

__all__ = ["script"]

ROOT = Path(__file__).parents[2]
PULLS, WINDOW, KILLS = 120, 10, (25, 70)
"""Pull requests at first, rows of a window, and how many are on file when the process is killed."""


class Moving(History):
    """A forge whose pull requests are commented on and merged while it is read; every detail asked for is counted."""

    def __init__(self) -> None:
        super().__init__([n * 3_600 for n in range(PULLS)])
        self.cap, self.details, self.searches = 5, Counter[int](), list[dict[str, str]]()

    def __call__(self, path: str, query: dict[str, str]) -> Answer:
        """Answer a request; now and then a detail brings a merge, and a comment on an old one."""
        last = path.rpartition("/")[2]
        if path.endswith("/search"):
            self.searches.append(query)
            return super().__call__(path, query)
        if "/pulls/" in path:
            return self._detail(int(last))
        return super().__call__(path, query) if path.endswith("/settings/api") else Answer(body=[])

    def _detail(self, number: int) -> Answer:
        self.details[number] += 1
        if self.details.total() in range(20, PULLS - WINDOW, 20):
            self.times[len(self.times)] = NOW
            self.times[number // 2] = NOW
        row = self._row(number)
        place = {"repo": {"id": 1, "full_name": "fleet/a"}, "ref": "main"}
        more = {"merged": True, "merged_by": {"login": "maintainer"}, "merge_commit_sha": f"{number:040}"}
        return Answer(body={**row, **more, "base": place, "merge_base": "b" * 40, "closed_at": row["updated_at"]})


def on_file(folder: Path) -> set[int]:
    """Return the numbers of the pull requests that are on file."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'fleetssd.sqlite3'}?mode=ro", uri=True)) as raw:
            return {number for (number,) in raw.execute("SELECT number FROM pull_requests")}
    except sqlite3.OperationalError:  # not there yet
        return set()


def test_a_killed_backfill_reads_nothing_twice_and_misses_nothing(script: Script, tmp_path: Path) -> None:
    """Killed twice, it asks nothing again that is on file, goes on where its lists ended, and ends with all."""
    script.decide = forge = Moving()
    (tmp_path / "token").write_text("t0ken")
    command = [sys.executable, "-m", "tests.e2e.backfill_child", script.url, str(tmp_path), str(WINDOW)]
    for enough in KILLS:
        with subprocess.Popen(command, cwd=ROOT) as process:
            while len(on_file(tmp_path)) < enough and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        known = on_file(tmp_path)
        assert enough <= len(known) < PULLS
        asked, started = Counter(forge.details), len(forge.searches)
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    assert on_file(tmp_path) == set(forge.times)
    assert {number: forge.details[number] - asked[number] for number in known} == dict.fromkeys(known, 0)
    oldest = (NOW - timedelta(hours=PULLS)).isoformat()
    assert forge.searches[started]["since"] > oldest
