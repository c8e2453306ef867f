"""What fleetssd relies on in a forge; runs on the embedded one, and on a real server where the environment names it."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from tests.contract.forges import Desk, Ground, Person
from tests.contract.receivers import Receiver, until

STYLES = ("merge", "rebase", "rebase-merge", "squash", "fast-forward-only")


@pytest.mark.parametrize("style", STYLES)
def test_a_merge_closes_the_issue_and_freezes_the_head(desk: Desk, style: str) -> None:
    """In every style the issue closes, merge_base..refs/pull/N/head is the change, and the head ref stays."""
    base = desk.git("rev-parse", "origin/main")
    desk.commit("work", {"a.py": "A = 1\n"}, "first")
    head = desk.commit("work", {"a.py": "A = 2\n", "b.py": "B = 1\n"}, "second")
    issue = desk.issue()
    pull = desk.pull("work", f"Closes #{issue}")
    assert desk.merge(pull, style, delete_branch_after_merge=True).status_code == 200
    detail = desk.maintainer.get(f"{desk.api}/pulls/{pull}")
    assert (detail["merged"], detail["state"], detail["merge_base"]) == (True, "closed", base)
    assert (detail["additions"], detail["deletions"], detail["changed_files"]) == (2, 0, 2)
    assert detail["merged_by"]["login"] == desk.maintainer.login
    assert desk.maintainer.get(f"{desk.api}/issues/{issue}")["state"] == "closed"
    assert desk.references(issue) == [("pull_ref", "closes"), ("close", "none")]
    refs = desk.maintainer.get(f"{desk.api}/git/refs/pull/{pull}/head")
    assert (refs if isinstance(refs, list) else [refs])[0]["object"]["sha"] == head
    commit = desk.maintainer.get(f"{desk.api}/git/commits/{detail['merge_commit_sha']}")
    assert len(commit["parents"]) == (2 if style in ("merge", "rebase-merge") else 1)
    assert (detail["merge_commit_sha"] == head) is (style in ("fast-forward-only", "rebase"))


@pytest.mark.parametrize("style", ["merge", "rebase", "rebase-merge", "squash"])
def test_a_moved_base_is_merged_in(desk: Desk, style: str) -> None:
    """After the base moved, each style but fast-forward brings both changes together."""
    desk.commit("work", {"a.py": "A = 1\n"}, "first")
    desk.commit("work", {"b.py": "B = 1\n"}, "second")
    pull = desk.pull("work", "no link")
    desk.commit("main", {"README.md": "moved\n"}, "move the base")
    assert desk.merge(pull, "fast-forward-only").status_code in (405, 409)
    assert desk.merge(pull, style).status_code == 200
    desk.git("fetch", "-q", "origin")
    assert desk.git("ls-tree", "--name-only", "origin/main").split() == ["README.md", "a.py", "b.py"]
    assert desk.git("show", "origin/main:README.md") == "moved"


def test_changes_in_one_file_are_merged_line_by_line(desk: Desk) -> None:
    """Both sides may change one file as long as the lines are apart."""
    lines = [f"line {i}\n" for i in range(30)]
    desk.commit("main", {"a.txt": "".join(lines)}, "lay it out")
    desk.git("fetch", "-q", "origin")
    desk.commit("work", {"a.txt": "".join(["first\n", *lines[1:]])}, "top")
    pull = desk.pull("work", "no link")
    desk.commit("main", {"a.txt": "".join([*lines[:-1], "last\n"])}, "bottom")
    assert desk.merge(pull, "squash").status_code == 200
    desk.git("fetch", "-q", "origin")
    assert desk.git("show", "origin/main:a.txt").split("\n") == [
        "first",
        *(line.strip() for line in lines[1:-1]),
        "last",
    ]


def test_a_conflict_is_refused_and_changes_nothing(desk: Desk) -> None:
    """A pull request that conflicts with its base cannot be merged and stays open."""
    desk.commit("work", {"README.md": "mine\n"}, "mine")
    pull = desk.pull("work", "no link")
    tip = desk.commit("main", {"README.md": "theirs\n"}, "theirs")
    assert desk.merge(pull, "squash").status_code in (405, 409)
    detail = desk.maintainer.get(f"{desk.api}/pulls/{pull}")
    assert (detail["merged"], detail["mergeable"], detail["base"]["sha"]) == (False, False, tip)


def test_a_blobless_fetch_gives_the_diff_that_the_api_shows(desk: Desk) -> None:
    """Pull ref, merge base and merge commit can be fetched by id; git's diff equals `.diff`, names unquoted."""
    desk.commit("work", {"dîr/ä.py": "A = 1\n", "README.md": "new\n"}, "unicode")
    pull = desk.pull("work", "no link")
    assert desk.merge(pull, "squash").status_code == 200
    detail = desk.maintainer.get(f"{desk.api}/pulls/{pull}")
    bare = str(desk.clone.parent / f"{desk.clone.name}-bare.git")
    who = desk.agent
    who.git("init", "-q", "--bare", bare)
    url = f"{desk.ground.url}/{desk.place}.git"
    wanted = (f"+refs/pull/{pull}/head:refs/pull/{pull}", detail["merge_base"], detail["merge_commit_sha"])
    who.git("-C", bare, "fetch", "-q", "--no-tags", "--filter=blob:none", url, *wanted)
    assert who.git("-C", bare, "rev-list", "--objects", "--all", "--missing=print").count("\n?") > 0
    args = ("-c", "core.quotePath=false", "diff", "--no-color", "--no-ext-diff")
    diff = who.git("-C", bare, *args, detail["merge_base"], f"refs/pull/{pull}")
    assert diff == desk.maintainer.ask("GET", f"{desk.api}/pulls/{pull}.diff").text


