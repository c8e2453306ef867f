"""The real adapters poll what a real Gitea answered: every case comes out as its facts say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleetssd import wiring
from fleetssd.config import Settings, parse
from fleetssd.operations.ingest import PollSummary, poll_once
from fleetssd.records import Record
from tests.e2e.replay_forge import TOKEN, Recording, has_token, replayed

SAMPLES = Path(__file__).parents[1] / "samples"
CASES = {
    folder: sorted(path.stem for path in (SAMPLES / folder / "pulls").glob("*.json"))
    for folder in ("gitea", "gitea-1.22")
}
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)

# What each case must become, where it is not simply a record: found by reading what was done, not by running this.
REFUSED = {
    "agent-merges-agent": {"merger_is_agent"},
    "author-deleted": {"author_not_agent"},
    "autodetected-fast-forward": {"merger_unproven"},
    "autodetected-merge": {"merger_unproven"},
    "binary-and-rename": {"binary"},
    "closed-unmerged": {"not_merged"},
    "from-fork": {"author_not_agent"},
    "merge": {"reverted_later"},
    "revert": {"author_not_agent", "is_revert"},
    "self-merge": {"merger_is_agent", "merger_is_author"},
}
REFUSED_BY = {"gitea": REFUSED, "gitea-1.22": {**REFUSED, "manually-merged": {"merger_unproven"}}}
OPEN = {"pushed-by-hand-undetected", "squashed-by-hand-undetected"}
# 1.22 closes nothing for an address; the others close the issue whose timeline was recorded with the case.
NOT_LINKED = {
    "gitea": {"mention-only": {"*"}, "keyword-in-commit-only": {"*"}},
    "gitea-1.22": {"link-by-url": {"*"}},
}


@dataclass
class Polled:
    """A recording after its first poll."""

    recording: Recording
    settings: Settings
    records: dict[tuple[str, int], Record]
    summary: PollSummary
    first_requests: int

    def case(self, name: str) -> Record | None:
        """Return what became of a case."""
        detail = self.recording.detail(name)
        return self.records.get((detail["base"]["repo"]["full_name"], detail["number"]))


def poll(settings: Settings) -> tuple[PollSummary, list[Record]]:
    """Poll once with everything real, as the verb does."""
    store, forge = wiring.open_store(settings), wiring.open_forge(settings)
    try:
        mirror, secrets = wiring.open_mirror(settings), wiring.open_secrets(settings)
        summary = poll_once(settings, forge, mirror, store, secrets, NOW, lambda *_: None)
        return summary, store.records()
    finally:
        forge.close()
        store.close()


@pytest.fixture(scope="module", params=sorted(CASES))
def polled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Polled]:
    """Serve a recording and poll it once."""
    work = tmp_path_factory.mktemp("replay")
    (work / "token").write_text(TOKEN)
    with replayed(SAMPLES / request.param, work / "git") as recording:
        settings = parse(
            {
                "data_dir": work / "data",
                "forge": {"url": recording.url, "token_file": work / "token"},
                "fleet": {"agents": ["agent-1", "agent-2"], "repositories": ["fleet/*"]},
            }
        )
        summary, records = poll(settings)
        yield Polled(
            recording, settings, {(r.repository, r.pull): r for r in records}, summary, len(recording.requests)
        )


def folder_of(polled: Polled) -> str:
    """Return which recording this is."""
    return "gitea-1.22" if len(polled.recording.cases) == len(CASES["gitea-1.22"]) else "gitea"


def test_each_pull_request_has_one_record(polled: Polled) -> None:
    """Every closed pull request is filed once, and no other is."""
    closed = {name for name in polled.recording.cases if name not in OPEN}
    assert len(polled.records) == len(closed)
    assert {polled.case(name) for name in closed} == set(polled.records.values())


def test_commits_and_diffs_are_what_git_says(polled: Polled) -> None:
    """Base, head, merge commit, paths and the diff's bytes are those of the facts, in every style of merge."""
    read = [(name, record) for name in polled.recording.cases if (record := polled.case(name)) and record.diff_sha256]
    assert len(read) > len(polled.recording.cases) / 2
    for name, record in read:
        facts = polled.recording.cases[name]["facts"]
        found = (record.base_commit, record.head_commit, record.merge_commit, record.diff_sha256)
        expected = (facts["base_commit"], facts["head_commit"], facts["merge_commit"], facts["diff_sha256"])
        assert found == expected, name
        assert list(record.changed_paths) == facts["changed_paths"], name


