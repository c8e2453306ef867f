"""Webhook deliveries without I/O."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Rejected
from fleetssd.gitea_hooks import read_delivery, verified

SECRET = b"a secret"
MERGED: dict[str, Any] = {
    "action": "closed",
    "number": 7,
    "pull_request": {"merged": True},
    "repository": {"id": 2, "full_name": "fleet/conveyor"},
}


def sign(message: bytes, secret: bytes = SECRET) -> str:
    """Return the signature that the forge would send."""
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def headers(message: bytes, **more: str) -> dict[str, str]:
    """Return the headers of a JSON delivery of a pull request."""
    fixed = {"content-type": "application/json", "x-gitea-event": "pull_request", "x-gitea-delivery": "uuid-1"}
    return {
        **fixed,
        "x-gitea-signature": sign(message),
        **{name.replace("_", "-"): text for name, text in more.items()},
    }


def test_a_merge_names_its_pull_request() -> None:
    """A signed delivery of a merge hints at its pull request."""
    body = json.dumps(MERGED).encode()
    found = read_delivery(headers(body), body, SECRET)
    assert (found.id, found.event, found.repository, found.repository_id, found.pull) == (
        "uuid-1", "pull_request", "fleet/conveyor", 2, 7,
    )  # fmt: skip
    assert found.body_sha256 == hashlib.sha256(body).hexdigest()


def test_a_form_is_signed_over_its_decoded_payload() -> None:
    """With the form content type the signature is over the payload, not over the body."""
    message = json.dumps({**MERGED, "text": "a+b c&d=é"}).encode()
    body = b"x=1&payload=" + quote_plus(message).encode()
    content = "application/x-www-form-urlencoded; charset=utf-8"
    assert read_delivery(headers(message, content_type=content), body, SECRET).pull == 7


def test_a_form_without_payload_is_refused() -> None:
    """There is nothing that a signature could be over."""
    with pytest.raises(Rejected) as refused:
        read_delivery(headers(b"", content_type="application/x-www-form-urlencoded"), b"x=1", SECRET)
    assert refused.value.status == 400


def test_forgejo_headers_are_read() -> None:
    """Forgejo sends its own headers in addition; any one set is enough."""
    body = json.dumps(MERGED).encode()
    found = read_delivery(
        {"x-forgejo-event": "pull_request", "x-forgejo-delivery": "u2", "x-forgejo-signature": sign(body)}, body, SECRET
    )
    assert (found.id, found.pull) == ("u2", 7)


def test_the_hub_signature_is_read_without_its_prefix() -> None:
    """`X-Hub-Signature-256` carries the same digest behind `sha256=`."""
    body = json.dumps(MERGED).encode()
    assert (
        read_delivery({"x-hub-signature-256": "sha256=" + sign(body)}, body, SECRET).id
        == hashlib.sha256(body).hexdigest()
    )


@pytest.mark.parametrize("signature", ["", "sha256=", "0" * 64, "é" * 64, "z"])
def test_a_wrong_or_empty_signature_is_refused(signature: str) -> None:
    """Nothing unsigned is read, whatever it says."""
    body = json.dumps(MERGED).encode()
    with pytest.raises(Rejected) as refused:
        read_delivery(headers(body, x_gitea_signature=signature), body, SECRET)
    assert refused.value.status == 401


def test_no_signature_header_is_refused() -> None:
    """A delivery without a signature is an unsigned one."""
    with pytest.raises(Rejected):
        read_delivery({}, b"{}", SECRET)


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"\xff", b"", b"[" * 100_000])
def test_signed_bytes_must_be_an_object(body: bytes) -> None:
    """What is signed but no JSON object is a bad request, not a bad signature."""
    with pytest.raises(Rejected) as refused:
        read_delivery(headers(body), body, SECRET)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"action": "opened"},
        {"pull_request": {"merged": False}},
        {"pull_request": None},
        {"number": True},
        {"number": "7"},
        {"number": -1},
        {"number": 2**70},
    ],
)
def test_what_is_no_merge_hints_at_nothing(change: dict[str, Any]) -> None:
    """Other actions, unmerged pull requests and odd numbers are taken and lead nowhere."""
    body = json.dumps({**MERGED, **change}).encode()
    assert read_delivery(headers(body), body, SECRET).pull is None


def test_other_events_hint_at_nothing() -> None:
    """A push has no pull request."""
    body = json.dumps(MERGED).encode()
    assert read_delivery(headers(body, x_gitea_event="push"), body, SECRET).pull is None


@pytest.mark.parametrize("place", [None, [], {"id": "2", "full_name": 3}])
def test_a_delivery_without_its_repository_names_none(place: Any) -> None:
    """A missing or odd repository is empty, never an error."""
    body = json.dumps({**MERGED, "repository": place}).encode()
    found = read_delivery(headers(body), body, SECRET)
    assert (found.repository, found.repository_id) == ("", 0)


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=40), st.integers(0, 10_000), st.integers(1, 255))
def test_one_flipped_byte_is_refused(message: bytes, secret: bytes, at: int, change: int) -> None:
    """The right signature verifies; a byte changed anywhere in the message does not."""
    signature = sign(message, secret)
    assert verified(signature, message, secret)
    if message:
        at %= len(message)
        flipped = message[:at] + bytes([message[at] ^ change]) + message[at + 1 :]
        assert not verified(signature, flipped, secret)


@given(st.binary(max_size=50))
def test_an_empty_secret_proves_nothing(message: bytes) -> None:
    """Without a secret even the digest under the empty key is refused."""
    assert not verified(sign(message, b""), message, b"")