def test_a_late_push_moves_the_detail_but_not_the_frozen_head(desk: Desk) -> None:
    """After the merge head.sha of the detail follows the branch; a newer list and refs/pull/N/head do not."""
    head = desk.commit("work", {"a.py": "A = 1\n"}, "in time")
    pull = desk.pull("work", "no link")
    assert desk.merge(pull, "squash").status_code == 200
    late = desk.commit("work", {"late.py": "L = 1\n"}, "too late")
    assert desk.maintainer.get(f"{desk.api}/pulls/{pull}")["head"]["sha"] == late
    rows = desk.maintainer.get(f"{desk.api}/pulls", state="closed", page=1, limit=50)
    (listed,) = [(row["head"]["sha"], row["merged_by"]) for row in rows if row["number"] == pull]
    if desk.ground.server or desk.ground.gitea >= (1, 24):
        assert listed == (head, None)
    else:  # the list of an older server, and of Forgejo, is the detail, with or without the merger
        assert listed[0] == late
    refs = desk.maintainer.get(f"{desk.api}/git/refs/pull/{pull}/head")
    assert (refs if isinstance(refs, list) else [refs])[0]["object"]["sha"] == head
    assert "late.py" not in desk.maintainer.ask("GET", f"{desk.api}/pulls/{pull}.diff").text


def test_a_deleted_head_branch_leaves_ref_and_diff(desk: Desk) -> None:
    """After the branch is gone head.ref names the pull ref and the label keeps the branch's name."""
    head = desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", "no link")
    assert desk.merge(pull, "squash").status_code == 200
    assert desk.maintainer.ask("DELETE", f"{desk.api}/branches/work").status_code == 204
    shown = desk.maintainer.get(f"{desk.api}/pulls/{pull}")["head"]
    assert (shown["ref"], shown["label"], shown["sha"]) == (f"refs/pull/{pull}/head", "work", head)


def test_a_force_push_of_an_open_pull_request_is_followed(desk: Desk) -> None:
    """The pull ref takes the new head, and the timeline says that it was forced."""
    desk.commit("work", {"a.py": "A = 1\n"}, "first try")
    pull = desk.pull("work", "no link")
    desk.git("commit", "-q", "--amend", "-m", "second try")
    desk.git("push", "-q", "--force", "origin", "work")
    head = desk.git("rev-parse", "HEAD")
    until(lambda: desk.maintainer.get(f"{desk.api}/pulls/{pull}")["head"]["sha"] == head)
    until(lambda: desk.git("ls-remote", "origin", f"refs/pull/{pull}/head").split()[0] == head)
    rows = [json.loads(row["body"]) for row in desk.timeline(pull) if row["type"] == "pull_push"]
    assert any(row["is_force_push"] for row in rows)


