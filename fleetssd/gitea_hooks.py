"""Webhook deliveries without I/O: verified over the raw bytes, then read as a hint."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from fleetssd.errors import Rejected
from fleetssd.gitea import Delivery

_PREFIXES = ("x-forgejo", "x-gitea", "x-gogs", "x-github")


def read_delivery(headers: Mapping[str, str], body: bytes, secret: bytes) -> Delivery:
    """Verify a delivery and return what it hints at; `headers` have lower-case names.

    Raises Rejected with status 401 where the signature is missing, empty or wrong, and 400 where signed bytes are no
    JSON object. The signature is over the raw body, or over the decoded `payload` of a form.
    """
    message = _message(headers.get("content-type", ""), body)
    if not verified(_signature(headers), message, secret):
        raise Rejected("the delivery's signature is missing or wrong", status=401)
    return _parse(headers, message)


def verified(signature: str, message: bytes, secret: bytes) -> bool:
    """Compare an HMAC-SHA256 (hex) in constant time; an empty signature or secret proves nothing."""
    if not signature or not secret:
        return False
    expected = hmac.new(secret, message, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())


def _signature(headers: Mapping[str, str]) -> str:
    for name in ("x-forgejo-signature", "x-gitea-signature", "x-gogs-signature"):
        if name in headers:
            return headers[name]
    return headers.get("x-hub-signature-256", "").removeprefix("sha256=")


def _message(content_type: str, body: bytes) -> bytes:
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return body
    for field in body.split(b"&"):
        name, _, value = field.partition(b"=")
        if name == b"payload":
            return unquote_to_bytes(value.replace(b"+", b" "))
    return b""


def _parse(headers: Mapping[str, str], message: bytes) -> Delivery:
    try:
        payload = json.loads(message)
    except (ValueError, RecursionError):
        raise Rejected("the delivery is signed, but is not JSON", status=400) from None
    if not isinstance(payload, dict):
        raise Rejected("the delivery is signed, but is not a JSON object", status=400)
    digest = hashlib.sha256(message).hexdigest()
    event = _header(headers, "event")
    place = payload.get("repository")
    place = place if isinstance(place, dict) else {}
    return Delivery(
        id=_header(headers, "delivery")[:200] or digest,
        event=event,
        repository=_name(place.get("full_name")),
        repository_id=_whole(place.get("id")) or 0,
        pull=_merged_pull(event, payload),
        body_sha256=digest,
    )


def _merged_pull(event: str, payload: Mapping[str, Any]) -> int | None:
    """Return the number of the pull request that this event says was merged."""
    pull = payload.get("pull_request")
    closed = event == "pull_request" and payload.get("action") == "closed"
    if not closed or not isinstance(pull, dict) or pull.get("merged") is not True:
        return None
    return _whole(payload.get("number"))


def _header(headers: Mapping[str, str], what: str) -> str:
    return next((headers[name] for prefix in _PREFIXES if (name := f"{prefix}-{what}") in headers), "")


def _name(value: Any) -> str:
    """Return a name that can be sent on; half of a surrogate pair, which JSON can spell, cannot."""
    if not isinstance(value, str) or not value.isprintable():
        return ""
    return value


def _whole(value: Any) -> int | None:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
    return value if usable else None
