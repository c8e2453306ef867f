"""Run the forge on a socket: in a service's own process, or in a thread for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from fleetssd.embedded.forge import accounts
from fleetssd.embedded.forge.app import Forge
from fleetssd.embedded.forge.quirks import Quirks
from fleetssd.embedded.forge.state import State


class Server:
    """A forge bound to host and port (0 = a free one), not yet answering; `root_url` defaults to its own address."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        version: str = "1.26.1",
        root_url: str = "",
        quirks: Quirks | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = socket.create_server((host, port))
        # Connections inherit this; without it each answer waits 40 ms for a delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.socket.getsockname()[1]}"
        self.state = State(folder.resolve(), version=version, root_url=root_url.rstrip("/") or self.url, quirks=quirks)
        accounts.seed(self.state)
        self.forge = Forge(self.state)
        # uvloop, where it is installed, answers a pipe that git closed early with an error of no class of its own.
        config = uvicorn.Config(self.forge.app, loop="asyncio", log_level="warning", access_log=False, lifespan="off")
        self.uvicorn = uvicorn.Server(config)

    def token_file(self, login: str) -> Path:
        """Return where the seeded token of an account lies."""
        return self.state.folder / "tokens" / login

    def token(self, login: str) -> str:
        """Return the seeded token of an account."""
        return self.token_file(login).read_text().strip()

    def run(self) -> None:
        """Answer until told to end (SIGTERM or SIGINT in the main thread, `stop` elsewhere), then write everything."""
        try:
            self.uvicorn.run(sockets=[self.socket])
        finally:
            self.socket.close()
            self.forge.close()

    def stop(self) -> None:
        """Ask `run` to end."""
        self.uvicorn.should_exit = True


@contextlib.contextmanager
def running(
    folder: Path, *, version: str = "1.26.1", root_url: str = "", quirks: Quirks | None = None
) -> Iterator[Server]:
    """Run a forge in a thread for the length of a block."""
    server = Server(folder, version=version, root_url=root_url, quirks=quirks)
    thread = threading.Thread(target=server.run, name="embedded-forge", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)