def test_a_mention_is_no_link(desk: Desk) -> None:
    """`See #n` leaves a `none` row and closes nothing."""
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    assert desk.merge(desk.pull("work", f"See #{issue}."), "squash").status_code == 200
    assert desk.references(issue) == [("pull_ref", "none")]
    assert desk.maintainer.get(f"{desk.api}/issues/{issue}")["state"] == "open"


def test_an_edit_before_the_merge_neuters_the_old_link(desk: Desk) -> None:
    """Only the issue that the body names at the merge is closed."""
    old, new = desk.issue("old"), desk.issue("new")
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", f"Fixes #{old}")
    assert desk.agent.ask("PATCH", f"{desk.api}/pulls/{pull}", {"body": f"Fixes #{new}"}).status_code == 201
    assert desk.merge(pull, "squash").status_code == 200
    assert desk.references(old) == [("pull_ref", "neutered")]
    assert desk.references(new) == [("pull_ref", "closes"), ("close", "none")]


def test_an_edit_after_the_merge_leaves_a_young_row(desk: Desk) -> None:
    """The true row is neutered, the new target gets a `closes` row and stays open."""
    true, late = desk.issue("true"), desk.issue("late")
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", f"Fixes #{true}")
    assert desk.merge(pull, "squash").status_code == 200
    assert desk.agent.ask("PATCH", f"{desk.api}/pulls/{pull}", {"body": f"Fixes #{late}"}).status_code == 201
    assert desk.references(true) == [("pull_ref", "neutered"), ("close", "none")]
    assert desk.references(late) == [("pull_ref", "closes")]
    assert desk.maintainer.get(f"{desk.api}/issues/{late}")["state"] == "open"


def test_a_comment_can_link(desk: Desk) -> None:
    """A keyword in a comment on the pull request leaves a `comment_ref` row and closes on merge."""
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", "no link")
    desk.maintainer.post(f"{desk.api}/issues/{pull}/comments", {"body": f"This closes #{issue}"})
    assert desk.merge(pull, "squash").status_code == 200
    assert desk.references(issue) == [("comment_ref", "closes"), ("close", "none")]


def test_a_commit_message_closes_without_a_pull_row(desk: Desk) -> None:
    """A keyword in a commit leaves a `commit_ref` row, and the issue closes when it lands on main."""
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, f"add, fixes #{issue}")
    until(lambda: desk.references(issue) == [("commit_ref", "none")])
    assert desk.merge(desk.pull("work", "no link"), "merge").status_code == 200
    until(lambda: desk.references(issue) == [("commit_ref", "none"), ("close", "none")])


def test_closing_without_a_merge_leaves_the_issue_open(desk: Desk) -> None:
    """`closes` is an intention: the row stays, the issue stays open, and the pull request is not merged."""
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", f"Fixes #{issue}")
    assert desk.maintainer.ask("PATCH", f"{desk.api}/pulls/{pull}", {"state": "closed"}).status_code == 201
    detail = desk.maintainer.get(f"{desk.api}/pulls/{pull}")
    assert (detail["state"], detail["merged"], detail["merged_at"]) == ("closed", False, None)
    assert desk.references(issue) == [("pull_ref", "closes")]


def test_a_merge_by_hand_can_be_marked(desk: Desk) -> None:
    """`manually-merged` takes the commit that is named, and it must be on the base."""
    desk.maintainer.ask("PATCH", desk.api, {"allow_manual_merge": True})
    issue = desk.issue()
    head = desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", f"Fixes #{issue}")
    assert desk.merge(pull, "manually-merged", MergeCommitID=head).status_code in (405, 409)
    desk.git("checkout", "-q", "main")
    desk.git("merge", "-q", "--no-ff", "-m", "By hand", "work")
    desk.git("push", "-q", "origin", "main")
    made = desk.git("rev-parse", "HEAD")
    assert desk.merge(pull, "manually-merged", MergeCommitID=made).status_code == 200
    detail = desk.maintainer.get(f"{desk.api}/pulls/{pull}")
    assert (detail["merged"], detail["merge_commit_sha"]) == (True, made)


