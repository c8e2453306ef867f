"""Putting the webhook up on the embedded forge, and on the real one where the environment names it; quirk by quirk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from fleetssd.adapters.clock import SystemClock
from fleetssd.adapters.gitea_admin import GiteaHooks
from fleetssd.adapters.store import SqlStore
from fleetssd.cli import main
from fleetssd.config import Fleet, load
from fleetssd.embedded.forge.quirks import Fault, Quirks
from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.hooks import Place
from fleetssd.operations import webhooks
from fleetssd.web.webhook import routes
from tests.contract.forges import Desk, Ground, embedded

URL = "https://fleetssd.test/webhook"
SECRET = "the hook's own secret"


@pytest.fixture
def desk(ground: Ground) -> Iterator[Desk]:
    """Make a repository, and take the quirks back afterwards."""
    yield ground.repository()
    if ground.server:
        ground.server.state.quirks = Quirks()


@contextmanager
def admin(ground: Ground, token: str = "") -> Iterator[GiteaHooks]:
    """Open the forge's hooks as the maintainer, or with another token."""
    made = GiteaHooks(ground.url, token or ground.maintainer.token)
    try:
        yield made
    finally:
        made.close()


def shown(desk: Desk) -> list[dict[str, Any]]:
    """Return the repository's hooks as the forge shows them."""
    return list(desk.maintainer.get(f"{desk.api}/hooks"))


def installed(desk: Desk, **more: Any) -> webhooks.Outcome:
    """Install the hook and return what became of it."""
    with admin(desk.ground) as forge:
        return webhooks.install(forge, [Place(desk.place)], URL, SECRET, **more)[0]


def test_a_hook_is_made_active_and_narrow(desk: Desk) -> None:
    """The new hook is on, calls the address with JSON and listens to pull requests being opened and closed alone."""
    outcome = installed(desk)
    assert (outcome.did, outcome.error) == ("created", None)
    (hook,) = shown(desk)
    assert (hook["active"], hook["events"]) == (True, ["pull_request"])
    assert hook["config"] == {"url": URL, "content_type": "json"}


def test_installing_again_makes_no_second_hook(desk: Desk) -> None:
    """The hook is found by the address that it calls, and keeps its id."""
    first, second = installed(desk), installed(desk)
    assert (second.did, len(shown(desk))) == ("updated", 1)
    assert first.hook == second.hook


def test_a_hook_that_a_patch_had_reset_is_mended(desk: Desk) -> None:
    """A PATCH without events left it listening to pushes; installing gives the whole hook back."""
    outcome = installed(desk)
    assert outcome.hook is not None
    desk.maintainer.ask("PATCH", f"{desk.api}/hooks/{outcome.hook.id}", {"active": False})
    assert (shown(desk)[0]["events"], shown(desk)[0]["active"]) == (["push"], False)
    installed(desk)
    assert (shown(desk)[0]["events"], shown(desk)[0]["active"]) == (["pull_request"], True)


def test_further_hooks_with_the_address_are_removed(desk: Desk) -> None:
    """A POST is not idempotent: what an earlier hand made twice becomes one; other hooks stay."""
    for url in (URL, URL, "https://elsewhere.test/x"):
        body = {"type": "gitea", "config": {"url": url, "content_type": "form"}, "events": ["push"], "active": True}
        desk.maintainer.post(f"{desk.api}/hooks", body)
    installed(desk)
    assert sorted(hook["config"]["url"] for hook in shown(desk)) == ["https://elsewhere.test/x", URL]


def test_removing_takes_ours_and_leaves_the_others(desk: Desk) -> None:
    """Every hook with the address goes, once; a second removal finds none."""
    installed(desk)
    body = {"type": "gitea", "config": {"url": "https://o.test/x", "content_type": "json"}, "events": ["push"]}
    desk.maintainer.post(f"{desk.api}/hooks", body)
    with admin(desk.ground) as forge:
        did = [webhooks.remove(forge, [Place(desk.place)], URL)[0].did for _ in range(2)]
    assert (did, [hook["config"]["url"] for hook in shown(desk)]) == (["removed", "absent"], ["https://o.test/x"])


def test_a_renamed_repository_is_found_under_its_new_name(desk: Desk) -> None:
    """The old name is answered with a redirect: no write follows it blindly, and one hook hangs at the new name."""
    desk.maintainer.ask("PATCH", desk.api, {"name": f"{desk.place.split('/')[1]}-new"})
    for did in ("created", "updated"):
        assert installed(desk).did == did
    hooks = desk.maintainer.get(f"{desk.api}-new/hooks")
    assert [hook["config"]["url"] for hook in hooks] == [URL]
    with admin(desk.ground) as forge:
        assert webhooks.remove(forge, [Place(desk.place)], URL)[0].did == "removed"
        assert forge.hooks(Place(desk.place)) == []


