"""The demonstration's people: agents that push branches and open pull requests, and a human who merges them."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from fleetssd.errors import Misconfigured, Rejected, Transient

_TIMEOUT = 60.0  # seconds
_ATTEMPTS = 40  # a fresh branch or a merge check may take a real server some 100 ms
_PAUSE = 0.3  # seconds between attempts
_NOT_YET = (404, 405, 409)


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work: an issue, the change that answers it, and how the pull request is merged.

    `files` maps paths to their new content (None deletes); `{n}` in `pull_body` is the issue's number.
    """

    title: str
    body: str
    branch: str
    files: Mapping[str, str | None]
    message: str
    agent: str = "agent-1"
    pull_title: str = ""
    pull_body: str = "Closes #{n}"
    style: str = "squash"


@dataclass(slots=True)
class Fleet:
    """Agents and their maintainer at work in one repository of a Gitea-compatible forge.

    `tokens` maps account names to token files; `folder` holds a local bare clone. Requests go one after the other,
    so that numbers follow the order of the work. Use as a context manager, or call `close`.
    """

    url: str
    repository: str
    folder: Path
    tokens: Mapping[str, Path]
    maintainer: str = "maintainer"
    progress: Callable[[str, int, int], None] = lambda *_: None
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def found(self, files: Mapping[str, str], *, description: str = "") -> None:
        """Make the repository with a first commit on `main`, unless it is there already."""
        owner, name = self.repository.split("/")
        known = self._client(self.maintainer).get(f"/repos/{self.repository}")
        if known.status_code == 404:
            self.ask(self.maintainer, "POST", f"/orgs/{owner}/repos", {"name": name, "description": description})
        elif not known.json()["empty"]:
            return
        self._prepare()
        stream = _commit("refs/work/main", self.maintainer, "Start\n", files, parent="")
        self._git("fast-import", "--quiet", "--force", data=stream)
        self._push(self.maintainer, "refs/work/main:refs/heads/main")

    def work(self, items: Sequence[Work]) -> list[int]:
        """Open an issue for each item, push all branches at once, open the pull requests, merge them.

        Returns the pull requests' numbers in the order of the items. Raises Rejected where the forge refuses.
        """
        issues = self.open_issues(items)
        self.push(items)
        pulls = self.open_pulls(items, issues)
        self.merge(items, pulls)
        return pulls

    def open_issues(self, items: Sequence[Work]) -> list[int]:
        """Open the items' issues in the maintainer's name and return their numbers."""
        numbers = []
        for done, item in enumerate(items, 1):
            row = self.ask(self.maintainer, "POST", self._path("issues"), {"title": item.title, "body": item.body})
            numbers.append(int(row["number"]))
            self.progress("issues", done, len(items))
        return numbers

    def push(self, items: Sequence[Work]) -> None:
        """Commit every item on its own branch off `main` in one import, and push once for each agent."""
        self._prepare()
        main = self._git("rev-parse", "refs/remotes/main").strip().decode()
        stream = b"".join(
            _commit(f"refs/work/{item.agent}/{item.branch}", item.agent, item.message, item.files, main)
            for item in items
        )
        self._git("fast-import", "--quiet", "--force", data=stream)
        for agent in dict.fromkeys(item.agent for item in items):
            self._push(agent, f"refs/work/{agent}/*:refs/heads/*")

    def open_pulls(self, items: Sequence[Work], issues: Sequence[int]) -> list[int]:
        """Open the items' pull requests in their agents' names and return their numbers."""
        numbers = []
        for done, (item, issue) in enumerate(zip(items, issues, strict=True), 1):
            body = {
                "title": item.pull_title or item.title,
                "body": item.pull_body.replace("{n}", str(issue)),
                "head": item.branch,
                "base": "main",
            }
            numbers.append(int(self.ask(item.agent, "POST", self._path("pulls"), body, wait=True)["number"]))
            self.progress("pulls", done, len(items))
        return numbers

    def merge(self, items: Sequence[Work], pulls: Sequence[int]) -> None:
        """Merge pull requests in the maintainer's name, each in its item's style."""
        for done, (item, number) in enumerate(zip(items, pulls, strict=True), 1):
            path = self._path(f"pulls/{number}/merge")
            self.ask(self.maintainer, "POST", path, {"Do": item.style}, wait=True)
            self.progress("merges", done, len(items))

    def _path(self, tail: str) -> str:
        return f"/repos/{self.repository}/{tail}"

    def _token(self, account: str) -> str:
        try:
            return self.tokens[account].read_text().strip()
        except (KeyError, OSError) as error:
            hint = "give the demo a token file for every account that works"
            raise Misconfigured(f"no token for {account}", hint=hint) from error

    def _client(self, account: str) -> httpx.Client:
        if account not in self._clients:
            self._clients[account] = httpx.Client(
                base_url=f"{self.url.rstrip('/')}/api/v1",
                headers={"Authorization": f"token {self._token(account)}"},
                timeout=_TIMEOUT,
                trust_env=False,
            )
        return self._clients[account]

    def ask(self, account: str, method: str, path: str, body: object, *, wait: bool = False) -> Any:
        """Ask the forge as an account; with `wait` what is not ready yet is asked for again for a while."""
        for attempt in range(_ATTEMPTS):
            response = self._client(account).request(method, path, json=body)
            if response.is_success:
                return response.json() if response.content else None
            if not wait or response.status_code not in _NOT_YET or attempt + 1 == _ATTEMPTS:
                break
            time.sleep(_PAUSE)
        text = response.text[:200]
        raise Rejected(f"{method} {path}: {response.status_code} {text}", status=response.status_code)

    def _prepare(self) -> None:
        """Bring the local clone up to the forge's `main` and forget earlier branches."""
        if not (self.folder / "HEAD").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare")
        refs = self._git("for-each-ref", "--format=delete %(refname)", "refs/work/")
        self._git("update-ref", "--stdin", data=refs)
        heads = self._git("ls-remote", self._remote, "refs/heads/main", account=self.maintainer)
        if heads.strip():
            self._git(
                "fetch",
                "--quiet",
                "--no-tags",
                self._remote,
                "+refs/heads/main:refs/remotes/main",
                account=self.maintainer,
            )

    def _push(self, account: str, refspec: str) -> None:
        self._git("push", "--quiet", self._remote, refspec, account=account)

    @property
    def _remote(self) -> str:
        return f"{self.url.rstrip('/')}/{self.repository}.git"

    def _git(self, *arguments: str, data: bytes = b"", account: str = "") -> bytes:
        command = ["git", "--git-dir", str(self.folder), *arguments]
        environment = self._environment(account)
        done = subprocess.run(command, input=data, capture_output=True, env=environment, check=False)
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise Transient(f"git {arguments[0]} failed: {words}", hint="is the forge running?")
        return done.stdout

    def _environment(self, account: str) -> dict[str, str]:
        """Hand git a token through its environment: never on a command line, never in a file of the clone."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        kept |= {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        if account:
            pair = base64.b64encode(f"{account}:{self._token(account)}".encode()).decode()
            kept |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{self.url.rstrip('/')}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
            }
        return kept


def _commit(ref: str, author: str, message: str, files: Mapping[str, str | None], parent: str) -> bytes:
    """Write one commit in the language of `git fast-import`."""
    who = f"{author} <{author}@fleet.test> {int(time.time())} +0000"
    parts = [f"commit {ref}\nauthor {who}\ncommitter {who}\n".encode(), _data(message)]
    if parent:
        parts.append(f"from {parent}\n".encode())
    for path, content in files.items():
        if content is None:
            parts.append(f"D {path}\n".encode())
        else:
            parts += [f"M 100644 inline {path}\n".encode(), _data(content)]
    return b"".join([*parts, b"\n"])


def _data(text: str) -> bytes:
    body = text.encode()
    return b"data %d\n%s\n" % (len(body), body)
