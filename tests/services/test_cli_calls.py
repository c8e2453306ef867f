"""The verbs `calls` and `canary` over a real database: text for people, JSON for programs, exit codes for scripts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call, Gap
from fleetssd.canary import Canary
from fleetssd.trials import Trial
from tests.services.test_cli_reading import BASE, NOW, ONE, call, folder, lived, read

__all__ = ["folder", "lived"]  # fixtures
CALL = Call(
    "4f1c" + "0" * 28, NOW - timedelta(minutes=2), "bot-1", "fleet/app#12", "header", "/api/chat", "fleet-coder",
    "m:merged", ONE, 200, 90 * 10**9, finish="stop", prompt_tokens=7, answer_tokens=9, empty=False,
)  # fmt: skip
OTHER = replace(
    CALL, id="aaaa", at=NOW + timedelta(minutes=1), agent="bot-2", task="", task_source="none", checkpoint=BASE,
    fault="cut", finish="", prompt_tokens=None,
)  # fmt: skip


@pytest.fixture
def told(lived: Path) -> Path:
    """Return a folder whose gateway told of two calls and a gap, a day before now at most."""
    with_store(lived, lambda store: store.add_calls([CALL, OTHER], Gap(3, NOW, NOW + timedelta(seconds=9))))
    return lived


def with_store(folder_: Path, use: Any) -> Any:
    """Open the folder's database for a moment."""
    store = SqlStore.open(f"sqlite:///{folder_ / 'data' / 'fleetssd.sqlite3'}")
    try:
        return use(store)
    finally:
        store.close()


def text(folder_: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a verb and return what it printed, without its layout."""
    assert call(folder_, *arguments) == 0
    return " ".join(capsys.readouterr().out.split())


def test_without_calls_the_gateway_is_named(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty table says what fills it; a program gets an empty list."""
    assert "is it before the fleet?" in text(lived, capsys, "calls")
    assert read(lived, capsys, "calls") == {"calls": [], "gaps": []}


def test_calls_are_listed_newest_first(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each call says who asked, what answered and how it ended; the gap beside them is told."""
    found = read(told, capsys, "calls")
    assert [line["id"] for line in found["calls"]] == ["aaaa", CALL.id]
    assert found["gaps"][0]["calls"] == 3
    said = text(told, capsys, "calls")
    assert "3 calls in this time are not on file" in said
    assert "cut" in said
    assert "fleet/app" in said


def test_a_call_that_is_missing_may_be_in_a_gap(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for a call that is not on file hears of those that were lost."""
    said = text(told, capsys, "calls", "--request", "beef")
    assert said.startswith("No such call on file")
    assert "3 calls in this time are not on file" in said


def test_one_call_is_shown_whole(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The start of its id is enough; the digest stands there whole."""
    said = text(told, capsys, "calls", "--request", "4f1c")
    assert ONE in said.replace(" ", "")
    assert "aaaa" not in said


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--agent", "bot-2"], ["aaaa"]),
        (["--task", "fleet/app#12"], [CALL.id]),
        (["--checkpoint", "ccc"], [CALL.id]),
        (["--errors"], ["aaaa"]),
        (["--since", "2026-11-22 06:00"], ["aaaa"]),
        (["--limit", "1"], ["aaaa"]),
    ],
)
def test_filters_narrow(told: Path, capsys: pytest.CaptureFixture[str], options: list[str], ids: list[str]) -> None:
    """Each option leaves the calls that it names."""
    assert [line["id"] for line in read(told, capsys, "calls", *options)["calls"]] == ids


def test_a_moment_names_what_served_and_what_ran(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The swap log says what the fleet's name led to, the rows what was under way."""
    before = read(told, capsys, "calls", "--at", "2026-11-22 05:58:30")
    assert (before["served"]["digest"], before["since"]) == (BASE, None)
    assert [line["id"] for line in before["calls"]] == [CALL.id]
    after = read(told, capsys, "calls", "--at", "2026-11-22T07:00:30+01:00")
    assert (after["served"]["digest"], after["calls"]) == (ONE, [])
    assert [line["id"] for line in after["near"]] == ["aaaa", CALL.id]
    said = text(told, capsys, "calls", "--at", "2026-11-22 06:00:30")
    assert "cccccccccccc m:merged" in said
    assert "none was under way" in said


def test_a_moment_that_is_none_is_refused(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip in a time says how to write one."""
    assert call(told, "calls", "--at", "yesterday") == 1
    assert "is no moment" in capsys.readouterr().err


def test_checkpoints_are_counted(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each checkpoint has its calls, failures and times; what too little is known of says so."""
    found = {line["model"]: line for line in read(told, capsys, "calls", "--by-checkpoint", "--since", "2026-11-22")}
    assert (found["m:merged"]["calls"], found["m:merged"]["p50_seconds"]) == (1, 90.0)
    assert (found["m:base"]["errors"], found["m:base"]["p50_seconds"]) == (1, None)
    assert "too few" in text(told, capsys, "calls", "--by-checkpoint", "--since", "2026-11-22")


def test_a_canary_is_shown_and_aborted(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its status says what is open; an abort ends it once, and a second one is an error."""
    assert "No canary yet" in text(told, capsys, "canary", "status")
    now = datetime.now(UTC)
    line = Trial(0, Canary(BASE, "m:base", "split", 0.1, now, now + timedelta(hours=1)), ONE, "operator")
    with_store(told, lambda store: store.begin_trial(line))
    assert "m:base (split, 10.0% of tasks) until" in text(told, capsys, "status")
    said = text(told, capsys, "canary", "status")
    assert "m:base (split, 10.0% of tasks)" in said
    assert "too little is known" in said
    found = read(told, capsys, "canary", "status")
    assert (found["runs"], found["verdict"]["go_back"], found["lag_seconds"]) == (True, False, None)
    assert "gets no new task" in text(told, capsys, "canary", "abort", "--reason", "enough")
    ended = read(told, capsys, "canary", "status")
    assert (ended["outcome"], ended["reason"], ended["runs"], ended["lag_seconds"]) == ("aborted", "enough", False, 0.0)
    assert call(told, "canary", "abort") == 1
    assert "no canary runs" in capsys.readouterr().err


@pytest.mark.parametrize(("named", "said"), [([], "waits for dawn"), (["nobody"], "no checkpoints are called")])
def test_a_candidate_must_be_one(told: Path, capsys: pytest.CaptureFixture[str], named: list[str], said: str) -> None:
    """Without a name what waits for dawn is meant; a name that nobody has is refused."""
    assert call(told, "canary", "start", *named) == 1
    assert said in capsys.readouterr().err
