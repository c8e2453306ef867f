"""What an Ollama server says of the parameters of its models."""

from __future__ import annotations

from contextlib import closing

from fleetssd.adapters.ollama_engine.wire import Wire
from fleetssd.audit import Reading, Skipped, Source
from fleetssd.errors import Rejected


def read_parameters(url: str, timeout: float = 30.0) -> Reading:
    """Return the parameters of every model as a source named `NAME (ollama show)`.

    Raises what a server that is away, or is none, raises.
    """
    sources, skipped = [], []
    with closing(Wire(url, timeout)) as wire:
        rows = wire.json("GET", "/api/tags").get("models") or []
        for name in sorted({str(row.get("name", "")) for row in rows}):
            shown = f"{name} (ollama show)"
            try:
                body = wire.json("POST", "/api/show", {"model": name})
            except Rejected as error:
                skipped.append(Skipped(shown, error.message))
            else:
                sources.append(Source(shown, "show", str(body.get("parameters") or "")))
    return Reading(tuple(sources), tuple(skipped))
