"""Serve a Gitea-compatible forge from a folder, for the demo and for tests; never for production."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from fleetssd.embedded.forge import accounts
from fleetssd.embedded.forge.quirks import parse
from fleetssd.embedded.forge.server import Server
from fleetssd.errors import FleetError


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = argparse.ArgumentParser(prog="python -m services.embedded_forge", description=__doc__)
    result.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    result.add_argument("--port", type=int, default=0, help="port to listen on, 0 for a free one")
    result.add_argument("--data", type=Path, required=True, help="folder of repositories, accounts and tokens")
    result.add_argument("--version", default="1.26.1", help="server to play: 1.26.1 or 1.22.3")
    result.add_argument("--root-url", default="", help="ROOT_URL, where it is not the address listened on")
    result.add_argument("--quirks", default="{}", help="JSON object of quirks that are on from the start")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; one JSON line tells when and where the forge answers."""
    given = parser().parse_args(arguments)
    try:
        server = Server(
            given.data,
            host=given.host,
            port=given.port,
            version=given.version,
            root_url=given.root_url,
            quirks=parse(json.loads(given.quirks)),
        )
    except (FleetError, OSError, ValueError) as error:
        sys.stderr.write(f"embedded_forge: {error}\n")
        return 78
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    ready = {
        "url": server.url,
        "token_file": str(server.token_file(accounts.READER)),
        "admin_token_file": str(server.token_file(accounts.ADMIN)),
        "maintainer_token_file": str(server.token_file(accounts.HUMAN)),
        "agent_token_files": [str(server.token_file(login)) for login in accounts.AGENTS],
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