def test_work_in_progress_is_not_merged(desk: Desk) -> None:
    """A WIP title is a draft and cannot be merged; without the prefix it can."""
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", "no link", title="WIP: add")
    assert desk.maintainer.get(f"{desk.api}/pulls/{pull}")["draft"] is True
    assert desk.merge(pull, "squash").status_code == 405
    assert desk.agent.ask("PATCH", f"{desk.api}/pulls/{pull}", {"title": "Add"}).status_code == 201
    assert desk.merge(pull, "squash").status_code == 200
    assert desk.maintainer.ask("PATCH", f"{desk.api}/pulls/{pull}", {"state": "open"}).status_code == 412


def test_many_branches_come_in_one_push(desk: Desk) -> None:
    """One push of forty branches makes forty branches that pull requests can be opened from."""
    for number in range(40):
        desk.git("branch", f"work/{number}", "origin/main")
    desk.git("push", "-q", "origin", "refs/heads/work/*:refs/heads/work/*")
    until(lambda: len(desk.maintainer.get(f"{desk.api}/branches", page=1, limit=50)) == 41)


def test_the_poll_window_is_inclusive_and_paged(desk: Desk) -> None:
    """Both `since` and `before` keep rows of their very second; X-Total-Count counts all; pages do not overlap."""
    numbers = set()
    for index in range(3):
        desk.commit(f"work-{index}", {f"{index}.py": "A = 1\n"}, "add")
        numbers.add(pull := desk.pull(f"work-{index}", "no link"))
        assert desk.merge(pull, "squash").status_code == 200
    mine = _search(desk)
    assert {row["number"] for row in mine} == numbers
    moment = mine[0]["updated_at"]
    assert mine[0]["number"] in {row["number"] for row in _search(desk, since=moment, before=moment)}
    owner = desk.place.split("/")[0]
    query = {"type": "pulls", "state": "closed", "owner": owner, "limit": 2}
    pages = [desk.maintainer.ask("GET", "/repos/issues/search", page=page, **query) for page in (1, 2)]
    ids = [row["id"] for page in pages for row in page.json()]
    assert len(ids) == len(set(ids))
    assert int(pages[0].headers["X-Total-Count"]) >= 3
    assert 'rel="next"' in pages[0].headers["Link"]


def test_a_label_is_found_by_name_and_unknown_ones_are_ignored(desk: Desk) -> None:
    """Labels go on by name, unknown names vanish without an error, and updated rows carry them."""
    desk.maintainer.post(f"{desk.api}/labels", {"name": "bug", "color": "#d73a4a"})
    issue = desk.issue()
    path = f"{desk.api}/issues/{issue}/labels"
    rows = desk.maintainer.post(path, {"labels": ["bug", "nosuch"]}, status=200)
    assert [(row["name"], row["color"]) for row in rows] == [("bug", "d73a4a")]
    assert desk.maintainer.ask("DELETE", f"{path}/{rows[0]['id']}").status_code == 204
    assert [row["body"] for row in desk.timeline(issue) if row["type"] == "label"] == ["1", ""]


def test_checks_are_combined(desk: Desk) -> None:
    """No check counts 0; one error makes `failure`; skipped counts as success, where a server knows it."""
    head = desk.commit("work", {"a.py": "A = 1\n"}, "add")
    path = f"{desk.api}/commits/{head}/status"
    assert [desk.maintainer.get(path)[key] or 0 for key in ("total_count", "statuses")] == [0, 0]
    for context, state in (("test", "success"), ("lint", "success" if desk.ground.is_forgejo else "skipped")):
        desk.maintainer.post(f"{desk.api}/statuses/{head}", {"state": state, "context": context})
    assert desk.maintainer.get(path)["state"] == "success"
    desk.maintainer.post(f"{desk.api}/statuses/{head}", {"state": "error", "context": "deploy"})
    shown = desk.maintainer.get(path)
    assert (shown["state"], shown["total_count"]) == ("failure", 3)


