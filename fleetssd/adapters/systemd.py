"""systemd's side of a service: it is told that we are ready, and that we are alive."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one sd_notify(3) datagram; outside systemd there is no socket and nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def watchdog_pause() -> float:
    """Return the seconds between two signs of life, half of the watchdog's period; 0 where nobody waits for any."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
