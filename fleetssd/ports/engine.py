"""What draws completions and serves checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from fleetssd.artefact import Probe
from fleetssd.config import EngineKind
from fleetssd.ports.clock import Progress
from fleetssd.recipe import Sampling


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered; `finish` is stop, length or error."""

    text: str
    finish: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: user text and the seed of its sampling."""

    text: str
    seed: int


@dataclass(frozen=True, slots=True)
class Pointed:
    """How an alias got its target: the copies that it took, and the seconds until it was seen to be whole."""

    copies: int = 1
    seconds: float = 0.0


Places: TypeAlias = list[list[float]]
"""For each token of an answer the log-probabilities (nats) of the likeliest tokens in its place."""


class Sampler(Protocol):
    """Draws training completions from the frozen base with a stated sampler order."""

    name: str

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress) -> list[Completion]:
        """Return one completion a prompt, in order."""
        ...


class Engine(Protocol):
    """A server of models that takes ours; `kind` is what the settings call it."""

    kind: EngineKind

    def version(self) -> str:
        """Return what the server says that it is; for reports and caches, never for decisions."""
        ...

    def probe(self) -> Probe:
        """Find out by trying, without side effects, what the server accepts."""
        ...

    def digest_of(self, model: str) -> str | None:
        """Return the server's digest of a name (tags), or None where there is no such name."""
        ...

    def names(self) -> dict[str, str]:
        """Return every name with the server's digest of it, as the server writes names."""
        ...

    def blob_of(self, model: str) -> str:
        """Return the sha256 (hex) of the model's own GGUF, read from show's FROM line."""
        ...

    def adapter_of(self, model: str) -> str | None:
        """Return the sha256 (hex) of the model's adapter, read from show's ADAPTER line; two lines raise Corrupt."""
        ...

    def holds(self, blob: str) -> bool:
        """Say whether the server has a file (sha256) already."""
        ...

    def upload(self, path: Path) -> str:
        """Put a file into the server's blob store (HEAD, then POST) and return its sha256 (hex)."""
        ...

    def pull(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install a model by a manifest that we serve on loopback; return the server's digest.

        It is the base with another GGUF (`blob`; None: the base's own) and an adapter, both uploaded before (sha256).
        """
        ...

    def create(self, model: str, base_model: str, blob: str | None, adapter: str | None) -> str:
        """Install the same by the server's own create; return its digest."""
        ...

    def carried(self, model: str) -> dict[str, object]:
        """Return what a model has beside weights: system, template, parameters, license, renderer, parser."""
        ...

    def rendered(self, model: str, text: str) -> str | None:
        """Return the prompt as the server renders it for one user message; None where it cannot say."""
        ...

    def complete(
        self, model: str, prompts: Sequence[Prompt], sampling: Sampling, progress: Progress
    ) -> list[Completion]:
        """Chat with a model, many prompts at once, every sampling parameter sent; failures are `finish="error"`.

        May be called while another call is under way; whoever came first is served first.
        """
        ...

    def likelihoods(self, model: str, prompts: Sequence[Prompt], sampling: Sampling) -> list[Places]:
        """Chat and return, place by place of each answer, the log-probabilities of the likeliest tokens.

        They are those of the weights, before the decode tempers or truncates. A server that has none returns no place.
        """
        ...

    def first_tokens(self, model: str, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Return the log-probabilities of each answer's likeliest first tokens by their text, as the weights have them.

        A server that has none returns empty ones.
        """
        ...

    def preload(self, model: str) -> None:
        """Load a model and keep it."""
        ...

    def loaded(self) -> dict[str, str]:
        """Return the names that are loaded now, with the server's digests."""
        ...

    def quiet(self, model: str) -> bool:
        """Wait a little for a moment in which nobody asks this model; False where there was none."""
        ...

    def release(self, model: str) -> None:
        """Let a model leave memory once its last request has ended; one that is not loaded is no error."""
        ...

    def point(self, alias: str, model: str) -> Pointed:
        """Make the alias serve this model; a broken alias is copied again."""
        ...

    def remove(self, model: str) -> None:
        """Delete a name; a missing one is no error."""
        ...

    def drop(self, blob: str, base_model: str) -> bool:
        """Let the server drop a file (sha256) that no name refers to; False where it has none, or keeps it."""
        ...

    def room(self) -> int | None:
        """Return the bytes that are free where the server keeps its models; None where we cannot see that."""
        ...