def test_a_scheduled_merge_waits_for_the_checks(desk: Desk) -> None:
    """`merge_when_checks_succeed` is 201 and merges, in the scheduler's name, when the check turns green."""
    head = desk.commit("work", {"a.py": "A = 1\n"}, "add")
    pull = desk.pull("work", "no link")
    desk.agent.post(f"{desk.api}/statuses/{head}", {"state": "pending", "context": "test"})
    assert desk.merge(pull, "squash", merge_when_checks_succeed=True).status_code == 201
    assert desk.maintainer.get(f"{desk.api}/pulls/{pull}")["merged"] is False
    desk.agent.post(f"{desk.api}/statuses/{head}", {"state": "success", "context": "test"})
    until(lambda: desk.maintainer.get(f"{desk.api}/pulls/{pull}")["merged"])
    assert desk.maintainer.get(f"{desk.api}/pulls/{pull}")["merged_by"]["login"] == desk.maintainer.login


def test_commits_are_listed_newest_first(desk: Desk) -> None:
    """The commit list of a pull request begins with its head."""
    first = desk.commit("work", {"a.py": "A = 1\n"}, "first")
    second = desk.commit("work", {"a.py": "A = 2\n"}, "second")
    rows = desk.maintainer.get(f"{desk.api}/pulls/{desk.pull('work', 'x')}/commits", page=1, limit=50)
    assert [row["sha"] for row in rows] == [second, first]


def test_a_renamed_repository_forwards_with_a_relative_location(desk: Desk) -> None:
    """The old name answers 301 or 307 with a relative path; git follows it too."""
    name = desk.place.split("/")[1]
    assert desk.maintainer.ask("PATCH", desk.api, {"name": f"{name}-moved"}).status_code == 200
    response = desk.maintainer.ask("GET", desk.api, x="1")
    assert response.status_code in (301, 307)
    assert response.headers["Location"] == f"/api/v1{desk.api}-moved?x=1"
    posted = desk.maintainer.ask("POST", f"{desk.api}/issues", {"title": "x"})
    assert posted.status_code == response.status_code
    assert "refs/heads/main" in desk.git("ls-remote", "origin")


def _hook(desk: Desk, url: str, **more: Any) -> dict[str, Any]:
    config = {"url": url, "content_type": "json", "secret": "s3", **more.pop("config", {})}
    body = {"type": "gitea", "config": config, "events": ["pull_request_only", "issues_only"], "active": True}
    return dict(desk.maintainer.post(f"{desk.api}/hooks", {**body, **more}))


def _merged(desk: Desk) -> tuple[int, int]:
    issue = desk.issue()
    desk.commit("work", {"a.py": "A = '<&>'\n"}, "add")
    pull = desk.pull("work", f"Closes #{issue}", title="Add <b> & co")
    assert desk.merge(pull, "squash").status_code == 200
    return issue, pull


def test_deliveries_are_signed_over_their_bytes(desk: Desk, receiver: Receiver) -> None:
    """Four deliveries of a merge: signed, in order, the pull request before the issue, < > & escaped."""
    shown = _hook(desk, f"{receiver.url}/hook")
    assert "secret" not in shown["config"]
    issue, pull = _merged(desk)
    got = receiver.wait(4)
    events = []
    for _, headers, body in got:
        signature = hmac.new(b"s3", body, hashlib.sha256).hexdigest()
        assert headers["X-Gitea-Signature"] == headers["X-Gogs-Signature"] == signature
        assert headers["X-Hub-Signature-256"] == f"sha256={signature}"
        assert b"<b>" not in body or desk.ground.server is None  # a build with another JSON library escapes nothing
        assert not body.endswith(b"\n")
        payload = json.loads(body)
        events.append((headers["X-Gitea-Event"], payload["action"], payload["number"]))
    assert events == [
        ("issues", "opened", issue),
        ("pull_request", "opened", pull),
        ("pull_request", "closed", pull),
        ("issues", "closed", issue),
    ]
    closed, issue_closed = json.loads(got[2][2]), json.loads(got[3][2])
    assert closed["pull_request"]["merged"] is True
    assert closed["pull_request"]["title"] == "Add <b> & co"
    assert issue_closed["commit_id"] == closed["pull_request"]["merge_commit_sha"]
    assert len({headers["X-Gitea-Delivery"] for _, headers, _ in got}) == 4


