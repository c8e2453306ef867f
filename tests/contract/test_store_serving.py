"""One suite over every store: checkpoints, the swap log, leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd.adapters.store import SqlStore
from fleetssd.artefact import Probe
from fleetssd.checkpoints import Swap
from fleetssd.errors import Corrupt
from fleetssd.ports import Store
from tests.contract.stores import FRESH, HOUR, NOW, checkpoint
from tests.fakes import MemoryStore

FLIP = Swap(0, "flip", "dawn", "base", "new", "m:new", 1, "promoted", {"lift": 0.1})


def test_checkpoint_is_kept_once(store: Store) -> None:
    """A digest is one artefact, and what was first said of it stays."""
    store.put_checkpoint(checkpoint("d1"))
    store.put_checkpoint(checkpoint("d1", model="m:other"))
    store.put_checkpoint(checkpoint("d0", kind="base", night=None, tau=1.0, created_at=NOW + HOUR))
    assert [found.digest for found in store.checkpoints()] == ["d1", "d0"]
    assert store.checkpoint("d1") == checkpoint("d1")
    assert store.checkpoint("lost") is None


def test_what_an_engine_can_do_is_kept_by_host_version_and_base(store: Store) -> None:
    """A later trial replaces an earlier one, an upgrade or another base is unknown, and a host can be forgotten."""
    store.keep_capability("http://one", "base", Probe("1", pulls_from_loopback=True), NOW)
    store.keep_capability("http://one", "base", Probe("1", loads_adapters=True), NOW + HOUR)
    store.keep_capability("http://two", "base", Probe("1"), NOW)
    assert store.capability("http://one", "1", "base") == Probe("1", loads_adapters=True)
    assert (store.capability("http://one", "2", "base"), store.capability("http://one", "1", "other")) == (None, None)
    store.forget_capabilities("http://one")
    assert store.capability("http://one", "1", "base") is None
    assert store.capability("http://two", "1", "base") == Probe("1")


def test_swap_is_an_intent_and_then_a_proof(store: Store) -> None:
    """A swap is written before it happens and proven after; the evidence of both stays."""
    begun = store.begin_swap(FLIP, NOW)
    assert (begun.done, begun.at) == (False, NOW)
    assert store.swaps() == [begun]
    store.finish_swap(begun.id, NOW + HOUR, {"served": "sha"})
    assert store.swaps() == [replace(begun, done=True, evidence={"lift": 0.1, "served": "sha"})]


def test_swap_is_proven_once(store: Store) -> None:
    """A second proof of one swap is ignored."""
    begun = store.begin_swap(FLIP, NOW)
    store.finish_swap(begun.id, NOW, {"served": "sha"})
    store.finish_swap(begun.id, NOW, {"served": "other"})
    assert store.swaps()[0].evidence["served"] == "sha"


def test_unknown_swap_is_corrupt(store: Store) -> None:
    """Nothing is proven that was not intended."""
    with pytest.raises(Corrupt):
        store.finish_swap(4, NOW, {})


def test_restarted_intent_is_one_line(store: Store) -> None:
    """A process that died between intent and proof finds its own line again."""
    begun = store.begin_swap(FLIP, NOW)
    assert store.begin_swap(FLIP, NOW + HOUR) == begun
    assert len(store.swaps()) == 1


def test_new_try_after_a_refusal_is_a_new_line(store: Store) -> None:
    """An intent that something followed is over: the same wish later is a line of its own."""
    first = store.begin_swap(FLIP, NOW)
    refusal = store.begin_swap(replace(FLIP, kind="refused"), NOW)
    store.finish_swap(refusal.id, NOW, {})
    again = store.begin_swap(FLIP, NOW + HOUR)
    assert [swap.id for swap in store.swaps()] == [first.id, refusal.id, again.id]
    assert first.id < refusal.id < again.id


def test_lease_has_one_owner(store: Store) -> None:
    """A lease that is held is refused to others and renewed for its owner."""
    assert store.claim("night", "one", NOW + HOUR, NOW)
    assert not store.claim("night", "two", NOW + HOUR, NOW)
    assert store.claim("night", "one", NOW + 2 * HOUR, NOW)
    assert store.claim("swap", "two", NOW + HOUR, NOW)


def test_lease_ends(store: Store) -> None:
    """A dead owner's lease is free once its time is over, to the instant."""
    assert store.claim("night", "one", NOW + HOUR, NOW)
    assert not store.claim("night", "two", NOW + 2 * HOUR, NOW + HOUR - timedelta(microseconds=1))
    assert store.claim("night", "two", NOW + 2 * HOUR, NOW + HOUR)


def test_lease_is_given_back_by_its_owner_alone(store: Store) -> None:
    """Another's release changes nothing."""
    store.claim("night", "one", NOW + HOUR, NOW)
    store.release("night", "two")
    assert not store.claim("night", "two", NOW + HOUR, NOW)
    store.release("night", "one")
    store.release("night", "one")
    assert store.claim("night", "two", NOW + HOUR, NOW)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["claim", "release"]), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5)),
        max_size=20,
    )
)
def test_two_owners_never_hold_one_lease(store: Store, moves: list[tuple[str, str, int, int]]) -> None:
    """Whatever is claimed and released when, two claims that overlap in time never both succeed for two owners."""
    now, holder, end, name = NOW, "", NOW, f"lease {next(FRESH)}"
    for verb, owner, wait, length in moves:
        now += wait * HOUR
        if verb == "release":
            store.release(name, owner)
            holder = "" if holder == owner else holder
        else:
            expected = holder in ("", owner) or end <= now
            assert store.claim(name, owner, now + length * HOUR, now) is expected
            holder, end = (owner, now + length * HOUR) if expected else (holder, end)


def _conforms(maker: Callable[[], Store]) -> None:
    """Let the type checker hold both implementations to the port."""


_conforms(MemoryStore)
_conforms(lambda: SqlStore("sqlite://"))
