"""Lists, addresses and errors of a forge at their oddest, and what the poller's adapter makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd import config
from fleetssd.adapters.gitea_admin import GiteaIssues
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.gitea import MergedPull, PullRow, moment
from tests.contract.forges import Desk, Ground, Person
from tests.services.test_gitea_http import swept


def reading(desk: Desk, folder: Path, token: str = "", **settings: Any) -> GiteaForge:
    """Open the adapter for one repository, list by list unless told otherwise."""
    file = folder / f"token-of-{desk.clone.name}"
    file.write_text(token or desk.maintainer.token)
    table = {"url": desk.ground.url, "token_file": file, "mode": "repository", **settings}
    fleet = config.Fleet(agents=("*",), repositories=(desk.place,))
    return GiteaForge(config.Forge.model_validate(table), fleet, attempts=2, wait_seconds=0.01)


def merged(desk: Desk, branch: str = "work", body: str = "no link") -> int:
    """Open and merge a pull request."""
    desk.commit(branch, {f"{branch}.py": "A = 1\n"}, "add")
    number = desk.pull(branch, body)
    assert desk.merge(number, "squash").status_code == 200
    return number


def rows(desk: Desk, folder: Path, since: datetime | None = None, **settings: Any) -> list[PullRow]:
    """Return what a sweep of one repository finds, oldest first; it must be complete."""
    forge = reading(desk, folder, **settings)
    try:
        sweep = swept(forge, since)
    finally:
        forge.close()
    assert sweep.complete
    found = [row for row in sweep.rows if row.repository == desk.place]
    return sorted(found, key=lambda row: row.key.number)


def numbers(found: list[PullRow]) -> list[int]:
    """Return the numbers of rows."""
    return [row.key.number for row in found]


def detail(forge: GiteaForge, desk: Desk, number: int) -> MergedPull:
    """Return a detail that must be there."""
    found = forge.pull(desk.place, number)
    assert found is not None
    return found


def test_a_merger_that_the_list_leaves_out_is_in_the_detail(desk: Desk, forge: GiteaForge) -> None:
    """A list may show a merge without its merger; the detail names who merged."""
    number = merged(desk)
    listed = desk.maintainer.get(f"{desk.api}/pulls", state="closed", page=1, limit=50)[0]
    assert listed["merged"] is True
    assert listed["merged_by"] is None or listed["merged_by"]["login"] == desk.maintainer.login
    assert detail(forge, desk, number).merger == desk.maintainer.login


def test_null_stands_for_an_empty_array_anywhere(desk: Desk, forge: GiteaForge, tmp_path: Path) -> None:
    """Labels, pages, timelines and parents that are null hold nothing."""
    number = merged(desk)
    desk.ground.quirk(null_arrays=True)
    assert desk.maintainer.get(f"{desk.api}/pulls/{number}")["labels"] is None
    assert detail(forge, desk, number).labels == ()
    assert forge.timeline(desk.place, desk.issue()) == []
    assert rows(desk, tmp_path, datetime.now(UTC) + timedelta(days=1)) == []
    assert numbers(rows(desk, tmp_path)) == [number]


def test_a_null_item_of_a_timeline_is_dropped(desk: Desk, forge: GiteaForge) -> None:
    """A row whose subject is gone can be a null among the others."""
    number = merged(desk)
    known = forge.timeline(desk.place, number)
    desk.ground.quirk(null_timeline_item=True)
    assert desk.timeline(number)[-1] is None
    assert forge.timeline(desk.place, number) == known


def test_a_timeline_without_rows_is_null(desk: Desk, forge: GiteaForge) -> None:
    """The body of an empty timeline is `null` (or an empty array), and reads as no rows."""
    number = desk.issue()
    assert desk.maintainer.get(f"{desk.api}/issues/{number}/timeline") in (None, [])
    assert forge.timeline(desk.place, number) == []


def test_a_deleted_fork_leaves_a_pull_request_without_head_repository(desk: Desk, forge: GiteaForge) -> None:
    """head.repo is null and repo_id -1; merge base, frozen head and diff are still there."""
    outsider = desk.ground.newcomer("outsider")
    outsider.post(f"{desk.api}/forks", {}, status=202)
    name = desk.place.split("/")[1]
    desk.git("checkout", "-q", "-b", "far", "origin/main")
    (desk.clone / "far.py").write_text("F = 1\n")
    desk.git("add", "-A")
    desk.git("commit", "-q", "-m", "far")
    outsider.git("-C", str(desk.clone), "push", "-q", f"{desk.ground.url}/{outsider.login}/{name}.git", "far")
    number = desk.pull(f"{outsider.login}:far", "", who=outsider)
    assert desk.merge(number, "squash").status_code == 200
    assert outsider.ask("DELETE", f"/repos/{outsider.login}/{name}").status_code == 204
    head = desk.maintainer.get(f"{desk.api}/pulls/{number}")["head"]
    assert (head["repo"], head["repo_id"]) == (None, -1)
    pull, told = detail(forge, desk, number), forge.diff(desk.place, number)
    assert (pull.author, pull.merge_base) == (outsider.login, desk.git("rev-parse", "origin/main"))
    assert told is not None
    assert (b"far.py" in told[0], told[1]) == (True, desk.git("rev-parse", "far"))


def test_a_deleted_author_is_ghost_and_no_agent(desk: Desk, forge: GiteaForge) -> None:
    """What a deleted account opened is by Ghost, whatever the agents are called."""
    leaver = desk.ground.newcomer("agent")
    desk.maintainer.ask("PUT", f"{desk.api}/collaborators/{leaver.login}", {"permission": "write"})
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    number = desk.pull("work", "", who=leaver)
    assert desk.merge(number, "merge").status_code == 200
    assert desk.ground.admin is not None
    assert desk.ground.admin.ask("DELETE", f"/admin/users/{leaver.login}").status_code == 204
    assert detail(forge, desk, number).author == "Ghost"


def test_times_in_another_zone_are_the_same_moments(desk: Desk, forge: GiteaForge, tmp_path: Path) -> None:
    """A server that shows its times with an offset tells the same moments, and windows hold the same rows."""
    number = merged(desk)
    before = detail(forge, desk, number)
    desk.ground.quirk(zone_minutes=60)
    assert desk.maintainer.get(f"{desk.api}/pulls/{number}")["closed_at"].endswith("+01:00")
    assert detail(forge, desk, number).closed_at == before.closed_at
    assert numbers(rows(desk, tmp_path, before.closed_at)) == [number]
    assert rows(desk, tmp_path, moment(before.updated_at) + timedelta(seconds=1)) == []  # type: ignore[operator]


def test_a_limit_over_the_cap_is_cut_in_silence(desk: Desk) -> None:
    """A page of a thousand has as many rows as the server's settings allow, and nothing says that it was cut."""
    cap = desk.maintainer.get("/settings/api")["max_response_items"]
    for _ in range(cap + 2):
        desk.issue()
    response = desk.maintainer.ask("GET", f"{desk.api}/issues", limit=1000, page=1)
    assert (len(response.json()), response.headers["X-Total-Count"]) == (cap, str(cap + 2))