def test_a_token_that_may_not_is_told_what_it_lacks(desk: Desk) -> None:
    """A reader's token is refused for its scope; the others of the same call go on."""
    if desk.ground.server is None:
        pytest.skip("a real server has one token")
    with admin(desk.ground, desk.ground.server.token("fleetssd")) as forge:
        outcome = webhooks.install(forge, [Place(desk.place)], URL, SECRET)[0]
    assert (outcome.did, type(outcome.error)) == ("failed", Misconfigured)
    assert outcome.error is not None
    assert "write:repository" in outcome.error.hint


def test_a_missing_repository_spoils_no_other(desk: Desk) -> None:
    """What fails at one place is its outcome, and the next place gets its hook."""
    with admin(desk.ground) as forge:
        found = webhooks.install(forge, [Place("fleet/nowhere"), Place(desk.place)], URL, SECRET)
    assert [each.did for each in found] == ["failed", "created"]
    assert isinstance(found[0].error, Rejected)


def test_globs_find_the_repositories_that_the_token_sees(desk: Desk) -> None:
    """Named repositories are taken as they are; a glob takes what the forge lists, page by page."""
    with admin(desk.ground) as forge:
        assert webhooks.places(forge, Fleet(agents=("a",), repositories=("x/y",))) == [Place("x/y")]
        found = webhooks.places(forge, Fleet(agents=("a",), repositories=(f"{desk.place[:-1]}?",)))
    assert Place(desk.place) in found


# --- the embedded forge alone: its switches


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ground]:
    """Run an embedded forge for one test."""
    with embedded(tmp_path) as started:
        yield started


def test_an_organisation_gets_one_hook(alone: Ground) -> None:
    """The hook of an organisation is made, mended and removed like a repository's."""
    place = Place("fleet", organization=True)
    with admin(alone) as forge:
        did = [webhooks.install(forge, [place], URL, SECRET)[0].did for _ in range(2)]
        assert (did, len(forge.hooks(place))) == (["created", "updated"], 1)
        assert webhooks.remove(forge, [place], URL)[0].did == "removed"
        assert forge.hooks(place) == []


def test_webhooks_switched_off_are_a_setting_of_the_forge(alone: Ground) -> None:
    """403 `disabled by administrator` names the key of app.ini."""
    desk = alone.repository()
    assert alone.server is not None
    alone.server.state.quirks = Quirks(webhooks_disabled=True)
    outcome = installed(desk)
    assert isinstance(outcome.error, Misconfigured)
    assert "DISABLE_WEBHOOKS" in outcome.error.hint


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "config": {"url": URL, "content_type": "json"}, "events": [], "active": True},
        {"id": 1, "config": {"url": URL, "content_type": "json"}, "events": ["pull_request"], "active": False},
    ],
)
def test_a_hook_that_would_never_call_is_not_taken_for_installed(alone: Ground, row: dict[str, Any]) -> None:
    """A server that drops our event or leaves the hook off answers 201 all the same; the answer is compared."""
    desk = alone.repository()
    assert alone.server is not None
    alone.server.state.quirks = Quirks(faults=[Fault("*/hooks", "POST", 201, json.dumps(row))])
    outcome = installed(desk)
    assert (outcome.did, type(outcome.error)) == ("failed", Rejected)


def test_a_write_that_is_lost_is_not_sent_twice(alone: Ground) -> None:
    """A 502 leaves it open whether the hook was made: nothing is repeated, and the next install finds out."""
    desk = alone.repository()
    assert alone.server is not None
    alone.server.state.quirks = Quirks(faults=[Fault("*/hooks", "POST", 502, "<html>", "text/html")])
    assert isinstance(installed(desk).error, Transient)
    assert (installed(desk).did, len(shown(desk))) == ("created", 1)


def test_a_redirect_to_another_server_gets_no_token(alone: Ground) -> None:
    """A forge that points elsewhere is refused before anything is sent there."""
    desk = alone.repository()
    assert alone.server is not None
    away = {"Location": "https://evil.test/api/v1/x"}
    alone.server.state.quirks = Quirks(faults=[Fault("*/hooks", "POST", 307, "", headers=away)])
    assert isinstance(installed(desk).error, Misconfigured)


