"""Whom a Hermes configuration talks to, and what its requests carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Every endpoint of one configuration by its table, and the provider that the model names."""

    by_table: Mapping[tuple[str, ...], Endpoint]
    provider: str = ""

    def of(self, table: tuple[str, ...]) -> Endpoint:
        """Return a provider's endpoint: its own address, else the model's where the model names the provider."""
        if table not in self.by_table and table == ("providers", self.provider):
            return self.by_table.get(("model",), Endpoint(table))
        return self.by_table.get(table, Endpoint(table))

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.by_table.values())


def endpoints(leaves: Sequence[Leaf]) -> Endpoints:
    """Return every endpoint that a configuration names an address for, in one pass over it however long it is."""
    named, provider, bodies = [leaf for leaf in leaves if _names_one(leaf.path)], _provider(leaves), _bodies(leaves)
    sent: dict[str, set[str]] = defaultdict(set)  # requests to one address may carry what any of its tables says
    for leaf in named:
        sent[leaf.value] |= bodies[leaf.path[:-1]]
    return Endpoints({leaf.path[:-1]: _endpoint(leaf, sent, bodies, provider) for leaf in named}, provider)


def _endpoint(
    leaf: Leaf, sent: Mapping[str, set[str]], bodies: Mapping[tuple[str, ...], set[str]], provider: str
) -> Endpoint:
    host, port, _ = keys.address(leaf.value) or ("", None, "")
    more = bodies.get(("providers", provider), set()) if leaf.path[0] == "model" else set()
    return Endpoint(leaf.path[:-1], leaf, host, port, frozenset(sent[leaf.value] | more))


def _bodies(leaves: Sequence[Leaf]) -> defaultdict[tuple[str, ...], set[str]]:
    """Return the sampling keys in the `extra_body` of every table that has one."""
    found: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for leaf in leaves:
        if leaf.path[2:3] == ("extra_body",) and (key := keys.canonical(leaf.path, leaf.value)):
            found[leaf.path[:2]].add(key)
    return found


def _provider(leaves: Sequence[Leaf]) -> str:
    return next((leaf.value.removeprefix("custom:") for leaf in leaves if leaf.path == ("model", "provider")), "")


def _names_one(path: tuple[str, ...]) -> bool:
    if path[:1] == ("model",):
        return path[1:] == ("base_url",)
    return len(path) == 3 and path[0] in ("providers", "custom_providers") and path[2] in ("base_url", "api")
