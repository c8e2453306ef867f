"""What a hook must be, and what the forge's operator is told where none of it arrives."""

from __future__ import annotations

import pytest

from fleetssd import hooks
from fleetssd.errors import Misconfigured
from fleetssd.hooks import Place

URL = "https://fleetssd.test/webhook"
ROW = {"id": 3, "config": {"url": URL, "content_type": "json"}, "events": ["pull_request"], "active": True}


def test_a_body_names_everything() -> None:
    """A PATCH without events would reset them, and `active` would be off: both are always sent."""
    made = hooks.body(URL, "s", hooks.EVENTS)
    assert (made["events"], made["active"], made["config"]["secret"]) == (["pull_request_only"], True, "s")


def test_a_sound_hook_has_no_faults() -> None:
    """The hook as the server shows it after `pull_request_only` is what was asked for."""
    assert hooks.faults(hooks.parse(ROW), URL) == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"active": False}, "active"),
        ({"events": None}, "event"),
        ({"events": ["push"]}, "event"),
        ({"config": {"url": "http://o", "content_type": "json"}}, "http://o"),
        ({"config": {"url": URL}}, "content type"),
    ],
)
def test_each_fault_is_named(change: dict[str, object], word: str) -> None:
    """A hook that is off, deaf or calls somebody else says so."""
    assert any(word in fault for fault in hooks.faults(hooks.parse({**ROW, **change}), URL))


def test_places_have_addresses() -> None:
    """Repositories and organisations have hooks at addresses of their own; odd letters are quoted."""
    assert Place("o/r").path == "/api/v1/repos/o/r/hooks"
    assert Place("o?", organization=True).path == "/api/v1/orgs/o%3F/hooks"


@pytest.mark.parametrize(
    "url",
    ["", "not a url", "ftp://h/x", "https://", "https://h", "https://h/", "https://u:p@h/x", "http://h:99999/x", "http://[::/x"],
)  # fmt: skip
def test_an_address_that_cannot_be_called_is_refused(url: str) -> None:
    """Old servers take any text for an address, so it is looked at before it is sent."""
    with pytest.raises(Misconfigured):
        hooks.address(url)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8377/webhook", "external,loopback"),
        ("http://localhost/webhook", "external,loopback"),
        ("http://[::1]/webhook", "external,loopback"),
        ("http://192.168.1.5/webhook", "external,private"),
        ("http://fleetssd.lan/webhook", "external,fleetssd.lan"),
        ("http://8.8.8.8/webhook", "external "),
    ],
)
def test_the_hint_says_what_to_allow(url: str, allowed: str) -> None:
    """The line for app.ini fits the address: loopback, private, a name, or nothing more."""
    assert hooks.address(url) == url
    assert f"ALLOWED_HOST_LIST = {allowed}" in hooks.not_delivered(url)
