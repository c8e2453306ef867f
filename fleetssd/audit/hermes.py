"""Whom a Hermes configuration talks to, and what its requests carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleetssd.audit import keys
from fleetssd.audit.leaves import Leaf

LOCAL = ("ollama",)
"""Providers that are an Ollama server by their name."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that requests go to: the table that names it, its address, and the sampling that is sent there."""

    path: tuple[str, ...]
    leaf: Leaf | None = None
    host: str = ""
    port: int | None = None
    sends: frozenset[str] = frozenset()

    def ours(self, ports: tuple[int, ...]) -> bool | None:
        """Say whether the fleet's engine is asked here; None where no address is told."""
        if self.leaf is None:
            return True if self.path[-1] in LOCAL else None
        return self.port in ports


def endpoints(leaves: Sequence[Leaf]) -> list[Endpoint]:
    """Return every endpoint that a configuration names an address for."""
    return [_endpoint(leaf, leaves) for leaf in leaves if _names_one(leaf.path)]


def endpoint_of(table: tuple[str, ...], leaves: Sequence[Leaf]) -> Endpoint:
    """Return a provider's endpoint: its own address, else the model's where the model names the provider."""
    known = {endpoint.path: endpoint for endpoint in endpoints(leaves)}
    if table not in known and table == ("providers", _provider(leaves)):
        return known.get(("model",), Endpoint(table))
    return known.get(table, Endpoint(table))


def _provider(leaves: Sequence[Leaf]) -> str:
    return next((leaf.value.removeprefix("custom:") for leaf in leaves if leaf.path == ("model", "provider")), "")


def _names_one(path: tuple[str, ...]) -> bool:
    if path[:1] == ("model",):
        return path[1:] == ("base_url",)
    return len(path) == 3 and path[0] in ("providers", "custom_providers") and path[2] in ("base_url", "api")


def _endpoint(leaf: Leaf, leaves: Sequence[Leaf]) -> Endpoint:
    at = keys.address(leaf.value)
    host, port, _ = at or ("", None, "")
    return Endpoint(leaf.path[:-1], leaf, host, port, frozenset(_sent(leaf, leaves)))


def _sent(leaf: Leaf, leaves: Sequence[Leaf]) -> Iterator[str]:
    """Yield the sampling keys in the `extra_body` of the endpoint, or of a provider at the same address."""
    same = {other.path[:-1] for other in leaves if other.value == leaf.value and _names_one(other.path)}
    if leaf.path[0] == "model":
        same.add(("providers", _provider(leaves)))
    for other in leaves:
        if other.path[:2] in same and other.path[2:3] == ("extra_body",):
            yield keys.canonical(other.path, other.value) or ""
