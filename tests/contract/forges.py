"""Clients of a forge under test: the embedded one, or a real server named by the environment."""

from __future__ import annotations

import base64
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleetssd.embedded.forge.server import Server, running
from tests.contract.receivers import Receiver, happens

LIVE_URL = os.environ.get("FLEETSSD_TEST_GITEA_URL", "").rstrip("/")
LIVE_TOKEN = os.environ.get("FLEETSSD_TEST_GITEA_TOKEN_FILE", "")
_NAMES = count(1)
_CLIENT = httpx.Client(timeout=30, trust_env=False)  # one for all: making one costs more than a request


@dataclass
class Person:
    """An account with its token; answers are httpx responses."""

    login: str
    url: str
    token: str = field(repr=False)

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        """Send one request to the API."""
        return _CLIENT.request(
            method,
            f"{self.url}/api/v1{path}",
            json=body,
            params=query or None,
            headers={"Authorization": f"token {self.token}"} if self.token else {},
        )

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a GET that must be answered with 200."""
        response = self.ask("GET", path, **query)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, *, status: int = 201) -> Any:
        """Return the JSON (or None) of a POST that must be answered with `status`."""
        response = self.ask("POST", path, body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def git(self, *arguments: str, check: bool = True, data: bytes | None = None) -> str:
        """Run git with this account's token in its environment and return its output."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        pair = base64.b64encode(f"{self.login}:{self.token}".encode()).decode()
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{self.url}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
        }
        done = subprocess.run(["git", *arguments], env=environment, input=data, capture_output=True, check=False)
        if check:
            assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() if done.returncode == 0 else done.stderr.decode()


@dataclass
class Ground:
    """A forge under test with the people who work on it; on a real server one account plays maintainer and agent.

    `admin` is None where no administrator's token was given: what needs other accounts is skipped there.
    """

    url: str
    maintainer: Person
    agent: Person
    folder: Path
    server: Server | None = None
    admin: Person | None = None
    ahead: int = 0
    made: list[str] = field(default_factory=list)
    reached: bool | None = None

    def repository(self, **switches: Any) -> Desk:
        """Make a repository with one commit on main, and a clone of it."""
        name = f"check-{os.getpid()}-{next(_NAMES)}"
        body = {"name": name, "auto_init": True, "default_branch": "main", "private": False}
        if self.server:
            self.maintainer.post("/orgs/fleet/repos", {**body, **switches})
            place = f"fleet/{name}"
        else:
            self.maintainer.post("/user/repos", {**body, **switches})
            place = f"{self.maintainer.login}/{name}"
            self.made.append(f"/repos/{place}")
        return Desk(self, place, self.folder / name)

    def newcomer(self, login: str, *scopes: str) -> Person:
        """Make an account whose name begins with `login`, with a token; skips without an administrator's token."""
        if self.admin is None:
            pytest.skip("only an administrator's token can make other accounts")
        name, password = f"{login}-{os.getpid()}-{next(_NAMES)}", secrets.token_hex(16)
        body = {"username": name, "email": f"{name}@fleet.test", "password": password, "must_change_password": False}
        self.admin.post("/admin/users", body)
        if self.server is None:
            self.made.insert(0, f"/admin/users/{name}")
        return Person(name, self.url, self.token(name, password, *scopes))

    def token(self, login: str, password: str, *scopes: str) -> str:
        """Make a token as servers want it: with the account's password."""
        address = f"{self.url}/api/v1/users/{login}/tokens"
        body = {"name": f"token-{next(_NAMES)}", "scopes": list(scopes or ("all",))}
        response = _CLIENT.post(address, json=body, auth=(login, password))
        assert response.status_code == 201, response.text
        return str(response.json()["sha1"])

    def quirk(self, **values: Any) -> None:
        """Switch quirks on, and all others off; skips where the server has no such switches."""
        if not self.switched(**values):
            pytest.skip("this server cannot be made to behave so")

    def calm(self) -> None:
        """Switch all quirks off, where there are any."""
        self.switched()

    def later(self) -> None:
        """Let more than a second pass on the server's clock."""
        self.ahead += 60
        if not self.switched():
            time.sleep(1.2)

    def switched(self, **values: Any) -> bool:
        """Switch quirks on, and all others off; False where the server has no such switches."""
        response = _CLIENT.post(f"{self.url}/embedded/quirks", json={"clock_offset": self.ahead, **values})
        assert response.status_code == 204 or self.server is None, response.text
        return response.status_code == 204

    def calls(self, receiver: Receiver) -> bool:
        """Tell whether the server calls a receiver of ours; asked once, by a delivery of its own."""
        if self.server is not None:
            return True
        if self.reached is None:
            desk = self.repository()
            config = {"url": f"{receiver.url}/reached", "content_type": "json"}
            desk.maintainer.post(
                f"{desk.api}/hooks", {"type": "gitea", "config": config, "events": ["issues"], "active": True}
            )
            desk.issue()
            self.reached = happens(lambda: receiver.got)
            receiver.got.clear()
        return self.reached

    @property
    def gitea(self) -> tuple[int, ...]:
        """Return the line of a Gitea, such as (1, 26); (0,) for a Forgejo and for a build that does not say."""
        told = re.match(r"(\d+)\.(\d+)", self.maintainer.get("/version")["version"])
        return tuple(map(int, told.groups())) if told and not self.is_forgejo else (0,)

    @property
    def is_forgejo(self) -> bool:
        """Tell whether the server is a Forgejo."""
        return _CLIENT.get(f"{self.url}/api/forgejo/v1/version").status_code == 200

    def clear_away(self) -> None:
        """Delete what was made on a real server: repositories first, then accounts with what they own."""
        for path in reversed(self.made):
            who = self.admin if self.admin and path.startswith("/admin") else self.maintainer
            who.ask("DELETE", path, **({"purge": "true"} if path.startswith("/admin") else {}))


