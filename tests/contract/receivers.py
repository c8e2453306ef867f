"""A webhook receiver, and the patience for what a server does in the background."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = os.environ.get("FLEETSSD_TEST_RECEIVER_HOST", "127.0.0.1")
"""Where a real server finds this machine."""
Got = tuple[str, dict[str, str], bytes]


class Receiver:
    """A webhook receiver that keeps what it gets: (method and path, headers, body)."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        kept = self.got

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if "X-Gitea-Delivery" in self.headers:  # a port may have been somebody else's a moment ago
                    kept.append((f"{self.command} {self.path}", dict(self.headers.items()), body))
                self.send_response(302 if self.path == "/elsewhere" else 204)
                if self.path == "/elsewhere":
                    self.send_header("Location", "/landed")
                self.end_headers()

            do_POST = do_GET = _take  # noqa: N815 -- the base class names them so

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1" if HOST == "127.0.0.1" else "", 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def wait(self, number: int) -> list[Got]:
        """Return what came, once there are `number` deliveries."""
        until(lambda: len(self.got) >= number)
        return list(self.got)

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def until(true: Callable[[], object]) -> None:
    """Wait for something that a server does in the background."""
    assert happens(true), "it never came"


def happens(true: Callable[[], object], tries: int = 200) -> bool:
    """Tell whether something comes true within some seconds."""
    for _ in range(tries):
        if true():
            return True
        time.sleep(0.05)
    return False
