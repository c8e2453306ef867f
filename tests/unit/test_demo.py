"""What the demonstration shows: its summary, its tables, its page, its settings and its work."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleetssd import gate
from fleetssd.checkpoints import STAGES, Night, StageRow, Swap, VerdictRow
from fleetssd.config import Gate, parse
from fleetssd.demo.report import demo_page
from fleetssd.demo.show import show_checks, show_night, show_swaps
from fleetssd.demo.summary import Check, night_summary, percent, summary
from fleetssd.demo.world import NIGHT_1, NIGHT_2, NIGHT_3, World
from fleetssd.toy.work import seasons, some_work
from tests.unit.test_gate import arm, evidence

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
RESULTS: dict[str, dict[str, Any]] = {
    "sample": {"samples": 300},
    "train": {"losses": [0.5, 0.1], "rows": 299, "dropped": {"stub": 1}, "steps": 50},
    "build": {"tau": 0.2, "road": "merged-create"},
    "install": {"digest": "c" * 64},
}


def judged(**changed: object) -> Night:
    """Return a decided night whose evidence is that of the gate's own tests, with some fields changed."""
    verdict = gate.decide(evidence(**changed), Gate())
    numbers = {**asdict(verdict), "tau": 0.2, "tuned_temperature": 0.4}
    row = VerdictRow(2, verdict.kind, verdict.reason, verdict.digest, numbers, NOW)  # type: ignore[arg-type]
    stages = tuple(StageRow(2, stage, RESULTS.get(stage, {}), NOW, NOW) for stage in STAGES)
    return Night(2, "done", "merged", {"train": ["a", "b"], "k": 8}, NOW, NOW, "", stages, row)


def swap() -> Swap:
    """Return one proven flip."""
    return Swap(1, "flip", "dawn", "b" * 64, "c" * 64, "fleet-coder:v1", 2, "it was better", {}, NOW, done=True)


class Page(HTMLParser):
    """Collects what a browser would fetch, and whether tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the addresses that a tag makes a browser load."""
        named = dict(attrs)
        if tag in ("script", "img", "link", "iframe") and (named.get("src") or named.get("href")):
            self.fetched.append(str(named.get("src") or named.get("href")))


def shown(show: Any, *arguments: object) -> str:
    """Return what a table looks like on a wide screen without colours."""
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123  closed with the test
    show(console, *arguments)
    console.file.close()
    return console.export_text()


def test_a_night_is_summed_up_with_every_arm() -> None:
    """The summary has verdict, reason, digest and both scores with intervals of all four arms, as JSON."""
    told = json.loads(json.dumps(night_summary(judged())))
    assert told["verdict"] == "promote"
    assert told["artefact"] == "c" * 64
    assert set(told["arms"]) == {"incumbent", "base", "tuned_base", "candidate"}
    for scores in told["arms"].values():
        assert scores["pass@1"]["low"] <= scores["pass@1"]["point"] <= scores["pass@1"]["high"]
        assert set(scores) == {"pass@1", "pass@8"}


def test_the_split_of_a_gain_adds_up() -> None:
    """Decoding and skill sum to the gain over the base, overall and in every slice."""
    split = night_summary(judged())["split"]
    assert [part["slice"] for part in split] == ["all", "house", "plain"]
    for part in split:
        assert part["decoding"]["point"] + part["skill"]["point"] == pytest.approx(part["total"]["point"])


def test_a_failed_night_keeps_its_reason() -> None:
    """A night without a verdict is summed up and shown by its failure."""
    failed = Night(4, "failed", "ssd", {}, NOW, NOW, "Rejected: no sample is usable")
    assert night_summary(failed)["reason"] == "Rejected: no sample is usable"
    assert "no sample is usable" in shown(show_night, failed)


def test_the_night_table_names_what_an_operator_looks_for() -> None:
    """Records, steps, loss, both scores, probes, split and verdict stand on the screen."""
    text = shown(show_night, judged())
    for word in ("merged-create", "50", "0.500 -> 0.100", "tuned base", "T = 0.4", "house", "distinct-4", "PROMOTE"):
        assert word in text


def test_an_alarm_is_shown_below_the_probes() -> None:
    """A probe that alarms is named under the table."""
    calm = evidence().base_probes
    narrow = type(calm)(**{**asdict(calm), "distinct4": 0.01})
    assert "alarms: distinct-4" in shown(show_night, judged(candidate_probes=narrow))


def test_an_open_swap_is_marked() -> None:
    """A swap that is not proven yet says so in the log."""
    begun = Swap(2, "rollback", "watch", "c" * 64, "b" * 64, "fleet-base", 2, "errors", {}, NOW)
    text = shown(show_swaps, [swap(), begun])
    assert "rollback (open)" in text
    assert "flip (open)" not in text


def test_a_claim_that_does_not_hold_stands_out() -> None:
    """Checks are shown as yes or NO."""
    text = shown(show_checks, [Check("it was so", ok=True, seen="1"), Check("it was not", ok=False)])
    assert text.index("yes") < text.index("NO")


def test_the_page_needs_no_network() -> None:
    """The report carries its plot inside and makes a browser load nothing."""
    html = demo_page(summary([judged()], [swap()], [Check("it was so", ok=True)]))
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert "<svg" in html
    assert "it was better" in html


def test_the_page_escapes_what_others_wrote() -> None:
    """A reason with markup in it is shown as text."""
    bad = Swap(1, "flip", "dawn", "b" * 64, "c" * 64, "m", 2, "<script>alert(1)</script>", {}, NOW, done=True)
    assert "<script>" not in demo_page(summary([judged()], [bad], []))


def test_percent_signs_differences_only() -> None:
    """A share is shown plain, a difference with its sign."""
    interval = {"point": 0.125, "low": -0.01, "high": 0.26}
    assert percent(interval) == "12.5 [-1.0, 26.0]"
    assert percent(interval, signed=True) == "+12.5 [-1.0, +26.0]"


@pytest.mark.parametrize("night", [NIGHT_1, NIGHT_2, NIGHT_3])
def test_the_demos_settings_are_settings(tmp_path: Path, night: dict[str, dict[str, Any]]) -> None:
    """What the demo writes for each night is read by the product without a word."""
    world = World(tmp_path, 0, forge_url="http://127.0.0.1:1", engine_url="http://127.0.0.1:2", web_port=3)
    world.write_config(night)
    parsed = parse(tomllib.loads(world.config.read_text()))
    assert parsed.recipe.arm == night["recipe"]["arm"]
    assert parsed.decode.manage == night["decode"]["manage"]


def test_the_demos_clock_never_goes_back(tmp_path: Path) -> None:
    """Setting the clock to an earlier time leaves it where it is."""
    world = World(tmp_path, 0)
    late = world.advance_to(6)
    world.set_clock(late - timedelta(hours=3))
    assert world.now() >= late
    assert late.hour == 6


def test_the_dialect_catches_on() -> None:
    """The first season is mostly plain, and both together are half dialect, each item once."""
    items = some_work(5, 160)
    early, late = seasons(items, 90)
    assert len(early) == 90
    assert sorted(map(id, [*early, *late])) == sorted(map(id, items))
    assert sum(item.problem.house for item in early) == round(90 * 0.15)
    assert sum(item.problem.house for item in items) == 80


def test_the_gate_tests_arms_are_real_scores() -> None:
    """The evidence that these tests borrow covers both slices."""
    assert set(arm(1).labels()) == {"house", "plain"}