def test_redirects_without_end_are_refused(alone: Ground) -> None:
    """A name that always moves on is given up after a few looks."""
    desk = alone.repository()
    assert alone.server is not None
    here = {"Location": f"/api/v1{desk.api}"}
    alone.server.state.quirks = Quirks(faults=[Fault(f"*{desk.api}*", "*", 301, "", headers=here, times=99)])
    assert isinstance(installed(desk).error, Rejected)


@contextmanager
def daemon(folder: Path, forge: Ground, name: str) -> Iterator[Path]:
    """Serve the real route over a real database on loopback; yields the settings file."""
    (folder / "secret").write_text(SECRET)
    settings = folder / "config.toml"

    def write(port: int) -> None:
        settings.write_text(
            f'data_dir = "{folder}"\n[forge]\nurl = "{forge.url}"\ntoken_file = "token"\n'
            f'webhook_secret_file = "secret"\n[fleet]\nagents = ["agent-*"]\nrepositories = ["{name}"]\n'
            f"[web]\nport = {port}\n"
        )

    (folder / "token").write_text(forge.maintainer.token)
    write(0)
    store = SqlStore.open(f"sqlite:///{folder / 'd.sqlite3'}")
    app = Starlette(routes=routes(load(settings), store, SystemClock(), lambda: None))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    write(server.servers[0].sockets[0].getsockname()[1])
    try:
        yield settings
    finally:
        server.should_exit = True
        thread.join(10)
        store.close()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def run(settings: Path, *words: str) -> int:
    """Run a verb and return its exit code."""
    try:
        main(["--config", str(settings), "webhook", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_line_installs_tests_lists_and_removes(
    alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test delivery reaches the daemon, the hook is narrow again after it, and remove takes it down."""
    desk = alone.repository()
    with daemon(tmp_path, alone, desk.place) as settings:
        assert run(settings, "install", "--json") == 0
        (told,) = json.loads(capsys.readouterr().out)
        assert (told["did"], told["test"]) == ("created", "delivered")
        assert run(settings, "list", "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["ours"], row["active"], row["events"]) == (True, True, ["pull_request"])
        assert run(settings, "list") == run(settings, "remove") == 0
        assert shown(desk) == []


def test_a_test_delivery_that_does_not_come_is_explained(
    alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the forge may not call our address, the exit code says so and the hint names ALLOWED_HOST_LIST."""
    desk = alone.repository()
    assert alone.server is not None
    with daemon(tmp_path, alone, desk.place) as settings:
        alone.server.state.quirks = Quirks(hold_deliveries=True)
        assert run(settings, "install", "--wait", "0.5") == 1
    said = capsys.readouterr().err
    assert "ALLOWED_HOST_LIST = external,loopback" in said
    assert SECRET not in said
    assert shown(desk)[0]["events"] == ["pull_request"]


def test_a_delivery_under_another_secret_is_told_apart(
    alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A daemon that still has the old secret refuses the test delivery: the hint is to restart it."""
    desk = alone.repository()
    with daemon(tmp_path, alone, desk.place) as settings:
        (tmp_path / "secret").write_text("a newer one")
        assert run(settings, "install") == 1
    assert "restart" in capsys.readouterr().err


def test_an_empty_repository_is_installed_untested(
    alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The forge makes no test delivery without a commit; the hook is there all the same."""
    alone.maintainer.post("/orgs/fleet/repos", {"name": "hollow", "auto_init": False})
    with daemon(tmp_path, alone, "fleet/hollow") as settings:
        assert run(settings, "install", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["did"], told["test"].startswith("not made: ")) == ("created", True)


def test_without_a_daemon_the_hook_is_installed_untested(
    alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can be seen to arrive where no daemon counts: that is said, and is no failure."""
    desk = alone.repository()
    with daemon(tmp_path, alone, desk.place) as settings:
        pass
    assert run(settings, "install") == 0
    assert "daemon is not up" in capsys.readouterr().err
    assert len(shown(desk)) == 1


def test_the_oldest_server_is_served_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1.22 answers a renamed repository with 307 and an empty one's test with a bare 500."""
    with embedded(tmp_path / "forge", version="1.22.3") as old:
        desk = old.repository()
        desk.maintainer.ask("PATCH", desk.api, {"name": f"{desk.place.split('/')[1]}-new"})
        assert [installed(desk).did for _ in range(2)] == ["created", "updated"]
        assert len(desk.maintainer.get(f"{desk.api}-new/hooks")) == 1
        old.maintainer.post("/orgs/fleet/repos", {"name": "hollow", "auto_init": False})
        with daemon(tmp_path, old, "fleet/hollow") as settings:
            assert run(settings, "install", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["did"], told["test"].startswith("not made: ")) == ("created", True)
