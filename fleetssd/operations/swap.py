"""Flip, roll back, recover: what the fleet's alias serves, changed by one hand at a time, every move a row."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from fleetssd.challengers import promotions
from fleetssd.checkpoints import Actor, Checkpoint, Swap, SwapKind
from fleetssd.config import Settings
from fleetssd.errors import Corrupt, FleetError, Misconfigured, Rejected, Transient
from fleetssd.ports import Engine, Store
from fleetssd.rollout import (
    Point,
    Preload,
    Prove,
    Quiet,
    Step,
    cooling,
    crowded,
    plan_flip,
    plan_return,
    resume,
    rolled_back,
)
from fleetssd.serving import rollback_target, served, unproven

log = structlog.get_logger()

LEASE = {"daemon": timedelta(minutes=20), "operator": timedelta(minutes=2)}
"""How long a dead owner can block others. The daemon may load gigabytes first; a restarted one is the same owner."""
_hands = threading.Lock()
"""The daemon's jobs are threads of one owner, which a lease in the database cannot tell apart."""


def flip(
    store: Store,
    engine: Engine,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    actor: Actor,
    now: datetime,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> Swap:
    """Put a checkpoint before the fleet and return the proven line of the swap log.

    Raises Rejected where it must not or cannot be served (a `refused` line says why, and the alias is where it was),
    Transient where the engine is away (a later `recover` finishes) or another swap runs.
    """
    hand = _Hand(store, engine, settings.engine.alias, now)
    with alone(store, actor, now):
        _recover(hand)
        current = _current(store)
        if current.digest == checkpoint.digest:
            raise Rejected(f"{checkpoint.model} is served already")
        if actor != "operator" and cooling(store.swaps(), now, timedelta(minutes=settings.watch.minutes)):
            raise Transient("the cool-down after an automatic rollback is not over", hint="The next dawn tries again.")
        swap = _line("flip", actor, current, checkpoint)
        swap = replace(swap, reason=reason or _verdict(store, checkpoint), evidence=dict(evidence or {}))
        obstacle = _obstacle(hand, checkpoint, actor)
        if obstacle:
            _refuse(hand, swap, obstacle)
            raise Rejected(f"{checkpoint.model} is refused: {obstacle}", hint="`fleetssd swaps` keeps the refusal.")
        return _run(hand, store.begin_swap(swap, now))


def rollback(
    store: Store,
    engine: Engine,
    settings: Settings,
    *,
    actor: Actor,
    reason: str,
    now: datetime,
    evidence: Mapping[str, Any] | None = None,
    only_from: str | None = None,
) -> Swap:
    """Go back to the checkpoint served before, alias first, and return the proven line of the swap log.

    `only_from` (an artefact digest) makes it a no to anything but that checkpoint: the watch judged this one.
    Raises Rejected where there is nothing to go back to.
    """
    hand = _Hand(store, engine, settings.engine.alias, now)
    with alone(store, actor, now):
        _recover(hand)
        current, target = _current(store), rollback_target(store.swaps(), store.checkpoints())
        if target is None or (only_from is not None and current.digest != only_from):
            raise Rejected(
                f"there is nothing to go back to from {current.model}", hint="`fleetssd swaps` shows the way here."
            )
        line = replace(_line("rollback", actor, current, target), reason=reason, evidence=dict(evidence or {}))
        return _run(hand, store.begin_swap(line, now))


def settle(
    store: Store, engine: Engine, flipped: Swap, *, reason: str, now: datetime, evidence: Mapping[str, Any]
) -> Swap:
    """Close a watch window: the checkpoint stays, and the one before it leaves memory; on disk it is kept."""
    _release(engine, _on_file(store, flipped.from_digest), _on_file(store, flipped.to_digest))
    line = Swap(0, "settle", "watch", flipped.to_digest, flipped.to_digest, flipped.to_model, flipped.night, reason)
    return _finish(store, store.begin_swap(line, now), now, evidence)


def recover(store: Store, engine: Engine, settings: Settings, now: datetime) -> Swap | None:
    """Finish or undo the swap that a crash left half done; None where there is none."""
    if unproven(store.swaps()) is None:
        return None
    hand = _Hand(store, engine, settings.engine.alias, now)
    with alone(store, "dawn", now):
        return _recover(hand)


@dataclass(frozen=True, slots=True)
class _Hand:
    """What moves the alias, and when."""

    store: Store
    engine: Engine
    alias: str
    now: datetime


def _recover(hand: _Hand) -> Swap | None:
    swap = unproven(hand.store.swaps())
    if swap is None:
        return None
    target = _on_file(hand.store, swap.to_digest)
    way = resume(hand.engine.digest_of(target.model), target.served_digest, hand.engine.digest_of(hand.alias))
    log.info("swap_recovered", swap=swap.id, kind=swap.kind, way=way)
    if way == "undo":
        _undo(hand, swap, f"{target.model} is gone from the engine, or is something else")
        return swap
    return _run(hand, swap)


def _run(hand: _Hand, swap: Swap) -> Swap:
    """Take the steps of a begun swap and write its proof; a step that cannot succeed undoes them."""
    engine, target, origin = hand.engine, _on_file(hand.store, swap.to_digest), _on_file(hand.store, swap.from_digest)
    before, found = engine.loaded().values(), dict[str, Any]()
    try:
        one_file = target.kind == "adapter" and engine.blob_of(target.model) == engine.blob_of(origin.model)
        beside = swap.kind == "flip" and not one_file and not crowded(hand.store.swaps())
        for step in plan_return(target) if swap.kind == "rollback" else plan_flip(target, origin, beside=beside):
            found |= _take(engine, hand.alias, step)
    except Transient:
        raise  # the line stays open: the next start, or the next try, finishes it
    except FleetError as error:
        _undo(hand, swap, error.message)
        raise Rejected(f"{target.model} could not be served: {error.message}", hint=error.hint) from error
    after = engine.loaded().values()
    proof = {
        "alias": hand.alias,
        "alias_digest": target.served_digest,
        "model": target.model,
        "loaded": target.served_digest in after,
        "previous_stays_loaded": origin.served_digest in after if origin.served_digest in before else None,
        "one_file": one_file,
        "beside": beside,
        **found,
    }
    done = _finish(hand.store, swap, hand.now, proof)
    if swap.kind == "rollback":
        _release(engine, origin, target)
    return done


def _release(engine: Engine, gone: Checkpoint, stays: Checkpoint) -> None:
    """Let what serves no more leave memory after its last answer; that it cannot is no reason to fail a swap."""
    if gone.served_digest != stays.served_digest:
        try:
            engine.release(gone.model)
        except FleetError as error:
            log.warning("not_released", model=gone.model, error=error.message)


def _take(engine: Engine, alias: str, step: Step) -> dict[str, Any]:
    """Take one step and return what it found out, for the swap's evidence."""
    match step:
        case Preload(model):
            engine.preload(model)
        case Quiet(model):
            return {"quiet": engine.quiet(model)}
        case Point(model):
            pointed = engine.point(alias, model)
            return {"alias_copies": pointed.copies, "alias_ms": round(pointed.seconds * 1e3, 1)}
        case Prove(served_digest, adapter):
            if engine.digest_of(alias) != served_digest or engine.adapter_of(alias) != adapter:
                raise Corrupt(
                    f"{alias} does not serve what it was pointed to", hint="Does anything else write to the engine?"
                )
    return {}


def _undo(hand: _Hand, swap: Swap, why: str) -> None:
    """Put the alias back and say so; the line that failed stays unproven, for it never was true."""
    origin = _on_file(hand.store, swap.from_digest)
    if hand.engine.digest_of(hand.alias) != origin.served_digest:
        hand.engine.point(hand.alias, origin.model)
    _refuse(hand, swap, f"{swap.kind} undone: {why}")


def _refuse(hand: _Hand, swap: Swap, why: str) -> None:
    line = replace(swap, id=0, kind="refused", reason=why)
    _finish(hand.store, hand.store.begin_swap(line, hand.now), hand.now, {})
    log.warning("swap_refused", to=swap.to_digest, model=swap.to_model, reason=why)


def _obstacle(hand: _Hand, checkpoint: Checkpoint, actor: Actor) -> str:
    if actor != "operator" and rolled_back(hand.store.swaps(), checkpoint.digest):
        return "it was rolled back before; only an operator brings it back"
    found = hand.engine.digest_of(checkpoint.model)
    if found is None:
        return "the engine has no model of that name any more"
    return "" if found == checkpoint.served_digest else f"its name serves {found[:12]} now, not what was evaluated"


def _line(kind: SwapKind, actor: Actor, origin: Checkpoint, target: Checkpoint) -> Swap:
    night = target.night if kind == "flip" else origin.night
    return Swap(0, kind, actor, origin.digest, target.digest, target.model, night, "")


def _verdict(store: Store, checkpoint: Checkpoint) -> str:
    for night, digest, reason in reversed(promotions(store.nights())):
        if digest == checkpoint.digest:
            return f"night {night.number}: {reason}"
    made = store.night(checkpoint.night) if checkpoint.night is not None else None
    return f"night {made.number}: {made.verdict.reason}" if made and made.verdict else "asked for"


def _finish(store: Store, swap: Swap, now: datetime, proof: Mapping[str, Any]) -> Swap:
    store.finish_swap(swap.id, now, proof)
    log.info("swap_done", swap=swap.id, kind=swap.kind, actor=swap.actor, to=swap.to_digest, reason=swap.reason)
    return next(line for line in store.swaps() if line.id == swap.id)


def _current(store: Store) -> Checkpoint:
    found = served(store.swaps(), store.checkpoints())
    if found is None:
        raise Misconfigured("no checkpoint is on file yet", hint="The first night puts the base on file.")
    return found


def _on_file(store: Store, digest: str) -> Checkpoint:
    found = store.checkpoint(digest)
    if found is None:
        raise Corrupt(f"checkpoint {digest[:12]} of the swap log is not on file", hint="Restore the database.")
    return found


@contextmanager
def alone(store: Store, actor: Actor, now: datetime) -> Iterator[None]:
    """Hold the one lease on what the engine serves, across threads and processes. Raises Transient where it is held."""
    role = "operator" if actor == "operator" else "daemon"
    owner = role if role == "daemon" else f"{role}-{secrets.token_hex(4)}"
    with _hands:
        if not store.claim("swap", owner, now + LEASE[role], now):
            raise Transient("another swap is running", hint="`fleetssd swaps` shows it; try again in a minute.")
        try:
            yield
        finally:
            store.release("swap", owner)
