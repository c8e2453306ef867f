"""The real daemon, killed in the middle of a burst of webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e
SECRET = b"the hook's secret"
SENDERS, ENOUGH = 4, 40


def delivery(number: int) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a signed merge that no other number names."""
    place = {"id": 1, "full_name": "fleet/a"}
    told = {"action": "closed", "number": number, "pull_request": {"merged": True}, "repository": place}
    body = json.dumps(told).encode()
    signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    return body, {"X-Gitea-Event": "pull_request", "X-Gitea-Delivery": str(number), "X-Gitea-Signature": signature}


def settings(folder: Path) -> tuple[Path, str]:
    """Write settings whose forge and engine are away; return the file and the webhook's address."""
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as away:
        port, nobody = free.getsockname()[1], away.getsockname()[1]
    (folder / "token").write_text("t" * 40)
    (folder / "secret").write_bytes(SECRET)
    path = folder / "config.toml"
    path.write_text(
        f'data_dir = "{folder}"\n[forge]\nurl = "http://127.0.0.1:{nobody}"\ntoken_file = "token"\n'
        'webhook_secret_file = "secret"\npoll_seconds = 3600.0\n[fleet]\nagents = ["a"]\nrepositories = ["fleet/*"]\n'
        f'[engine]\nurl = "http://127.0.0.1:{nobody}"\n[schedule]\nenabled = false\n[web]\nport = {port}\n'
    )
    return path, f"http://127.0.0.1:{port}/webhook"


@contextmanager
def daemon(config: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon until the block ends, as a process group of its own."""
    command = [sys.executable, "-m", "services.daemon", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not up(url):
                assert process.poll() is None, "the daemon did not start"
                assert time.monotonic() < deadline, "the daemon is not up"
                time.sleep(0.1)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def up(url: str) -> bool:
    """Tell whether the daemon answers."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/seen", trust_env=False).status_code == 200
    return False


def send_until_cut(url: str, numbers: Iterator[int], acknowledged: set[int]) -> None:
    """Send deliveries one after another and note those with a 2xx, until the connection fails."""
    with httpx.Client(timeout=30, trust_env=False) as client, suppress(httpx.HTTPError):
        for number in numbers:
            body, headers = delivery(number)
            if client.post(url, content=body, headers=headers).status_code == 202:
                acknowledged.add(number)


def test_no_delivery_with_a_2xx_is_lost(tmp_path: Path) -> None:
    """Of a burst cut off by SIGKILL all that was acknowledged is on file; what was not is kept when sent again."""
    config, url = settings(tmp_path)
    acknowledged: set[int] = set()
    with daemon(config, url) as process:
        streams = [iter(range(start, 10**6, SENDERS)) for start in range(1, SENDERS + 1)]
        threads = [
            threading.Thread(target=send_until_cut, args=(url, numbers, acknowledged), daemon=True)
            for numbers in streams
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while len(acknowledged) < ENOUGH:
            assert time.monotonic() < deadline, "the burst does not get going"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
    with closing(sqlite3.connect(tmp_path / "fleetssd.sqlite3")) as database:
        kept = {int(row[0]) for row in database.execute("SELECT id FROM deliveries")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert acknowledged <= kept
    assert len(kept - acknowledged) <= SENDERS
    with daemon(config, url):
        missing = max(kept | acknowledged) + 1
        codes = []
        for number in (missing, missing, min(acknowledged)):
            body, headers = delivery(number)
            codes.append(httpx.post(url, content=body, headers=headers, trust_env=False).status_code)
        assert codes == [202, 204, 204]