def test_pages_that_are_cut_short_are_all_read(desk: Desk, tmp_path: Path) -> None:
    """Where the server gives two rows a page and was asked for fifty, a sweep has every row, each once."""
    made = [merged(desk, f"work-{number}") for number in range(5)]
    desk.ground.quirk(page_cap=2)
    assert len(desk.maintainer.get(f"{desk.api}/issues", type="pulls", state="closed", limit=50, page=1)) == 2
    assert numbers(rows(desk, tmp_path)) == made
    assert set(made) <= set(numbers(rows(desk, tmp_path, mode="search")))


def test_a_link_to_another_host_is_not_followed(desk: Desk, tmp_path: Path) -> None:
    """Link headers may name a host that nobody called: pages are counted, and the token stays."""
    made = [merged(desk, f"work-{number}") for number in range(3)]
    desk.ground.quirk(link_root="http://far.example")
    response = desk.maintainer.ask("GET", f"{desk.api}/issues", state="closed", limit=1, page=1)
    assert response.headers["Link"].startswith("<http://far.example/")
    assert numbers(rows(desk, tmp_path, page_size=1)) == made


def test_a_total_that_changes_between_pages_is_no_end(desk: Desk, tmp_path: Path) -> None:
    """While X-Total-Count moves the sweep has every row, and says that it has to look again."""
    made = [merged(desk, f"work-{number}") for number in range(3)]
    desk.ground.quirk(total_count_drift=True)
    forge = reading(desk, tmp_path, page_size=1)
    sweep = swept(forge)
    forge.close()
    assert sorted(row.key.number for row in sweep.rows) == made
    assert sweep.complete is False


