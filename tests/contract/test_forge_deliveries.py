"""A forge's webhook deliveries at their oddest, and what the receiver makes of them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fleetssd.adapters.clock import SystemClock
from fleetssd.adapters.gitea_admin import GiteaHooks
from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.gitea_hooks import read_delivery
from fleetssd.hooks import EVENTS, Place, body, faults
from fleetssd.web.webhook import routes
from tests.contract.forges import Desk
from tests.contract.receivers import Got, Receiver

SECRET = b"the hook's own secret"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty store."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 'fleet.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def product(tmp_path: Path, store: SqlStore) -> TestClient:
    """Serve the daemon's webhook with the hook's secret."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "token").write_text("t")
    table = {
        "data_dir": str(tmp_path),
        "forge": {
            "url": "http://forge", "token_file": str(tmp_path / "token"),
            "webhook_secret_file": str(tmp_path / "secret"),
        },
        "fleet": {"agents": ["*"], "repositories": ["*"]},
    }  # fmt: skip
    return TestClient(Starlette(routes=routes(parse(table), store, SystemClock(), lambda: None)))


def hook(desk: Desk, url: str, *, content_type: str = "json", secret: bytes = SECRET, **more: Any) -> int:
    """Make a hook for pull requests and issues and return its id."""
    config = {"url": url, "content_type": content_type, "secret": secret.decode()}
    table = {"type": "gitea", "config": config, "events": ["pull_request_only", "issues_only"], "active": True}
    return int(desk.maintainer.post(f"{desk.api}/hooks", {**table, **more})["id"])


def merged(desk: Desk) -> int:
    """Open and merge a pull request."""
    desk.commit("work", {"a.py": "A = '<&>'\n"}, "add")
    number = desk.pull("work", "no link", title="Add <b> & cö")
    assert desk.merge(number, "squash").status_code == 200
    return number


def sent(product: TestClient, got: Got) -> int:
    """Hand what a forge sent to the daemon's webhook; return its status."""
    request, headers, payload = got
    kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
    return product.request(request.split(" ")[0], "/webhook", headers=kept, content=payload).status_code


def test_a_form_delivery_is_taken(desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore) -> None:
    """A form's signature is over what `payload` decodes to; the merge is kept, the opening is not."""
    hook(desk, f"{receiver.url}/form", content_type="form")
    number = merged(desk)
    opened, closed = receiver.wait(2)
    assert closed[1]["Content-Type"] == "application/x-www-form-urlencoded"
    assert [sent(product, opened), sent(product, closed)] == [204, 202]
    (kept,) = store.open_deliveries()
    assert (kept.pull, kept.repository) == (number, desk.place)


def test_an_empty_signature_is_refused(desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore) -> None:
    """A hook without a secret signs with nothing, which the daemon refuses."""
    hook(desk, f"{receiver.url}/none", secret=b"")
    merged(desk)
    opened, closed = receiver.wait(2)
    assert (opened[1]["X-Gitea-Signature"], closed[1]["X-Hub-Signature-256"]) == ("", "sha256=")
    assert [sent(product, opened), sent(product, closed)] == [401, 401]
    assert store.open_deliveries() == []


def test_a_delivery_that_comes_again_is_kept_once(
    desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore
) -> None:
    """Sent again by hand a delivery has the same bytes under a new UUID: 204, and nothing new."""
    desk.ground.quirk(repeat_deliveries=True)
    hook(desk, f"{receiver.url}/twice")
    merged(desk)
    (one, two) = receiver.wait(4)[2:]
    assert one[2] == two[2]
    assert one[1]["X-Gitea-Delivery"] != two[1]["X-Gitea-Delivery"]
    assert [sent(product, one), sent(product, two)] == [202, 204]
    assert len(store.open_deliveries()) == 1


def test_a_test_delivery_is_a_push_and_is_forgotten(
    desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore
) -> None:
    """The test button sends a push to hooks that listen to pushes: signed, 204, nothing kept."""
    made = hook(desk, f"{receiver.url}/push", events=["push"])
    assert desk.maintainer.ask("POST", f"{desk.api}/hooks/{made}/tests").status_code == 204
    (push,) = receiver.wait(1)
    assert push[1]["X-Gitea-Event"] == "push"
    assert (sent(product, push), store.open_deliveries()) == (204, [])


def test_an_action_that_nobody_knows_is_forgotten(
    desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore
) -> None:
    """A signed event of a kind that is not ours is 204 and leaves nothing."""
    desk.ground.quirk(hook_action="pondered")
    hook(desk, f"{receiver.url}/odd")
    merged(desk)
    odd = receiver.wait(2)[1]
    assert json.loads(odd[2])["action"] == "pondered"
    assert (sent(product, odd), store.open_deliveries()) == (204, [])


def test_forgejos_headers_are_taken(desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore) -> None:
    """Forgejo adds headers of its own; they alone would do."""
    if not desk.ground.is_forgejo:
        desk.ground.quirk(forgejo_headers=True)
    hook(desk, f"{receiver.url}/forgejo")
    number = merged(desk)
    got = receiver.wait(2)[1]
    assert got[1]["X-Forgejo-Signature"] == hmac.new(SECRET, got[2], hashlib.sha256).hexdigest()
    own = {name.lower(): value for name, value in got[1].items() if "forgejo" in name.lower() or "-" not in name}
    delivery = read_delivery(own, got[2], SECRET)
    assert (delivery.id, delivery.event, delivery.pull) == (got[1]["X-Forgejo-Delivery"], "pull_request", number)
    assert (sent(product, got), len(store.open_deliveries())) == (202, 1)


def test_a_patch_without_events_is_not_ours(desk: Desk) -> None:
    """It leaves the hook with pushes alone, and the install verb's own body brings the events back."""
    url = "https://fleetssd.example/webhook"
    place, table = Place(desk.place), body(url, SECRET.decode(), EVENTS)
    hooks = GiteaHooks(desk.ground.url, desk.maintainer.token)
    made = hooks.create(place, table)
    assert faults(made, url) == ()
    patched = desk.maintainer.ask("PATCH", f"{desk.api}/hooks/{made.id}", {"active": True}).json()
    assert (patched["events"], faults(hooks.hooks(place)[0], url) != ()) == (["push"], True)
    assert faults(hooks.mend(place, made.id, table), url) == ()
    hooks.close()


def test_what_a_redirect_makes_of_a_delivery_is_refused(
    desk: Desk, receiver: Receiver, product: TestClient, store: SqlStore
) -> None:
    """After a 302 the POST is a GET with the signature of the body that it lost: 405, so that it counts as failed."""
    hook(desk, f"{receiver.url}/elsewhere")
    desk.issue()
    (posted, _, _), landed = receiver.wait(2)
    assert (posted, landed[0], landed[2]) == ("POST /elsewhere", "GET /landed", b"")
    assert len(landed[1]["X-Gitea-Signature"]) == 64
    assert (sent(product, landed), store.open_deliveries()) == (405, [])