def test_a_form_delivery_is_signed_over_the_decoded_payload(desk: Desk, receiver: Receiver) -> None:
    """content_type form sends `payload=` and signs what it decodes to."""
    _hook(desk, f"{receiver.url}/form", config={"content_type": "form"}, authorization_header="Bearer hello")
    desk.issue()
    _, headers, body = receiver.wait(1)[0]
    payload = parse_qs(body.decode())["payload"][0].encode()
    assert headers["X-Gitea-Signature"] == hmac.new(b"s3", payload, hashlib.sha256).hexdigest()
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Authorization"] == "Bearer hello"


def test_without_a_secret_the_signature_is_there_and_empty(desk: Desk, receiver: Receiver) -> None:
    """No secret: the header is present, its value empty."""
    _hook(desk, f"{receiver.url}/none", config={"secret": ""})
    desk.issue()
    _, headers, _ = receiver.wait(1)[0]
    assert (headers["X-Gitea-Signature"], headers["X-Hub-Signature-256"]) == ("", "sha256=")


def test_a_redirect_turns_the_delivery_into_a_get(desk: Desk, receiver: Receiver) -> None:
    """After a 302 the landing place gets a GET without a body, with the signature of the lost one."""
    _hook(desk, f"{receiver.url}/elsewhere")
    desk.issue()
    (posted, _, _), (landed, headers, body) = receiver.wait(2)
    assert (posted, landed, body) == ("POST /elsewhere", "GET /landed", b"")
    assert len(headers["X-Gitea-Signature"]) == 64


def test_hooks_are_off_by_default_and_a_patch_resets_their_events(desk: Desk, receiver: Receiver) -> None:
    """`active` defaults to false; PATCH without events leaves push alone; the secret survives."""
    shown = _hook(desk, f"{receiver.url}/off", active=None)
    assert shown["active"] is False
    patched = desk.maintainer.ask("PATCH", f"{desk.api}/hooks/{shown['id']}", {"active": True}).json()
    assert (patched["active"], patched["events"]) == (True, ["push"])
    wide = desk.maintainer.ask("PATCH", f"{desk.api}/hooks/{shown['id']}", {"active": True, "events": ["issues"]})
    assert set(wide.json()["events"]) == {
        "issues",
        "issue_assign",
        "issue_label",
        "issue_milestone",
        "issue_comment",
    }
    desk.issue()
    _, headers, body = receiver.wait(1)[0]
    assert headers["X-Gitea-Signature"] == hmac.new(b"s3", body, hashlib.sha256).hexdigest()


def test_a_test_delivery_is_a_push(desk: Desk, receiver: Receiver) -> None:
    """The test button sends a push of the tip onto itself, and only to hooks that listen to pushes."""
    deaf, listening = (
        _hook(desk, f"{receiver.url}/{name}", events=events)
        for name, events in (("deaf", ["issues"]), ("listening", ["push"]))
    )
    for hook in (deaf, listening):
        assert desk.maintainer.ask("POST", f"{desk.api}/hooks/{hook['id']}/tests").status_code == 204
    where, headers, body = receiver.wait(1)[0]
    assert (where, headers["X-Gitea-Event"]) == ("POST /listening", "push")
    payload = json.loads(body)
    assert payload["before"] == payload["after"] == desk.git("rev-parse", "origin/main")


def test_a_token_that_nobody_has_is_401(ground: Ground) -> None:
    """A wrong token is refused by the API and by git, even for what is public."""
    stranger = Person("x", ground.url, "0" * 40)
    assert stranger.ask("GET", "/user").status_code == 401
    url = f"{ground.url}/{ground.repository().place}.git/info/refs?service=git-upload-pack"
    response = httpx.get(url, auth=("x", "0" * 40), trust_env=False)
    assert response.status_code == 401


def _search(desk: Desk, **query: Any) -> list[dict[str, Any]]:
    owner = desk.place.split("/")[0]
    common = {"type": "pulls", "state": "closed", "owner": owner, "limit": 50, "page": 1}
    rows = desk.maintainer.get("/repos/issues/search", **common, **query)
    return [row for row in rows if row["repository"]["full_name"] == desk.place]
