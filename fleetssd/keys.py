"""The gateway's API keys: one an agent, handed out once and kept as hashes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fleetssd.errors import Misconfigured, Rejected

SECRET_BYTES = 36
"""Random bytes of a key: 4 name it, 32 are the secret. So much chance needs no slow hash."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_LINE = re.compile(r"([0-9a-f]{8}) ([0-9a-f]{64}) (\S+) (\S+)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: its public id, the agent that it names, and the sha256 (hex) of the whole."""

    id: str
    agent: str
    sha256: str
    created_at: datetime


def mint(agent: str, random: bytes, now: datetime) -> tuple[Key, str]:
    """Make a key of SECRET_BYTES random bytes; returns what is kept, and the key itself, which is not.

    Raises Rejected where the agent's name cannot be one.
    """
    if not _NAME.fullmatch(agent):
        raise Rejected(f"{agent!r} cannot name an agent", hint="Letters, digits, and . _ @ - within; at most 64.")
    name, secret = random[:4].hex(), base64.urlsafe_b64encode(random[4:]).decode().rstrip("=")
    text = f"fleetssd_{name}_{secret}"
    return Key(name, agent, _hash(text), now), text


def read_keys(text: str) -> dict[str, Key]:
    """Read a key file, by key id. Raises Misconfigured, naming the line and never its content."""
    keys = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise Misconfigured(
                f"line {number} of the key file is no key", hint="`fleetssd gateway key add` writes it."
            )
        try:
            keys[found[1]] = Key(found[1], found[3], found[2], datetime.fromisoformat(found[4]))
        except ValueError:
            raise Misconfigured(f"line {number} of the key file has no date", hint="Remove the line.") from None
    return keys


def written(keys: Iterable[Key]) -> str:
    """Return the text of a key file."""
    head = "# API keys of the gateway: id, sha256, agent, made at. `fleetssd gateway key add` writes it.\n"
    return head + "".join(f"{key.id} {key.sha256} {key.agent} {key.created_at.isoformat()}\n" for key in keys)


def whose(keys: Mapping[str, Key], presented: str) -> str | None:
    """Return the agent that a presented key names, None where it is no key of ours.

    The id is public; the rest is compared by its hash, in a time that tells nothing.
    """
    parts = presented.split("_", 2)
    key = keys.get(parts[1]) if len(parts) == 3 else None
    kept = key.sha256 if key else "0" * 64
    same = hmac.compare_digest(_hash(presented), kept)
    return key.agent if key and same else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
