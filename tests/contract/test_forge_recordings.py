"""Recorded pull requests of a Gitea 1.26.1, walked again on the embedded forge: same commits, calls and answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.forges import Ground, Person, embedded

SAMPLES = Path(__file__).parents[1] / "samples" / "gitea"
ROOT_URL = "http://git.fleet.test"
# Walked in tests of their own: they were merged by hand, never merged, or need a fork.
CASES = sorted(
    path.stem
    for path in (SAMPLES / "pulls").glob("*.json")
    if "merge" in json.loads(path.read_text())["exchanges"] and path.stem not in ("from-fork", "manually-merged")
)
LINKS = ("pull_ref", "comment_ref", "commit_ref", "close")


def body_of(exchange: dict[str, Any]) -> Any:
    """Return the body of a recorded answer, decoded where it is JSON."""
    body = exchange["response"]["body"]
    try:
        return json.loads(body) if isinstance(body, str) else body
    except ValueError:
        return body


def shape(value: Any) -> Any:
    """Reduce JSON to its keys and types; a list to the shape of its items."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def links(rows: list[dict[str, Any]] | None) -> list[tuple[str, str, str, str]]:
    """Return what a timeline says about references and closing: kind, action, by whom, which commit."""
    return [
        (row["type"], row["ref_action"], row["user"]["login"], row["ref_commit_sha"])
        for row in rows or []
        if row["type"] in LINKS
    ]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Run a forge whose ROOT_URL is the recorded one."""
    with embedded(tmp_path_factory.mktemp("recordings"), root_url=ROOT_URL) as ground:
        yield ground


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Unpack the recorded repositories."""
    folder = tmp_path_factory.mktemp("bundles")
    for bundle in (SAMPLES / "repos").glob("*.bundle"):
        target = folder / bundle.stem
        subprocess.run(["git", "init", "-q", "--bare", target], check=True)
        subprocess.run(["git", "-C", target, "fetch", "-q", bundle.resolve(), "+refs/*:refs/*"], check=True)
    return {path.name: path for path in folder.iterdir()}


