"""httpx to our own daemon: what its port counts."""

from __future__ import annotations

import httpx


def deliveries_seen(host: str, port: int, *, timeout: float = 5.0) -> dict[str, int] | None:
    """Return how many deliveries the daemon took (`signed`) and turned away (`refused`); None where it is not up."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  where it listens, not we
    shown = f"[{reached}]" if ":" in reached else reached
    try:
        with httpx.Client(timeout=timeout, trust_env=False) as client:
            told = client.get(f"http://{shown}:{port}/webhook/seen").json()
            return {name: int(told[name]) for name in ("signed", "refused")}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