def test_refusals_are_those_and_no_others(polled: Polled) -> None:
    """Who may not teach is refused with the reason, everybody else is a record."""
    expected = REFUSED_BY[folder_of(polled)]
    for name in polled.recording.cases:
        if record := polled.case(name):
            assert set(record.reasons) == expected.get(name, set()), name
            assert (record.state == "refused") == (name in expected), name


def test_links_are_what_the_timelines_say(polled: Polled) -> None:
    """A record answers exactly the issues that the server linked to its merge."""
    for name, case in polled.recording.cases.items():
        record = polled.case(name)
        if record is None or not record.diff_sha256:
            continue
        linked = set()
        for key, exchange in case["exchanges"].items():
            if key.startswith("timeline_") and "*" not in NOT_LINKED[folder_of(polled)].get(name, set()):
                rows = json.loads(exchange["response"]["body"])
                if any(row["type"] in ("pull_ref", "comment_ref") and row["ref_action"] == "closes" for row in rows):
                    linked.add(key.removeprefix("timeline_"))
        assert set(record.issues) == linked, name


def test_a_quiet_poll_is_one_request(polled: Polled) -> None:
    """With nothing new, the second poll asks once and changes nothing."""
    before = len(polled.recording.requests)
    summary, records = poll(polled.settings)
    assert len(polled.recording.requests) - before == 1
    assert (summary.rows, summary.read, len(records)) == (0, 0, len(polled.records))


def test_the_first_poll_is_cheap(polled: Polled) -> None:
    """One detail, an issue with its timeline, its own timeline where it moved since; a handful for git."""
    assert polled.first_requests <= 5 * polled.summary.read


def test_the_token_stays_in_its_file(polled: Polled) -> None:
    """Neither the database nor a mirror's files hold the token, bare or encoded."""
    files = [path for path in polled.settings.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "config" for path in files)
    assert not [path for path in files if has_token(path.read_bytes().decode("latin-1"))]


def test_a_lost_cursor_takes_nothing_twice(polled: Polled) -> None:
    """Polling everything again from the start leaves the same records."""
    store = wiring.open_store(polled.settings)
    try:
        store.set_cursors([polled.settings.forge.url], datetime(2026, 1, 1, tzinfo=UTC))
    finally:
        store.close()
    summary, records = poll(polled.settings)
    assert (summary.rows > 0, summary.read) == (True, 0)
    assert {(r.repository, r.pull): r for r in records} == polled.records


def test_the_verbs_tell_the_same(polled: Polled, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`records --json` has every record under its fixed names, and `poll --once` leaves with 0."""
    from fleetssd.cli import main  # noqa: PLC0415  the verbs register themselves on import

    config = tmp_path / "c.toml"
    config.write_text(
        f'data_dir = "{polled.settings.data_dir}"\n[forge]\nurl = "{polled.recording.url}"\n'
        f'token_file = "{polled.settings.forge.token_file}"\n'
        '[fleet]\nagents = ["agent-1", "agent-2"]\nrepositories = ["fleet/*"]\n'
    )
    main(["--config", str(config), "poll", "--once"])
    assert "0 read" in capsys.readouterr().out
    main(["--config", str(config), "records", "--json"])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {(row["repository"], row["pull"]) for row in rows} == polled.records.keys()
    assert rows[0].keys() >= {
        "repository", "pull", "state", "reasons", "author", "merger", "base_commit", "head_commit", "merge_commit",
        "issues", "confidences", "diff_sha256", "changed_paths",
    }  # fmt: skip
    main(["--config", str(config), "records", "--refused"])
    assert "author_not_agent" in capsys.readouterr().out
    main(["--config", str(config), "records"])
    assert "held out" in capsys.readouterr().out
