"""What the swap log says: which checkpoint serves, which one to go back to, which one waits for dawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from fleetssd.challengers import promotions
from fleetssd.checkpoints import Checkpoint, Night, Swap
from fleetssd.errors import Corrupt

WatchState: TypeAlias = Literal["idle", "watching", "settled", "rolled back"]


@dataclass(frozen=True, slots=True)
class WatchWindow:
    """How the watch over the last swap stands; `until` is when a window that is open closes."""

    state: WatchState
    since: datetime | None
    until: datetime | None


def served(swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return what the fleet's alias serves by the swap log: the last proven move's target, else the newest base.

    None where there is no base on file yet. Raises Corrupt where the target is not on file.
    """
    move = last_move(swaps)
    if move:
        return _on_file(move.to_digest, checkpoints)
    bases = [checkpoint for checkpoint in checkpoints if checkpoint.kind == "base"]
    return max(bases, key=lambda base: base.created_at, default=None)


def rollback_target(swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return what served before what serves now, or None where there is nothing to go back to.

    Going back twice goes back two steps: a checkpoint that was rolled back is never a target again by itself.
    """
    path = _path(swaps)
    return _on_file(path[-2], checkpoints) if len(path) > 1 else None


def pending(nights: Sequence[Night], swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the newest promoted checkpoint that waits for dawn, or None.

    One that was flipped to or refused does not wait; neither does one that was judged against something else than
    what is served now, because its evidence says nothing about replacing that.
    """
    promoted = promotions(nights)
    if not promoted:
        return None
    night, digest, _ = promoted[-1]
    tried = {swap.to_digest for swap in swaps if swap.kind == "refused" or (swap.kind == "flip" and swap.done)}
    path = _path(swaps)
    if digest in tried or (path and night.plan.get("incumbent", path[-1]) != path[-1]):
        return None
    return _on_file(digest, checkpoints)


def unproven(swaps: Sequence[Swap]) -> Swap | None:
    """Return the move that was begun and neither proven nor followed by another line: a restart must finish it."""
    return swaps[-1] if swaps and not swaps[-1].done and swaps[-1].kind in ("flip", "rollback") else None


def watch_window(swaps: Sequence[Swap], minutes: float) -> WatchWindow:
    """Return how the watch over the last move stands."""
    last = last_move(swaps)
    if last is None:
        return WatchWindow("idle", None, None)
    if last.kind == "rollback":
        return WatchWindow("rolled back", last.at, None)
    if any(swap.kind == "settle" and swap.done and swap.id > last.id for swap in swaps):
        return WatchWindow("settled", last.at, None)
    return WatchWindow("watching", last.at, last.at + timedelta(minutes=minutes) if last.at else None)


def last_move(swaps: Sequence[Swap]) -> Swap | None:
    """Return the last proven flip or rollback, or None where the base never left."""
    moves = _moves(swaps)
    return moves[-1] if moves else None


def _moves(swaps: Sequence[Swap]) -> list[Swap]:
    return [swap for swap in swaps if swap.done and swap.kind in ("flip", "rollback")]


def _path(swaps: Sequence[Swap]) -> list[str]:
    """Return the digests from the first one served to the one served now, without the detours that were undone."""
    path: list[str] = []
    for move in _moves(swaps):
        path = path or [move.from_digest]
        if move.to_digest in path:
            path = path[: path.index(move.to_digest) + 1]
        else:
            path.append(move.to_digest)
    return path


def _on_file(digest: str, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    for checkpoint in checkpoints:
        if checkpoint.digest == digest:
            return checkpoint
    raise Corrupt(
        f"checkpoint {digest[:12]} of the swap log is not on file", hint="Restore the database from a backup."
    )
