"""What differs between the Ollama versions that this server can stand in for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """One version's behaviour. `adapterless` are the architectures of which it loads no adapter."""

    name: str
    version: str
    creates_adapters: bool
    rewrites_files: bool
    logprobs: bool = True
    adapterless: frozenset[str] = frozenset()


PROFILES = {
    # Its own engine had taken over these architectures, and loads none of the adapters that create still takes.
    "0.12": Profile(
        "0.12",
        "0.12.0",
        creates_adapters=True,
        rewrites_files=False,
        logprobs=False,
        adapterless=frozenset({"gemma3", "gemma3n", "gptoss", "llama4", "mistral3", "mllama", "qwen25vl", "qwen3"}),
    ),
    # A build from source answers 0.0.0; the recordings that this profile is held to come from one.
    "0.32": Profile("0.32", "0.0.0", creates_adapters=True, rewrites_files=True),
    "0.34.1": Profile("0.34.1", "0.34.1", creates_adapters=False, rewrites_files=False),
}
DEFAULT_PROFILE = "0.34.1"
