"""What the engine may forget: checkpoints that nobody goes back to, and files that no model names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetssd.challengers import standing
from fleetssd.checkpoints import Checkpoint, Night, Swap
from fleetssd.serving import pending, rollback_target, served


def expendable(
    nights: Sequence[Night], swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint], history: int
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that may leave the engine, oldest first.

    What stays: the bases, what serves, what served before it, what waits for dawn, the challenger, what belongs to
    a night that runs, and the `history` newest others that once served. Nothing goes while a swap is under way.
    """
    if swaps and not swaps[-1].done:
        return ()
    kept = {one.digest for one in _needed(nights, swaps, checkpoints)}
    moved = {swap.to_digest for swap in swaps if swap.kind == "flip" and swap.done}
    others = [one for one in checkpoints if one.digest not in kept]
    newest = sorted((one for one in others if one.digest in moved), key=lambda one: one.created_at, reverse=True)
    kept |= {one.digest for one in newest[:history]}
    return tuple(one for one in others if one.digest not in kept)


def orphans(built: Sequence[Mapping[str, str]], kept: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Return the digests (sha256, hex) of built files that no kept checkpoint is made of, each once.

    A file that some model still names is safe even so: an engine drops a blob only where nothing refers to it.
    """
    needed = {one.digest for one in kept}
    found = [digest for files in built for digest in files.values() if digest not in needed]
    return tuple(dict.fromkeys(found))


def _needed(nights: Sequence[Night], swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    undecided = {night.number for night in nights if night.state == "running"}
    roles = (
        served(swaps, checkpoints), rollback_target(swaps, checkpoints), pending(nights, swaps, checkpoints)
    )  # fmt: skip
    carried = standing(nights)
    bound = [one for one in checkpoints if one.kind == "base" or one.night in undecided]
    bound += [one for one in checkpoints if carried is not None and one.digest == carried.digest]
    return [*bound, *(one for one in roles if one is not None)]
