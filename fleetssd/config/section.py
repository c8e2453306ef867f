"""What every table of the settings file is, and what an address in one looks like."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen table of the settings file that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def http_url(url: str) -> str:
    """Return an address without its last slash. Raises ValueError where it is none, or carries a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://host:port or https://host")
    if parts.username or parts.password or parts.query:
        raise ValueError("an address carries no token and no query; use token_file")
    return url.rstrip("/")
