"""How deliveries are written and signed, held against recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from fleetssd.embedded.forge.model import Delivery, Hook
from fleetssd.embedded.forge.webhooks import encode, expand, request_of

SAMPLES = Path(__file__).parents[3] / "samples"
TRANSPORT = ("Host", "Content-Length", "X-Gitea-Delivery", "X-Gogs-Delivery", "X-GitHub-Delivery")
RECORDED = [
    ("gitea", "01-issues-opened"),
    ("gitea", "03-pull-request-closed-merge"),
    ("gitea", "15-form-pull-request-closed-private"),
    ("gitea", "17-no-secret-empty-signature"),
    ("gitea", "18-with-authorization-header"),
    ("gitea", "20-synchronized"),
    ("gitea", "24-organization-hook"),
    ("gitea-1.22", "02-pull-request-closed-merge"),
    ("gitea-1.22", "05-form-pull-request-closed-private"),
    ("gitea-1.22", "06-no-secret-empty-signature"),
]


def recorded(server: str, name: str) -> tuple[dict[str, Any], bytes]:
    """Read a recorded delivery: its description and its body."""
    folder = SAMPLES / server / "webhooks"
    return json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.bin").read_bytes()


@pytest.mark.parametrize(("server", "name"), RECORDED)
def test_a_delivery_has_the_recorded_headers_and_body(server: str, name: str) -> None:
    """Same hook, same payload: the same body and headers but for length, host and UUID."""
    told, body = recorded(server, name)
    headers = dict(told["headers"])
    form = headers["Content-Type"] != "application/json"
    payload = parse_qs(body.decode())["payload"][0].encode() if form else body
    target = headers.get("X-Gitea-Hook-Installation-Target-Type", "repository")
    secret, kind = told.get("secret") or "", "form" if form else "json"
    hook = Hook(1, target, 1, "http://h/x", kind, secret, [], True, 0, 0, headers.get("Authorization", ""))
    delivery = Delivery(hook, headers["X-Gitea-Event"], headers["X-Gitea-Event-Type"], payload)
    request = request_of(delivery, old=server != "gitea")
    sent = {name.decode().lower(): value.decode() for name, value in request.headers.raw}
    expected = {key.lower(): value for key, value in headers.items() if key not in TRANSPORT}
    assert {key: sent[key] for key in expected} == expected
    assert set(sent) - {name.lower() for name in TRANSPORT} == set(expected)
    assert request.content == body


@pytest.mark.parametrize("name", ["01-issues-opened", "03-pull-request-closed-merge", "18-with-authorization-header"])
def test_a_payload_is_written_byte_for_byte(name: str) -> None:
    """Reading a recorded payload and writing it again gives its very bytes."""
    _, body = recorded("gitea", name)
    assert encode(json.loads(body)) == body


def test_wide_names_expand_to_every_sub_event() -> None:
    """`pull_request` and `issues` widen, `_only` names do not, unknown ones vanish, nothing means push."""
    assert expand(["pull_request_only", "issues_only"]) == ["pull_request", "issues"]
    assert expand([]) == ["push"]
    assert expand(["nosuch"]) == []
    patched = json.loads((SAMPLES / "gitea/api/hook_patch_echo_widens.json").read_text())
    body = patched["response"]["body"]
    shown = json.loads(body) if isinstance(body, str) else body
    assert set(expand(["issues", "pull_request"])) == set(shown["events"])


def test_1_22_expands_to_its_own_names() -> None:
    """The 1.22 line lists approvals, rejections and review comments one by one."""
    made = json.loads((SAMPLES / "gitea-1.22/api/hook_create_full.json").read_text())
    body = made["response"]["body"]
    shown = json.loads(body) if isinstance(body, str) else body
    assert set(expand(["pull_request", "issues", "issue_comment", "push"], old=True)) == set(shown["events"])