@dataclass
class Desk:
    """One repository under test: its API path, and a clone in which branches are made."""

    ground: Ground
    place: str
    clone: Path

    def __post_init__(self) -> None:
        self.agent.git("clone", "-q", f"{self.ground.url}/{self.place}.git", str(self.clone))

    @property
    def api(self) -> str:
        """Return the repository's path in the API."""
        return f"/repos/{self.place}"

    @property
    def agent(self) -> Person:
        """Return who opens pull requests."""
        return self.ground.agent

    @property
    def maintainer(self) -> Person:
        """Return who opens issues and merges."""
        return self.ground.maintainer

    def git(self, *arguments: str) -> str:
        """Run git in the clone as the agent."""
        who = ("-c", "user.name=agent-1", "-c", "user.email=agent-1@fleet.test")
        return self.agent.git("-C", str(self.clone), *who, *arguments).strip()

    def commit(self, branch: str, files: dict[str, str], message: str, *, start: str = "origin/main") -> str:
        """Commit files on a branch (made from `start` unless it exists), push it, and return the commit."""
        known = self.git("branch", "--list", branch)
        self.git("checkout", "-q", *(() if known else ("-b",)), branch, *(() if known else (start,)))
        for path, text in files.items():
            (self.clone / path).parent.mkdir(parents=True, exist_ok=True)
            (self.clone / path).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", branch)
        return self.git("rev-parse", "HEAD")

    def issue(self, title: str = "Something is missing") -> int:
        """Open an issue and return its number."""
        return int(self.maintainer.post(f"{self.api}/issues", {"title": title, "body": "Please."})["number"])

    def pull(
        self, head: str, body: str, *, title: str = "Add it", base: str = "main", who: Person | None = None
    ) -> int:
        """Open a pull request and return its number; a real server may need a moment after the push."""
        for _ in range(40):
            response = (who or self.agent).ask(
                "POST", f"{self.api}/pulls", {"title": title, "body": body, "head": head, "base": base}
            )
            if response.status_code not in (404, 500):
                break
            time.sleep(0.25)
        assert response.status_code == 201, response.text
        return int(response.json()["number"])

    def merge(self, number: int, style: str, **more: Any) -> httpx.Response:
        """Merge a pull request, asking again while the server is still checking it."""
        for _ in range(40):
            response = self.maintainer.ask("POST", f"{self.api}/pulls/{number}/merge", {"Do": style, **more})
            if response.status_code != 405 or "try again" not in response.text:
                break
            time.sleep(0.25)
        return response

    def timeline(self, number: int) -> list[dict[str, Any]]:
        """Return the rows of an issue's timeline."""
        return self.maintainer.get(f"{self.api}/issues/{number}/timeline") or []

    def references(self, number: int) -> list[tuple[str, str]]:
        """Return (kind, action) of the rows that refer to an issue, and its closing."""
        wanted = ("pull_ref", "comment_ref", "commit_ref", "issue_ref", "close", "reopen")
        rows = self.timeline(number)
        return [(row["type"], row["ref_action"]) for row in rows if row["type"] in wanted]

    def until_referred(self, number: int, kind: str) -> None:
        """Wait for a row that a push leaves on an issue."""
        assert happens(lambda: kind in {row["type"] for row in self.timeline(number) if row}), f"no {kind}"


@contextmanager
def embedded(folder: Path, **options: Any) -> Iterator[Ground]:
    """Run an embedded forge for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder / "forge", **options) as server:
        people = [Person(login, server.url, server.token(login)) for login in ("maintainer", "agent-1", "fleet-admin")]
        yield Ground(server.url, people[0], people[1], folder, server, people[2])


def live(folder: Path) -> Ground:
    """Return the real server of the environment; its one account plays everybody."""
    token = Path(LIVE_TOKEN).read_text().strip()
    account = Person("", LIVE_URL, token).get("/user")
    person = Person(account["login"], LIVE_URL, token)
    return Ground(LIVE_URL, person, person, folder, admin=person if account.get("is_admin") else None)
