"""The one read-model: what command line, page and metrics show."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fleetssd.checkpoints import Checkpoint, Night, StageRow, Swap, VerdictRow
from fleetssd.schedule import NextTimes
from fleetssd.status import Status, build_status, count_records, night_table, swap_table, to_json
from fleetssd.surroundings import UNWALLED

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASE = Checkpoint("b" * 64, "base", "fleet-base:latest", "sb", None, "none", 1.0, 9, NOW)
ONE = Checkpoint("c" * 64, "merged", "fleet-coder:v1-cccc", "sc", 1, "merged-create", 0.4, 9, NOW)
FLIP = Swap(1, "flip", "dawn", BASE.digest, ONE.digest, ONE.model, 1, "promoted", {"p": 0.01}, NOW, done=True)


def estimate(point: float) -> dict[str, Any]:
    """Return an interval as a verdict's evidence holds it."""
    return {"point": point, "low": point - 0.1, "high": point + 0.1, "level": 0.95, "problems": 160}


EVIDENCE = {
    "k": 8,
    "arms": [{"name": name, "pass_1": estimate(0.3), "pass_k": estimate(0.6)} for name in ("base", "candidate")],
    "lift": estimate(0.2),
    "lift_k": estimate(0.0),
    "over_tuned": None,
    "detectable": 0.06,
}
PLAN = {"incumbent": BASE.digest, "train": ["r1", "r2"], "held_out": ["r3"]}
STAGES = (StageRow(1, "freeze", {}, NOW, NOW), StageRow(1, "sample", {}, NOW, NOW + timedelta(seconds=12.3456)))
VERDICT = VerdictRow(1, "promote", "better", ONE.digest, EVIDENCE, NOW + HOUR)
DECIDED = Night(1, "done", "ssd", PLAN, NOW, NOW + HOUR, "", STAGES, VERDICT)


def status(**changes: Any) -> Status:
    """Return the status of a fleet that served one checkpoint, with these inputs changed."""
    inputs: dict[str, Any] = {
        "now": NOW, "nights": [DECIDED], "swaps": [FLIP], "checkpoints": [BASE, ONE],
        "records": [("train", (), 1), ("refused", ("reverted",), 1)], "cursor": NOW - HOUR,
        "watch_minutes": 60.0, "upcoming": NextTimes(NOW + HOUR, NOW + 4 * HOUR),
    }  # fmt: skip
    return build_status(**{**inputs, **changes})


def test_empty_store_has_a_status() -> None:
    """Before anything happened there is a status, and it says so."""
    found = status(nights=[], swaps=[], checkpoints=[], records=[], cursor=None, upcoming=NextTimes(None, None))
    assert (found.served, found.previous, found.pending, found.unproven) == (None, None, None, None)
    assert (found.last_night, found.last_swap, found.cursor) == (None, None, None)
    assert found.watch.state == "idle"


def test_a_fleet_without_a_sandbox_is_warned_of() -> None:
    """What runs answers with our own rights is a warning of the status, and nothing else is."""
    assert status(sandbox="none").warnings == (UNWALLED,)
    assert status(sandbox="docker").warnings == status().warnings == ()


def test_served_checkpoint_is_the_flipped_one() -> None:
    """After a flip the new checkpoint serves since the flip, and the base is what to go back to."""
    found = status()
    assert found.served is not None
    assert found.previous is not None
    assert (found.served.digest, found.served.tau, found.served.since) == (ONE.digest, 0.4, NOW)
    assert (found.previous.digest, found.previous.since) == (BASE.digest, None)
    assert found.pending is None


def test_promotion_is_pending_before_the_flip() -> None:
    """Between verdict and dawn the base serves and the candidate waits."""
    found = status(swaps=[])
    assert found.served is not None
    assert found.pending is not None
    assert (found.served.digest, found.served.since, found.pending.digest) == (BASE.digest, None, ONE.digest)
    assert found.last_swap is None


def test_open_swap_is_shown() -> None:
    """A swap that was begun and not proven is not hidden."""
    assert status(swaps=[replace(FLIP, done=False)]).unproven == replace(FLIP, done=False)


def test_status_is_json() -> None:
    """A status survives JSON, with the keys that programs rely on and moments as ISO 8601."""
    found = json.loads(json.dumps(to_json(status())))
    assert {"served", "previous", "pending", "records", "last_night", "last_swap", "cursor"} <= set(found)
    assert found["served"] == {
        "digest": ONE.digest,
        "model": ONE.model,
        "served_digest": "sc",
        "kind": "merged",
        "night": 1,
        "tau": 0.4,
        "since": "2026-11-22T06:00:00+00:00",
    }
    assert found["last_night"]["verdict"] == "promote"
    assert found["last_swap"]["to"] == ONE.digest


def test_records_are_counted_by_state_and_reason() -> None:
    """Every reason of every refused record counts, the most frequent first; reasons of others do not."""
    counts = count_records(
        [
            ("train", ("secret-redacted",), 5),
            ("held_out", (), 2),
            ("refused", ("reverted",), 3),
            ("refused", ("no-human-merge", "reverted"), 1),
        ]
    )
    assert (counts.total, counts.train, counts.held_out, counts.refused) == (11, 5, 2, 4)
    assert list(counts.reasons.items()) == [("reverted", 4), ("no-human-merge", 1)]


def test_night_line_has_every_number() -> None:
    """A decided night is one line with verdict, artefact, intervals by arm, stages and record counts."""
    (line,) = night_table([DECIDED])
    assert (line["number"], line["arm"], line["state"], line["verdict"]) == (1, "ssd", "done", "promote")
    assert (line["reason"], line["artefact"], line["k"]) == ("better", ONE.digest, 8)
    assert line["pass_1"]["candidate"] == {"point": 0.3, "low": 0.19999999999999998, "high": 0.4}
    assert list(line["pass_k"]) == ["base", "candidate"]
    assert (line["over_tuned"], line["detectable"]) == (None, 0.06)
    assert line["stages"] == [{"stage": "freeze", "seconds": 0.0}, {"stage": "sample", "seconds": 12.346}]
    assert (line["records"], line["held_out"]) == (2, 1)
    assert json.loads(json.dumps(line)) == line


def test_night_without_a_verdict_has_empty_numbers() -> None:
    """A failed night says why; what was not measured is null or empty, never zero."""
    (line,) = night_table([Night(2, "failed", "ssd", {}, NOW, NOW, "no disk")])
    assert (line["verdict"], line["reason"], line["artefact"]) == (None, "no disk", None)
    assert (line["pass_1"], line["pass_k"], line["lift"], line["records"]) == ({}, {}, None, 0)


def test_swap_line_has_every_fact() -> None:
    """A line of the log says when, from, to, why and by whom, with its evidence."""
    assert swap_table([FLIP]) == [
        {
            "id": 1,
            "at": "2026-11-22T06:00:00+00:00",
            "kind": "flip",
            "actor": "dawn",
            "from": BASE.digest,
            "to": ONE.digest,
            "model": ONE.model,
            "night": 1,
            "reason": "promoted",
            "evidence": {"p": 0.01},
            "done": True,
        }
    ]


def test_json_of_plain_values_is_themselves() -> None:
    """Lists, tuples, tables and scalars go through; a class is not mistaken for its value."""
    assert to_json({"a": (1, [NOW])}) == {"a": [1, ["2026-11-22T06:00:00+00:00"]]}
    assert to_json(Status) is Status