def test_a_pull_request_twice_in_a_page_is_one(desk: Desk, tmp_path: Path) -> None:
    """A page can hold a row twice; a sweep has it once."""
    made = [merged(desk, f"work-{number}") for number in range(2)]
    desk.ground.quirk(double_row=True)
    listed = desk.maintainer.get(f"{desk.api}/issues", type="pulls", state="closed", limit=50, page=1)
    assert len(listed) == 3
    assert numbers(rows(desk, tmp_path)) == made


def test_two_labels_list_a_pull_request_twice(desk: Desk) -> None:
    """A filter by two labels shows what has both two times."""
    number = merged(desk)
    ids = [
        desk.maintainer.post(f"{desk.api}/labels", {"name": name, "color": "#000000"})["id"] for name in ("one", "two")
    ]
    desk.maintainer.post(f"{desk.api}/issues/{number}/labels", {"labels": ids}, status=200)
    listed = desk.maintainer.get(f"{desk.api}/pulls", state="closed", labels=ids, page=1, limit=50)
    assert [row["number"] for row in listed] == [number, number]


def test_rows_that_shift_between_pages_come_once(desk: Desk, tmp_path: Path) -> None:
    """A page that begins with the row that ended the one before adds nothing twice and loses nothing."""
    made = [merged(desk, f"work-{number}") for number in range(3)]
    desk.ground.quirk(repeat_last_row=True)
    assert numbers(rows(desk, tmp_path, page_size=2)) == made


def test_a_comment_brings_an_old_pull_request_back(desk: Desk, forge: GiteaForge, tmp_path: Path) -> None:
    """Long after the merge a comment moves the row into the window again; its closing time stays."""
    number = merged(desk)
    (before,) = rows(desk, tmp_path)
    desk.ground.later()
    window = moment(before.updated_at) + timedelta(seconds=1)  # type: ignore[operator]
    assert rows(desk, tmp_path, window) == []
    desk.maintainer.post(f"{desk.api}/issues/{number}/comments", {"body": "Still fine."})
    (after,) = rows(desk, tmp_path, window)
    assert (after.key, after.closed_at) == (before.key, before.closed_at)
    assert after.updated_at != before.updated_at


def test_base_and_head_that_move_after_the_merge_change_nothing(desk: Desk, forge: GiteaForge) -> None:
    """base.sha and head.sha follow their branches; merge base, frozen head and diff do not."""
    base = desk.git("rev-parse", "origin/main")
    head = desk.commit("work", {"a.py": "A = 1\n"}, "in time")
    number = desk.pull("work", "no link")
    assert desk.merge(number, "squash").status_code == 200
    before = detail(forge, desk, number), forge.diff(desk.place, number)
    late = desk.commit("work", {"late.py": "L = 1\n"}, "too late")
    desk.git("fetch", "-q", "origin")
    desk.git("checkout", "-q", "-B", "main", "origin/main")
    tip = desk.commit("main", {"README.md": "moved\n"}, "move the base")
    shown = desk.maintainer.get(f"{desk.api}/pulls/{number}")
    assert (shown["base"]["sha"], shown["head"]["sha"]) == (tip, late)
    after = detail(forge, desk, number), forge.diff(desk.place, number)
    assert (after[0].merge_base, after[0].merge_commit, after[1]) == (base, before[0].merge_commit, before[1])
    assert after[1] is not None
    assert after[1][1] == head


def test_a_renamed_repository_is_read_under_its_new_name(desk: Desk, forge: GiteaForge) -> None:
    """The old address answers 301 or 307; the adapter follows on the same server and keeps the repository's id."""
    number = merged(desk)
    before = detail(forge, desk, number)
    assert desk.maintainer.ask("PATCH", desk.api, {"name": f"{desk.place.split('/')[1]}-moved"}).status_code == 200
    assert desk.maintainer.ask("GET", desk.api).status_code in (301, 307)
    after = detail(forge, desk, number)
    assert (after.key, after.repository) == (before.key, f"{desk.place}-moved")
    if desk.ground.server is None:
        desk.ground.made.append(f"{desk.api}-moved")


