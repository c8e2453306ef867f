"""Filing an audit on the embedded forge, and on the real one where the environment names it: once, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.gitea_admin import GiteaIssues
from fleetssd.audit import Source, World, examine
from fleetssd.audit.filing import MARK, TITLE, body
from fleetssd.cli import main
from fleetssd.embedded.forge.quirks import Fault, Quirks
from fleetssd.errors import Misconfigured, Rejected, Transient
from fleetssd.operations.audit import Filing, file_issue
from tests.contract.forges import Desk, Ground, embedded

TEXT = body(examine([Source("Modelfile", "modelfile", "PARAMETER temperature 0.3")], World()))
OTHER = body(examine([Source("Modelfile", "modelfile", "PARAMETER temperature 0.4")], World()))


@pytest.fixture
def desk(ground: Ground) -> Iterator[Desk]:
    """Make a repository with two labels, and take the quirks back afterwards."""
    made = ground.repository()
    for name in ("audit", "serving"):
        made.maintainer.post(f"{made.api}/labels", {"name": name, "color": "#00ff00"})
    yield made
    if ground.server:
        ground.server.state.quirks = Quirks()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ground]:
    """Run an embedded forge of the test's own."""
    with embedded(tmp_path / "alone") as started:
        yield started


@contextmanager
def issues(ground: Ground, token: str = "") -> Iterator[GiteaIssues]:
    """Open the forge's issues as the maintainer, or with another token."""
    made = GiteaIssues(ground.url, token or ground.maintainer.token)
    try:
        yield made
    finally:
        made.close()


def filed(desk: Desk, text: str = TEXT, *labels: str) -> Filing:
    """File a text and return what became of it."""
    with issues(desk.ground) as forge:
        return file_issue(forge, desk.place, labels, text)


def shown(desk: Desk) -> list[dict[str, Any]]:
    """Return the repository's issues, open and closed, oldest first."""
    rows = desk.maintainer.get(f"{desk.api}/issues", state="all", type="issues")
    return sorted(rows, key=lambda row: int(row["number"]))


def test_filing_twice_makes_one_issue(desk: Desk) -> None:
    """The first call opens it with its labels, the second finds it and writes nothing."""
    first = filed(desk, TEXT, "audit")
    before = shown(desk)
    second = filed(desk, TEXT, "audit")
    assert (first.did, second.did, first.number) == ("created", "unchanged", second.number)
    assert shown(desk) == before
    (issue,) = before
    assert (issue["title"], [label["name"] for label in issue["labels"]]) == (TITLE, ["audit"])
    assert "`PARAMETER.temperature`" in issue["body"]


def test_other_findings_change_the_same_issue(desk: Desk) -> None:
    """Text and labels follow; a title that somebody changed comes back."""
    number = filed(desk).number
    desk.maintainer.ask("PATCH", f"{desk.api}/issues/{number}", {"title": "x"})
    assert filed(desk, OTHER, "audit", "serving") == Filing(desk.place, number, "updated")
    (issue,) = shown(desk)
    assert "`0.4`" in issue["body"]
    assert (issue["title"], len(issue["labels"])) == (TITLE, 2)
    assert filed(desk, OTHER).did == "unchanged"


def test_a_label_alone_is_added(desk: Desk) -> None:
    """Labels that are missing are put on, and none is taken off."""
    filed(desk, TEXT, "audit")
    assert filed(desk, TEXT, "serving").did == "updated"
    assert {label["name"] for label in shown(desk)[0]["labels"]} == {"audit", "serving"}


def test_a_closed_issue_is_opened_only_by_news(desk: Desk) -> None:
    """Who closed it has seen these findings; others open it again."""
    number = filed(desk).number
    desk.maintainer.ask("PATCH", f"{desk.api}/issues/{number}", {"state": "closed"})
    assert filed(desk).did == "unchanged"
    assert shown(desk)[0]["state"] == "closed"
    assert filed(desk, OTHER).did == "updated"
    assert [issue["state"] for issue in shown(desk)] == ["open"]


def test_somebody_elses_issue_with_our_mark_is_left_alone(alone: Ground) -> None:
    """A mark can be copied; only an issue of the same account, which begins with it, is ours."""
    desk = alone.repository()
    desk.agent.post(f"{desk.api}/issues", {"title": "mine", "body": f"{MARK}\nhands off"})
    desk.maintainer.post(f"{desk.api}/issues", {"title": "about it", "body": f"I saw {MARK}"})
    assert filed(desk).did == "created"
    assert filed(desk).did == "unchanged"
    assert [issue["title"] for issue in shown(desk)] == ["mine", "about it", TITLE]


