"""An Ollama-compatible server over llama.cpp, for the demonstration and the tests."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from fleetssd.embedded.ollama.app import DEFAULT_NUM_CTX, DEFAULT_PARALLEL, build_app
from fleetssd.embedded.ollama.profiles import DEFAULT_PROFILE, PROFILES


class _Server(uvicorn.Server):
    """Says where it listens once it does, and ends with exit code 0 when it is told to."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(json.dumps({"url": self._url}) + "\n")
            sys.stdout.flush()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; 78 where the port or the folder is not to be had."""
    options = _parser().parse_args(arguments)
    try:
        options.data.mkdir(parents=True, exist_ok=True)
        listener = socket.create_server((options.host, options.port), backlog=256)
    except OSError as error:
        sys.stderr.write(f"embedded_ollama: {error}\n")
        return 78
    # asyncio sets this only on sockets that it made itself; without it every answer waits some 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listener.getsockname()[:2]
    app = build_app(
        options.data,
        profile=options.profile,
        num_ctx=options.ctx,
        parallel=options.parallel,
        loopback=ipaddress.ip_address(host).is_loopback,
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=60,
    )
    asyncio.run(_Server(config, f"http://{host}:{port}").serve(sockets=[listener]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.embedded_ollama",
        description="Serve an Ollama-compatible API over llama.cpp. Prints one JSON line with its url when ready.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=11434, help="port, 0 for a free one (default %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="folder of blobs and manifests")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=DEFAULT_PROFILE, help="Ollama to stand in for")
    parser.add_argument("--parallel", type=int, default=DEFAULT_PARALLEL, help="requests at once per model")
    parser.add_argument("--ctx", type=int, default=DEFAULT_NUM_CTX, help="num_ctx where nobody sets one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