def test_a_private_repository_is_404_for_strangers(ground: Ground, tmp_path: Path) -> None:
    """What a token's account may not see does not exist for it: no detail, no issue, no row."""
    desk = ground.repository(private=True)
    number, stranger = merged(desk), ground.newcomer("stranger", "read:repository", "read:issue")
    assert stranger.ask("GET", desk.api).status_code == 404
    forge = reading(desk, tmp_path, stranger.token, mode="search")
    assert (forge.pull(desk.place, number), forge.issue(desk.place, number)) == (None, None)
    assert desk.place not in {row.repository for row in swept(forge).rows}
    forge.close()


def test_a_missing_scope_is_told_in_the_servers_words(desk: Desk, tmp_path: Path) -> None:
    """A token without read:issue is 403 with the scope's name, and a setting to mend, not a row to skip."""
    number, narrow = merged(desk), desk.ground.newcomer("narrow", "read:user")
    refused = narrow.ask("GET", "/repos/issues/search", type="pulls")
    assert (refused.status_code, "read:issue" in refused.json()["message"]) == (403, True)
    forge = reading(desk, tmp_path, narrow.token)
    with pytest.raises(Misconfigured) as told:
        forge.pull(desk.place, number)
    forge.close()
    assert (told.value.status, "scope" in told.value.message) == (403, True)
    assert "read:repository" in told.value.hint


def test_a_crash_has_an_empty_message(desk: Desk, forge: GiteaForge) -> None:
    """The timeline of a number that is not there is 500 without a word (404 on the newest): busy, not fatal."""
    refused = desk.maintainer.ask("GET", f"{desk.api}/issues/999/timeline")
    assert refused.status_code in (404, 500)
    if refused.status_code == 404:
        assert forge.timeline(desk.place, 999) == []
        return
    assert refused.json()["message"] == "" or desk.ground.admin is desk.maintainer
    with pytest.raises(Transient):
        forge.timeline(desk.place, 999)


@pytest.mark.parametrize("times", [2, 3])
def test_a_proxys_page_is_a_bad_moment(desk: Desk, forge: GiteaForge, times: int) -> None:
    """502 with HTML is asked again; after three tries it is the server's failure, not ours."""
    number = merged(desk)
    fault(desk, f"{desk.api}/pulls/{number}", times, status=502, body="<html>Bad Gateway", content_type="text/html")
    expect(forge, desk, number, times)


@pytest.mark.parametrize("times", [2, 3])
def test_too_many_requests_are_asked_again_when_told(desk: Desk, forge: GiteaForge, times: int) -> None:
    """429 with Retry-After is waited for and asked again."""
    number = merged(desk)
    fault(desk, f"{desk.api}/pulls/{number}", times, status=429, body="slow down", headers={"Retry-After": "0"})
    expect(forge, desk, number, times)


@pytest.mark.parametrize("times", [2, 3])
def test_a_detail_of_null_is_asked_again(desk: Desk, forge: GiteaForge, times: int) -> None:
    """200 with `null` is a detail that the server failed to build."""
    number = merged(desk)
    fault(desk, f"{desk.api}/pulls/{number}", times, status=200, body="null\n")
    expect(forge, desk, number, times)


def fault(desk: Desk, path: str, times: int, **answer: Any) -> None:
    """Let the next requests of one address be answered otherwise."""
    desk.ground.quirk(faults=[{"path": f"/api/v1{path}", "method": "GET", "times": times, **answer}])


def expect(forge: GiteaForge, desk: Desk, number: int, times: int) -> None:
    """Read a detail with three tries."""
    if times < 3:
        assert detail(forge, desk, number).key.number == number
    else:
        with pytest.raises(Transient):
            forge.pull(desk.place, number)


def test_a_row_of_the_search_can_be_gone_in_detail(desk: Desk, forge: GiteaForge, tmp_path: Path) -> None:
    """With pull requests switched off the search still shows the row, and the detail is 404: nothing to retry."""
    number = merged(desk)
    assert desk.maintainer.ask("PATCH", desk.api, {"has_pull_requests": False}).status_code == 200
    assert number in numbers(rows(desk, tmp_path, mode="search"))
    assert desk.maintainer.ask("GET", f"{desk.api}/pulls/{number}").status_code == 404
    assert forge.pull(desk.place, number) is None


