"""A registry of one manifest on loopback: the engine asks for it once, then it is gone. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fleetssd.errors import Misconfigured


@contextmanager
def serve_manifest(host: str, path: str, body: bytes, media_type: str) -> Iterator[str]:
    """Serve `body` at `path` and nothing else, read only, on a free port; yields `host:port`.

    Raises Misconfigured where `host` is no address of this machine.
    """

    class Handler(_OnePath):
        served = (path, body, media_type)

    try:
        server = ThreadingHTTPServer((host, 0), Handler)
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host}: {error.strerror}",
            hint="Set [engine] registry_host to an address of this machine that the engine can reach.",
        ) from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _OnePath(BaseHTTPRequestHandler):
    served: tuple[str, bytes, str]
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path, body, media_type = self.served
        found = self.path == path
        content = body if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", media_type if found else "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the standard library's name
        """Say nothing: the engine's log tells what it pulled."""