@dataclass
class Walk:
    """One recorded pull request on its way through the embedded forge."""

    ground: Ground
    case: dict[str, Any]
    source: Path

    def __post_init__(self) -> None:
        self.exchanges = self.case["exchanges"]
        self.facts = self.case["facts"]
        self.detail = body_of(self.exchanges["detail"])
        self.number = int(self.detail["number"])
        self.place = self.detail["base"]["repo"]["full_name"]
        assert self.ground.server is not None
        self.server = self.ground.server

    def person(self, login: str) -> Person:
        """Return an account by its recorded name; whoever left, or is not there yet, gets an account."""
        login = {"Ghost": "leaver", "visitor": "outsider"}.get(login, login)
        admin = Person("fleet-admin", self.ground.url, self.server.token("fleet-admin"))
        if (self.server.state.folder / "tokens" / login).exists():
            return Person(login, self.ground.url, self.server.token(login))
        if self.server.state.account_named(login) is None:
            admin.post("/admin/users", {"username": login, "email": f"{login}@fleet.test"})
        granted = admin.post(f"/users/{login}/tokens", {"name": "walk", "scopes": ["all"]})
        person = Person(login, self.ground.url, granted["sha1"])
        self.ground.maintainer.ask("PUT", f"/repos/{self.place}/collaborators/{login}", {})
        return person

    def push(self, commit: str, branch: str, who: Person | None = None) -> None:
        """Push a recorded commit to a branch."""
        url = f"{self.ground.url}/{self.place}.git"
        refspec = f"+{commit}:refs/heads/{branch}"
        (who or self.ground.maintainer).git("-C", str(self.source), "push", "-q", url, refspec)

    def repository(self, place: str, next_number: int) -> None:
        """Make a repository, or let an existing one go on at a given number."""
        state, (owner, name) = self.server.state, place.split("/")
        if state.repository_named(owner, name) is None:
            private = name == "vault"
            self.ground.maintainer.post(f"/orgs/{owner}/repos", {"name": name, "private": private})
        with state.lock:
            found = state.repository_named(owner, name)
            assert found is not None
            found.next_number = next_number

    def open_issues(self) -> None:
        """Open the issues of the recording under their recorded numbers."""
        for name, exchange in self.exchanges.items():
            if name.startswith("issue_") and name != "issue_row":
                place, _, number = name.removeprefix("issue_").partition("#")
                row = body_of(exchange)
                self.repository(place, int(number))
                made = self.ground.maintainer.post(
                    f"/repos/{place}/issues", {"title": row["title"], "body": row["body"]}
                )
                assert made["number"] == int(number)

    def open_pull(self) -> dict[str, Any]:
        """Push base and head as they were, and open the pull request with the recorded body."""
        recorded = self.exchanges["pr_create"]
        asked, answer = recorded["request"]["body"], body_of(recorded)
        author = self.person(self.detail["user"]["login"])
        self.push(answer["base"]["sha"], asked["base"])
        if asked["base"] != "main":
            self.push(answer["base"]["sha"], "main")
        self.push(answer["head"]["sha"], asked["head"], author)
        self.repository(self.place, self.number)
        response = author.ask("POST", f"/repos/{self.place}/pulls", asked)
        assert response.status_code == recorded["response"]["status"]
        made = response.json()
        assert shape(made) == shape(answer)
        return dict(made)

    def bring_up_to_date(self) -> None:
        """Push what came between creation and merge, and do what was done by hand in some cases."""
        asked = self.exchanges["pr_create"]["request"]["body"]
        created = body_of(self.exchanges["pr_create"])
        tip = self._tip_at_merge()
        if tip != created["base"]["sha"]:
            self.push(tip, asked["base"])
        if self.facts["head_commit"] != created["head"]["sha"]:
            author = self.person(self.detail["user"]["login"])
            self.push(self.facts["head_commit"], asked["head"], author)
        if "edit" in self.exchanges:
            edit = self.exchanges["edit"]["request"]
            author = self.person(self.detail["user"]["login"])
            assert author.ask("PATCH", f"/repos/{self.place}/pulls/{self.number}", edit["body"]).status_code == 201
        for exchange in self.exchanges.values():
            for row in body_of(exchange) or [] if "timeline" in exchange["request"]["path"] else []:
                if row["type"] == "comment_ref":
                    path = f"/repos/{self.place}/issues/{self.number}/comments"
                    self.person(row["user"]["login"]).post(path, {"body": row["ref_comment"]["body"]})

    def merge(self) -> None:
        """Merge with the recorded call, in the name of whoever merged."""
        recorded = self.exchanges["merge"]
        merger = self.person(self.detail["merged_by"]["login"])
        path = f"/repos/{self.place}/pulls/{self.number}/merge"
        response = merger.ask("POST", path, recorded["request"]["body"])
        assert (response.status_code, response.text) == (recorded["response"]["status"], "")

    def get(self, name: str) -> Any:
        """Repeat a recorded GET and return its body, which must come with the same status."""
        recorded = self.exchanges[name]
        path = recorded["request"]["path"].removeprefix("/api/v1")
        response = self.ground.maintainer.ask("GET", path)
        assert response.status_code == recorded["response"]["status"], response.text
        return response.text if name == "diff" else response.json()

    def _tip_at_merge(self) -> str:
        style, parents = self.facts["style_used"], self.facts["merge_commit_parents"]
        if style in ("merge", "squash", "rebase-merge"):
            return str(parents[0])
        between = ["rev-list", f"{self.facts['base_commit']}..{self.facts['head_commit']}", "--count"]
        own = int(self._read(*between))
        moved = self.facts["merge_commit"] != self.facts["head_commit"]
        return self._read("rev-parse", f"{self.facts['merge_commit']}~{own}") if moved else self.facts["base_commit"]

    def _read(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", self.source, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()


def load(name: str, bundles: dict[str, Path]) -> dict[str, Any]:
    """Read a recorded case; a head that was force-pushed away is in no bundle, so a commit like it stands in."""
    text = (SAMPLES / "pulls" / f"{name}.json").read_text()
    case: dict[str, Any] = json.loads(text)
    created = body_of(case["exchanges"]["pr_create"])
    source, head = bundles[created["base"]["repo"]["name"]], created["head"]["sha"]
    git = ["git", "-C", str(source), "-c", "user.name=agent-1", "-c", "user.email=agent-1@fleet.test"]
    if subprocess.run([*git, "cat-file", "-e", head], capture_output=True, check=False).returncode:
        tree, parent = f"{case['facts']['head_commit']}^{{tree}}", created["merge_base"]
        made = [*git, "commit-tree", tree, "-p", parent, "-m", "First try"]
        stand_in = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
        return dict(json.loads(text.replace(head, stand_in)))
    return case


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_pull_request_comes_out_the_same(name: str, ground: Ground, bundles: dict[str, Path]) -> None:
    """Creation, merge, detail, issue rows, timelines, frozen head, diff and merge commit are as recorded."""
    case = load(name, bundles)
    walk = Walk(ground, case, bundles[body_of(case["exchanges"]["detail"])["base"]["repo"]["name"]])
    walk.repository(walk.place, 1)
    walk.open_issues()
    walk.open_pull()
    walk.bring_up_to_date()
    walk.merge()
    _compare_detail(walk)
    _compare_commit(walk)
    _compare_issues(walk)
    assert walk.get("diff") == walk.exchanges["diff"]["response"]["body"]
    assert walk.get("head_ref")[0]["object"]["sha"] == walk.facts["head_commit"]
    own = [row for row in walk.get("pr_timeline") if row["type"] in ("pull_push", "merge_pull", "delete_branch")]
    kinds = [(row["type"], row["user"]["login"], row["body"]) for row in own]
    recorded = body_of(walk.exchanges["pr_timeline"])
    gone = {"Ghost": "leaver"}
    assert kinds == [
        (row["type"], gone.get(row["user"]["login"], row["user"]["login"]), row["body"])
        for row in recorded
        if row["type"] in ("pull_push", "merge_pull", "delete_branch")
    ]
    for place in {
        walk.place,
        *(p.removeprefix("issue_").split("#")[0] for p in walk.exchanges if "#" in p and p[0] == "i"),
    }:
        assert ground.maintainer.ask("DELETE", f"/repos/{place}").status_code == 204


def _compare_detail(walk: Walk) -> None:
    got, want = walk.get("detail"), walk.detail
    assert shape(_without_later(got)) == shape(_without_later(want))
    written = {**walk.exchanges["pr_create"]["request"]["body"]}
    written |= walk.exchanges.get("edit", {"request": {"body": {}}})["request"]["body"]
    assert (got["title"], got["body"]) == (written["title"], written["body"])
    for key in ("state", "merged", "draft", "number", "merge_base"):
        assert got[key] == want[key], key
    if walk.facts["head_commit"] == want["head"]["sha"]:
        for key in ("additions", "deletions", "changed_files"):
            assert got[key] == want[key], key
    assert got["merged_by"]["login"] == want["merged_by"]["login"]
    assert got["head"]["label"] == want["head"]["label"]
    assert got["base"]["ref"] == want["base"]["ref"]
    row, recorded = walk.get("issue_row"), body_of(walk.exchanges["issue_row"])
    assert shape(_without_later(row)) == shape(_without_later(recorded))
    assert row["pull_request"]["merged"] is True
    assert (row["html_url"].split("/", 3)[3], row["url"]) == (
        recorded["html_url"].split("/", 3)[3],
        recorded["url"],
    )


def _without_later(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what some recorded pull requests got long after their merge."""
    later = ("labels", "milestone", "requested_reviewers", "review_comments")
    return {key: value for key, value in row.items() if key not in later}


def _compare_commit(walk: Walk) -> None:
    """Check that the merge commit has the recorded tree, message and number of parents."""
    server = walk.server.state
    with server.lock:
        repository = server.repository_named(*walk.place.split("/"))
        assert repository is not None
        pull = server.pull_of[server.by_number[repository.id, walk.number].id]
        made = server.bare(repository).objects.commit(pull.merge_commit)
    tree, message = (walk._read("log", "-1", f"--format={form}", walk.facts["merge_commit"]) for form in ("%T", "%B"))
    assert made.tree == tree
    assert made.message.strip() == message
    assert len(made.parents) == len(walk.facts["merge_commit_parents"])
    same = walk.facts["merge_commit"] == walk.facts["head_commit"]
    assert (made.id == walk.facts["head_commit"]) is same


def _compare_issues(walk: Walk) -> None:
    for name, exchange in walk.exchanges.items():
        if name.startswith("issue_") and name != "issue_row":
            assert walk.get(name)["state"] == body_of(exchange)["state"], name
        if name.startswith("timeline_"):
            rows, recorded = walk.get(name), body_of(exchange)
            expected = [
                (kind, action, {"Ghost": "leaver", "visitor": "outsider"}.get(login, login), commit)
                for kind, action, login, commit in links(recorded)
            ]
            assert links(rows) == expected, name
            for row in rows:
                twin = next(r for r in recorded if (r["type"], r["ref_action"]) == (row["type"], row["ref_action"]))
                for side in (row, twin):
                    side["ref_issue"] = side["ref_issue"] and _without_later(side["ref_issue"])
                assert shape(row) == shape(twin)


@pytest.fixture(scope="module")
def conveyor(ground: Ground) -> str:
    """Make a public repository with a merged pull request (#2) and an open issue (#1), a private and an old one."""
    desk = ground.repository()
    state = ground.server.state if ground.server else None
    assert state is not None
    ground.maintainer.ask("PATCH", desk.api, {"name": "conveyor"})
    desk.place = "fleet/conveyor"
    desk.git("remote", "set-url", "origin", f"{ground.url}/fleet/conveyor.git")
    for name in ("agent", "bug"):
        ground.maintainer.post(f"{desk.api}/labels", {"name": name, "color": "d73a4a"})
    desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, "add a")
    assert desk.merge(desk.pull("work", "Mentions #1"), "squash").status_code == 200
    ground.maintainer.post("/orgs/fleet/repos", {"name": "vault", "private": True, "auto_init": True})
    ground.maintainer.post("/orgs/fleet/repos", {"name": "ledger", "auto_init": True})
    ground.maintainer.ask("PATCH", "/repos/fleet/ledger", {"archived": True})
    return desk.api


# name of the recording -> (method, path, body) that bring the same situation about here; who asks
MAINTAINER, READER, NOBODY, STRANGER, ISSUES_ONLY, REPOSITORY_ONLY = (
    "maintainer",
    "fleetssd",
    "",
    "?",
    "i",
    "r",
)
SINGLE = {
    "version": ("GET", "/version", None, NOBODY),
    "settings_api": ("GET", "/settings/api", None, NOBODY),
    "err_401_bad_token": ("GET", "/user", None, STRANGER),
    "err_401_no_token": ("GET", "/user", None, NOBODY),
    "err_403_scope_user": ("GET", "/user", None, READER),
    "err_403_scope_search": ("GET", "/repos/issues/search?type=pulls", None, REPOSITORY_ONLY),
    "err_403_scope_write": ("POST", "/repos/fleet/conveyor/issues", {"title": "x"}, ISSUES_ONLY),
    "err_404_private": ("GET", "/repos/fleet/vault", None, NOBODY),
    "err_404_repo": ("GET", "/repos/fleet/nosuch", None, MAINTAINER),
    "err_404_pull": ("GET", "/repos/fleet/conveyor/pulls/9999", None, MAINTAINER),
    "err_422_since": ("GET", "/repos/issues/search?type=pulls&since=yesterday", None, MAINTAINER),
    "err_423_archived": ("POST", "/repos/fleet/ledger/issues", {"title": "x"}, MAINTAINER),
    "err_created_by_unknown": ("GET", "/repos/issues/search?created_by=nosuch", None, MAINTAINER),
    "err_missing_issue_comments": ("GET", "/repos/fleet/conveyor/issues/9999/comments", None, MAINTAINER),
    "err_missing_issue_timeline": ("GET", "/repos/fleet/conveyor/issues/9999/timeline", None, MAINTAINER),
    "err_owner_unknown": ("GET", "/repos/issues/search?owner=nosuch", None, MAINTAINER),
    "search_empty": ("GET", "/repos/issues/search?since=2100-01-01T00:00:00Z&limit=50", None, MAINTAINER),
    "status_none": ("GET", "/repos/fleet/conveyor/commits/main/status", None, MAINTAINER),
    "labels_add_ids": ("POST", "/repos/fleet/conveyor/issues/2/labels", {"labels": [2, 1]}, MAINTAINER),
    "labels_add_names_unknown": (
        "POST", "/repos/fleet/conveyor/issues/2/labels", {"labels": ["bug", "nosuch"]}, MAINTAINER,
    ),
    "comment_create": ("POST", "/repos/fleet/conveyor/issues/1/comments", {"body": "hello"}, MAINTAINER),
    "issue_create": (
        "POST", "/repos/fleet/conveyor/issues", {"title": "Written", "body": "b", "labels": [1]}, MAINTAINER,
    ),
    "pull_files_text": ("GET", "/repos/fleet/conveyor/pulls/2/files?page=1&limit=50", None, MAINTAINER),
    "repo_issues_pulls_limit_4": (
        "GET", "/repos/fleet/conveyor/issues?type=pulls&state=closed&limit=4&page=1", None, MAINTAINER,
    ),
    "pulls_list_recentupdate_limit_4": (
        "GET", "/repos/fleet/conveyor/pulls?state=closed&sort=recentupdate&limit=4&page=1", None, MAINTAINER,
    ),
    "git_refs_pull": ("GET", "/repos/fleet/conveyor/git/refs/pull/2/head", None, MAINTAINER),
    "hook_create_422": (
        "POST", "/repos/fleet/conveyor/hooks", {"type": "gitea", "config": {"url": "http://h/x"}}, MAINTAINER,
    ),
    "hook_create_bad_url": (
        "POST",
        "/repos/fleet/conveyor/hooks",
        {"type": "gitea", "config": {"url": "not a url", "content_type": "json"}},
        MAINTAINER,
    ),
    "hook_create_not_admin": (
        "POST",
        "/repos/fleet/conveyor/hooks",
        {"type": "gitea", "config": {"url": "http://h/x", "content_type": "json"}},
        "agent-2",
    ),
    "hook_create_read_scope": ("POST", "/repos/fleet/conveyor/hooks", {"type": "gitea"}, READER),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_single_recorded_exchange_comes_out_the_same(name: str, ground: Ground, conveyor: str) -> None:
    """The same situation gets the same status, keys and types, and errors their very words."""
    recorded = json.loads((SAMPLES / "api" / f"{name}.json").read_text())
    method, path, body, who = SINGLE[name]
    response = _asker(ground, who).ask(method, path, body)
    assert response.status_code == recorded["response"]["status"], response.text
    got, want = response.json(), body_of(recorded)
    if isinstance(want, dict) and "message" in want:
        assert got["message"] == want["message"]
    if isinstance(got, list) and got and "labels" in got[0]:
        got, want = [_without_later(got[0])], [_without_later(want[0])]
    if name != "issue_create":
        assert shape(got) == shape(want), conveyor
    expected = recorded["response"]["headers"].get("content-type")
    assert response.headers.get("content-type") == expected


def _asker(ground: Ground, who: str) -> Person:
    assert ground.server is not None
    admin = Person("fleet-admin", ground.url, ground.server.token("fleet-admin"))
    if who in ("", "?"):
        return Person("", ground.url, "0123456789012345678901234567890123456789" if who else "")
    if who in ("i", "r"):
        scope = "read:issue" if who == "i" else "read:repository"
        made = admin.post("/users/agent-1/tokens", {"name": "narrow", "scopes": [scope]})
        return Person("agent-1", ground.url, made["sha1"])
    return Person(who, ground.url, ground.server.token(who))
