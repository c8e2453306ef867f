"""The gateway: streams the fleet's requests to the checkpoint that serves now; prints its url when ready."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvicorn

from fleetssd import wiring
from fleetssd.adapters.systemd import notify, watchdog_pause
from fleetssd.config import load
from fleetssd.errors import FleetError

log = structlog.get_logger()

GRACE = 30
"""Seconds that running answers get to end after SIGTERM."""


class _Server(uvicorn.Server):
    """Says where it listens once it does, and then that its event loop still turns."""

    url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(json.dumps({"url": self.url}) + "\n")
            sys.stdout.flush()
            notify("READY=1")
            self._alive()

    def _alive(self) -> None:
        if pause := watchdog_pause():
            notify("WATCHDOG=1")
            asyncio.get_running_loop().call_later(pause, self._alive)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; exit codes are 0 done, 75 try again, 78 misconfigured."""
    args = _parser().parse_args(argv)
    wiring.configure_logging()
    try:
        settings = load(args.config)
        app = wiring.open_gateway(settings)
        listener = wiring.listen(settings.gateway.host, settings.gateway.port, "gateway")
    except FleetError as error:
        log.error("gateway_refused", error=error.message, hint=error.hint)
        return error.exit_code
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", server_header=False, date_header=False, ws="none",
        timeout_keep_alive=75, timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    server.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # uvicorn raises the signal again when it is done; that end is the one we want, with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])
    log.info("gateway_stopped")
    return 0 if server.started else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings file (TOML)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