def test_a_renamed_account_costs_only_its_own_rows(desk: Desk, tmp_path: Path) -> None:
    """`created_by` of a name that is gone is 404 for the whole request; the other agents' rows come, and it is told."""
    number, leaver = merged(desk), desk.ground.newcomer("leaver")
    assert desk.ground.admin is not None
    path = f"/admin/users/{leaver.login}"
    assert desk.ground.admin.ask("POST", f"{path}/rename", {"new_username": f"{leaver.login}-now"}).status_code < 300
    desk.ground.made = [f"{made}-now" if made == path else made for made in desk.ground.made]
    assert desk.maintainer.ask("GET", f"{desk.api}/issues", created_by=leaver.login).status_code == 404
    (tmp_path / "token").write_text(desk.maintainer.token)
    forge = GiteaForge(
        config.Forge(url=desk.ground.url, token_file=tmp_path / "token", mode="repository"),
        config.Fleet(agents=(leaver.login, desk.agent.login), repositories=(desk.place,)),
    )
    sweep = swept(forge)
    forge.close()
    assert [row.key.number for row in sweep.rows] == [number]
    assert [leaver.login in gap for gap in sweep.gaps] == [True]


def test_no_checks_are_pending_with_none_counted(desk: Desk) -> None:
    """Without any check the combined state is `pending` or empty: only total_count tells."""
    head = desk.commit("work", {"a.py": "A = 1\n"}, "add")
    shown = desk.maintainer.get(f"{desk.api}/commits/{head}/status")
    assert (shown["state"] in ("pending", ""), shown["total_count"], shown["statuses"] or []) == (True, 0, [])


def test_a_search_without_a_cap_is_asked_in_pages(desk: Desk) -> None:
    """A newer search gives all rows that are asked for, an older one 50; the setting for our pages ends at 50."""
    for _ in range(51):
        desk.issue()
    found = desk.maintainer.ask("GET", "/repos/issues/search", type="issues", state="open", limit=1000, page=1)
    newer = desk.maintainer.ask("GET", "/repos/issues/search", created_by="nobody-at-all").status_code == 404
    assert (len(found.json()) > 50) is newer
    with pytest.raises(ValueError, match="50"):
        config.Forge(url=desk.ground.url, token_file=Path("t"), page_size=51)


def test_a_write_that_a_rename_redirects_makes_nothing(desk: Desk) -> None:
    """A POST to the old name is 301 or 307, and a client that follows a 301 lists instead: ours refuses to follow."""
    name = desk.place.split("/")[1]
    assert desk.maintainer.ask("PATCH", desk.api, {"name": f"{name}-moved"}).status_code == 200
    if desk.ground.server is None:
        desk.ground.made.append(f"{desk.api}-moved")
    posted = desk.maintainer.ask("POST", f"{desk.api}/issues", {"title": "x"})
    assert (posted.status_code in (301, 307), posted.headers["Location"][0]) == (True, "/")
    issues = GiteaIssues(desk.ground.url, desk.maintainer.token)
    with pytest.raises(Rejected) as refused:
        issues.open(desk.place, "x", "y", ())
    assert refused.value.status == posted.status_code
    now = issues.full_name(desk.place)
    assert (now, desk.maintainer.get(f"/repos/{now}/issues", state="all", page=1, limit=50)) == (
        f"{desk.place}-moved",
        [],
    )
    issues.close()


def test_what_the_token_may_not_read_is_no_issue(ground: Ground) -> None:
    """A token for public repositories alone is 403, not 404, for a private one."""
    desk = ground.repository(private=True)
    issue = desk.issue()
    narrow: Person = ground.newcomer("narrow", "read:repository", "read:issue", "public-only")
    desk.maintainer.ask("PUT", f"{desk.api}/collaborators/{narrow.login}", {"permission": "read"})
    refused = narrow.ask("GET", f"{desk.api}/issues/{issue}")
    assert (refused.status_code, "public" in refused.json()["message"]) == (403, True)


@pytest.mark.parametrize("text", ["development", "12.0.0-dev-412-g7958942e3e+gitea-1.22.0", ""])
def test_no_version_is_asked_for(desk: Desk, tmp_path: Path, text: str) -> None:
    """Whatever a build calls itself, what it can do is found out by asking."""
    number = merged(desk)
    desk.ground.quirk(version_text=text)
    assert numbers(rows(desk, tmp_path)) == [number]
