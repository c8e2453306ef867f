"""Where the fleet's model name leads, by what is on file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleetssd.canary import Canary
from fleetssd.checkpoints import Checkpoint, Kind, Swap
from fleetssd.errors import Corrupt
from fleetssd.routes import Route, Routing, fitted, routing
from fleetssd.shelf import Applied

AT = datetime(2026, 11, 22, 6, tzinfo=UTC)
FLIP = Swap(1, "flip", "dawn", "b", "n1", "fleet-coder:n1", 1, "", at=AT, done=True)
CANARY = Canary("n2", "fleet-coder:n2", "split", 1.0, AT, AT + timedelta(hours=1))


def checkpoint(digest: str, kind: Kind = "merged", tau: float = 1.0) -> Checkpoint:
    """Return a checkpoint called after its digest."""
    return Checkpoint(digest, kind, f"fleet-coder:{digest}", "m", None, "none", tau, 1, AT)


ON_FILE = [checkpoint("b", "base"), checkpoint("n1"), checkpoint("n2", tau=0.5)]


def test_the_route_leads_to_what_the_swap_log_serves() -> None:
    """A proven flip's target, by its immutable name and its artefact's digest; others are known too."""
    found = routing("fleet-coder", [FLIP], ON_FILE)
    assert found.route == Route("fleet-coder", "fleet-coder:n1", "n1")
    assert [found.digest("Fleet-Coder:N2"), found.digest("other")] == ["n2", None]


def test_the_route_leads_to_the_alias_where_nothing_is_on_file() -> None:
    """A fleet before its first night is passed through."""
    assert routing("fleet-coder", [], []) == Routing(Route("fleet-coder", "fleet-coder", None))


def test_a_checkpoint_that_is_not_on_file_is_no_route() -> None:
    """Nothing is guessed: the caller keeps the route that it has."""
    with pytest.raises(Corrupt):
        routing("fleet-coder", [FLIP], [])


def test_a_canary_meets_its_tasks_while_it_runs() -> None:
    """With the temperature that is baked into it; before its start and after its end nobody meets it."""
    found = routing("fleet-coder", [FLIP], ON_FILE, CANARY)
    met = [found.trial("t", AT + timedelta(minutes=minutes)) for minutes in (-1, 0, 61)]
    assert met == [None, Route("fleet-coder", "fleet-coder:n2", "n2", 0.5), None]


@pytest.mark.parametrize("digest", ["n1", "n9"])
def test_a_canary_that_serves_already_or_is_not_on_file_is_none(digest: str) -> None:
    """There is nothing to compare with, or nothing to send to."""
    found = routing("fleet-coder", [FLIP], ON_FILE, replace(CANARY, digest=digest))
    assert found.trial("t", AT) is None


@pytest.mark.parametrize(
    ("origin", "target", "changes", "reloading"),
    [
        ("adapter", "adapter", {}, True),
        ("base", "adapter", {}, True),
        ("base", "merged", {}, False),
        ("merged", "adapter", {}, False),
        ("adapter", "adapter", {"done": True}, False),
        ("adapter", "adapter", {"kind": "refused"}, False),
    ],
)
def test_a_move_between_adapters_of_a_base_reloads_the_engine(
    origin: Kind, target: Kind, changes: dict[str, Any], reloading: bool
) -> None:
    """One runner serves all of them; what has a file of its own is loaded beside the incumbent."""
    on_file = [checkpoint("b", "base"), checkpoint("n1", origin), checkpoint("n2", target)]
    move = replace(FLIP, id=2, from_digest="n1", to_digest="n2", **{"done": False, **changes})
    assert routing("fleet-coder", [FLIP, move], on_file).reloading is reloading


HELD = (Applied(4, "fleet-coder:n2", 0.0), Applied(2, "fleet-coder:n1", 1.0), Applied(3, None, 0.0))


def lists(way: Route | None) -> Any:
    """Return the ids that a way applies, None where it says nothing of adapters."""
    return way and way.more and [row["id"] for row in way.more["lora"] if row["scale"]]


def test_an_engine_that_ignores_names_is_told_scales() -> None:
    """Over a llama-server route and candidate say their adapter's id; a name that a caller says is nobody's."""
    found = routing("fleet-coder", [FLIP], ON_FILE, CANARY)
    told = fitted(found, "llama-server", "fleet-coder:b", HELD)
    assert (lists(told.route), lists(told.trial("t", AT)), told.digest("fleet-coder:n2")) == ([2], [4], None)
    assert told.route.more["cache_prompt"] is True
    assert len(told.route.more["lora"]) == len(HELD)
    assert lists(fitted(routing("fleet-coder", [], ON_FILE), "llama-server", "fleet-coder:b", HELD).route) == []
    assert fitted(found, "ollama", "fleet-coder:b", HELD) is found


def test_an_adapter_that_the_server_holds_not_is_not_asked_for() -> None:
    """Without its id the server's own scales answer for the route, and there is no candidate."""
    told = fitted(routing("fleet-coder", [FLIP], ON_FILE, CANARY), "llama-server", "fleet-coder:b", ())
    assert (dict(told.route.more), told.candidate, told.canary) == ({}, None, None)


def test_nobody_waits_for_a_flip_that_drops_nothing() -> None:
    """Only Ollama reloads for a move between adapters of one base, so only there requests wait for it."""
    on_file = [checkpoint("b", "base"), checkpoint("n1", "adapter"), checkpoint("n2", "adapter")]
    found = routing("fleet-coder", [FLIP, replace(FLIP, id=2, from_digest="n1", to_digest="n2", done=False)], on_file)
    kinds = ("ollama", "llama-server", "vllm")
    assert [fitted(found, kind, "b", ()).reloading for kind in kinds] == [True, False, False]