def test_an_issue_is_found_among_many(desk: Desk) -> None:
    """It is found on a later page, too."""
    number = filed(desk).number
    for _ in range(55):
        desk.maintainer.post(f"{desk.api}/issues", {"title": "noise", "body": "-"})
    assert filed(desk) == Filing(desk.place, number, "unchanged")


def test_a_renamed_repository_is_found_under_its_new_name(desk: Desk) -> None:
    """No write follows a redirect: the name is looked up first."""
    number = filed(desk).number
    new = f"{desk.place.split('/')[1]}-new"
    desk.maintainer.ask("PATCH", desk.api, {"name": new})
    assert filed(desk, OTHER) == Filing(f"{desk.place.split('/')[0]}/{new}", number, "updated")


def test_what_is_missing_is_told_before_anything_is_written(desk: Desk) -> None:
    """An unknown label and an unknown repository are refused by name."""
    with pytest.raises(Misconfigured, match="has no label 'nope'") as caught:
        filed(desk, TEXT, "audit", "nope")
    assert "audit, serving" in caught.value.hint
    assert shown(desk) == []
    with issues(desk.ground) as forge, pytest.raises(Rejected):
        file_issue(forge, f"{desk.place}-none", (), TEXT)


def test_a_write_that_is_lost_is_not_sent_twice(alone: Ground) -> None:
    """A 502 leaves it open whether the issue was opened: nothing is repeated, and the next call finds out."""
    desk = alone.repository()
    assert alone.server is not None
    alone.server.state.quirks = Quirks(faults=[Fault("*/issues", "POST", 502, "<html>", "text/html")])
    with pytest.raises(Transient):
        filed(desk)
    assert (filed(desk).did, len(shown(desk))) == ("created", 1)


@pytest.mark.parametrize("answer", ["[]", '{"number": "x"}', "<html>"])
def test_an_answer_of_an_unknown_shape_is_tried_again(alone: Ground, answer: str) -> None:
    """What is no issue is no success."""
    desk = alone.repository()
    assert alone.server is not None
    alone.server.state.quirks = Quirks(faults=[Fault("*/issues", "POST", 201, answer)])
    with pytest.raises(Transient, match="unknown shape"):
        filed(desk)


def test_a_write_that_is_redirected_is_not_followed(alone: Ground) -> None:
    """A repository that moves between look-up and write is told, and nothing is opened."""
    desk = alone.repository()
    assert alone.server is not None
    here = {"Location": f"/api/v1{desk.api}/issues"}
    alone.server.state.quirks = Quirks(faults=[Fault("*/issues", "POST", 307, "", headers=here)])
    with pytest.raises(Rejected, match="has moved"):
        filed(desk)
    assert shown(desk) == []


def test_a_token_without_the_scope_is_told_what_it_needs(alone: Ground) -> None:
    """The hint names the scopes."""
    desk = alone.repository()
    with issues(alone, "0" * 40) as forge, pytest.raises(Misconfigured) as caught:
        file_issue(forge, desk.place, (), TEXT)
    assert "write:issue" in caught.value.hint


def test_hostile_names_mention_nobody_and_close_nothing(alone: Ground, tmp_path: Path) -> None:
    """What comes from files stands in code spans, and no cell of the table can be broken out of."""
    desk = alone.repository()
    number = desk.issue()
    name = f"a`|@agent-1 closes #{number} <b>.json"
    text = body(examine([Source(name, "json", '{"temperature": "`x|@all"}')], World()))
    filed(desk, text)
    rows = [line for line in text.splitlines() if line.startswith("| unknown")]
    assert rows == [row for row in rows if row.count("|") == 8 and row.count("`") == 8]
    assert len(rows) == 1
    assert "@" not in "".join(rows[0].split("`")[::2])
    assert desk.references(number) == []


def test_the_verb_files_its_findings(alone: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder to an issue and back to `unchanged`, with a token of its own; the token is told nowhere."""
    desk = alone.repository()
    desk.maintainer.post(f"{desk.api}/labels", {"name": "audit", "color": "#00ff00"})
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "Modelfile").write_text("PARAMETER temperature 0.3\n")
    (tmp_path / "mine").write_text(alone.maintainer.token)
    (tmp_path / "f.toml").write_text(
        f'data_dir = "d"\n[forge]\nurl = "{alone.url}"\ntoken_file = "none"\n'
        '[fleet]\nagents = ["a"]\nrepositories = ["o/r"]\n'
    )
    words = ["--config", str(tmp_path / "f.toml"), "audit", str(tmp_path / "agents"), "--file-issue", desk.place]
    words += ["--label", "audit", "--token-file", str(tmp_path / "mine")]
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["issue"] == {"repository": desk.place, "number": 1, "did": "created"}
    main(words)
    said = capsys.readouterr().out
    assert f"unchanged issue {desk.place}#1" in said
    assert alone.maintainer.token not in said
    assert shown(desk)[0]["body"] == TEXT
