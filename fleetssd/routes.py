"""Where the fleet's model name leads, as a value: the checkpoint that serves, a candidate beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fleetssd.artefact import same_name
from fleetssd.canary import Canary, meets, running
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.serving import served, unproven
from fleetssd.shelf import Applied, scales


@dataclass(frozen=True, slots=True)
class Route:
    """Where the fleet's alias leads: a name in the engine, and the artefact's digest (None: no checkpoint on file).

    `tau` is the temperature baked into its weights, 1.0 where none is. `more` is what a request says beside the name.
    """

    alias: str
    model: str
    digest: str | None
    tau: float = 1.0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routing:
    """All that the gateway knows of the fleet; `reloading` while a flip makes the engine drop what it serves.

    `names` has the digest of every checkpoint by its name in the engine, in lower case.
    """

    route: Route
    canary: Canary | None = None
    candidate: Route | None = None
    reloading: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def trial(self, task: str, now: datetime) -> Route | None:
        """Return the candidate where it meets this task now, split or shadow."""
        canary = running(self.canary, now)
        return self.candidate if canary is not None and meets(canary, task) else None

    def digest(self, model: str) -> str | None:
        """Return the digest of a checkpoint that is asked for by its own name."""
        return self.names.get(model.lower())


def routing(
    alias: str, swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint], canary: Canary | None = None
) -> Routing:
    """Return what the database says; raises Corrupt where the checkpoint that serves is not on file.

    A canary whose candidate is not on file, or serves already, is none.
    """
    checkpoint = served(swaps, checkpoints)
    way = _way(alias, checkpoint) if checkpoint else Route(alias, alias, None)
    candidates = [each for each in checkpoints if canary and each.digest == canary.digest != way.digest]
    return Routing(
        way,
        canary if candidates else None,
        _way(alias, candidates[0]) if candidates else None,
        _reloading(swaps, checkpoints),
        {each.model.lower(): each.digest for each in checkpoints},
    )


def fitted(found: Routing, kind: str, base_model: str, held: Sequence[Applied]) -> Routing:
    """Return what of it holds for an engine of this kind; `held` are the adapters of a llama-server.

    A llama-server ignores names: scales say which adapter answers, and a name of a checkpoint that a caller says means
    the alias. Neither it nor vLLM drops an adapter for another, so nothing has to wait for a flip.
    """
    if kind == "ollama":
        return found
    if kind == "vllm":
        return replace(found, reloading=False)
    candidate = found.candidate if any(found.candidate and one.name == found.candidate.model for one in held) else None
    return replace(
        found,
        route=_scaled(found.route, base_model, held),
        canary=found.canary if candidate else None,
        candidate=_scaled(candidate, base_model, held) if candidate else None,
        reloading=False,
        names={},
    )


def _scaled(way: Route, base_model: str, held: Sequence[Applied]) -> Route:
    """Say by scales what a name means; where the server holds it not, its own scales decide, and no cache is used."""
    if same_name(way.model, base_model):
        return replace(way, more={"lora": scales(held, None), "cache_prompt": True}) if held else way
    if all(one.name != way.model for one in held):
        return way
    return replace(way, more={"lora": scales(held, way.model), "cache_prompt": True})


def _way(alias: str, checkpoint: Checkpoint) -> Route:
    return Route(alias, checkpoint.model, checkpoint.digest, checkpoint.tau)


def _reloading(swaps: Sequence[Swap], checkpoints: Sequence[Checkpoint]) -> bool:
    """Say whether a move is under way between two that share the base's file: the engine has one runner for both."""
    move = unproven(swaps)
    kinds = {each.digest: each.kind for each in checkpoints}
    return move is not None and "merged" not in {kinds.get(move.from_digest, "merged"), kinds.get(move.to_digest)}
